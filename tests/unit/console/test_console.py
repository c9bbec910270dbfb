"""What an operator sees and can set off; every state of a data set in one table."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import pytest

import console.service
from console.deployers import Answer
from console.settings import ConsoleSettings
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.object_store import StoredObject
from dualdeploy.ledger import names
from dualdeploy.settings import WrongSettings, load
from support.console_world import NEW, OLD, OWN, STATES, held, under_way, with_both_live
from support.fakes import MemoryObjectStore
from support.fakes.callers import from_sender
from support.fakes.failing import Failing

PAGE = "/datasets/flowers"
FORM = {"reason": "it sees cats", "key": "one-key"}


def text_of(answer: Any) -> str:
    """What a person reads, with single spaces."""
    body = re.sub(r"(?s)<head>.*?</head>", " ", answer.get_data(as_text=True))
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


# What is shown -------------------------------------------------------------------------------------------------


def test_an_empty_project_says_what_to_do_first(world: Any) -> None:
    assert "Nothing has arrived yet" in text_of(world.client.get("/"))


def test_one_data_set_is_the_first_page_and_shows_both_models_side_by_side(live: Any) -> None:
    client = live.client
    assert client.get("/").headers["Location"] == PAGE
    said = text_of(client.get(PAGE))
    for each in ("Both models were trained on the same data.", "84 %", "94 %", "dynamic, 1.13 MB", "All in order"):
        assert each in said
    assert said.count(NEW) >= 2
    assert "2 h" in said


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_shown_beside_everything_else(state: str, live: Any) -> None:
    happens, sentences = STATES[state]
    happens(live)
    answer = live.client.get(PAGE)
    assert answer.status_code == 200
    said = text_of(answer)
    assert [each for each in sentences if each not in said] == [], said
    assert "Runs" in said


def test_a_run_shows_both_branches_on_one_time_line(live: Any) -> None:
    live.release(NEW, "mobile", "2026-11-27T12:00:00Z")
    answer = live.client.get(f"/runs/{NEW}")
    page = answer.get_data(as_text=True)
    times = re.findall(r'<th scope="row"><time datetime="([^"]+)"', page)
    assert times == sorted(times)
    assert len(times) == 4
    assert "because of a test" in text_of(answer)


@pytest.mark.parametrize(
    "path", ["/runs/flowers-000000000000", "/runs/nonsense", "/datasets/tulips", "/datasets/..", "/x"]
)
def test_what_is_not_there_is_a_page_that_says_so(path: str, live: Any) -> None:
    assert live.client.get(path).status_code == 404


def test_nothing_from_the_ledger_becomes_html(live: Any) -> None:
    attack = "<script>alert(1)</script>"
    live.serve("mobile", OLD, hold={"at": attack, "by": attack, "reason": attack})
    live.release(NEW, "mobile", attack, state=attack)
    for path in (PAGE, f"/runs/{NEW}", f"{PAGE}/mobile/rollback?reason={attack}"):
        page = live.client.get(path).get_data(as_text=True)
        assert attack not in page
        assert "&lt;script&gt;" in page


def test_a_ledger_that_does_not_answer_is_said(live: Any) -> None:
    live.store.faults.plan("list", *[Failing(ServiceUnavailable("no answer"))] * 3)
    answer = live.client.get(PAGE)
    assert answer.status_code == 503
    assert "no answer" in text_of(answer)


def test_one_page_reads_the_ledger_once_in_two_seconds(live: Any) -> None:
    client = live.client
    client.get(PAGE)
    reads = live.store.faults.calls["read"]
    client.get(PAGE)
    assert live.store.faults.calls["read"] == reads


class Remembering(MemoryObjectStore):
    """Knows what was read of it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.was_read: list[str] = []

    def read(self, name: str) -> StoredObject:
        self.was_read.append(name)
        return super().read(name)


def test_a_page_reads_an_account_once_for_all_runs_and_nothing_of_another_data_set(world: Any) -> None:
    world.store = Remembering(clock=world.clock)
    with_both_live(world)
    for name in (names.data("birds"), names.cleanup("birds"), names.serving("cloud", "birds")):
        world.write(name, {"dataset": "birds", "target": "cloud"})
    world.store.was_read.clear()
    assert world.client.get(PAGE).status_code == 200
    assert [each for each in world.store.was_read if each.startswith("spend/")] == [names.account("2026-11", "flowers")]
    assert [each for each in world.store.was_read if "birds" in each] == []


