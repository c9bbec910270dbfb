"""The one door to packages that are imported at first use: what an event does not need, it must not pay for.

Python locks each module by itself while it is imported. Two threads that enter one package by two of its modules then
wait for each other, Python breaks the tie by letting one of them see a module that is half done, and the ImportError
that follows comes back at every later call. Hence one lock for all of them, and packages before their modules.
"""

from __future__ import annotations

import importlib
import itertools
import threading
from typing import Any

from dualdeploy import health

_door = threading.RLock()
_loaded: dict[str, Any] = {}


def load(name: str) -> Any:
    """The module `name`, imported if this is the first use. Raises ImportError, which also ends the process."""
    if name in _loaded:
        return _loaded[name]
    with _door:
        try:
            for each in itertools.accumulate(name.split("."), lambda package, module: f"{package}.{module}"):
                module = importlib.import_module(each)
        except ImportError as exc:
            health.PROCESS.judge(exc)
            raise
        _loaded[name] = module
        return module
