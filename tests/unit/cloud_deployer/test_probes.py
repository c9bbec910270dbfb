"""Traffic splits and verdicts of probes: arithmetic that decides whether a model keeps its traffic."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_deployer.probes import judge, parse_golden, percentile_95
from cloud_deployer.release import Limits, Tally
from cloud_deployer.traffic import same, with_share
from dualdeploy.contracts.dataset_config import Canary
from dualdeploy.errors import UnusableResult


@given(
    parts=st.lists(st.integers(1, 100), min_size=1, max_size=5),
    share=st.integers(1, 100),
)
def test_every_split_sums_to_100_and_gives_the_candidate_its_share(parts: list[int], share: int) -> None:
    total = sum(parts)
    before = {str(number): part * 100 // total for number, part in enumerate(parts)}
    before["0"] += 100 - sum(before.values())
    split = with_share(before, "new", share)
    assert sum(split.values()) == 100
    assert split["new"] == share
    assert all(part >= 0 for part in split.values())


def test_where_no_one_serves_the_candidate_has_everything() -> None:
    assert with_share({}, "new", 5) == {"new": 100}
    assert with_share({"old": 0}, "new", 5) == {"new": 100}


def test_a_share_of_nothing_and_none_are_the_same_split() -> None:
    assert same({"a": 100, "b": 0}, {"a": 100})
    assert not same({"a": 100}, {"b": 100})


def test_the_95th_percentile_is_the_nearest_rank() -> None:
    assert percentile_95([float(number) for number in range(1, 101)]) == 95.0
    assert percentile_95([3.0]) == 3.0


def test_one_lost_request_is_charged_to_no_one_and_the_rest_against_the_limit() -> None:
    for answers, failures, passed in ((1, 1, True), (1, 2, False), (9, 2, True), (9, 3, False), (0, 2, False)):
        tally = Tally(
            requests=answers + failures, failures=failures, agreed=answers, candidate_seconds=(0.1,) * answers
        )
        assert judge(tally, Limits(), before=Tally()).passed is passed


def test_a_model_is_as_slow_as_it_may_be_and_not_slower() -> None:
    before = Tally(requests=3, other_seconds=(0.1, 0.1, 0.1))
    for seconds, passed in ((0.45, True), (0.46, False)):
        tally = Tally(requests=1, agreed=1, candidate_seconds=(seconds,))
        assert judge(tally, Limits(), before=before).passed is passed


def test_an_absolute_limit_of_latency_holds_without_anyone_to_compare_with() -> None:
    tally = Tally(requests=1, agreed=1, candidate_seconds=(0.6,))
    assert judge(tally, Limits(), before=Tally()).passed
    assert not judge(tally, Limits(max_latency=0.5), before=Tally()).passed


def document(*pictures: dict[str, object]) -> bytes:
    return json.dumps({"v": 1, "examples": list(pictures)}).encode()


def test_of_two_classes_that_are_nearly_equal_either_answer_is_right() -> None:
    picture = {"image_bytes": {"b64": "QQ=="}, "label": "red", "probabilities": [0.4, 0.395, 0.2]}
    (golden,) = parse_golden(document(picture), labels=["blue", "red", "green"], source="gs://m/golden.json")
    assert golden.labels == {"blue", "red"}


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        document(),
        document({"image_bytes": {}, "probabilities": [1.0, 0.0]}),
        document({"image_bytes": {"b64": "!"}, "probabilities": [1.0, 0.0]}),
        document({"image_bytes": {"b64": "QQ=="}, "probabilities": [1.0]}),
    ],
)
def test_a_golden_set_that_cannot_be_used_says_where_it_lies(data: bytes) -> None:
    with pytest.raises(UnusableResult, match=r"gs://m/golden\.json is not a golden set"):
        parse_golden(data, labels=["blue", "red"], source="gs://m/golden.json")


@pytest.mark.parametrize("steps", [[], [50], [50, 25, 100], [5, 5, 100], [0, 100], [50, 101], [100, 50]])
def test_shares_that_do_not_rise_to_everything_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match="steps"):
        Canary(steps=steps)


def test_one_step_is_a_plan_too() -> None:
    assert Canary(steps=[100]).steps == (100,)
