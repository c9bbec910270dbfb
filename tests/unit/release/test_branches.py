"""The resumable state machine that both deploying services share, driven with steps of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dualdeploy import branches
from dualdeploy.branches import (
    MAX_STEPS,
    WORK_SECONDS,
    BranchWorker,
    OperationFailed,
    await_operation,
    branch_under_way,
    record_live,
)
from dualdeploy.errors import (
    CannotEverSucceed,
    EndNotAnnounced,
    LeaseHeld,
    LedgerContention,
    RejectedByGoogle,
    ServiceUnavailable,
    UnknownRun,
)
from dualdeploy.events import TrainingCompleted
from dualdeploy.ledger import Branch, Ledger, Run, Snapshot, State, dataset_of
from dualdeploy.object_store import ABSENT
from dualdeploy.release_api import Releases, Wanted
from dualdeploy.testing import Failing, FakePublisher, ManualClock, MemoryObjectStore
from dualdeploy.testing.failing import ProcessDied

OLDER, NEWER = "flowers-00000000000a", "flowers-00000000000b"
#: Ends the branch in as few steps as the table allows.
TO_LIVE = (State.DEPLOYING, State.LIVE)


class World:
    """A ledger, a topic, and one worker for the cloud branches."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryObjectStore("ledger", clock=self.clock)
        self.ledger = Ledger(self.store, clock=self.clock)
        self.publisher = FakePublisher()
        self.advanced: list[str] = []
        self.advance: Callable[[Branch, Run], Branch | None] = self._to_the_next_state
        self.worker = BranchWorker(
            "cloud",
            self._advance,
            ledger=self.ledger,
            publisher=self.publisher,
            lease_seconds=60,
            clock=self.clock,
        )

    def _advance(self, branch: Branch, run: Run) -> Branch | None:
        self.advanced.append(f"{branch.run_id} {branch.state}")
        return self.advance(branch, run)

    def _to_the_next_state(self, branch: Branch, run: Run) -> Branch:
        following = {State.GATING: State.DEPLOYING, State.DEPLOYING: State.LIVE}[branch.state]
        if following is State.LIVE:
            record_live(self.ledger, branch, run, facts={}, clock=self.clock)
        return branch.moved(following, at=self.clock())

    def open(self, run_id: str, *states: State) -> None:
        """A run whose cloud branch went through `states` after `pending`."""
        run = Run(
            run_id=run_id,
            dataset=dataset_of(run_id),
            created_at=f"2026-11-23T12:00:{int(run_id[-1], 16):02d}.000Z",
            reason="test",
            snapshot=Snapshot(bucket="data", prefix="flowers/", shards=()),
            config={},
            claim=run_id,
        )
        self.ledger.claim(run)
        self.ledger.open_branches(run)
        for state in states:
            self.move(run_id, state)

    def move(self, run_id: str, state: State) -> None:
        versioned = self.ledger.read_branch(run_id, "cloud")
        self.ledger.write_branch(versioned.document.moved(state, at=self.clock()), expect=versioned.generation)

    def branch(self, run_id: str = OLDER) -> Branch:
        return self.ledger.read_branch(run_id, "cloud").document

    def outcomes(self) -> list[str]:
        return [message.attributes["outcome"] for message in self.publisher.sent]


TRAINED = (State.LAUNCHING, State.TRAINING, State.TRAINED)


@pytest.fixture
def world() -> World:
    world = World()
    world.open(OLDER, *TRAINED)
    return world


def completed(run_id: str = OLDER, *, target: str = "cloud", outcome: str = "succeeded") -> TrainingCompleted:
    return TrainingCompleted(run_id, "flowers", target, outcome)


# Messages ------------------------------------------------------------------------------------------------------


def test_a_completed_training_is_brought_out_and_announced_once(world: World) -> None:
    outcome = world.worker.on_training_completed(completed())
    assert (outcome.kind, outcome.message) == ("done", "is live")
    assert world.branch().state is State.LIVE
    assert world.branch().deployment_announced
    assert world.outcomes() == ["live"]
    assert world.ledger.active("cloud") == []


