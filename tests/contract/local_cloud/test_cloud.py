"""The emulators together: what happens in one is heard of in the others, as the topology says."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
import requests
from google.cloud import pubsub_v1, storage

from local_cloud import cloud as clouds
from local_cloud.cloud import LocalCloud, Ports, StateInUse
from local_cloud.control import UnknownService


@pytest.fixture
def bucket_of(cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> object:
    """Google's client, pointed at the cloud by the cloud's own environment."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    with storage.Client() as client:
        yield lambda key: client.bucket(os.environ[f"{key.upper()}_BUCKET"])


def message_of(body: bytes) -> dict[str, object]:
    message: dict[str, object] = json.loads(body)["message"]
    return message


def data_of(body: bytes) -> object:
    return json.loads(base64.b64decode(str(message_of(body)["data"])))


def test_everything_the_topology_names_is_there(cloud: LocalCloud, bucket_of: object) -> None:
    with storage.Client() as client:
        names = {bucket.name for bucket in client.list_buckets()}
    with pubsub_v1.PublisherClient() as publisher:
        topics = {topic.name for topic in publisher.list_topics(project=f"projects/{cloud.topology.project}")}
    with pubsub_v1.SubscriberClient() as subscriber:
        path = cloud.topology.subscription_path("deployer-training-completed")
        subscription = subscriber.get_subscription(subscription=path)

    assert names == {bucket.name for bucket in cloud.topology.buckets.values()}
    eventarcs = {topic for topic in topics if "/eventarc-" in topic}
    assert len(eventarcs) == len(cloud.topology.triggers)
    assert topics - eventarcs == {cloud.topology.topic_path(topic) for topic in cloud.topology.topics}
    assert subscription.filter == 'attributes.target = "cloud"'
    assert subscription.dead_letter_policy.max_delivery_attempts == 20
    assert subscription.retry_policy.minimum_backoff.total_seconds() == pytest.approx(0.2)
    assert subscription.retry_policy.maximum_backoff.total_seconds() == pytest.approx(12)


def test_an_uploaded_shard_reaches_the_launcher_as_a_cloud_event(
    cloud: LocalCloud, bucket_of: object, service: object
) -> None:
    cloud.register_service("training_launcher", service.address)
    bucket_of("data").blob("flowers/train-00000-of-00004.tfrecord").upload_from_string(b"records")

    headers, body = service.wait_for("/events/object-finalized")
    assert headers["ce-type"] == "google.cloud.storage.object.v1.finalized"
    assert json.loads(body)["name"] == "flowers/train-00000-of-00004.tfrecord"


def test_a_training_result_reaches_the_notifier_and_other_objects_do_not(
    cloud: LocalCloud, bucket_of: object, service: object
) -> None:
    cloud.register_service("job_notifier", service.address)
    bucket_of("models").blob("runs/flowers-0/cloud/model/saved_model.pb").upload_from_string(b"model")
    bucket_of("models").blob("results/flowers-0/cloud.json").upload_from_string("{}")

    _, body = service.wait_for("/events/training-result")
    assert message_of(body)["attributes"]["objectId"] == "results/flowers-0/cloud.json"
    assert [at for at, _, _ in service.requests].count("/events/training-result") == 1


def test_the_clock_reaches_every_service(cloud: LocalCloud, service: object) -> None:
    for name in cloud.topology.services:
        cloud.register_service(name, service.address)

    _, body = service.wait_for("/events/tick")
    assert data_of(body) == {"v": 1}


def test_a_message_published_before_its_service_was_there_is_delivered_when_it_comes(
    repository: Path, tmp_path: Path, service: object
) -> None:
    with clouds.load(repository / "infra" / "topology.json", state_dir=tmp_path, clock_seconds=600) as late:
        topic = late.topology.topic_path("training-completed")
        late.pubsub.publish(topic, b'{"v": 1}', {"target": "mobile"})
        late.pubsub.publish(topic, b'{"v": 2}', {"target": "cloud"})
        late.register_service("mobile_publisher", service.address)

        _, body = service.wait_for("/events/training-completed")
        assert data_of(body) == {"v": 1}
        assert len(service.requests) == 1


def test_a_restart_on_the_same_folder_delivers_what_was_waiting(
    repository: Path, tmp_path: Path, service: object
) -> None:
    with clouds.load(repository / "infra" / "topology.json", state_dir=tmp_path, clock_seconds=600) as first:
        url = f"http://{first.storage.address}/upload/storage/v1/b/demo-dualdeploy-data/o"
        requests.post(url, params={"uploadType": "media", "name": "waiting"}, data=b"x", timeout=5)
        first.pubsub.publish(first.topology.topic_path("retrain-requested"), b'{"v": 7}', {})

    with clouds.load(repository / "infra" / "topology.json", state_dir=tmp_path, clock_seconds=600) as second:
        second.register_service("training_launcher", service.address)
        assert data_of(service.wait_for("/events/retrain-requested")[1]) == {"v": 7}
        assert json.loads(service.wait_for("/events/object-finalized")[1])["name"] == "waiting"


def test_a_log_entry_of_a_job_reaches_the_sink_s_topic(cloud: LocalCloud, service: object) -> None:
    cloud.register_service("job_notifier", service.address)
    labels = {"task_name": "service"}
    cloud.sinks.route({"resource": {"type": "k8s_pod", "labels": labels}, "textPayload": "Job failed."})
    cloud.sinks.route({"resource": {"type": "ml_job", "labels": labels}, "textPayload": "Epoch 3: accuracy 0.81"})
    cloud.sinks.route({"resource": {"type": "ml_job", "labels": labels}, "textPayload": "Job completed successfully."})

    _, body = service.wait_for("/events/training-job-log")
    assert data_of(body)["textPayload"] == "Job completed successfully."


def test_a_service_that_the_topology_lacks_is_refused(cloud: LocalCloud) -> None:
    with pytest.raises(UnknownService, match="training_launcher"):
        cloud.register_service("training_launchr", "127.0.0.1:1")


def test_two_clouds_do_not_share_a_folder(repository: Path, tmp_path: Path) -> None:
    with (
        clouds.load(repository / "infra" / "topology.json", state_dir=tmp_path),
        pytest.raises(StateInUse, match="in use by another local cloud"),
    ):
        clouds.load(repository / "infra" / "topology.json", state_dir=tmp_path)

    clouds.load(repository / "infra" / "topology.json", state_dir=tmp_path).close()


def test_a_taken_port_is_an_error_that_leaves_the_folder_free(
    cloud: LocalCloud, repository: Path, tmp_path: Path
) -> None:
    taken = int(cloud.storage.address.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="in use"):
        clouds.load(repository / "infra" / "topology.json", state_dir=tmp_path, ports=Ports(storage=taken))

    clouds.load(repository / "infra" / "topology.json", state_dir=tmp_path).close()


def test_the_environment_names_every_emulator_and_every_bucket(cloud: LocalCloud) -> None:
    environment = cloud.environment()

    assert environment["STORAGE_EMULATOR_HOST"] == f"http://{cloud.storage.address}"
    assert environment["GOOGLE_CLOUD_PROJECT"] == "demo-dualdeploy"
    assert {f"{key}_BUCKET" for key in ("DATA", "CONFIG", "LEDGER", "MODELS")} <= set(environment)