# What can be set off -------------------------------------------------------------------------------------------


def offered(page: Any) -> set[tuple[str, str]]:
    return set(re.findall(r'href="/datasets/flowers/(\w+)/(\w+)"', page.get_data(as_text=True)))


def test_only_what_would_not_be_refused_is_offered(live: Any) -> None:
    client = live.client
    assert offered(client.get(PAGE)) == {(t, a) for t in ("cloud", "mobile") for a in ("redeploy", "rollback", "hold")}
    under_way(live)
    held(live)
    assert offered(live.client.get(PAGE)) == {
        *(("cloud", each) for each in ("redeploy", "abort", "hold")),
        *(("mobile", each) for each in ("redeploy", "resume")),
    }


@pytest.mark.parametrize("target", ["cloud", "mobile"])
@pytest.mark.parametrize("action", ["redeploy", "rollback", "abort", "hold", "resume"])
def test_a_button_opens_a_page_that_says_what_will_happen_and_how_to_do_the_same_by_hand(
    action: str, target: str, live: Any
) -> None:
    answer = live.client.get(f"{PAGE}/{target}/{action}")
    said = text_of(answer)
    assert answer.status_code == 200
    assert NEW in said
    assert re.search(r"Users .+ Takes .+ Why \(it is kept in the history\)", said)
    host = {"cloud": "cloud-deployer", "mobile": "mobile-publisher"}[target]
    assert f"curl --fail-with-body -X POST https://{host}.example/{action}" in said
    assert 'required maxlength="500"' in answer.get_data(as_text=True)
    assert live.deployers.asked == []


@pytest.mark.parametrize(
    ("target", "action", "form", "sent"),
    [
        ("cloud", "rollback", {}, {"dataset": "flowers"}),
        ("cloud", "rollback", {"to_run": OLD}, {"dataset": "flowers", "to_run": OLD}),
        ("mobile", "redeploy", {"quantization": "int8"}, {"dataset": "flowers", "quantization": "int8"}),
        ("cloud", "redeploy", {"quantization": "int8"}, {"dataset": "flowers"}),
        (
            "cloud",
            "redeploy",
            {"run_id": OLD, "force": "1", "everybody": "1"},
            {"run_id": OLD, "force": True, "canary": False},
        ),
        ("mobile", "abort", {"to_run": OLD}, {"dataset": "flowers"}),
        ("mobile", "hold", {}, {"dataset": "flowers"}),
        ("mobile", "resume", {}, {"dataset": "flowers"}),
    ],
)
def test_a_form_asks_the_service_once_in_the_name_of_the_person(
    target: str, action: str, form: dict[str, str], sent: dict[str, Any], live: Any
) -> None:
    answer = live.client.post(f"{PAGE}/{target}/{action}", data={**FORM, **form}, headers=OWN)
    assert answer.status_code == 303
    assert live.deployers.asked == [(target, action, {**sent, "reason": "it sees cats"}, "jo@example.com", "one-key")]
    assert "accepted" in text_of(live.client.get(answer.headers["Location"]))


def test_without_a_reason_nothing_is_asked(live: Any) -> None:
    answer = live.client.post(f"{PAGE}/cloud/rollback", data={**FORM, "reason": "  "}, headers=OWN)
    assert answer.status_code == 422
    assert "Say why" in text_of(answer)
    assert live.deployers.asked == []


def test_a_refusal_is_shown_in_the_words_of_the_service_with_what_to_send_instead(live: Any) -> None:
    more = {"error": "nothing is left to go back to", "candidates": [OLD], "send": {"to_run": OLD}}
    live.deployers.answer = Answer(409, more)
    answer = live.client.post(f"{PAGE}/cloud/rollback", data=FORM, headers=OWN)
    assert answer.status_code == 409
    said = text_of(answer)
    assert "nothing is left to go back to" in said
    assert OLD in said
    # What was written stays, and the same key makes a second try harmless.
    page = answer.get_data(as_text=True)
    assert 'value="it sees cats"' in page
    assert 'value="one-key"' in page


