"""Releases reach their end wherever processes die or freeze, and whichever version wrote a document."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dualdeploy.errors import InvalidDatasetConfig, LeaseHeld, LedgerContention, ServiceUnavailable
from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import IllegalTransition, State, lease, names
from dualdeploy.ledger.documents import RELEASE_ENDS
from dualdeploy.release.route import Route, Step, claim
from dualdeploy.release.worker import UNKNOWN_STEP_SECONDS
from support import toy as toys
from support.toy import DATASET, Disturbance, Toy, die

FIRST, SECOND, THIRD = (f"{DATASET}-00000000000{digit}" for digit in "abc")
ENOUGH = 40


def with_live(run_id: str = FIRST) -> Toy:
    toy = Toy()
    toy.train(run_id)
    toy.tick(times=15)
    assert toy.world.shelf == {run_id: 100}
    return toy


def edit(toy: Toy, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    stored = toy.store.read(name)
    document = json.loads(stored.data)
    change(document)
    toy.store.put(name, json.dumps(document).encode(), expect=stored.generation)


def check_is_over(toy: Toy, live: str, *others: str) -> None:
    assert toy.due.all_keys() == []
    assert toy.world.shelf == {live: 100}
    serving = toy.serving()
    assert serving.current is not None
    assert (serving.current.run_id, serving.under_way, serving.waiting) == (live, None, ())
    for run_id in (live, *others):
        assert toy.standing(run_id).state in RELEASE_ENDS, toy.standing(run_id)
        assert toy.messages(run_id=run_id), run_id
    assert not [name for name in toy.store.names() if name.startswith("locks/")]


def test_a_trained_run_goes_out_share_by_share_and_is_announced_once() -> None:
    toy = with_live()
    toy.train(SECOND)
    seen = []
    for _ in range(15):
        toy.tick()
        seen.append(dict(toy.world.shelf))
    assert {FIRST: 50, SECOND: 50} in seen
    check_is_over(toy, SECOND, FIRST)
    assert [message["outcome"] for message in toy.messages(run_id=SECOND)] == ["live"]
    assert toy.messages(run_id=SECOND)[0]["previous"] == FIRST
    assert toy.standing(FIRST).state == State.SUPERSEDED
    states = [moment.state for moment in toy.release(SECOND).history]
    assert states == [State.WAITING, State.GATING, State.DEPLOYING, State.CANARY, State.LIVE]


def with_a_trained_one() -> Toy:
    toy = with_live()
    toy.train(SECOND, announce=False)
    return toy


def second_run(toy: Toy) -> None:
    """The message comes again when its process died."""
    for _ in range(2):
        toy.handle(lambda: toy.announce(SECOND))


def bad_run(toy: Toy) -> None:
    toy.world.falls_over.add(SECOND)
    second_run(toy)


def rollback(toy: Toy) -> None:
    body, headers = {"dataset": DATASET}, {"Idempotency-Key": "monday"}
    for _ in range(2):
        toy.handle(lambda: toy.http().post("/rollback", json=body, headers=headers))


def with_two() -> Toy:
    toy = with_live()
    toy.train(SECOND)
    toy.tick(times=15)
    return toy


#: What happens, how it begins, what serves in the end, and what else is over.
STORIES: dict[str, tuple[Callable[[], Toy], Callable[[Toy], None], str, tuple[str, ...]]] = {
    "a second run": (with_a_trained_one, second_run, SECOND, (FIRST,)),
    "a bad run": (with_a_trained_one, bad_run, FIRST, (SECOND,)),
    "a rollback": (with_two, rollback, FIRST, (SECOND,)),
}


def told(story: str, number: int, act: Callable[[Toy], None]) -> tuple[Toy, Disturbance]:
    prepare, begin, _, _ = STORIES[story]
    toy = prepare()
    disturbance = Disturbance(toy, number, lambda: act(toy))
    begin(toy)
    toy.tick(times=ENOUGH)
    return toy, disturbance


@pytest.mark.parametrize("story", STORIES)
def test_a_process_killed_at_any_operation_strands_nothing(story: str) -> None:
    _, _, live, others = STORIES[story]
    _, undisturbed = told(story, 0, lambda _toy: None)
    assert undisturbed.count > 40
    for number in range(1, undisturbed.count + 1):
        toy, disturbance = told(story, number, lambda _toy: die())
        assert disturbance.operation
        try:
            check_is_over(toy, live, *others)
        except AssertionError as exc:
            raise AssertionError(f"killed before operation {number} ({disturbance.operation})") from exc


def test_of_two_looks_at_one_release_at_the_same_time_the_second_waits() -> None:
    toy = with_a_trained_one()
    toy.announce(SECOND)
    before = toy.release(SECOND)
    with lease(toy.ledger, f"release/cloud/{SECOND}/1", seconds=90), pytest.raises(LeaseHeld):
        toy.worker.advance(f"{SECOND}/1")
    assert toy.release(SECOND) == before


def test_a_release_whose_message_never_comes_again_has_a_reminder_wherever_its_process_died() -> None:
    number = made = 0
    while True:
        number += 1
        toy = with_a_trained_one()
        disturbance = Disturbance(toy, number, die)
        if toy.handle(lambda toy=toy: toy.announce(SECOND)):  # type: ignore[misc]
            break
        if toy.ledger.find_release(toys.ToyRelease, SECOND, "cloud", 1):
            made += 1
            toy.tick(times=ENOUGH)
            assert toy.standing(SECOND).state == State.LIVE, f"killed before {disturbance.operation}"
    assert made


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("minutes", [4, 12])
def test_an_instance_that_goes_on_long_after_its_lease_does_no_harm(story: str, minutes: int) -> None:
    _, _, live, others = STORIES[story]
    _, undisturbed = told(story, 0, lambda _toy: None)
    for number in range(1, undisturbed.count + 1, 2):
        toy, disturbance = told(story, number, lambda toy: toy.tick(times=minutes))
        try:
            check_is_over(toy, live, *others)
        except AssertionError as exc:
            raise AssertionError(f"frozen before operation {number} ({disturbance.operation})") from exc


# Two versions ------------------------------------------------------------------------------------------------------


def newer_version(toy: Toy) -> None:
    """Today's code with one more state, step, field and configuration key."""

    def verify(release: toys.ToyRelease, world: toys.ToyWorld) -> Any:
        return toys.Forward(release.changed(verified=True))

    step = Step("verify", "verifying", verify, "is verified")  # type: ignore[arg-type]
    parts = [*toys.FORWARD.parts]
    route = Route.__new__(Route)
    route.__dict__.update(toys.FORWARD.__dict__)
    route.parts = (*parts[:3], step, *parts[3:])
    route.steps = (*toys.FORWARD.steps[:3], step, *toys.FORWARD.steps[3:])
    route._places = {each.name: place for place, each in enumerate(route.steps)}
    toy.target.routes = {**toy.target.routes, "forward": route}