def test_a_message_that_comes_again_changes_nothing(world: World) -> None:
    world.worker.on_training_completed(completed())
    before = {name: world.store.read(name) for name in world.store.names()}
    world.worker.on_training_completed(completed())
    assert {name: world.store.read(name) for name in world.store.names()} == before
    assert world.outcomes() == ["live"]


@pytest.mark.parametrize(
    "event", [completed(target="mobile"), completed(outcome="failed"), completed(outcome="cancelled")]
)
def test_a_message_that_is_not_for_us_is_acknowledged_without_a_call(world: World, event: TrainingCompleted) -> None:
    world.store.faults.calls.clear()
    assert world.worker.on_training_completed(event).kind == "already_done"
    assert not world.store.faults.calls


def test_a_message_about_an_unknown_run_is_rejected(world: World) -> None:
    with pytest.raises(UnknownRun):
        world.worker.on_training_completed(completed("flowers-0000000000ff"))


def test_a_message_that_overtakes_the_record_of_the_training_does_nothing(world: World) -> None:
    world.open(NEWER, State.LAUNCHING, State.TRAINING)
    outcome = world.worker.on_training_completed(completed(NEWER))
    assert (outcome.kind, outcome.message) == ("already_done", "has no trained model")
    assert world.advanced == []


def test_a_message_that_finds_another_instance_at_work_is_left_to_the_clock(world: World) -> None:
    with world.ledger.lease("flowers/cloud", seconds=60):
        outcome = world.worker.on_training_completed(completed())
        assert outcome.kind == "already_done"
        assert "waits" in outcome.message
        assert world.worker.on_clock().message == "nothing waits"
    assert "is live" in world.worker.on_clock().message


def test_a_lease_of_one_data_set_does_not_hold_up_another(world: World) -> None:
    with world.ledger.lease("animals/cloud", seconds=60), world.ledger.lease("flowers/mobile", seconds=60):
        assert world.worker.on_training_completed(completed()).message == "is live"


def test_the_record_of_the_announcement_does_not_cost_the_announced_a_redelivery(world: World) -> None:
    """job_notifier notes `training_announced` just when its message is being handled."""
    noted: list[str] = []
    puts = iter(range(1_000))

    def note_it(name: str) -> None:
        # The first put is the lease, the second the branch.
        if name == "put" and next(puts) == 1 and not noted:
            noted.append(name)
            versioned = world.ledger.read_branch(OLDER, "cloud")
            announced = versioned.document.changed(training_announced=True)
            world.ledger.write_branch(announced, expect=versioned.generation)

    world.store.faults.before = note_it
    assert world.worker.on_training_completed(completed()).message == "is live"
    assert noted
    assert world.branch().training_announced


def test_a_branch_that_changes_under_a_later_step_is_given_up_for_this_time(world: World) -> None:
    def somebody_else_writes(branch: Branch, run: Run) -> Branch:
        versioned = world.ledger.read_branch(OLDER, "cloud")
        world.ledger.write_branch(versioned.document.with_facts(other=1), expect=versioned.generation)
        return branch.moved(State.DEPLOYING, at=world.clock())

    world.advance = somebody_else_writes
    with pytest.raises(LedgerContention):
        world.worker.on_training_completed(completed())


# Steps ---------------------------------------------------------------------------------------------------------


def test_a_step_that_waits_ends_the_handling_and_is_looked_at_at_the_next_tick(world: World) -> None:
    world.advance = lambda branch, run: None
    assert world.worker.on_training_completed(completed()).message == "waits in gating"
    assert world.worker.on_clock().message == f"{OLDER}: waits in gating"
    assert world.ledger.active("cloud") == [OLDER]


def test_every_step_is_recorded_before_the_next_one(world: World) -> None:
    recorded: list[State] = []

    def look(branch: Branch, run: Run) -> Branch:
        recorded.append(world.branch().state)
        return world._to_the_next_state(branch, run)

    world.advance = look
    world.worker.on_training_completed(completed())
    assert recorded == [State.GATING, State.DEPLOYING]


