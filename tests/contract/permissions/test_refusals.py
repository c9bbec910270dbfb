"""Who is refused, in which order and with which words: as Google's APIs do it, at the ports of each account."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import google.api_core.exceptions as google_errors
import pytest
import requests
from google.auth.credentials import Signing
from google.cloud import pubsub_v1

from dualdeploy.errors import PermissionSpreads
from dualdeploy.google.object_store import ObjectMissing
from local_cloud.cloud import LocalCloud
from local_cloud.iam import OWNER, PROJECT_NUMBER, Condition, Grant, agent
from local_cloud.iam.bindings import OPERATOR
from support.accounts import IMAGES, PROJECT, REGION, TINY_MODEL, Actor, World, new_name, wait_for

LOCATION = f"projects/{PROJECT}/locations/{REGION}"
NOBODY = OPERATOR.partition(":")[2]


def storage_error(permission: str, what: str) -> Mapping[str, Any]:
    text = (
        f"{NOBODY} does not have {permission} access to the {what}. Permission '{permission}' denied on resource"
        " (or it may not exist)."
    )
    return {"code": 403, "message": text, "errors": [{"message": text, "domain": "global", "reason": "forbidden"}]}


def named_error(host: str, permission: str, resource: str) -> Mapping[str, Any]:
    return {
        "code": 403,
        "message": f"Permission '{permission}' denied on resource '//{host}/{resource}' (or it may not exist).",
        "status": "PERMISSION_DENIED",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "IAM_PERMISSION_DENIED",
                "domain": host,
                "metadata": {"permission": permission, "resource": resource},
            }
        ],
    }


PLAIN = {"code": 403, "message": "The caller does not have permission", "status": "PERMISSION_DENIED"}
OBJECT = f"/storage/v1/b/{PROJECT}-ledger/o"
#: What an account without any permission is told: method, variable of the address, path, error. From recorded answers.
REFUSED: Mapping[str, tuple[str, str, str, Mapping[str, Any]]] = {
    "an object": (
        "GET",
        "STORAGE_EMULATOR_HOST",
        f"{OBJECT}/x",
        storage_error("storage.objects.get", "Google Cloud Storage object"),
    ),
    "a listing": (
        "GET",
        "STORAGE_EMULATOR_HOST",
        f"{OBJECT}?prefix=runs/",
        storage_error("storage.objects.list", "Google Cloud Storage bucket"),
    ),
    "a bucket": (
        "GET",
        "STORAGE_EMULATOR_HOST",
        f"/storage/v1/b/{PROJECT}-ledger",
        storage_error("storage.buckets.get", "Google Cloud Storage bucket"),
    ),
    "all buckets": (
        "GET",
        "STORAGE_EMULATOR_HOST",
        f"/storage/v1/b?project={PROJECT}",
        storage_error("storage.buckets.list", "Google Cloud project"),
    ),
    "a new object": (
        "POST",
        "STORAGE_EMULATOR_HOST",
        f"/upload{OBJECT}?uploadType=media&name=x",
        storage_error("storage.objects.create", "Google Cloud Storage object"),
    ),
    "jobs": (
        "GET",
        "VERTEX_EMULATOR_HOST",
        f"/v1/{LOCATION}/customJobs",
        named_error("aiplatform.googleapis.com", "aiplatform.customJobs.list", LOCATION),
    ),
    "an operation, which asks for what it works on": (
        "GET",
        "VERTEX_EMULATOR_HOST",
        f"/v1/{LOCATION}/endpoints/flowers/operations/1",
        named_error("aiplatform.googleapis.com", "aiplatform.endpoints.get", LOCATION),
    ),
    "models of Firebase ML": ("GET", "FIREBASE_ML_EMULATOR_HOST", f"/v1beta2/projects/{PROJECT}/models", PLAIN),
    "the template of Remote Config": (
        "GET",
        "REMOTE_CONFIG_EMULATOR_HOST",
        f"/v1/projects/{PROJECT}/remoteConfig",
        PLAIN,
    ),
    "a service of Cloud Run": (
        "GET",
        "GOOGLE_APIS_EMULATOR_HOST",
        f"/v2/{LOCATION}/services/job-notifier",
        named_error("run.googleapis.com", "run.services.get", f"{LOCATION}/services/job-notifier"),
    ),
    "the policy of the project": (
        "POST",
        "GOOGLE_APIS_EMULATOR_HOST",
        f"/v1/projects/{PROJECT}:getIamPolicy",
        named_error(
            "cloudresourcemanager.googleapis.com", "resourcemanager.projects.getIamPolicy", f"projects/{PROJECT}"
        ),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_account_without_any_permission_is_refused_in_the_words_of_each_api(world: Any, what: str) -> None:
    method, variable, path, error = REFUSED[what]
    address = world.cloud.environment(OPERATOR)[variable].removeprefix("http://")
    answer = requests.request(method, f"http://{address}{path}", data=b"{}" if method == "POST" else None, timeout=5)
    assert answer.status_code == 403
    assert answer.json()["error"] == error


def test_pubsub_says_no_more_than_that_it_refuses(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", world.cloud.environment(OPERATOR)["PUBSUB_EMULATOR_HOST"])
    topic = world.cloud.topology.topic_path("training-completed")
    subscription = world.cloud.topology.subscription_path("dead-letters-replay")
    with pubsub_v1.PublisherClient() as publisher, pubsub_v1.SubscriberClient() as subscriber:
        for refused in (
            lambda: publisher.get_topic(topic=topic),
            lambda: publisher.get_topic(topic=f"{topic}-that-is-not-there"),
            lambda: publisher.create_topic(name=f"{topic}-2"),
            lambda: subscriber.pull(subscription=subscription, max_messages=1, timeout=5),
            lambda: publisher.get_iam_policy(request={"resource": topic}),
        ):
            with pytest.raises(google_errors.PermissionDenied, match="User not authorized to perform this action"):
                refused()
        streaming = subscriber.subscribe(subscription, callback=lambda message: message.ack())
        with pytest.raises(google_errors.PermissionDenied, match="User not authorized"):
            streaming.result(timeout=10)


def test_a_bucket_that_does_not_exist_is_not_found_for_everyone(world: Any) -> None:
    host = world.cloud.environment(OPERATOR)["STORAGE_EMULATOR_HOST"]
    assert requests.get(f"{host}/storage/v1/b/no-such-bucket/o/x", timeout=5).status_code == 404


# --- what is missing --------------------------------------------------------------------------------------------------

#: Who reads what may be missing, and goes on without it; a 403 would end a release (see docs/permissions.md).
MAY_BE_MISSING = [
    *((account, "ledger", "runs/none/cloud.json") for account in ("training-launcher", "job-notifier")),
    *((account, "ledger", "runs/none/cloud.json") for account in ("cloud-deployer", "mobile-publisher")),
    *((account, "config", "datasets/none.yaml") for account in ("training-launcher", "cloud-deployer")),
    ("mobile-publisher", "config", "datasets/none.yaml"),
    ("training-launcher", "data", "flowers/none.tfrecord"),
    ("training-launcher", "models", "results/none/cloud.json"),
    ("training-launcher", "models", "runs/none/cloud/job.json"),
    ("training-launcher", "models", "automl/none/k/prepared.json"),
    ("job-notifier", "models", "results/none/cloud.json"),
    ("job-notifier", "models", "automl/none/k/prepared.json"),
    ("cloud-deployer", "models", "results/none/cloud.json"),
    ("cloud-deployer", "models", "runs/none/cloud/golden.json"),
    ("cloud-deployer", "models", "automl/none/k/golden.json"),
    ("cloud-deployer", "models", "cards/none/cloud.md"),
    ("cloud-deployer", "models", "evaluations/none/live.json"),
    ("mobile-publisher", "models", "results/none/cloud.json"),
    ("mobile-publisher", "firebase_storage", "models/none/latest.json"),
    ("trainer", "data", "flowers/none.tfrecord"),
    ("trainer", "models", "runs/none/cloud/checkpoints/1"),
]


@pytest.mark.parametrize(("account", "key", "name"), MAY_BE_MISSING)
def test_who_reads_what_may_be_missing_is_told_that_it_is(world: Any, account: str, key: str, name: str) -> None:
    with pytest.raises(ObjectMissing):
        world.actor(account).store(key).read(name)


def test_who_may_not_list_is_refused_what_is_missing_and_gets_what_is_there(world: Any) -> None:
    iam, bucket = world.cloud.iam, f"{PROJECT}-ledger"
    condition = Condition((f"projects/_/buckets/{bucket}/objects/only/",))
    grant = Grant(f"buckets/{bucket}", "roles/storage.objectUser", OPERATOR, condition)
    iam.grant(grant)
    world.upload("ledger", "only/there")
    client = world.cloud.environment(OPERATOR)["STORAGE_EMULATOR_HOST"]
    objects = f"{client}/storage/v1/b/{bucket}/o"
    try:
        told = {name: requests.get(f"{objects}/only%2F{name}", timeout=5) for name in ("there", "missing")}
        listed = requests.get(objects, params={"prefix": "only/"}, timeout=5)
        deleted = requests.delete(f"{objects}/only%2Fmissing", timeout=5)
        beside = requests.get(f"{objects}/other%2Fmissing", timeout=5)
    finally:
        iam.revoke(grant.resource, grant.role, grant.member)
    assert told["there"].status_code == 200
    for refused in (told["missing"], deleted, listed):
        assert refused.json()["error"] == storage_error("storage.objects.list", "Google Cloud Storage bucket")
    assert beside.json()["error"] == storage_error("storage.objects.get", "Google Cloud Storage object")


# --- what is replaced -------------------------------------------------------------------------------------------------


def test_who_may_create_and_not_delete_replaces_nothing(world: Any) -> None:
    """The launcher leaves a job's document under a name once."""
    bucket = world.actor("training-launcher").client.bucket(f"{PROJECT}-models")
    blob = bucket.blob(f"runs/{new_name()}/job.json")
    blob.upload_from_string("{}", if_generation_match=0)
    # The precondition comes first, then the permission to take away what is there.
    with pytest.raises(google_errors.PreconditionFailed):
        blob.upload_from_string("[]", if_generation_match=0)
    for refused in (
        lambda: blob.upload_from_string("[]"),
        blob.delete,
        lambda: blob.compose([blob]),
        blob.create_resumable_upload_session,
    ):
        with pytest.raises(google_errors.Forbidden, match=r"storage\.objects\.delete access to the Google Cloud"):
            refused()
    with pytest.raises(google_errors.Forbidden, match=r"storage\.objects\.create"):
        bucket.blob("results/forged/cloud.json").upload_from_string("{}")


