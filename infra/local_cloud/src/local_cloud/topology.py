"""The topology: which buckets, topics, subscriptions and services there are, read from infra/topology.json.

Terraform reads the same file; keys that only Terraform or people need are left alone here.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

#: Firebase project ids are those of Google Cloud: https://cloud.google.com/resource-manager/docs/creating-managing-projects
PROJECT_ID = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")

_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
_Item = TypeVar("_Item")


class TopologyError(ValueError):
    """The topology cannot be used; the message lists every fault with its path in the file."""


@dataclasses.dataclass(frozen=True)
class Trigger:
    """An Eventarc trigger: object finalized in `bucket` → POST to `path` of `service`."""

    name: str
    bucket: str  # the bucket's full name
    event: str
    service: str
    path: str


@dataclasses.dataclass(frozen=True)
class Notification:
    """A notification config: a bucket publishes to a topic."""

    topic: str
    event_types: tuple[str, ...]
    object_name_prefix: str


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket; `key` is what the rest of the product calls it."""

    key: str
    name: str
    triggers: tuple[Trigger, ...]
    notifications: tuple[Notification, ...]


@dataclasses.dataclass(frozen=True)
class Subscription:
    """A subscription: push to `path` of `service`, or pull where `service` is empty. Times are seconds."""

    name: str
    topic: str
    service: str
    path: str
    filter: str
    ack_deadline: int
    message_retention: int
    minimum_backoff: float | None
    maximum_backoff: float | None
    dead_letter_topic: str
    max_delivery_attempts: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A Cloud Scheduler job that publishes `data` to `topic`."""

    name: str
    topic: str
    cron: str
    data: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class LogSink:
    """A Cloud Logging sink: entries that `filter` lets through go to `topic`."""

    name: str
    topic: str
    filter: str


@dataclasses.dataclass(frozen=True)
class Service:
    """A service of ours: events are delivered to it, or people and apps call it."""

    name: str
    kind: str
    folder: str


@dataclasses.dataclass(frozen=True)
class Image:
    """A container image that Vertex runs: locally a folder and a command in it.

    `path`: folders that it imports from besides.
    """

    name: str
    folder: str
    command: tuple[str, ...]
    path: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class AutoMl:
    """What stands for AutoML: the command that learns, the one that serves, and how many seconds a node hour takes."""

    search: Image
    server: Image
    seconds_per_node_hour: float


@dataclasses.dataclass(frozen=True)
class Topology:
    """The whole architecture of one project in one region."""

    project: str
    region: str
    buckets: Mapping[str, Bucket]
    topics: tuple[str, ...]
    subscriptions: Mapping[str, Subscription]
    schedules: Mapping[str, Schedule]
    log_sinks: Mapping[str, LogSink]
    services: Mapping[str, Service]
    #: Those that no event reaches; a project can do without each.
    web_services: Mapping[str, Service]
    images: Mapping[str, Image]
    automl: AutoMl | None = None

    @property
    def deployed(self) -> Mapping[str, Service]:
        """Everything that runs on Cloud Run."""
        return {**self.services, **self.web_services}

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        return tuple(trigger for bucket in self.buckets.values() for trigger in bucket.triggers)

    def caller_of(self, service: str) -> str:
        """The account that delivers events to a service: `google_service_account.caller` of Terraform."""
        return f"{service.replace('_', '-')}-caller@{self.project}.iam.gserviceaccount.com"

    def topic_path(self, topic: str) -> str:
        """Pub/Sub's full name of a topic."""
        return f"projects/{self.project}/topics/{topic}"

    def subscription_path(self, subscription: str) -> str:
        """Pub/Sub's full name of a subscription."""
        return f"projects/{self.project}/subscriptions/{subscription}"


def load(path: Path, *, project: str, region: str) -> Topology:
    """Read a topology file for one project and region.

    Raises TopologyError with every fault of the file, each with its path.
    """
    if not PROJECT_ID.fullmatch(project):
        raise TopologyError(f"project {project!r}: 6 to 30 of [a-z0-9-], a letter first, no hyphen last")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TopologyError(f"{path}: no such file; name the topology file") from None
    except ValueError as exc:
        raise TopologyError(f"{path}: not JSON: {exc}") from exc
    reader = _Reader({"project": project, "region": region})
    topology = _read(reader, _Section(reader, "", document))
    if reader.faults:
        raise TopologyError("\n".join([f"{path}: {len(reader.faults)} faults", *reader.faults]))
    return topology


