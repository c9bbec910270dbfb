"""How long a message waits after a failed delivery."""

from __future__ import annotations

import datetime

import pytest
from google.pubsub_v1 import types
from hypothesis import given
from hypothesis import strategies as st

from local_cloud.pubsub.retry import RetrySchedule, schedule_of


def _seconds(value):
    return datetime.timedelta(seconds=value)


def _schedule(**fields):
    return schedule_of(types.Subscription.pb(types.Subscription(fields)))


@given(minimum=st.floats(0, 600), extra=st.floats(0, 600), attempts=st.integers(1, 10_000))
def test_every_wait_is_between_the_bounds_and_never_shorter_than_the_one_before(minimum, extra, attempts):
    schedule = RetrySchedule(minimum, minimum + extra)
    assert minimum <= schedule.delay(attempts) <= schedule.delay(attempts + 1) <= minimum + extra


def test_the_wait_doubles_up_to_the_maximum():
    schedule = RetrySchedule(10, 60)
    assert [schedule.delay(attempts) for attempts in range(1, 6)] == [10, 20, 40, 60, 60]


def test_a_pull_subscription_without_a_policy_redelivers_at_once():
    assert _schedule().delay(7) == 0


def test_a_push_subscription_without_a_policy_backs_off_from_a_tenth_of_a_second_to_a_minute():
    schedule = _schedule(push_config={"push_endpoint": "http://localhost"})
    assert schedule.delay(1) == pytest.approx(0.1)
    assert schedule.delay(100) == 60


def test_a_policy_without_bounds_has_googles():
    schedule = _schedule(retry_policy={})
    assert (schedule.delay(1), schedule.delay(100)) == (10, 600)


def test_a_policy_keeps_the_bounds_it_gives():
    schedule = _schedule(retry_policy={"minimum_backoff": _seconds(0), "maximum_backoff": _seconds(5)})
    assert schedule.delay(50) == 0
    schedule = _schedule(retry_policy={"minimum_backoff": _seconds(1.5), "maximum_backoff": _seconds(5)})
    assert [schedule.delay(attempts) for attempts in (1, 2, 3)] == [1.5, 3, 5]