def test_every_call_of_a_batch_is_judged_by_itself(world: Any) -> None:
    client = world.actor("training-launcher").client
    ledger, models = client.bucket(f"{PROJECT}-ledger"), client.bucket(f"{PROJECT}-models")
    mine, not_mine = ledger.blob(new_name()), models.blob(f"runs/{new_name()}/job.json")
    for blob in (mine, not_mine):
        blob.upload_from_string("{}")

    def delete_both() -> None:
        with client.batch():
            mine.delete()
            not_mine.delete()

    with pytest.raises(google_errors.Forbidden, match=r"storage\.objects\.delete"):
        delete_both()
    assert not mine.exists()
    assert not_mine.exists()


def test_what_an_account_may_do_is_told_to_it(world: Any) -> None:
    asked = ["storage.objects.list", "storage.objects.delete", "storage.buckets.get"]
    bucket = world.actor("trainer").client.bucket(f"{PROJECT}-models")
    # A condition on names of objects says nothing of the bucket.
    assert bucket.test_iam_permissions(asked) == ["storage.objects.list"]
    assert world.actor("owner").client.bucket(f"{PROJECT}-models").test_iam_permissions(asked) == asked


# --- who one is -------------------------------------------------------------------------------------------------------


def test_a_signed_url_is_judged_as_its_signer_when_it_is_used(world: Any) -> None:
    name, iam = f"mobile/{new_name()}.tflite", world.cloud.iam
    world.upload("models", name, TINY_MODEL.read_bytes())
    with world.actor("mobile-publisher").firebase():
        from dualdeploy.google import firebase_ml as firebase

        firebase._sign_at(world.cloud.iam_credentials.address)
        signer = firebase._impersonating_signer("")
        blob = world.actor("mobile-publisher").client.bucket(f"{PROJECT}-models").blob(name)
        url = blob.generate_signed_url(version="v4", expiration=datetime.timedelta(minutes=5), credentials=signer)
    # Whoever comes with it, at whichever port.
    address = world.cloud.storage.addresses[OPERATOR]
    url = f"http://{address}/{url.partition('://')[2].partition('/')[2]}"
    assert requests.get(url, timeout=5).content == TINY_MODEL.read_bytes()
    member = iam.member("mobile-publisher")
    taken = iam.revoke(f"buckets/{PROJECT}-models", "roles/storage.objectViewer", member)
    try:
        refused = requests.get(url, timeout=5)
    finally:
        for grant in taken:
            iam.grant(grant)
    assert refused.status_code == 403
    assert "storage.objects.get" in refused.text


