"""Container images of the local cloud: a folder and the command that its container would start."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from local_cloud.api import ApiError
from local_cloud.vertex.errors import invalid_argument

_URI = re.compile(
    r"(?P<repository>[A-Za-z0-9](?:[A-Za-z0-9._:/-]*?[A-Za-z0-9])?)(?::(?P<tag>[\w.-]{1,128}))?(?:@(?P<digest>sha256:[0-9a-f]+))?"
)


@dataclasses.dataclass(frozen=True)
class Image:
    """What stands for a container image: `command` runs in `folder`; a leading "python" is replaced.

    `path`: folders that it imports from besides.
    """

    folder: Path
    command: tuple[str, ...]
    path: tuple[Path, ...] = ()


def repository_name(uri: object) -> str:
    """The repository's base name: "trainer" for us-docker.pkg.dev/p/r/trainer:tag and trainer@sha256:….

    Raises:
        ApiError: 400 when `uri` is not an image URI.
    """
    matched = _URI.fullmatch(uri) if isinstance(uri, str) else None
    if matched is None:
        raise invalid_argument(f"Image URI {uri!r} is invalid.")
    return matched["repository"].rsplit("/", 1)[-1]


def resolve(uri: str, images: Mapping[str, Image]) -> Image:
    """The image that `uri` names, by its repository's base name.

    Raises:
        ApiError: NOT_FOUND, in the words of a failed image pull, when no such image is known.
    """
    name = repository_name(uri)
    if name not in images:
        raise ApiError(
            404,
            "NOT_FOUND",
            f'Failed to pull image "{uri}": the image was not found or cannot be accessed. '
            f"Images of this local cloud: {', '.join(sorted(images)) or 'none'}.",
        )
    return images[name]


def command_line(image: Image, *, python: str, command: list[str], arguments: list[str]) -> list[str]:
    """What runs: `command` instead of the image's own (as Docker's ENTRYPOINT), then the arguments."""
    line = [*(command or image.command), *arguments]
    if line[0] in {"python", "python3"}:
        line[0] = python
    return line
