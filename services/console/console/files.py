"""What pages load: scripts, the sheet, and LiteRT.js where it was fetched."""

from __future__ import annotations

import functools
import gzip
import hashlib
from pathlib import Path

import flask

_FOREVER = "public, max-age=31536000, immutable"
#: Of the rest, the scripts, a browser needs a tenth of what WebAssembly has.
_COMPRESSED = (".wasm",)


class Files:
    """The files below a folder. All have one version, made of their bytes, so that modules may import each other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Links too: the client for apps is one of them.
        found = {path.relative_to(folder).as_posix(): path for path in _below(folder)}
        self._files = dict(sorted(found.items()))
        digest = hashlib.sha256()
        for name, path in self._files.items():
            digest.update(f"{name}\0{_digest(path, path.stat().st_mtime_ns)}\n".encode())
        self.version = digest.hexdigest()[:16]

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def url(self, name: str) -> str:
        """A file, or a folder with a slash at the end."""
        return flask.url_for("static", version=self.version, name=name)

    def answer(self, version: str, name: str) -> flask.Response:
        """One file; what a page of another version asks for is given, and not kept."""
        path = self._files.get(name)
        if path is None:
            flask.abort(404)
        if path.suffix in _COMPRESSED:
            response = flask.Response(_compressed(path), mimetype="application/wasm")
            response.headers["Content-Encoding"] = "gzip"
        else:
            response = flask.send_file(path)
        response.headers["Cache-Control"] = _FOREVER if version == self.version else "no-store"
        return response


def _below(folder: Path) -> list[Path]:
    """Every file, also behind a link to a folder, which `rglob` does not follow."""
    found = []
    for path in folder.iterdir():
        found += _below(path) if path.is_dir() else [path]
    return found


@functools.cache
def _digest(path: Path, _changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def _compressed(path: Path) -> bytes:
    """Kept: a few megabytes, which every browser that runs WebAssembly takes compressed."""
    return gzip.compress(path.read_bytes(), 6, mtime=0)
