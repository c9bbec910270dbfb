"""Every envelope that the platform uses, and every event inside."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
from collections.abc import Callable
from typing import Any

import pytest

from dualdeploy.contracts import events
from dualdeploy.contracts.events import (
    DeploymentCompleted,
    Envelope,
    ObjectFinalized,
    RetrainRequested,
    TrainingCompleted,
    TrainingJobLogged,
    unwrap,
)
from dualdeploy.errors import MalformedEvent, NotForUs

WRITTEN = datetime.datetime(2026, 11, 23, 4, 39, 59, 870000, datetime.UTC)
SHARD = ObjectFinalized(
    "demo-dualdeploy-data", "flowers/train-00000-of-00002.tfrecord", 1763872799870001, 2097152, WRITTEN
)
COMPLETED = TrainingCompleted("flowers-0123456789ab", "flowers", "mobile", "succeeded")
JOB = TrainingJobLogged("4821053374188847104")


def envelope_of(document: Any) -> Envelope:
    return Envelope(event_id="1", data=json.dumps(document).encode())


def push(message: Any, **outside: Any) -> bytes:
    return json.dumps({"message": message, **outside}).encode()


# Payloads as files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parse", "expected"),
    [
        ("storage_finalized_binary", events.parse_object_finalized, SHARD),
        ("storage_finalized_structured", events.parse_object_finalized, SHARD),
        (
            "pubsub_push_training_result",
            events.parse_object_finalized,
            ObjectFinalized(
                "demo-dualdeploy-models", "results/flowers-0123456789ab/cloud.json", 1763874730220104, 812, WRITTEN
            ),
        ),
        (
            "pubsub_push_retrain_requested",
            events.parse_retrain_requested,
            RetrainRequested("flowers", "new camera", True),
        ),
        ("pubsub_push_training_completed", events.parse_training_completed, COMPLETED),
        ("eventarc_training_completed", events.parse_training_completed, COMPLETED),
        ("pubsub_push_training_job_text", events.parse_training_job_logged, JOB),
        ("pubsub_push_training_job_json", events.parse_training_job_logged, JOB),
    ],
)
def test_a_real_payload_becomes_its_event(
    name: str, parse: Callable[[Envelope], Any], expected: Any, delivery: Callable[[str], Any]
) -> None:
    headers, body = delivery(name)

    assert parse(unwrap(body, headers=headers)) == expected


@pytest.mark.parametrize(
    ("name", "parse", "complaint"),
    [
        (
            "pubsub_push_retrain_requested_unknown_key",
            events.parse_retrain_requested,
            r"unknown keys \['forced'\]: send dataset",
        ),
        ("pubsub_push_training_completed_version_2", events.parse_training_completed, "version 2 is unknown"),
        ("pubsub_push_training_completed_attributes_only", events.parse_training_completed, "run_id is missing"),
        ("pubsub_push_log_of_another_resource", events.parse_training_job_logged, "job_id"),
        ("pubsub_push_not_json", events.parse_retrain_requested, "not JSON"),
        ("pubsub_push_tick", events.parse_object_finalized, "not a Cloud Storage object resource: bucket is missing"),
    ],
)
def test_a_payload_that_is_not_its_event_says_why(
    name: str, parse: Callable[[Envelope], Any], complaint: str, delivery: Callable[[str], Any]
) -> None:
    headers, body = delivery(name)
    envelope = unwrap(body, headers=headers)

    with pytest.raises(MalformedEvent, match=complaint):
        parse(envelope)


def test_a_binary_cloud_event_keeps_id_type_and_source(delivery: Callable[[str], Any]) -> None:
    headers, body = delivery("storage_finalized_binary")

    envelope = unwrap(body, headers=headers)

    assert envelope.event_id == "17326619998700001"
    assert envelope.event_type == "google.cloud.storage.object.v1.finalized"
    assert envelope.source == "//storage.googleapis.com/projects/_/buckets/demo-dualdeploy-data"
    assert envelope.data == body


def test_both_forms_of_a_cloud_event_say_the_same(delivery: Callable[[str], Any]) -> None:
    binary, structured = (
        unwrap(body, headers=headers)
        for headers, body in map(delivery, ("storage_finalized_binary", "storage_finalized_structured"))
    )

    assert binary.json() == structured.json()
    assert (binary.event_id, binary.event_type, binary.source) == (
        structured.event_id,
        structured.event_type,
        structured.source,
    )


def test_a_push_keeps_message_id_attributes_subscription_and_attempt(delivery: Callable[[str], Any]) -> None:
    headers, body = delivery("pubsub_push_training_completed")

    envelope = unwrap(body, headers=headers)

    assert envelope.event_id == "13500"
    assert envelope.attributes == COMPLETED.attributes
    assert envelope.subscription == "projects/demo-dualdeploy/subscriptions/publisher-training-completed"
    assert envelope.delivery_attempt == 3


def test_a_push_of_attributes_alone_keeps_them_and_has_no_data(delivery: Callable[[str], Any]) -> None:
    headers, body = delivery("pubsub_push_attributes_only")

    envelope = unwrap(body, headers=headers)

    assert (envelope.data, envelope.attributes) == (b"", {"tick": "1"})


def test_a_message_is_known_by_the_same_id_pushed_or_through_eventarc(delivery: Callable[[str], Any]) -> None:
    pushed, through_eventarc = (
        unwrap(body, headers=headers)
        for headers, body in map(delivery, ("pubsub_push_training_completed", "eventarc_training_completed"))
    )

    assert pushed.event_id == through_eventarc.event_id
    assert pushed.attributes == through_eventarc.attributes
    assert pushed.data == through_eventarc.data


def test_header_names_and_media_types_are_read_without_regard_to_case(delivery: Callable[[str], Any]) -> None:
    headers, body = delivery("storage_finalized_binary")
    shouted = {name.upper(): value for name, value in headers.items()}
    assert unwrap(body, headers=shouted) == unwrap(body, headers=headers)

    _, structured = delivery("storage_finalized_structured")
    envelope = unwrap(structured, headers={"content-type": "Application/CloudEvents+JSON"})
    assert events.parse_object_finalized(envelope) == SHARD


# Wrappings that are bent or broken -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        {"messageId": "1", "attributes": {"a": "b"}},
        {"messageId": "1", "attributes": {"a": "b"}, "data": ""},
        {"messageId": "1", "attributes": {"a": "b"}, "data": None},
        {"message_id": "1", "attributes": {"a": "b"}},
    ],
)
def test_a_message_of_attributes_alone_has_empty_data(message: Any) -> None:
    envelope = unwrap(push(message), headers={})

    assert (envelope.event_id, envelope.data, envelope.attributes) == ("1", b"", {"a": "b"})
    assert envelope.json() == {}


@pytest.mark.parametrize("data", ["%%%", "YQ", "YQ==\n", "ä", 17, True, ["YQ=="], {"a": 1}], ids=repr)
def test_data_that_is_not_base64_is_malformed(data: Any) -> None:
    with pytest.raises(MalformedEvent, match="base64"):
        unwrap(push({"messageId": "1", "data": data}), headers={})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"17",
        b'"text"',
        b"not json",
        b"\xff\xfe\x00",
        b'{"message": "text"}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_not_an_envelope_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        unwrap(body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("body", [b'{"message": {"data": "\\ud800"}}', b'{"\\udfff": {}, "message": {}}'])
def test_half_a_surrogate_pair_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent, match="not Unicode"):
        unwrap(body, headers={})


@pytest.mark.parametrize("attributes", ["text", ["a"], 17])
def test_attributes_that_are_not_an_object_are_malformed(attributes: Any) -> None:
    with pytest.raises(MalformedEvent, match="attributes"):
        unwrap(push({"messageId": "1", "attributes": attributes}), headers={})


@pytest.mark.parametrize("attempt", ["3", None, 1.5, [1]])
def test_an_attempt_that_is_not_a_number_is_not_worth_refusing_a_message(attempt: Any) -> None:
    assert unwrap(push({"messageId": "1"}, deliveryAttempt=attempt), headers={}).delivery_attempt == 0


@pytest.mark.parametrize("missing", ["ce-id", "ce-source"])
def test_a_binary_cloud_event_without_its_required_attributes_is_malformed(
    missing: str, delivery: Callable[[str], Any]
) -> None:
    headers, body = delivery("storage_finalized_binary")
    del headers[missing]

    with pytest.raises(MalformedEvent, match=missing.removeprefix("ce-")):
        unwrap(body, headers=headers)


@pytest.mark.parametrize("value", [None, "", 17, {"a": 1}])
@pytest.mark.parametrize("key", ["id", "source", "type"])
def test_a_structured_cloud_event_without_its_required_attributes_is_malformed(key: str, value: Any) -> None:
    document = {"id": "1", "source": "s", "type": "t", "data": {}, key: value}

    with pytest.raises(MalformedEvent, match=f"without {key}"):
        unwrap(json.dumps(document).encode(), headers={"Content-Type": "application/cloudevents+json"})


@pytest.mark.parametrize(
    ("part", "data"),
    [
        ({"data": {"a": 1}}, b'{"a": 1}'),
        ({"data_base64": base64.b64encode(b"\x00\xff").decode()}, b"\x00\xff"),
        ({}, b""),
        ({"data": None}, b""),
        ({"data": [1]}, b"[1]"),
    ],
)
def test_a_structured_cloud_event_carries_json_or_base64_or_nothing(part: Any, data: bytes) -> None:
    body = json.dumps({"id": "1", "source": "s", "type": "t", **part}).encode()

    assert unwrap(body, headers={"Content-Type": "application/cloudevents+json"}).data == data


def test_a_batch_of_cloud_events_is_refused() -> None:
    with pytest.raises(MalformedEvent):
        unwrap(b"[]", headers={"Content-Type": "application/cloudevents-batch+json"})


def test_bytes_that_are_not_json_are_refused_by_the_event_and_not_by_the_envelope(
    delivery: Callable[[str], Any],
) -> None:
    headers, _ = delivery("storage_finalized_binary")

    envelope = unwrap(b"\x00\x01\xff", headers={**headers, "Content-Type": "application/octet-stream"})

    with pytest.raises(MalformedEvent, match="not JSON"):
        events.parse_object_finalized(envelope)


# Events ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"bucket": ""},
        {"bucket": None},
        {"name": 17},
        {"generation": None},
        {"generation": "-1"},
        {"generation": "1.5"},
        {"generation": 1.5},
        {"generation": True},
        {"generation": float("inf")},
        {"generation": "9" * 20},
        {"generation": "\u0663"},
        {"size": None},
        {"size": "big"},
    ],
    ids=repr,
)
def test_an_object_with_a_wrong_field_is_malformed(change: dict[str, Any]) -> None:
    resource = {"bucket": "b", "name": "n", "generation": "17", "size": "3", **change}

    with pytest.raises(MalformedEvent, match=next(iter(change))):
        events.parse_object_finalized(envelope_of(resource))


@pytest.mark.parametrize(
    ("event_type", "attributes", "is_ours"),
    [
        ("google.cloud.storage.object.v1.finalized", {}, True),
        ("google.cloud.storage.object.v1.deleted", {}, False),
        ("google.cloud.storage.object.v1.archived", {}, False),
        ("google.cloud.storage.object.v1.metadataUpdated", {}, False),
        ("", {"eventType": "OBJECT_FINALIZE"}, True),
        ("google.cloud.pubsub.topic.v1.messagePublished", {"eventType": "OBJECT_FINALIZE"}, True),
        ("google.cloud.pubsub.topic.v1.messagePublished", {"eventType": "OBJECT_DELETE"}, False),
        ("", {"eventType": "OBJECT_METADATA_UPDATE"}, False),
        ("", {"eventType": "OBJECT_ARCHIVE"}, False),
        ("", {}, True),
    ],
)
def test_only_objects_that_were_written_count(event_type: str, attributes: dict[str, str], is_ours: bool) -> None:
    envelope = dataclasses.replace(
        envelope_of({"bucket": "b", "name": "n", "generation": 17}), event_type=event_type, attributes=attributes
    )
    if is_ours:
        assert events.parse_object_finalized(envelope).name == "n"
    else:
        with pytest.raises(NotForUs):
            events.parse_object_finalized(envelope)


def test_an_object_without_a_size_has_none() -> None:
    event = events.parse_object_finalized(envelope_of({"bucket": "b", "name": "n", "generation": 17}))

    assert event == ObjectFinalized("b", "n", 17, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": ""},
        {"dataset": None},
        {"dataset": ["flowers"]},
        {"force": "true"},
        {"force": 1},
        {"reason": None},
        {"v": 2},
        {"v": None},
        {"Force": True},
    ],
    ids=repr,
)
def test_a_retrain_request_with_a_wrong_field_is_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvent):
        events.parse_retrain_requested(envelope_of({"dataset": "flowers", **change}))


def test_a_retrain_request_needs_only_a_data_set_and_its_reason_is_cut() -> None:
    assert events.parse_retrain_requested(envelope_of({"dataset": "flowers"})) == RetrainRequested("flowers")
    long = events.parse_retrain_requested(envelope_of({"dataset": "flowers", "reason": "x" * 5000}))
    assert len(long.reason) == 500


@pytest.mark.parametrize("labels", [None, [], "x", {}, {"job_id": ""}, {"job_id": "1/../2"}, {"job_id": "\u0661"}])
def test_a_log_entry_without_the_number_of_a_job_is_malformed(labels: Any) -> None:
    with pytest.raises(MalformedEvent, match="job_id"):
        events.parse_training_job_logged(envelope_of({"resource": {"type": "ml_job", "labels": labels}}))


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": ""},
        {"dataset": None},
        {"target": "watch"},
        {"target": "CLOUD"},
        {"outcome": "done"},
        {"outcome": None},
        {"v": "1"},
    ],
    ids=repr,
)
def test_a_completion_with_a_wrong_field_is_malformed(change: dict[str, Any]) -> None:
    document = {**json.loads(events.encode(COMPLETED)), **change}

    with pytest.raises(MalformedEvent):
        events.parse_training_completed(envelope_of(document))


@pytest.mark.parametrize("outcome", events.OUTCOMES)
@pytest.mark.parametrize("target", ["cloud", "mobile"])
def test_what_is_published_is_what_is_read(target: str, outcome: str) -> None:
    sent = TrainingCompleted("flowers-0123456789ab", "flowers", target, outcome, reason="grün")
    body = push({"messageId": "1", "data": base64.b64encode(events.encode(sent)).decode()})

    assert events.parse_training_completed(unwrap(body, headers={})) == sent


def test_attributes_carry_what_subscriptions_filter_on() -> None:
    deployed = DeploymentCompleted("flowers-0123456789ab", "flowers", "cloud", "live", links={"endpoint": "e"})

    assert set(COMPLETED.attributes) == set(deployed.attributes) == {"run_id", "dataset", "target", "outcome"}
    assert json.loads(events.encode(deployed))["links"] == {"endpoint": "e"}