class _Reader:
    """Collects faults, so that all of them are reported together."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self.faults: list[str] = []

    def fault(self, path: str, what: str) -> None:
        self.faults.append(f"  {path or 'the file'}: {what}")

    def fill(self, path: str, text: str) -> str:
        """Replace ${project} and ${region}; any other placeholder is a fault."""

        def value(match: re.Match[str]) -> str:
            if match[1] not in self._variables:
                self.fault(path, f"unknown placeholder {match[0]}, there are ${{project}} and ${{region}}")
            return self._variables.get(match[1], "")

        return _PLACEHOLDER.sub(value, text)


class _Section:
    """One JSON object of the file, which knows its own path."""

    def __init__(self, reader: _Reader, path: str, value: object) -> None:
        self._reader = reader
        self.path = path
        self._values: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        if not isinstance(value, Mapping):
            reader.fault(path, f"must be an object, got {_kind(value)}")

    def fault(self, key: str, what: str) -> None:
        self._reader.fault(self._at(key), what)

    def has(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, str, default)
        return self._reader.fill(self._at(key), value)

    def integer(self, key: str, default: int) -> int:
        value: int = self._value(key, int, default)
        return value

    def number(self, key: str) -> float:
        value: float = self._value(key, (int, float), None)
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        value: Mapping[str, Any] = self._value(key, dict, {})
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values: list[Any] = self._value(key, list, [])
        if not all(isinstance(value, str) for value in values):
            self.fault(key, "must be a list of texts")
            return ()
        return tuple(self._reader.fill(self._at(key), value) for value in values)

    def section(self, key: str) -> _Section:
        return _Section(self._reader, self._at(key), self._values.get(key, {}))

    def sections(self, key: str) -> list[_Section]:
        """The elements of a list of objects."""
        values: list[Any] = self._value(key, list, [])
        return [_Section(self._reader, f"{self._at(key)}[{i}]", value) for i, value in enumerate(values)]

    def each(self, key: str, read: Callable[[str, _Section], _Item]) -> dict[str, _Item]:
        """Read every member of an object of objects."""
        members = self.section(key)
        return {name: read(name, members.section(name)) for name in members._values}

    def path_of_url(self, key: str) -> str:
        path = self.text(key)
        if path and not path.startswith("/"):
            self.fault(key, f"{path!r} must start with a slash")
        return path

    def one_of(self, key: str, known: Mapping[str, object], what: str) -> str:
        name = self.text(key)
        if name and name not in known:
            self.fault(key, f"no {what} {name!r}; there are {', '.join(sorted(known))}")
        return name

    def _value(self, key: str, kind: Any, default: Any) -> Any:
        value = self._values.get(key, default)
        if value is None:
            self.fault(key, "is missing")
        elif isinstance(value, kind) and not isinstance(value, bool):
            return value
        else:
            self.fault(key, f"must be {_KINDS[kind]}, got {_kind(value)}")
        return _EMPTY[kind]

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


_KINDS = {str: "a text", int: "an integer", (int, float): "a number", dict: "an object", list: "a list"}
_EMPTY: dict[Any, Any] = {str: "", int: 0, (int, float): 0.0, dict: {}, list: []}


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _read(reader: _Reader, file: _Section) -> Topology:
    services = file.each("services", _service)
    images = file.each("images", _image)
    topics = file.each("topics", lambda name, _each: name)
    return Topology(
        project=reader.fill("", "${project}"),
        region=reader.fill("", "${region}"),
        buckets=file.each("buckets", lambda key, each: _bucket(key, each, topics, services)),
        topics=tuple(topics),
        subscriptions=file.each("subscriptions", lambda name, each: _subscription(name, each, topics, services)),
        schedules=file.each(
            "schedules",
            lambda name, each: Schedule(
                name, each.one_of("topic", topics, "topic"), each.text("cron"), each.mapping("data")
            ),
        ),
        log_sinks=file.each(
            "log_sinks",
            lambda name, each: LogSink(name, each.one_of("topic", topics, "topic"), "\n".join(each.texts("filter"))),
        ),
        services=services,
        web_services=file.each("web_services", _service),
        images=images,
        automl=_automl(file.section("automl")) if file.has("automl") else None,
    )


def _image(name: str, section: _Section) -> Image:
    return Image(name, section.text("folder"), section.texts("command"), section.texts("path"))


def _automl(section: _Section) -> AutoMl:
    return AutoMl(
        search=_image("search", section.section("search")),
        server=_image("server", section.section("server")),
        seconds_per_node_hour=section.number("seconds_per_node_hour"),
    )


def _service(name: str, section: _Section) -> Service:
    return Service(name, section.text("kind", "service"), section.text("folder"))


def _bucket(key: str, section: _Section, topics: Mapping[str, object], services: Mapping[str, object]) -> Bucket:
    name = section.text("name")
    triggers = [
        Trigger(
            each.text("name"),
            name,
            each.text("event"),
            each.one_of("service", services, "service"),
            each.path_of_url("path"),
        )
        for each in section.sections("triggers")
    ]
    notifications = [
        Notification(
            each.one_of("topic", topics, "topic"),
            each.texts("event_types"),
            each.text("object_name_prefix", ""),
        )
        for each in section.sections("notifications")
    ]
    return Bucket(key, name, tuple(triggers), tuple(notifications))


def _subscription(
    name: str, section: _Section, topics: Mapping[str, object], services: Mapping[str, object]
) -> Subscription:
    pull = section.has("pull")
    retry = section.section("retry_policy") if section.has("retry_policy") else None
    dead_letter = section.section("dead_letter_policy") if section.has("dead_letter_policy") else None
    return Subscription(
        name=name,
        topic=section.one_of("topic", topics, "topic"),
        service="" if pull else section.one_of("service", services, "service"),
        path="" if pull else section.path_of_url("path"),
        filter=section.text("filter", ""),
        ack_deadline=section.integer("ack_deadline_seconds", 10),
        # Pub/Sub keeps messages for seven days unless told otherwise.
        message_retention=section.integer("message_retention_seconds", 7 * 24 * 3600),
        minimum_backoff=retry.number("minimum_backoff_seconds") if retry else None,
        maximum_backoff=retry.number("maximum_backoff_seconds") if retry else None,
        dead_letter_topic=dead_letter.one_of("topic", topics, "topic") if dead_letter else "",
        max_delivery_attempts=dead_letter.integer("max_delivery_attempts", 5) if dead_letter else 5,
    )