def test_google_auth_learns_from_the_metadata_server_whose_machine_it_is_on(world: Any) -> None:
    script = """
import json, google.auth, google.auth.transport.requests as transport
from google.oauth2 import id_token
credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
credentials.refresh(transport.Request())
token = id_token.fetch_id_token(transport.Request(), "https://service")
print(json.dumps([project, credentials.service_account_email, credentials.token, token]))
"""
    environment = {**os.environ, **world.cloud.environment(world.cloud.iam.member("trainer"))}
    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, check=True, timeout=60
    )
    project, email, access, identity = json.loads(told.stdout)
    assert (project, email) == (PROJECT, f"trainer@{PROJECT}.iam.gserviceaccount.com")
    assert email in access
    assert identity.count(".") == 2


def test_iam_credentials_takes_no_token_but_those_of_the_metadata_server(world: Any) -> None:
    account = f"mobile-publisher@{PROJECT}.iam.gserviceaccount.com"
    url = f"http://{world.cloud.iam_credentials.address}/v1/projects/-/serviceAccounts/{account}:signBlob"
    assert requests.post(url, json={"payload": "eA=="}, timeout=5).status_code == 401
    headers = {"Authorization": f"Bearer local-cloud-token-of-trainer@{PROJECT}.iam.gserviceaccount.com"}
    refused = requests.post(url, json={"payload": "eA=="}, headers=headers, timeout=5)
    assert refused.json()["error"]["details"][0]["metadata"] == {"permission": "iam.serviceAccounts.signBlob"}