def test_a_step_that_can_never_succeed_fails_the_branch_and_is_announced(world: World) -> None:
    def never(branch: Branch, run: Run) -> Branch:
        raise CannotEverSucceed("no such machine")

    world.advance = never
    outcome = world.worker.on_training_completed(completed())
    assert outcome.message == "is failed: CannotEverSucceed: no such machine"
    assert world.outcomes() == ["failed"]
    assert world.publisher.sent[0].json()["reason"] == "CannotEverSucceed: no such machine"


def test_a_step_that_fails_for_now_leaves_the_branch_where_it_is(world: World) -> None:
    def later(branch: Branch, run: Run) -> Branch:
        raise ServiceUnavailable("no answer")

    world.advance = later
    with pytest.raises(ServiceUnavailable):
        world.worker.on_training_completed(completed())
    assert world.branch().state is State.GATING
    # The lease was given back: the next delivery need not wait for it to run out.
    world.advance = world._to_the_next_state
    assert world.worker.on_training_completed(completed()).message == "is live"


def test_a_branch_that_never_comes_to_an_end_does_not_hold_the_instance_for_ever(world: World) -> None:
    world.advance = lambda branch, run: branch.changed(attempts=branch.attempts + 1)
    outcome = world.worker.on_training_completed(completed())
    assert outcome.message == f"took {MAX_STEPS} steps; goes on at the next tick"


def test_steps_that_take_long_are_not_all_taken_in_one_request(world: World) -> None:
    """Cloud Run ends a request after a minute, and a lease is not renewed between steps."""

    def slowly(branch: Branch, run: Run) -> Branch:
        world.clock.advance(5)
        return branch.changed(attempts=branch.attempts + 1)

    world.advance = slowly
    began = world.clock()
    outcome = world.worker.on_training_completed(completed())
    assert outcome.message == "worked for 30 s; goes on at the next tick"
    assert (world.clock() - began).total_seconds() == WORK_SECONDS
    world.worker.on_clock()
    assert world.branch().attempts == 2 * WORK_SECONDS / 5


# The clock -----------------------------------------------------------------------------------------------------


def test_one_tick_is_shared_by_all_branches_and_none_is_always_the_last(world: World) -> None:
    """Of different data sets, each of which would keep a request busy."""
    names = [f"{dataset}-00000000000a" for dataset in ("birds", "cars", "dogs")]
    world.ledger.unmark_active(OLDER, "cloud")
    for name in names:
        world.open(name, *TRAINED)
    resumed = []

    def slowly(branch: Branch, run: Run) -> Branch:
        world.clock.advance(20)
        resumed.append(branch.dataset)
        return branch.changed(attempts=branch.attempts + 1)

    world.advance = slowly
    for _ in names:
        world.clock.advance(60 - world.clock().second)
        began = world.clock()
        world.worker.on_clock()
        assert (world.clock() - began).total_seconds() == 40
    assert set(resumed) == {"birds", "cars", "dogs"}


@pytest.mark.parametrize("error", [ServiceUnavailable("no answer"), CannotEverSucceed("broken"), KeyError("step")])
def test_a_branch_that_cannot_be_resumed_does_not_keep_the_clock_from_the_others(
    world: World, error: Exception
) -> None:
    world.open("animals-00000000000c", *TRAINED)

    def fail_for_animals(branch: Branch, run: Run) -> Branch | None:
        if branch.run_id.startswith("animals"):
            raise error
        return world._to_the_next_state(branch, run)

    # Another data set in all but the name that the fixture gives it.
    versioned = world.ledger.read_branch("animals-00000000000c", "cloud")
    world.ledger.write_branch(versioned.document.changed(dataset="animals"), expect=versioned.generation)
    world.advance = fail_for_animals
    assert f"{OLDER}: is live" in world.worker.on_clock().message


def test_a_branch_that_is_still_in_training_is_passed_over_by_the_clock(world: World) -> None:
    world.worker.on_clock()
    world.open(NEWER, State.LAUNCHING, State.TRAINING)
    assert world.worker.on_clock().message == f"{NEWER}: has no trained model"
    assert world.ledger.active("cloud") == [NEWER]


