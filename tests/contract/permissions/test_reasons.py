"""Every binding has a reason: without it the cheapest story that needs it is refused, in Google's words.

The stories are told with the product's own gateways, as the account, at a local cloud with stubs for jobs and services.
A binding that no story here can show names the page of Google's that asks for it, in infra/bindings.json.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from dualdeploy.errors import ResourceMissing
from dualdeploy.google.object_store import ABSENT
from gateway.endpoint import VertexEndpoints
from gateway.serving import Live
from local_cloud.iam import PROJECT_NUMBER
from local_cloud.iam.bindings import Binding, grants
from support.accounts import BINDINGS, PROJECT, REGION, TINY_MODEL, new_name, wait_for

Story = Callable[[Any], object]

#: How Cloud Storage refuses: who, which permission, and whether it was about an object or a bucket.
_STORAGE = "{email} does not have {permission} access to the Google Cloud Storage {kind}"


class NothingCame(Exception):  # Google refuses a sender, and tells no one else
    """What should have arrived did not."""


def of_objects(permission: str, kind: str = "object") -> str:
    return _STORAGE.format(email="{email}", permission=f"storage.{permission}", kind=kind)


# --- what services do -----------------------------------------------------------------------------------------------


def records(account: str) -> Story:
    """Looks into the ledger, writes, reads, finds it in a listing, and deletes it: what every handler does."""

    def story(world: Any) -> None:
        ledger, name = world.actor(account).store("ledger"), f"runs/{new_name()}.json"
        assert list(ledger.list(name)) == []
        generation = ledger.put(name, b"{}", expect=ABSENT)
        assert ledger.read(name).data == b"{}"
        assert [each.name for each in ledger.list(name)] == [name]
        ledger.delete(name, expect=ledger.put(name, b"[]", expect=generation))

    return story


def reads(account: str, key: str, name: str) -> Story:
    def story(world: Any) -> None:
        world.upload(key, name)
        assert world.actor(account).store(key).read(name).data == b"{}"

    return story


def lists(account: str, key: str, name: str) -> Story:
    def story(world: Any) -> None:
        world.upload(key, name)
        assert name in [each.name for each in world.actor(account).store(key).list(name)]

    return story


def creates(account: str, key: str, folder: str) -> Story:
    def story(world: Any) -> None:
        world.actor(account).store(key).put(f"{folder}{new_name()}/file", b"{}", expect=ABSENT)

    return story


def replaces(account: str, key: str, folder: str) -> Story:
    def story(world: Any) -> None:
        store, name = world.actor(account).store(key), f"{folder}{new_name()}/file"
        store.put(name, b"[]", expect=store.put(name, b"{}", expect=ABSENT))

    return story


def publishes(account: str, topic: str) -> Story:
    return lambda world: world.actor(account).publish(topic)


def starts_a_job(account: str) -> Story:
    return lambda world: world.actor(account).create_job()


def asks_how_a_job_stands(world: Any) -> None:
    job = world.actor("owner").create_job()
    assert world.actor("job-notifier").vertex.get_custom_job(job).name == job


def looks_for_data_sets(world: Any) -> None:
    world.actor("training-launcher").automl.find_datasets({"dualdeploy_dataset": "flowers"})


def asks_how_a_pipeline_stands(world: Any) -> None:
    """One that is not there: who may ask is told so, and who may not is not."""
    with contextlib.suppress(ResourceMissing):
        world.actor("job-notifier").automl.get_pipeline(f"projects/{PROJECT}/locations/{REGION}/trainingPipelines/1")


def has_a_model_exported(world: Any) -> None:
    """One that is not there: who may export is told so."""
    name = f"projects/{PROJECT}/locations/{REGION}/models/none@1"
    with contextlib.suppress(ResourceMissing):
        world.actor("mobile-publisher").vertex.start_export(name, format_id="tflite", folder="gs://models/exports")


def looks_for_endpoints(world: Any) -> None:
    world.actor("cloud-deployer").vertex.find_endpoints("dualdeploy_dataset")


def asks_an_endpoint(world: Any) -> None:
    """One that is not there: who may ask is told so, and who may not is not."""
    actor = world.actor("gateway")
    live = Live(f"projects/{PROJECT}/locations/{REGION}/endpoints/{new_name('e')}", "", "r", "1")
    endpoints = VertexEndpoints(region=REGION, emulator_host=actor.environment["VERTEX_EMULATOR_HOST"])
    with contextlib.suppress(ResourceMissing):
        endpoints.predict(live, b"", seconds=5)


def reads_error_rates(world: Any) -> None:
    until = datetime.datetime.now(datetime.UTC)
    since = until - datetime.timedelta(minutes=2)
    world.actor("cloud-deployer").monitoring.served("flowers", "1", since=since, until=until)


def counts_dead_letters(world: Any) -> None:
    world.actor("console").monitoring.waiting("dead-letters-replay", at=datetime.datetime.now(datetime.UTC))


def reads_the_template(world: Any) -> None:
    world.actor("mobile-publisher").remote_config.read()


def looks_for_a_model(world: Any) -> None:
    with world.actor("mobile-publisher").firebase() as firebase:
        firebase.find(new_name("flowers"))


def publishes_a_file(world: Any) -> None:
    """Creates a model on Firebase ML, which signs a URL for the file."""
    name = f"mobile/{new_name()}.tflite"
    world.upload("models", name, TINY_MODEL.read_bytes())
    with world.actor("mobile-publisher").firebase() as firebase:
        uri = world.actor("owner").store("models").uri(name)
        firebase.create(new_name("flowers"), gcs_uri=uri, tags=[])


# --- who calls them, and Google's own accounts ------------------------------------------------------------------------


def owed(world: Any) -> int:
    """Messages on their way to services that there are."""
    topology, backlog = world.cloud.topology, world.cloud.pubsub.backlog()
    pushed = [name for name, each in topology.subscriptions.items() if each.service in world.cloud.services]
    return sum(backlog[topology.subscription_path(name)] for name in pushed) + world.cloud.eventarc.pending()


def hears(service: str, path: str, send: Story) -> Story:
    """What is sent arrives at the service."""

    def story(world: Any) -> None:
        world.cloud.register_service(service, world.service.address)
        # What earlier stories left behind arrives first.
        wait_for(lambda: world.cloud.iam.refusals() or not owed(world))
        before = world.service.paths.count(path)
        send(world)
        wait_for(lambda: world.cloud.iam.refusals() or world.service.paths.count(path) > before)
        if world.service.paths.count(path) == before:
            raise NothingCame(path)

    return story


def completes(target: str) -> Story:
    def send(world: Any) -> None:
        world.cloud.pubsub.publish(world.cloud.topology.topic_path("training-completed"), b"{}", {"target": target})

    return send


def asks_to_retrain(world: Any) -> None:
    world.cloud.pubsub.publish(world.cloud.topology.topic_path("retrain-requested"), b"{}", {})


def uploads_a_shard(world: Any) -> None:
    world.upload("data", f"flowers/{new_name()}.tfrecord")


def writes_a_result(world: Any) -> None:
    world.upload("models", f"results/{new_name()}/cloud.json")


def logs_the_end_of_a_job(world: Any) -> None:
    labels = {"task_name": "service"}
    world.cloud.sinks.route({"resource": {"type": "ml_job", "labels": labels}, "textPayload": "Job failed."})


def gives_up_a_message(world: Any) -> None:
    """A message that a service refuses too often is a dead letter, and is owed no longer."""
    world.cloud.register_service("training_launcher", world.service.address)
    [schedule] = world.cloud.topology.schedules.values()
    wait_for(lambda: world.cloud.iam.refusals() or not owed(world))
    world.service.status = 500
    world.cloud.pubsub.publish(world.cloud.topology.topic_path(schedule.topic), b"{}", {})
    wait_for(lambda: world.cloud.iam.refusals() or not owed(world), seconds=20)
    is_still_owed = bool(owed(world))
    world.service.status = 204
    wait_for(lambda: not owed(world))
    if is_still_owed:
        raise NothingCame("a dead letter")
    assert world.pulled("dead-letters-replay")


# --- who builds and deploys -------------------------------------------------------------------------------------------


def fetches_a_package(bucket: str) -> Story:
    """What a build does first."""

    def story(world: Any) -> None:
        owner = world.actor("owner").client
        if not owner.bucket(bucket).exists():
            owner.create_bucket(bucket)
        owner.bucket(bucket).blob("job-notifier/function-source.zip").upload_from_string("zip")
        builder = world.actor("dualdeploy-builder").client
        assert builder.bucket(bucket).blob("job-notifier/function-source.zip").download_as_bytes() == b"zip"

    return story


def leaves_a_package(world: Any) -> None:
    bucket = world.actor("dualdeploy-releaser").client.bucket(f"{PROJECT}-dualdeploy-sources")
    bucket.blob(f"job_notifier/{new_name()}.zip").upload_from_string("zip", if_generation_match=0)


def looks_at_the_bucket_of_packages(world: Any) -> None:
    world.actor("dualdeploy-releaser").client.get_bucket(f"{PROJECT}-dualdeploy-sources")


def locks_the_state(world: Any) -> None:
    blob = world.actor("dualdeploy-releaser").client.bucket(f"{PROJECT}-dualdeploy-state").blob("default.tflock")
    blob.upload_from_string("{}", if_generation_match=0)
    blob.delete()


_VERTEX = "Permission 'aiplatform.{}' denied on resource '//aiplatform.googleapis.com/projects/" + PROJECT
_ACT_AS = "You do not have permission to act as service_account: trainer@"
_NOT_AUTHORIZED = "User not authorized to perform this action."
#: A write that is refused looks whether the object is there already, and is refused again.
_LOOKS_AGAIN = of_objects("objects.get")
_INVOKE, _PUBLISH = "lacks run.routes.invoke", "lacks pubsub.topics.publish"

#: By the binding's name: the story, and how it is refused without the binding.
STORIES: Mapping[str, tuple[Story, str]] = {
    "training-launcher: roles/pubsub.publisher on topic advance": (
        publishes("training-launcher", "advance"),
        _NOT_AUTHORIZED,
    ),
    "training-launcher: roles/storage.objectUser on bucket ledger": (
        records("training-launcher"),
        of_objects("objects.list", "bucket"),
    ),
    "training-launcher: roles/storage.objectViewer on bucket data": (
        lists("training-launcher", "data", "flowers/train-00000-of-00001.tfrecord"),
        of_objects("objects.list", "bucket"),
    ),
    "training-launcher: roles/storage.objectViewer on bucket config": (
        reads("training-launcher", "config", "datasets/flowers.yaml"),
        of_objects("objects.get"),
    ),
    "training-launcher: roles/storage.objectCreator on bucket models: runs/": (
        creates("training-launcher", "models", "runs/"),
        of_objects("objects.create"),
    ),
    "training-launcher: roles/storage.objectViewer on bucket models: results/ runs/": (
        reads("training-launcher", "models", "results/live/cloud.json"),
        of_objects("objects.get"),
    ),
    "training-launcher: dualdeploy_training_launcher on project": (
        starts_a_job("training-launcher"),
        _VERTEX.format("customJobs.create"),
    ),
    "training-launcher: roles/storage.objectCreator on bucket models: automl/": (
        creates("training-launcher", "models", "automl/"),
        of_objects("objects.create"),
    ),
    "training-launcher: roles/storage.objectViewer on bucket models: automl/": (
        reads("training-launcher", "models", "automl/flowers/k/prepared.json"),
        of_objects("objects.get"),
    ),
    "training-launcher: dualdeploy_training_launcher_automl on project": (
        looks_for_data_sets,
        _VERTEX.format("datasets.list"),
    ),
    "training-launcher: roles/iam.serviceAccountUser on account trainer": (starts_a_job("training-launcher"), _ACT_AS),
    "job-notifier: roles/storage.objectUser on bucket ledger": (
        records("job-notifier"),
        of_objects("objects.list", "bucket"),
    ),
    "job-notifier: roles/storage.objectViewer on bucket models: results/": (
        reads("job-notifier", "models", "results/r/cloud.json"),
        of_objects("objects.get"),
    ),
    "job-notifier: roles/storage.objectCreator on bucket models: results/": (
        creates("job-notifier", "models", "results/"),
        of_objects("objects.create"),
    ),
    "job-notifier: roles/storage.objectViewer on bucket models: automl/": (
        reads("job-notifier", "models", "automl/flowers/k/prepared.json"),
        of_objects("objects.get"),
    ),
    "job-notifier: dualdeploy_job_notifier_automl on project": (
        asks_how_a_pipeline_stands,
        _VERTEX.format("trainingPipelines.get"),
    ),
    "job-notifier: dualdeploy_job_notifier on project": (asks_how_a_job_stands, _VERTEX.format("customJobs.get")),
    "job-notifier: roles/pubsub.publisher on topic advance": (publishes("job-notifier", "advance"), _NOT_AUTHORIZED),
    "job-notifier: roles/pubsub.publisher on topic training-completed": (
        publishes("job-notifier", "training-completed"),
        _NOT_AUTHORIZED,
    ),
    "cloud-deployer: roles/storage.objectUser on bucket ledger": (
        records("cloud-deployer"),
        of_objects("objects.list", "bucket"),
    ),
    "cloud-deployer: roles/storage.objectViewer on bucket config": (
        reads("cloud-deployer", "config", "datasets/flowers.yaml"),
        of_objects("objects.get"),
    ),
    "cloud-deployer: roles/storage.objectViewer on bucket models: results/ runs/": (
        reads("cloud-deployer", "models", "runs/r/cloud/golden.json"),
        of_objects("objects.get"),
    ),
    "cloud-deployer: roles/storage.objectViewer on bucket models: automl/": (
        reads("cloud-deployer", "models", "automl/flowers/k/golden.json"),
        of_objects("objects.get"),
    ),
    "cloud-deployer: roles/storage.objectUser on bucket models: cards/ evaluations/": (
        replaces("cloud-deployer", "models", "cards/"),
        _LOOKS_AGAIN,
    ),
    "cloud-deployer: dualdeploy_cloud_deployer on project": (looks_for_endpoints, _VERTEX.format("endpoints.list")),
    "cloud-deployer: roles/iam.serviceAccountUser on account trainer": (starts_a_job("cloud-deployer"), _ACT_AS),
    "cloud-deployer: roles/monitoring.viewer on project": (
        reads_error_rates,
        "Permission monitoring.timeSeries.list denied (or the resource may not exist).",
    ),
    "cloud-deployer: roles/pubsub.publisher on topic advance": (
        publishes("cloud-deployer", "advance"),
        _NOT_AUTHORIZED,
    ),
    "cloud-deployer: roles/pubsub.publisher on topic deployment-completed": (
        publishes("cloud-deployer", "deployment-completed"),
        _NOT_AUTHORIZED,
    ),
    "console: roles/storage.objectViewer on bucket ledger": (
        lists("console", "ledger", "serving/cloud/flowers.json"),
        of_objects("objects.list", "bucket"),
    ),
    "console: roles/storage.objectViewer on bucket models: results/ runs/": (
        reads("console", "models", "results/live/cloud.json"),
        of_objects("objects.get"),
    ),
    "console: roles/monitoring.viewer on project": (
        counts_dead_letters,
        "Permission monitoring.timeSeries.list denied (or the resource may not exist).",
    ),
    "gateway: roles/storage.objectViewer on bucket ledger: serving/": (
        reads("gateway", "ledger", "serving/cloud/flowers.json"),
        of_objects("objects.get"),
    ),
    "gateway: dualdeploy_gateway on project": (asks_an_endpoint, _VERTEX.format("endpoints.predict")),
    "mobile-publisher: roles/storage.objectUser on bucket ledger": (
        records("mobile-publisher"),
        of_objects("objects.list", "bucket"),
    ),
    "mobile-publisher: roles/storage.objectViewer on bucket config": (
        reads("mobile-publisher", "config", "datasets/flowers.yaml"),
        of_objects("objects.get"),
    ),
    "mobile-publisher: roles/storage.objectViewer on bucket data": (
        reads("mobile-publisher", "data", "flowers/eval-00000-of-00001.tfrecord"),
        of_objects("objects.get"),
    ),
    "mobile-publisher: roles/storage.objectViewer on bucket models": (
        lists("mobile-publisher", "models", "runs/r/mobile/pixels_model/saved_model.pb"),
        of_objects("objects.list", "bucket"),
    ),
    "mobile-publisher: roles/storage.objectCreator on bucket models: mobile/": (
        creates("mobile-publisher", "models", "mobile/"),
        of_objects("objects.create"),
    ),
    "mobile-publisher: roles/storage.objectUser on bucket mobile: models/": (
        replaces("mobile-publisher", "firebase_storage", "models/"),
        _LOOKS_AGAIN,
    ),
    "mobile-publisher: dualdeploy_mobile_publisher_automl on project": (
        has_a_model_exported,
        _VERTEX.format("models.export"),
    ),
    "mobile-publisher: roles/firebaseml.admin on project": (looks_for_a_model, "The caller does not have permission"),
    "mobile-publisher: roles/cloudconfig.admin on project": (reads_the_template, "The caller does not have permission"),
    "mobile-publisher: roles/iam.serviceAccountTokenCreator on account mobile-publisher": (
        publishes_a_file,
        "Permission 'iam.serviceAccounts.signBlob' denied on resource (or it may not exist).",
    ),
    "mobile-publisher: roles/pubsub.publisher on topic advance": (
        publishes("mobile-publisher", "advance"),
        _NOT_AUTHORIZED,
    ),
    "mobile-publisher: roles/pubsub.publisher on topic deployment-completed": (
        publishes("mobile-publisher", "deployment-completed"),
        _NOT_AUTHORIZED,
    ),
    "trainer: roles/storage.objectViewer on bucket data": (
        reads("trainer", "data", "flowers/train-00000-of-00001.tfrecord"),
        of_objects("objects.get"),
    ),
    "trainer: roles/storage.objectViewer on bucket config: modules/": (
        reads("trainer", "config", "modules/my_network.py"),
        of_objects("objects.get"),
    ),
    "trainer: roles/storage.objectViewer on bucket models": (
        lists("trainer", "models", "runs/r/cloud/checkpoints/1"),
        of_objects("objects.list", "bucket"),
    ),
    "trainer: roles/storage.objectUser on bucket models: runs/ results/ evaluations/": (
        replaces("trainer", "models", "results/"),
        of_objects("objects.create"),
    ),
    "trainer: roles/storage.objectUser on bucket models: automl/": (
        replaces("trainer", "models", "automl/"),
        of_objects("objects.create"),
    ),
    "training-launcher-caller: roles/run.invoker on service training-launcher": (
        hears("training_launcher", "/events/retrain-requested", asks_to_retrain),
        _INVOKE,
    ),
    "training-launcher-caller: roles/eventarc.eventReceiver on project": (
        hears("training_launcher", "/events/object-finalized", uploads_a_shard),
        "lacks eventarc.events.receiveEvent",
    ),
    "job-notifier-caller: roles/run.invoker on service job-notifier": (
        hears("job_notifier", "/events/training-result", writes_a_result),
        _INVOKE,
    ),
    "cloud-deployer-caller: roles/run.invoker on service cloud-deployer": (
        hears("cloud_deployer", "/events/training-completed", completes("cloud")),
        _INVOKE,
    ),
    "mobile-publisher-caller: roles/run.invoker on service mobile-publisher": (
        hears("mobile_publisher", "/events/training-completed", completes("mobile")),
        _INVOKE,
    ),
    "Pub/Sub: roles/pubsub.publisher on topic dead-letters": (gives_up_a_message, _PUBLISH),
    "Pub/Sub: roles/pubsub.subscriber on its subscriptions": (
        gives_up_a_message,
        "lacks pubsub.subscriptions.consume",
    ),
    "Cloud Storage: roles/pubsub.publisher on project": (
        hears("training_launcher", "/events/object-finalized", uploads_a_shard),
        _PUBLISH,
    ),
    "Cloud Logging: roles/pubsub.publisher on topic training-job-logs": (
        hears("job_notifier", "/events/training-job-log", logs_the_end_of_a_job),
        _PUBLISH,
    ),
    "dualdeploy-builder: roles/storage.objectViewer on bucket dualdeploy-sources": (
        fetches_a_package(f"{PROJECT}-dualdeploy-sources"),
        of_objects("objects.get"),
    ),
    "dualdeploy-builder: roles/storage.objectViewer on project: bucket gcf-v2-sources-${number}-${region}": (
        fetches_a_package(f"gcf-v2-sources-{PROJECT_NUMBER}-{REGION}"),
        of_objects("objects.get"),
    ),
    "dualdeploy-releaser: roles/storage.objectUser on bucket dualdeploy-sources": (
        leaves_a_package,
        of_objects("objects.create"),
    ),
    "dualdeploy-releaser: roles/storage.bucketViewer on bucket dualdeploy-sources": (
        looks_at_the_bucket_of_packages,
        of_objects("buckets.get", "bucket"),
    ),
    "dualdeploy-releaser: roles/storage.objectUser on bucket dualdeploy-state": (
        locks_the_state,
        of_objects("objects.create"),
    ),
}


@contextlib.contextmanager
def without(world: Any, binding: Binding) -> Iterator[None]:
    """The project without one binding."""
    there = list(grants(binding, world.cloud.topology))
    taken = [each for grant in there for each in world.cloud.iam.revoke(grant.resource, grant.role, grant.member)]
    assert set(there) <= set(taken)
    try:
        yield
    finally:
        for grant in taken:
            world.cloud.iam.grant(grant)


def test_every_binding_has_a_story_or_names_googles_page() -> None:
    with_page = {each.name for each in BINDINGS.bindings if each.page}
    assert {each.name for each in BINDINGS.bindings} - with_page == set(STORIES)


@pytest.mark.parametrize("binding", [each for each in BINDINGS.bindings if not each.page], ids=lambda each: each.name)
def test_without_a_binding_the_story_that_needs_it_is_refused(world: Any, binding: Binding) -> None:
    story, refusal = STORIES[binding.name]
    iam = world.cloud.iam
    iam.forget()
    story(world)
    assert iam.refusals() == []
    with without(world, binding), pytest.raises(Exception) as caught:  # noqa: PT011  # each gateway has its own
        story(world)
    told = [str(caught.value), *(f"{each.member} lacks {each.permission}" for each in iam.refusals())]
    email = iam.member(binding.account).partition(":")[2]
    assert any(refusal.format(email=email) in text for text in told), told
    assert [each.member for each in iam.refusals()] == [iam.member(binding.account)] * len(iam.refusals())
    assert iam.refusals()
