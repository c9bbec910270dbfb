"""Two runs of one data set: they are brought out one at a time, and an older one never replaces a newer one."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dualdeploy.contracts.training import TARGETS
from dualdeploy.google.object_store import Generation
from dualdeploy.google.vertex import RUN_LABEL
from dualdeploy.ledger import State
from support.chain import LEASE_SECONDS, SERVICE_OF, Chain, Delivery, Interleaving
from support.stories import in_order_of_time, upload


def two_trained_runs(chain: Chain) -> tuple[str, str]:
    """An older and a newer run whose trainings are under way."""
    for edition in (1, 2):
        chain.upload("flowers/train-00000-of-00001.tfrecord", "flowers/eval-00000-of-00001.tfrecord", edition=edition)
        chain.drain()
        for _ in range(3):
            chain.tick()
    older, newer = in_order_of_time(chain)
    return older, newer


def train(chain: Chain, run_id: str) -> None:
    for job in chain.unfinished_jobs():
        if chain.vertex.jobs[job].labels[RUN_LABEL] == run_id:
            chain.train(job)


def check_newer_is_live(chain: Chain, older: str, newer: str) -> None:
    chain.check_is_live(newer)
    for target in TARGETS:
        assert chain.standing(older, target).state is State.SUPERSEDED
    chain.check_is_tidy()


def test_of_two_runs_that_finish_together_the_newer_one_ends_up_live() -> None:
    chain = Chain()
    older, newer = two_trained_runs(chain)
    train(chain, older)
    train(chain, newer)
    chain.settle()
    check_newer_is_live(chain, older, newer)


def test_two_runs_are_brought_out_one_after_the_other_and_never_at_the_same_time() -> None:
    chain = Chain(looks_locked=2)
    older, newer = two_trained_runs(chain)
    train(chain, older)
    train(chain, newer)

    at_once = {State.GATING, State.DEPLOYING, State.CANARY}
    for _ in range(30):
        chain.drain()
        for target in TARGETS:
            states = {chain.standing(run_id, target).state for run_id in (older, newer)}
            assert not states <= at_once, (target, states)
        chain.vertex.finish_operations()
        chain.tick()
    check_newer_is_live(chain, older, newer)


def test_an_older_run_that_finishes_later_is_superseded_visibly_and_changes_nothing() -> None:
    chain = Chain()
    older, newer = two_trained_runs(chain)
    train(chain, newer)
    chain.drain()
    for _ in range(6):
        chain.vertex.finish_operations()
        chain.tick()
    chain.check_is_live(newer)
    train(chain, older)
    chain.settle()
    check_newer_is_live(chain, older, newer)
    for target in TARGETS:
        assert chain.standing(older, target).reason == f"{newer} is newer and live"
        (message,) = chain.messages("deployment-completed", run_id=older, target=target)
        assert message["outcome"] == "superseded"
        assert chain.live(target).previous is None
    assert len(chain.vertex.uploads) == 1


@pytest.mark.parametrize("block", range(3))
def test_two_runs_handled_by_many_instances_at_once_leave_the_newer_one_live(block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        chain, interleaving = Chain(), Interleaving(seed)
        older, newer = two_trained_runs(chain)
        train(chain, older)
        train(chain, newer)
        for _ in range(25):
            waiting, chain.queue = chain.queue * 2, []
            chain.clock.advance(60)
            chain.queue += interleaving.run(chain, waiting + chain.tick_deliveries() * 2)
            chain.vertex.finish_operations()
            if chain.is_quiet():
                break
        check_newer_is_live(chain, older, newer)
        # Nobody died, so nothing was started twice.
        uploaded = [alias for upload in chain.vertex.uploads for alias in upload.aliases]
        assert sorted(uploaded) == sorted(set(uploaded))


def test_a_redeploy_of_the_replaced_run_needs_force_and_makes_the_newer_one_previous() -> None:
    chain = Chain()
    older, newer = two_trained_runs(chain)
    train(chain, older)
    train(chain, newer)
    chain.settle()
    assert chain.handle(chain.redeploy("cloud", run_id=older))
    assert "409" in chain.outcomes[-1][2]
    assert chain.handle(chain.redeploy("cloud", run_id=older, force=True, reason="the newer one sees cats"))
    assert "202" in chain.outcomes[-1][2]
    chain.settle()
    assert chain.live("cloud").current.run_id == older
    assert chain.live("cloud").current.release == 2
    assert chain.live("cloud").previous.run_id == newer
    assert chain.standing(older, "cloud").state is State.LIVE
    assert chain.standing(newer, "cloud").state is State.SUPERSEDED
    assert [deployed.display_name for deployed in chain.vertex.endpoints["flowers"].deployed] == [older]
    # The phones were not asked for.
    assert chain.live("mobile").current.run_id == newer
    chain.check_is_tidy()


def test_a_redeploy_while_a_newer_run_waits_is_finished_first_and_then_replaced() -> None:
    chain = Chain()
    older, newer = two_trained_runs(chain)
    train(chain, older)
    chain.drain()
    for _ in range(6):
        chain.vertex.finish_operations()
        chain.tick()
    assert chain.handle(chain.redeploy("cloud", dataset="flowers"))
    assert "202" in chain.outcomes[-1][2]
    train(chain, newer)
    chain.drain()
    assert chain.standing(newer, "cloud").state is State.WAITING
    chain.settle(ticks=25)
    check_newer_is_live(chain, older, newer)
    assert chain.standing(older, "cloud").release == 2


# An instance that is frozen for longer than its lease ----------------------------------------------------------


class Frozen:
    """Before one write of a document of that name (the first is number 1), the others go on for longer than a lease."""

    def __init__(self, chain: Chain, name: str, number: int, others: Callable[[], object]) -> None:
        self.chain, self.name, self.left, self.others = chain, name, number, others
        self.put = chain.ledger_store.put
        chain.ledger_store.put = self.write  # type: ignore[method-assign]

    def write(self, name: str, data: bytes, **more: Any) -> Generation:
        if self.left and name.startswith(self.name):
            self.left -= 1
            if not self.left:
                self.chain.clock.advance(LEASE_SECONDS + 1)
                # On a thread of its own, by which the chain tells instances apart.
                thread = threading.Thread(target=self.others)
                thread.start()
                thread.join()
        return self.put(name, data, **more)


def pass_minutes(chain: Chain, minutes: int) -> None:
    for _ in range(minutes):
        chain.tick()
        chain.vertex.finish_operations()


@functools.cache
def a_live_run_and_two_that_are_trained(target: str) -> tuple[Chain, tuple[str, str, str]]:
    """Both are trained at the same time, and neither was announced."""
    chain = Chain()
    serving = {"canary": {"steps": [50, 100], "bake": "10m", "answers": 2}}
    chain.configure(serving=serving, publishing={"rollout": {"steps": [50, 100], "bake": "20m"}})
    upload(chain)
    chain.settle(ticks=40)
    chain.clock.advance(3600)
    for edition in (2, 3):
        upload(chain, edition=edition)
        chain.drain()
        for _ in range(3):
            chain.clock.advance(60)
            chain.tick_of("training_launcher")
    first, older, newer = in_order_of_time(chain)
    for run_id in (older, newer):
        (job,) = chain.jobs_of(run_id, target)
        chain.train(job, hints=False)
    return chain, (first, older, newer)


def announced(chain: Chain, run_id: str, target: str) -> Delivery:
    """The message about a training, on its way."""
    (job,) = chain.jobs_of(run_id, target)
    chain.handle(chain.log_hint(job))
    (delivery,) = chain.queue
    chain.queue.clear()
    return delivery


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("minutes", [1, 3, 6])
@pytest.mark.parametrize("write", [1, 2], ids=["before it joins", "before it has its turn"])
def test_a_frozen_admission_does_not_bring_an_older_run_out_over_a_newer_one(
    target: str, minutes: int, write: int
) -> None:
    prepared, runs = a_live_run_and_two_that_are_trained(target)
    chain, (_, older, newer) = prepared.continued(), runs
    about = {run_id: announced(chain, run_id, target) for run_id in (older, newer)}

    def the_others_go_on() -> None:
        chain.handle(about[newer])
        for _ in range(minutes):
            chain.vertex.finish_operations()
            chain.clock.advance(60)
            chain.tick_of(SERVICE_OF[target])
        assert chain.standing(older, target).state is State.WAITING
        assert chain.standing(newer, target).state in (State.GATING, State.DEPLOYING, State.CANARY)

    frozen = Frozen(chain, f"serving/{target}/", write, the_others_go_on)
    chain.handle(about[older])
    assert not frozen.left
    pass_minutes(chain, 90)
    states = {run_id: chain.standing(run_id, target) for run_id in runs}
    assert chain.live(target).current.run_id == newer, states
    assert not [key for key in chain.active() if key.startswith(SERVICE_OF[target])], states


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("write", range(1, 5))
def test_of_two_releases_that_began_beside_each_other_both_come_to_an_end(target: str, write: int) -> None:
    chain = Chain()
    for edition in (1, 2):
        upload(chain, edition=edition)
        chain.settle()
        chain.clock.advance(3600)
    live = chain.live(target)
    newer, older = live.current.run_id, live.previous.run_id
    frozen = Frozen(chain, "", write, lambda: chain.handle(chain.post(target, "redeploy", run_id=newer)))
    chain.handle(chain.post(target, "redeploy", run_id=older, force=True))
    assert not frozen.left
    pass_minutes(chain, 180)
    assert not chain.active(), {run_id: chain.standing(run_id, target) for run_id in (newer, older)}
    # Nor does it stand in the way of what comes later.
    upload(chain, edition=3)
    chain.settle(ticks=30)
    assert chain.live(target).current.run_id not in (newer, older)
