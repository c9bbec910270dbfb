"""Which topics, subscriptions and accounts a request of Pub/Sub names, for the judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def resources_of(kind: str, request: Any, *, project: str) -> Iterator[str]:
    """The full names of the resources of a kind that a request, a message of Pub/Sub's API, names."""
    if kind == "project":
        yield f"projects/{project}"
    elif kind == "topic":
        # Of a new or changed topic the request is the topic itself, or holds it.
        topic = getattr(request, "topic", "") or request.name
        yield getattr(topic, "name", topic)
    elif kind == "subscription":
        subscription = getattr(request, "subscription", "") or request.name
        yield getattr(subscription, "name", subscription)
    elif kind == "push account":
        if email := _push_account(request):
            yield f"projects/{project}/serviceAccounts/{email}"
    else:
        yield request.resource


def _push_account(request: Any) -> str:
    """The account that pushes shall be signed as, if the request sets one."""
    holder = getattr(request, "subscription", request)
    config = getattr(request if isinstance(holder, str) else holder, "push_config", None)
    return config.oidc_token.service_account_email if config is not None else ""
