"""Object names as paths on this machine: an object's name may be anything, a path made of it may not lead anywhere."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from dualdeploy.errors import CannotEverSucceed


class LeavesItsFolder(CannotEverSucceed):
    """A name that as a path would lie outside the folder that it is to be written to."""


def inside(folder: Path, name: str) -> Path:
    """The path below `folder` that the object `name` (relative, with slashes) is written to.

    Cloud Storage takes `a/../b`, `/etc/passwd` and `a//b` for names like any other
    (https://cloud.google.com/storage/docs/objects#naming), and joining a path with an absolute one gives the absolute
    one. Raises LeavesItsFolder for a name that is absolute, goes up, is empty or has a NUL.
    """
    parts = PurePosixPath(name).parts
    if not parts or parts[0].startswith("/") or ".." in parts or "\0" in name:
        raise LeavesItsFolder(f"the object {name!r} would be written outside its folder: rename it")
    return folder.joinpath(*parts)
