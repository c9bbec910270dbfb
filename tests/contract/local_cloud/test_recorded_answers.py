"""What Google was recorded to answer, and what the local cloud does: field by field, for one client of plain HTTP.

Each row is one fact that a client could notice. Where the recording has a number of its own, the row has a pattern.
"""

from __future__ import annotations

import base64
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from local_cloud import cloud as clouds
from local_cloud.cloud import LocalCloud
from local_cloud.iam import PROJECT_NUMBER

PROJECT, REGION = "demo-dualdeploy", "us-central1"
NUMBERED = f"projects/{PROJECT_NUMBER}/locations/{REGION}"
TRAINER = f"{REGION}-docker.pkg.dev/{PROJECT}/dualdeploy/trainer:1"

#: Recorded of a field that is not there.
ABSENT = object()
#: Recorded of one that is, with whatever value.
THERE = re.compile(r".+", re.DOTALL)


class Client:
    """Plain HTTP, and names that no other row has."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.cloud = cloud
        self._session = requests.Session()

    def new_name(self) -> str:
        return f"n-{uuid.uuid4().hex[:12]}"

    def ask(self, address: str, method: str, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
        answer = self._session.request(method, f"http://{address}{path}", json=body, params=query, timeout=30)
        return answer.status_code, answer.json() if answer.content else {}

    def vertex(self, method: str, path: str, body: Any = None, *, version: str = "v1", **query: str) -> Any:
        parent = f"projects/{PROJECT}/locations/{REGION}"
        name = path if path.startswith("projects/") else f"{parent}/{path}"
        return self.ask(self.cloud.vertex.address, method, f"/{version}/{name}", body, **query)

    def storage(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        return self.ask(self.cloud.storage.address, method, f"/storage/v1/{path}", body, **query)

    def pubsub(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        return self.ask(self.cloud.pubsub.address, method, f"/v1/projects/{PROJECT}/{path}", body, **query)

    def deployed(self, method: str, path: str, **query: str) -> Any:
        return self.ask(self.cloud.deployed.address, method, path, **query)

    def remote_config(self, method: str, body: Any = None) -> Any:
        url = f"http://{self.cloud.remote_config.address}/v1/projects/{PROJECT}/remoteConfig"
        answer = self._session.request(method, url, json=body, headers={"If-Match": "*"}, timeout=30)
        return answer.status_code, answer.json()

    def firebase_ml(self, method: str, path: str, body: Any = None) -> Any:
        return self.ask(self.cloud.firebase_ml.address, method, f"/v1beta2/projects/{PROJECT}/{path}", body)

    # What many rows begin with

    def job(self, machine: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        pool = {
            "machineSpec": {"machineType": "n1-standard-4", **(machine or {})},
            "replicaCount": "1",
            "containerSpec": {"imageUri": TRAINER},
        }
        return {"displayName": "toy", "jobSpec": {"workerPoolSpecs": [pool]}, **fields}

    def job_with(self, spec: Mapping[str, Any], pool: Mapping[str, Any]) -> dict[str, Any]:
        job = self.job()
        job["jobSpec"] |= spec
        job["jobSpec"]["workerPoolSpecs"][0] |= pool
        return job

    def created_job(self, **query: str) -> Any:
        code, job = self.vertex("POST", "customJobs", self.job(), **query)
        self.vertex("POST", f"customJobs/{job['name'].rpartition('/')[2]}:cancel", {})
        return code, job

    def finished(self, answer: tuple[int, Any], *, version: str = "v1") -> Any:
        code, operation = answer
        while code == 200 and not operation.get("done"):
            time.sleep(0.05)
            code, operation = self.ask(self.cloud.vertex.address, "GET", f"/{version}/{operation['name']}")
        return code, operation

    def endpoint(self) -> str:
        _, operation = self.finished(
            self.vertex("POST", "endpoints", {"displayName": "toy"}, endpointId=self.new_name())
        )
        return str(operation["response"]["name"])

    def model(self) -> str:
        request = {"modelId": self.new_name(), "model": {"displayName": "toy"}}
        _, operation = self.finished(self.vertex("POST", "models:upload", request))
        return str(operation["response"]["model"])

    def bucket(self, **properties: Any) -> str:
        name = self.new_name()
        self.storage("POST", "b", {"name": name, **properties}, project=PROJECT)
        return name

    def topic(self) -> str:
        name = self.new_name()
        self.pubsub("PUT", f"topics/{name}")
        return name


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Client]:
    with clouds.load(
        repository / "infra" / "topology.json", state_dir=tmp_path_factory.mktemp("cloud"), clock_seconds=3600
    ) as cloud:
        cloud.register_service("training_launcher", cloud.control.address)
        yield Client(cloud)


Ask = Callable[[Client], tuple[int, Any]]


def policy(*bindings: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {"bindings": list(bindings), **fields}


def uniform(client: Client) -> str:
    return client.bucket(iamConfiguration={"uniformBucketLevelAccess": {"enabled": True}})


def notified(client: Client, **config: Any) -> Any:
    document = {"topic": f"projects/{PROJECT}/topics/tick", "payload_format": "JSON_API_V1", **config}
    return client.storage("POST", f"b/{client.bucket()}/notificationConfigs", document)


def subscribed(client: Client, **fields: Any) -> Any:
    topic = f"projects/{PROJECT}/topics/{client.topic()}"
    return client.pubsub("PUT", f"subscriptions/{client.new_name()}", {"topic": topic, **fields})


def of_collection(client: Client, name: str) -> str:
    """The rest of a name behind the location, as an address that names the project by its id has it."""
    return name.split("/", 4)[4]


def deleted_endpoint(client: Client) -> Any:
    return client.vertex("DELETE", of_collection(client, client.endpoint()))


def overwritten_policy(client: Client) -> Any:
    bucket = client.bucket()
    _, read = client.storage("GET", f"b/{bucket}/iam")
    viewer = {"role": "roles/storage.objectViewer", "members": ["user:a@example.com"]}
    client.storage("PUT", f"b/{bucket}/iam", policy(viewer))
    return client.storage("PUT", f"b/{bucket}/iam", policy(etag=read["etag"]))


def stale_topic_policy(client: Client) -> Any:
    topic = client.topic()
    publisher = {"role": "roles/pubsub.publisher", "members": ["user:a@example.com"]}
    _, first = client.pubsub("POST", f"topics/{topic}:setIamPolicy", {"policy": policy(publisher)})
    client.pubsub("POST", f"topics/{topic}:setIamPolicy", {"policy": policy(publisher)})
    return client.pubsub("POST", f"topics/{topic}:setIamPolicy", {"policy": policy(etag=first["etag"])})


def conditional_policy(client: Client, **query: str) -> Any:
    bucket = uniform(client)
    condition = {"title": "some", "expression": f'resource.name.startsWith("projects/_/buckets/{bucket}/objects/a/")'}
    viewer = {"role": "roles/storage.objectViewer", "members": ["user:a@example.com"], "condition": condition}
    client.storage("PUT", f"b/{bucket}/iam", policy(viewer, version=3))
    return client.storage("GET", f"b/{bucket}/iam", **query)


def missing_topic(client: Client) -> Any:
    return client.pubsub("GET", "topics/not-there-at-all")


def published(client: Client, **attributes: str) -> Any:
    data = base64.b64encode(b"x").decode()
    return client.pubsub("POST", "topics/tick:publish", {"messages": [{"data": data, "attributes": attributes}]})


def written(client: Client) -> str:
    bucket = client.bucket()
    url = f"http://{client.cloud.storage.address}/upload/storage/v1/b/{bucket}/o"
    requests.post(url, params={"uploadType": "media", "name": "a/x.txt"}, data=b"x", timeout=30).raise_for_status()
    return bucket


RUN = f"/v2/projects/{PROJECT}/locations/{REGION}/services/training-launcher"
TRIGGER = f"/v1/projects/{PROJECT}/locations/{REGION}/triggers/data-object-finalized"
ACCOUNT = f"/v1/projects/{PROJECT}/serviceAccounts/trainer@{PROJECT}.iam.gserviceaccount.com"

#: (API and request, how it is made, status, {field: what was recorded of it})
ROWS: list[tuple[str, Ask, int, dict[str, Any]]] = [
    # --- Vertex AI -------------------------------------------------------------------------------------------
    (
        "vertex: a job is created",
        lambda client: client.created_job(),
        200,
        {
            "name": re.compile(rf"{NUMBERED}/customJobs/\d{{19}}"),
            "state": "JOB_STATE_PENDING",
            "createTime": re.compile(r".*\.\d{6}Z"),
            "jobSpec.workerPoolSpecs.0.replicaCount": "1",
            "jobSpec.workerPoolSpecs.0.diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 100},
            "etag": ABSENT,
            "startTime": ABSENT,
        },
    ),
    (
        "vertex: a job is created, enums as numbers",
        lambda client: client.created_job(**{"$alt": "json;enum-encoding=int"}),
        200,
        {"state": 2},
    ),
    (
        "vertex: a job by the name that was answered",
        lambda client: client.vertex("GET", client.created_job()[1]["name"]),
        200,
        {"name": re.compile(NUMBERED)},
    ),
    (
        "vertex: a job with a field that is not there",
        lambda client: client.vertex("POST", "customJobs", client.job(colour="red")),
        400,
        {
            "error.status": "INVALID_ARGUMENT",
            "error.message": "Invalid JSON payload received."
            " Unknown name \"colour\" at 'custom_job': Cannot find field.",
            "error.details.0.@type": "type.googleapis.com/google.rpc.BadRequest",
        },
    ),
    (
        "vertex: a job with a field that is not there, deep inside",
        lambda client: client.vertex("POST", "customJobs", client.job({"machine": "x"})),
        400,
        {
            "error.message": re.compile(
                r".*Unknown name \"machine\" at 'custom_job\.job_spec\.worker_pool_specs\[0\]\.machine_spec'.*"
            )
        },
    ),
    (
        "vertex: a job on a machine that is not there",
        lambda client: client.vertex("POST", "customJobs", client.job({"machineType": "foo-1"})),
        400,
        {
            "error.message": "List of found errors:\t1.Field: job_spec.worker_pool_specs[0].machine_spec.machine_type;"
            ' Message: Machine type "foo-1" is not supported.\t'
        },
    ),
    (
        "vertex: a job whose id is no number",
        lambda client: client.vertex("GET", "customJobs/letters"),
        400,
        {"error.message": re.compile(r"List of found errors:\t1\.Field: .*; Message: .*\t")},
    ),
    (
        "vertex: a job with a time-out of eight days",
        lambda client: client.vertex(
            "POST",
            "customJobs",
            {**client.job(), "jobSpec": {**client.job()["jobSpec"], "scheduling": {"timeout": "691200s"}}},
        ),
        400,
        {"error.status": "INVALID_ARGUMENT"},
    ),
    (
        "vertex: an export in no format",
        lambda client: client.vertex("POST", f"{client.model()}:export", {"outputConfig": {"exportFormatId": ""}}),
        400,
        {
            "error.status": "FAILED_PRECONDITION",
            "error.message": re.compile(
                r"Exporting artifact for model `projects/\d+/locations/us-central1/models/[\w-]+` in format `` is not"
                r" supported\.$"
            ),
        },
    ),
    (
        "vertex: a job that needs more than the quota",
        lambda client: client.vertex(
            "POST",
            "customJobs",
            client.job({"machineType": "n1-standard-96", "acceleratorType": "NVIDIA_TESLA_T4", "acceleratorCount": 4}),
        ),
        429,
        {
            "error.status": "RESOURCE_EXHAUSTED",
            "error.message": "The following quota metrics exceed quota limits:"
            " aiplatform.googleapis.com/custom_model_training_cpus",
        },
    ),
    (
        "vertex: another project",
        lambda client: client.vertex("GET", f"projects/another-project/locations/{REGION}/customJobs"),
        403,
        {"error.status": "PERMISSION_DENIED", "error.details.0.reason": "CONSUMER_INVALID"},
    ),
    (
        "vertex: an endpoint is being created",
        lambda client: client.vertex("POST", "endpoints", {"displayName": "toy"}, endpointId="begun"),
        200,
        {
            "name": re.compile(rf"{NUMBERED}/endpoints/begun/operations/\d+"),
            "done": ABSENT,
            "metadata.@type": "type.googleapis.com/google.cloud.aiplatform.v1.CreateEndpointOperationMetadata",
            "metadata.genericMetadata.createTime": THERE,
        },
    ),
    (
        "vertex: an endpoint was created",
        lambda client: client.finished(
            client.vertex("POST", "endpoints", {"displayName": "toy"}, endpointId=client.new_name())
        ),
        200,
        {
            "response.name": re.compile(rf"{NUMBERED}/endpoints/n-.*"),
            "response.displayName": "toy",
            "response.createTime": ABSENT,
            "response.etag": ABSENT,
        },
    ),
    (
        "vertex: an endpoint",
        lambda client: client.vertex("GET", client.endpoint()),
        200,
        {
            "name": re.compile(rf"{NUMBERED}/endpoints/n-.*"),
            "etag": re.compile(r"AMEw9y.*"),
            "deployedModels": ABSENT,
            "trafficSplit": ABSENT,
        },
    ),
    (
        "vertex: an endpoint is deleted",
        deleted_endpoint,
        200,
        {
            "name": re.compile(rf"{NUMBERED}/operations/\d+"),
            "done": True,
            "response.@type": "type.googleapis.com/google.protobuf.Empty",
        },
    ),
    (
        "vertex: a model was uploaded",
        lambda client: client.finished(
            client.vertex("POST", "models:upload", {"modelId": client.new_name(), "model": {"displayName": "toy"}})
        ),
        200,
        {"response.model": re.compile(rf"{NUMBERED}/models/n-.*"), "response.modelVersionId": "1"},
    ),
    (
        "vertex: a model",
        lambda client: client.vertex("GET", client.model()),
        200,
        {
            "supportedDeploymentResourcesTypes": ["DEDICATED_RESOURCES"],
            "supportedExportFormats.0.id": "custom-trained",
            "supportedExportFormats.0.exportableContents": ["ARTIFACT"],
            "supportedInputStorageFormats": THERE,
            "supportedOutputStorageFormats": THERE,
            "versionAliases": ["default"],
            "versionCreateTime": THERE,
            "versionUpdateTime": THERE,
            "deployedModels": ABSENT,
            "labels": ABSENT,
        },
    ),
    (
        "vertex: a model whose artifact is nowhere",
        lambda client: client.finished(
            client.vertex(
                "POST",
                "models:upload",
                {"model": {"displayName": "toy", "artifactUri": f"gs://{PROJECT}-models/nowhere"}},
            )
        ),
        200,
        {"error.code": 9, "error.message": re.compile(r"There are no files under .*"), "response": ABSENT},
    ),
    *(
        (
            f"vertex: a model with {what}",
            lambda client, fields=fields: client.vertex(
                "POST", "models:upload", {"model": {"displayName": "toy", **fields}}
            ),
            400,
            {"error.status": "INVALID_ARGUMENT"},
        )
        for what, fields in (
            ("an artifact that is in no bucket", {"artifactUri": "https://example.com/model"}),
            ("a variable of Vertex AI's", {"containerSpec": {"imageUri": TRAINER, "env": [{"name": "AIP_MODE"}]}}),
            ("a container without its image", {"containerSpec": {"args": ["x"]}}),
            ("port 0", {"containerSpec": {"imageUri": TRAINER, "ports": [{"containerPort": 0}]}}),
            ("port 70000", {"containerSpec": {"imageUri": TRAINER, "ports": [{"containerPort": 70000}]}}),
            ("a route without a slash", {"containerSpec": {"imageUri": TRAINER, "predictRoute": "predict"}}),
        )
    ),
    *(
        (
            f"vertex: a job with {what}",
            lambda client, spec=spec, pool=pool: client.vertex("POST", "customJobs", client.job_with(spec, pool)),
            400,
            {"error.status": "INVALID_ARGUMENT"},
        )
        for what, spec, pool in (
            ("a disk that is too small", {}, {"diskSpec": {"bootDiskSizeGb": 99}}),
            ("a disk that is too large", {}, {"diskSpec": {"bootDiskSizeGb": 64001}}),
            ("a disk of no kind", {}, {"diskSpec": {"bootDiskType": "ssd"}}),
            ("a network by its last name", {"network": "default"}, {}),
            ("a TensorBoard by its last name", {"tensorboard": "123"}, {}),
            ("an output in no bucket", {"baseOutputDirectory": {"outputUriPrefix": "gs://"}}, {}),
            ("an account of another project", {"serviceAccount": "a@another.iam.gserviceaccount.com"}, {}),
            ("FLEX_START for a machine without accelerator", {"scheduling": {"strategy": "FLEX_START"}}, {}),
        )
    ),
    *(
        (
            f"vertex: {what} with a parameter that is not there",
            lambda client, method=method, path=path, body=body: client.vertex(method, path, body, colour="red"),
            400,
            {"error.message": re.compile(r'.*Unknown name "colour": Cannot bind query parameter\. Field .*')},
        )
        for what, method, path, body in (
            ("a list", "GET", "customJobs", None),
            ("a resource", "GET", "endpoints/1", None),
            ("an endpoint", "POST", "endpoints", {"displayName": "toy"}),
            ("a deletion", "DELETE", "models/1", None),
        )
    ),
    (
        "remote config: a template with a number",
        lambda client: client.remote_config("PUT", {"parameters": {"a": {"defaultValue": {"value": 5}}}}),
        400,
        {"error.message": re.compile(r"Invalid value at .*TYPE_STRING.*")},
    ),
    (
        "firebase ml: a model with a field that is not there",
        lambda client: client.firebase_ml("POST", "models", {"displayName": "toy", "colour": "red"}),
        400,
        {"error.message": re.compile(r".*Unknown name \"colour\" at 'model': Cannot find field\.")},
    ),
    (
        "firebase ml: a model with a file of another name",
        lambda client: client.firebase_ml("POST", "models", {"displayName": "toy", "tfliteModel": {"uri": "gs://a/b"}}),
        400,
        {"error.message": re.compile(r".*Unknown name \"uri\" at 'model\.tflite_model': Cannot find field\.")},
    ),
    ("vertex: no data sets", lambda client: client.vertex("GET", "datasets"), 200, {"datasets": ABSENT}),
    (
        "vertex: no deployment pools",
        lambda client: client.vertex("GET", "deploymentResourcePools"),
        200,
        {"deploymentResourcePools": ABSENT},
    ),
    *(
        (f"vertex: {what} of v1beta1", lambda client, what=what: client.vertex("GET", what, version="v1beta1"), 200, {})
        for what in ("customJobs", "models", "endpoints", "datasets", "operations")
    ),
    (
        "vertex: an endpoint of v1beta1",
        lambda client: client.finished(
            client.vertex("POST", "endpoints", {"displayName": "t"}, version="v1beta1", endpointId=client.new_name()),
            version="v1beta1",
        ),
        200,
        {"response.@type": "type.googleapis.com/google.cloud.aiplatform.v1beta1.Endpoint"},
    ),
    (
        "vertex: a path that nothing is at",
        lambda client: client.vertex("GET", "specialistPools"),
        404,
        {"error.status": "NOT_FOUND", "error.message": re.compile(r".*COVERAGE\.md.*")},
    ),
    # --- Cloud Storage ---------------------------------------------------------------------------------------
    (
        "storage: a bucket is created, nothing said",
        lambda client: client.storage("POST", "b", {"name": client.new_name()}, project=PROJECT),
        200,
        {
            "location": "US",
            "locationType": "multi-region",
            "rpo": "DEFAULT",
            "projectNumber": PROJECT_NUMBER,
            "etag": "CAE=",
            "timeCreated": re.compile(r".*\.\d{3}Z"),
            "iamConfiguration.publicAccessPrevention": "inherited",
            "iamConfiguration.uniformBucketLevelAccess": {"enabled": False},
            "softDeletePolicy.retentionDurationSeconds": "604800",
        },
    ),
    (
        "storage: a bucket is created in a region, with uniform access",
        lambda client: client.storage(
            "POST",
            "b",
            {
                "name": client.new_name(),
                "location": REGION,
                "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}},
            },
            project=PROJECT,
        ),
        200,
        {
            "location": "US-CENTRAL1",
            "locationType": "region",
            "iamConfiguration.uniformBucketLevelAccess.enabled": True,
            "iamConfiguration.uniformBucketLevelAccess.lockedTime": THERE,
        },
    ),
    *(
        (
            f"storage: a bucket with {what}",
            lambda client, fields=fields: client.storage(
                "POST", "b", {"name": client.new_name(), **fields}, project=PROJECT
            ),
            400,
            {"error.errors.0.reason": "invalid"},
        )
        for what, fields in (
            ("no such location", {"location": "atlantis"}),
            ("no such class", {"storageClass": "LUKEWARM"}),
            ("a name of goog", {"name": "goog-things"}),
            ("a name like Google's", {"name": "my-g00gle-bucket"}),
            ("an address as its name", {"name": "10.1.2.3"}),
            ("a name of 64 letters", {"name": "a" * 64}),
        )
    ),
    (
        "storage: a bucket is patched with nothing",
        lambda client: client.storage("PATCH", f"b/{client.bucket()}", {}),
        200,
        {"metageneration": "1"},
    ),
    (
        "storage: a bucket that is not there",
        lambda client: client.storage("GET", "b/not-there-at-all"),
        404,
        {"error.message": "The specified bucket does not exist.", "error.errors.0.reason": "notFound"},
    ),
    (
        "storage: a precondition that does not hold",
        lambda client: client.storage("PATCH", f"b/{client.bucket()}", {"labels": {}}, ifMetagenerationMatch="9"),
        412,
        {
            "error.message": "At least one of the pre-conditions you specified did not hold.",
            "error.errors.0.reason": "conditionNotMet",
            "error.errors.0.location": "If-Match",
        },
    ),
    (
        "storage: the policy of a new bucket",
        lambda client: client.storage("GET", f"b/{uniform(client)}/iam"),
        200,
        {
            "version": 1,
            "etag": "CAE=",
            "bindings.0.role": "roles/storage.legacyBucketOwner",
            "bindings.3.role": "roles/storage.legacyObjectReader",
            "bindings.4": ABSENT,
        },
    ),
    (
        "storage: a policy is set",
        lambda client: client.storage(
            "PUT",
            f"b/{client.bucket()}/iam",
            policy({"role": "roles/storage.objectViewer", "members": ["user:a@example.com"]}),
        ),
        200,
        {"kind": "storage#policy", "version": 1},
    ),
    (
        "storage: a policy with a role of another product",
        lambda client: client.storage(
            "PUT",
            f"b/{client.bucket()}/iam",
            policy({"role": "roles/pubsub.publisher", "members": ["user:a@example.com"]}),
        ),
        400,
        {"error.errors.0.reason": "invalid"},
    ),
    (
        "storage: a bucket in another project",
        lambda client: client.storage("POST", "b", {"name": client.new_name()}, project="another-project"),
        403,
        {
            "error.message": re.compile(
                r".* does not have storage\.buckets\.create access to the Google Cloud project.*"
            )
        },
    ),
    (
        "storage: a bucket in the project by its number",
        lambda client: client.storage("POST", "b", {"name": client.new_name()}, project=PROJECT_NUMBER),
        200,
        {},
    ),
    *(
        (
            f"storage: a bucket with {what}",
            lambda client, fields=fields: client.storage("PATCH", f"b/{client.bucket()}", fields),
            400,
            {"error.message": "Invalid argument."},
        )
        for what, fields in (
            ("a label in capitals", {"labels": {"Team": "a"}}),
            ("a label that begins with a digit", {"labels": {"1team": "a"}}),
            ("deleted objects kept for a day", {"softDeletePolicy": {"retentionDurationSeconds": "86400"}}),
            ("deleted objects kept for a year", {"softDeletePolicy": {"retentionDurationSeconds": "31536000"}}),
            ("a rule that does nothing known", {"lifecycle": {"rule": [{"action": {"type": "Remove"}}]}}),
        )
    ),
    ("storage: a stale policy", overwritten_policy, 412, {"error.errors.0.reason": "conditionNotMet"}),
    (
        "storage: a condition is shown to who asks for version 3",
        lambda client: conditional_policy(client, optionsRequestedPolicyVersion="3"),
        200,
        {"version": 3, "bindings.4.role": "roles/storage.objectViewer", "bindings.4.condition.title": "some"},
    ),
    (
        "storage: a condition is hidden from who does not",
        conditional_policy,
        200,
        {
            "version": 1,
            "bindings.4.role": re.compile(r"roles/storage\.objectViewer_withcond_[0-9a-f]{20}"),
            "bindings.4.condition": ABSENT,
        },
    ),
    (
        "storage: the project's service agent",
        lambda client: client.storage("GET", f"projects/{PROJECT}/serviceAccount"),
        200,
        {"email_address": f"service-{PROJECT_NUMBER}@gs-project-accounts.iam.gserviceaccount.com"},
    ),
    (
        "storage: an object's etag is a message",
        lambda client: client.storage("GET", f"b/{written(client)}/o/a%2Fx.txt"),
        200,
        {"etag": re.compile(r"C.*EAE="), "timeFinalized": THERE},
    ),
    (
        "storage: objects that are soft-deleted",
        lambda client: client.storage("GET", f"b/{written(client)}/o", softDeleted="true"),
        200,
        {"items": ABSENT},
    ),
    (
        "storage: no notifications",
        lambda client: client.storage("GET", f"b/{client.bucket()}/notificationConfigs"),
        200,
        {"items": ABSENT},
    ),
    (
        "storage: a notification to a topic by its short name",
        notified,
        200,
        {"topic": f"//pubsub.googleapis.com/projects/{PROJECT}/topics/tick", "id": "1"},
    ),
    (
        "storage: a notification to a topic by its long name",
        lambda client: notified(client, topic=f"//pubsub.googleapis.com/projects/{PROJECT}/topics/tick"),
        200,
        {"topic": f"//pubsub.googleapis.com/projects/{PROJECT}/topics/tick"},
    ),
    (
        "storage: a notification of events that nobody knows",
        lambda client: notified(client, event_types=["OBJECT_FINALIZE", "OBJECT_EATEN"]),
        200,
        {"event_types": ["OBJECT_FINALIZE"]},
    ),
    (
        "storage: a notification to a topic that is not there",
        lambda client: notified(client, topic=f"projects/{PROJECT}/topics/not-there"),
        400,
        {
            "error.message": f"Cloud Pub/Sub topic 'projects/{PROJECT}/topics/not-there' not found, or user"
            " 'owner@example.com' does not have permission to it."
        },
    ),
    (
        "storage: a notification without a format",
        lambda client: notified(client, payload_format=""),
        400,
        {"error.errors.0.reason": "required"},
    ),
    (
        "storage: a notification to what is no topic",
        lambda client: notified(client, topic="somewhere"),
        400,
        {"error.message": re.compile(r"Invalid Google Cloud Pub/Sub topic\. .*")},
    ),
    (
        "storage: a notification with six attributes",
        lambda client: notified(client, custom_attributes={f"k{number}": "v" for number in range(6)}),
        400,
        {"error.errors.0.reason": "invalid"},
    ),
    # --- Pub/Sub ---------------------------------------------------------------------------------------------
    (
        "pubsub: REST at the address of gRPC",
        lambda client: client.pubsub("GET", "topics"),
        200,
        {"topics.0.name": re.compile(rf"projects/{PROJECT}/topics/.*")},
    ),
    (
        "pubsub: a topic that is not there",
        missing_topic,
        404,
        {"error.status": "NOT_FOUND", "error.message": "Resource not found (resource=not-there-at-all)."},
    ),
    (
        "pubsub: a topic by the project's number",
        lambda client: client.ask(client.cloud.pubsub.address, "GET", f"/v1/projects/{PROJECT_NUMBER}/topics/tick"),
        200,
        {"name": f"projects/{PROJECT}/topics/tick"},
    ),
    (
        "pubsub: a topic named GOOG…",
        lambda client: client.pubsub("PUT", "topics/GOOGthings"),
        400,
        {"error.status": "INVALID_ARGUMENT"},
    ),
    (
        "pubsub: a topic whose label has capitals",
        lambda client: client.pubsub("PUT", f"topics/{client.new_name()}", {"labels": {"Team": "a"}}),
        400,
        {"error.status": "INVALID_ARGUMENT"},
    ),
    (
        "pubsub: a topic that keeps messages for five minutes",
        lambda client: client.pubsub("PUT", f"topics/{client.new_name()}", {"messageRetentionDuration": "300s"}),
        400,
        {"error.status": "INVALID_ARGUMENT"},
    ),
    (
        "pubsub: a topic with a field that is not there",
        lambda client: client.pubsub("PUT", f"topics/{client.new_name()}", {"colour": "red"}),
        400,
        {"error.status": "INVALID_ARGUMENT"},
    ),
    (
        "pubsub: a fresh policy",
        lambda client: client.pubsub("GET", f"topics/{client.topic()}:getIamPolicy"),
        200,
        {"etag": "ACAB", "version": ABSENT, "bindings": ABSENT},
    ),
    (
        "pubsub: a policy is set",
        lambda client: client.pubsub(
            "POST",
            f"topics/{client.topic()}:setIamPolicy",
            {"policy": policy({"role": "roles/pubsub.publisher", "members": ["user:a@example.com"]})},
        ),
        200,
        {"bindings.0.members": ["user:a@example.com"], "etag": re.compile(r"BwY.*")},
    ),
    (
        "pubsub: a stale policy",
        stale_topic_policy,
        409,
        {"error.status": "ABORTED", "error.message": re.compile(r"There were concurrent policy changes\..*")},
    ),
    (
        "pubsub: a policy with a condition",
        lambda client: client.pubsub(
            "POST",
            f"topics/{client.topic()}:setIamPolicy",
            {
                "policy": policy(
                    {"role": "roles/pubsub.publisher", "members": [], "condition": {"expression": "true", "title": "t"}}
                )
            },
        ),
        400,
        {"error.status": "INVALID_ARGUMENT"},
    ),
    (
        "pubsub: publisher of a subscription",
        lambda client: client.pubsub(
            "POST",
            f"subscriptions/{subscribed(client)[1]['name'].rpartition('/')[2]}:setIamPolicy",
            {"policy": policy({"role": "roles/pubsub.publisher", "members": ["user:a@example.com"]})},
        ),
        400,
        {"error.status": "INVALID_ARGUMENT"},
    ),
    (
        "pubsub: permissions are tested",
        lambda client: client.pubsub(
            "POST",
            f"topics/{client.topic()}:testIamPermissions",
            {"permissions": ["pubsub.topics.publish"]},
        ),
        200,
        {"permissions": ["pubsub.topics.publish"]},
    ),
    (
        "pubsub: a message is published",
        lambda client: published(client, v="1"),
        200,
        {"messageIds.0": re.compile(r"\d+")},
    ),
    ("pubsub: a message with a key googx", lambda client: published(client, googx="1"), 400, {}),
    ("pubsub: a message with an empty key", lambda client: published(client, **{"": "1"}), 400, {}),
    (
        "pubsub: a subscription is created",
        subscribed,
        200,
        {
            "expirationPolicy.ttl": "2678400s",
            "messageRetentionDuration": "604800s",
            "pushConfig": {},
            "state": "ACTIVE",
        },
    ),
    (
        "pubsub: a subscription with blanks in its filter and a back-off of five seconds",
        lambda client: subscribed(
            client, filter='attributes.type = "key"', retryPolicy={"minimumBackoff": "5s", "maximumBackoff": "60s"}
        ),
        200,
        {"retryPolicy.minimumBackoff": "5s", "filter": 'attributes.type = "key"'},
    ),
    (
        "pubsub: a subscription that expires after an hour",
        lambda client: subscribed(client, expirationPolicy={"ttl": "3600s"}),
        400,
        {"error.status": "INVALID_ARGUMENT"},
    ),
    (
        "pubsub: a subscription that expires before its messages",
        lambda client: subscribed(client, expirationPolicy={"ttl": "86400s"}),
        400,
        {"error.status": "INVALID_ARGUMENT"},
    ),
    # --- what is deployed ------------------------------------------------------------------------------------
    (
        "deployed: a service of Cloud Run",
        lambda client: client.deployed("GET", RUN),
        200,
        {
            "uid": THERE,
            "generation": "1",
            "observedGeneration": "1",
            "etag": re.compile(r'".*"'),
            "ingress": THERE,
            "launchStage": "GA",
            "template.timeout": "300s",
            "template.maxInstanceRequestConcurrency": 80,
            "template.containers.0.image": THERE,
            "template.containers.0.resources.limits": {"cpu": "1000m", "memory": "512Mi"},
            "template.containers.0.ports.0": {"name": "http1", "containerPort": 8080},
            "template.containers.0.startupProbe.periodSeconds": 240,
            "terminalCondition.lastTransitionTime": THERE,
            "conditions.0.type": "RoutesReady",
            "conditions.1.type": "ConfigurationsReady",
            "trafficStatuses.0.percent": 100,
            "latestReadyRevision": re.compile(r".*/revisions/training-launcher-00001-[a-z]{3}"),
        },
    ),
    (
        "deployed: a trigger",
        lambda client: client.deployed("GET", TRIGGER),
        200,
        {
            "uid": THERE,
            "createTime": re.compile(r".*\.\d{9}Z"),
            "transport.pubsub.topic": THERE,
            "transport.pubsub.subscription": re.compile(r".*/eventarc-us-central1-data-object-finalized-sub-\d{3}"),
        },
    ),
    (
        "deployed: a service account",
        lambda client: client.deployed("GET", ACCOUNT),
        200,
        {"uniqueId": re.compile(r"\d{21}"), "projectId": PROJECT, "etag": THERE, "disabled": ABSENT},
    ),
    (
        "deployed: a log sink",
        lambda client: client.deployed("GET", f"/v2/projects/{PROJECT}/sinks/dualdeploy-training-job-logs"),
        200,
        {
            "createTime": THERE,
            "disabled": ABSENT,
            "writerIdentity": re.compile(rf"serviceAccount:service-{PROJECT_NUMBER}@"),
        },
    ),
    (
        "deployed: a log sink that is not there",
        lambda client: client.deployed("GET", f"/v2/projects/{PROJECT}/sinks/none"),
        404,
        {"error.message": "Sink none does not exist"},
    ),
    (
        "deployed: a job of Cloud Scheduler",
        lambda client: client.deployed("GET", f"/v1/projects/{PROJECT}/locations/{REGION}/jobs/dualdeploy-tick"),
        200,
        {"userUpdateTime": THERE, "state": "ENABLED", "schedule": THERE, "timeZone": THERE, "pubsubTarget": THERE},
    ),
    (
        "deployed: the policy of the project",
        lambda client: client.deployed("POST", f"/v1/projects/{PROJECT}:getIamPolicy"),
        200,
        {"etag": re.compile(r"BwY.*")},
    ),
    (
        "deployed: quotas",
        lambda client: (
            200,
            {
                info["metric"].rpartition("/")[2]: info["quotaId"]
                for info in client.deployed(
                    "GET",
                    f"/v1/projects/{PROJECT}/locations/global/services/aiplatform.googleapis.com/quotaInfos",
                )[1]["quotaInfos"]
            },
        ),
        200,
        {
            "custom_model_training_cpus": "CustomModelTrainingCPUsPerProjectPerRegion",
            "custom_model_training_preemptible_cpus": THERE,
        },
    ),
]


@pytest.mark.parametrize(("ask", "status", "fields"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_answer_is_the_recorded_one(client: Client, ask: Ask, status: int, fields: dict[str, Any]) -> None:
    code, document = ask(client)
    assert code == status, document
    for path, recorded in fields.items():
        found = field(document, path)
        if isinstance(recorded, re.Pattern):
            matches = found is not ABSENT and bool(recorded.match(str(found)))
        else:
            matches = found is recorded if recorded is ABSENT else found == recorded
        assert matches, f"{path} is {'missing' if found is ABSENT else repr(found)}"


def field(document: Any, path: str) -> Any:
    """What is at `conditions.0.type`, or ABSENT; a name may have dots of its own at the end."""
    at = document
    parts = path.split(".")
    for part in parts:
        if isinstance(at, list) and part.isdigit() and int(part) < len(at):
            at = at[int(part)]
        elif isinstance(at, Mapping) and part in at:
            at = at[part]
        else:
            return ABSENT
    return at