def older_version(toy: Toy) -> None:
    toy.target.routes = {"forward": toys.FORWARD, "back": toys.BACK}


def at_the_newer_step() -> Toy:
    """The newer version took a release to its own step, then the older one serves alone."""
    toy = with_live()
    toy.train(SECOND)

    def newer(document: dict[str, Any]) -> None:
        document |= {"step": "verify", "state": "verifying", "verdict": {"v": 2}}
        document["config"]["gates"]["cloud"]["min_fairness"] = 0.5

    for _ in range(10):
        toy.tick()
        if toy.release(SECOND).step == "rest":
            break
    edit(toy, names.release(SECOND, "cloud", 1), newer)
    return toy


def test_a_step_of_a_newer_version_is_left_to_it_and_says_so() -> None:
    toy = at_the_newer_step()
    toy.tick(times=10)
    standing = toy.standing(SECOND)
    assert standing.step == "verify"
    assert "verify" in standing.waits_for
    assert "/abort" in standing.waits_for
    newer_version(toy)
    toy.tick(times=30)
    check_is_over(toy, SECOND, FIRST)
    assert toy.release(SECOND).model_dump()["verdict"] == {"v": 2}
    assert toy.release(SECOND).config["gates"]["cloud"]["min_fairness"] == 0.5


def test_a_step_that_no_version_knows_any_more_is_taken_back_after_an_hour() -> None:
    toy = at_the_newer_step()
    toy.tick(times=int(UNKNOWN_STEP_SECONDS / 60) + 10)
    check_is_over(toy, FIRST, SECOND)


def test_an_abort_ends_what_a_newer_version_began() -> None:
    toy = at_the_newer_step()
    assert toy.http().post("/abort", json={"dataset": DATASET}).status_code == 202
    toy.tick(times=5)
    check_is_over(toy, FIRST, SECOND)


@pytest.mark.parametrize("turns", ["old new", "new old"])
def test_two_versions_that_take_turns_bring_a_release_out(turns: str) -> None:
    toy = with_live()
    toy.train(SECOND)
    versions = [older_version, newer_version] if turns == "old new" else [newer_version, older_version]
    for number in range(40):
        versions[number % 2](toy)
        toy.tick()
    check_is_over(toy, SECOND, FIRST)


