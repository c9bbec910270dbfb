"""Calling a training job off, at the local cloud and at the fake."""

from __future__ import annotations

from typing import Any

import pytest

from dualdeploy.google.vertex import JobOutcome
from support.fakes import FakeVertex


def await_outcome(vertex_side: Any, name: str) -> JobOutcome:
    """The outcome of a job that is being cancelled: Vertex AI takes its time."""
    if isinstance(vertex_side.vertex, FakeVertex):
        return vertex_side.vertex.get_custom_job(name).outcome
    vertex_side.end_job(name)
    return vertex_side.vertex.get_custom_job(name).outcome


def test_a_job_that_is_cancelled_ends_as_cancelled_however_often_it_is_asked_to(vertex_side: Any, specs: Any) -> None:
    created = vertex_side.vertex.create_custom_job(specs.job("forever"))
    vertex_side.vertex.cancel_custom_job(created.name)
    vertex_side.vertex.cancel_custom_job(created.name)

    assert await_outcome(vertex_side, created.name) is JobOutcome.CANCELLED
    vertex_side.vertex.cancel_custom_job(created.name)


def test_a_job_that_has_ended_keeps_its_outcome_when_it_is_cancelled(vertex_side: Any, specs: Any) -> None:
    created = vertex_side.vertex.create_custom_job(specs.job("0"))
    vertex_side.end_job(created.name)

    vertex_side.vertex.cancel_custom_job(created.name)

    assert vertex_side.vertex.get_custom_job(created.name).outcome is JobOutcome.SUCCEEDED


@pytest.mark.usefixtures("specs")
def test_a_job_that_is_not_there_needs_no_cancelling(vertex_side: Any) -> None:
    parent = "projects/demo-dualdeploy/locations/us-central1"
    vertex_side.vertex.cancel_custom_job(f"{parent}/customJobs/4821053374188847104")
