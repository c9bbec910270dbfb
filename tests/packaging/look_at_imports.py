"""`python look_at_imports.py START.py`: print what a program may import, also lazily, and this environment lacks.

Run in the folder and with the Python of what is to be looked at. Reads files and imports nothing: importing all that a
service may ever need takes ten seconds and more.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; `from a.b import c` gives a.b.c, which may be a name in a.b."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def locate(name: str) -> Path | None:
    """The file of a module, or of the module that holds this name. A namespace such as google.cloud holds no names."""
    for candidate in (name, name.rpartition(".")[0]):
        relative = Path(*candidate.split(".")) if candidate else Path("-")
        for entry in sys.path:
            for form in (relative.with_suffix(".py"), relative / "__init__.py"):
                if Path(entry, form).is_file():
                    return Path(entry, form)
            if compiled := next(Path(entry).glob(f"{relative}.*.so"), None):
                return compiled
    return None


def main(start: Path) -> None:
    """Follow the imports of everything in this folder and of `dualdeploy`, beginning with one file."""
    sys.path[0] = str(Path.cwd())
    waiting, seen, missing = [start.resolve()], {start.resolve()}, set()
    ours = [Path(entry, "dualdeploy").resolve() for entry in sys.path] + [Path.cwd().resolve()]
    while waiting:
        for name in imported(waiting.pop()):
            if name.split(".")[0] in sys.stdlib_module_names:
                continue
            path = locate(name)
            if path is None:
                missing.add(name)
            elif path.suffix == ".py" and path.resolve() not in seen and set(ours) & set(path.resolve().parents):
                seen.add(path.resolve())
                waiting.append(path.resolve())
    print(f"{len(seen)} modules", *sorted(missing), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
