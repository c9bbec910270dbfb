"""What the services are told: past-tense frozen types, parsed here and nowhere else.

An `Envelope` is one delivery with its wrapping removed; the `parse_*` functions make an event of it, or raise
MalformedEvent with a sentence that says what to send.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import MalformedEvent, NotForUs

OUTCOMES = ("succeeded", "failed", "cancelled")


#: Beginning of the types of Cloud Storage's events. Source: https://cloud.google.com/eventarc/docs/reference
_OF_OBJECTS = "google.cloud.storage.object.v1."


@dataclasses.dataclass(frozen=True)
class Envelope:
    """One delivery: `data` is the payload's bytes, `attributes` those of the Pub/Sub message, if it is one."""

    event_id: str
    data: bytes
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    event_type: str = ""
    source: str = ""
    subscription: str = ""
    delivery_attempt: int = 0

    def json(self) -> Mapping[str, Any]:
        """The payload as a JSON object. Raises MalformedEvent."""
        try:
            document = json.loads(self.data or b"{}")
            # JSON can spell half a surrogate pair (RFC 8259, section 8.2), which no ledger entry and no log can carry.
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            raise MalformedEvent(f"the payload has text that is not Unicode: {exc}") from exc
        except ValueError as exc:
            raise MalformedEvent(f"the payload is not JSON: {exc}") from exc
        except RecursionError as exc:
            raise MalformedEvent("the payload is JSON that is nested too deeply") from exc
        if not isinstance(document, Mapping):
            raise MalformedEvent(f"the payload is a JSON {type(document).__name__}, an object is needed")
        return document


@dataclasses.dataclass(frozen=True)
class ObjectFinalized:
    """An object was written completely (`google.cloud.storage.object.v1.finalized`, or a bucket notification).

    `created` is when this generation was written; None where the event does not say so.
    """

    bucket: str
    name: str
    generation: int
    size: int
    created: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True)
class RetrainRequested:
    """Somebody asked for training: without `force`, unchanged data is nothing new."""

    dataset: str
    reason: str = ""
    force: bool = False
    v: int = 1


@dataclasses.dataclass(frozen=True)
class TrainingJobLogged:
    """The log says that something of this Vertex AI job ended: a hint, never a fact."""

    job_id: str


@dataclasses.dataclass(frozen=True)
class _BranchEnded:
    """What is told of a branch when one part of its way is over."""

    run_id: str
    dataset: str
    target: str
    outcome: str
    reason: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """Pub/Sub attributes, which subscriptions filter on."""
        return {
            "run_id": self.run_id,
            "dataset": self.dataset,
            "target": self.target,
            "outcome": self.outcome,
        }


@dataclasses.dataclass(frozen=True)
class TrainingCompleted(_BranchEnded):
    """A training job of one target ended.

    job_notifier publishes it at least once for each job: once in the ordinary case, again when it dies between
    publishing and remembering that it did.
    """

    v: int = 1


@dataclasses.dataclass(frozen=True)
class DeploymentCompleted(_BranchEnded):
    """A branch reached an end: `outcome` is its final state, `previous` the run that served before.

    Unless the outcome is `live`, `previous` is also what serves on. `verdict` has the gate's rules with their figures,
    as the branch's facts have them; `links` say where model, endpoint, result and model card are.
    """

    previous: str = ""
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)
    verdict: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    v: int = 1


def encode(event: TrainingCompleted | DeploymentCompleted | RetrainRequested) -> bytes:
    """The JSON payload of a message that we publish."""
    return json.dumps(dataclasses.asdict(event), sort_keys=True).encode()


def parse_object_finalized(envelope: Envelope) -> ObjectFinalized:
    """From an Eventarc CloudEvent or a Cloud Storage notification; both carry the object resource as JSON.

    A notification that was made by hand sends every type of event unless it was told which: raises NotForUs for others.
    """
    happened = envelope.attributes.get("eventType") or envelope.event_type
    if happened.startswith(("OBJECT_", _OF_OBJECTS)) and happened not in ("OBJECT_FINALIZE", f"{_OF_OBJECTS}finalized"):
        raise NotForUs(f"{happened}: only objects that were written are looked at")
    resource = envelope.json()
    try:
        return ObjectFinalized(
            bucket=_text(resource, "bucket"),
            name=_text(resource, "name"),
            generation=_whole_number(resource, "generation"),
            size=_whole_number(resource, "size") if "size" in resource else 0,
            created=_time(resource, "timeCreated") if "timeCreated" in resource else None,
        )
    except MalformedEvent as exc:
        raise MalformedEvent(f"not a Cloud Storage object resource: {exc}") from exc


def parse_retrain_requested(envelope: Envelope) -> RetrainRequested:
    """`{"dataset": "flowers", "reason": "...", "force": false}`; unknown keys are errors, a typo must not spend."""
    document = envelope.json()
    if unknown := set(document) - {"dataset", "reason", "force", "v"}:
        raise MalformedEvent(f"unknown keys {sorted(unknown)}: send dataset, and optionally reason and force")
    force = document.get("force", False)
    reason = document.get("reason", "")
    if not isinstance(force, bool) or not isinstance(reason, str):
        raise MalformedEvent("force must be true or false, reason a text")
    _check_version(document)
    return RetrainRequested(dataset=_text(document, "dataset"), reason=reason[:500], force=force)


