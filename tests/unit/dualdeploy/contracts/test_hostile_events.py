"""Whatever comes in, the edge either reads it or says MalformedEvent; nothing else may escape."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualdeploy.contracts import events
from dualdeploy.contracts.events import Envelope, unwrap
from dualdeploy.errors import MalformedEvent
from support.nested import nested

#: How long an example takes says something of the machine's load and nothing of the code.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PARSERS = (
    events.parse_object_finalized,
    events.parse_retrain_requested,
    events.parse_training_job_logged,
    events.parse_training_completed,
)

#: Every key that some parser looks at, so that arbitrary documents come near to real ones.
KEYS = st.sampled_from(
    (
        *("bucket", "name", "generation", "size", "dataset", "reason", "force", "v", "resource", "labels", "job_id"),
        *("run_id", "target", "outcome", "message", "data", "attributes", "messageId", "message_id"),
        *("deliveryAttempt", "subscription", "id", "source", "type", "data_base64"),
    )
)
JSON = nested(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", "cloud", "succeeded", "google.cloud.pubsub.topic.v1.messagePublished"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=6),
)
HEADERS: st.SearchStrategy[Mapping[str, str]] = st.dictionaries(
    st.sampled_from(["ce-type", "ce-id", "ce-source", "Content-Type"]),
    st.text() | st.sampled_from(["application/cloudevents+json", "google.cloud.pubsub.topic.v1.messagePublished"]),
)


def receive(body: bytes, headers: Mapping[str, str]) -> None:
    with contextlib.suppress(MalformedEvent):
        envelope = unwrap(body, headers=headers)
        for parse in PARSERS:
            with contextlib.suppress(MalformedEvent):
                parse(envelope)


@UNHURRIED
@given(body=st.binary(), headers=HEADERS)
def test_arbitrary_bytes_raise_nothing_but_malformed_event(body: bytes, headers: Mapping[str, str]) -> None:
    receive(body, headers)


@settings(UNHURRIED, max_examples=300)
@given(document=JSON, headers=HEADERS)
def test_arbitrary_json_raises_nothing_but_malformed_event(document: Any, headers: Mapping[str, str]) -> None:
    receive(json.dumps(document).encode(), headers)


@settings(UNHURRIED, max_examples=300)
@given(payload=JSON, message=st.dictionaries(KEYS, JSON, max_size=3))
def test_arbitrary_payloads_in_a_push_raise_nothing_but_malformed_event(payload: Any, message: dict[str, Any]) -> None:
    data = base64.b64encode(json.dumps(payload).encode()).decode()
    receive(json.dumps({"message": {"data": data, **message}}).encode(), {})


@UNHURRIED
@given(data=st.binary(), attributes=st.dictionaries(st.text(), st.text(), max_size=4))
def test_any_message_that_pubsub_can_carry_arrives_as_it_was_sent(data: bytes, attributes: dict[str, str]) -> None:
    message = {"messageId": "1", "data": base64.b64encode(data).decode(), "attributes": attributes}

    envelope = unwrap(json.dumps({"message": message}).encode(), headers={})

    assert (envelope.data, envelope.attributes) == (data, attributes)


@pytest.mark.parametrize("parse", PARSERS[:-1])
@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5_000, b'{"generation": Infinity}'])
def test_json_bombs_are_malformed(parse: Any, data: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse(Envelope(event_id="1", data=data))
