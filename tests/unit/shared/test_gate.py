"""The gate's verdict names every rule, with the figure and the limit."""

from __future__ import annotations

import math

import pytest

from dualdeploy.gate import Rule, Verdict, judge_cloud, judge_mobile


@pytest.mark.parametrize(
    ("accuracy", "passed"), [(0.86, True), (0.85, True), (0.8499, False), (0.0, False), (math.nan, False)]
)
def test_a_cloud_model_passes_at_its_limit_and_not_below(accuracy: float, passed: bool) -> None:
    assert judge_cloud(accuracy=accuracy, min_accuracy=0.85).passed is passed


def test_without_a_limit_any_measured_accuracy_passes_but_not_a_missing_one() -> None:
    assert judge_cloud(accuracy=0.0, min_accuracy=0.0).passed
    assert not judge_cloud(accuracy=math.nan, min_accuracy=0.0).passed


@pytest.mark.parametrize(("size_bytes", "passed"), [(8_000_000, True), (8_000_001, False), (8 << 20, False), (0, True)])
def test_a_megabyte_is_a_million_bytes(size_bytes: int, passed: bool) -> None:
    verdict = judge_mobile(accuracy=1.0, min_accuracy=0.8, size_bytes=size_bytes, max_size_mb=8)

    assert verdict.passed is passed


def test_a_rejection_begins_with_what_failed() -> None:
    verdict = judge_mobile(accuracy=0.9, min_accuracy=0.8, size_bytes=9_500_000, max_size_mb=8)

    assert verdict.describe() == "size_mb 9.5 <= 8: failed; accuracy 0.9 >= 0.8: passed"


def test_the_facts_are_plain_values_for_the_ledger() -> None:
    facts = judge_cloud(accuracy=0.9, min_accuracy=0.85).as_facts()

    rule = {"name": "accuracy", "figure": 0.9, "limit": 0.85, "comparison": ">=", "passed": True}
    assert facts == {"passed": True, "rules": [rule]}


def test_one_failed_rule_fails_the_verdict() -> None:
    good, bad = Rule("a", 1, 0, ">="), Rule("b", 1, 0, "<=")

    assert Verdict([good]).passed
    assert not Verdict([good, bad]).passed
