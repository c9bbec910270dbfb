"""The data set at AutoML, and what it cost, when instances are frozen, killed, or get in each other's way."""

from __future__ import annotations

import dataclasses
import datetime
import threading
from collections.abc import Callable

import pytest

from dualdeploy.contracts import automl
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.ledger import ManagedData, State
from dualdeploy.ledger.spending import Account, read_account
from dualdeploy.outcome import Outcome, done
from support.automl_chain import (
    automl_chain,
    check_tidy,
    check_trained,
    drain,
    managed_data,
    settle,
    until,
    upload,
)
from support.chain import Chain, Delivery
from support.fakes import Failing
from support.fakes.failing import ProcessDied, When
from training_launcher.managed_data import KEPT_SECONDS, READY, key_of


class Meanwhile:
    """At the next operation of a name, what others do meanwhile."""

    def __init__(self, operation: str, act: Callable[[], None], when: When = "before") -> None:
        self.operation, self.act, self.when = operation, act, when
        self.happened = False
        self.problem = ""

    def __call__(self, _number: int, name: str, when: When) -> None:
        if self.happened or (name, when) != (self.operation, self.when):
            return
        self.happened = True
        # On a thread of its own, by which the chain tells instances apart.
        others = threading.Thread(target=self._act)
        others.start()
        others.join()

    def _act(self) -> None:
        try:
            self.act()
        except Exception as exc:  # noqa: BLE001  # on another thread, where it would go unseen
            self.problem = repr(exc)

    def check(self) -> None:
        assert (self.happened, self.problem) == (True, "")


class Dies:
    """The process dies at the next operation of a name, perhaps only where `it_is` there."""

    def __init__(self, operation: str, when: When = "before", *, it_is: Callable[[], bool] = lambda: True) -> None:
        self.operation, self.when, self.it_is, self.happened = operation, when, it_is, False

    def __call__(self, _number: int, name: str, when: When) -> None:
        if not self.happened and (name, when) == (self.operation, self.when) and self.it_is():
            self.happened = True
            raise ProcessDied


def trained() -> tuple[Chain, str]:
    chain = automl_chain()
    upload(chain)
    settle(chain)
    (run_id,) = chain.run_ids()
    return chain, run_id


def repeat(chain: Chain) -> None:
    chain.handle(chain.retrain(force=True))
    drain(chain)


def minutes(chain: Chain, count: int = 1) -> None:
    """Time goes on, and Google's operations, but no training ends."""
    for _ in range(count):
        chain.automl.finish_operations()
        for job in chain.unfinished_jobs():
            chain.train(job, hints=False)
        chain.tick()
        drain(chain)


def works(chain: Chain) -> dict[str, object]:
    return chain.service("training_launcher").ticks._works


def delete_unneeded(chain: Chain, run_id: str) -> Delivery:
    """A look at the data set of a run, by what deletes those that no run needs."""
    what = f"flowers/{key_of(chain.ledger.read_run(run_id))}"

    def handle() -> Outcome:
        return done(works(chain)["dataset"].advance(what).message)  # type: ignore[attr-defined]

    return Delivery("training_launcher/dataset", handle)


def account(chain: Chain, run_id: str) -> Account:
    return read_account(chain.ledger, "flowers", chain.ledger.read_run(run_id).created_at[:7])


# Deleting --------------------------------------------------------------------------------------------------------


def test_an_instance_that_wakes_up_late_does_not_delete_the_data_set_that_was_made_since() -> None:
    chain, run_id = trained()
    (old,) = chain.automl.datasets
    chain.clock.advance(KEPT_SECONDS)

    def others() -> None:
        minutes(chain, 8)
        repeat(chain)
        minutes(chain, 8)
        assert chain.ledger.read_launch(f"{run_id}-r2", "cloud").document.state is State.TRAINING

    chain.interfere = frozen = Meanwhile("automl.find_datasets", others)
    chain.tick()
    frozen.check()
    chain.automl.finish_operations()
    (new,) = chain.automl.datasets
    assert new != old
    settle(chain, ticks=40)
    check_trained(chain, f"{run_id}-r2")


