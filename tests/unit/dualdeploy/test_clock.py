"""Times travel as RFC 3339 text."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualdeploy.clock import from_text, to_text, utc_now


def test_a_time_is_written_in_utc_with_milliseconds() -> None:
    east = datetime.timezone(datetime.timedelta(hours=2))

    assert to_text(datetime.datetime(2026, 11, 23, 6, 40, 0, 123999, tzinfo=east)) == "2026-11-23T04:40:00.123Z"


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T04:40:00Z",
        "2026-11-23T04:40:00.000000000Z",
        "2026-11-23T06:40:00+02:00",
        "2026-11-22T20:40:00.000-08:00",
    ],
)
def test_any_offset_and_any_fraction_is_read_as_the_same_moment(text: str) -> None:
    assert from_text(text) == datetime.datetime(2026, 11, 23, 4, 40, tzinfo=datetime.UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-23", "2026-11-23T04:40:00", "2026-13-01T00:00:00Z"])
def test_what_is_not_a_time_or_has_no_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_text(text)


@settings(deadline=None)  # a loaded machine says nothing of the code
@given(st.datetimes(timezones=st.just(datetime.UTC)))
def test_reading_what_was_written_loses_less_than_a_millisecond(moment: datetime.datetime) -> None:
    lost = moment - from_text(to_text(moment))

    assert datetime.timedelta(0) <= lost < datetime.timedelta(milliseconds=1)


def test_now_is_aware_and_in_utc() -> None:
    assert utc_now().utcoffset() == datetime.timedelta(0)
