"""`make doctor` at the local cloud: in order, then with each part of the chain really broken in turn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import requests
from google.protobuf import duration_pb2, field_mask_pb2

PROJECT, REGION = "demo-dualdeploy", "us-central1"
DEPLOY = f"make deploy PROJECT={PROJECT} REGION={REGION}"
METRIC = "aiplatform.googleapis.com/custom_model_training_preemptible_nvidia_t4_gpus"
CPUS = "aiplatform.googleapis.com/custom_model_training_preemptible_cpus"
QUOTA_ID = "CustomModelTrainingPreemptibleT4GPUsPerProjectPerRegion"
RESULT, LOG, CLOCK = "the result object's notification", "the job's log line", "the clock"

Deed = Callable[[Any], object]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done to the cloud and undone, and all that the doctor then finds: (place, about, state) → words."""

    name: str
    break_it: Deed
    mend_it: Deed
    finds: Mapping[tuple[str, str, str], str]
    remedy: str = DEPLOY


def control(ward: Any, **changes: object) -> None:
    """State that has no process in the local cloud: said over its control API, as Google's own state would be."""
    requests.patch(f"http://{ward.cloud.control.address}/project", json=changes, timeout=5).raise_for_status()


def grant(resource: str, role: str, member: str, *prefixes: str) -> dict[str, object]:
    account = f"serviceAccount:{member}@{PROJECT}.iam.gserviceaccount.com"
    return {"resource": resource, "role": role, "member": account, **({"prefixes": prefixes} if prefixes else {})}


def update(ward: Any, name: str, path: str, **fields: object) -> None:
    ward.subscriber.update_subscription(
        subscription={"name": ward.subscription(name), **fields}, update_mask=field_mask_pb2.FieldMask(paths=[path])
    )


def push(ward: Any, name: str, **changes: str) -> None:
    """Change a subscription's push: endpoint, account, audience."""
    there = ward.subscriber.get_subscription(subscription=ward.subscription(name)).push_config
    token = there.oidc_token
    config = {
        "push_endpoint": changes.get("endpoint", there.push_endpoint),
        "oidc_token": {
            "service_account_email": changes.get("account", token.service_account_email),
            "audience": changes.get("audience", token.audience),
        },
    }
    ward.subscriber.modify_push_config(subscription=ward.subscription(name), push_config=config)


def refilter(ward: Any, name: str, text: str) -> None:
    there = ward.subscriber.get_subscription(subscription=ward.subscription(name))
    ward.subscriber.delete_subscription(subscription=there.name)
    there.filter = text
    ward.subscriber.create_subscription(request=there)


def drop_notifications(ward: Any) -> None:
    for each in ward.storage.bucket(f"{PROJECT}-models").list_notifications():
        each.delete()


def notify(ward: Any, prefix: str) -> None:
    ward.storage.bucket(f"{PROJECT}-models").notification(
        topic_name="training-results", topic_project=PROJECT, blob_name_prefix=prefix, payload_format="JSON_API_V1"
    ).create()


def sink(ward: Any, **changes: object) -> None:
    ward.cloud.sinks.put(dataclasses.replace(ward.cloud.sinks.find("dualdeploy-training-job-logs"), **changes))


def pause(ward: Any, *, is_paused: bool) -> None:
    ward.cloud.scheduler.jobs["dualdeploy-tick"].is_paused = is_paused


def mended_notifications(ward: Any) -> None:
    drop_notifications(ward)
    ward.provision()


def keep_sink(ward: Any) -> None:
    ward.sink = ward.cloud.sinks.find("dualdeploy-training-job-logs")


def put_sink_back(ward: Any) -> None:
    ward.cloud.sinks.put(ward.sink)


def delete_sink(ward: Any) -> None:
    keep_sink(ward)
    ward.cloud.sinks.delete("dualdeploy-training-job-logs")


