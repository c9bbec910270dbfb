"""A local cloud with the services of Dual Deploy, each started by the command that starts it in production."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_cloud import stack
from local_cloud.cloud import LocalCloud

#: Which buckets, topics and services there are, seen from the root of a checkout.
TOPOLOGY = Path("infra") / "topology.json"


class Stack(stack.Stack):
    """`web`: the services that no event reaches run too. `repository` is a checkout with the services' folders."""

    def __init__(
        self,
        cloud: LocalCloud,
        *,
        repository: Path,
        log_folder: Path,
        start_limit_seconds: float = stack.START_LIMIT_SECONDS,
        web: bool = False,
    ) -> None:
        self._repository = repository
        names = cloud.topology.deployed if web else cloud.topology.services
        super().__init__(cloud, log_folder=log_folder, services=names, start_limit_seconds=start_limit_seconds)

    def folder_of(self, name: str) -> Path:
        """As in every checkout."""
        return self._repository / self.cloud.topology.deployed[name].folder

    def command_of(self, name: str) -> Sequence[str]:
        """The Procfile's: buildpacks run it in production, through a shell, with PORT set."""
        return ["/bin/sh", "-c", f"exec {procfile_command(self.folder_of(name) / 'Procfile')}"]

    def variables_of(self, name: str) -> Mapping[str, str]:
        """What Terraform sets on a service, for this project."""
        account = self.cloud.iam.member
        given = super().variables_of(name)
        return {
            **given,
            "TRAINING_SERVICE_ACCOUNT": account("trainer").removeprefix("serviceAccount:"),
            "GIT_REVISION": revision_of(self._repository),
            # The console names the person to the services, whose addresses it has, and fetches what phones fetch.
            "CONSOLE_SERVICE_ACCOUNT": account("console").removeprefix("serviceAccount:"),
            "CONSOLE_PERSON": f"{getpass.getuser()}@localhost",
            "FIREBASE_STORAGE_URL": given["STORAGE_EMULATOR_HOST"],
            "TICK_SECONDS": f"{max(1.0, self.cloud.tick_seconds):g}",
        }


def revision_of(repository: Path) -> str:
    """The commit that is checked out; nothing where that cannot be told, as in an unpacked archive."""
    try:
        told = subprocess.run(
            ["git", "-C", str(repository), "rev-parse", "HEAD"],  # the git that people use here
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


def procfile_command(path: Path) -> str:
    """The command of the `web` process."""
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, _, command = line.partition(":")
        if kind.strip() == "web" and command.strip():
            return command.strip()
    raise ValueError(f"{path} has no line that begins with web:")