def test_a_run_that_enters_just_before_a_data_set_is_deleted_keeps_it() -> None:
    chain, run_id = trained()
    chain.clock.advance(KEPT_SECONDS)
    chain.interfere = frozen = Meanwhile("ledger.put", lambda: repeat(chain))
    chain.handle(delete_unneeded(chain, run_id))
    frozen.check()

    found = managed_data(chain)
    assert found is not None
    assert (found.step, found.users) == (READY, (f"{run_id}-r2",))
    assert chain.automl.faults.calls["start_delete_dataset"] == 0


def test_an_instance_that_records_too_late_that_a_data_set_is_deleted_forgets_no_run_that_entered_since() -> None:
    chain, run_id = trained()
    chain.clock.advance(KEPT_SECONDS)
    chain.handle(delete_unneeded(chain, run_id))
    chain.automl.finish_operations()
    assert chain.automl.datasets == {}

    def others() -> None:
        chain.handle(delete_unneeded(chain, run_id))
        repeat(chain)

    chain.interfere = frozen = Meanwhile("ledger.put", others)
    chain.handle(delete_unneeded(chain, run_id))
    frozen.check()

    assert managed_data(chain).users == (f"{run_id}-r2",)  # type: ignore[union-attr]


def test_a_data_set_whose_last_run_died_while_it_left_is_deleted_after_a_day() -> None:
    chain = automl_chain()
    upload(chain)

    def it_has_begun_to_leave() -> bool:
        found = managed_data(chain)
        is_due = any("/dataset/" in name for name in chain.ledger_store.names())
        return found is not None and (is_due or not found.users)

    chain.interfere = dies = Dies("ledger.put", "after", it_is=it_has_begun_to_leave)
    settle(chain, ticks=40)
    assert dies.happened
    chain.clock.advance(KEPT_SECONDS)
    minutes(chain, 4)

    assert chain.automl.datasets == {}


def test_a_data_set_that_cannot_be_deleted_keeps_no_run_from_it() -> None:
    chain, run_id = trained()
    chain.clock.advance(KEPT_SECONDS)
    chain.automl.faults.plan("start_delete_dataset", *[Failing(RejectedByGoogle("403: not you"))] * 20)
    for _ in range(3):
        chain.tick()
    repeat(chain)
    settle(chain, ticks=40)

    check_trained(chain, f"{run_id}-r2")


# Leaving ---------------------------------------------------------------------------------------------------------


def give_up(chain: Chain, run_id: str) -> None:
    works(chain)["launch"].give_up(run_id, "its process died each time")  # type: ignore[attr-defined]


def leaving(chain: Chain, run_id: str) -> Delivery:
    def handle() -> Outcome:
        give_up(chain, run_id)
        return done("given up")

    return Delivery("training_launcher/launch", handle)


def test_a_run_that_enters_while_another_leaves_has_its_pictures_prepared() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "prepare")
    (run_id,) = chain.run_ids()

    def enter() -> None:
        repeat(chain)
        chain.tick()

    chain.interfere = other = Meanwhile("vertex.cancel_custom_job", enter)
    chain.handle(leaving(chain, run_id))
    other.check()
    settle(chain, ticks=40)
    check_trained(chain, f"{run_id}-r2")
    check_tidy(chain)


def created_and_not_recorded() -> Chain:
    """The process that created the job which prepares the pictures has died at that."""
    chain = automl_chain()
    upload(chain)
    chain.interfere = dies = Dies("vertex.create_custom_job", "after")
    for _ in range(4):
        drain(chain)
        if dies.happened:
            break
        chain.tick()
    assert dies.happened
    assert managed_data(chain).job == ""  # type: ignore[union-attr]
    return chain


def test_a_job_that_was_created_and_not_recorded_ends_with_the_run_that_needed_it() -> None:
    chain = created_and_not_recorded()
    (run_id,) = chain.run_ids()
    give_up(chain, run_id)

    assert chain.unfinished_jobs() == []


