"""The steps of a deployment, in their order. Each looks before it acts: whoever is interrupted starts again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shipping import preflight, release
from shipping.packages import Packages
from shipping.release import Deployable, Place
from shipping.terraform import Refusal, Terraform
from shipping.tools import CannotShip, Tools

#: Whatever is deployed for the first time is planned with everything empty.
_NOTHING: Mapping[str, Any] = {"images": {}, "sources": {}}


class Deployment:
    """Everything that a deployment needs to know; `everything` and `some` are the two ways to deploy."""

    def __init__(
        self,
        place: Place,
        tools: Tools,
        *,
        topology: Mapping[str, Any],
        terraform: Terraform,
        packages: Packages,
        builds: Path,
        revision: str = "",
    ) -> None:
        self._place = place
        self._tools = tools
        self._topology = topology
        self._terraform = terraform
        self._packages = packages
        self._builds = builds
        self._revision = revision

    def everything(self, *, delete_data: bool = False) -> Mapping[str, str]:
        """From an empty project, or from whatever is there, to the whole system as this checkout has it.

        Returns what changed, by address. Raises CannotShip.
        """
        preflight.check(self._place, self._tools, permissions=preflight.EVERYTHING)
        self._step("APIs", "enables what Terraform itself needs; costs nothing")
        self._enable_apis()
        self._step("State", "a bucket for Terraform's state, with versions; kilobytes")
        if not self._make_state_bucket():
            self._say("Everything else follows from an empty state: nothing is deployed yet.")
            return {}
        self._terraform.init()
        deployed = self._terraform.configuration()
        preflight.check_same_region(self._place, deployed)
        settings = self._settings(deployed)
        self._set_versions(settings, [])
        self._step("Foundation", "APIs, the registry of images, the bucket of sources, who builds; storage only")
        chosen = release.settings_of(self._terraform.plan("-target=module.project"))
        self._terraform.apply_plan("-target=module.project")
        self._step("Packages and images", "what this code makes and the registry lacks; costs minutes of Cloud Build")
        deployables = release.deployables(self._topology, chosen)
        versions = self._build(deployables.values())
        self._step(
            "Terraform", "everything else, with these versions; when idle it costs storage and the ticks' messages"
        )
        self._set_versions(settings, versions)
        changes = self._shown(self._terraform.plan())
        self._keep_data(changes, delete_data=delete_data)
        refused = self._terraform.apply_plan()
        self._step("Verification", "every service is ready")
        left_out = {release.optional_product(each.address) for each in refused}
        self._verify([name for name in deployables if name not in {*self._topology["images"], *left_out}])
        if refused:
            raise CannotShip(_without(refused))
        self._say(f"Deployed. To check all of it: make doctor PROJECT={self._place.project}")
        return changes

    def some(self, names: Sequence[str]) -> Mapping[str, str]:
        """New versions of these (none named: of everything that is on) and of nothing else.

        A plan that would touch anything else is refused. Returns what changed, by address. Raises CannotShip.
        """
        preflight.check(self._place, self._tools, permissions=preflight.CODE_ONLY)
        preflight.check_apis(self._place, self._tools)
        self._terraform.init()
        deployed = self._terraform.configuration()
        known = release.deployables(self._topology, deployed)
        names = names or list(known)
        if unknown := sorted(set(names) - set(known)):
            raise CannotShip(f"there is no service {', '.join(unknown)}, or it is off; there are {', '.join(known)}")
        if not release.is_released(deployed):
            raise CannotShip(
                f"Nothing is deployed in {self._place.project} yet, or not to its end: "
                f"make deploy PROJECT={self._place.project} REGION={self._place.region}"
            )
        preflight.check_same_region(self._place, deployed)
        self._step("Packages and images", "what this code makes and the registry lacks; costs minutes of Cloud Build")
        versions = self._build([known[name] for name in names])
        changed = [(each, version) for each, version in versions if deployed[each.kind][each.name] != version]
        for each, version in versions:
            self._say(f"  {each.name}: {'changed' if (each, version) in changed else 'unchanged'}")
        if not changed:
            self._say("What is deployed is this code already: nothing to do.")
            return {}
        self._step("Terraform", "these versions only")
        variables = release.with_versions(deployed, changed)
        owners = sorted({owner for each, _ in changed for owner in each.owners})
        if "cloud_deployer" in owners:
            # It labels what it uploads with the commit that it, or an image that it names, was built of.
            variables["revision"] = self._revision
        self._terraform.set_variables(variables)
        # Nothing is read of what is not ours: what somebody changed by hand elsewhere is not this deployment's matter.
        changes = self._shown(self._terraform.plan("-refresh=false"))
        if others := release.outside(changes, owners):
            raise CannotShip(
                "This checkout would change more than "
                f"{', '.join(each.name for each, _ in changed)}:\n  " + "\n  ".join(others) + "\n"
                f"Deploy everything: make deploy PROJECT={self._place.project} REGION={self._place.region}"
            )
        self._terraform.apply_plan("-refresh=false")
        self._step("Verification", "the changed services are ready")
        self._verify(owners)
        return changes

    def _step(self, title: str, tells: str) -> None:
        self._say(f"\n{title}: {tells}")

    def _say(self, text: str) -> None:
        self._tools.say(text)

    def _enable_apis(self) -> None:
        if missing := preflight.missing_apis(self._place, self._tools):
            self._tools.act("gcloud", "services", "enable", *missing, f"--project={self._place.project}")
        if not (missing and self._tools.rehearsal):
            preflight.check_region(self._place, self._tools)

    def _make_state_bucket(self) -> bool:
        """Whether there is one afterwards."""
        bucket, project = f"gs://{self._place.state_bucket}", f"--project={self._place.project}"
        describe = ("gcloud", "storage", "buckets", "describe", bucket, "--format=value(versioning_enabled)")
        found = self._tools.find(*describe)
        if found is None:
            options = ("--uniform-bucket-level-access", "--public-access-prevention")
            place = f"--location={self._place.region}"
            self._tools.act("gcloud", "storage", "buckets", "create", bucket, project, place, *options)
        if found != "True":
            # `create` has no such option: hence looked at again after an interruption.
            self._tools.act("gcloud", "storage", "buckets", "update", bucket, "--versioning")
        return found is not None or not self._tools.rehearsal

    def _settings(self, deployed: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is deployed, where this checkout says nothing else: settings are in a file that is not in git."""
        if not self._terraform.has_settings():
            if deployed:
                self._say("  there is no terraform.tfvars here: the settings of the last deployment stay")
            return deployed
        return {key: value for key, value in deployed.items() if key in {*_NOTHING, "revision"}}

    def _build(self, wanted: Any) -> list[tuple[Deployable, str]]:
        return [(each, self._version(each)) for each in wanted]

    def _version(self, each: Deployable) -> str:
        """How Terraform names what this code makes of one service, once it is there to be deployed.

        Names are made of the package's content: what is there already is never built again, by whomever it was.
        """
        folder, digest = self._packages.of(each.name)
        if each.is_function:
            name = f"{each.name}/{digest}.zip"
            url = f"gs://{self._place.source_bucket}/{name}"
            if self._tools.find("gcloud", "storage", "objects", "describe", url, "--format=value(name)") is None:
                archive = str(folder.with_suffix(".zip"))
                self._tools.act("gcloud", "storage", "cp", archive, url, "--no-clobber")
            return name
        image = self._place.image(each.name)
        if self._image_digest(f"{image}:{digest}") is None:
            self._tools.act(
                *("gcloud", "builds", "submit", str(folder), f"--project={self._place.project}"),
                f"--config={self._builds / 'image.yaml'}",
                f"--substitutions=_IMAGE={image}:{digest}",
                f"--service-account={self._place.builder}",
                f"--gcs-source-staging-dir=gs://{self._place.source_bucket}/builds",
            )
        built = self._image_digest(f"{image}:{digest}")
        if built is None and not self._tools.rehearsal:
            raise CannotShip(f"the build of {each.name} succeeded, but {image}:{digest} is not in the registry")
        return f"{image}@{built or f'sha256:{release.NOT_BUILT}'}"

    def _image_digest(self, reference: str) -> str | None:
        command = ("artifacts", "docker", "images", "describe", reference, "--format=value(image_summary.digest)")
        return self._tools.find("gcloud", *command)

    def _set_versions(self, deployed: Mapping[str, Any], versions: Sequence[tuple[Deployable, str]]) -> None:
        kept = {kind: deployed.get(kind, {}) for kind in _NOTHING}
        variables = {**deployed, "project": self._place.project, "region": self._place.region, **kept}
        changed = any(kept[each.kind].get(each.name) != version for each, version in versions)
        # The same code under another commit is no reason to deploy anything.
        revision = self._revision if changed else deployed.get("revision", "")
        self._terraform.set_variables({**release.with_versions(variables, versions), "revision": revision})

    def _shown(self, plan: Mapping[str, Any]) -> Mapping[str, str]:
        changed = release.changes(plan)
        for address, actions in sorted(changed.items()):
            self._say(f"    {actions}: {address}")
        self._say(f"  {len(changed)} changes" if changed else "  nothing changes")
        return changed

    def _keep_data(self, changed: Mapping[str, str], *, delete_data: bool) -> None:
        lost = release.lost_buckets(changed)
        if lost and not delete_data:
            raise CannotShip(
                "This would delete buckets, and what is in them:\n  " + "\n  ".join(lost) + "\n"
                "If that is meant: make deploy DATA=delete …"
            )

    def _verify(self, names: Sequence[str]) -> None:
        if self._tools.rehearsal:
            return
        waiting = []
        for name in names:
            command = ("run", "services", "describe", name.replace("_", "-"), f"--region={self._place.region}")
            said = self._tools.ask("gcloud", *command, f"--project={self._place.project}", "--format=json")
            conditions = {each["type"]: each["status"] for each in json.loads(said)["status"]["conditions"]}
            is_ready = conditions.get("Ready") == "True"
            self._say(f"  {name}: {'ready' if is_ready else 'not ready'}")
            if not is_ready:
                waiting.append(name)
        if waiting:
            host = waiting[0].replace("_", "-")
            raise CannotShip(
                f"not ready: {', '.join(waiting)}. Why, says\n"
                f"  gcloud run services logs read {host} --region={self._place.region} --project={self._place.project}"
            )


def _without(refused: Sequence[Refusal]) -> str:
    """What to say of a deployment that is whole but for products that the chain can do without."""
    lines = ["Deployed, and ready. Google refused these, which the chain can do without:"]
    for each in refused:
        name, switch = release.OPTIONAL[release.optional_product(each.address)]
        lines += [f"  {name} ({each.address})", *(f"    {line}" for line in each.says.splitlines())]
        lines.append(f"    Mend that and repeat `make deploy`, or do without it, in terraform.tfvars: {switch}")
    return "\n".join(lines)
