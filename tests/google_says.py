"""What Google says while something counts nowhere yet, or not everywhere: as met on real Google Cloud.

A grant, a new account, an API that was just enabled and a service agent that is made when it is first needed all take
minutes. `WAIT` lists what passes by itself; `FINAL` lists refusals that look like it and do not pass. `met_by` says who
gets the answer: `deploy` (gcloud or Terraform, in `make deploy`) or a service, through Google's client libraries.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Answer:
    """`code` is the HTTP status and `status` the name in the error's body; `source` tells where it was met."""

    says: str
    code: int
    status: str
    met_by: frozenset[str]
    source: str


def _answer(says: str, code: int, status: str, met_by: str, source: str) -> Answer:
    return Answer(says, code, status, frozenset(met_by.split()), source)


WAIT = {
    "an API that was just enabled": _answer(
        "Cloud Run Admin API has not been used in project 123456789012 before or it is disabled. Enable it by "
        "visiting https://console.developers.google.com/apis/api/run.googleapis.com/overview?project=123456789012 "
        "then retry. If you enabled this API recently, wait a few minutes for the action to propagate to our "
        "systems and retry.",
        *(403, "PERMISSION_DENIED", "deploy service", "GoogleCloudPlatform/agent-starter-pack#304"),
    ),
    "the reason that comes with it": _answer(
        'Error 403: details: [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}]',
        *(403, "PERMISSION_DENIED", "deploy service", "GoogleCloudPlatform/agent-starter-pack#304"),
    ),
    "Eventarc's agent": _answer(
        'Error creating Trigger: googleapi: Error 400: Invalid resource state for "": Permission denied while '
        "using the Eventarc Service Agent. If you recently started to use Eventarc, it may take a few minutes "
        "before all necessary permissions are propagated to the Service Agent.",
        *(400, "FAILED_PRECONDITION", "deploy", "hashicorp/terraform-provider-google#25294"),
    ),
    "Eventarc's agent, in lower case": _answer(
        "Error creating Trigger: googleapi: Error 400: permission denied while using the Eventarc Service Agent. "
        "If you recently started to use Eventarc, it may take a few minutes",
        *(400, "FAILED_PRECONDITION", "deploy", "terraform-google-modules/terraform-docs-samples#203"),
    ),
    "a notification before its grant": _answer(
        "googleapi: Error 403: The service account "
        "'service-123456789012@gs-project-accounts.iam.gserviceaccount.com' does not have permission to publish "
        "messages to to the Cloud Pub/Sub topic '//pubsub.googleapis.com/projects/demo/topics/training-results', "
        "or that topic does not exist.",
        *(403, "forbidden", "deploy", "kmoneil/zig-gcp docs/storage/notifications.md"),
    ),
    "a notification before its topic": _answer(
        "googleapi: Error 400: Cloud Pub/Sub topic "
        "'//pubsub.googleapis.com/projects/demo/topics/training-results' not found, or user 'ann@example.com' "
        "does not have permission to it.",
        *(400, "invalid", "deploy", "kmoneil/zig-gcp docs/storage/notifications.md"),
    ),
    "dead letters before Pub/Sub's agent": _answer(
        "Error setting IAM policy for topic: googleapi: Error 400: Service account "
        "service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com does not exist., badRequest",
        *(400, "INVALID_ARGUMENT", "deploy", "GoogleCloudPlatform/cluster-toolkit#6293"),
    ),
    "a builder that may not read its source yet": _answer(
        "ERROR: (gcloud.builds.submit) INVALID_ARGUMENT: could not resolve source: googleapi: Error 403: "
        "dualdeploy-builder@demo.iam.gserviceaccount.com does not have storage.objects.get access to the Google "
        "Cloud Storage object. Permission 'storage.objects.get' denied on resource (or it may not exist)., "
        "forbidden",
        *(403, "forbidden", "deploy", "hashicorp/terraform-provider-google#20571"),
    ),
    "a function's builder that may not read its source yet": _answer(
        "Build failed with status: FAILURE and message: failed to download archive gs://gcf-v2-sources-123456789012-"
        "us-central1/job-notifier/function-source.zip: Access to bucket gcf-v2-sources-123456789012-us-central1 "
        "denied. You must grant Storage Object Viewer permission to "
        "dualdeploy-builder@demo.iam.gserviceaccount.com.",
        *(403, "PERMISSION_DENIED", "deploy", "hashicorp/terraform-provider-google#20571"),
    ),
    "an account that may not be acted as yet, to Cloud Build": _answer(
        "ERROR: (gcloud.builds.submit) PERMISSION_DENIED: caller does not have permission to act as service account "
        "projects/demo/serviceAccounts/dualdeploy-builder@demo.iam.gserviceaccount.com",
        *(403, "PERMISSION_DENIED", "deploy", "kohei321dev/spot-diggz#164"),
    ),
    "an account that may not be acted as yet, to Vertex AI": _answer(
        "You do not have permission to act as service_account: trainer@demo.iam.gserviceaccount.com. (or it may not "
        "exist).",
        *(400, "INVALID_ARGUMENT", "service", "googleapis/python-aiplatform#1073"),
    ),
    "Vertex AI's agents": _answer(
        "Service agents are being provisioned (https://cloud.google.com/vertex-ai/docs/general/access-control"
        "#service-agents). Service agents are needed to read the Cloud Storage file provided. So please try again "
        "in a few minutes.",
        *(400, "FAILED_PRECONDITION", "service", "GoogleCloudPlatform/generative-ai#1308"),
    ),
    "a metric that Cloud Monitoring does not know yet": _answer(
        "Error creating AlertPolicy: googleapi: Error 404: Cannot find metric(s) that match type = "
        '"pubsub.googleapis.com/topic/send_request_count". If a metric was created recently, it could take up to '
        "10 minutes to become available. Please try again soon.",
        *(404, "NOT_FOUND", "deploy", "hashicorp/terraform-provider-google#11102"),
    ),
    "the same, in older words": _answer(
        "Error creating AlertPolicy: googleapi: Error 404: The metric referenced by the provided filter is "
        "unknown. Check the metric name and labels.",
        *(404, "NOT_FOUND", "deploy", "GoogleCloudPlatform/gke-monitoring-tutorial#40"),
    ),
    "the agent of Cloud Functions": _answer(
        "Error creating function: googleapi: Error 400: Unable to retrieve the repository metadata for projects/demo/"
        "locations/us-central1/repositories/dualdeploy. Ensure that the Cloud Functions service account has "
        "'artifactregistry.repositories.list' and 'artifactregistry.repositories.get' permissions.",
        *(400, "INVALID_ARGUMENT", "deploy", "firebase/firebase-tools#5244"),
    ),
    "too many changes of one policy": _answer(
        "googleapi: Error 409: There were concurrent policy changes. Please retry the whole read-modify-write with "
        "exponential backoff., aborted",
        *(409, "ABORTED", "deploy", "kmoneil/zig-gcp docs/pubsub"),
    ),
    "too many calls": _answer(
        "googleapi: Error 429: The object demo-models/a exceeded the rate limit for object mutation operations "
        "(create, update, and delete). Please reduce your request rate. See "
        "https://cloud.google.com/storage/docs/gcs429., rateLimitExceeded",
        *(429, "RESOURCE_EXHAUSTED", "deploy service", "https://docs.cloud.google.com/storage/docs/gcs429"),
    ),
}

