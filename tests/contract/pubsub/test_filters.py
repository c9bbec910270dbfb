"""Subscription filters, seen from outside; the language itself is tested with the compiler."""

from __future__ import annotations

import pytest
from google.api_core import exceptions

MESSAGES = [{"target": "cloud"}, {"target": "mobile"}, {"target": "cloud", "outcome": "failed"}, {"other": "x"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('attributes.target = "cloud"', [0, 2]),
        ('attributes.target != "cloud"', [1, 3]),
        ("attributes:outcome", [2]),
        ('hasPrefix(attributes.target, "mob")', [1]),
        ('NOT attributes:target OR -(attributes.target = "cloud")', [1, 3]),
        ('attributes.target = "cloud" AND NOT attributes:outcome', [0]),
    ],
)
@pytest.mark.emulator_differs("stores filters and does not apply them")
def test_a_subscription_gets_only_what_its_filter_matches(cloud, text, expected):
    cloud.topic()
    cloud.subscription(filter=text)
    for number, attributes in enumerate(MESSAGES):
        cloud.publish(str(number).encode(), **attributes)
    received = cloud.pull_all(count=len(expected))
    assert sorted(int(one.message.data) for one in received) == expected
    assert cloud.pull(timeout=0.1) == []


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("attributes.target = cloud", 21),
        ('attributes.target == "cloud"', 20),
        ('attributes.a = "b" AND attributes:c OR attributes:d', 37),
        ('attributes.a = "b" and attributes:c', 20),
        ('data = "x"', 1),
    ],
)
@pytest.mark.emulator_differs("accepts filters that the service refuses")
def test_a_filter_outside_the_language_is_refused_with_the_place(cloud, text, character):
    cloud.topic()
    with pytest.raises(exceptions.InvalidArgument, match=f"at character {character}:"):
        cloud.subscription(filter=text)


def test_a_filter_can_be_read_back(cloud):
    cloud.topic()
    name = cloud.subscription(filter='attributes.target = "cloud"')
    assert cloud.subscriber.get_subscription(subscription=name).filter == 'attributes.target = "cloud"'