# Documents that cannot be read -------------------------------------------------------------------------------------


def resting() -> Toy:
    toy = with_live()
    toy.train(SECOND)
    for _ in range(10):
        toy.tick()
        if toy.release(SECOND).step == "rest":
            return toy
    raise AssertionError(toy.standing(SECOND))


def garble(toy: Toy, name: str, data: bytes = b"{") -> None:
    found = next((each.generation for each in toy.store.list(name) if each.name == name), ABSENT)
    toy.store.put(name, data, expect=found)


@pytest.mark.parametrize("data", [b"{", b"", b"\xff\xfe", b"[]", b'{"state": 7, "history": "none"}'])
@pytest.mark.parametrize("aborts", [False, True])
def test_a_release_whose_document_cannot_be_read_is_taken_back_and_blocks_nothing_but_itself(
    data: bytes, aborts: bool
) -> None:
    toy = resting()
    garble(toy, names.release(SECOND, "cloud", 1), data)
    toy.train(THIRD)
    if aborts:
        assert toy.http().post("/abort", json={"dataset": DATASET}).status_code == 202
    toy.tick(times=3 if aborts else 0)
    assert not aborts or toy.world.shelf.get(SECOND, 0) == 0
    toy.tick(times=60)
    check_is_over(toy, THIRD, SECOND)


def given_up_while_it_is_mended(place: int) -> tuple[Toy, list[str], bool]:
    """A release that cannot be read is given up, and mended before this operation of it; all of them, and whether the
    instance that gives it up was refused."""
    toy, operations, was_refused = resting(), list[str](), False
    name = names.release(SECOND, "cloud", 1)
    mended = toy.store.read(name).data
    garble(toy, name)

    def before(operation: str) -> None:
        operations.append(operation)
        if len(operations) == place:
            toy.store.faults.before = lambda _operation: None
            garble(toy, name, mended)
            toy.store.faults.before = before

    toy.store.faults.before = before
    try:
        toy.worker.give_up(f"{SECOND}/1", "its process died each time")
    except LedgerContention:
        was_refused = True
    toy.store.faults.before = lambda _operation: None
    return toy, operations, was_refused


def test_a_document_that_someone_mends_while_it_is_made_anew_stays_mended() -> None:
    places = given_up_while_it_is_mended(0)[1].index("put") + 1
    refused = []
    for place in range(2, places + 1):
        toy, _, was_refused = given_up_while_it_is_mended(place)
        refused.append(was_refused)
        assert toy.release(SECOND).going_back == "", place
        toy.tick(times=30)
        check_is_over(toy, SECOND, FIRST)
    assert any(refused)


def test_a_recorded_configuration_that_only_a_newer_version_understands_is_left_to_it() -> None:
    toy = resting()
    toy.world.trouble["put"] = InvalidDatasetConfig("the recorded configuration was written by another version")
    said = []
    for _ in range(10):
        toy.tick()
        said.append(toy.standing(SECOND).waits_for)
    assert [each for each in said if "a version of the service that understands its configuration" in each]
    toy.tick(times=30)
    check_is_over(toy, SECOND, FIRST)


@pytest.mark.parametrize("aborts", [False, True])
def test_a_release_that_waits_and_cannot_be_read_is_ended_and_leaves_its_place(aborts: bool) -> None:
    toy = resting()
    toy.train(THIRD)
    assert toy.http().post("/hold", json={"dataset": DATASET}).status_code == 200
    toy.tick(times=15)
    assert [turn.run_id for turn in toy.serving().waiting] == [THIRD]
    garble(toy, names.release(THIRD, "cloud", 1))
    if aborts:
        assert toy.http().post("/abort", json={"dataset": DATASET}).status_code == 202
    toy.tick(times=3 if aborts else 30)
    assert toy.standing(THIRD).state is State.FAILED
    check_is_over(toy, SECOND, THIRD)


@pytest.mark.parametrize("what", ["run", "launch", "lease", "another data set", "a refusal"])
def test_what_cannot_be_read_beside_a_release_is_not_in_its_way(what: str) -> None:
    toy = resting()
    garble(
        toy,
        {
            "run": names.run(SECOND),
            "launch": names.launch(FIRST, "cloud"),
            "lease": names.lock(f"release/cloud/{SECOND}/1"),
            "another data set": names.serving("cloud", "birds"),
            "a refusal": "rejected/2026-11-23/x.json",
        }[what],
    )
    assert toy.http().get(f"/status/{DATASET}").status_code == 200
    toy.tick(times=30)
    assert toy.world.shelf == {SECOND: 100}
    assert toy.due.all_keys() == []


