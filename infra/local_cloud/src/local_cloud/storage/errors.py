"""What Cloud Storage says when it refuses: the JSON API's envelope and its own reason words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from local_cloud.api import STATUS_BY_CODE, ApiError

#: The JSON API's reason by HTTP code, where no closer reason is given.
#: Source: https://cloud.google.com/storage/docs/json_api/v1/status-codes
REASON_BY_CODE = {
    400: "invalid",
    401: "authError",
    403: "forbidden",
    404: "notFound",
    405: "methodNotAllowed",
    408: "requestTimeout",
    409: "conflict",
    410: "gone",
    412: "conditionNotMet",
    413: "uploadTooLarge",
    416: "requestedRangeNotSatisfiable",
    429: "rateLimitExceeded",
    500: "backendError",
    502: "backendError",
    503: "backendError",
    504: "backendError",
}


class NotModified(Exception):  # 304 is an answer, not an error
    """A read whose ...NotMatch precondition failed: 304 without a body, which is no error envelope."""


class RangeNotSatisfiable(Exception):  # HTTP's own name for 416
    """The asked range starts behind the last byte; the answer names the size in Content-Range."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the requested range starts after the last of {size} bytes")
        self.size = size


def render_error(error: ApiError) -> tuple[Mapping[str, Any], int]:
    """The JSON API's envelope, which is older than AIP-193 and has a reason instead of a status."""
    reason = error.reason or REASON_BY_CODE.get(error.code, "invalid")
    domain = "usageLimits" if reason == "rateLimitExceeded" else "global"
    detail = {"message": error.message, "domain": domain, "reason": reason}
    if error.code == 412:
        # Also for preconditions sent as query parameters: Google's own answer blames If-Match.
        detail |= {"locationType": "header", "location": "If-Match"}
    return {"error": {"code": error.code, "message": error.message, "errors": [detail]}}, error.code


def invalid(message: str, *, reason: str = "invalid") -> ApiError:
    return ApiError(400, STATUS_BY_CODE[400], message, reason=reason)


def bucket_not_found() -> ApiError:
    return ApiError(404, STATUS_BY_CODE[404], "The specified bucket does not exist.")


class ObjectNotFound(ApiError):
    """There is no such object, or not at that generation; only who may list the bucket is told so."""

    def __init__(self, bucket: str, name: str, generation: int | None = None) -> None:
        version = "" if generation is None else f"#{generation}"
        super().__init__(404, STATUS_BY_CODE[404], f"No such object: {bucket}/{name}{version}")
        self.bucket = bucket


class BucketExists(ApiError):
    """A bucket of that name is already there; Google names are unique, ours within one state folder."""

    def __init__(self) -> None:
        message = "Your previous request to create the named bucket succeeded and you already own it."
        super().__init__(409, STATUS_BY_CODE[409], message)


def conflict(message: str) -> ApiError:
    return ApiError(409, STATUS_BY_CODE[409], message)


def condition_not_met() -> ApiError:
    """Google does not say which."""
    message = "At least one of the pre-conditions you specified did not hold."
    return ApiError(412, STATUS_BY_CODE[412], message)
