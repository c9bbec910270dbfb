"""A real browser before a console that runs here; skipped, with the reason, where one of both is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import console.service
from support.console_world import World, fitted, new_world, with_both_live
from support.phone_world import Outside, connected
from support.serving_here import served

STATIC = Path(console.service.__file__).with_name("static")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


def missing(what: str) -> NoReturn:
    """Skip with the reason, or fail where a browser must be there (`.ci/run`)."""
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    try:
        from axe_playwright_python import sync_playwright as _axe  # noqa: F401  # the tests themselves import it
        from playwright import sync_api as playwright
    except ImportError:
        missing("Playwright and axe are not installed here: make browser")
    if not CHROMIUM:
        missing("Chromium is not installed here: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclasses.dataclass
class Visit:
    """A page in a window of its own; `complaints` are errors of scripts and violations of the policy."""

    page: Any
    world: World
    address: str
    complaints: list[str]
    outside: Outside | None = None


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """`visit(path, happened, **options of the window)`: both models are live, then `happened` did."""
    with contextlib.ExitStack() as open_things:

        def open_page(path: str, happened: Callable[[Any], None] = lambda _: None, **options: Any) -> Visit:
            world = with_both_live(new_world())
            happened(world)
            address = open_things.enter_context(served(world.app))
            window = open_things.enter_context(contextlib.closing(browser.new_context(**options)))
            page = window.new_page()
            complaints: list[str] = []
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
            page.goto(address + path)
            return Visit(page, world, address, complaints)

        yield open_page


@pytest.fixture
def simulator(visit: Callable[..., Visit]) -> Iterator[Callable[..., Visit]]:
    """`simulator(happened, **options of the window)`: its page, with the first file published and a cloud model."""
    if not (STATIC / "litert" / "index.js").exists():
        missing("LiteRT.js is not here: make simulator")
    with contextlib.ExitStack() as open_things:

        def open_page(happened: Callable[[Any], None] = lambda _: None, **options: Any) -> Visit:
            outside = Outside()
            outside.publish("first")
            address = open_things.enter_context(served(outside.app))

            def with_all(world: Any) -> None:
                connected(world, outside, address)
                fitted(world)
                happened(world)

            shown = visit("/datasets/flowers/simulator", with_all, **options)
            shown.outside = outside
            return shown

        yield open_page
