"""Planned faults: queued per operation, consumed in order, and complained about when they never happen."""

from __future__ import annotations

import threading

import pytest

from local_cloud.faults import Faults, FaultsNotConsumed, UnknownInstruction, UnknownOperation


@pytest.fixture
def faults() -> Faults:
    faults = Faults()
    faults.register("storage.objects.insert")
    faults.register("delivery.launcher-clock")
    return faults


def test_faults_happen_once_each_and_in_order(faults: Faults) -> None:
    faults.add({"storage.objects.insert": ["return-503", "lost-response"]})
    faults.add({"storage.objects.insert": ["hang:0.5"]})
    taken = [faults.take("storage.objects.insert") for _ in range(4)]

    assert taken == ["return-503", "lost-response", "hang:0.5", None]


def test_an_operation_without_a_plan_has_no_faults(faults: Faults) -> None:
    faults.add({"storage.objects.insert": ["return-503"]})

    assert faults.take("delivery.launcher-clock") is None
    assert faults.pending() == {"storage.objects.insert": ["return-503"]}


def test_an_unknown_operation_is_refused_and_the_known_ones_are_named(faults: Faults) -> None:
    with pytest.raises(UnknownOperation, match=r"storage\.objects\.insert"):
        faults.add({"storage.objects.inserted": ["return-503"]})


@pytest.mark.parametrize("instruction", ["return-200", "hang", "hang:", "explode", "return-503 ", ""])
def test_an_unknown_instruction_is_refused(faults: Faults, instruction: str) -> None:
    with pytest.raises(UnknownInstruction):
        faults.add({"storage.objects.insert": [instruction]})


def test_a_plan_with_one_bad_line_plans_nothing(faults: Faults) -> None:
    with pytest.raises(UnknownInstruction):
        faults.add({"storage.objects.insert": ["return-503"], "delivery.launcher-clock": ["explode"]})

    assert faults.pending() == {}


def test_a_fault_that_never_happened_fails_its_test_and_is_forgotten(faults: Faults) -> None:
    with (
        pytest.raises(FaultsNotConsumed, match="lost-response"),
        faults.plan({"storage.objects.insert": ["return-503", "lost-response"]}),
    ):
        faults.take("storage.objects.insert")

    assert faults.pending() == {}


def test_a_plan_that_happened_is_quiet(faults: Faults) -> None:
    with faults.plan({"storage.objects.insert": ["return-503"]}):
        assert faults.take("storage.objects.insert") == "return-503"


def test_concurrent_takers_get_each_fault_once(faults: Faults) -> None:
    faults.add({"storage.objects.insert": ["return-503"] * 100})
    taken: list[str] = []

    def take_all() -> None:
        while (fault := faults.take("storage.objects.insert")) is not None:
            taken.append(fault)

    threads = [threading.Thread(target=take_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(taken) == 100
