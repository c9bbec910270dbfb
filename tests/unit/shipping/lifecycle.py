"""A project that real Terraform deploys to: its provider is a stub, its state in the local cloud's storage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.cloud import storage as google_storage

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "terraform"))

from made_up_cloud import NAMES, Cloud
from stub_provider import StubProvider

REPOSITORY = Path(__file__).resolve().parents[3]


class RealTerraform:
    """Checkouts of infra/, and what the terraform program needs to find the stub and the state."""

    def __init__(self, folder: Path, provider: StubProvider, storage: str, project: str) -> None:
        self.provider = provider
        self._folder = folder
        self._pid = folder / "terraform.pid"
        self._storage = f"http://{storage}"
        self._state_bucket = f"{project}-dualdeploy-state"
        self._checkouts = 0
        program = folder / "bin" / "terraform"
        program.write_text(f'#!/bin/sh\necho $$ > "{self._pid}"\nexec "{shutil.which("terraform")}" "$@"\n')
        program.chmod(0o755)

    @property
    def cloud(self) -> Cloud:
        return self.provider.cloud

    def environment(self) -> Mapping[str, str]:
        return {
            **self.provider.environment(),
            "STORAGE_EMULATOR_HOST": self._storage,
            "TF_CLI_CONFIG_FILE": os.devnull,
            "CHECKPOINT_DISABLE": "1",
        }

    def checkout(self, settings: Mapping[str, Any] | None = None) -> Path:
        """A fresh copy of what is in git, and somebody's terraform.tfvars.json; returns the environment's folder."""
        self._checkouts += 1
        infra = self._folder / f"checkout-{self._checkouts}" / "infra"
        ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars", "*.tfvars.json", "shipping*")
        shutil.copytree(REPOSITORY / "infra" / "terraform", infra / "terraform", ignore=ignored)
        shutil.copytree(REPOSITORY / "infra" / "firebase", infra / "firebase")
        shutil.copy(REPOSITORY / "infra" / "topology.json", infra)
        folder = infra / "terraform" / "environments" / "example"
        if settings is not None:
            (folder / "terraform.tfvars.json").write_text(json.dumps(settings))
        return folder

    def run(self, folder: Path, *arguments: str) -> str:
        """Terraform by hand, as a message tells a person to."""
        done = subprocess.run(
            ["terraform", f"-chdir={folder}", *arguments],
            env={**os.environ, **self.environment(), "GOOGLE_OAUTH_ACCESS_TOKEN": "token"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kill_after(self, changes: int) -> None:
        """Kill terraform in the moment when so many things are made; nothing of it is in the state then."""
        left = iter(range(changes))

        def look(_type: str) -> None:
            if next(left, None) is None:
                self.cloud.after_change = lambda _type: None
                os.kill(int(self._pid.read_text()), signal.SIGKILL)

        self.cloud.after_change = look

    def state(self) -> Mapping[str, Any]:
        """The state file as it is in its bucket."""
        return json.loads(self._state_object().download_as_bytes())  # type: ignore[no-any-return]

    def begin_with(self, document: Mapping[str, Any]) -> None:
        """A state file that was written earlier, and the things that it tells of."""
        self._state_object().upload_from_string(json.dumps(document))
        self.cloud.things.clear()
        for resource in document["resources"]:
            if resource["mode"] == "managed":
                for instance in resource["instances"]:
                    self.cloud.change(resource["type"], None, instance["attributes"])
        self.cloud.made.clear()

    def _state_object(self) -> Any:
        before = os.environ.get("STORAGE_EMULATOR_HOST")
        os.environ["STORAGE_EMULATOR_HOST"] = self._storage
        try:
            client = google_storage.Client(project="demo-dualdeploy")
        finally:
            os.environ.pop("STORAGE_EMULATOR_HOST")
            if before is not None:
                os.environ["STORAGE_EMULATOR_HOST"] = before
        return client.bucket(self._state_bucket).blob("dualdeploy/default.tfstate")


def named(cloud: Cloud) -> set[tuple[str, str]]:
    """Everything that has a name of its own."""
    return {key for key in cloud.things if key[0] in NAMES}
