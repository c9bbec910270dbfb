"""The judge: may this caller do this with that? Every emulated API asks before it answers.

One grant is enough, on the resource or on the project; a grant counts if its member is the caller, its role has the
permission and its condition holds. Source: https://cloud.google.com/iam/docs/overview
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from local_cloud.iam.bindings import AGENTS, OPERATOR, PROJECT_NUMBER, Bindings, Condition, Grant, member
from local_cloud.iam.roles import Roles, of_agents
from local_cloud.topology import Topology

_LOG = logging.getLogger("local_cloud.iam")

#: Who owns the project: whoever comes to the addresses that the local cloud prints.
OWNER = "user:owner@example.com"
#: As whom Vertex AI runs a model server, and a job that names no account.
PREDICTOR = "serviceAccount:model-server@vertex-ai.example.com"
#: As whom Vertex AI reads the pictures of data sets and writes exports.
VERTEX = f"serviceAccount:service-{PROJECT_NUMBER}@gcp-sa-aiplatform.iam.gserviceaccount.com"
CUSTOM_CODE = f"serviceAccount:service-{PROJECT_NUMBER}@gcp-sa-aiplatform-cc.iam.gserviceaccount.com"

#: What Cloud Storage grants on a new bucket, so that the basic roles of the project mean something there.
#: Source: https://cloud.google.com/storage/docs/access-control/iam#convenience-values
_CONVENIENCE: Mapping[str, tuple[str, ...]] = {
    "projectOwner": ("roles/storage.legacyBucketOwner", "roles/storage.legacyObjectOwner"),
    "projectEditor": ("roles/storage.legacyBucketOwner", "roles/storage.legacyObjectOwner"),
    "projectViewer": ("roles/storage.legacyBucketReader", "roles/storage.legacyObjectReader"),
}
_REMEMBERED_REFUSALS = 1000


class Refused(Exception):  # what Google says; each API has its own words and code for it
    """`member` lacks `permission` on `resource`, a full name as conditions have it."""

    def __init__(self, member: str, permission: str, resource: str) -> None:
        super().__init__(f"{member} lacks {permission} on {resource}")
        self.member = member
        self.permission = permission
        self.resource = resource

    @property
    def email(self) -> str:
        return self.member.partition(":")[2]


class ApiIsOff(Exception):  # as Google says it
    """The project has not enabled `api`, such as `pubsub.googleapis.com`."""

    def __init__(self, api: str) -> None:
        super().__init__(f"{api} is off")
        self.api = api


class StalePolicy(Exception):  # the name says it
    """A policy was changed since the one was read that shall replace it."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """One refusal, for people and tests."""

    member: str
    permission: str
    resource: str


class Iam:
    """The project's accounts and policies, which this process may change, and who is refused by them."""

    def __init__(self, *, project: str, custom_roles: Mapping[str, Any] | None = None) -> None:
        self.project = project
        #: A project for which no bindings were written: what people try out should not fail for a grant.
        self._permits_everything = False
        #: An emulator that runs alone serves whatever project its caller names.
        self._is_any_project = False
        self._roles = Roles(project, custom_roles or {})
        self._lock = threading.Lock()
        self._grants: dict[str, set[Grant]] = collections.defaultdict(set)
        self._changes: collections.Counter[str] = collections.Counter()
        #: Seconds after which a grant that is made from now on counts; Google's take two minutes and more.
        self.grants_count_after = 0.0
        self._counts_from: dict[Grant, float] = {}
        self._refusals: collections.deque[Refusal] = collections.deque(maxlen=_REMEMBERED_REFUSALS)
        self._needed: set[Grant] = set()
        #: APIs that nobody may call, such as `run.googleapis.com`.
        self.apis_off: set[str] = set()
        #: E-mail address → whether the account is disabled.
        self.accounts: dict[str, bool] = {}
        #: Everyone who has addresses of their own, the owner first.
        self.callers: list[str] = [OWNER]
        self.grant(Grant(f"projects/{project}", "roles/owner", OWNER))

    @classmethod
    def of_one_owner(cls) -> Iam:
        """A project in which nobody calls but its owner, for an emulator that runs alone."""
        iam = cls(project="local")
        iam._is_any_project = True
        for role, product in (
            ("roles/pubsub.publisher", "Cloud Storage"),
            ("roles/pubsub.publisher", "Pub/Sub"),
            ("roles/pubsub.subscriber", "Pub/Sub"),
            ("roles/aiplatform.serviceAgent", "gcp-sa-aiplatform"),
        ):
            iam.grant(Grant("projects/local", role, agent(product)))
        return iam

    @classmethod
    def of(cls, topology: Topology, bindings: Bindings | None) -> Iam:
        """What Terraform leaves behind, and what Google grants its own accounts; without bindings all is permitted.

        Raises BindingsError for a role that is not known.
        """
        iam = cls(project=topology.project, custom_roles=bindings.custom_roles if bindings else None)
        iam._permits_everything = bindings is None
        for email, role in of_agents(PROJECT_NUMBER).items():
            iam.grant(Grant(f"projects/{topology.project}", role, f"serviceAccount:{email}"))
        # Vertex AI copies an artifact and lets the model server read the copy; here it stays where it is.
        readable = topology.local.model_buckets
        for bucket in topology.buckets.values():
            if readable is None or bucket.key in readable:
                iam.grant(Grant(f"buckets/{bucket.name}", "roles/storage.objectViewer", PREDICTOR))
        for grant in bindings.grants(topology) if bindings else ():
            iam.grant(grant)
        # A service runs as an account of its name, whether it was granted anything or not.
        accounts = [*(bindings.accounts if bindings else ()), *(each.replace("_", "-") for each in topology.deployed)]
        members = [member(account, topology.project) for account in dict.fromkeys(accounts)]
        iam.accounts = {each.partition(":")[2]: False for each in members}
        # Who signs pushes calls services of the project, and nothing of Google's.
        own = [each for each in members if not each.partition("@")[0].endswith("-caller")]
        iam.callers += [*own, OPERATOR, PREDICTOR, CUSTOM_CODE, VERTEX]
        return iam

    def member(self, account: str) -> str:
        """`serviceAccount:…` of one of Google's accounts or of the project's, by its short name."""
        return member(account, self.project)

    def by_id(self, name: str) -> str:
        """A resource's name with the project's id, where it was given by the project's number."""
        number = f"projects/{PROJECT_NUMBER}"
        return (
            f"projects/{self.project}{name.removeprefix(number)}" if name.startswith((f"{number}/", number)) else name
        )

    # --- judging ---------------------------------------------------------------------------------------------

    def require(self, caller: str, permission: str, resource: str) -> None:
        """Raises Refused unless `caller` has `permission` on `resource` (`projects/_/buckets/b/objects/n`, …)."""
        if not self.allows(caller, permission, resource):
            refused = Refused(caller, permission, resource)
            with self._lock:
                self._refusals.append(Refusal(caller, permission, resource))
            _LOG.warning("refused: %s", refused)
            raise refused

    def require_api(self, api: str) -> None:
        """Raises ApiIsOff: that comes before any permission."""
        if api in self.apis_off:
            raise ApiIsOff(api)

    def allows(self, caller: str, permission: str, resource: str) -> bool:
        resource = self.by_id(resource)
        if self._permits_everything:
            return not self.accounts.get(caller.partition(":")[2])
        if self.accounts.get(caller.partition(":")[2]):
            return False
        if permission == "iam.serviceAccounts.actAs" and self._is_unknown(resource.rpartition("/")[2]):
            return False
        with self._lock:
            counting = [
                grant for grant in self._reaching(resource) if self._counts(grant, caller, permission, resource)
            ]
            if len(counting) == 1:
                self._needed.update(counting)
        return bool(counting)

    def _is_unknown(self, email: str) -> bool:
        """Whether the project should have such an account and has not; of others nothing is known."""
        return email.endswith(f"@{self.project}.iam.gserviceaccount.com") and email not in self.accounts

    def held(self, caller: str, permissions: Iterable[str], resource: str) -> list[str]:
        """Those of `permissions` that the caller has: what testIamPermissions answers."""
        return [each for each in permissions if self.allows(caller, each, resource)]

    def refusals(self) -> list[Refusal]:
        """Whom the judge refused what, oldest first, of the last thousand."""
        with self._lock:
            return list(self._refusals)

    def needed(self) -> set[Grant]:
        """Every grant without which some call so far would have been refused."""
        with self._lock:
            return set(self._needed)

    def forget(self) -> None:
        """Let `refusals` and `needed` begin anew."""
        with self._lock:
            self._refusals.clear()
            self._needed.clear()

    def _reaching(self, resource: str) -> Iterator[Grant]:
        """The grants on a resource and on what it inherits from."""
        project = f"projects/{self.project}"
        holder = _policy_holder(resource)
        if not self._is_any_project and not _is_of(resource, self.project):
            return  # of another project, to which no grant here applies
        if holder.startswith("buckets/"):
            yield from self._convenience(holder)
        if holder != project and holder in self._grants:
            yield from self._grants[holder]
        yield from self._grants[project]

    def _convenience(self, bucket: str) -> Iterator[Grant]:
        for value, roles in _CONVENIENCE.items():
            for role in roles:
                yield Grant(bucket, role, f"{value}:{self.project}")

    def _counts(self, grant: Grant, caller: str, permission: str, resource: str) -> bool:
        return (
            self._counts_from.get(grant, 0.0) <= time.monotonic()
            and self._is(caller, grant.member)
            and self._roles.has(grant.role, permission)
            and (grant.condition is None or grant.condition.holds(resource))
        )

    def _is(self, caller: str, member: str) -> bool:
        kind, _, _ = member.partition(":")
        if kind in _CONVENIENCE:
            basic = f"roles/{kind.removeprefix('project').lower()}"
            return Grant(f"projects/{self.project}", basic, caller) in self._grants[f"projects/{self.project}"]
        return member in {caller, "allUsers", "allAuthenticatedUsers"}

    # --- policies --------------------------------------------------------------------------------------------

    def policy(self, resource: str) -> dict[str, Any]:
        """google.iam.v1.Policy of a resource, as JSON; without a grant it is empty, as Google's is."""
        with self._lock:
            grants = list(self._grants.get(resource, ()))
        if resource.startswith("buckets/"):
            grants += self._convenience(resource)
        members: dict[tuple[str, Condition | None], list[str]] = {}
        for grant in sorted(grants, key=lambda each: (each.role, repr(each.condition), each.member)):
            members.setdefault((grant.role, grant.condition), []).append(grant.member)
        bindings = [
            {
                "role": role,
                "members": each,
                **({"condition": {"title": found.title, "expression": found.expression}} if found else {}),
            }
            for (role, found), each in members.items()
        ]
        has_condition = any(found for _, found in members)
        return {"version": 3 if has_condition else 1, "etag": self.etag(resource), "bindings": bindings}

    def etag(self, resource: str) -> str:
        """What changes with every change of a policy, in the form that its API gives it."""
        with self._lock:
            changes = self._changes[resource]
        if resource.startswith("buckets/"):  # a message of one number, which begins with 1
            return base64.b64encode(bytes([8]) + _varint(changes + 1)).decode()
        return base64.b64encode(b"\x07\x06" + changes.to_bytes(6, "big")).decode()

    def set_policy(self, resource: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Replace a policy by another, as it is answered then.

        Raises StalePolicy if the document's etag is an older one, ValueError for a role or a condition that is not
        known here.
        """
        wanted = set()
        for binding in document.get("bindings") or ():
            self._roles.require(binding["role"])
            condition = Condition.read(binding["condition"]) if binding.get("condition") else None
            wanted |= {Grant(resource, binding["role"], each, condition) for each in binding.get("members") or ()}
        given = document.get("etag")
        if given and given != self.etag(resource):
            raise StalePolicy(resource)
        with self._lock:
            self._changes[resource] += 1
            # A bucket's convenience values are always there.
            wanted -= set(self._convenience(resource))
            self._spread(wanted - self._grants[resource])
            self._grants[resource] = wanted
        return self.policy(resource)

    def grant(self, grant: Grant) -> None:
        """Raises BindingsError for a role that is not known here."""
        self._roles.require(grant.role)
        with self._lock:
            self._changes[grant.resource] += 1
            self._spread({grant} - self._grants[grant.resource])
            self._grants[grant.resource].add(grant)

    def _spread(self, grants: Iterable[Grant]) -> None:
        """Let grants count later, if they are to."""
        if self.grants_count_after:
            self._counts_from |= dict.fromkeys(grants, time.monotonic() + self.grants_count_after)

    def revoke(self, resource: str, role: str, member: str) -> list[Grant]:
        """Take a role away, with every condition; returns what was taken."""
        with self._lock:
            there = self._grants.get(resource, set())
            taken = [each for each in there if (each.role, each.member) == (role, member)]
            there.difference_update(taken)
            self._changes[resource] += len(taken)
        return taken


def _varint(value: int) -> bytes:
    """As protocol buffers write a number."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def agent(product: str) -> str:
    """`serviceAccount:…` of one of Google's own accounts: `Pub/Sub`, `Cloud Storage`, `gcp-sa-aiplatform`, …"""
    email = AGENTS.get(product) or f"service-{PROJECT_NUMBER}@{product}.iam.gserviceaccount.com"
    return f"serviceAccount:{email}"


def _is_of(resource: str, project: str) -> bool:
    """Whether a resource is of this project; of a bucket its name does not tell, and all that are there are."""
    return not resource.startswith("projects/") or resource.split("/")[1] in {"_", project}


def _policy_holder(resource: str) -> str:
    """The resource whose policy says who may do something with this one: of an object that is its bucket."""
    if resource.startswith("projects/_/buckets/"):
        return f"buckets/{resource.split('/')[3]}"
    return resource