def test_an_unreadable_branch_or_a_marker_without_one_does_not_stop_the_clock(world: World) -> None:
    world.ledger.mark_active("flowers-000000000000", "cloud")
    world.store.put("runs/flowers-000000000001/cloud.json", b"{", expect=ABSENT)
    world.ledger.mark_active("flowers-000000000001", "cloud")
    assert "is live" in world.worker.on_clock().message


# The end -------------------------------------------------------------------------------------------------------


def test_an_end_that_could_not_be_announced_is_announced_later(world: World) -> None:
    world.publisher.faults.plan("publish", Failing(ServiceUnavailable("no answer")))
    with pytest.raises(ServiceUnavailable):
        world.worker.on_training_completed(completed())
    assert world.branch().state is State.LIVE
    assert world.ledger.active("cloud") == [OLDER]
    assert world.worker.on_clock().message == f"{OLDER}: is live"
    assert world.outcomes() == ["live"]
    assert world.ledger.active("cloud") == []


def test_an_end_is_announced_even_when_what_it_leaves_behind_cannot_be_tidied(world: World) -> None:
    def refuse(branch: Branch, run: Run) -> None:
        raise RejectedByGoogle("403: no right to tidy")

    world.worker = BranchWorker(
        "cloud",
        world._advance,
        ledger=world.ledger,
        publisher=world.publisher,
        lease_seconds=60,
        clock=world.clock,
        on_end=refuse,
    )
    world.worker.on_clock()
    assert world.outcomes() == ["live"]
    assert world.ledger.active("cloud") == []


@pytest.mark.parametrize("died_before", [False, True])
def test_an_instance_that_was_frozen_before_it_removed_the_marker_leaves_the_one_of_the_next_release(
    world: World, *, died_before: bool
) -> None:
    if died_before:
        # Of an end that was announced, by an instance that then died, only the marker is left.
        world.store.faults.plan("delete", Failing(ProcessDied()))
        with pytest.raises(ProcessDied):
            world.worker.on_training_completed(completed())
        world.clock.advance(61)
    releases = Releases("cloud", ledger=world.ledger, lease_seconds=60, clock=world.clock)

    def take_up_again_meanwhile(operation: str) -> None:
        if operation == "delete":
            world.store.faults.before = lambda _: None
            world.clock.advance(61)
            releases.reopen(Wanted(kind="redeploy", run_id=OLDER))

    world.store.faults.before = take_up_again_meanwhile
    world.worker.on_clock()
    assert (world.branch().release, world.branch().state) == (2, State.GATING)
    assert world.ledger.active("cloud") == [OLDER]
    world.worker.on_clock()
    assert (world.branch().release, world.branch().state) == (2, State.LIVE)


def test_a_release_is_not_reopened_before_its_end_was_announced(world: World) -> None:
    world.publisher.faults.plan("publish", Failing(ServiceUnavailable("503")))
    with pytest.raises(ServiceUnavailable):
        world.worker.on_training_completed(completed())
    releases = Releases("cloud", ledger=world.ledger, lease_seconds=60, clock=world.clock)
    with pytest.raises(EndNotAnnounced, match=f"that {OLDER} is live is announced at the next tick"):
        releases.reopen(Wanted(kind="redeploy", run_id=OLDER))
    world.worker.on_clock()
    releases.reopen(Wanted(kind="redeploy", run_id=OLDER))
    world.worker.on_clock()
    assert world.outcomes() == ["live", "live"]


def test_the_announcement_names_what_served_before_and_links_what_was_found_out(world: World) -> None:
    world.worker.on_training_completed(completed())
    world.open(NEWER, *TRAINED)
    world.advance = lambda branch, run: world._to_the_next_state(branch.with_facts(endpoint="e", accuracy=0.5), run)
    world.worker.on_training_completed(completed(NEWER))
    message = world.publisher.sent[-1].json()
    assert (message["run_id"], message["previous"], message["outcome"]) == (NEWER, OLDER, "live")
    assert message["links"] == {"endpoint": "e"}


