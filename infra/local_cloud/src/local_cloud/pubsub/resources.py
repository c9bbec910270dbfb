"""Topics and subscriptions as Google accepts them: names, defaults and limits.

Source of the limits: google.pubsub.v1 (the comments of its .proto files) and
https://cloud.google.com/pubsub/quotas.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from local_cloud.api import ApiError
from local_cloud.pubsub.filters import FilterSyntaxError, compile_filter

#: What a subscription's topic becomes when the topic is deleted.
DELETED_TOPIC = "_deleted-topic_"

#: "It must start with a letter, and contain only letters, numbers, dashes, underscores, periods, tildes,
#: plus or percent signs. It must be between 3 and 255 characters and must not start with goog."
_IDENTIFIER = r"(?![gG][oO][oO][gG])[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}"
_NAMES = {
    "topics": re.compile(rf"projects/[^/]+/topics/{_IDENTIFIER}"),
    "subscriptions": re.compile(rf"projects/[^/]+/subscriptions/{_IDENTIFIER}"),
}
_PROJECT = re.compile(r"projects/[^/]+")

_SECOND = 1
_MINUTE = 60 * _SECOND
_DAY = 24 * 60 * _MINUTE

DEFAULT_ACK_DEADLINE = 10 * _SECOND
MAXIMUM_ACK_DEADLINE = 600 * _SECOND
DEFAULT_RETENTION = 7 * _DAY
#: After so long without a subscriber a subscription is deleted, on Google Cloud.
DEFAULT_EXPIRATION = 31 * _DAY
DEFAULT_DELIVERY_ATTEMPTS = 5

_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_REGION = re.compile(r"[a-z]+-[a-z]+[1-9][0-9]?")


def invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_ARGUMENT", message)


def not_found(name: str) -> ApiError:
    return ApiError(404, "NOT_FOUND", f"Resource not found (resource={identifier(name)}).")


def already_exists(name: str) -> ApiError:
    return ApiError(409, "ALREADY_EXISTS", f"Resource already exists in the project (resource={identifier(name)}).")


def failed_precondition(message: str) -> ApiError:
    return ApiError(400, "FAILED_PRECONDITION", message)


def check_name(collection: str, name: str) -> str:
    """`name` if it is a full resource name of `collection` (topics, subscriptions); else INVALID_ARGUMENT."""
    if not _NAMES[collection].fullmatch(name):
        raise invalid(
            f"Invalid resource name given (name={name}): expected projects/<project>/{collection}/<id>, where "
            "the id has 3 to 255 letters, digits or -_.~+%, starts with a letter and not with goog."
        )
    return name


def check_project(name: str) -> str:
    if not _PROJECT.fullmatch(name):
        raise invalid(f"Invalid resource name given (name={name}): expected projects/<project>.")
    return name


def identifier(name: str) -> str:
    """The last segment of a resource name."""
    return name.rsplit("/", 1)[-1]


def project(name: str) -> str:
    """The project of a full resource name."""
    return name.split("/")[1]


def fill_subscription(subscription: Any) -> None:
    """Set the defaults that Google sets, in place."""
    subscription.ack_deadline_seconds = subscription.ack_deadline_seconds or DEFAULT_ACK_DEADLINE
    if not subscription.HasField("message_retention_duration"):
        subscription.message_retention_duration.seconds = DEFAULT_RETENTION
    if subscription.HasField("dead_letter_policy") and not subscription.dead_letter_policy.max_delivery_attempts:
        subscription.dead_letter_policy.max_delivery_attempts = DEFAULT_DELIVERY_ATTEMPTS
    subscription.push_config.SetInParent()  # shown empty where messages are pulled
    if not subscription.HasField("expiration_policy"):
        subscription.expiration_policy.ttl.seconds = DEFAULT_EXPIRATION
    subscription.state = 1  # ACTIVE


def check_topic(topic: Any) -> None:
    """Refuse, with INVALID_ARGUMENT, what Google refuses of a topic."""
    _check_labels(topic.labels)
    if topic.HasField("message_retention_duration"):
        _check_retention(topic.message_retention_duration)
    for region in topic.message_storage_policy.allowed_persistence_regions:
        if not _REGION.fullmatch(region):
            raise invalid(f"Invalid region given in message_storage_policy (region={region}).")


def check_subscription(subscription: Any, *, impatient: bool = False) -> None:
    """Refuse, with INVALID_ARGUMENT, what Google refuses; call it after `fill_subscription`.

    `impatient` lets ack deadlines from 1 s and dead letters from 1 attempt pass, so that a trial of a lost
    delivery takes seconds. Only code of the local cloud can ask for it, never a client.
    """
    shortest = 1 if impatient else 10
    deadline = subscription.ack_deadline_seconds
    if not shortest <= deadline <= MAXIMUM_ACK_DEADLINE:
        raise invalid(f"ack_deadline_seconds is {deadline}: must be {shortest} to 600 seconds.")
    _check_labels(subscription.labels)
    _check_retention(subscription.message_retention_duration)
    _check_expiration(subscription)
    for other in ("bigquery_config", "cloud_storage_config", "bigtable_config"):
        if subscription.HasField(other):
            raise ApiError(501, "UNIMPLEMENTED", f"{other} is not part of the local cloud: use push or pull.")
    if subscription.message_transforms:
        raise ApiError(501, "UNIMPLEMENTED", "message_transforms are not part of the local cloud.")
    _check_filter(subscription.filter)
    check_push_config(subscription.push_config)
    _check_retry_policy(subscription)
    _check_dead_letter_policy(subscription, fewest=1 if impatient else 5)


def check_push_config(push_config: Any) -> None:
    """Accept http as well as https: on a laptop nothing terminates TLS."""
    if not push_config.push_endpoint:
        return
    url = urllib.parse.urlsplit(push_config.push_endpoint)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise invalid(f"Invalid push endpoint given (endpoint={push_config.push_endpoint}): expected a URL.")


def check_update_mask(paths: Iterable[str], allowed: frozenset[str]) -> None:
    """Refuse a field mask that is empty or names a field that cannot change."""
    listed = list(paths)
    if not listed:
        raise invalid("The update_mask in the request must be specified and must not be empty.")
    for path in listed:
        if path.split(".")[0] not in allowed:
            raise invalid(
                f"Invalid update_mask provided in the request: {path} cannot be changed "
                f"(these can: {', '.join(sorted(allowed))})."
            )


def _check_retention(duration: Any) -> None:
    seconds = _seconds(duration)
    if not 10 * _MINUTE <= seconds <= 31 * _DAY:
        raise invalid(f"message_retention_duration is {seconds:g} s: must be 10 minutes to 31 days.")


def _check_expiration(subscription: Any) -> None:
    """Without a `ttl` a subscription never expires; with one it must outlive its messages."""
    if not subscription.expiration_policy.HasField("ttl"):
        return
    seconds = _seconds(subscription.expiration_policy.ttl)
    if seconds < _DAY:
        raise invalid(f"expiration_policy.ttl is {seconds:g} s: must be at least a day.")
    if seconds < _seconds(subscription.message_retention_duration):
        raise invalid(f"expiration_policy.ttl is {seconds:g} s: must not be less than message_retention_duration.")


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > 64:
        raise invalid(f"There are {len(labels)} labels: at most 64 are accepted.")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise invalid(
                f"Invalid label given ({key}={value}): keys and values have at most 63 lower-case letters, digits,"
                " dashes and underscores, and a key begins with a letter."
            )


def _check_filter(text: str) -> None:
    try:
        compile_filter(text)
    except FilterSyntaxError as exc:
        raise invalid(str(exc)) from exc


def _check_retry_policy(subscription: Any) -> None:
    if not subscription.HasField("retry_policy"):
        return
    policy = subscription.retry_policy
    for field in ("minimum_backoff", "maximum_backoff"):
        seconds = _seconds(getattr(policy, field))
        if not 0 <= seconds <= 600 * _SECOND:
            raise invalid(f"retry_policy.{field} is {seconds:g} s: must be 0 to 600 seconds.")
    both = policy.HasField("minimum_backoff") and policy.HasField("maximum_backoff")
    if both and _seconds(policy.minimum_backoff) > _seconds(policy.maximum_backoff):
        raise invalid("retry_policy.minimum_backoff is longer than maximum_backoff.")


def _check_dead_letter_policy(subscription: Any, *, fewest: int) -> None:
    if not subscription.HasField("dead_letter_policy"):
        return
    policy = subscription.dead_letter_policy
    check_name("topics", policy.dead_letter_topic)
    attempts = policy.max_delivery_attempts
    if not fewest <= attempts <= 100:
        raise invalid(f"dead_letter_policy.max_delivery_attempts is {attempts}: must be {fewest} to 100.")


def _seconds(duration: Any) -> float:
    return float(duration.ToTimedelta().total_seconds())
