"""Property tests judge no clock, slow tests have more time, and a test ends no process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from dualdeploy import health

# Services are installed nowhere: each has a main.py, and none may find another's.
sys.path += sorted(str(folder) for folder in Path(__file__).resolve().parents[1].glob("services/*") if folder.is_dir())

# A busy machine makes one example slow, which says nothing about the code. In CI the same examples come every time:
# a new counterexample belongs to whoever changes the code, not to whoever happens to push.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("steady")

#: Seconds for a test that trains, converts or packages, on a machine that has other things to do as well.
SLOW_TIMEOUT = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


def _refuse(status: int) -> None:
    raise AssertionError(f"a service would have ended itself here with status {status}")


@pytest.fixture(autouse=True)
def process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What one test does to its process, its health and where it logs, is not another test's."""
    monkeypatch.setattr(health, "PROCESS", health.Health(end=_refuse))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for each in list(root.handlers):
        if each not in handlers:
            root.removeHandler(each)
    root.setLevel(level)
