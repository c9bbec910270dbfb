"""Events: what a change of an object tells Pub/Sub and Eventarc, delivered at least once and in order."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from local_cloud.api import ApiError
from local_cloud.iam import Refused
from local_cloud.storage.errors import invalid
from local_cloud.storage.records import rfc3339
from local_cloud.storage.state import Change, State

logger = logging.getLogger(__name__)

#: publish(topic, data, attributes); the topic is a full name, `projects/P/topics/T`.
Publish = Callable[[str, bytes, dict[str, str]], object]
#: on_finalize(object_resource): what Eventarc hears.
OnFinalize = Callable[[dict[str, Any]], object]

EVENT_TYPES = ("OBJECT_FINALIZE", "OBJECT_METADATA_UPDATE", "OBJECT_DELETE", "OBJECT_ARCHIVE")
_SERVICE = "//pubsub.googleapis.com/"
_TOPIC = re.compile(rf"({re.escape(_SERVICE)})?(projects/[^/]+/topics/[^/]+)")
_MOST_ATTRIBUTES, _MOST_OVERLAPPING, _MOST_CONFIGS = 5, 10, 100
_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.1, 5.0
_CLOSE_SECONDS = 5.0
#: What Pub/Sub says of a notification that it will never take: its topic is gone, or the message is too large.
_REFUSED_FOR_EVER = frozenset({"NOT_FOUND", "INVALID_ARGUMENT"})


def require_notification(config: Mapping[str, Any]) -> dict[str, Any]:
    """A notification config as Cloud Storage accepts it, or ApiError 400 that names the field."""
    if not config.get("payload_format"):
        raise invalid("Required", reason="required")
    topic = _TOPIC.fullmatch(str(config.get("topic", "")))
    if topic is None:
        raise invalid(
            "Invalid Google Cloud Pub/Sub topic. It should look like '//pubsub.googleapis.com/projects/*/topics/*'."
        )
    if config["payload_format"] not in {"JSON_API_V1", "NONE"}:
        raise invalid(f"Invalid payload format: {config['payload_format']}.")
    if len(config.get("custom_attributes", {})) > _MOST_ATTRIBUTES:
        raise invalid(f"A notification has at most {_MOST_ATTRIBUTES} custom attributes.")
    fields = ("payload_format", "object_name_prefix", "custom_attributes")
    given = {field: config[field] for field in fields if config.get(field)}
    # Types that nobody knows are dropped without a word, as Cloud Storage does.
    types = [each for each in config.get("event_types", ()) if each in EVENT_TYPES]
    return {"topic": f"{_SERVICE}{topic[2]}", **given, **({"event_types": types} if types else {})}


def refuse_too_many(config: Mapping[str, Any], there: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a config that is one too many for its bucket, or for one event of one object. Raises ApiError 400.

    Source: https://docs.cloud.google.com/storage/quotas#pubsub
    """
    if len(there) >= _MOST_CONFIGS:
        raise invalid(f"A bucket has at most {_MOST_CONFIGS} notification configurations.")
    for event_type in config.get("event_types") or EVENT_TYPES:
        overlapping = [each for each in there if _overlap(config, each, event_type)]
        if len(overlapping) >= _MOST_OVERLAPPING:
            raise invalid(
                f"At most {_MOST_OVERLAPPING} notification configurations may be triggered by one event: {event_type}."
            )


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any], event_type: str) -> bool:
    """Whether an event of this type can be meant by both."""
    prefix, others = one.get("object_name_prefix", ""), other.get("object_name_prefix", "")
    is_of_both = event_type in (other.get("event_types") or EVENT_TYPES)
    return is_of_both and (prefix.startswith(others) or others.startswith(prefix))


