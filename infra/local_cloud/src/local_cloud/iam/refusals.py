"""How each API refuses, in its own words. Sources: public logs and issues with the answers in them; see COVERAGE.md.

What a reader of these texts may rely on is what the services rely on: the status, and the permission's name.
"""

from __future__ import annotations

from collections.abc import Callable

from local_cloud.api import ApiError
from local_cloud.iam.judge import Refused

#: Hosts that are not called after the first word of their permissions.
_HOSTS = {"resourcemanager": "cloudresourcemanager", "cloudconfig": "firebaseremoteconfig"}


def of_cloud_storage(refused: Refused) -> ApiError:
    """Cloud Storage names who was refused, and whether it was about an object, a bucket or the project."""
    if refused.permission in {"storage.buckets.list", "storage.buckets.create"}:
        about = "Google Cloud project"
    elif refused.permission == "storage.objects.list" or refused.permission.startswith("storage.buckets."):
        about = "Google Cloud Storage bucket"
    else:
        about = "Google Cloud Storage object"
    return _denied(
        f"{refused.email} does not have {refused.permission} access to the {about}."
        f" Permission '{refused.permission}' denied on resource (or it may not exist)."
    )


def of_pubsub(_refused: Refused) -> ApiError:
    """Pub/Sub says the same of everything, whether it is there or not."""
    return _denied("User not authorized to perform this action.")


def of_monitoring(refused: Refused) -> ApiError:
    return _denied(f"Permission {refused.permission} denied (or the resource may not exist).")


def of_firebase(_refused: Refused) -> ApiError:
    """Firebase ML and Remote Config."""
    return _denied("The caller does not have permission")


def of_iam_credentials(refused: Refused) -> ApiError:
    """Only the permission is named, not the account."""
    return ApiError(
        403,
        "PERMISSION_DENIED",
        f"Permission '{refused.permission}' denied on resource (or it may not exist).",
        details=[_error_info("iam.googleapis.com", {"permission": refused.permission})],
    )


def of_cloud_run(refused: Refused) -> ApiError:
    """What Cloud Run answers itself, before a service hears of the call: a page, not JSON."""
    return _denied(
        f"Your client does not have permission to get URL from this server ({refused.email} lacks {refused.permission})"
    )


def in_location(location: str) -> Callable[[Refused], ApiError]:
    """The refusals of Vertex AI, whose every resource is asked of its location (`projects/p/locations/r`)."""

    def refuse(refused: Refused) -> ApiError:
        if refused.permission == "iam.serviceAccounts.actAs":
            email = refused.resource.rsplit("/", 1)[-1]
            # Not a 403, and five reports say so: https://github.com/googleapis/python-aiplatform/issues/1073
            return ApiError(
                400,
                "INVALID_ARGUMENT",
                f"You do not have permission to act as service_account: {email}. (or it may not exist).",
            )
        return _of_resource(refused, location)

    return refuse


def of_named_resource(refused: Refused) -> ApiError:
    """What is refused with the name of the resource: Cloud Run, Eventarc, IAM, Resource Manager and their like."""
    return _of_resource(refused, refused.resource)


def _of_resource(refused: Refused, resource: str) -> ApiError:
    word = refused.permission.split(".", 1)[0]
    host = f"{_HOSTS.get(word, word)}.googleapis.com"
    return ApiError(
        403,
        "PERMISSION_DENIED",
        f"Permission '{refused.permission}' denied on resource '//{host}/{resource}' (or it may not exist).",
        details=[_error_info(host, {"permission": refused.permission, "resource": resource})],
    )


def _error_info(domain: str, metadata: dict[str, str]) -> dict[str, object]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "IAM_PERMISSION_DENIED",
        "domain": domain,
        "metadata": metadata,
    }


def _denied(message: str) -> ApiError:
    return ApiError(403, "PERMISSION_DENIED", message)