def all_hints(ward: Any) -> None:
    delete_sink(ward)
    drop_notifications(ward)
    ward.subscriber.delete_subscription(subscription=ward.subscription("notifier-tick"))


def mend_all_hints(ward: Any) -> None:
    put_sink_back(ward)
    ward.provision()


def redeploy(service: str, **variables: str | None) -> Deed:
    return lambda ward: ward.deploy(service, **variables)


FAULTS = [
    Fault(
        "an API that is off",
        lambda ward: control(ward, apis_off=["eventarc.googleapis.com"]),
        lambda ward: control(ward, apis_off=[]),
        {
            ("project", PROJECT, "broken"): "eventarc.googleapis.com is off",
            (
                "trigger",
                "data-object-finalized, config-object-finalized",
                "could not look",
            ): "nothing can be asked of it",
        },
        f"gcloud services enable eventarc.googleapis.com --project={PROJECT}",
    ),
    Fault(
        "a bucket that is gone",
        lambda ward: ward.storage.bucket(f"{PROJECT}-mobile").delete(),
        lambda ward: ward.provision(),
        {("bucket", f"gs://{PROJECT}-mobile", "broken"): "does not exist; it holds models/"},
    ),
    Fault(
        "a configuration that is wrong",
        lambda ward: ward.configure("trees", "{dataset: trees, labels: [oak, elm], budgett: {}}"),
        lambda ward: ward.storage.bucket(f"{PROJECT}-config").blob("datasets/trees.yaml").delete(),
        {
            (
                "bucket",
                f"gs://{PROJECT}-config/datasets/",
                "broken",
            ): f"gs://{PROJECT}-config/datasets/trees.yaml cannot be used, so its data set is neither trained nor"
        },
        f"gcloud storage cp trees.yaml gs://{PROJECT}-config/datasets/trees.yaml",
    ),
    Fault(
        "a trigger that is gone",
        lambda ward: ward.cloud.eventarc.deleted.add("data-object-finalized"),
        lambda ward: ward.cloud.eventarc.deleted.clear(),
        {
            (
                "trigger",
                "data-object-finalized",
                "broken",
            ): f"events of gs://{PROJECT}-data do not reach training_launcher: the trigger data-object-finalized is"
        },
    ),
    Fault(
        "a service that is gone",
        lambda ward: ward.stack.delete("training_launcher"),
        redeploy("training_launcher"),
        {("service", "training_launcher", "broken"): "the Cloud Run service training-launcher is missing"},
    ),
    Fault(
        "a service whose process ended",
        lambda ward: ward.stack.services["job_notifier"].close(),
        redeploy("job_notifier"),
        {("service", "job_notifier", "broken"): "it is not ready, so its events wait"},
        "make deploy SERVICE=job_notifier",
    ),
    Fault(
        "a newest revision that does not start",
        redeploy("cloud_deployer", BREAK="1"),
        redeploy("cloud_deployer"),
        {("service", "cloud_deployer", "warning"): "its newest revision cloud-deployer-00002-"},
        f"gcloud run services logs read cloud-deployer --region={REGION}",
    ),
    Fault(
        "variables that are not set",
        redeploy("mobile_publisher", LEDGER_BUCKET=None, DATA_BUCKET=None),
        redeploy("mobile_publisher"),
        {("service", "mobile_publisher", "broken"): "DATA_BUCKET, LEDGER_BUCKET not set"},
    ),
    Fault(
        "a variable that names another bucket",
        redeploy("mobile_publisher", MODELS_BUCKET="somebody-elses"),
        redeploy("mobile_publisher"),
        {("service", "mobile_publisher", "broken"): f"MODELS_BUCKET is somebody-elses, not {PROJECT}-models"},
    ),
    Fault(
        "audiences without the service's address",
        redeploy("job_notifier", PUSH_AUDIENCES="https://elsewhere.run.app"),
        redeploy("job_notifier"),
        {("service", "job_notifier", "broken"): "it refuses every event with 401"},
    ),
    Fault(
        "a caller that the service does not know",
        redeploy("job_notifier", PUSH_SERVICE_ACCOUNTS="somebody@example.com"),
        redeploy("job_notifier"),
        {("service", "job_notifier", "broken"): "it refuses every event with 403"},
    ),
    Fault(
        "a service that runs as another account",
        lambda ward: control(ward, runs_as={"cloud_deployer": "compute@developer.gserviceaccount.com"}),
        lambda ward: control(ward, runs_as={"cloud_deployer": ""}),
        {
            (
                "service",
                "cloud_deployer",
                "broken",
            ): f"it runs as compute@developer.gserviceaccount.com, not as cloud-deployer@{PROJECT}"
        },
    ),
    Fault(
        "a topic that is gone",
        lambda ward: ward.publisher.delete_topic(topic=ward.topic("training-completed")),
        lambda ward: ward.provision(),
        {
            (
                "topic",
                "training-completed",
                "broken",
            ): "job_notifier cannot publish, and deployer-training-completed, publisher-training-completed get",
            ("subscription", "deployer-training-completed", "broken"): "its topic training-completed was deleted",
            ("subscription", "publisher-training-completed", "broken"): "its topic training-completed was deleted",
        },
    ),
    Fault(
        "a subscription that is gone",
        lambda ward: ward.subscriber.delete_subscription(subscription=ward.subscription("deployer-training-completed")),
        lambda ward: ward.provision(),
        {
            (
                "subscription",
                "deployer-training-completed",
                "broken",
            ): "the subscription is missing: cloud_deployer gets no message of training-completed"
        },
    ),
    Fault(
        "a push to another address",
        lambda ward: push(ward, "launcher-tick", endpoint="http://127.0.0.1:9/events/tick"),
        lambda ward: ward.provision(),
        {
            (
                "subscription",
                "launcher-tick",
                "broken",
            ): "it pushes to http://127.0.0.1:9/events/tick, not to http://127"
        },
    ),
    Fault(
        "a push signed by another account",
        lambda ward: push(ward, "deployer-tick", account="somebody@example.com"),
        lambda ward: ward.provision(),
        {
            (
                "subscription",
                "deployer-tick",
                "broken",
            ): f"it signs as somebody@example.com, not as cloud-deployer-caller@{PROJECT}.iam.gserviceaccount.com"
        },
    ),
    Fault(
        "a push whose tokens are for another audience",
        lambda ward: push(ward, "deployer-tick", audience="https://elsewhere.run.app"),
        lambda ward: ward.provision(),
        {
            (
                "subscription",
                "deployer-tick",
                "broken",
            ): "its tokens are for https://elsewhere.run.app, not for http://127"
        },
    ),
    Fault(
        "a filter that lets the other target through",
        lambda ward: refilter(ward, "deployer-training-completed", 'attributes.target = "mobile"'),
        lambda ward: ward.provision(),
        {
            (
                "subscription",
                "deployer-training-completed",
                "broken",
            ): 'its filter is attributes.target = "mobile", not attributes.target = "cloud"'
        },
        f"gcloud pubsub subscriptions delete deployer-training-completed --project={PROJECT} && {DEPLOY}",
    ),
    Fault(
        "a subscription without dead letters",
        lambda ward: update(ward, "publisher-tick", "dead_letter_policy"),
        lambda ward: ward.provision(),
        {("subscription", "publisher-tick", "warning"): "it has no dead-letter topic"},
    ),
    Fault(
        "a subscription that expires",
        lambda ward: update(
            ward,
            "publisher-tick",
            "expiration_policy",
            expiration_policy={"ttl": duration_pb2.Duration(seconds=2678400)},
        ),
        lambda ward: update(ward, "publisher-tick", "expiration_policy", expiration_policy={}),
        {("subscription", "publisher-tick", "warning"): "it expires after 31 days without a reader"},
    ),
    Fault(
        "a paused clock",
        lambda ward: pause(ward, is_paused=True),
        lambda ward: pause(ward, is_paused=False),
        {
            ("clock", "dualdeploy-tick", "broken"): "it is PAUSED: nothing that waits is resumed",
            ("hint", CLOCK, "warning"): "does not reach job_notifier (clock dualdeploy-tick); another hint does",
        },
        f"gcloud scheduler jobs resume dualdeploy-tick --location={REGION} --project={PROJECT}",
    ),
    Fault(
        "a clock whose topic is gone",
        lambda ward: (ward.publisher.delete_topic(topic=ward.topic("tick")), time.sleep(0.5)),
        lambda ward: (ward.provision(), time.sleep(0.5)),
        {
            ("topic", "tick", "broken"): "Cloud Scheduler cannot publish, and launcher-tick, notifier-tick",
            ("subscription", "launcher-tick", "broken"): "its topic tick was deleted",
            ("subscription", "notifier-tick", "warning"): "its topic tick was deleted",
            ("subscription", "deployer-tick", "broken"): "its topic tick was deleted",
            ("subscription", "publisher-tick", "broken"): "its topic tick was deleted",
            ("clock", "dualdeploy-tick", "broken"): "its last attempt failed (Resource not found",
            ("hint", CLOCK, "warning"): "another hint does",
        },
    ),
    Fault(
        "an account that is disabled",
        lambda ward: control(ward, accounts={ward.account("job-notifier"): True}),
        lambda ward: control(ward, accounts={ward.account("job-notifier"): False}),
        {
            (
                "identity",
                f"job-notifier@{PROJECT}.iam.gserviceaccount.com",
                "broken",
            ): "is disabled; job_notifier runs as it"
        },
        f"gcloud iam service-accounts enable job-notifier@{PROJECT}.iam.gserviceaccount.com",
    ),
    Fault(
        "an account that is gone",
        lambda ward: control(ward, accounts={ward.account("trainer"): None}),
        lambda ward: control(ward, accounts={ward.account("trainer"): False}),
        {
            (
                "identity",
                f"trainer@{PROJECT}.iam.gserviceaccount.com",
                "broken",
            ): "the service account is missing; training jobs run as it"
        },
    ),
    Fault(
        "a caller that may not call",
        lambda ward: control(ward, revoke=[INVOKER]),
        lambda ward: control(ward, grant=[INVOKER]),
        {
            (
                "identity",
                "service job-notifier",
                "broken",
            ): "job-notifier-caller lacks roles/run.invoker, so this does not work: Pub/Sub signs its calls as"
        },
        "gcloud run services add-iam-policy-binding job-notifier"
        f" --member=serviceAccount:job-notifier-caller@{PROJECT}.iam.gserviceaccount.com --role=roles/run.invoker",
    ),
    Fault(
        "a service that may not read its bucket",
        lambda ward: control(ward, revoke=[READER]),
        lambda ward: control(ward, grant=[READER]),
        {("identity", "bucket config", "broken"): "cloud-deployer lacks roles/storage.objectViewer"},
        f"gcloud storage buckets add-iam-policy-binding gs://{PROJECT}-config",
    ),
    Fault(
        "a trainer that may not write its results",
        lambda ward: control(ward, revoke=[WRITER]),
        lambda ward: control(ward, grant=[WRITER]),
        {("identity", "bucket models", "broken"): "trainer lacks roles/storage.objectUser"},
    ),
    Fault(
        "a trainer that may write artifacts, and no results",
        lambda ward: control(ward, revoke=[WRITER], grant=[ARTIFACTS]),
        lambda ward: control(ward, revoke=[ARTIFACTS], grant=[WRITER]),
        {("identity", "bucket models", "broken"): "trainer lacks roles/storage.objectUser"},
    ),
    Fault(
        "a publisher that may read its pointer, and not list, so that a missing one is a 403",
        lambda ward: control(ward, revoke=[POINTER], grant=[POINTER]),
        lambda ward: control(ward, revoke=[POINTER], grant=[{**POINTER, "lists": True}]),
        {("identity", "bucket mobile", "broken"): "mobile-publisher lacks roles/storage.objectUser"},
    ),
    Fault(
        "a service that may not use Vertex AI",
        lambda ward: control(ward, revoke=[VERTEX]),
        lambda ward: control(ward, grant=[VERTEX]),
        {("identity", "project", "broken"): "job-notifier lacks dualdeploy_job_notifier"},
    ),
    Fault(
        "no quota for the accelerator",
        lambda ward: control(ward, quotas={METRIC: 0}),
        lambda ward: control(ward, quotas={METRIC: 8}),
        {("quota", "training", "warning"): "is 0 in us-central1, and a job of flowers needs 1: each time it waits"},
        f"gcloud beta quotas preferences create --service=aiplatform.googleapis.com --quota-id={QUOTA_ID}",
    ),
    Fault(
        "quota for one of two jobs",
        lambda ward: control(ward, quotas={METRIC: 1}),
        lambda ward: control(ward, quotas={METRIC: 8}),
        {("quota", "training", "warning"): "flowers needs 2 at once: one of its two jobs waits for the other"},
        f"gcloud beta quotas preferences create --service=aiplatform.googleapis.com --quota-id={QUOTA_ID}",
    ),
    Fault(
        "the one processor that a new project has",
        lambda ward: control(ward, quotas={CPUS: 1}),
        lambda ward: control(ward, quotas={CPUS: 64}),
        {("quota", "training", "warning"): "is 1 in us-central1, and a job of flowers needs 8: each time it waits"},
        "gcloud beta quotas preferences create --service=aiplatform.googleapis.com"
        " --quota-id=CustomModelTrainingPreemptibleCPUsPerProjectPerRegion",
    ),
    Fault(
        "a project that Firebase was never added to",
        lambda ward: control(ward, is_firebase=False),
        lambda ward: control(ward, is_firebase=True),
        {("firebase ml", "Firebase project", "broken"): "Firebase ML refuses what flowers publishes"},
        "https://console.firebase.google.com/",
    ),
    Fault(
        "Firebase ML that is off",
        lambda ward: control(ward, apis_off=["firebaseml.googleapis.com"]),
        lambda ward: control(ward, apis_off=[]),
        {("project", "firebaseml.googleapis.com", "broken"): "is off, and flowers needs it"},
        f"firebase_ml = true in terraform.tfvars, then {DEPLOY}",
    ),
    Fault(
        "a notification that is gone",
        drop_notifications,
        lambda ward: ward.provision(),
        {
            (
                "hint",
                f"notification of gs://{PROJECT}-models",
                "warning",
            ): "job_notifier still hears that a training has ended by the job's log line and the clock",
            ("hint", RESULT, "warning"): "another hint does",
        },
    ),
    Fault(
        "a notification of other names",
        lambda ward: (drop_notifications(ward), notify(ward, "elsewhere/")),
        mended_notifications,
        {
            (
                "hint",
                f"notification of gs://{PROJECT}-models",
                "warning",
            ): "announces elsewhere/ of every kind, not results/",
            ("hint", RESULT, "warning"): "another hint does",
        },
        f"gcloud storage buckets notifications delete gs://{PROJECT}-models && {DEPLOY}",
    ),
    Fault(
        "a log sink that is gone",
        delete_sink,
        put_sink_back,
        {
            ("hint", "dualdeploy-training-job-logs", "warning"): "the log sink is missing: no log line of an ended job",
            ("hint", LOG, "warning"): "another hint does",
        },
    ),
    Fault(
        "a log sink that is disabled",
        lambda ward: sink(ward, is_disabled=True),
        lambda ward: sink(ward, is_disabled=False),
        {
            ("hint", "dualdeploy-training-job-logs", "warning"): "the log sink is disabled",
            ("hint", LOG, "warning"): "another hint does",
        },
        f"gcloud logging sinks update dualdeploy-training-job-logs --no-disabled --project={PROJECT}",
    ),
    Fault(
        "a log sink with another filter",
        lambda ward: (keep_sink(ward), sink(ward, filter='resource.type="k8s_pod"')),
        put_sink_back,
        {
            ("hint", "dualdeploy-training-job-logs", "warning"): 'filter is resource.type="k8s_pod", which is not ours',
            ("hint", LOG, "warning"): "another hint does",
        },
    ),
    Fault(
        "the clock's subscription of job_notifier gone",
        lambda ward: ward.subscriber.delete_subscription(subscription=ward.subscription("notifier-tick")),
        lambda ward: ward.provision(),
        {
            (
                "subscription",
                "notifier-tick",
                "warning",
            ): "has ended by the result object's notification and the job's log line",
            ("hint", CLOCK, "warning"): "(subscription notifier-tick); another hint does",
        },
    ),
    Fault(
        "all three hints gone",
        all_hints,
        mend_all_hints,
        {
            ("subscription", "notifier-tick", "broken"): "the subscription is missing",
            ("hint", f"notification of gs://{PROJECT}-models", "broken"): "its notification is missing",
            ("hint", "dualdeploy-training-job-logs", "broken"): "the log sink is missing",
            ("hint", RESULT, "broken"): "no other hint does: ended trainings stay unnoticed",
            ("hint", LOG, "broken"): "no other hint does",
            ("hint", CLOCK, "broken"): "no other hint does",
        },
    ),
    Fault(
        "a model that is served by an image near its end",
        redeploy("cloud_deployer", PREDICTOR_IMAGE="us-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest"),
        redeploy("cloud_deployer"),
        {("image", "images in use", "warning"): "cloud_deployer's PREDICTOR_IMAGE uses us-docker.pkg.dev/vertex-ai"},
    ),
]

