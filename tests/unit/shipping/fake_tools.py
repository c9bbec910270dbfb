"""`gcloud` and `terraform` that know a small world in a file, and refuse every command and flag that they do not know.

`FAKE_WORLD` names the file. `die_at` in it kills whoever called: at its n-th acting command, before or after the deed.
Terraform's configuration is not read here; tests/unit/terraform judges that. What is planned here is what
`infra/topology.json` has in modules, so that orders, versions, interruptions and refusals can be played.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

#: Every gcloud command that may be used, with the flags that it takes; test_gcloud.py asks gcloud itself.
GCLOUD: Mapping[str, frozenset[str]] = {
    "config get": frozenset(),
    "auth list": frozenset({"--filter", "--format"}),
    "auth print-access-token": frozenset(),
    "projects describe": frozenset({"--format"}),
    "billing projects describe": frozenset({"--format"}),
    "services list": frozenset({"--enabled", "--project", "--format"}),
    "services enable": frozenset({"--project"}),
    "eventarc locations list": frozenset({"--project", "--format"}),
    "run regions list": frozenset({"--project", "--format"}),
    "scheduler locations list": frozenset({"--project", "--format"}),
    "run services describe": frozenset({"--region", "--project", "--format"}),
    "storage buckets describe": frozenset({"--format"}),
    "storage buckets create": frozenset(
        {"--project", "--location", "--uniform-bucket-level-access", "--public-access-prevention"}
    ),
    "storage buckets update": frozenset({"--versioning"}),
    "storage objects describe": frozenset({"--format"}),
    "storage cp": frozenset({"--no-clobber"}),
    "artifacts docker images describe": frozenset({"--format"}),
    "builds submit": frozenset(
        {"--project", "--config", "--substitutions", "--service-account", "--gcs-source-staging-dir"}
    ),
    "ai endpoints list": frozenset({"--region", "--project", "--format"}),
}
TERRAFORM: Mapping[str, frozenset[str]] = {
    "version": frozenset({"-json"}),
    "init": frozenset({"-input", "-reconfigure", "-backend-config"}),
    "output": frozenset({"-json"}),
    "state list": frozenset(),
    "state rm": frozenset(),
    "plan": frozenset({"-input", "-out", "-refresh", "-target"}),
    "show": frozenset({"-json"}),
    "apply": frozenset({"-input", "-json"}),
    "destroy": frozenset({"-input", "-auto-approve"}),
}
_TOPOLOGY = Path(__file__).resolve().parents[3] / "infra" / "topology.json"


class Refused(Exception):
    """The tool ends with exit code 1 and this text."""


def main(tool: str, arguments: list[str]) -> int:
    world = World(Path(os.environ["FAKE_WORLD"]))
    table = GCLOUD if tool == "gcloud" else TERRAFORM
    chdir = [each for each in arguments if each.startswith("-chdir=")]
    arguments = [each for each in arguments if each not in chdir]
    name = next(
        (name for name in sorted(table, key=len, reverse=True) if arguments[: name.count(" ") + 1] == name.split()), ""
    )
    if not name:
        raise SystemExit(f"fake {tool}: there is no command {arguments}")
    rest = arguments[name.count(" ") + 1 :]
    flags = dict(each.partition("=")[::2] for each in rest if each.startswith("-"))
    unknown = set(flags) - table[name]
    if unknown:
        raise SystemExit(f"fake {tool}: {name} has no flags {sorted(unknown)}")
    words = [each for each in rest if not each.startswith("-")]
    folder = Path(chdir[0].partition("=")[2]) if chdir else None
    fake = Gcloud(world) if tool == "gcloud" else Terraform(world, folder)
    try:
        world.log(tool, name, rest)
        if said := fake.run(name, words, flags):
            print(said)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    return 0


class World:
    """What there is; written after every deed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.facts: dict[str, Any] = json.loads(file.read_text())

    def log(self, tool: str, name: str, rest: list[str]) -> None:
        self.facts["log"].append([tool, name, *rest])
        self._write()

    def act(self, deed: Callable[[], None]) -> None:
        """One deed: the caller may die before it, or after it and before it hears of it."""
        self.facts["acted"] += 1
        dies = self.facts.get("die_at") == self.facts["acted"]
        if dies and self.facts.get("die_before"):
            self._die()
        deed()
        self._write()
        if dies:
            self._die()

    def _die(self) -> None:
        self._write()
        os.kill(os.getppid(), signal.SIGKILL)
        raise SystemExit(137)

    def _write(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self.facts))
        new.replace(self._file)