class EventsOf:
    """Turns a change of an object into the event documents that the outbox delivers."""

    def __init__(self, *, to_topics: bool, to_eventarc: bool) -> None:
        self._to_topics = to_topics
        self._to_eventarc = to_eventarc
        self.base_url = ""  # known when the server listens

    def __call__(self, change: Change, configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        resource = change.stored.resource(self.base_url)
        del resource["timeFinalized"]  # which only the API shows
        events = []
        if self._to_topics:
            events += [self._notification(change, resource, config) for config in configs if _matches(config, change)]
        if self._to_eventarc and change.event_type == "OBJECT_FINALIZE":
            events.append({"to": "eventarc", "resource": resource})
        return events

    def _notification(self, change: Change, resource: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
        """Source: https://cloud.google.com/storage/docs/pubsub-notifications#format"""
        bucket = change.stored.bucket
        attributes = {
            **config.get("custom_attributes", {}),
            "notificationConfig": f"projects/_/buckets/{bucket}/notificationConfigs/{config['id']}",
            "eventType": change.event_type,
            "payloadFormat": config["payload_format"],
            "bucketId": bucket,
            "objectId": change.stored.name,
            "objectGeneration": str(change.stored.generation),
            "eventTime": rfc3339(time.time_ns() // 1000, digits=6),
        }
        if change.overwrote_generation is not None:
            attributes["overwroteGeneration"] = str(change.overwrote_generation)
        if change.overwritten_by_generation is not None:
            attributes["overwrittenByGeneration"] = str(change.overwritten_by_generation)
        topic = config["topic"].removeprefix(_SERVICE)
        data = resource if config["payload_format"] == "JSON_API_V1" else None
        return {"to": "topic", "topic": topic, "attributes": attributes, "data": data}


def _matches(config: Mapping[str, Any], change: Change) -> bool:
    types = config.get("event_types") or EVENT_TYPES
    prefix = config.get("object_name_prefix", "")
    return change.event_type in types and change.stored.name.startswith(prefix)


class Outbox:
    """Delivers the state's events, each destination's in order; an event leaves the state after its delivery.

    Every destination (Eventarc, each topic) has a lane with a thread of its own, so that one which fails or
    hangs holds up nobody else.
    """

    def __init__(self, state: State, publish: Publish | None, on_finalize: OnFinalize | None) -> None:
        self._state = state
        self._publish = publish
        self._on_finalize = on_finalize
        self._closing = threading.Event()
        self._lanes: dict[str, _Lane] = {}
        self._thread = threading.Thread(target=self._run, name="storage-outbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        deadline = time.monotonic() + _CLOSE_SECONDS
        self._closing.set()
        self._state.events_arrived.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_CLOSE_SECONDS)
        lanes = list(self._lanes.values())
        for lane in lanes:
            lane.wake()
        for lane in lanes:
            lane.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            self._state.events_arrived.wait()
            # Cleared before looking: an event that arrives after the look sets it again.
            self._state.events_arrived.clear()
            if self._closing.is_set():
                return
            for destination in self._state.event_destinations():
                if destination not in self._lanes:
                    self._lanes[destination] = _Lane(destination, self._state, self._deliver, self._closing)
                self._lanes[destination].wake()

    def _deliver(self, payload: Mapping[str, Any]) -> None:
        if payload["to"] == "eventarc" and self._on_finalize is not None:
            self._on_finalize(payload["resource"])
        elif payload["to"] == "topic" and self._publish is not None:
            data = b"" if payload["data"] is None else json.dumps(payload["data"]).encode()
            try:
                self._publish(payload["topic"], data, dict(payload["attributes"]))
            except Refused as refused:
                # It was allowed when the notification was made; Google tells nobody of what is lost now.
                logger.warning("notification %s lost: %s", payload["attributes"], refused)
            except ApiError as error:
                if error.status not in _REFUSED_FOR_EVER:
                    raise
                logger.warning("notification %s dropped: %s", payload["attributes"], error.message)


class _Lane:
    """The events of one destination, delivered one after the other by a thread that starts at once."""

    def __init__(
        self,
        destination: str,
        state: State,
        deliver: Callable[[Mapping[str, Any]], None],
        closing: threading.Event,
    ) -> None:
        self._destination = destination
        self._state = state
        self._deliver = deliver
        self._closing = closing
        self._woken = threading.Event()
        name = f"storage-outbox-{destination.rsplit('/', 1)[-1] or 'eventarc'}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is an event for this destination, or the outbox closes."""
        self._woken.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            self._woken.clear()  # before looking, as in the outbox
            if self._closing.is_set():
                return
            try:
                delivered = self._deliver_next()
            except sqlite3.ProgrammingError:
                # The state was closed while a slow receiver still worked: the next process delivers it again.
                return
            except Exception:  # whatever the receiver raises, the event is not delivered yet
                where = self._destination or "Eventarc"
                logger.warning("event for %s not delivered, again in %.1f s", where, backoff, exc_info=True)
                self._closing.wait(backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)
                continue
            backoff = _FIRST_BACKOFF_SECONDS
            if not delivered:
                self._woken.wait()

    def _deliver_next(self) -> bool:
        """Deliver the oldest event; False when there is none."""
        event = self._state.next_event(self._destination)
        if event is None:
            return False
        identifier, payload = event
        self._deliver(payload)
        self._state.event_delivered(identifier)
        return True
