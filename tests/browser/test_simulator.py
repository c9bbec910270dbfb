"""The simulator as people use it: the published file runs in the page, and the cloud is asked as an app asks it."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

import pytest
from PIL import Image

from support.browsing import IMAGES, PHONE, faults, is_wider_than_the_window
from support.phone_world import PX
from support.pictures import picture

pytestmark = pytest.mark.slow

#: The first file cannot tell what it is, the second one takes it for red.
GREY = {"name": "grey.png", "mimeType": "image/png", "buffer": picture("gray", size=300)}

#: What a browser says when a person looks at the page again; it need not wait for its next look then.
COMES_BACK = "document.dispatchEvent(new Event('visibilitychange'))"


def loaded(shown: Any) -> Any:
    """The page, once it can answer."""
    shown.page.get_by_text("checked by SHA-256").wait_for(timeout=30_000)
    return shown.page


def says(page: Any, text: str) -> None:
    """Waits for a sentence below the picture."""
    page.locator("#why", has_text=text).wait_for(timeout=15_000)


def answer(page: Any) -> str:
    return str(page.locator("#answer").inner_text())


def test_the_phone_answers_what_it_is_sure_of_and_the_cloud_the_rest(simulator: Any) -> None:
    shown = simulator()
    page = loaded(shown)
    page.get_by_role("button", name="blue, picture 3").press("Enter")
    says(page, "The phone answered: it is sure enough (99.9 %; 50 % will do).")
    assert answer(page) == "blue, 99.9 %"
    assert shown.outside.asked == []
    page.get_by_label("A photo of your own").set_input_files(GREY)
    says(page, "The cloud answered (flowers-ba9876543210): the phone was unsure (red, 33.3 %, below 50 %).")
    assert answer(page) == "green, 90 %"
    ((sent, headers),) = shown.outside.asked
    # Not the photo: what the cloud model takes, and nothing of a camera in it.
    assert Image.open(io.BytesIO(sent)).size == (PX, PX)
    told = {name: headers[name] for name in headers if name.startswith("X-Phone-")}
    assert told.pop("X-Phone-Confidence").startswith("0.333")
    assert told == {"X-Phone-Label": "red", "X-Phone-Version": "first", "X-Phone-Kept": "1"}
    assert headers["X-Firebase-Appcheck"] == "token-1"
    assert page.locator("#log tbody tr").count() == 2
    assert "1 of 1 answers to held-out pictures are right." in page.locator("#score").inner_text()
    assert shown.complaints == []


def test_without_a_network_or_in_time_the_phone_answers(simulator: Any) -> None:
    shown = simulator()
    page = loaded(shown)
    page.get_by_role("checkbox", name="Airplane mode").check()
    page.get_by_label("A photo of your own").set_input_files(GREY)
    says(page, "The phone answered, though unsure (red, 33.3 %, below 50 %): airplane mode is on.")
    assert answer(page) == "red, 33.3 %"
    assert shown.outside.asked == []
    page.get_by_role("checkbox", name="Airplane mode").uncheck()
    says(page, "The cloud answered")
    shown.outside.may_answer.clear()
    page.get_by_label("so many milliseconds").fill("30")
    page.get_by_label("so many milliseconds").press("Enter")
    says(page, "below 50 %): the cloud took longer than 30 ms.")
    shown.outside.may_answer.set()
    assert shown.complaints == []
    # No pretending: the browser itself is cut off.
    page.context.set_offline(True)
    page.get_by_label("so many milliseconds").fill("1500")
    page.get_by_label("so many milliseconds").press("Enter")
    says(page, "below 50 %): there is no network.")
    assert answer(page) == "red, 33.3 %"


def test_the_threshold_moves_on_the_curve_by_keyboard(simulator: Any) -> None:
    shown = simulator()
    page = loaded(shown)
    dot, back = page.locator("#curve .chosen"), page.get_by_role("button", name="Back to the published")
    page.get_by_label("A photo of your own").set_input_files(GREY)
    says(page, "The cloud answered")
    published = dot.get_attribute("cx")
    page.get_by_label("The phone is sure enough").press("Home")
    says(page, "The phone answered: it is sure enough (33.3 %; 0 % will do).")
    assert float(dot.get_attribute("cx")) < float(published)
    assert "0 % are sent with it" in page.locator("#curve-says").inner_text()
    back.click()
    says(page, "The cloud answered")
    assert dot.get_attribute("cx") == published
    assert back.is_disabled()


def test_an_open_page_follows_what_phones_get_and_keeps_what_works(simulator: Any) -> None:
    shown = simulator()
    page = loaded(shown)
    page.get_by_label("Which model is asked").select_option("only_on_device")
    page.get_by_label("A photo of your own").set_input_files(GREY)
    says(page, "The phone answered: the app asks no other.")
    shown.outside.publish("second", damaged=True)
    page.get_by_role("alert").get_by_text("the file of second is damaged").wait_for(timeout=15_000)
    assert answer(page) == "red, 33.3 %"
    shown.outside.publish("second")
    page.evaluate(COMES_BACK)
    page.get_by_text("Phones now have version second").wait_for(timeout=15_000)
    page.locator("#answer", has_text="red, 98.7 %").wait_for()
    assert page.get_by_role("alert").count() == 0
    # A rollback is the same, the other way.
    shown.outside.publish("first")
    page.evaluate(COMES_BACK)
    page.get_by_text("Phones now have version first").wait_for(timeout=15_000)
    page.locator("#answer", has_text="red, 33.3 %").wait_for()
    assert shown.complaints == []


def test_it_can_be_used_with_a_screen_reader_and_on_a_phone(simulator: Any) -> None:
    shown = simulator(**PHONE)
    page = loaded(shown)
    page.get_by_role("button", name="red, picture 1").click()
    says(page, "The phone answered")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert faults(shown) == []
    assert not is_wider_than_the_window(shown)
    assert shown.complaints == []


def test_a_photo_can_be_dropped_and_what_is_none_is_said(simulator: Any) -> None:
    shown = simulator()
    page = loaded(shown)
    drop = """([bytes, name]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], name));
      document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}));
    }"""
    page.evaluate(drop, [list(picture("blue", "JPEG")), "sea.jpg"])
    page.locator("#answer", has_text="blue").wait_for()
    page.evaluate(drop, [[1, 2, 3], "notes.txt"])
    page.get_by_role("alert").get_by_text("notes.txt is not a picture").wait_for()
    assert page.get_by_role("img", name="sea.jpg").is_visible()


def test_a_pointer_that_is_not_there_is_said(simulator: Any) -> None:
    def without_the_channel(world: Any) -> None:
        current = {"run_id": "flowers-ba9876543210", "run_created_at": "", "since": "", "published_as": "tulips"}
        world.serve("mobile", "flowers-ba9876543210", current=current)

    shown = simulator(without_the_channel)
    shown.page.get_by_role("alert").get_by_text("models/tulips/latest.json: HTTP 404").wait_for()
    assert "publishing.channels" in shown.page.get_by_role("alert").inner_text()


@pytest.mark.skipif(
    os.environ.get("SCREENSHOTS") != "1" or "CONSOLE_URL" not in os.environ,
    reason="SCREENSHOTS=1 writes it anew, of a stack that runs: source build/local_cloud.env",
)
def test_the_picture_of_the_docs(browser: Any) -> None:
    # Flowers say more than squares of one colour.
    with contextlib.closing(browser.new_context(viewport={"width": 1100, "height": 900})) as window:
        page = window.new_page()
        page.goto(f"{os.environ['CONSOLE_URL']}/datasets/flowers/simulator")
        page.get_by_text("checked by SHA-256").wait_for()
        for button in page.locator("[data-picture]").all()[:8]:
            written = page.locator("#log tbody tr").count()
            button.click()
            page.locator("#log tbody tr").nth(written).wait_for()
        page.screenshot(path=IMAGES / "simulator.png", full_page=True)