def test_a_job_that_was_created_and_not_recorded_finds_what_it_is_to_do() -> None:
    chain = created_and_not_recorded()
    key = managed_data(chain).key  # type: ignore[union-attr]

    assert chain.models.read(automl.preparation_name("flowers", key, 1)).data


# Two runs at once ------------------------------------------------------------------------------------------------


def test_two_runs_that_are_ready_in_the_same_minute_train_the_first_version_one_after_the_other() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "prepare")
    repeat(chain)
    asked: list[str] = []

    def another_run() -> None:
        chain.interfere = lambda _number, name, when: asked.append(name) if when == "before" else None
        for key in (f"launch/{each}" for each in chain.run_ids()):
            chain.handle(advance(chain, key))

    chain.interfere = other = Meanwhile("automl.create_pipeline", another_run)
    for _ in range(8):
        minutes(chain)
        if other.happened:
            break
    other.check()
    assert "automl.find_pipelines" in asked
    # Of the cloud's: Google would take both, and the later one would fail once it is paid for.
    assert asked.count("automl.create_pipeline") <= 1
    settle(chain, ticks=60)
    for run_id in chain.run_ids():
        check_trained(chain, run_id)


def advance(chain: Chain, key: str) -> Delivery:
    return Delivery("training_launcher/advance", lambda: chain.service("training_launcher").ticks.now(key))


# Paying ----------------------------------------------------------------------------------------------------------


def test_what_a_run_has_paid_for_preparing_stays_on_its_account() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "prepare")
    (run_id,) = chain.run_ids()
    (job,) = chain.vertex.jobs
    started = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1800)
    chain.vertex.jobs[job] = dataclasses.replace(chain.vertex.jobs[job], started=started)
    chain.vertex.end_job(job, "JOB_STATE_FAILED", error="exit status 1")
    settle(chain)
    paid = account(chain, run_id).jobs[f"{run_id}/data"].actual_usd
    assert paid
    repeat(chain)
    settle(chain, ticks=40)
    assert managed_data(chain).payer == f"{run_id}-r2"
    works(chain)["launch"].advance(run_id)  # type: ignore[attr-defined]

    assert account(chain, run_id).jobs[f"{run_id}/data"].actual_usd == paid


def test_a_job_without_a_machine_forgets_no_run_that_entered_meanwhile() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "prepare")
    (job,) = chain.vertex.jobs
    chain.vertex.end_job(job, "JOB_STATE_FAILED", error="Machine type temporarily unavailable", code=8)

    check_entered_meanwhile(chain, "vertex.get_custom_job")


def test_a_step_that_is_done_forgets_no_run_that_entered_meanwhile() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "import")
    chain.automl.finish_operations()
    check_entered_meanwhile(chain, "automl.operation")


def check_entered_meanwhile(chain: Chain, operation: str) -> None:
    """At the answer of an operation another run enters; the next minute forgets neither."""
    (run_id,) = chain.run_ids()

    def entered(found: ManagedData | None) -> ManagedData | None:
        return found and found.changed(users=(*found.users, "other"))

    def enter() -> None:
        name = next(each for each in chain.ledger_store.names() if each.startswith("automl/"))
        chain.ledger.update(name, ManagedData, entered)

    chain.interfere = other = Meanwhile(operation, enter, "after")
    chain.tick()
    drain(chain)
    other.check()
    assert set(managed_data(chain).users) == {run_id, "other"}  # type: ignore[union-attr]


def test_a_pipeline_that_someone_deleted_is_not_called_free() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "ready")
    chain.tick()
    (run_id,) = chain.run_ids()
    gone = chain.ledger.read_launch(run_id, "cloud").document.job
    chain.clock.advance(3600)
    del chain.automl.pipelines[gone]
    settle(chain)

    entry = account(chain, run_id).jobs[f"{run_id}/cloud"]
    assert chain.ledger.read_launch(run_id, "cloud").document.state is State.FAILED
    assert entry.counts_usd == pytest.approx(27.72)