def parse_training_job_logged(envelope: Envelope) -> TrainingJobLogged:
    """A Cloud Logging entry of resource type `ml_job`; the text itself is not trusted (users can print it too)."""
    entry = envelope.json()
    resource = entry.get("resource")
    labels = resource.get("labels") if isinstance(resource, Mapping) else None
    job_id = str(labels.get("job_id", "")) if isinstance(labels, Mapping) else ""
    if not (job_id.isascii() and job_id.isdigit()):
        raise MalformedEvent("not a log entry of an ml_job: resource.labels.job_id must be the number of the job")
    return TrainingJobLogged(job_id=job_id)


def parse_training_completed(envelope: Envelope) -> TrainingCompleted:
    event = TrainingCompleted(**_branch_ended(envelope))
    if event.target not in TARGETS or event.outcome not in OUTCOMES:
        raise MalformedEvent(f"target must be one of {TARGETS} and outcome one of {OUTCOMES}")
    return event


def parse_deployment_completed(envelope: Envelope) -> DeploymentCompleted:
    """Whatever the outcome: states that a newer version added are texts like any other."""
    event = DeploymentCompleted(**_branch_ended(envelope))
    if event.target not in TARGETS:
        raise MalformedEvent(f"target must be one of {TARGETS}")
    return event


def _branch_ended(envelope: Envelope) -> dict[str, Any]:
    document = envelope.json()
    _check_version(document)
    told = {name: _text(document, name) for name in ("run_id", "dataset", "target", "outcome")}
    return {**told, "reason": str(document.get("reason") or "")}


def unwrap(body: bytes, *, headers: Mapping[str, str]) -> Envelope:
    """Recognise a binary or structured CloudEvent, or a raw Pub/Sub push. Raises MalformedEvent for all else.

    Sources: https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/http-protocol-binding.md and
    https://cloud.google.com/pubsub/docs/push#receive_push
    """
    names = {name.lower(): value for name, value in headers.items()}
    if "ce-type" in names:
        return _from_cloud_event(names, "ce-", body)
    document = _json_object(body)
    # Media types are compared without regard to case: RFC 9110, section 8.3.1.
    if names.get("content-type", "").lower().startswith("application/cloudevents+json"):
        context = {key: value for key, value in document.items() if isinstance(value, str)}
        return _from_cloud_event(context, "", _structured_data(document))
    if isinstance(document.get("message"), Mapping):
        return _from_push(document)
    raise MalformedEvent("neither a CloudEvent (ce-type header) nor a Pub/Sub push (a message in a JSON body)")


def _structured_data(document: Mapping[str, Any]) -> bytes:
    if "data_base64" in document:
        return _decode(document["data_base64"])
    data = document.get("data")
    try:
        # A CloudEvent may have no data at all, or null, which says the same.
        return b"" if data is None else json.dumps(data).encode()
    except RecursionError as exc:
        raise MalformedEvent("the data is JSON that is nested too deeply") from exc


def _from_cloud_event(attributes: Mapping[str, str], prefix: str, body: bytes) -> Envelope:
    missing = [name for name in ("id", "source", "type") if not attributes.get(prefix + name)]
    if missing:
        raise MalformedEvent(f"a CloudEvent without {', '.join(missing)}")
    event_type = attributes[prefix + "type"]
    if event_type == "google.cloud.pubsub.topic.v1.messagePublished":
        envelope = _from_push(_json_object(body))
    else:
        envelope = Envelope(event_id="", data=body)
    return dataclasses.replace(
        envelope,
        event_id=attributes[prefix + "id"],
        event_type=event_type,
        source=attributes[prefix + "source"],
    )


def _from_push(document: Mapping[str, Any]) -> Envelope:
    message = document.get("message")
    if not isinstance(message, Mapping):
        raise MalformedEvent("a Pub/Sub push without a message")
    attributes = message.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        raise MalformedEvent("message.attributes is not an object")
    attempt = document.get("deliveryAttempt", 0)
    return Envelope(
        event_id=str(message.get("messageId") or message.get("message_id") or ""),
        data=_decode(message.get("data")),
        attributes={str(key): str(value) for key, value in attributes.items()},
        subscription=str(document.get("subscription", "")),
        delivery_attempt=attempt if isinstance(attempt, int) else 0,
    )


def _decode(text: object) -> bytes:
    """The bytes of a base64 text; a message of attributes alone has none, or null."""
    if text is None:
        return b""
    if not isinstance(text, str):
        raise MalformedEvent(f"the data is a JSON {type(text).__name__}, a base64 text is needed")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as exc:  # binascii.Error is one, and so is what text outside ASCII gives
        raise MalformedEvent(f"the data is not base64: {exc}") from exc


def _json_object(body: bytes) -> Mapping[str, Any]:
    return Envelope(event_id="", data=body).json()


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value:
        raise MalformedEvent(f"{key} is missing or not a text")
    return value


def _whole_number(document: Mapping[str, Any], key: str) -> int:
    """An int64, which Google's JSON writes as a text of digits."""
    text = str(document.get(key, ""))
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise MalformedEvent(f"{key} is missing or not a whole number")
    return int(text)


def _time(document: Mapping[str, Any], key: str) -> datetime.datetime:
    try:
        return clocks.from_text(str(document[key]))
    except ValueError as exc:
        raise MalformedEvent(f"{key} is not a time: {exc}") from exc


def _check_version(document: Mapping[str, Any]) -> None:
    if document.get("v", 1) != 1:
        raise MalformedEvent(f"version {document['v']!r} is unknown; this service reads version 1")
