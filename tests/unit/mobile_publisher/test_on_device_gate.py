"""The limits of gates.mobile against the figures of a file."""

from __future__ import annotations

import pytest

from dualdeploy.contracts.dataset_config import MobileGate
from mobile_publisher.on_device_gate import Figures, judge

GOOD = Figures(
    accuracy=0.9,
    size_bytes=2_000_000,
    float_accuracy=0.92,
    worst_class_loss=0.1,
    live_accuracy=0.91,
    cloud_agreement=0.85,
    latency_ms=12.0,
    peak_memory_mb=30.0,
)


@pytest.mark.parametrize(
    ("limit", "just_enough", "too_strict"),
    [
        ("min_accuracy", 0.9, 0.901),
        ("max_size_mb", 2.0, 1.999),
        ("max_conversion_loss", 0.02, 0.019),
        ("max_class_loss", 0.1, 0.099),
        ("max_regression", 0.01, 0.009),
        ("min_cloud_agreement", 0.85, 0.851),
        ("max_latency_ms", 12.0, 11.9),
        ("max_memory_mb", 30.0, 29.9),
    ],
)
def test_every_limit_holds_at_its_edge_and_not_beyond(limit: str, just_enough: float, too_strict: float) -> None:
    assert judge(GOOD, MobileGate(**{limit: just_enough})).passed
    verdict = judge(GOOD, MobileGate(**{limit: too_strict}))
    assert not verdict.passed
    assert "failed" in verdict.describe().split(";")[0]


def test_what_cannot_be_compared_is_not_a_rule() -> None:
    first = Figures(accuracy=0.9, size_bytes=1)
    limits = MobileGate(
        max_regression=0.0, min_cloud_agreement=1.0, max_class_loss=0.0, max_latency_ms=0.001, max_memory_mb=1
    )
    assert [rule.name for rule in judge(first, limits).rules] == ["accuracy", "size_mb"]


def test_a_file_that_lost_its_accuracy_in_conversion_is_refused_without_any_configuration() -> None:
    collapsed = Figures(accuracy=0.25, size_bytes=1, float_accuracy=0.95)
    assert not judge(collapsed, MobileGate()).passed
    assert judge(collapsed, MobileGate(max_conversion_loss=None)).passed


def test_figures_of_another_version_are_judged_by_those_that_are_known() -> None:
    figures = Figures.model_validate({"accuracy": 0.9, "size_bytes": 2_000_000, "carbon_grams": 4.0})
    assert judge(figures, MobileGate(min_accuracy=0.8)).passed