SERVICES = f"projects/{PROJECT}/locations/{REGION}/services"
INVOKER = grant(f"{SERVICES}/job-notifier", "roles/run.invoker", "job-notifier-caller")
READER = grant(f"buckets/{PROJECT}-config", "roles/storage.objectViewer", "cloud-deployer")
MODELS = f"buckets/{PROJECT}-models"
WRITER = grant(MODELS, "roles/storage.objectUser", "trainer", "runs/", "results/", "evaluations/")
ARTIFACTS = grant(MODELS, "roles/storage.objectUser", "trainer", "runs/")
POINTER = grant(f"buckets/{PROJECT}-mobile", "roles/storage.objectUser", "mobile-publisher", "models/")
VERTEX = grant(f"projects/{PROJECT}", f"projects/{PROJECT}/roles/dualdeploy_job_notifier", "job-notifier")


def settled(ward: Any) -> list[Mapping[str, str]]:
    """What is not in order once the clock's next tick has had its time."""
    found = ward.look()
    return found if not found else (time.sleep(0.3), ward.look())[1]


def test_in_a_healthy_cloud_everything_is_in_order(ward: Any) -> None:
    assert settled(ward) == []
    status, printed = ward.run()
    assert status == 0
    assert " checks passed." in printed


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named_at_its_place_with_its_remedy_and_nothing_else_is(ward: Any, fault: Fault) -> None:
    fault.break_it(ward)
    try:
        found = ward.look()
    finally:
        fault.mend_it(ward)
    assert {(each["place"], each["about"], each["state"]) for each in found} == set(fault.finds)
    for each in found:
        assert fault.finds[each["place"], each["about"], each["state"]] in each["says"]
        assert fault.remedy in each["remedy"] or DEPLOY in each["remedy"]
    assert any(fault.remedy in each["remedy"] for each in found)
    assert settled(ward) == []
