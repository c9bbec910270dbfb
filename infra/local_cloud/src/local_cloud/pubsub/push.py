"""One push: the HTTP request that Google sends for a message, and what its answer means."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from local_cloud.identity import TokenMint
from local_cloud.poster import NoAnswer, Poster
from local_cloud.pubsub.broker import Lease
from local_cloud.pubsub.messages import timestamp

#: "To acknowledge a message, return one of these status codes." Source: https://cloud.google.com/pubsub/docs/push
ACKNOWLEDGING = frozenset({102, 200, 201, 202, 204})


@dataclasses.dataclass(frozen=True)
class PushRequest:
    """What is posted."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, lease: Lease, mint: TokenMint) -> PushRequest:
        config = lease.resource.push_config
        headers = {
            "User-Agent": "APIs-Google; (+https://developers.google.com/webmasters/APIs-Google.html)",
            "Accept": "application/json",
        }
        if config.HasField("oidc_token"):
            headers["Authorization"] = f"Bearer {_token(config, mint)}"
        if config.HasField("no_wrapper"):
            if config.no_wrapper.write_metadata:
                headers |= _metadata_headers(lease)
            return cls(config.push_endpoint, headers, lease.message.body.data)
        headers["Content-Type"] = "application/json"
        return cls(config.push_endpoint, headers, json.dumps(wrapped_body(lease)).encode())


def wrapped_body(lease: Lease) -> dict[str, Any]:
    """The JSON that Google wraps a message in; empty fields are left out, as proto3 JSON leaves them out."""
    body = lease.message.body
    published = timestamp(lease.message.published_at)
    message: dict[str, Any] = {
        # Google sends both spellings: the second is that of the first version of push.
        "messageId": body.message_id,
        "message_id": body.message_id,
        "publishTime": published,
        "publish_time": published,
    }
    if body.data:
        message["data"] = base64.b64encode(body.data).decode()
    if body.attributes:
        message["attributes"] = dict(body.attributes)
    if body.ordering_key:
        message["orderingKey"] = body.ordering_key
    wrapped: dict[str, Any] = {"message": message, "subscription": lease.resource.name}
    if lease.delivery_attempt:
        wrapped["deliveryAttempt"] = lease.delivery_attempt
    return wrapped


def _metadata_headers(lease: Lease) -> dict[str, str]:
    """Headers of an unwrapped push. Source: https://cloud.google.com/pubsub/docs/payload-unwrapping."""
    body = lease.message.body
    metadata = {
        "x-goog-pubsub-subscription-name": lease.resource.name,
        "x-goog-pubsub-message-id": body.message_id,
        "x-goog-pubsub-publish-time": timestamp(lease.message.published_at),
    }
    if body.ordering_key:
        metadata["x-goog-pubsub-ordering-key"] = body.ordering_key
    return {**metadata, **body.attributes}


def _token(push_config: Any, mint: TokenMint) -> str:
    token = push_config.oidc_token
    return mint.token(token.service_account_email, token.audience or push_config.push_endpoint)


class Pusher:
    """Posts push requests; `close` breaks off those under way."""

    def __init__(self) -> None:
        self._poster = Poster()

    def post(self, request: PushRequest, *, timeout: float) -> tuple[bool, str]:
        """Whether the endpoint acknowledged within `timeout` seconds, and its answer in words."""
        try:
            answer = self._poster.post(request.url, headers=request.headers, body=request.body, timeout=timeout)
        except NoAnswer as exc:
            return False, str(exc)
        return answer.status in ACKNOWLEDGING, f"HTTP {answer.status}"

    def close(self) -> None:
        self._poster.close()
