"""Who may do what: accounts and policies as Terraform leaves them. They are shown and can be changed, not enforced.

What Terraform grants is read from docs/permissions.md, which a test compares with Terraform's plan.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from local_cloud.topology import Topology

#: Google's number of the project; its service agents are named after it.
PROJECT_NUMBER = "123456789012"
PAGE = Path("docs") / "permissions.md"

_ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| ([^|]+?) \| [^|]+ \|$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Grant:
    """One role of one member on one resource, by its full name (`projects/p/topics/t`, `buckets/b`)."""

    resource: str
    role: str
    member: str
    prefixes: tuple[str, ...] = ()


class Iam:
    """The project's accounts and policies, which anybody in this process may change."""

    def __init__(self, topology: Topology, repository: Path) -> None:
        self._topology = topology
        self._lock = threading.Lock()
        page = repository / PAGE
        self._grants = set(self._granted(page.read_text(encoding="utf-8"))) if page.exists() else set()
        #: E-mail address → whether the account is disabled.
        self.accounts = {
            grant.member.removeprefix("serviceAccount:"): False
            for grant in self._grants
            if grant.member.endswith(f"@{topology.project}.iam.gserviceaccount.com")
        }

    def policy(self, resource: str) -> dict[str, Any]:
        """google.iam.v1.Policy of a resource, as JSON; without a grant it is empty, as Google's is."""
        with self._lock:
            grants = [grant for grant in self._grants if grant.resource == resource]
        members: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for grant in sorted(grants, key=dataclasses.astuple):
            members.setdefault((grant.role, grant.prefixes), []).append(grant.member)
        bindings = [
            {"role": role, "members": each, **_condition(resource, prefixes)}
            for (role, prefixes), each in members.items()
        ]
        etag = hashlib.sha256(json.dumps(bindings).encode()).hexdigest()[:12]
        return {"version": 3, "etag": etag, "bindings": bindings}

    def grant(self, grant: Grant) -> None:
        with self._lock:
            self._grants.add(grant)

    def revoke(self, resource: str, role: str, member: str) -> list[Grant]:
        """Take a role away, with every condition; returns what was taken."""
        with self._lock:
            taken = [g for g in self._grants if (g.resource, g.role, g.member) == (resource, role, member)]
            self._grants.difference_update(taken)
        return taken

    def _granted(self, page: str) -> Iterator[Grant]:
        for account, role, where in _ROW.findall(page):
            if account == "an operator":
                continue
            full_role = role if role.startswith("roles/") else f"projects/{self._topology.project}/roles/{role}"
            for resource, prefixes in self._resources(where):
                yield Grant(resource, full_role, self._member(account), prefixes)

    def _member(self, account: str) -> str:
        agents = {
            "Pub/Sub": f"service-{PROJECT_NUMBER}@gcp-sa-pubsub.iam.gserviceaccount.com",
            "Cloud Storage": f"service-{PROJECT_NUMBER}@gs-project-accounts.iam.gserviceaccount.com",
            "Cloud Logging": f"service-{PROJECT_NUMBER}@gcp-sa-logging.iam.gserviceaccount.com",
        }
        return f"serviceAccount:{agents.get(account) or self._email(account)}"

    def _email(self, account: str) -> str:
        return f"{account}@{self._topology.project}.iam.gserviceaccount.com"

    def _resources(self, where: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The full names of what a cell of the page means."""
        project, region = f"projects/{self._topology.project}", self._topology.region
        kind, _, rest = where.partition(" ")
        if kind == "bucket":
            name, _, prefixes = rest.partition(":")
            yield f"buckets/{self._topology.project}-{name}", tuple(prefixes.split())
        elif where == "its subscriptions":
            for subscription in self._topology.subscriptions.values():
                if subscription.dead_letter_topic:
                    yield f"{project}/subscriptions/{subscription.name}", ()
        else:
            names = {
                "topic": f"{project}/topics/{rest}",
                "service": f"{project}/locations/{region}/services/{rest}",
                "account": f"{project}/serviceAccounts/{self._email(rest)}",
                "repository": f"{project}/locations/{region}/repositories/{rest}",
            }
            yield names.get(kind, project), ()


def _condition(resource: str, prefixes: tuple[str, ...]) -> Mapping[str, Any]:
    if not prefixes:
        return {}
    objects = f"projects/_/{resource}/objects"
    expression = " || ".join(f'resource.name.startsWith("{objects}/{prefix}")' for prefix in prefixes)
    return {"condition": {"title": "only-" + "-and-".join(p.strip("/") for p in prefixes), "expression": expression}}