class Gcloud:
    def __init__(self, world: World) -> None:
        self._world = world
        self._facts = world.facts

    def run(self, name: str, words: list[str], flags: Mapping[str, str]) -> str:
        if self._facts["refuse"].get(name):
            says = self._facts["refuse"][name].pop()
            self._world.act(lambda: None)
            raise Refused(says)
        return str(getattr(self, "_" + name.replace(" ", "_").replace("-", "_"))(words, flags) or "")

    def _config_get(self, words: list[str], _flags: Mapping[str, str]) -> str:
        assert words == ["project"]
        return str(self._facts["default_project"])

    def _auth_list(self, _words: list[str], flags: Mapping[str, str]) -> str:
        assert flags["--filter"] == "status:ACTIVE"
        return str(self._facts["account"])

    def _auth_print_access_token(self, _words: list[str], _flags: Mapping[str, str]) -> str:
        return "token"

    def _projects_describe(self, words: list[str], _flags: Mapping[str, str]) -> str:
        if self._facts["login_expired"]:
            raise Refused("ERROR: (gcloud.projects.describe) There was a problem refreshing your current auth tokens")
        if words != [self._facts["project"]]:
            raise Refused("ERROR: (gcloud.projects.describe) does not have permission to access projects instance")
        return words[0]

    def _billing_projects_describe(self, _words: list[str], _flags: Mapping[str, str]) -> str:
        if self._facts.get("billing_api_off"):
            raise Refused("ERROR: PERMISSION_DENIED: Cloud Billing API has not been used in project demo before")
        return str(self._facts["billing"])

    def _services_list(self, _words: list[str], _flags: Mapping[str, str]) -> str:
        return "\n".join(self._facts["apis"])

    def _services_enable(self, words: list[str], _flags: Mapping[str, str]) -> None:
        self._world.act(lambda: self._facts["apis"].extend(words))

    def _run_regions_list(self, _words: list[str], _flags: Mapping[str, str]) -> str:
        if "run.googleapis.com" not in self._facts["apis"]:
            raise Refused("ERROR: PERMISSION_DENIED: Cloud Run Admin API has not been used in project")
        return "europe-west4\nus-central1\nus-east1\nus-west8"

    def _scheduler_locations_list(self, _words: list[str], _flags: Mapping[str, str]) -> str:
        return "europe-west4\nus-central1\nus-east1\nus-west8"

    def _eventarc_locations_list(self, _words: list[str], _flags: Mapping[str, str]) -> str:
        return "europe-west4\nglobal\nus\nus-central1\nus-east1"

    def _run_services_describe(self, words: list[str], _flags: Mapping[str, str]) -> str:
        status = "False" if words[0] in self._facts["not_ready"] else "True"
        return json.dumps({"status": {"conditions": [{"type": "Ready", "status": status}]}})

    def _storage_buckets_describe(self, words: list[str], flags: Mapping[str, str]) -> str:
        if self._facts["login_expired"]:
            raise Refused("ERROR: (gcloud.storage.buckets.describe) There was a problem refreshing your current tokens")
        bucket = self._facts["buckets"].get(words[0].removeprefix("gs://"))
        if bucket is None:
            raise Refused(f"ERROR: (gcloud.storage.buckets.describe) {words[0]} not found: 404.")
        return str(bucket[re.fullmatch(r"value\((\w+)\)", flags["--format"])[1]])  # type: ignore[index]

    def _storage_buckets_create(self, words: list[str], flags: Mapping[str, str]) -> None:
        name = words[0].removeprefix("gs://")
        assert name not in self._facts["buckets"], "409: it is there already"
        bucket = {"name": name, "location": flags["--location"].upper(), "versioning_enabled": ""}
        self._world.act(lambda: self._facts["buckets"].update({name: bucket}))

    def _storage_buckets_update(self, words: list[str], _flags: Mapping[str, str]) -> None:
        bucket = self._facts["buckets"][words[0].removeprefix("gs://")]
        self._world.act(lambda: bucket.update(versioning_enabled="True"))

    def _storage_objects_describe(self, words: list[str], _flags: Mapping[str, str]) -> str:
        if words[0] not in self._facts["objects"]:
            raise Refused(f"ERROR: (gcloud.storage.objects.describe) {words[0]} not found: 404.")
        return words[0]

    def _storage_cp(self, words: list[str], _flags: Mapping[str, str]) -> None:
        assert Path(words[0]).is_file()
        assert words[1].split("/")[2] in self._facts["buckets"], "the bucket is not there yet"
        self._world.act(lambda: self._facts["objects"].append(words[1]))

    def _artifacts_docker_images_describe(self, words: list[str], flags: Mapping[str, str]) -> str:
        assert flags["--format"] == "value(image_summary.digest)"
        if words[0] not in self._facts["images"]:
            raise Refused("ERROR: (gcloud.artifacts.docker.images.describe) Image not found.")
        return str(self._facts["images"][words[0]])

    def _builds_submit(self, words: list[str], flags: Mapping[str, str]) -> None:
        assert Path(words[0], "Dockerfile").is_file()
        assert Path(flags["--config"]).is_file()
        assert f"{self._facts['project']}-dualdeploy-sources" in self._facts["buckets"], "there is no registry either"
        image = flags["--substitutions"].removeprefix("_IMAGE=")
        assert image not in self._facts["images"], "built twice"
        digest = f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"
        self._world.act(lambda: self._facts["images"].update({image: digest}))

    def _ai_endpoints_list(self, _words: list[str], _flags: Mapping[str, str]) -> str:
        return json.dumps(self._facts["endpoints"])


