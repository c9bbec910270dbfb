"""What Google says while something counts nowhere yet, or not everywhere: as met on real Google Cloud.

A grant, a new account, an API that was just enabled and a service agent that is made when it is first needed all take
minutes. `WAIT` lists what gcloud and Terraform tell `make deploy` and what passes by itself; `FINAL` lists refusals
that look like it and do not pass. What services are told is in tests/fixtures/google_errors.yaml.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Answer:
    """What gcloud or Terraform printed, and where it was met or is documented."""

    says: str
    source: str


WAIT = {
    "an API that was just enabled": Answer(
        "Cloud Run Admin API has not been used in project 123456789012 before or it is disabled. Enable it by "
        "visiting https://console.developers.google.com/apis/api/run.googleapis.com/overview?project=123456789012 "
        "then retry. If you enabled this API recently, wait a few minutes for the action to propagate to our "
        "systems and retry.",
        "GoogleCloudPlatform/agent-starter-pack#304",
    ),
    "the reason that comes with it": Answer(
        'Error 403: details: [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}]',
        "GoogleCloudPlatform/agent-starter-pack#304",
    ),
    "Eventarc's agent": Answer(
        'Error creating Trigger: googleapi: Error 400: Invalid resource state for "": Permission denied while '
        "using the Eventarc Service Agent. If you recently started to use Eventarc, it may take a few minutes "
        "before all necessary permissions are propagated to the Service Agent.",
        "hashicorp/terraform-provider-google#25294",
    ),
    "Eventarc's agent, in lower case": Answer(
        "Error creating Trigger: googleapi: Error 400: permission denied while using the Eventarc Service Agent. "
        "If you recently started to use Eventarc, it may take a few minutes",
        "terraform-google-modules/terraform-docs-samples#203",
    ),
    "a notification before its grant": Answer(
        "googleapi: Error 403: The service account "
        "'service-123456789012@gs-project-accounts.iam.gserviceaccount.com' does not have permission to publish "
        "messages to to the Cloud Pub/Sub topic '//pubsub.googleapis.com/projects/demo/topics/training-results', "
        "or that topic does not exist.",
        "kmoneil/zig-gcp docs/storage/notifications.md",
    ),
    "a notification before its topic": Answer(
        "googleapi: Error 400: Cloud Pub/Sub topic "
        "'//pubsub.googleapis.com/projects/demo/topics/training-results' not found, or user 'ann@example.com' "
        "does not have permission to it.",
        "kmoneil/zig-gcp docs/storage/notifications.md",
    ),
    "dead letters before Pub/Sub's agent": Answer(
        "Error setting IAM policy for topic: googleapi: Error 400: Service account "
        "service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com does not exist., badRequest",
        "GoogleCloudPlatform/cluster-toolkit#6293",
    ),
    "a builder that may not read its source yet": Answer(
        "ERROR: (gcloud.builds.submit) INVALID_ARGUMENT: could not resolve source: googleapi: Error 403: "
        "dualdeploy-builder@demo.iam.gserviceaccount.com does not have storage.objects.get access to the Google "
        "Cloud Storage object. Permission 'storage.objects.get' denied on resource (or it may not exist)., "
        "forbidden",
        "hashicorp/terraform-provider-google#20571",
    ),
    "a function's builder that may not read its source yet": Answer(
        "Build failed with status: FAILURE and message: failed to download archive gs://gcf-v2-sources-123456789012-"
        "us-central1/job-notifier/function-source.zip: Access to bucket gcf-v2-sources-123456789012-us-central1 "
        "denied. You must grant Storage Object Viewer permission to "
        "dualdeploy-builder@demo.iam.gserviceaccount.com.",
        "hashicorp/terraform-provider-google#20571",
    ),
    "an account that may not be acted as yet": Answer(
        "ERROR: (gcloud.builds.submit) PERMISSION_DENIED: caller does not have permission to act as service account "
        "projects/demo/serviceAccounts/dualdeploy-builder@demo.iam.gserviceaccount.com",
        "kohei321dev/spot-diggz#164",
    ),
    "a metric that Cloud Monitoring does not know yet": Answer(
        "Error creating AlertPolicy: googleapi: Error 404: Cannot find metric(s) that match type = "
        '"pubsub.googleapis.com/topic/send_request_count". If a metric was created recently, it could take up to '
        "10 minutes to become available. Please try again soon.",
        "hashicorp/terraform-provider-google#11102",
    ),
    "the same, in older words": Answer(
        "Error creating AlertPolicy: googleapi: Error 404: The metric referenced by the provided filter is "
        "unknown. Check the metric name and labels.",
        "GoogleCloudPlatform/gke-monitoring-tutorial#40",
    ),
    "the agent of Cloud Functions": Answer(
        "Error creating function: googleapi: Error 400: Unable to retrieve the repository metadata for projects/demo/"
        "locations/us-central1/repositories/dualdeploy. Ensure that the Cloud Functions service account has "
        "'artifactregistry.repositories.list' and 'artifactregistry.repositories.get' permissions.",
        "firebase/firebase-tools#5244",
    ),
    "the agent of Cloud Run, which reads the image": Answer(
        "Error waiting to create Service: Google Cloud Run Service Agent "
        "service-123456789012@serverless-robot-prod.iam.gserviceaccount.com must have permission to read the image, "
        "us-central1-docker.pkg.dev/demo/dualdeploy/cloud_deployer. Ensure that the provided container image URL is "
        "correct and that the above account has permission to access the image. If you just enabled the Cloud Run "
        "API, the permissions might take a few minutes to propagate.",
        "https://docs.cloud.google.com/run/docs/troubleshooting",
    ),
    "the agent of Cloud Run, which acts as the service": Answer(
        "Error creating Service: googleapi: Error 403: Google Cloud Run Service Agent does not have permission to "
        "get access tokens for the service account cloud-deployer@demo.iam.gserviceaccount.com. Please give "
        "service-123456789012@serverless-robot-prod.iam.gserviceaccount.com permission "
        "iam.serviceAccounts.getAccessToken on the service account.",
        "GoogleCloudPlatform/terraform-google-cloud-run#28",
    ),
    "too many changes of one policy": Answer(
        "googleapi: Error 409: There were concurrent policy changes. Please retry the whole read-modify-write with "
        "exponential backoff., aborted",
        "kmoneil/zig-gcp docs/pubsub",
    ),
    "too many calls": Answer(
        "googleapi: Error 429: The object demo-models/a exceeded the rate limit for object mutation operations "
        "(create, update, and delete). Please reduce your request rate. See "
        "https://cloud.google.com/storage/docs/gcs429., rateLimitExceeded",
        "https://docs.cloud.google.com/storage/docs/gcs429",
    ),
}

FINAL = {
    "a permission that a person lacks": Answer(
        "googleapi: Error 403: Permission 'pubsub.topics.create' denied on resource 'projects/demo' (or it may "
        "not exist).",
        "https://docs.cloud.google.com/iam/docs/troubleshoot-access",
    ),
    "a build that failed": Answer(
        'ERROR: (gcloud.builds.submit) build 0c1d completed with status "FAILURE"',
        "https://docs.cloud.google.com/build/docs/troubleshooting",
    ),
    "a bucket's name that somebody else has": Answer(
        "googleapi: Error 409: The requested bucket name is not available. The bucket namespace is shared by all "
        "users of the system. Please select a different name and try again., conflict",
        "https://docs.cloud.google.com/storage/docs/troubleshooting",
    ),
}
