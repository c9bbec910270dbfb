"""What every test has in common: importable helpers (`chain`, `stories`, `nested`, `on_phone`), property tests that
judge no clock, and more time for the slow ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

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
