"""The packages that are shipped: made anew, or taken as `make package` left them."""

from __future__ import annotations

from pathlib import Path

from shipping import package
from shipping.tools import CannotShip


class Packages:
    """`build/<service>/` and the digest of all that is in it."""

    def __init__(self, output: Path, *, make: bool = True, repository: Path = package.REPOSITORY) -> None:
        self._output = output
        self._make = make
        self._repository = repository

    def of(self, service: str) -> tuple[Path, str]:
        """The folder and the digest of one service. Raises CannotShip."""
        folder = self._output / service
        try:
            if self._make:
                return package.package(service, repository=self._repository, output=self._output)
        except package.NotPackageable as refused:
            raise CannotShip(str(refused)) from refused
        if not folder.is_dir():
            raise CannotShip(f"{folder} is missing: make package")
        return folder, package.tree_digest(folder)
