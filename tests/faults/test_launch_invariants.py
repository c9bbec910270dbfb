"""What intake promises under any order of events, duplicates, deaths, refusals and clocks.

One run for each content; at most one job for each run and target; nothing launched for rejected data; a complete batch
is always launched in the end; no month costs more than its limit. hypothesis looks for the story that breaks one.
"""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.ledger import State, run_id_of, spending
from support.chain import SERVICES, Chain, Delivery, shard_bytes
from support.fakes import Failing
from support.fakes.failing import ProcessDied

TRAIN = tuple(f"flowers/train-{index:05d}-of-00003.tfrecord" for index in range(3))
BATCH = (*TRAIN, "flowers/eval-00000-of-00001.tfrecord")
MARKER = "flowers/_SUCCESS"

#: One thing that happens: which, and a number that says to whom or how much.
Move = tuple[str, int]

MOVES = st.lists(
    st.tuples(
        st.sampled_from(
            ["deliver", "deliver", "deliver", "again", "tick", "die", "fail", "no quota", "restart", "ask"]
        ),
        st.integers(0, 30),
    ),
    max_size=40,
)


@dataclasses.dataclass
class Story:
    """A chain, and what is still to be delivered to it."""

    chain: Chain
    waiting: list[Delivery] = dataclasses.field(default_factory=list)
    delivered: list[Delivery] = dataclasses.field(default_factory=list)

    def move(self, what: str, number: int) -> None:
        if what == "deliver" and self.waiting:
            self.hand_over(self.waiting.pop(number % len(self.waiting)))
        elif what == "again" and self.delivered:
            self.hand_over(self.delivered[number % len(self.delivered)])
        elif what == "tick":
            self.chain.clock.advance([1, 20, 60][number % 3])
            self.chain.tick_of(SERVICES[number % 2])
        elif what in ("die", "fail"):
            self.disturb(ProcessDied() if what == "die" else ServiceUnavailable("no answer"), after=number)
        elif what == "no quota":
            self.chain.vertex.faults.plan(
                "create_custom_job", Failing(ServiceUnavailable("429"), after=number % 2 == 0)
            )
        elif what == "restart":
            self.chain.use("training_launcher")
        elif what == "ask":
            self.hand_over(self.chain.retrain(event_id="asked"))

    def hand_over(self, delivery: Delivery) -> None:
        if self.chain.handle(delivery):
            self.delivered.append(delivery)
        else:
            self.waiting.append(delivery)

    def disturb(self, error: BaseException, *, after: int) -> None:
        """The so many-th operation from here on fails."""
        left = [after]

        def interfere(_number: int, _name: str, when: str) -> None:
            if when == "before":
                left[0] -= 1
                if left[0] < 0:
                    self.chain.interfere = lambda *_: None
                    raise error

        self.chain.interfere = interfere

    def end(self) -> None:
        """Everything is delivered at last, nothing breaks any more, and time passes."""
        self.chain.interfere = lambda *_: None
        # A request that came before all shards were there is answered with what lacks, which is no fault.
        self.chain.queue = self.waiting + self.chain.queue
        self.chain.settle(ticks=60)


def begin(*names: str, **sections: object) -> Story:
    chain = Chain()
    chain.configure(**sections)
    chain.upload(*names)
    waiting, chain.queue = chain.queue, []
    return Story(chain, waiting)


def check_one_job_each(chain: Chain) -> None:
    contents = [chain.ledger.read_run(run_id).snapshot.digest() for run_id in chain.run_ids()]
    assert len(contents) == len(set(contents))
    for run_id in chain.run_ids():
        assert run_id == run_id_of("flowers", chain.ledger.read_run(run_id).snapshot.digest())
        for target in TARGETS:
            assert len(chain.jobs_of(run_id, target)) <= 1
    assert len(chain.vertex.jobs) <= 2 * len(chain.run_ids())


@settings(max_examples=60)
@given(moves=MOVES, marked=st.booleans())
def test_a_complete_batch_becomes_one_run_with_two_jobs_in_the_end(moves: list[Move], marked: bool) -> None:
    story = begin(*BATCH, *([MARKER] if marked else []))
    for what, number in moves:
        story.move(what, number)
        check_one_job_each(story.chain)
    story.end()
    (run_id,) = story.chain.run_ids()
    for target in TARGETS:
        assert len(story.chain.jobs_of(run_id, target)) == 1
        assert story.chain.messages("training-completed", run_id=run_id, target=target, outcome="succeeded")


@settings(max_examples=30)
@given(moves=MOVES)
def test_data_that_is_rejected_starts_no_job_whatever_happens(moves: list[Move]) -> None:
    story = begin(*BATCH)
    broken = shard_bytes(TRAIN[0])[:-9]
    story.chain.data.put(TRAIN[0], broken, expect=story.chain.data.read(TRAIN[0]).generation)
    for what, number in moves:
        story.move(what, number)
    story.end()
    (run_id,) = story.chain.run_ids()
    assert story.chain.vertex.jobs == {}
    assert {story.chain.standing(run_id, target).state for target in TARGETS} == {State.REJECTED}


@settings(max_examples=30)
@given(moves=MOVES, replaced=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(BATCH)), max_size=3))
def test_shards_that_are_replaced_at_any_time_lead_to_one_run_for_each_content(
    moves: list[Move], replaced: list[tuple[int, str]]
) -> None:
    story = begin(*BATCH)
    for step, (what, number) in enumerate(moves):
        for edition, (when, name) in enumerate(replaced, start=2):
            if when == step:
                story.chain.upload(name, edition=edition)
        story.waiting += story.chain.queue
        story.chain.queue = []
        story.move(what, number)
        check_one_job_each(story.chain)
    story.end()
    check_one_job_each(story.chain)
    newest = max(story.chain.run_ids(), key=lambda run_id: story.chain.ledger.read_run(run_id).created_at)
    snapshot = story.chain.ledger.read_run(newest).snapshot
    assert {(shard.name, shard.generation) for shard in snapshot.shards} == {
        (summary.name, summary.generation) for summary in story.chain.data.list("flowers/")
    }
    assert all(story.chain.jobs_of(newest, target) for target in TARGETS)


@settings(max_examples=30)
@given(moves=MOVES, limit=st.sampled_from([2.0, 4.0, 100.0]))
def test_no_story_lets_a_month_cost_more_than_its_limit(moves: list[Move], limit: float) -> None:
    stated = {"usd_per_hour": 0.5}
    story = begin(*BATCH, budget={"max_usd_per_month": limit, "cloud": stated, "mobile": stated})
    for what, number in moves:
        story.move(what, number)
    story.chain.upload(TRAIN[1], edition=2)
    story.end()
    spent = spending.read_account(story.chain.ledger, "flowers", "2026-11")
    assert spent.total_usd() <= limit
    reserved = {key.split("/")[0] for key in spent.jobs}
    assert {job.labels["dualdeploy_run"] for job in story.chain.vertex.jobs.values()} <= reserved
