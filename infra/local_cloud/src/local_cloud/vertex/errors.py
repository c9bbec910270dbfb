"""The refusals of Vertex AI, by Google's canonical status."""

from __future__ import annotations

from local_cloud.api import ApiError

#: google.rpc.Code by canonical name: operations and jobs carry the number, HTTP answers the name.
CODES = {
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "UNAUTHENTICATED": 16,
}


def rpc_status(error: ApiError) -> dict[str, object]:
    """`error` as the google.rpc.Status that an operation or a job carries."""
    return {"code": CODES.get(error.status, 2), "message": error.message}


def invalid_argument(message: str) -> ApiError:
    return ApiError(400, "INVALID_ARGUMENT", message)


def invalid_field(field: str, message: str) -> ApiError:
    """As Vertex AI complains about a field: a numbered list, of which this is the first entry."""
    return invalid_argument(f"List of found errors:\t1.Field: {field}; Message: {message}\t")


def failed_precondition(message: str) -> ApiError:
    return ApiError(400, "FAILED_PRECONDITION", message)


def not_found(message: str) -> ApiError:
    return ApiError(404, "NOT_FOUND", message)


def already_exists(message: str) -> ApiError:
    return ApiError(409, "ALREADY_EXISTS", message)


def aborted(message: str) -> ApiError:
    return ApiError(409, "ABORTED", message)
