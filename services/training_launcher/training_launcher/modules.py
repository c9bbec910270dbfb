"""Networks that people write themselves: the file is pinned and looked at here, and run in the training job alone."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Mapping

from dualdeploy.contracts import architectures
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.training import TARGETS, ModuleReference
from dualdeploy.errors import InvalidDatasetConfig
from dualdeploy.google.object_store import ObjectMissing, ObjectStore

#: A file of Python that builds a network has some kilobytes; what reads it here has memory for more, but no reason.
MOST_BYTES = 256 << 10

#: Where they lie in the configuration bucket: the trainer may read this folder of it, and nothing else.
FOLDER = "modules/"

Pin = Callable[[DatasetConfig], Mapping[str, ModuleReference]]


def pinned(config: DatasetConfig, store: ObjectStore) -> dict[str, ModuleReference]:
    """By target, the version of the module that the configuration names as it is now; empty without any.

    The file is parsed and not run: nothing that it says happens in a service. Raises InvalidDatasetConfig.
    """
    found: dict[str, ModuleReference] = {}
    for target in TARGETS:
        location = architectures.module_of(config.training.of(target).architecture)
        if location:
            where = f"the configuration of {config.dataset} names training.{target}.architecture: module:{location}"
            found[target] = _pinned(location, store, where)
    return found


def _pinned(location: str, store: ObjectStore, where: str) -> ModuleReference:
    folder = store.uri(FOLDER)
    if not location.startswith(folder):
        raise InvalidDatasetConfig(f"{where}, which training jobs may not read: put the file below {folder}")
    try:
        read = store.read(location.removeprefix(store.uri("")))
    except ObjectMissing as exc:
        raise InvalidDatasetConfig(f"{where}, and there is no such object: upload the file, or write its name") from exc
    if len(read.data) > MOST_BYTES:
        raise InvalidDatasetConfig(f"{where}, which has {len(read.data)} bytes: a module has at most {MOST_BYTES}")
    if fault := syntax_fault(read.data):
        raise InvalidDatasetConfig(f"{where}, and {fault}")
    digest = hashlib.sha256(read.data).hexdigest()
    return ModuleReference(uri=location, generation=str(read.generation), sha256=digest)


def syntax_fault(source: bytes) -> str:
    """What keeps the source from being a module that builds a network, as far as reading tells; empty for nothing."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as exc:
        line = f"line {exc.lineno}: " if isinstance(exc, SyntaxError) and exc.lineno else ""
        return f"it is not Python: {line}{exc.msg if isinstance(exc, SyntaxError) else exc}"
    except (RecursionError, MemoryError):
        return "it is nested too deeply to be read: write it plainly"
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if "build" not in defined:
        return "it defines no function `build(classes, image_size)`: write one that returns a keras.Model"
    return ""
