"""Where every run stands, what it costs and what it waits for: as people and as programs see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dualdeploy.clock import to_text
from dualdeploy.contracts.routing import Phone, Routing
from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import (
    Asked,
    DataSet,
    Ended,
    Holdup,
    Launch,
    Ledger,
    Release,
    Routings,
    Run,
    Served,
    Serving,
    State,
    Turn,
    names,
)
from dualdeploy.ledger.documents import Moment, PlannedStep
from dualdeploy.ledger.overview import Runs
from dualdeploy.ledger.spending import Estimate, TargetEstimate, record_estimate, reserve, settle
from support.command_line import invoke, session
from support.fakes import ManualClock, MemoryObjectStore

TRAINING = (State.LAUNCHING, State.TRAINING, State.TRAINED)


@pytest.fixture
def run(ledger: Ledger, make_run: Callable[..., Run]) -> Run:
    run, _ = ledger.claim(make_run())
    return run


def train(ledger: Ledger, clock: ManualClock, run: Run, target: str, state: State, **changes: Any) -> Launch:
    """The training of one target, step by step, in `state`."""
    at = to_text(clock())
    first = Moment(at=at, state=State.PENDING, note=run.reason)
    launch = Launch(
        run_id=run.run_id, dataset=run.dataset, target=target, state=State.PENDING, since=at, history=(first,)
    )
    way = TRAINING if state in TRAINING else (State.LAUNCHING, state)
    for step in way[: way.index(state) + 1] if state is not State.PENDING else ():
        clock.advance(60)
        launch = launch.moved(step, at=clock(), note=f"now {step}")
    launch = launch.changed(**changes)
    ledger.write(names.launch(run.run_id, target), launch, expect=ABSENT)
    return launch


def release(ledger: Ledger, clock: ManualClock, run: Run, target: str, state: State, **changes: Any) -> None:
    document = Release(
        run_id=run.run_id,
        dataset=run.dataset,
        target=target,
        n=1,
        run_created_at=run.created_at,
        state=state,
        since=to_text(clock()),
        steps=(PlannedStep(name="upload", says="uploads the model"), PlannedStep(name="bake", says="lets it bake")),
        **changes,
    )
    ledger.write(names.release(run.run_id, target, 1), document, expect=ABSENT)


def estimate(run: Run) -> Estimate:
    each = TargetEstimate(
        usd_per_hour=0.6, expected_seconds=1800, timeout_seconds=7200, estimated_usd=0.3, most_usd=1.2, price="list"
    )
    return Estimate(
        run_id=run.run_id,
        dataset=run.dataset,
        month="2026-11",
        region="us-central1",
        prices_as_of="2026-11-01",
        targets={"cloud": each, "mobile": each},
    )


def test_costs_are_estimated_then_reserved_then_what_they_were(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run
) -> None:
    for target in ("cloud", "mobile"):
        train(ledger, clock, run, target, State.LAUNCHING)
    looked = Runs(store, clock=clock)
    assert [each.cost for each in looked.one(run.run_id).targets] == ["?", "?"]
    record_estimate(ledger, estimate(run))
    reserve(ledger, estimate(run), limit_usd=None)
    assert [each.cost for each in looked.one(run.run_id).targets] == ["~$0.30", "~$0.30"]
    settle(ledger, run.run_id, "cloud", seconds=3600, usd=0.6)
    cloud, mobile = looked.one(run.run_id).targets
    assert (cloud.cost, mobile.cost) == ("$0.60", "~$0.30")
    assert (cloud.reserved_usd, cloud.actual_usd, mobile.actual_usd) == (1.2, 0.6, None)


def test_it_says_what_a_training_waits_for(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run
) -> None:
    held = Holdup(what="no T4 in us-central1", kind="NoCapacity", since="2026-11-23T12:00:00.000Z")
    train(ledger, clock, run, "cloud", State.LAUNCHING, holdup=held, retry_at="2026-11-23T12:08:00.000Z")
    train(ledger, clock, run, "mobile", State.TRAINING, job="projects/1/locations/r/customJobs/7", attempt=1)
    cloud, mobile = Runs(store, clock=clock).one(run.run_id).targets
    assert cloud.waits_for == f"{held.what}, since {held.since}; asked again at 2026-11-23T12:08:00.000Z"
    assert mobile.waits_for == "training job projects/1/locations/r/customJobs/7"


@pytest.mark.parametrize("target", ["cloud", "mobile"])
def test_a_release_for_phones_is_told_as_one_for_the_cloud(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run, target: str
) -> None:
    train(ledger, clock, run, target, State.TRAINED)
    held = Holdup(what="50 % bake", since="2026-11-23T13:00:00.000Z", until="2026-11-24T13:00:00.000Z")
    release(ledger, clock, run, target, State.CANARY, step="bake", holdup=held)
    view = next(each for each in Runs(store, clock=clock).one(run.run_id).targets if each.target == target)
    assert view.waits_for == f"50 % bake, since {held.since}, until {held.until} at most"
    assert (view.step, view.steps) == ("bake", ("upload: uploads the model", "bake: lets it bake"))
    assert "► bake: lets it bake" in " ".join(shown(store, run.run_id)[1].split())


def test_an_end_that_the_launcher_has_not_seen_yet_is_told(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run
) -> None:
    launch = train(ledger, clock, run, "cloud", State.TRAINING, job="j", attempt=1)
    ended = Ended(
        run_id=run.run_id,
        dataset=run.dataset,
        target="cloud",
        attempt=1,
        at=to_text(clock()),
        outcome="failed",
        reason="out of memory",
        job=launch.job,
    )
    ledger.write(names.ended(run.run_id, "cloud", 1), ended, expect=ABSENT)
    view, _ = Runs(store, clock=clock).one(run.run_id).targets
    assert (view.state, view.last_note) == ("failed", "out of memory")


def test_it_says_when_phones_ask_the_cloud(ledger: Ledger, store: MemoryObjectStore) -> None:
    at = "2026-11-23T12:00:00.000Z"
    current = Served(run_id="flowers-000000000001", run_created_at=at, since=at)
    serving = Serving(dataset="flowers", target="mobile", current=current)
    ledger.write(names.serving("mobile", "flowers"), serving, expect=ABSENT)
    assert Runs(store).serving("flowers")[0].notes == ()
    routing = Routing(
        name="flowers",
        dataset="flowers",
        at=at,
        phone=Phone(run_id=current.run_id, version="1", sha256=""),
        threshold=0.6,
        max_loss=0.01,
        confidence=0.95,
        outcome="asks",
        note="asking about 41 % of the pictures loses at most 1 %",
    )
    told = Routings(dataset="flowers", at=at, files=(routing,), problem="LedgerContention: ten times")
    written = ledger.write(names.routing("flowers"), told, expect=ABSENT)
    assert Runs(store).serving("flowers")[0].notes == (
        "routing, given up: LedgerContention: ten times",
        "routing (prefer_on_device): asking about 41 % of the pictures loses at most 1 %",
    )
    store.put(names.routing("flowers"), b"{", expect=written.generation)
    assert "routing/flowers.json cannot be read" in Runs(store).serving("flowers")[0].notes[0]


def test_it_says_what_serves_who_holds_it_and_who_waits(ledger: Ledger, store: MemoryObjectStore) -> None:
    at = "2026-11-23T12:00:00.000Z"
    serving = Serving(
        dataset="flowers",
        target="cloud",
        current=Served(run_id="flowers-000000000001", run_created_at=at, since=at),
        under_way=Turn(run_id="flowers-000000000002", release=1, run_created_at=at, since=at),
        waiting=(Turn(run_id="flowers-000000000003", release=2, run_created_at=at, since=at),),
        hold=Asked(at=at, by="jo@example.com", reason="the fair"),
    )
    ledger.write(names.serving("cloud", "flowers"), serving, expect=ABSENT)
    store.put(names.serving("mobile", "flowers"), b"{", expect=ABSENT)
    ledger.write(names.data("birds"), DataSet(dataset="birds", waits="birds.yaml is not YAML"), expect=ABSENT)
    cloud, mobile = Runs(store).serving("flowers")
    assert cloud.serves == "flowers-000000000001"
    assert cloud.notes == (
        "on hold by jo@example.com since 2026-11-23 12:00:00: the fair; /resume ends it",
        "flowers-000000000002 is under way since 2026-11-23 12:00:00",
        "flowers-000000000003 release 2 waits since 2026-11-23 12:00:00",
    )
    assert "gs://ledger/serving/mobile/flowers.json cannot be read" in mobile.notes[0]
    text = shown(store)[1]
    assert "on hold by jo@example.com" in text
    assert "data of birds waits: birds.yaml is not YAML" in text
    assert "birds" not in shown(store, "--dataset", "flowers")[1]


def shown(store: MemoryObjectStore, *arguments: str, width: int = 140) -> tuple[int, str]:
    """What `dualdeploy runs`, or `dualdeploy run` with the id of one, prints."""
    command = "run" if arguments and not arguments[0].startswith("-") else "runs"
    return invoke(command, *arguments, given=session(store), width=width)


def test_the_table_has_both_targets_newest_run_first(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run, make_run: Callable[..., Run]
) -> None:
    clock.advance(3600)
    newer, _ = ledger.claim(make_run(shards=("b",)))
    neighbour, _ = ledger.claim(make_run("flowers-2"))
    train(ledger, clock, run, "cloud", State.FAILED)
    for each, target in ((run, "mobile"), (newer, "cloud"), (newer, "mobile")):
        train(ledger, clock, each, target, State.LAUNCHING)
    code, text = shown(store, "--dataset", "flowers")
    assert code == 0
    assert text.index(newer.run_id) < text.index(run.run_id)
    assert neighbour.run_id not in text
    assert "now failed" in text
    assert text.count("mobile") == 2
    assert shown(store, "--dataset", "flowers", "--most", "1")[1].count("mobile") == 1


def test_json_has_the_same_and_a_single_run_has_its_history(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run
) -> None:
    train(ledger, clock, run, "cloud", State.TRAINED)
    (listed,) = json.loads(shown(store, "--json", width=40)[1])
    alone = json.loads(shown(store, run.run_id, "--json", width=40)[1])
    assert listed == alone
    assert [moment["state"] for moment in alone["targets"][0]["history"]] == [
        "pending",
        "launching",
        "training",
        "trained",
    ]
    text = shown(store, run.run_id)[1]
    assert "now trained" in text
    assert "waits for" in text


def test_a_run_that_is_not_there_is_said_and_a_ledger_must_be_named(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = shown(store, "flowers-0123456789ab")
    assert (code, "no run 'flowers-0123456789ab'" in text) == (1, True)
    assert shown(store)[1].strip() == "No runs yet."
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    code, text = invoke("runs")
    assert (code, "which project? Give --project" in text) == (2, True)


def test_a_claimed_run_whose_trainings_have_not_begun_is_listed(
    ledger: Ledger, store: MemoryObjectStore, make_run: Callable[..., Run]
) -> None:
    ledger.claim(make_run())
    assert shown(store)[1].count("pending") == 2


def test_a_document_that_cannot_be_read_is_told_and_hides_no_other(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run, make_run: Callable[..., Run]
) -> None:
    clock.advance(60)
    broken, _ = ledger.claim(make_run(shards=("b",)))
    train(ledger, clock, run, "cloud", State.FAILED)
    for name in (names.run(broken.run_id), names.cleanup("birds")):
        found = next((each.generation for each in store.list(name) if each.name == name), ABSENT)
        store.put(name, b"{", expect=found)
    code, text = shown(store)
    assert code == 0
    assert f"gs://ledger/{names.run(broken.run_id)} cannot be read" in text
    assert "gs://ledger/cleanup/birds.json cannot be read" in text
    assert "now failed" in text
    code, text = shown(store, broken.run_id)
    assert (code, "cannot be read" in text) == (1, True)


def test_what_a_data_set_without_a_configuration_costs_is_told(ledger: Ledger, store: MemoryObjectStore) -> None:
    costs = "serves 100 % and costs 140.20 USD a month, but flowers has had no configuration since 2026-11-23T12:00:00Z"
    idle = {"endpoint": "birds", "since": "2026-11-20T12:00:00.000Z", "usd_per_month": 70.0, "novel": 1}
    for dataset, found in (("flowers", {"left": [costs]}), ("birds", {"idle": idle})):
        document = json.dumps({"dataset": dataset, "surplus": [], **found}).encode()
        store.put(names.cleanup(dataset), document, expect=ABSENT)
    text = " ".join(shown(store)[1].split())
    assert "Costs and stays" in text
    assert "flowers: serves 100 % and costs 140.20 USD a month, but flowers has had no configuration" in text
    assert "birds: endpoint birds has had no request since 2026-11-20 12:00:00, about $70.00 a month" in text
    assert "birds" not in shown(store, "--dataset", "flowers")[1]


def test_at_80_columns_no_line_is_longer_and_no_name_is_cut(
    ledger: Ledger, store: MemoryObjectStore, clock: ManualClock, run: Run
) -> None:
    train(ledger, clock, run, "cloud", State.TRAINED)
    held = Holdup(
        what="50 % of the installations to have 0123456789ab-0123456789ab for 86400 s", since="2026-11-23T13:00:00.000Z"
    )
    look_at = "2026-11-24T13:00:00.000Z"
    release(ledger, clock, run, "cloud", State.CANARY, step="bake", holdup=held, look_at=look_at)
    for arguments in ((), (run.run_id,)):
        text = shown(store, *arguments, width=80)[1]
        assert max(map(len, text.splitlines())) <= 80
        for word in (run.run_id, "cloud", "canary", "0123456789ab-0123456789ab", "2026-11-24"):
            assert word in text, (word, text)
        assert "T13:00:00" not in text