def test_an_account_that_is_disabled_may_do_nothing(world: Any) -> None:
    trainer = world.cloud.iam.member("trainer").partition(":")[2]
    control = f"http://{world.cloud.control.address}"
    requests.patch(f"{control}/project", json={"accounts": {trainer: True}}, timeout=5).raise_for_status()
    try:
        with pytest.raises(google_errors.Forbidden):
            list(world.actor("trainer").client.list_blobs(f"{PROJECT}-data"))
    finally:
        requests.patch(f"{control}/project", json={"accounts": {trainer: False}}, timeout=5).raise_for_status()


def run_job(world: Any, account: str, code: str) -> str:
    """A job of the owner's that runs Python as an account; the words that it ended with."""
    pool = {
        "machineSpec": {"machineType": "n1-standard-4"},
        "replicaCount": "1",
        "containerSpec": {"imageUri": f"{IMAGES}/trainer:1", "command": ["python", "-c", code]},
    }
    runs_as = {"serviceAccount": account} if account else {}
    job = {"displayName": "job", "jobSpec": {"workerPoolSpecs": [pool], **runs_as}}
    host = f"http://{world.cloud.environment()['VERTEX_EMULATOR_HOST']}/v1"
    made = requests.post(f"{host}/{LOCATION}/customJobs", json=job, timeout=5)
    if made.status_code != 200:
        return str(made.json()["error"]["message"])
    name = made.json()["name"]

    def ended() -> Any:
        found = requests.get(f"{host}/{name}", timeout=5).json()
        return found if found["state"] in {"JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED"} else None

    found = wait_for(ended, seconds=30)
    return str(found.get("error", {}).get("message", found["state"]))


READS = """
import os, urllib.request
host, bucket = os.environ["STORAGE_EMULATOR_HOST"], os.environ["LEDGER_BUCKET"]
try:
    urllib.request.urlopen(f"{host}/storage/v1/b/{bucket}/o").read()
except OSError as refused:
    raise SystemExit(f"refused: {refused.code}")
"""


def test_a_job_runs_as_its_account_and_without_one_as_vertex_ais_own(world: Any) -> None:
    trainer = f"trainer@{PROJECT}.iam.gserviceaccount.com"
    assert "refused: 403" in run_job(world, trainer, READS)
    # Which reads every bucket of the project: why training jobs have an account.
    assert run_job(world, "", READS) == "JOB_STATE_SUCCEEDED"


def test_no_one_acts_as_an_account_that_does_not_exist(world: Any) -> None:
    missing = f"no-such-account@{PROJECT}.iam.gserviceaccount.com"
    told = run_job(world, missing, "pass")
    assert told == f"You do not have permission to act as service_account: {missing}. (or it may not exist)."


# --- what people see --------------------------------------------------------------------------------------------------


def test_the_control_api_tells_who_was_refused_and_which_grants_were_needed(world: Any) -> None:
    control = f"http://{world.cloud.control.address}/permissions"
    requests.delete(control, timeout=5).raise_for_status()
    world.actor("job-notifier").publish("training-completed")
    with pytest.raises(Exception, match="not authorized"):
        world.actor("trainer").publish("training-completed")
    told = requests.get(control, timeout=5).json()
    topic = world.cloud.topology.topic_path("training-completed")
    needed = {
        "member": world.cloud.iam.member("job-notifier"),
        "role": "roles/pubsub.publisher",
        "resource": topic,
        "condition": "",
    }
    assert needed in told["needed"]
    assert told["refused"] == [
        {"member": world.cloud.iam.member("trainer"), "permission": "pubsub.topics.publish", "resource": topic}
    ]


