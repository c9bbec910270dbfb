"""console, empty and with both models live."""

from __future__ import annotations

import pytest

from support.console_world import World, new_world, with_both_live


@pytest.fixture
def world() -> World:
    return new_world()


@pytest.fixture
def live(world: World) -> World:
    return with_both_live(world)