FINAL = {
    "a permission that a person lacks": _answer(
        "googleapi: Error 403: Permission 'pubsub.topics.create' denied on resource 'projects/demo' (or it may "
        "not exist).",
        *(403, "PERMISSION_DENIED", "deploy service", "https://docs.cloud.google.com/iam/docs/troubleshoot-access"),
    ),
    "a permission that a service lacks on Vertex AI": _answer(
        "Permission 'aiplatform.customJobs.create' denied on resource "
        "'//aiplatform.googleapis.com/projects/demo/locations/us-central1' (or it may not exist).",
        *(403, "PERMISSION_DENIED", "service", "https://docs.cloud.google.com/iam/docs/troubleshoot-access"),
    ),
    "a machine that is not to be had": _answer(
        'Machine type "foo-1" is not supported.',
        *(400, "INVALID_ARGUMENT", "service", "issues of googleapis/python-aiplatform"),
    ),
    "a build that failed": _answer(
        'ERROR: (gcloud.builds.submit) build 0c1d completed with status "FAILURE"',
        *(400, "FAILURE", "deploy", "https://docs.cloud.google.com/build/docs/troubleshooting"),
    ),
    "a bucket's name that somebody else has": _answer(
        "googleapi: Error 409: The requested bucket name is not available. The bucket namespace is shared by all "
        "users of the system. Please select a different name and try again., conflict",
        *(409, "conflict", "deploy", "https://docs.cloud.google.com/storage/docs/troubleshooting"),
    ),
}