# Two runs ------------------------------------------------------------------------------------------------------


def test_a_run_older_than_the_live_one_is_superseded(world: World) -> None:
    world.open(NEWER, *TRAINED)
    world.worker.on_training_completed(completed(NEWER))
    assert world.worker.on_training_completed(completed()).message == f"is superseded: {NEWER} is newer and live"
    assert world.ledger.read_live("flowers", "cloud").document.current.run_id == NEWER


def test_a_run_waits_while_another_one_of_its_data_set_is_under_way(world: World) -> None:
    world.open(NEWER, *TRAINED, State.GATING)
    assert world.worker.on_training_completed(completed()).message == "waits in trained"
    assert world.advanced == []


def test_a_run_does_not_wait_for_a_marker_whose_branch_was_never_written(world: World) -> None:
    world.ledger.mark_active("flowers-000000000000", "cloud")
    assert world.worker.on_training_completed(completed()).message == "is live"


def test_a_run_does_not_wait_for_a_record_that_nobody_can_read(world: World) -> None:
    world.store.put("runs/flowers-000000000000/cloud.json", b"{", expect=ABSENT)
    world.ledger.mark_active("flowers-000000000000", "cloud")
    assert world.worker.on_training_completed(completed()).message == "is live"


def test_a_data_set_whose_name_begins_like_another_is_another(world: World) -> None:
    world.open("flowers-2-00000000000b", *TRAINED, State.GATING)
    assert branch_under_way(world.ledger, "flowers", "cloud") is None
    found = branch_under_way(world.ledger, "flowers-2", "cloud")
    assert found is not None
    assert found.run_id == "flowers-2-00000000000b"


@pytest.mark.parametrize("state", [State.TRAINED, State.LIVE])
def test_a_branch_that_waits_or_is_through_is_not_under_way(state: State) -> None:
    world = World()
    through = (State.GATING, State.DEPLOYING, State.LIVE) if state is State.LIVE else ()
    world.open(OLDER, *TRAINED, *through)
    assert branch_under_way(world.ledger, "flowers", "cloud") is None


# What is live --------------------------------------------------------------------------------------------------


@pytest.fixture
def live_world(world: World) -> World:
    """The older run is live."""
    world.worker.on_training_completed(completed())
    return world


def run_and_branch(world: World, run_id: str, release: int = 1) -> tuple[Run, Branch]:
    return world.ledger.read_run(run_id), world.branch(run_id).changed(release=release)


def test_recording_the_same_release_again_changes_nothing(live_world: World) -> None:
    before = live_world.store.read("live/flowers/cloud.json")
    run, branch = run_and_branch(live_world, OLDER)
    live_world.clock.advance(60)
    record_live(live_world.ledger, branch, run, facts={"other": 1}, clock=live_world.clock)
    assert live_world.store.read("live/flowers/cloud.json") == before


def test_a_death_between_the_record_and_the_replaced_branch_is_made_up_for(live_world: World) -> None:
    live_world.open(NEWER, *TRAINED)
    run, branch = run_and_branch(live_world, NEWER)
    live_world.store.faults.plan("read", Failing(ServiceUnavailable("no answer")))
    with pytest.raises(ServiceUnavailable):
        record_live(live_world.ledger, branch, run, facts={}, clock=live_world.clock)
    reads = iter([None, ServiceUnavailable("no answer")])

    def fail_the_second_read(name: str) -> None:
        if name == "read" and (error := next(reads, None)):
            raise error

    live_world.store.faults.before = fail_the_second_read
    with pytest.raises(ServiceUnavailable):
        record_live(live_world.ledger, branch, run, facts={}, clock=live_world.clock)
    assert live_world.ledger.read_live("flowers", "cloud").document.current.run_id == NEWER
    assert live_world.branch().state is State.LIVE
    record_live(live_world.ledger, branch, run, facts={}, clock=live_world.clock)
    assert live_world.branch().state is State.SUPERSEDED
    assert live_world.branch().reason == f"replaced by {NEWER}"