def test_a_role_that_is_not_known_grants_nothing(world: Any) -> None:
    grant = {"resource": f"buckets/{PROJECT}-data", "role": "roles/storage.objectReader", "member": OWNER}
    answer = requests.patch(f"http://{world.cloud.control.address}/project", json={"grant": [grant]}, timeout=5)
    assert answer.status_code == 400
    assert "roles/storage.objectReader" in answer.json()["error"]["message"]


def test_a_notification_is_not_made_without_the_grant_to_publish(world: Any) -> None:
    iam = world.cloud.iam
    bucket = world.actor("owner").client.bucket(f"{PROJECT}-data")
    publisher = iam.member("Cloud Storage")
    taken = iam.revoke(f"projects/{PROJECT}", "roles/pubsub.publisher", publisher)
    try:
        notification = bucket.notification("training-completed", topic_project=PROJECT)
        with pytest.raises(google_errors.Forbidden, match="does not have permission to publish messages to to the"):
            notification.create()
    finally:
        for grant in taken:
            iam.grant(grant)


NOW = datetime.datetime.now(datetime.UTC)
#: An API that is off → a call of it, by the client that our services have.
OFF: Mapping[str, Callable[[Actor], Any]] = {
    "storage.googleapis.com": lambda actor: actor.store("ledger").read("x"),
    "pubsub.googleapis.com": lambda actor: actor.publish("advance"),
    "aiplatform.googleapis.com": lambda actor: actor.vertex.find_custom_jobs({"a": "b"}),
    "monitoring.googleapis.com": lambda actor: actor.monitoring.served("e", "1", since=NOW, until=NOW),
    "firebaseremoteconfig.googleapis.com": lambda actor: actor.remote_config.read(),
}


@pytest.mark.parametrize("api", OFF)
def test_an_api_that_is_off_answers_no_caller_and_says_so_in_googles_words(world: World, api: str) -> None:
    owner = world.actor("owner")
    world.cloud.iam.apis_off = {api}
    try:
        words = f"has not been used in project {PROJECT_NUMBER} before"
        with pytest.raises(PermissionSpreads, match=words) as refused:
            OFF[api](owner)
    finally:
        world.cloud.iam.apis_off = set()
    assert f"apis/api/{api}/overview?project={PROJECT_NUMBER}" in str(refused.value)
    assert "enable the API" in str(refused.value)


class SignsThroughIam(Signing):
    """Credentials whose signatures come from IAM."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud

    def sign_bytes(self, message: bytes) -> bytes:
        return self._cloud.mint.sign(message)[1]

    @property
    def signer_email(self) -> str:
        return f"mobile-publisher@{PROJECT}.iam.gserviceaccount.com"

    @property
    def signer(self) -> None:
        return None


@pytest.mark.parametrize(("hours", "status"), [(11, 200), (13, 403)])
def test_what_was_signed_through_iam_counts_for_twelve_hours(world: World, hours: int, status: int) -> None:
    """However long the URL says that it is good for: Google replaces the key."""
    name = f"runs/{new_name()}"
    world.upload("models", name)
    blob = world.actor("owner").client.bucket(world.cloud.topology.buckets["models"].name).blob(name)
    week = datetime.timedelta(days=7)
    url = blob.generate_signed_url(version="v4", expiration=week, credentials=SignsThroughIam(world.cloud))
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
    answer = requests.get(re.sub(r"X-Goog-Date=\w+", f"X-Goog-Date={then:%Y%m%dT%H%M%SZ}", url), timeout=5)
    assert answer.status_code == status
    assert ("<Code>SignatureDoesNotMatch</Code>" in answer.text) == (status == 403)


def test_a_job_does_not_start_as_an_account_that_vertex_ai_may_not_act_as(world: World) -> None:
    launcher = world.actor("training-launcher")
    iam = world.cloud.iam
    [taken] = iam.revoke(f"projects/{PROJECT}", "roles/aiplatform.serviceAgent", agent("gcp-sa-aiplatform"))
    try:
        name = launcher.create_job()
        job = wait_for(lambda: (found := launcher.vertex.get_custom_job(name)).ended and found)
    finally:
        iam.grant(taken)
    assert (job.state, job.started) == ("JOB_STATE_FAILED", None)
    assert "iam.serviceAccounts.actAs" in job.error
    # Not a matter of capacity: the training ends with what it says.
    assert not job.was_never_placed
