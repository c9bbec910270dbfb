"""Notification configs and what they publish."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import BadRequest, NotFound
from google.cloud.storage import Bucket, Client
from google.cloud.storage.notification import NONE_PAYLOAD_FORMAT

from local_cloud.api import ApiError
from local_cloud.faults import Faults
from local_cloud.pubsub import PubSub
from local_cloud.storage import Storage

TOPIC = "projects/demo-dualdeploy/topics/results"


Connect = Callable[[str], AbstractContextManager[Client]]


@pytest.fixture
def results(open_storage: Callable[..., Storage], connect: Connect, collector: Any) -> Iterator[Bucket]:
    """A bucket of a storage that publishes."""
    with connect(open_storage(publish=collector).address) as client:
        yield client.create_bucket("models")


def notify(bucket: Bucket, **arguments: Any) -> None:
    bucket.notification(**{"topic_name": "results", "payload_format": "JSON_API_V1", **arguments}).create()


def test_a_config_is_created_read_listed_and_deleted(client: Client, bucket: Bucket) -> None:
    notify(bucket, event_types=["OBJECT_FINALIZE"], blob_name_prefix="results/", custom_attributes={"a": "b"})
    (config,) = bucket.list_notifications()

    assert (config.topic_name, config.event_types, config.blob_name_prefix) == (
        "results",
        ["OBJECT_FINALIZE"],
        "results/",
    )
    assert bucket.get_notification(config.notification_id).custom_attributes == {"a": "b"}
    config.delete()
    assert list(bucket.list_notifications()) == []
    with pytest.raises(NotFound):
        bucket.get_notification(config.notification_id)


def test_a_finalized_object_is_published_with_google_s_attributes(results: Bucket, collector: Any) -> None:
    notify(results, custom_attributes={"from": "test"})
    blob = results.blob("results/run/cloud.json")
    blob.upload_from_string("{}")

    topic, data, attributes = collector.wait_for(1)[0]
    assert topic == TOPIC
    resource = json.loads(data)
    assert (resource["kind"], resource["name"], resource["size"]) == ("storage#object", blob.name, "2")
    assert attributes.pop("eventTime").endswith("Z")
    assert attributes == {
        "from": "test",
        "notificationConfig": "projects/_/buckets/models/notificationConfigs/1",
        "eventType": "OBJECT_FINALIZE",
        "payloadFormat": "JSON_API_V1",
        "bucketId": "models",
        "objectId": "results/run/cloud.json",
        "objectGeneration": str(blob.generation),
    }


def test_an_overwrite_names_both_generations(results: Bucket, collector: Any) -> None:
    notify(results)
    blob = results.blob("twice")
    blob.upload_from_string("1")
    first = blob.generation
    blob.upload_from_string("2")

    _, finalized, deleted = (attributes for _, _, attributes in collector.wait_for(3))
    assert finalized["eventType"] == "OBJECT_FINALIZE"
    assert finalized["overwroteGeneration"] == str(first)
    assert (deleted["eventType"], deleted["objectGeneration"]) == ("OBJECT_DELETE", str(first))
    assert deleted["overwrittenByGeneration"] == str(blob.generation)


def test_only_the_prefix_and_the_event_types_asked_for_are_published(results: Bucket, collector: Any) -> None:
    notify(results, event_types=["OBJECT_FINALIZE"], blob_name_prefix="results/")
    results.blob("runs/other").upload_from_string("x")
    blob = results.blob("results/mine")
    blob.upload_from_string("x")
    blob.metadata = {"a": "b"}
    blob.patch()
    blob.delete()
    results.blob("results/last").upload_from_string("x")

    objects = [attributes["objectId"] for _, _, attributes in collector.wait_for(2)]
    assert objects == ["results/mine", "results/last"]


def test_copies_rewrites_and_compositions_are_finalized_too(results: Bucket, collector: Any) -> None:
    source = results.blob("source")
    source.upload_from_string("x")
    notify(results, event_types=["OBJECT_FINALIZE"])
    results.copy_blob(source, results, "copied")
    results.blob("rewritten").rewrite(source)
    results.blob("composed").compose([source])

    objects = [attributes["objectId"] for _, _, attributes in collector.wait_for(3)]
    assert objects == ["copied", "rewritten", "composed"]


def test_a_change_of_metadata_is_an_event_of_its_own(results: Bucket, collector: Any) -> None:
    notify(results, event_types=["OBJECT_METADATA_UPDATE"], payload_format=NONE_PAYLOAD_FORMAT)
    blob = results.blob("x")
    blob.upload_from_string("x")
    blob.metadata = {"a": "b"}
    blob.patch()

    _, data, attributes = collector.wait_for(1)[0]
    assert (data, attributes["eventType"], attributes["payloadFormat"]) == (b"", "OBJECT_METADATA_UPDATE", "NONE")


def test_a_refused_write_publishes_nothing(results: Bucket, collector: Any) -> None:
    notify(results)
    blob = results.blob("claimed")
    blob.upload_from_string("x", if_generation_match=0)
    with pytest.raises(Exception, match="pre-conditions"):
        results.blob("claimed").upload_from_string("y", if_generation_match=0)
    results.blob("next").upload_from_string("z")

    assert [attributes["objectId"] for _, _, attributes in collector.wait_for(2)] == ["claimed", "next"]


def test_a_failing_publisher_is_tried_again_in_order(
    open_storage: Callable[..., Storage], connect: Connect, collector: Any
) -> None:
    refusals = [ConnectionError("down"), ConnectionError("still down")]

    def publish(topic: str, data: bytes, attributes: dict[str, str]) -> None:
        if refusals:
            raise refusals.pop()
        collector(attributes["objectId"])

    storage = open_storage(publish=publish)
    storage.ensure_bucket("models", project="demo-dualdeploy")
    storage.ensure_notification("models", topic=TOPIC, event_types=["OBJECT_FINALIZE"])
    with connect(storage.address) as client:
        for name in "abc":
            client.bucket("models").blob(name).upload_from_string("x")

    assert collector.wait_for(3) == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"topic": "results", "payload_format": "NONE"}, "topic"),
        ({"topic": f"//pubsub.googleapis.com/{TOPIC}", "payload_format": "XML"}, "payload format"),
        ({"topic": f"//pubsub.googleapis.com/{TOPIC}"}, "Required"),
    ],
)
def test_a_malformed_config_is_refused(bucket: Bucket, config: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        bucket.client._post_resource(f"/b/{bucket.name}/notificationConfigs", config)


def test_the_same_notification_is_ensured_once(open_storage: Callable[..., Storage]) -> None:
    storage = open_storage()
    for _ in range(2):
        storage.ensure_bucket("models", project="demo-dualdeploy")
        storage.ensure_notification("models", topic=TOPIC, event_types=["OBJECT_FINALIZE"])

    assert len(storage.state.notifications("models")) == 1


def test_a_notification_to_a_deleted_topic_does_not_hold_up_the_others(
    open_storage: Callable[..., Storage], connect: Connect, collector: Any, tmp_path: Path
) -> None:
    gone = "projects/demo-dualdeploy/topics/gone"
    finalized: list[str] = []
    with contextlib.closing(PubSub(faults=Faults(), state_dir=tmp_path / "pubsub").start()) as pubsub:
        pubsub.ensure_topic(TOPIC)

        def publish(topic: str, data: bytes, attributes: dict[str, str]) -> None:
            pubsub.publish(topic, data, attributes)
            collector(topic, attributes["objectId"])

        storage = open_storage(publish=publish, on_finalize=lambda resource: finalized.append(resource["name"]))
        storage.ensure_bucket("models", project="demo-dualdeploy")
        for topic in (gone, TOPIC):
            storage.ensure_notification("models", topic=topic, event_types=["OBJECT_FINALIZE"])
        with connect(storage.address) as client:
            for name in "ab":
                client.bucket("models").blob(name).upload_from_string("x")

        assert collector.wait_for(2) == [(TOPIC, "a"), (TOPIC, "b")]
        wait_until(lambda: finalized == ["a", "b"] and not storage.state.event_destinations())

        # What was for the deleted topic is dropped, not kept: it does not come when there is a topic again.
        pubsub.ensure_topic(gone)
        with connect(storage.address) as client:
            client.bucket("models").blob("c").upload_from_string("x")
        assert {call for call in collector.wait_for(4) if call[0] == gone} == {(gone, "c")}


def test_a_topic_that_fails_for_now_keeps_its_events_and_holds_up_no_other(
    open_storage: Callable[..., Storage], connect: Connect, collector: Any
) -> None:
    slow = "projects/demo-dualdeploy/topics/slow"
    recovered = threading.Event()

    def publish(topic: str, _data: bytes, attributes: dict[str, str]) -> None:
        if topic == slow and not recovered.is_set():
            raise ApiError(503, "UNAVAILABLE", "down")
        collector(topic, attributes["objectId"])

    storage = open_storage(publish=publish)
    storage.ensure_bucket("models", project="demo-dualdeploy")
    for topic in (slow, TOPIC):
        storage.ensure_notification("models", topic=topic, event_types=["OBJECT_FINALIZE"])
    with connect(storage.address) as client:
        for name in "ab":
            client.bucket("models").blob(name).upload_from_string("x")

    assert list(collector.wait_for(2)) == [(TOPIC, "a"), (TOPIC, "b")]
    recovered.set()
    assert collector.wait_for(4)[2:] == [(slow, "a"), (slow, "b")]


def wait_until(happened: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
