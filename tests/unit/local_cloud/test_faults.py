"""Planned faults: queued per operation, consumed in order, and complained about when they never happen."""

from __future__ import annotations

import threading

import pytest

from local_cloud.faults import (
    CALL,
    EVENT_DELIVERY,
    INSTRUCTIONS,
    JOB,
    JOB_MACHINE,
    JOB_PLACEMENT,
    LONG_RUNNING_OPERATION,
    MESSAGE_DELIVERY,
    Faults,
    FaultsNotConsumed,
    UnknownInstruction,
    UnknownOperation,
)


@pytest.fixture
def faults() -> Faults:
    faults = Faults()
    faults.register("storage.objects.insert")
    faults.register("delivery.launcher-tick", MESSAGE_DELIVERY)
    faults.register("aiplatform.jobs.run", JOB)
    return faults


def test_faults_happen_once_each_and_in_order(faults: Faults) -> None:
    faults.add({"storage.objects.insert": ["return-503", "lost-response"]})
    faults.add({"storage.objects.insert": ["hang:0.5"]})
    taken = [faults.take("storage.objects.insert") for _ in range(4)]

    assert taken == ["return-503", "lost-response", "hang:0.5", None]


def test_an_operation_without_a_plan_has_no_faults(faults: Faults) -> None:
    faults.add({"storage.objects.insert": ["return-503"]})

    assert faults.take("delivery.launcher-tick") is None
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
        faults.add({"storage.objects.insert": ["return-503"], "delivery.launcher-tick": ["explode"]})

    assert faults.pending() == {}


def test_a_fault_that_never_happened_fails_its_test_and_is_forgotten(faults: Faults) -> None:
    with (
        pytest.raises(FaultsNotConsumed, match="lost-response"),
        faults.plan({"storage.objects.insert": ["return-503", "lost-response"]}),
    ):
        faults.take("storage.objects.insert")

    assert faults.pending() == {}


@pytest.mark.parametrize(
    ("operation", "instruction"),
    [
        ("storage.objects.insert", "crash"),
        ("storage.objects.insert", "duplicate"),
        ("delivery.launcher-tick", "stall"),
        ("aiplatform.jobs.run", "return-503"),
        ("aiplatform.jobs.run", "hang:1"),
    ],
)
def test_what_cannot_happen_to_an_operation_is_refused_and_what_can_is_named(
    faults: Faults, operation: str, instruction: str
) -> None:
    with pytest.raises(UnknownInstruction, match=rf"{instruction}.* {operation}.* takes .*(crash|hang:SECONDS)"):
        faults.add({operation: [instruction]})

    assert faults.pending() == {}


def test_every_instruction_can_happen_to_something_and_only_what_is_known_is_promised() -> None:
    promised = CALL | EVENT_DELIVERY | MESSAGE_DELIVERY | LONG_RUNNING_OPERATION | JOB | JOB_MACHINE | JOB_PLACEMENT

    assert promised == INSTRUCTIONS.keys()


def test_an_operation_that_is_registered_twice_takes_what_both_take(faults: Faults) -> None:
    faults.register("delivery.launcher-tick", EVENT_DELIVERY)
    faults.add({"delivery.launcher-tick": ["drop"]})
    with pytest.raises(UnknownInstruction):
        faults.add({"delivery.launcher-tick": ["reorder"]})


def test_a_failing_body_is_what_is_reported_and_its_plan_is_forgotten(faults: Faults) -> None:
    faults.add({"storage.objects.insert": ["return-500"]})
    with pytest.raises(KeyError, match="body"), faults.plan({"storage.objects.insert": ["return-503"]}):
        raise KeyError("body")

    assert faults.pending() == {"storage.objects.insert": ["return-500"]}


def test_a_plan_judges_and_forgets_only_its_own_faults(faults: Faults) -> None:
    with faults.plan({"storage.objects.insert": ["return-503"]}):
        faults.add({"storage.objects.insert": ["hang:1"], "aiplatform.jobs.run": ["crash"]})
        assert faults.take("storage.objects.insert") == "return-503"

    assert faults.pending() == {"storage.objects.insert": ["hang:1"], "aiplatform.jobs.run": ["crash"]}


def test_a_plan_within_a_plan_leaves_the_outer_one_alone(faults: Faults) -> None:
    with faults.plan({"storage.objects.insert": ["return-503"]}):
        with pytest.raises(FaultsNotConsumed, match="crash"), faults.plan({"aiplatform.jobs.run": ["crash"]}):
            pass
        assert faults.pending() == {"storage.objects.insert": ["return-503"]}
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
