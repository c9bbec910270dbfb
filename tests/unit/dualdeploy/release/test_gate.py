"""The gate's verdict names every rule, with the figure and the limit."""

from __future__ import annotations

import math

import pytest

from dualdeploy.contracts.training import Metrics
from dualdeploy.release.gate import Rule, Verdict, judge_against_live, judge_cloud, judge_mobile


def measured(accuracy: float, **figures: float | None) -> Metrics:
    return Metrics.model_construct(accuracy=accuracy, loss=0.1, examples=40, **figures)


@pytest.mark.parametrize(
    ("accuracy", "passed"), [(0.86, True), (0.85, True), (0.8499, False), (0.0, False), (math.nan, False)]
)
def test_a_cloud_model_passes_at_its_limit_and_not_below(accuracy: float, passed: bool) -> None:
    assert judge_cloud(measured(accuracy), min_accuracy=0.85).passed is passed


def test_without_a_limit_any_measured_accuracy_passes_but_not_a_missing_one() -> None:
    assert judge_cloud(measured(0.0), min_accuracy=0.0).passed
    assert not judge_cloud(measured(math.nan), min_accuracy=0.0).passed


@pytest.mark.parametrize(("size_bytes", "passed"), [(8_000_000, True), (8_000_001, False), (8 << 20, False), (0, True)])
def test_a_megabyte_is_a_million_bytes(size_bytes: int, passed: bool) -> None:
    verdict = judge_mobile(accuracy=1.0, min_accuracy=0.8, size_bytes=size_bytes, max_size_mb=8)

    assert verdict.passed is passed


def test_a_rejection_begins_with_what_failed() -> None:
    verdict = judge_mobile(accuracy=0.9, min_accuracy=0.8, size_bytes=9_500_000, max_size_mb=8)

    assert verdict.describe() == "size_mb 9.5 <= 8: failed; accuracy 0.9 >= 0.8: passed"


def test_the_facts_are_plain_values_for_the_ledger() -> None:
    facts = judge_cloud(measured(0.9), min_accuracy=0.85).as_facts()

    rule = {"name": "accuracy", "figure": 0.9, "limit": 0.85, "comparison": ">=", "passed": True}
    assert facts == {"passed": True, "rules": [rule]}


def test_one_failed_rule_fails_the_verdict() -> None:
    good, bad = Rule("a", 1, 0, ">="), Rule("b", 1, 0, "<=")

    assert Verdict([good]).passed
    assert not Verdict([good, bad]).passed


def test_a_model_that_is_too_slow_or_too_sure_of_itself_does_not_pass() -> None:
    limits = {"min_accuracy": 0.8, "max_calibration_error": 0.1, "max_latency": 0.2}

    assert judge_cloud(measured(0.9, calibration_error=0.1, latency_seconds=0.2), **limits).passed
    slow = judge_cloud(measured(0.9, calibration_error=0.1, latency_seconds=0.21), **limits)
    assert slow.describe().startswith("latency_seconds 0.21 <= 0.2: failed")
    unsure = judge_cloud(measured(0.9, calibration_error=0.11, latency_seconds=0.2), **limits)
    assert unsure.describe().startswith("calibration_error 0.11 <= 0.1: failed")


def test_a_rule_whose_figure_was_not_measured_is_named() -> None:
    verdict = judge_cloud(measured(0.9), min_accuracy=0.8, max_calibration_error=0.1, max_latency=0.2)

    assert verdict.not_judged == [
        "calibration_error: the trainer did not measure it",
        "latency_seconds: the trainer did not measure it",
    ]


def test_against_the_live_model_calibration_and_latency_count_where_both_have_them() -> None:
    limits = {
        "max_regression": None,
        "max_class_regression": None,
        "max_calibration_regression": 0.02,
        "max_latency_ratio": 3.0,
    }
    live = measured(0.9, calibration_error=0.05, latency_seconds=0.01)

    good = judge_against_live(measured(0.9, calibration_error=0.07, latency_seconds=0.03), live, **limits)
    passed = [(rule.name, rule.passed) for rule in good.rules]
    assert passed == [("calibration_regression", True), ("latency_ratio", True)]
    bad = judge_against_live(measured(0.9, calibration_error=0.08, latency_seconds=0.031), live, **limits)
    assert not any(rule.passed for rule in bad.rules)
    for mine, theirs, who in ((measured(0.9), live, "this model"), (live, measured(0.9), "the model that serves")):
        verdict = judge_against_live(mine, theirs, **limits)
        assert verdict.rules == []
        assert verdict.not_judged == [
            f"calibration_regression: {who} was not measured for it",
            f"latency_ratio: {who} was not measured for it",
        ]