# What is waited for ------------------------------------------------------------------------------------------------


def test_a_configuration_that_breaks_or_vanishes_after_the_beginning_changes_nothing() -> None:
    toy = resting()
    toy.configure(b"labels: [")
    toy.tick(times=20)
    check_is_over(toy, SECOND, FIRST)


def test_a_configuration_that_is_broken_at_the_beginning_is_waited_for_and_told() -> None:
    toy = with_live()
    good = toy.config.read("datasets/flowers.yaml").data
    toy.configure(b"labels: [")
    toy.train(SECOND)
    toy.tick(times=5)
    assert "configuration" in toy.standing(SECOND).waits_for
    assert toy.standing(SECOND).state == State.WAITING
    toy.configure(good)
    toy.tick(times=20)
    check_is_over(toy, SECOND, FIRST)


def test_a_configuration_that_stays_broken_ends_the_release_after_a_day() -> None:
    toy = with_live()
    toy.configure(b"labels: [")
    toy.train(SECOND)
    toy.tick(minutes=60, times=26)
    standing = toy.standing(SECOND)
    assert standing.state == State.FAILED
    assert "configuration" in standing.reason
    check_is_over(toy, FIRST, SECOND)


def test_a_rollback_needs_no_configuration() -> None:
    toy = with_two()
    toy.configure(b"labels: [")
    rollback(toy)
    toy.tick(times=20)
    check_is_over(toy, FIRST, SECOND)


class Soon(ServiceUnavailable):
    """Passes within half an hour, or never."""

    patience = 1800.0


def test_what_passes_by_itself_is_waited_for_with_a_bound_that_is_told() -> None:
    toy = with_live()
    toy.world.trouble["judge"] = Soon("the grant spreads")
    toy.train(SECOND)
    for _ in range(10):
        toy.world.trouble["judge"] = Soon("the grant spreads")
        toy.tick()
    holdup = toy.release(SECOND).holdup
    assert holdup is not None
    assert (holdup.what, bool(holdup.until)) == ("the grant spreads", True)
    assert "the grant spreads" in toy.standing(SECOND).waits_for
    for _ in range(40):
        toy.world.trouble["judge"] = Soon("the grant spreads")
        toy.tick()
    assert toy.standing(SECOND).state == State.FAILED
    assert "the grant spreads" in toy.standing(SECOND).reason
    check_is_over(toy, FIRST, SECOND)


def test_a_bug_that_one_release_meets_ends_it_after_ten_attempts_and_delays_no_other() -> None:
    toy = Toy()
    toy.world.trouble["judge"] = RuntimeError("a bug")
    toy.train(FIRST)
    for _ in range(3000):
        toy.world.trouble["judge"] = RuntimeError("a bug")
        toy.tick()
        if toy.standing(FIRST).is_over:
            break
    assert toy.standing(FIRST).state == State.FAILED
    assert "a bug" in toy.standing(FIRST).reason
    toy.world.trouble.clear()
    toy.train(SECOND)
    toy.tick(times=15)
    assert toy.world.shelf == {SECOND: 100}


def test_a_step_that_leads_nowhere_ends_its_release(caplog: pytest.LogCaptureFixture) -> None:
    toy = with_live()
    toy.world.trouble["wrap"] = IllegalTransition("gating cannot become live")
    toy.target.failed = lambda release, _step, _exc: toys.End(release, State.PENDING, "nowhere")  # type: ignore[method-assign]
    toy.train(SECOND)
    toy.tick(times=5)
    assert toy.standing(SECOND).state == State.FAILED
    check_is_over(toy, FIRST, SECOND)


def test_the_claim_is_checked_before_each_step_so_what_was_not_claimed_is_not_touched() -> None:
    toy = resting()
    other = toy.serving().under_way
    assert other is not None
    edit(toy, names.serving("cloud", DATASET), lambda document: document.update(under_way=None))
    before = dict(toy.world.shelf)
    toy.tick(times=10)
    assert toy.world.shelf == before
    assert toy.standing(SECOND).state == State.SUPERSEDED


def test_a_route_with_two_steps_of_one_name_or_an_impossible_order_is_refused_at_import() -> None:
    step = toys.FORWARD.steps[1]
    with pytest.raises(ValueError, match="two steps"):
        Route("twice", claim(), step, step)
    with pytest.raises(ValueError, match="cannot follow"):
        Route("backwards", toys.FORWARD.steps[-1], step)
