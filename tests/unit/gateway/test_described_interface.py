"""What gateway describes in /openapi.json, judged by Schemathesis: it makes requests, and are answers as said?"""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dualdeploy.errors import ServiceUnavailable

AS_DESCRIBED = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def schema(world: Any) -> Any:
    world.settings = dataclasses.replace(world.settings, user_burst=10_000, app_per_second=10_000.0)
    return schemathesis.openapi.from_wsgi("/openapi.json", world.client.application)


def answers(schema: Any, headers: dict[str, str], checks: list[Any], *, dataset: str = "") -> list[Any]:
    """The answers to requests to every operation, each of them judged; `dataset` instead of made-up ones."""
    found = []
    for operation in schema.get_all_operations():

        @hypothesis.settings(max_examples=50, deadline=None, database=None)
        @hypothesis.given(case=operation.ok().as_strategy())
        def ask(case: Any) -> None:
            if dataset and case.path_parameters:
                case.path_parameters["dataset"] = dataset
            answer = case.call(headers=headers)
            case.validate_response(answer, checks=checks)
            found.append(answer)

        ask()
    return found


def test_while_a_model_serves_every_answer_is_as_described_and_none_is_a_failure(schema: Any, world: Any) -> None:
    found = answers(schema, world.headers(), [not_a_server_error, *AS_DESCRIBED], dataset="flowers")
    assert 200 in {answer.status_code for answer in found}


def test_while_none_does_that_is_what_is_said(schema: Any, world: Any) -> None:
    def away() -> None:
        raise ServiceUnavailable("503")

    world.endpoints.act = away
    failed = [each for each in answers(schema, world.headers(), AS_DESCRIBED) if each.status_code >= 500]
    assert {each.status_code for each in failed} == {503}
    assert {each.json()["reason"] for each in failed} <= {"endpoint", "nothing_serves"}
    assert all(int(each.headers["retry-after"][0]) > 0 for each in failed)
