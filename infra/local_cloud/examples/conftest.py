"""What the fixture `local_cloud` runs. Copy this file and test_examples.py to begin with tests of your own."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def local_cloud_topology() -> Path:
    """What the project has."""
    return HERE / "topology.json"


@pytest.fixture(scope="session")
def local_cloud_bindings() -> Path:
    """Who may do what."""
    return HERE / "bindings.json"
