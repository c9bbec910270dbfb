"""The topology: which buckets, topics, subscriptions, services and images a project has, read from a JSON file.

The README of this package has every key. Other tools may read the same file: keys that are only theirs are left alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

#: Firebase project ids are those of Google Cloud: https://cloud.google.com/resource-manager/docs/creating-managing-projects
PROJECT_ID = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")

DEFAULT_PROJECT = "demo-project"
DEFAULT_REGION = "us-central1"

_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
_ENTRYPOINT = re.compile(r"^[ \t]*ENTRYPOINT[ \t]+(.*?)[ \t]*$", re.IGNORECASE | re.MULTILINE)
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
    """A service of the project: events are delivered to it, or people and apps call it.

    With a `command` the local cloud runs it in `folder`; without one its address is registered by the control API.
    """

    name: str
    kind: str
    folder: str
    command: tuple[str, ...] = ()


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
class Local:
    """What only the local cloud reads, with every path whole."""

    #: Folders of services and images are relative to it.
    root: Path = Path()
    #: What services and containers have on PYTHONPATH, as if it were installed in their images.
    python_path: tuple[Path, ...] = ()
    #: Who may do what; without it everyone may do everything.
    bindings: Path | None = None
    #: Keys of the buckets that model servers may read; None: of all. Vertex AI copies artifacts, here they stay.
    model_buckets: tuple[str, ...] | None = None
    #: What the system is called: its images' repository, and what names of schedules and sinks begin with.
    name: str = ""

    def named(self, what: str) -> str:
        """The name of a schedule or a sink on Google Cloud."""
        return f"{self.name}-{what}" if self.name else what


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
    local: Local = Local()  # frozen

    @classmethod
    def empty(cls, *, project: str = "", region: str = "") -> Topology:
        """A project in which nothing was made yet."""
        project, region = project or DEFAULT_PROJECT, region or DEFAULT_REGION
        _require_project(project)
        return cls(project, region, {}, (), {}, {}, {}, {}, {}, {})

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

    def image_uri(self, image: str) -> str:
        """Where Artifact Registry would have an image of the project."""
        return f"{self.region}-docker.pkg.dev/{self.project}/{self.local.name or 'images'}/{image}:local"

    def bucket_named(self, word: str) -> str:
        """The full name of the bucket that `word` means: its key, its name, or its name without the project."""
        names = [bucket.name for key, bucket in self.buckets.items() if word in {key, bucket.name}]
        return names[0] if names else f"{self.project}-{word}"

    def topic_path(self, topic: str) -> str:
        """Pub/Sub's full name of a topic."""
        return f"projects/{self.project}/topics/{topic}"

    def subscription_path(self, subscription: str) -> str:
        """Pub/Sub's full name of a subscription."""
        return f"projects/{self.project}/subscriptions/{subscription}"


