"""A request or a marker that comes again, late or twice, does what it did the first time, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from dualdeploy.ledger import names
from support.chain import NUMBERED, WHOLE, Chain, Delivery
from support.chain_data import overwrite
from support.fakes.failing import ProcessDied

MARKER = "flowers/_SUCCESS"


def trained(*, forced: bool = False) -> tuple[Chain, Delivery]:
    """A live run, and the marker that completed its batch."""
    chain = Chain()
    chain.upload(*WHOLE)
    (marker,) = chain.upload(MARKER)
    chain.settle()
    chain.check_one_run_is_live()
    chain.clock.advance(3600)
    return chain, marker


def test_a_marker_whose_event_comes_again_does_not_launch_the_next_upload_half_way() -> None:
    chain, marker = trained()
    # The next edition begins to arrive: one shard of three so far, its own marker comes at the end.
    chain.upload(WHOLE[0], edition=2)
    chain.drain()
    assert len(chain.run_ids()) == 1
    # Eventarc delivers the first marker's event once more.
    chain.handle(marker)
    assert len(chain.run_ids()) == 1, "a mixture of both editions was launched"
    assert len(chain.vertex.jobs) == 2
    chain.clock.advance(20)
    chain.upload(*WHOLE[1:], MARKER, edition=2)
    chain.settle(ticks=25)
    assert len(chain.run_ids()) == 2
    assert len(chain.vertex.jobs) == 4


def test_a_retrain_request_that_comes_again_does_not_launch_the_next_upload_half_way() -> None:
    chain, _ = trained()
    request = chain.retrain(event_id="message-of-monday")
    chain.handle(request)
    chain.settle()
    chain.check_one_run_is_live()
    chain.clock.advance(3600)
    chain.upload(WHOLE[0], edition=2)
    chain.drain()
    chain.handle(request)
    assert len(chain.run_ids()) == 1, "a mixture of both editions was launched"


def test_a_forced_request_that_comes_again_after_new_data_trains_nothing_more() -> None:
    chain = Chain()
    chain.upload()
    chain.settle()
    chain.clock.advance(3600)
    forced = chain.retrain(force=True, event_id="message-of-monday")
    chain.handle(forced)
    chain.settle()
    assert len(chain.run_ids()) == 2
    chain.clock.advance(3600)
    chain.upload(edition=2)
    chain.settle()
    assert len(chain.run_ids()) == 3
    assert len(chain.vertex.jobs) == 6
    # At least once: the very same message again.
    chain.handle(forced)
    chain.settle()
    assert len(chain.vertex.jobs) == 6, sorted(chain.run_ids())


def new_edition(chain: Chain) -> None:
    chain.upload(edition=2)
    chain.settle()


def half_of_an_edition(chain: Chain) -> None:
    chain.upload(WHOLE[0], edition=2)
    chain.drain()


def another_configuration(chain: Chain) -> None:
    chain.configure(training={"cloud": {"epochs": 7}})


def deleted_shards(chain: Chain) -> None:
    (found,) = chain.data.list(WHOLE[0])
    chain.data.delete(WHOLE[0], expect=found.generation)


def nothing(_chain: Chain) -> None:
    """Only time passes."""


@pytest.mark.parametrize("meanwhile", [new_edition, half_of_an_edition, another_configuration, deleted_shards, nothing])
@pytest.mark.parametrize("what", ["marker", "request", "forced request"])
def test_whatever_happened_meanwhile_a_repetition_starts_nothing(what: str, meanwhile: Callable[[Chain], None]) -> None:
    chain = Chain()
    chain.upload(*WHOLE)
    (first,) = chain.upload(MARKER) if what == "marker" else (chain.retrain(force="forced" in what, event_id="m"),)
    chain.handle(first)
    chain.settle()
    chain.clock.advance(3600)
    meanwhile(chain)
    before = chain.run_ids(), sorted(chain.vertex.jobs)
    for _ in range(3):
        chain.handle(first)
        chain.drain()
    assert (chain.run_ids(), sorted(chain.vertex.jobs)) == before
    assert chain.rejected == []


@pytest.mark.parametrize("what", ["marker", "request", "forced request"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_request_killed_at_any_operation_and_delivered_again_trains_once(what: str, when: str) -> None:
    def started() -> tuple[Chain, Delivery]:
        chain = Chain()
        chain.upload(*WHOLE)
        chain.settle()
        chain.clock.advance(3600)
        chain.upload("flowers/more.tfrecord")
        chain.queue.clear()
        if what == "marker":
            (first,) = chain.upload(MARKER)
            chain.queue.clear()
            return chain, first
        return chain, chain.retrain(force="forced" in what, event_id="m")

    calm, first = started()
    at = len(calm.operations)
    calm.handle(first)
    count = len(calm.operations) - at
    calm.settle()
    assert len(calm.run_ids()) == 2
    for fatal in range(count):
        chain, first = started()
        start = len(chain.operations)

        def die(
            number: int, _name: str, moment: str, chain: Chain = chain, fatal: int = fatal, start: int = start
        ) -> None:
            if (number - start, moment) == (fatal, when):
                chain.interfere = lambda *_: None
                raise ProcessDied

        chain.interfere = die
        if not chain.handle(first):
            chain.clock.advance(30)
            assert chain.handle(first)
        chain.settle(ticks=25)
        assert len(chain.run_ids()) == 2, fatal
        assert len(chain.vertex.jobs) == 4, fatal


# What a marker speaks for ------------------------------------------------------------------------------------------


def test_a_marker_speaks_for_what_was_there_and_what_came_later_waits_for_the_quiet_period() -> None:
    chain = Chain()
    chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord", MARKER)
    *_, marker = chain.queue
    chain.queue.clear()
    chain.clock.advance(5)
    chain.upload("flowers/tulips.tfrecord")
    chain.queue = [marker]
    chain.drain()
    (run_id,) = chain.run_ids()
    names = [shard.name for shard in chain.ledger.read_run(run_id).snapshot.shards]
    assert names == ["flowers/eval-roses.tfrecord", "flowers/roses.tfrecord"]
    chain.settle(ticks=25)
    assert len(chain.run_ids()) == 2


PARTS = [f"flowers/part-{number:05d}-5b1e2f6c.tfrecord" for number in range(3)]
TFDS = [f"flowers/1.0.0/flowers-{side}.tfrecord-00000-of-00001" for side in ("test", "train", "validation", "extra")]


@pytest.mark.parametrize(
    ("policy", "uploaded"),
    [
        ("queue", ("flowers/eval-roses.tfrecord", PARTS[0], MARKER, *PARTS[1:])),
        ("supersede", ("flowers/eval-roses.tfrecord", PARTS[0], MARKER, *PARTS[1:])),
        ("queue", ("flowers/eval-roses.tfrecord", PARTS[0], MARKER, *PARTS[1:], MARKER)),
        ("queue", TFDS),
    ],
    ids=["marker, queue", "marker, supersede", "a marker that was early, and another in time", "whole sets"],
)
def test_a_run_that_began_with_a_part_of_a_copied_folder_makes_way_for_the_whole(
    policy: str, uploaded: Sequence[str]
) -> None:
    """`gcloud storage cp -r` of a folder uploads its empty marker, and one whole set, among the first objects."""
    chain = Chain()
    chain.configure(data={"on_new_data": policy})
    begun: list[str] = []
    for name in uploaded:
        chain.upload(name)
        chain.drain()
        chain.clock.advance(1)
        begun += set(chain.run_ids()) - set(begun)
    first = begun[0]
    for _ in range(5):
        chain.tick()
        chain.drain()
    (second,) = set(chain.run_ids()) - {first}
    assert len(chain.ledger.read_run(second).snapshot.shards) == 4
    assert [chain.standing(first, target).state for target in ("cloud", "mobile")] == ["superseded", "superseded"]
    assert "newer data arrived" in chain.standing(first, "cloud").reason
    chain.settle()
    chain.check_is_live(second)


@pytest.mark.parametrize("then", ["much later", "a shard of it replaced"])
def test_what_arrives_after_a_batch_that_was_whole_queues_behind_it(then: str) -> None:
    chain = Chain()
    chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord", MARKER)
    chain.drain()
    (first,) = chain.run_ids()
    chain.clock.advance(600 if then == "much later" else 5)
    if then != "much later":
        chain.upload("flowers/roses.tfrecord", edition=2)
    chain.upload("flowers/tulips.tfrecord")
    chain.drain()
    chain.tick(240)
    chain.drain()
    (second,) = set(chain.run_ids()) - {first}
    assert [chain.ledger.read_run(second).extends, chain.standing(first, "cloud").state] == ["", "training"]


def test_the_next_batch_is_claimed_although_the_document_of_the_newest_run_cannot_be_read() -> None:
    chain, _ = trained()
    (first,) = chain.run_ids()
    overwrite(chain.ledger_store, names.run(first), b"{")
    chain.upload("flowers/tulips.tfrecord")
    chain.drain()
    chain.tick(240)
    assert len(chain.run_ids()) == 2


@pytest.mark.parametrize("seconds", [0, 1])
def test_an_object_of_the_markers_own_moment_is_in_its_batch(seconds: float) -> None:
    chain = Chain()
    chain.upload("flowers/roses.tfrecord")
    chain.clock.advance(seconds)
    chain.upload("flowers/eval-roses.tfrecord", MARKER)
    chain.drain()
    assert len(chain.run_ids()) == 1


def test_a_late_marker_over_a_batch_of_which_a_shard_was_replaced_launches_no_mixture() -> None:
    chain = Chain()
    chain.upload(*WHOLE)
    (marker,) = chain.upload(MARKER)
    chain.queue.clear()
    chain.clock.advance(5)
    chain.upload(NUMBERED[0], edition=2)
    chain.queue.clear()
    chain.handle(marker)
    assert chain.run_ids() == []
    chain.settle(ticks=25)
    assert len(chain.run_ids()) == 1


def test_a_marker_that_was_written_again_is_another_marker() -> None:
    chain, first = trained()
    chain.upload(*WHOLE, edition=2)
    (second,) = chain.upload(MARKER)
    chain.queue.clear()
    chain.handle(first)
    assert len(chain.run_ids()) == 1
    chain.handle(second)
    assert len(chain.run_ids()) == 2


def test_a_marker_without_a_time_speaks_as_the_object_that_lies_there() -> None:
    chain = Chain()
    chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord", MARKER)
    chain.queue.clear()
    (found,) = chain.data.list(MARKER)
    resource = {"bucket": "data", "name": MARKER, "generation": str(found.generation), "size": "0"}
    chain.handle(chain.event("training_launcher", "object-finalized", resource))
    assert len(chain.run_ids()) == 1
