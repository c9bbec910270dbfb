"""Refusals of Google's that a test can plan by name (`refuse:NAME`), word for word as they were recorded or reported.

They are what the service says of itself and of its quotas; what it says of a request, the emulated APIs decide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One refusal: what an ApiError has, and where it was seen."""

    code: int
    status: str
    message: str
    source: str
    reason: str = ""
    details: tuple[Mapping[str, Any], ...] = ()


REFUSALS: Mapping[str, Recorded] = {
    "agents-being-provisioned": Recorded(
        400,
        "FAILED_PRECONDITION",
        "Service agents are being provisioned"
        " (https://cloud.google.com/vertex-ai/docs/general/access-control#service-agents). Service agents are needed to"
        " read the Cloud Storage file provided. So please try again in a few minutes.",
        "github.com/GoogleCloudPlatform/generative-ai/issues/1308",
    ),
    "cannot-act-as-yet": Recorded(
        400,
        "INVALID_ARGUMENT",
        "You do not have permission to act as service_account: trainer@demo-project.iam.gserviceaccount.com. (or it"
        " may not exist).",
        "github.com/googleapis/python-aiplatform/issues/1073",
    ),
    "no-quota": Recorded(
        429,
        "RESOURCE_EXHAUSTED",
        "The following quota metrics exceed quota limits:"
        " aiplatform.googleapis.com/custom_model_training_nvidia_t4_gpus",
        "github.com/GoogleCloudPlatform/vertex-ai-samples/issues/3479",
    ),
    "api-disabled": Recorded(
        403,
        "PERMISSION_DENIED",
        "This API has not been used in project 123456789012 before or it is disabled. Enable it, then retry. If you"
        " enabled this API recently, wait a few minutes for the action to propagate to our systems and retry.",
        "github.com/GoogleCloudPlatform/agent-starter-pack/issues/304",
        reason="accessNotConfigured",
        details=(
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "SERVICE_DISABLED",
                "domain": "googleapis.com",
            },
        ),
    ),
    "rate-limited": Recorded(
        429,
        "RESOURCE_EXHAUSTED",
        "The object exceeded the rate limit for object mutation operations (create, update, and delete). Please reduce"
        " your request rate. See https://cloud.google.com/storage/docs/gcs429.",
        "docs.cloud.google.com/storage/docs/gcs429",
        reason="rateLimitExceeded",
    ),
}
