"""A file of bindings: who may do what, as Terraform grants it, and which roles are made of which permissions."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from local_cloud.topology import Topology

#: Google's number of the project; its service agents are named after it.
PROJECT_NUMBER = "123456789012"

#: People whom Terraform's variable `operators` names, and the one whom the local cloud has for them.
OPERATORS = "an operator"
OPERATOR = "user:operator@example.com"

#: Google's own accounts, as files of bindings call them.
AGENTS: Mapping[str, str] = {
    "Pub/Sub": f"service-{PROJECT_NUMBER}@gcp-sa-pubsub.iam.gserviceaccount.com",
    "Cloud Storage": f"service-{PROJECT_NUMBER}@gs-project-accounts.iam.gserviceaccount.com",
    "Cloud Logging": f"service-{PROJECT_NUMBER}@gcp-sa-logging.iam.gserviceaccount.com",
}


_BEGINS = re.compile(r'resource\.name\.startsWith\("([^"]+)"\)')
_EQUALS = re.compile(r'resource\.name == "([^"]+)"')


class BindingsError(ValueError):
    """The file of bindings cannot be used; the message says which line of it and why."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """Where in Cloud Storage a binding counts: for objects by the beginnings of their full names, and for a bucket.

    Names are those of conditions: `projects/_/buckets/BUCKET/objects/NAME`.
    Source: https://cloud.google.com/iam/docs/conditions-resource-attributes
    """

    prefixes: tuple[str, ...]
    bucket: str = ""
    title: str = ""

    def holds(self, resource: str) -> bool:
        return (bool(self.bucket) and resource == self.bucket) or resource.startswith(self.prefixes)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Condition:
        """A condition as a policy has it. Raises ValueError for an expression that the local cloud cannot judge."""
        prefixes, bucket = [], ""
        for term in str(document.get("expression", "")).split(" || "):
            if begins := _BEGINS.fullmatch(term.strip()):
                prefixes.append(begins[1])
            elif (equals := _EQUALS.fullmatch(term.strip())) and not bucket:
                bucket = equals[1]
            else:
                raise ValueError(f"{term!r}: the local cloud judges resource.name.startsWith and resource.name ==")
        return cls(tuple(prefixes), bucket, str(document.get("title", "")))

    @property
    def expression(self) -> str:
        """In the Common Expression Language, as Terraform writes it."""
        listing = [f'resource.name == "{self.bucket}"'] if self.bucket else []
        return " || ".join([*listing, *(f'resource.name.startsWith("{prefix}")' for prefix in self.prefixes)])


@dataclasses.dataclass(frozen=True)
class Grant:
    """One role of one member on one resource, by its full name (`projects/p/topics/t`, `buckets/b`)."""

    resource: str
    role: str
    member: str
    condition: Condition | None = None


@dataclasses.dataclass(frozen=True)
class Binding:
    """One line of the file, in its words; `why` is for people, `page` is why Google asks for what is not shown here.

    `variable` of whoever deploys turns it on; the local cloud grants it in any case.
    """

    section: str
    account: str
    role: str
    on: str
    why: str = ""
    objects: tuple[str, ...] = ()
    lists: bool = False
    only_bucket: str = ""
    page: str = ""
    variable: str = ""

    @property
    def where(self) -> str:
        """The resource and what of it, for people."""
        if self.only_bucket:
            return f"{self.on}: bucket {self.only_bucket}"
        return f"{self.on}: {' '.join(self.objects)}" if self.objects else self.on

    @property
    def name(self) -> str:
        """What a test or a person calls it; no two have the same."""
        return f"{self.account}: {self.role} on {self.where}"


@dataclasses.dataclass(frozen=True)
class Bindings:
    """The whole file, with project, number and region left open."""

    custom_roles: Mapping[str, Sequence[str]]
    bindings: tuple[Binding, ...]

    @classmethod
    def load(cls, file: Path) -> Bindings:
        """Raises BindingsError for a file that is missing or not of this form, with the key and what mends it."""
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except OSError:
            raise BindingsError(f"{file}: no such file; name the file of bindings") from None
        except ValueError as exc:
            raise BindingsError(f"{file}: not JSON: {exc}") from exc
        sections = document.get("bindings") if isinstance(document, dict) else None
        if not isinstance(sections, dict) or not all(isinstance(rows, list) for rows in sections.values()):
            raise BindingsError(f"{file}: bindings must be an object, with a list below each heading")
        custom_roles = document.get("custom_roles", {})
        if not isinstance(custom_roles, dict) or not all(isinstance(each, list) for each in custom_roles.values()):
            raise BindingsError(f"{file}: custom_roles must be an object, with a list of permissions for each role")
        read = cls(
            custom_roles,
            tuple(
                _binding(f"{file}: bindings.{section}[{number}]", section, row)
                for section, rows in sections.items()
                for number, row in enumerate(rows)
            ),
        )
        names = [each.name for each in read.bindings]
        if twice := {name for name in names if names.count(name) > 1}:
            raise BindingsError(f"{file}: twice: {', '.join(sorted(twice))}")
        return read

    @property
    def accounts(self) -> list[str]:
        """The project's own accounts, each once, in the order of the file."""
        return list(dict.fromkeys(each.account for each in self.bindings if each.account not in {*AGENTS, OPERATORS}))

    def grants(self, topology: Topology) -> Iterator[Grant]:
        """What the bindings grant in the project of `topology`."""
        for binding in self.bindings:
            yield from grants(binding, topology)