class Terraform:
    """Resources are modules here, and buckets; a module of a service holds the versions that it was given."""

    def __init__(self, world: World, folder: Path | None) -> None:
        self._world = world
        self._facts = world.facts
        self._folder = folder or Path()

    def run(self, name: str, words: list[str], flags: Mapping[str, str]) -> str:
        if name != "version":
            assert os.environ["GOOGLE_OAUTH_ACCESS_TOKEN"] == "token"  # noqa: S105  # of the fake gcloud
        return str(getattr(self, "_" + name.replace(" ", "_"))(words, flags) or "")

    def _version(self, _words: list[str], _flags: Mapping[str, str]) -> str:
        return json.dumps({"terraform_version": self._facts["terraform_version"]})

    def _init(self, _words: list[str], flags: Mapping[str, str]) -> None:
        bucket = flags["-backend-config"].removeprefix("bucket=")
        if bucket not in self._facts["buckets"]:
            raise Refused(f"Error: Failed to get existing workspaces: bucket {bucket} doesn't exist")

    def _output(self, _words: list[str], _flags: Mapping[str, str]) -> str:
        outputs = self._facts["outputs"]
        return json.dumps({"configuration": {"value": outputs}} if outputs else {})

    def _state_list(self, _words: list[str], _flags: Mapping[str, str]) -> str:
        if not self._facts["resources"]:
            raise Refused("No state file was found!")
        return "\n".join(self._facts["resources"])

    def _state_rm(self, words: list[str], _flags: Mapping[str, str]) -> None:
        self._world.act(lambda: [self._facts["resources"].pop(address) for address in words])

    def _plan(self, _words: list[str], flags: Mapping[str, str]) -> None:
        self._lock()
        planned = {"target": flags.get("-target", ""), "changes": self._changes(flags.get("-target", ""))}
        (self._folder / flags["-out"]).write_text(json.dumps(planned))

    def _show(self, words: list[str], _flags: Mapping[str, str]) -> str:
        changes = json.loads((self._folder / words[0]).read_text())["changes"]
        variables = {name: {"value": value} for name, value in self._variables().items()}
        listed = [{"address": address, "change": {"actions": actions}} for address, actions in changes.items()]
        listed.append({"address": "data.x", "change": {"actions": ["read"]}})
        return json.dumps({"variables": variables, "resource_changes": listed})

    def _apply(self, words: list[str], _flags: Mapping[str, str]) -> None:
        self._lock()
        target = json.loads((self._folder / words[0]).read_text())["target"]
        if self._facts["fail_apply"].get(target):
            address, says = self._fail(target)
            raise Refused(_diagnostic(address, says))
        for address, value in self._wanted().items():
            if address.startswith(target) and self._facts["resources"].get(address) != value:
                # One after the other: whoever is killed in between leaves the rest undone.
                self._world.act(lambda address=address, value=value: self._make(address, value))  # type: ignore[misc]
        if not target:
            self._world.act(lambda: self._facts.update(outputs=self._variables()))

    def _fail(self, target: str) -> tuple[str, str]:
        address, says = self._facts["fail_apply"][target].pop()
        self._world.act(lambda: None)
        return address, says

    def _destroy(self, _words: list[str], _flags: Mapping[str, str]) -> None:
        self._variables()
        for address in list(self._facts["resources"]):
            self._world.act(lambda address=address: self._remove(address))  # type: ignore[misc]
        self._world.act(lambda: self._facts.update(outputs={}))

    def _make(self, address: str, value: Any) -> None:
        if ".bucket[" in address:
            assert value not in self._facts["buckets"], f"409: {value} is there already"
        if ".bucket[" in address or address == "module.project":
            name = value if ".bucket[" in address else f"{self._facts['project']}-dualdeploy-sources"
            self._facts["buckets"].setdefault(name, {"name": name, "location": "", "versioning_enabled": "True"})
        self._facts["resources"][address] = value

    def _remove(self, address: str) -> None:
        value = self._facts["resources"].pop(address)
        if ".bucket[" in address:
            del self._facts["buckets"][value]

    def _lock(self) -> None:
        if self._facts["locked"]:
            raise Refused("Error: Error acquiring the state lock\n\nLock Info:\n  ID:        1234\n  Path: gs://x")

    def _variables(self) -> Mapping[str, Any]:
        given = json.loads((self._folder / "shipping.auto.tfvars.json").read_text())
        hand_written = self._folder / "terraform.tfvars.json"
        base = json.loads(hand_written.read_text()) if hand_written.is_file() else {}
        return {"operators": [], **base, **given}

    def _wanted(self) -> dict[str, Any]:
        variables = self._variables()
        return dict(_resources(variables, self._facts.get("infrastructure", "v1")))

    def _changes(self, target: str) -> dict[str, list[str]]:
        there, wanted = self._facts["resources"], self._wanted()
        changed = {
            address: ["update"] if address in there else ["create"]
            for address, value in wanted.items()
            if there.get(address) != value and address.startswith(target)
        }
        if self._facts.get("replaces_bucket"):
            changed['module.storage.google_storage_bucket.bucket["data"]'] = ["delete", "create"]
        return changed


def _diagnostic(address: str, says: str) -> str:
    """A line of `apply -json`."""
    return json.dumps({"@level": "error", "diagnostic": {"severity": "error", "summary": says, "address": address}})


def _resources(variables: Mapping[str, Any], infrastructure: str) -> Iterator[tuple[str, Any]]:
    topology = json.loads(_TOPOLOGY.read_text(encoding="utf-8").replace("${project}", variables["project"]))
    images, sources = variables["images"], variables["sources"]
    yield "module.project", infrastructure
    for key, bucket in topology["buckets"].items():
        yield f'module.storage.google_storage_bucket.bucket["{key}"]', bucket["name"]
    for name, each in topology["services"].items():
        version = (sources if each["kind"] == "function" else images).get(name)
        yield f"module.{name}.this", [version, variables["operators"], infrastructure]
    for name in topology["web_services"]:
        if variables.get(name) is not None:
            yield f"module.{name}[0].this", [images.get(name), infrastructure]
    yield "module.training_launcher.trainer", images.get("trainer")
    yield "module.cloud_deployer.predictor", [images.get("predictor"), images.get("trainer")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
