"""The status page: what a local cloud runs and holds, as plain HTML from this process; no script, no style sheet."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

if TYPE_CHECKING:
    from local_cloud.cloud import LocalCloud

_SHOWN = 50

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ project }} on the local cloud</title>
</head>
<body>
<h1>{{ project }} in {{ region }}</h1>
<p>Reload to see what changed. <a href="/environment">Variables for clients</a>, <a href="/permissions">who was refused
what</a>, <a href="/faults">planned faults and what can be planned</a>, <a href="/project">state of the project</a>.</p>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% if section.rows %}
<table border="1" cellpadding="4">
<tr>{% for name in section.columns %}<th scope="col" align="left">{{ name }}</th>{% endfor %}</tr>
{% for row in section.shown %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% if section.more %}<p>and {{ section.more }} more</p>{% endif %}
{% else %}
<p>none</p>
{% endif %}
{% endfor %}
</body>
</html>
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A table of the page; long ones are cut."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    @property
    def shown(self) -> Sequence[Sequence[object]]:
        return self.rows[:_SHOWN]

    @property
    def more(self) -> int:
        return len(self.rows) - len(self.shown)


def render(cloud: LocalCloud) -> str:
    """The page of a running cloud."""
    topology = cloud.topology
    return _template().render(project=topology.project, region=topology.region, sections=list(_sections(cloud)))


@functools.cache
def _template() -> jinja2.Template:
    # Names come from whoever calls: everything is escaped.
    return jinja2.Environment(autoescape=True, trim_blocks=True).from_string(_TEMPLATE)


def _sections(cloud: LocalCloud) -> Iterator[Section]:
    yield Section("Services", ("service", "address", "problem"), list(_services(cloud)))
    yield from _of_vertex(cloud)
    yield from _of_messages(cloud)
    yield Section("Buckets", ("bucket", "objects", "bytes"), list(_buckets(cloud)))
    yield from _of_firebase(cloud)
    refused = [(each.member, each.permission, each.resource) for each in reversed(cloud.iam.refusals())]
    yield Section("Refused calls, newest first", ("who", "lacks", "on"), refused)
    planned = [(name, ", ".join(what)) for name, what in sorted(cloud.faults.pending().items())]
    yield Section("Planned faults", ("operation", "what will happen"), planned)
    yield Section("Addresses and names", ("variable", "value"), sorted(cloud.environment().items()))


def _services(cloud: LocalCloud) -> Iterator[Sequence[object]]:
    for name in cloud.topology.deployed:
        revision = cloud.revision(name)
        if revision is None:
            yield name, "", "nothing runs: give it a command in the topology, or POST /services"
        else:
            yield name, revision.uri, revision.problem


def _of_vertex(cloud: LocalCloud) -> Iterator[Section]:
    resources = cloud.vertex.resources
    for title, collection in (("Training jobs", "customJobs"), ("AutoML trainings", "trainingPipelines")):
        found = resources(collection)
        jobs = [(_id(each), each.get("displayName", ""), each["state"], each["createTime"]) for each in found]
        yield Section(f"{title}, newest first", ("id", "name", "state", "created"), jobs)
    yield Section("Models", ("model", "name", "versions"), [_model(each) for each in resources("models")])
    rows = [row for endpoint in resources("endpoints") for row in _endpoint(endpoint)]
    yield Section("Endpoints", ("endpoint", "name", "deployed model", "model", "traffic"), rows)
    images = [(name, " ".join(each.command), each.folder) for name, each in cloud.topology.images.items()]
    yield Section("Images", ("image", "command", "folder"), images)


def _model(record: dict[str, Any]) -> Sequence[object]:
    return _id(record), record["model"].get("displayName", ""), ", ".join(record["versions"])


def _endpoint(endpoint: dict[str, Any]) -> Iterator[Sequence[object]]:
    named = (_id(endpoint), endpoint.get("displayName", ""))
    traffic = endpoint.get("trafficSplit", {})
    deployed = endpoint.get("deployedModels", [])
    for each in deployed:
        yield *named, each["id"], each["model"].rsplit("/", 1)[-1], f"{traffic.get(each['id'], 0)} %"
    if not deployed:
        yield *named, "", "", ""


def _of_messages(cloud: LocalCloud) -> Iterator[Section]:
    project = cloud.topology.project
    topics = [(name.rsplit("/", 1)[-1],) for name in cloud.pubsub.topics(project)]
    yield Section("Topics", ("topic",), topics)
    waiting = cloud.pubsub.waiting()
    rows = []
    for each in cloud.pubsub.subscriptions(project):
        count, age = waiting.get(each.name, (0, 0.0))
        target = each.push_config.push_endpoint or "pull"
        rows.append((_last(each.name), _last(each.topic), target, count, f"{age:.0f} s" if count else ""))
    yield Section("Subscriptions", ("subscription", "topic", "delivers to", "waiting", "oldest"), rows)
    jobs = [
        (name, job.schedule.topic, "paused" if job.is_paused else "on", job.problem)
        for name, job in cloud.scheduler.jobs.items()
    ]
    yield Section("Schedules", ("schedule", "topic", "state", "problem"), jobs)


def _buckets(cloud: LocalCloud) -> Iterator[Sequence[object]]:
    usage = cloud.storage.state.usage()
    for bucket in cloud.storage.state.buckets("", ""):
        yield bucket.name, *usage.get(bucket.name, (0, 0))


def _of_firebase(cloud: LocalCloud) -> Iterator[Section]:
    models = [
        (_id(each), each.get("displayName", ""), "published" if each.get("state", {}).get("published") else "kept back")
        for each in cloud.firebase_ml.models(cloud.topology.project)
    ]
    yield Section("Firebase ML", ("model", "name", "state"), models)
    template = cloud.remote_config.template(cloud.topology.project)
    values = [(name, each.get("defaultValue", {}).get("value", "")) for name, each in _parameters(template).items()]
    yield Section("Remote Config", ("parameter", "default"), values)


def _parameters(template: dict[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = template.get("parameters", {})
    return parameters


def _id(resource: dict[str, Any]) -> str:
    return _last(str(resource["name"]))


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]
