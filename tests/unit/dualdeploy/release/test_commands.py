"""What people ask for: in whatever state a release is, a way back is open, and the answer says which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import State, names
from support.toy import DATASET, Disturbance, Toy, die

FIRST, SECOND, THIRD = (f"{DATASET}-00000000000{digit}" for digit in "abc")


def with_two_live() -> Toy:
    """FIRST served before SECOND, which serves."""
    toy = Toy()
    for run_id in (FIRST, SECOND):
        toy.train(run_id)
        toy.tick(times=15)
    assert toy.world.shelf == {SECOND: 100}
    return toy


def third_at(step: str) -> Callable[[], Toy]:
    """THIRD is under way at that step, which waits for something."""

    def prepare() -> Toy:
        toy = with_two_live()
        toy.world.stuck.add(step)
        toy.train(THIRD)
        toy.tick(times=15)
        assert toy.release(THIRD).step == step, toy.standing(THIRD)
        return toy

    return prepare


def third_waits() -> Toy:
    """SECOND is brought out again and proves itself, THIRD waits for its turn."""
    toy = with_two_live()
    toy.world.stuck.add("rest")
    assert ask(toy, "redeploy", run_id=SECOND)[0] == 202
    toy.tick(times=2)
    toy.train(THIRD)
    toy.tick(times=2)
    assert [turn.run_id for turn in toy.serving().waiting] == [THIRD]
    return toy


def unreadable() -> Toy:
    toy = third_at("rest")()
    name = names.release(THIRD, "cloud", 1)
    toy.store.put(name, b"{", expect=toy.store.read(name).generation)
    return toy


def going_back() -> Toy:
    toy = third_at("rest")()
    toy.world.stuck.add("take off")
    assert ask(toy, "abort", dataset=DATASET)[0] == 202
    toy.tick(times=2)
    assert toy.release(THIRD).going_back
    return toy


def waits_for_its_configuration() -> Toy:
    toy = with_two_live()
    toy.configure(b"labels: [")
    toy.train(THIRD)
    toy.tick(times=2)
    return toy


def held() -> Toy:
    toy = with_two_live()
    assert ask(toy, "hold", dataset=DATASET, reason="it sees cats")[0] == 200
    return toy


def ask(toy: Toy, command: str, *, key: str = "", **body: Any) -> tuple[int, dict[str, Any]]:
    response = toy.http().post(f"/{command}", json=body, headers={"Idempotency-Key": key} if key else {})
    return response.status_code, dict(response.json or {})


#: Every state of a release, and which of the two ways back is open in it.
STATES: dict[str, tuple[Callable[[], Toy], str]] = {
    "nothing is under way": (with_two_live, "rollback"),
    "one waits for its turn": (third_waits, "abort"),
    "one waits for a configuration": (waits_for_its_configuration, "rollback abort"),
    "held": (held, "rollback"),
    "judge": (third_at("judge"), "abort"),
    "wrap": (third_at("wrap"), "abort"),
    "put": (third_at("put"), "abort"),
    "rest": (third_at("rest"), "abort"),
    "record": (third_at("record"), "abort"),
    "tidy": (third_at("tidy"), "rollback"),
    "going back": (going_back, "abort"),
    "unreadable": (unreadable, "abort"),
}


@pytest.mark.parametrize("state", STATES)
def test_in_every_state_the_way_back_that_is_open_works_and_the_other_says_which(state: str) -> None:
    prepare, is_open = STATES[state]
    for command in ("rollback", "abort"):
        toy = prepare()
        served_before, waiting = toy.serving().current, {turn.run_id for turn in toy.serving().waiting}
        status, answer = ask(toy, command, dataset=DATASET)
        toy.world.stuck.clear()
        if command in is_open:
            assert status == 202, answer
            toy.tick(times=30)
            serving = toy.serving()
            assert serving.under_way is None
            assert serving.current is not None
            assert served_before is not None
            if command == "abort":
                assert serving.current.run_id in {served_before.run_id, *waiting}
            else:
                assert serving.current.run_id != served_before.run_id
            assert toy.world.shelf == {serving.current.run_id: 100}
        else:
            assert status == 409, answer
            other = "abort" if command == "rollback" else "rollback"
            assert other in is_open
            assert answer.get("send", {"path": "/status"})["path"] in (f"/{other}", "/status"), answer


def test_a_rollback_is_refused_only_where_there_is_nothing_or_someone_must_choose() -> None:
    toy = Toy()
    assert ask(toy, "rollback", dataset=DATASET)[0] == 404
    toy.train(FIRST)
    toy.tick(times=15)
    status, answer = ask(toy, "rollback", dataset=DATASET)
    assert (status, "candidates" in answer) == (409, False)
    assert "nothing to go back to" in answer["error"]
    toy.train(SECOND)
    toy.tick(times=15)
    assert ask(toy, "rollback", dataset=DATASET)[0] == 202
    toy.tick(times=15)
    # SECOND was taken back: whoever wants it again has to say so.
    status, answer = ask(toy, "rollback", dataset=DATASET)
    assert (status, answer["candidates"]) == (409, [SECOND])
    status, answer = ask(toy, answer["send"]["path"].strip("/"), **answer["send"]["body"])
    assert status == 202, answer
    toy.tick(times=15)
    assert toy.world.shelf == {SECOND: 100}


@pytest.mark.parametrize("how", ["it fails", "it is aborted"])
def test_what_served_before_can_be_gone_back_to_although_a_redeploy_of_it_failed(how: str) -> None:
    toy = Toy()
    toy.train(FIRST)
    toy.tick(times=15)
    if how == "it fails":
        toy.world.falls_over.add(FIRST)
    assert ask(toy, "redeploy", run_id=FIRST)[0] == 202
    toy.tick(times=2)
    if how == "it is aborted":
        assert ask(toy, "abort", dataset=DATASET)[0] == 202
    toy.tick(times=15)
    toy.world.falls_over.clear()
    assert toy.release(FIRST, 2).state == State.ROLLED_BACK
    toy.train(SECOND)
    toy.tick(times=15)
    status, answer = ask(toy, "rollback", dataset=DATASET)
    assert (status, answer.get("run_id")) == (202, FIRST), answer


def test_a_rollback_holds_newer_runs_until_resume() -> None:
    toy = third_waits()
    assert ask(toy, "abort", dataset=DATASET)[0] == 202
    toy.world.stuck.clear()
    assert ask(toy, "hold", dataset=DATASET, reason="wait")[0] == 200
    toy.tick(times=15)
    assert ask(toy, "rollback", dataset=DATASET)[0] == 202
    toy.tick(times=15)
    assert toy.world.shelf == {FIRST: 100}
    assert "/resume" in toy.standing(THIRD).waits_for
    status = toy.http().get(f"/status/{DATASET}").json
    assert status is not None
    assert status["hold"]["reason"]
    answer = ask(toy, "resume", dataset=DATASET)[1]
    assert answer["goes_on"] == [THIRD]
    toy.tick(times=15)
    assert toy.world.shelf == {THIRD: 100}


def test_newer_data_ends_a_hold() -> None:
    toy = held()
    toy.clock.advance(60)
    toy.train(THIRD)
    toy.tick(times=15)
    assert toy.world.shelf == {THIRD: 100}
    assert toy.serving().hold is None


def test_a_request_that_comes_again_does_what_it_did_the_first_time_or_nothing() -> None:
    toy = with_two_live()
    status, first = ask(toy, "rollback", key="monday", dataset=DATASET)
    assert status == 202
    toy.tick(times=15)
    toy.clock.advance(60)
    toy.train(THIRD)
    toy.tick(times=15)
    assert toy.world.shelf == {THIRD: 100}
    response = toy.http().post("/rollback", json={"dataset": DATASET}, headers={"Idempotency-Key": "monday"})
    assert response.headers["Idempotency-Replayed"] == "true"
    assert response.json is not None
    assert response.json["release"] == first["release"]
    toy.tick(times=15)
    assert toy.world.shelf == {THIRD: 100}
    assert ask(toy, "rollback", key="monday", dataset=DATASET, reason="another")[0] == 422


@pytest.mark.parametrize("number", range(1, 24))
def test_a_request_whose_process_died_anywhere_begins_one_release_when_it_comes_again(number: int) -> None:
    toy = with_two_live()
    disturbance = Disturbance(toy, number, die)
    headers = {"Idempotency-Key": "monday"}
    for _ in range(3):
        toy.handle(lambda: toy.http().post("/rollback", json={"dataset": DATASET}, headers=headers))
    assert disturbance.operation
    toy.tick(times=20)
    releases = [name for name in toy.store.names() if name.startswith(f"runs/{FIRST}/cloud/release-")]
    assert len(releases) == 2
    assert toy.world.shelf == {FIRST: 100}
    assert toy.due.all_keys() == []


@pytest.mark.parametrize("number", range(1, 25, 2))
def test_two_commands_at_once_both_come_to_an_end(number: int) -> None:
    """Whatever the second did while the first was frozen, one serves in the end and nothing is stuck."""
    toy = with_two_live()
    Disturbance(toy, number, lambda: ask(toy, "redeploy", run_id=SECOND))
    ask(toy, "redeploy", run_id=FIRST, force=True)
    toy.tick(times=60)
    serving = toy.serving()
    assert (serving.under_way, serving.waiting) == (None, ())
    assert serving.current is not None
    assert toy.world.shelf == {serving.current.run_id: 100}
    assert toy.due.all_keys() == []
    toy.clock.advance(60)
    toy.train(THIRD)
    toy.tick(times=15)
    assert toy.world.shelf == {THIRD: 100}


def test_two_requests_for_one_run_at_once_are_two_releases() -> None:
    both = []
    for number in range(1, 16):
        toy = with_two_live()
        answers: list[tuple[int, dict[str, Any]]] = []
        Disturbance(
            toy,
            number,
            lambda toy=toy, answers=answers: answers.append(  # type: ignore[misc]
                ask(toy, "redeploy", run_id=FIRST, force=True, canary=False)
            ),
        )
        answers.append(ask(toy, "redeploy", run_id=FIRST, force=True))
        taken = [answer["release"] for status, answer in answers if status == 202]
        assert len(set(taken)) == len(taken), f"frozen at operation {number}"
        both.append(len(taken) == 2)
        toy.tick(times=60)
        assert toy.world.shelf == {FIRST: 100}
        assert toy.due.all_keys() == []
    assert any(both)


def test_a_redeploy_is_refused_with_what_would_be_accepted() -> None:
    toy = with_two_live()
    status, answer = ask(toy, "redeploy", run_id=FIRST)
    assert (status, answer["send"]) == (409, {"path": "/redeploy", "body": {"run_id": FIRST, "force": True}})
    assert ask(toy, "redeploy", **answer["send"]["body"])[0] == 202
    assert ask(toy, "redeploy", run_id=f"{DATASET}-0000000000ff")[0] == 404
    toy.tick(times=15)
    assert toy.world.shelf == {FIRST: 100}


def test_a_rollback_that_is_refused_changes_nothing() -> None:
    toy = with_two_live()
    toy.world.stuck.add("tidy")
    toy.train(THIRD)
    toy.tick(times=15)
    before = toy.serving()
    assert before.current
    assert (before.current.run_id, before.under_way is not None) == (THIRD, True)
    assert ask(toy, "rollback", dataset=DATASET, to_run=THIRD)[0] == 409
    assert ask(toy, "rollback", dataset=DATASET, to_run=f"{DATASET}-0000000000ff")[0] == 404
    assert toy.serving() == before


def test_what_a_refusal_says_to_abort_is_aborted_although_a_newer_run_waits_as_well() -> None:
    toy = with_two_live()
    assert ask(toy, "redeploy", run_id=SECOND)[0] == 202
    assert ask(toy, "redeploy", run_id=FIRST, force=True)[0] == 202
    status, answer = ask(toy, "redeploy", run_id=FIRST, force=True, reason="another one")
    assert status == 409
    assert "/abort" in answer["error"]
    status, aborted = ask(toy, "abort", **answer["send"]["body"])
    assert (status, aborted["run_id"]) == (202, FIRST)
    assert ask(toy, "abort", dataset=DATASET, run_id=THIRD)[0] == 409
    toy.tick(times=30)
    assert toy.world.shelf == {SECOND: 100}
    assert toy.standing(FIRST).reason == "aborted"


def test_a_run_without_a_trained_model_is_refused_with_how_its_training_stands() -> None:
    toy = with_two_live()
    toy.train(THIRD, announce=False)
    name = names.launch(THIRD, "cloud")
    found = toy.ledger.read_launch(THIRD, "cloud")
    failed = found.document.changed(state=State.FAILED, attempt=0, reason="the job failed: out of memory")
    toy.ledger.write(name, failed, expect=found.generation)
    status, answer = ask(toy, "redeploy", run_id=THIRD)
    assert status == 409
    assert "out of memory" in answer["error"]


def test_retire_shows_before_it_does_anything() -> None:
    toy = with_two_live()
    before = toy.store.names()
    status, answer = ask(toy, "retire", dataset=DATASET)
    assert (status, answer["takes_down"]) == (200, ["the shelf"])
    assert answer["send"]["body"]["confirm"] is True
    assert toy.store.names() == before


BODIES: list[tuple[str, Any, str]] = [
    ("redeploy", {}, "exactly one of dataset and run_id"),
    ("redeploy", {"dataset": DATASET, "run_id": FIRST}, "exactly one of dataset and run_id"),
    ("redeploy", {"dataset": DATASET, "force": "yes"}, "force"),
    ("redeploy", {"dataset": 7}, "dataset"),
    ("redeploy", {"dataset": "../flowers"}, "dataset"),
    ("redeploy", {"run_id": "flowers"}, "not a run id"),
    ("redeploy", {"dataset": DATASET, "quantization": "int8"}, "unknown key 'quantization'"),
    ("rollback", {"dataset": DATASET, "to_run": "birds-0123456789ab"}, "not a run of flowers"),
    ("rollback", {"dataset": DATASET, "force": True}, "unknown key 'force'"),
    ("abort", [], "not a JSON object"),
    ("hold", {}, "dataset"),
    ("retire", {"dataset": DATASET, "confirm": 1}, "confirm"),
]


@pytest.mark.parametrize(("command", "body", "says"), BODIES)
def test_a_body_that_is_wrong_is_told_what_is_wrong_and_what_to_send(command: str, body: Any, says: str) -> None:
    toy = with_two_live()
    before = toy.store.names()
    response = toy.http().post(f"/{command}", json=body)
    assert response.status_code == 422
    assert response.json is not None
    assert says in response.json["error"]
    assert "send {" in response.json["error"]
    assert toy.store.names() == before


def test_the_description_names_every_route_and_its_bodies() -> None:
    toy = Toy()
    described = toy.http().get("/openapi.json").json
    assert described is not None
    commands = {"/redeploy", "/rollback", "/abort", "/hold", "/resume", "/retire"}
    assert commands < set(described["paths"])
    schema = described["paths"]["/rollback"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert (schema["required"], schema["additionalProperties"]) == (["dataset"], False)


def test_status_and_runs_tell_where_everything_stands() -> None:
    toy = third_at("rest")()
    status = toy.http().get(f"/status/{DATASET}").json
    assert status is not None
    assert status["live"]["current"]["run_id"] == SECOND
    assert status["live"]["previous"]["run_id"] == FIRST
    assert [each["run_id"] for each in status["under_way"]] == [THIRD]
    run = toy.http().get(f"/runs/{THIRD}").json
    assert run is not None
    assert [step["name"] for step in run["steps"]] == ["claim", "judge", "wrap", "put", "rest", "record", "tidy"]
    assert run["step"] == "rest"
    assert toy.http().get("/status/birds").status_code == 404
    assert toy.http().get(f"/runs/{DATASET}-0000000000ff").status_code == 404


def test_an_unreadable_release_is_said_and_not_failed_on() -> None:
    toy = unreadable()
    status = toy.http().get(f"/status/{DATASET}").json
    assert status is not None
    assert status["under_way"][0]["state"] == "unreadable"
    toy.store.put("rejected/2026-11-23/x.json", b"{", expect=ABSENT)
    assert toy.http().get(f"/status/{DATASET}").status_code == 200


# A look at once ------------------------------------------------------------------------------------------------


def standing_of(toy: Toy, run_id: str) -> tuple[bool, bool]:
    """Whether an abort of the run is noted, and whether it stands among those that are under way or wait."""
    serving = toy.serving()
    turns = [turn for turn in (serving.under_way, *serving.waiting) if turn and turn.run_id == run_id]
    return any(turn.abort for turn in turns), bool(turns)


@pytest.mark.parametrize(
    ("prepare", "command", "body", "expected"),
    [
        (with_two_live, "redeploy", {"run_id": FIRST, "force": True}, (False, True)),
        (with_two_live, "rollback", {"dataset": DATASET}, (False, True)),
        (third_at("rest"), "abort", {"dataset": DATASET}, (True, True)),
        (unreadable, "abort", {"dataset": DATASET}, (True, True)),
    ],
)
def test_an_instance_that_looks_at_once_finds_what_was_asked_for_and_a_reminder_of_it(
    prepare: Callable[[], Toy], command: str, body: dict[str, Any], expected: tuple[bool, bool]
) -> None:
    toy = prepare()
    seen = []

    def look(key: str) -> None:
        run_id = key.split("/")[1]
        now = toy.due.time_of(toy.clock())
        is_due = any((entry.time, entry.key) == (now, key) for entry in toy.due.entries())
        name = names.release(run_id, "cloud", toy.ledger.newest_release_number(run_id, "cloud"))
        written = toy.store.read(name).data
        is_written = command != "abort" or written == b"{" or b'"abort": {' in written
        seen.append((standing_of(toy, run_id), is_due, is_written))

    toy.commands._nudge = look
    assert ask(toy, command, **body)[0] == 202
    assert seen == [(expected, True, True)]