def test_a_service_that_does_not_answer_can_be_asked_again_with_the_same_key(live: Any) -> None:
    live.deployers.answer = Answer(0, {"error": "does not answer"})
    answer = live.client.post(f"{PAGE}/cloud/rollback", data=FORM, headers=OWN)
    assert answer.status_code == 503
    assert 'value="one-key"' in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    ],
)
def test_a_post_from_another_site_is_refused(headers: dict[str, str], live: Any) -> None:
    assert live.client.post(f"{PAGE}/cloud/rollback", data=FORM, headers=headers).status_code == 403
    assert live.deployers.asked == []


def test_a_browser_without_fetch_metadata_is_known_by_its_origin(live: Any) -> None:
    answer = live.client.post(f"{PAGE}/cloud/hold", data=FORM, headers={"Origin": "http://localhost"})
    assert answer.status_code == 303


# Who -----------------------------------------------------------------------------------------------------------


def test_the_person_whom_cloud_run_has_checked_is_named(live: Any) -> None:
    live.settings = dataclasses.replace(live.settings, person="", cloud_run_checks_tokens=True)
    headers = {**OWN, **from_sender("ann@example.com")}
    assert live.client.post(f"{PAGE}/cloud/hold", data=FORM, headers=headers).status_code == 303
    assert live.deployers.asked[0][3] == "ann@example.com"


def test_someone_whom_no_one_names_can_look_and_not_act(live: Any) -> None:
    live.settings = dataclasses.replace(live.settings, person="")
    assert live.client.get(PAGE).status_code == 200
    answer = live.client.post(f"{PAGE}/cloud/hold", data=FORM, headers=OWN)
    assert answer.status_code == 403
    assert live.deployers.asked == []


def test_behind_identity_aware_proxy_no_one_gets_in_beside_it(live: Any) -> None:
    live.settings = dataclasses.replace(live.settings, iap_audience="/projects/1/locations/l/services/console")
    client = live.client
    for headers in ({}, from_sender("ann@example.com"), {"X-Goog-IAP-JWT-Assertion": "a.b.c"}):
        assert client.get(PAGE, headers=headers).status_code == 401


ENVIRONMENT = {
    "GOOGLE_CLOUD_PROJECT": "demo",
    "GOOGLE_CLOUD_REGION": "us-central1",
    "LEDGER_BUCKET": "ledger",
    "CLOUD_DEPLOYER_URL": "https://c/",
    "MOBILE_PUBLISHER_URL": "https://m",
    "MODELS_BUCKET": "models",
    "FIREBASE_STORAGE_BUCKET": "mobile",
}


@pytest.mark.parametrize("wrong", [{"CONSOLE_PERSON": "jo@example.com"}, {"IAP_KEYS_URL": "https://evil.example/keys"}])
def test_on_cloud_run_no_setting_says_who_everyone_is(wrong: dict[str, str]) -> None:
    assert load(ConsoleSettings, {**ENVIRONMENT, **wrong}).addresses["cloud"] == "https://c"
    with pytest.raises(WrongSettings, match=next(iter(wrong))):
        load(ConsoleSettings, {**ENVIRONMENT, **wrong, "K_SERVICE": "console"})


# The pages themselves ------------------------------------------------------------------------------------------


def test_every_answer_has_a_strict_policy_and_nothing_is_kept_but_files_by_their_content(live: Any) -> None:
    client = live.client
    for path in ("/", PAGE, f"/runs/{NEW}", f"{PAGE}/cloud/rollback", "/nowhere"):
        answer = client.get(path)
        assert "script-src 'self';" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
    (sheet,) = re.findall(r'href="(/static/[^"]+/console.css)"', client.get(PAGE).get_data(as_text=True))
    with client.get(sheet) as answer:
        assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    "template", sorted(Path(console.service.__file__).parent.glob("templates/*.html")), ids=lambda p: p.name
)
def test_no_page_has_what_the_policy_forbids(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://", text)


def test_health_asks_no_one_who_they_are(live: Any) -> None:
    live.settings = dataclasses.replace(live.settings, iap_audience="/projects/1/locations/l/services/console")
    assert live.client.get("/healthz").get_json() == {"status": "ok", "service": "console"}