def _binding(where: str, section: str, row: object) -> Binding:
    known = [field.name for field in dataclasses.fields(Binding) if field.name != "section"]
    if not isinstance(row, dict):
        raise BindingsError(f"{where}: must be an object with account, role and on")
    if unknown := sorted(set(row) - set(known)):
        raise BindingsError(f"{where}.{unknown[0]}: is not a key; there are {', '.join(known)}")
    for key in ("account", "role", "on"):
        if not isinstance(row.get(key), str) or not row[key]:
            raise BindingsError(f"{where}.{key}: is missing; it must be a text")
    prefixes = row.get("objects", [])
    if not isinstance(prefixes, list) or not all(isinstance(prefix, str) for prefix in prefixes):
        raise BindingsError(f"{where}.objects: must be a list of beginnings of names")
    return Binding(section, **{**row, "objects": tuple(prefixes)})


def member(account: str, project: str) -> str:
    """`serviceAccount:…` of an account in the file's words."""
    if account == OPERATORS:
        return OPERATOR
    return f"serviceAccount:{AGENTS.get(account) or f'{account}@{project}.iam.gserviceaccount.com'}"


def grants(binding: Binding, topology: Topology) -> Iterator[Grant]:
    """What one binding grants: one grant, or one for each subscription that pushes."""
    project = topology.project
    role = binding.role if binding.role.startswith("roles/") else f"projects/{project}/roles/{binding.role}"
    for resource in _resources(binding.on, topology):
        yield Grant(resource, role, member(binding.account, project), condition(binding, topology))


def condition(binding: Binding, topology: Topology) -> Condition | None:
    """The condition of a binding, if it has one."""
    if binding.only_bucket:
        filled = {"number": PROJECT_NUMBER, "region": topology.region, "project": topology.project}
        name = binding.only_bucket
        for key, value in filled.items():
            name = name.replace(f"${{{key}}}", value)
        return Condition((f"projects/_/buckets/{name}/",), title="only-sources-of-functions")
    if not binding.objects:
        return None
    bucket = f"projects/_/buckets/{topology.bucket_named(binding.on.removeprefix('bucket '))}"
    title = f"only-{'-and-'.join(prefix.rstrip('/') for prefix in binding.objects)}"
    prefixes = tuple(f"{bucket}/objects/{prefix}" for prefix in binding.objects)
    return Condition(prefixes, bucket if binding.lists else "", title)


def _resources(on: str, topology: Topology) -> Iterator[str]:
    """The full names of what `on` means. Raises BindingsError for what it does not know."""
    project = f"projects/{topology.project}"
    kind, _, rest = on.partition(" ")
    if on == "its subscriptions":
        for subscription in topology.subscriptions.values():
            if subscription.dead_letter_topic:
                yield f"{project}/subscriptions/{subscription.name}"
        return
    location = f"{project}/locations/{topology.region}"
    names: Mapping[str, str] = {
        "project": project,
        "bucket": f"buckets/{topology.bucket_named(rest)}",
        "topic": f"{project}/topics/{rest}",
        "service": f"{location}/services/{rest}",
        "account": f"{project}/serviceAccounts/{rest}@{topology.project}.iam.gserviceaccount.com",
        "repository": f"{location}/repositories/{rest}",
    }
    if kind not in names or bool(rest) == (kind == "project"):
        raise BindingsError(f"on {on!r}: there are {', '.join(names)} and its subscriptions")
    yield names[kind]


def read_json(name: str) -> Any:
    """A data file of this package."""
    return json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
