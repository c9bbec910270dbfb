"""List filters: the part of AIP-160 that Vertex AI documents."""

from __future__ import annotations

import pytest

from local_cloud.api import ApiError
from local_cloud.vertex.filters import (
    compile_filter,
    enum_field,
    id_field,
    labels_field,
    tags_field,
    text_field,
    time_field,
)

FIELDS = {
    "display_name": text_field("displayName", "= != :"),
    "state": enum_field("state", frozenset({"JOB_STATE_RUNNING", "JOB_STATE_FAILED"})),
    "create_time": time_field("createTime"),
    "labels": labels_field(),
    "tags": tags_field("tags"),
    "model": id_field(),
}
JOB = {
    "name": "projects/p/locations/l/customJobs/12",
    "displayName": "train flowers",
    "state": "JOB_STATE_RUNNING",
    "createTime": "2026-11-22T10:00:00.123456Z",
    "labels": {"run": "flowers-1a2b", "data-set": "a.b"},
    "tags": ["live"],
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        "labels.run=flowers-1a2b",
        'labels.run="flowers-1a2b"',
        "labels.run = 'flowers-1a2b'",
        'labels."data-set"="a.b"',
        'labels."data-set"=a.b',
        "labels.run:*",
        "labels:run",
        "labels.run:flowers-1a2b",
        'labels.other!="x"',
        'state="JOB_STATE_RUNNING" AND labels.run:*',
        'state="JOB_STATE_RUNNING" labels.run:*',
        'NOT state="JOB_STATE_FAILED"',
        'state!="JOB_STATE_FAILED" OR display_name="x"',
        'display_name:"train*"',
        'displayName="train flowers"',
        '(labels.run="x" OR labels.run="flowers-1a2b") AND model=12',
        'create_time>"2026-11-22T00:00:00Z" AND create_time<="2026-11-22T10:00:00.123456Z"',
        'create_time<"2026-11-22T12:00:00+01:00"',
        "tags:live",
        r'display_name!="a \"quoted\" name"',
    ],
)
def test_a_filter_that_describes_the_job_matches_it(text: str | None) -> None:
    assert compile_filter(text, FIELDS)(JOB)


@pytest.mark.parametrize(
    "text",
    [
        "labels.run=flowers",
        "labels.other:*",
        "labels:other",
        'NOT labels.run="flowers-1a2b"',
        'state="JOB_STATE_FAILED"',
        'display_name:"flowers*"',
        'create_time<"2026-11-22T00:00:00Z"',
        "tags:dead",
        "model=1",
    ],
)
def test_a_filter_that_describes_another_job_does_not(text: str) -> None:
    assert not compile_filter(text, FIELDS)(JOB)


def test_or_binds_tighter_than_and_as_aip_160_says() -> None:
    # Read as (state=FAILED) AND (run=x OR run:*), not as (state=FAILED AND run=x) OR run:*.
    assert not compile_filter('state="JOB_STATE_FAILED" AND labels.run=x OR labels.run:*', FIELDS)(JOB)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nonsense=1", "nonsense"),
        ("labels.data-set=x", "quotes"),
        ("labels=x", "labels.key=value"),
        ('state="RUNNING"', "RUNNING"),
        ('state>"JOB_STATE_RUNNING"', "'>'"),
        ("display_name", "too early"),
        ("display_name=", "too early"),
        ("(labels.run:*", "too early"),
        ("labels.run:* )", "unexpected"),
        ('create_time>"yesterday"', "RFC 3339"),
        ('display_name="x', "cannot read"),
        ("display_name.first=x", "members"),
        ("=x", "expected word"),
    ],
)
def test_a_filter_that_cannot_be_understood_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ApiError, match=named) as refusal:
        compile_filter(text, FIELDS)
    assert (refusal.value.code, refusal.value.status) == (400, "INVALID_ARGUMENT")
