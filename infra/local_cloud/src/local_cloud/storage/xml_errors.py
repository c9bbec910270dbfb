"""How the XML API refuses: signed URLs lead there, and its errors are XML.

Source: https://docs.cloud.google.com/storage/docs/xml-api/reference-status
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

import flask

#: (code, message) by the JSON API's reason, else by status; what the JSON API says becomes the details.
_BY_REASON: Mapping[str, tuple[str, str]] = {
    "expiredToken": ("ExpiredToken", "The provided token has expired."),
    "signatureDoesNotMatch": (
        "SignatureDoesNotMatch",
        "Access denied.",
    ),
    "rateLimitExceeded": ("SlowDown", "Please reduce your request rate."),
}
_BY_STATUS: Mapping[int, tuple[str, str]] = {
    400: ("InvalidArgument", "Invalid argument."),
    401: ("AuthenticationRequired", "Authentication required."),
    403: ("AccessDenied", "Access denied."),
    404: ("NoSuchKey", "The specified key does not exist."),
    405: ("MethodNotAllowed", "The specified method is not allowed against this resource."),
    412: ("PreconditionFailed", "At least one of the pre-conditions you specified did not hold."),
    416: ("InvalidRange", "The requested range cannot be satisfied."),
    429: ("SlowDown", "Please reduce your request rate."),
    503: ("ServiceUnavailable", "Please retry the request."),
}
_NO_BUCKET = "The specified bucket does not exist."


def as_xml(response: flask.Response) -> flask.Response:
    """An error that was written for the JSON API, as the XML API writes it; the status and all headers stay."""
    error: Mapping[str, Any] = response.get_json()["error"]
    code, message = _BY_REASON.get(error["errors"][0]["reason"]) or _BY_STATUS.get(
        response.status_code, ("InternalError", "We encountered an internal error. Please try again.")
    )
    if error["message"] == _NO_BUCKET:
        code, message = "NoSuchBucket", _NO_BUCKET
    details = "" if error["message"] == message else f"<Details>{escape(error['message'])}</Details>"
    response.set_data(
        "<?xml version='1.0' encoding='UTF-8'?>"
        f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>{details}</Error>"
    )
    response.content_type = "application/xml; charset=UTF-8"
    return response
