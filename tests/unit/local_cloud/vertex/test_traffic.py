"""Traffic splits and their draws."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_cloud.api import ApiError
from local_cloud.vertex import traffic


def test_shares_may_come_as_text_as_protobuf_writes_large_numbers() -> None:
    assert traffic.check({"1": "40", "2": 60}, deployed=["1", "2", "3"]) == {"1": 40, "2": 60}


def test_an_empty_split_means_no_traffic() -> None:
    assert traffic.check({}, deployed=["1"]) == {}


@pytest.mark.parametrize(
    "split", [{"1": 99}, {"1": 101}, {"1": 150, "2": -50}, {"1": "half", "2": 50}, {"3": 100}, ["1"]]
)
def test_a_split_that_google_refuses_is_refused(split: object) -> None:
    with pytest.raises(ApiError) as refusal:
        traffic.check(split, deployed=["1", "2"])
    assert refusal.value.code == 400


@given(st.dictionaries(st.sampled_from(["1", "2", "3"]), st.integers(0, 100), min_size=1))
def test_what_is_left_after_undeploying_never_points_at_what_left(current: dict[str, int]) -> None:
    try:
        left = traffic.after_undeploy(current, None, leaving="1", staying=["2", "3"])
    except ApiError:
        assert current.get("1", 0) > 0
    else:
        assert "1" not in left
        assert current.get("1", 0) == 0


def test_the_last_model_leaves_with_all_its_traffic() -> None:
    assert traffic.after_undeploy({"1": 100}, None, leaving="1", staying=[]) == {}
    assert traffic.after_undeploy({"1": 100}, {"1": 100}, leaving="1", staying=[]) == {}


def test_the_given_split_may_take_the_traffic_away() -> None:
    given_split = {"1": 0, "2": 100}
    assert traffic.after_undeploy({"1": 100}, given_split, leaving="1", staying=["2"]) == {"2": 100}
    with pytest.raises(ApiError, match="traffic assigned"):
        traffic.after_undeploy({"1": 100}, {"1": 10, "2": 90}, leaving="1", staying=["2"])


def test_a_draw_follows_the_shares_and_repeats_with_its_seed() -> None:
    first, second = traffic.Draw(3), traffic.Draw(3)
    drawn = [first.choose({"1": 95, "2": 5, "3": 0}) for _ in range(2000)]
    assert drawn == [second.choose({"1": 95, "2": 5, "3": 0}) for _ in range(2000)]
    counts = collections.Counter(drawn)
    assert 60 <= counts["2"] <= 140
    assert counts["3"] == 0
    assert first.choose({}) is None
