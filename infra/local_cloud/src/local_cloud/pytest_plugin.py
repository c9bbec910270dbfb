"""The fixture `local_cloud`, for tests of programs that call Google Cloud; pytest loads it wherever this is installed.

Override `local_cloud_topology`, and `local_cloud_bindings` where permissions matter, in a conftest.py; the README of
the package has an example.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from local_cloud.cloud import LocalCloud

#: Nobody wants to wait for a schedule in a test.
CLOCK_SECONDS = 0.5


@pytest.fixture(scope="session")
def local_cloud_topology() -> Path | None:
    """The topology of the project; None: an empty one."""
    return None


@pytest.fixture(scope="session")
def local_cloud_bindings() -> Path | None:
    """Who may do what; None: what the topology names, else everyone everything."""
    return None


@pytest.fixture(scope="session")
def local_cloud(
    local_cloud_topology: Path | None,
    local_cloud_bindings: Path | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalCloud]:
    """A running local cloud for the session, with the services of its topology that have a command.

    Until the session ends, the variables of the process point Google's clients at it. What one test writes the next
    one finds: give each its own names. A worker of pytest-xdist has one of its own.
    """
    from local_cloud.cloud import load  # noqa: PLC0415  # pytest loads this plugin for every test run
    from local_cloud.stack import Stack  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("local-cloud")
    cloud = load(
        local_cloud_topology,
        bindings_file=local_cloud_bindings,
        state_dir=folder / "cloud",
        clock_seconds=CLOCK_SECONDS,
    )
    stack = Stack(cloud, log_folder=folder / "logs")
    try:
        stack.start()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in stack.environment().items():
                patch.setenv(name, value)
            yield cloud
    finally:
        stack.close()