def test_a_redeploy_of_the_live_run_keeps_what_served_before_it(live_world: World) -> None:
    live_world.open(NEWER, *TRAINED)
    run, branch = run_and_branch(live_world, NEWER)
    record_live(live_world.ledger, branch, run, facts={}, clock=live_world.clock)
    run, branch = run_and_branch(live_world, NEWER, release=2)
    record_live(live_world.ledger, branch, run, facts={}, clock=live_world.clock)
    live = live_world.ledger.read_live("flowers", "cloud").document
    assert (live.current.run_id, live.current.release) == (NEWER, 2)
    assert live.previous is not None
    assert live.previous.run_id == OLDER


# Operations ----------------------------------------------------------------------------------------------------


class Vertex:
    """One operation: what `look` answers, and how often it was started."""

    def __init__(self) -> None:
        self.answer: tuple[bool, str] | None = (False, "")
        self.started = 0
        self.there = False
        self.clock = ManualClock()

    def start(self) -> str:
        self.started += 1
        return f"operations/{self.started}"

    def __call__(self, branch: Branch) -> Branch | None:
        return await_operation(
            branch,
            look=lambda _name: self.answer,
            start=self.start,
            there=lambda: self.there,
            clock=self.clock,
            limit_seconds=100,
            what="deploy",
        )


@pytest.fixture
def vertex() -> Vertex:
    return Vertex()


@pytest.fixture
def started(vertex: Vertex) -> Iterator[Branch]:
    branch = vertex(Branch(run_id=OLDER, dataset="flowers", target="cloud", since="2026-11-23T12:00:00.000Z"))
    assert branch is not None
    return branch


def test_a_started_operation_is_recorded_with_its_time(started: Branch) -> None:
    assert started.operation == "operations/1"
    assert started.operation_since == "2026-11-23T12:00:00.000Z"


def test_a_running_operation_is_waited_for(vertex: Vertex, started: Branch) -> None:
    vertex.clock.advance(100)
    assert vertex(started) is None
    assert vertex.started == 1


def test_an_operation_past_its_limit_has_failed(vertex: Vertex, started: Branch) -> None:
    vertex.clock.advance(101)
    with pytest.raises(OperationFailed, match=r"deploy: operations/1 is still running after 101 s"):
        vertex(started)


def test_an_operation_that_ended_past_its_limit_has_not_failed(vertex: Vertex, started: Branch) -> None:
    vertex.clock.advance(1_000)
    vertex.answer = (True, "")
    assert vertex(started) == started.changed(operation="", operation_since="", attempts=1)


def test_an_error_fails_unless_the_effect_is_there_after_all(vertex: Vertex, started: Branch) -> None:
    vertex.answer = (True, "already exists")
    with pytest.raises(OperationFailed, match="deploy: already exists"):
        vertex(started)
    vertex.there = True
    assert vertex(started) == started.changed(operation="", operation_since="")


@pytest.mark.parametrize("answer", [None, (True, "")], ids=["forgotten", "without effect"])
def test_an_operation_without_effect_is_started_again_and_not_for_ever(
    vertex: Vertex, started: Branch, answer: tuple[bool, str] | None
) -> None:
    vertex.answer = answer

    def look_again_and_again() -> None:
        branch: Branch | None = started
        for _ in range(20):
            assert branch is not None
            branch = vertex(branch)

    with pytest.raises(OperationFailed, match="what it should have made is not there"):
        look_again_and_again()
    assert vertex.started == 4


def test_the_lease_is_held_by_one_instance_at_a_time(world: World) -> None:
    def resume_within(branch: Branch, run: Run) -> Branch:
        with pytest.raises(LeaseHeld):
            world.worker.resume(OLDER)
        return world._to_the_next_state(branch, run)

    world.advance = resume_within
    assert world.worker.resume(OLDER).message == "is live"


def test_the_topic_is_the_one_of_the_topology() -> None:
    assert branches.DEPLOYMENT_COMPLETED_TOPIC == "deployment-completed"