def load(path: Path, *, project: str = "", region: str = "") -> Topology:
    """Read a topology file for one project and region; without them for those that it names itself.

    Raises TopologyError with every fault of the file, each with its path.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise TopologyError(f"{path}: no such file; name the topology file") from None
    except ValueError as exc:
        raise TopologyError(f"{path}: not JSON: {exc}") from exc
    given = document.get("local") if isinstance(document, dict) else None
    own: Mapping[str, Any] = given if isinstance(given, dict) else {}
    project = project or _text_or(own.get("project"), DEFAULT_PROJECT)
    region = region or _text_or(own.get("region"), DEFAULT_REGION)
    _require_project(project)
    reader = _Reader({"project": project, "region": region})
    topology = _read(reader, _Section(reader, "", document), path.resolve().parent)
    reader.look_for_slips()
    if reader.faults:
        many = f"{len(reader.faults)} faults" if len(reader.faults) > 1 else "1 fault"
        raise TopologyError("\n".join([f"{path}: {many}", *reader.faults]))
    return topology


def require_folders(topology: Topology) -> None:
    """Raises TopologyError where a folder is missing that the local cloud would run something in."""
    running: dict[str, str] = {f"images.{name}.folder": each.folder for name, each in topology.images.items()}
    if topology.automl:
        running |= {
            f"automl.{each.name}.folder": each.folder for each in (topology.automl.search, topology.automl.server)
        }
    for section, services in (("services", topology.services), ("web_services", topology.web_services)):
        running |= {f"{section}.{name}.folder": each.folder for name, each in services.items() if each.command}
    found = {key: topology.local.root / folder for key, folder in running.items()}
    if faults := [f"  {key}: {path} is not a folder" for key, path in found.items() if not path.is_dir()]:
        raise TopologyError("\n".join(["folders are relative to that of the topology, or to local.root:", *faults]))


def with_images(topology: Topology, folders: Mapping[str, Path]) -> Topology:
    """The same project with more images: by name, a folder whose Dockerfile says what a container would start.

    Packages that the image would install are in `.venv` of the folder where there is one. Raises TopologyError.
    """
    more = {name: _built_from(name, folder.absolute()) for name, folder in folders.items()}
    return dataclasses.replace(topology, images={**topology.images, **more})


def _built_from(name: str, folder: Path) -> Image:
    file = folder / "Dockerfile"
    try:
        written = _ENTRYPOINT.findall(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise TopologyError(f"image {name}: {file} cannot be read ({exc}): name a folder with a Dockerfile") from exc
    try:
        command = json.loads(written[-1]) if written else None
    except ValueError:
        command = None
    if not isinstance(command, list) or not command or not all(isinstance(word, str) and word for word in command):
        raise TopologyError(
            f'image {name}: {file} has no entry point in exec form: write ENTRYPOINT ["python", "train.py"] on one line'
        )
    own = folder / ".venv" / "bin" / "python"
    if command[0] in {"python", "python3"} and own.exists():
        command[0] = str(own)
    return Image(name, str(folder), tuple(command))


def _text_or(value: object, default: str) -> str:
    """A value of another kind is reported when its section is read."""
    return value if isinstance(value, str) and value else default


def _require_project(project: str) -> None:
    if not PROJECT_ID.fullmatch(project):
        raise TopologyError(f"project {project!r}: 6 to 30 of [a-z0-9-], a letter first, no hyphen last")


class _Reader:
    """Collects faults, so that all of them are reported together."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self.sections: list[_Section] = []
        self.faults: list[str] = []

    def fault(self, path: str, what: str) -> None:
        self.faults.append(f"  {path or 'the file'}: {what}")

    def look_for_slips(self) -> None:
        """Report what looks like a misspelt key; every other key that is not known here is for another reader."""
        for section in self.sections:
            section.look_for_slips()

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
        self._asked: set[str] = set()
        reader.sections.append(self)
        if not isinstance(value, Mapping):
            reader.fault(path, f"must be an object, not {_kind(value)}")

    def fault(self, key: str, what: str) -> None:
        self._reader.fault(self._at(key), what)

    def look_for_slips(self) -> None:
        absent = self._asked - set(self._values)
        for key in set(self._values) - self._asked:
            longer = [each for each in sorted(absent) if each.startswith(f"{key}_")]
            if meant := difflib.get_close_matches(key, sorted(absent), n=1, cutoff=0.8) or longer:
                self.fault(key, f"is not a key; did you mean {meant[0]!r}?")

    def has(self, key: str) -> bool:
        self._asked.add(key)
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
        self._asked.add(key)
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
            there = f"there are {', '.join(sorted(known))}" if known else f"the file has none; add it to {what}s"
            self.fault(key, f"no {what} {name!r}; {there}")
        return name

    def _value(self, key: str, kind: Any, default: Any) -> Any:
        self._asked.add(key)
        value = self._values.get(key, default)
        if value is None:
            self.fault(key, f"is missing; it must be {_KINDS[kind]}")
        elif isinstance(value, kind) and not isinstance(value, bool):
            return value
        else:
            self.fault(key, f"must be {_KINDS[kind]}, not {_kind(value)}")
        return _EMPTY[kind]

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


_KINDS = {str: "a text", int: "an integer", (int, float): "a number", dict: "an object", list: "a list"}
_EMPTY: dict[Any, Any] = {str: "", int: 0, (int, float): 0.0, dict: {}, list: []}


_WORDS: dict[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    dict: "an object",
    list: "a list",
}


def _kind(value: object) -> str:
    return _WORDS.get(type(value), "nothing")


def _read(reader: _Reader, file: _Section, folder: Path) -> Topology:
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
        local=_local(file.section("local"), folder),
    )


def _automl(section: _Section) -> AutoMl:
    return AutoMl(
        search=_image("search", section.section("search")),
        server=_image("server", section.section("server")),
        seconds_per_node_hour=section.number("seconds_per_node_hour"),
    )


def _local(section: _Section, folder: Path) -> Local:
    """Paths are relative to the folder of the topology; those of code to `root`."""
    for key, default in (("project", DEFAULT_PROJECT), ("region", DEFAULT_REGION)):
        section.text(key, default)  # read by whoever loads the file
    root = (folder / section.text("root", ".")).resolve()
    bindings = section.text("bindings", "")
    return Local(
        root,
        tuple(root / each for each in section.texts("python_path")),
        folder / bindings if bindings else None,
        section.texts("model_buckets") if section.has("model_buckets") else None,
        section.text("name", ""),
    )


def _service(name: str, section: _Section) -> Service:
    return Service(name, section.text("kind", "service"), section.text("folder", "."), section.texts("command"))


def _image(name: str, section: _Section) -> Image:
    command = section.texts("command")
    if not command and not section.has("command"):
        section.fault("command", 'is missing; give what its container would start, such as ["python", "train.py"]')
    return Image(name, section.text("folder", "."), command, section.texts("path"))


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
