"""AutoML's half of the chain, killed and frozen at every operation: one data set, one pipeline each, all of it paid."""

from __future__ import annotations

import functools
import threading

import pytest

from support.automl_chain import TRAINING, automl_chain, check_tidy, check_trained, settle, upload, work
from support.chain import Chain
from support.fakes.failing import When
from support.stories import Once, fail, kill, spread


def told(disturb: Once | None = None) -> Chain:
    """From shards to two trained models, with something done at one operation."""
    chain = automl_chain()
    if disturb:
        chain.interfere = disturb
    upload(chain)
    settle(chain, ticks=60)
    return chain


def check(chain: Chain) -> None:
    (run_id,) = chain.run_ids()
    check_trained(chain, run_id)
    check_tidy(chain)


@functools.cache
def undisturbed() -> Chain:
    chain = told()
    check(chain)
    return chain


def what_is_wrong(disturb: Once) -> str:
    chain = told(disturb)
    try:
        assert disturb.operation, "it never happened"
        check(chain)
    except AssertionError as exc:
        return f"{disturb.when} operation {disturb.number} ({disturb.operation}): {exc}"
    return ""


def test_an_undisturbed_run_has_operations_of_every_kind() -> None:
    for kind in (
        "automl.find_datasets",
        "automl.start_create_dataset",
        "automl.start_import",
        "automl.operation",
        "automl.create_pipeline",
        "automl.get_pipeline",
        "automl.find_evaluation",
        "models.put",
    ):
        assert kind in undisturbed().operations


@pytest.mark.parametrize("act", [kill, fail])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_dies_or_fails_at_any_operation_trains_once_all_the_same(act: object, when: When) -> None:
    chain = undisturbed()
    numbers = spread(range(len(chain.operations)) if when == "before" else chain.answered, most=24)
    wrong = [what_is_wrong(Once(number, act, when)) for number in numbers]  # type: ignore[arg-type]
    assert [each for each in wrong if each] == []


class Freeze(Once):
    """Stops an instance before one operation, and lets all others go on for some minutes."""

    def __init__(self, chain: Chain, number: int) -> None:
        super().__init__(number, self._let_the_others_go_on)
        self.problem = ""
        self._chain = chain

    def _let_the_others_go_on(self, _name: str) -> None:
        # On a thread of its own, by which the chain tells instances apart.
        others = threading.Thread(target=self._go_on)
        others.start()
        others.join()

    def _go_on(self) -> None:
        try:
            for _ in range(4):
                self._chain.tick()
                work(self._chain)
        except Exception as exc:  # noqa: BLE001  # on another thread, where it would go unseen
            self.problem = repr(exc)


def frozen(number: int) -> str:
    chain = automl_chain()
    chain.interfere = freeze = Freeze(chain, number)
    upload(chain)
    settle(chain, ticks=60)
    try:
        assert (freeze.problem, bool(freeze.operation)) == ("", True)
        # Whoever wakes up may create one more: it then sees that its own is the later one, and cancels or deletes it.
        chain.automl.finish_operations()
        check(chain)
    except AssertionError as exc:
        return f"frozen before operation {number} ({freeze.operation}): {exc}"
    return ""


def test_an_instance_that_goes_on_long_after_its_lease_does_no_harm() -> None:
    wrong = [frozen(number) for number in spread(range(len(undisturbed().operations)), most=24)]
    assert [each for each in wrong if each] == []


def test_two_versions_of_both_services_train_once_together() -> None:
    chain = automl_chain()
    for service in TRAINING:
        chain.versions[service] = [chain.compose(service), chain.compose(service)]
    turn = iter(range(1_000_000))
    chain.pick = lambda _service, versions: versions[next(turn) % len(versions)]
    upload(chain)
    settle(chain, ticks=40)
    check(chain)
