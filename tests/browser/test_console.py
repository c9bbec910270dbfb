"""The console as people use it: by keyboard, on a phone, in the dark, without JavaScript, and while things change."""

from __future__ import annotations

import os
from typing import Any

import flask
import pytest

from support.browsing import IMAGES, PHONE, faults, is_wider_than_the_window
from support.console_world import NEW, OLD, STATES, fitted, under_way
from support.serving_here import served

pytestmark = pytest.mark.slow

PAGE = "/datasets/flowers"

#: Every state by day, and at night those that show the most.
SHOWN = [*((state, "light") for state in STATES), ("under way", "dark"), ("fitted", "dark")]


@pytest.mark.parametrize(("state", "scheme"), SHOWN)
def test_every_state_can_be_used_with_a_screen_reader_and_on_a_phone(state: str, scheme: str, visit: Any) -> None:
    shown = visit(PAGE, STATES[state][0], color_scheme=scheme, **PHONE)
    assert faults(shown) == []
    assert not is_wider_than_the_window(shown)
    assert shown.complaints == []


def test_what_these_tests_look_for_they_find(visit: Any) -> None:
    shown = visit(PAGE, **PHONE)
    planted = '<button></button><p style="width: 900px">wide</p><script src="https://evil.example/x.js"></script>'
    shown.page.evaluate("html => document.querySelector('main').insertAdjacentHTML('beforeend', html)", planted)
    assert any(each.startswith("button-name") for each in faults(shown))
    # The policy keeps out the style, and says so.
    assert any("Content Security Policy" in each for each in shown.complaints)
    shown.page.evaluate("document.querySelector('main').lastElementChild.previousElementSibling.style.width = '900px'")
    assert is_wider_than_the_window(shown)


@pytest.mark.parametrize("path", ["/", f"/runs/{NEW}", f"{PAGE}/cloud/rollback", f"{PAGE}/mobile/redeploy"])
def test_every_other_page_can_be_used_too(path: str, visit: Any) -> None:
    shown = visit(path, color_scheme="dark", **PHONE)
    assert faults(shown) == []
    assert not is_wider_than_the_window(shown)
    assert shown.complaints == []


@pytest.mark.parametrize("scripts", [True, False], ids=["with JavaScript", "without"])
def test_a_rollback_takes_a_keyboard_and_nothing_else(scripts: bool, visit: Any) -> None:
    shown = visit(PAGE, java_script_enabled=scripts)
    page = shown.page
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    for _ in range(20):
        if page.locator(":focus").inner_text().startswith("Roll back"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/cloud/rollback")
    page.get_by_label("Why").fill("it sees cats")
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()
    assert "accepted" in page.get_by_role("status").inner_text()
    ((target, command, body, person, key),) = shown.world.deployers.asked
    assert (target, command, body["reason"], person) == ("cloud", "rollback", "it sees cats", "jo@example.com")
    assert key


def test_an_open_page_sees_a_rollback(visit: Any) -> None:
    shown = visit(PAGE, under_way)
    page = shown.page
    assert page.get_by_role("heading", name="Under way").is_visible()
    shown.world.serve("cloud", OLD)
    page.get_by_role("heading", name="Under way").wait_for(state="detached", timeout=15_000)
    assert shown.complaints == []


def test_a_form_on_a_page_of_another_site_sets_nothing_off(visit: Any) -> None:
    shown = visit(PAGE)
    attacker = flask.Flask("attacker")
    action = f"{shown.address}{PAGE}/cloud/rollback"
    form = f'<form method="post" action="{action}"><input name="reason" value="x"></form><button form="f">x</button>'
    attacker.add_url_rule("/", view_func=lambda: form)
    with served(attacker) as address:
        shown.page.goto(address.replace("127.0.0.1", "localhost"))
        with shown.page.expect_navigation():
            shown.page.evaluate("document.forms[0].submit()")
        assert shown.page.get_by_role("heading", name="This did not come from a page of the console").is_visible()
    assert shown.world.deployers.asked == []


@pytest.mark.skipif(os.environ.get("SCREENSHOTS") != "1", reason="SCREENSHOTS=1 writes those of the docs anew")
def test_the_pictures_of_the_docs(visit: Any) -> None:
    def everything(world: Any) -> None:
        under_way(world)
        fitted(world)

    shown = visit(PAGE, everything, viewport={"width": 1100, "height": 900})
    shown.page.screenshot(path=IMAGES / "console.png", full_page=True)
