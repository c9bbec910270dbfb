"""Accounts, and what they may do: every line of infra/bindings.json, which a test compares with Terraform's plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from doctor.chain import NOT_IN_THE_CHAIN, Chain
from doctor.checks import optional
from doctor.examination import Check, Look
from doctor.findings import Finding, Hint, Place
from doctor.reads import NotThere

#: People whom a variable of Terraform names; without them nothing of the chain stands still.
_OPERATOR = "an operator"


@dataclasses.dataclass(frozen=True)
class Grant:
    """A line: `account` and `on` in the file's words, `why` what the account does with the role.

    `objects` and `lists` are its condition: objects by the beginnings of their names, and the bucket itself. `variable`
    of Terraform turns it on; empty for what every data set needs.
    """

    account: str
    role: str
    on: str
    why: str
    objects: tuple[str, ...] = ()
    lists: bool = False
    variable: str = ""


@dataclasses.dataclass(frozen=True)
class Binding:
    """A role of some members, with the text of its condition; what REST and gRPC both make of one."""

    role: str
    members: Sequence[str]
    condition: str


def grants(bindings: Mapping[str, Any]) -> list[Grant]:
    """Every grant that the chain needs."""
    rows = [row for section in bindings["bindings"].values() for row in section]
    return [
        Grant(
            row["account"],
            row["role"],
            row["on"],
            row["why"],
            tuple(row.get("objects", ())),
            row.get("lists", False),
            row.get("variable", ""),
        )
        for row in rows
        if row["account"] not in {_OPERATOR, *NOT_IN_THE_CHAIN}
    ]


def checks(look: Look) -> Iterator[Check]:
    for email, purpose in look.chain.accounts():
        yield _account(look, email, purpose)
    by_place: dict[str, list[Grant]] = {}
    for grant in grants(look.bindings):
        for place in _places(look.chain, grant.on):
            by_place.setdefault(place, []).append(grant)
    for place, there in by_place.items():
        yield _policy(look, place, there)


def _account(look: Look, email: str, purpose: str) -> Check:
    project = look.chain.project

    def ask() -> Iterator[Finding]:
        path = f"/v1/projects/{project}/serviceAccounts/{email}"
        found = look.google.get("iam", path, needs="iam.serviceAccounts.get")
        if found.get("disabled"):
            says = f"{email} is disabled; {purpose}, and every call of it is refused"
            yield check.broken(says, f"gcloud iam service-accounts enable {email} --project={project}")
        else:
            yield check.ok(purpose)

    missing = f"the service account is missing; {purpose}, and cannot"
    check = Check(Place.IDENTITY, email, ask, missing=missing, remedy=look.chain.deploy)
    return check


def _places(chain: Chain, on: str) -> Iterator[str]:
    """The file's words for places, each with what they stand for one by one: `topic x`, `bucket x`, `project`."""
    if on == "its subscriptions":
        for name, each in chain.subscriptions.items():
            if "dead_letter_policy" in each:
                yield f"subscription {name}"
    else:
        yield on


def _policy(look: Look, place: str, wanted: Sequence[Grant]) -> Check:
    def ask() -> Iterator[Finding]:
        try:
            there = _bindings(look, place)
        except NotThere:
            return  # and its own check says so
        missing = [(grant, member) for grant in wanted if (member := _lacking(look, there, grant))]
        missing = [(grant, member) for grant, member in missing if optional.is_needed(look, grant.variable)]
        for grant, member in missing:
            hint = _hint(look, place, grant)
            says = f"{grant.account} lacks {grant.role}, so this does not work: {grant.why}"
            found = check.broken(says, _remedy(look, place, grant, member))
            yield dataclasses.replace(found, hint=hint, only_a_hint=hint is not None)
        if not missing:
            yield check.ok(f"{len(wanted)} role{'s' * (len(wanted) > 1)} as docs/permissions.md says")

    check = Check(Place.IDENTITY, place, ask)
    return check


def _lacking(look: Look, there: Sequence[Binding], grant: Grant) -> str:
    """The member that should have the role and has not; nothing when it has it, or when there is no such member."""
    try:
        member = f"serviceAccount:{_email(look, grant.account)}"
    except NotThere:
        return ""
    return "" if any(_gives(each, grant, look.chain, member) for each in there) else member


def _hint(look: Look, place: str, grant: Grant) -> Hint | None:
    if grant.role == "roles/pubsub.publisher" and place.startswith("topic "):
        hint = look.chain.hint_of_topic(place.removeprefix("topic "))
        return hint if hint is not Hint.CLOCK else None
    return None


def _email(look: Look, account: str) -> str:
    """Raises NotThere for the writer of a sink that is missing."""
    if account == "Cloud Logging":
        return _writer(look)
    agents = {"Pub/Sub": "gcp-sa-pubsub", "Cloud Storage": "gs-project-accounts"}
    if account in agents:
        number = look.google.get(
            "cloudresourcemanager", f"/v1/projects/{look.chain.project}", needs="resourcemanager.projects.get"
        )["projectNumber"]
        return f"service-{number}@{agents[account]}.iam.gserviceaccount.com"
    return look.chain.account(account)


def _writer(look: Look) -> str:
    """Whom Cloud Logging writes as; the sink says."""
    (name,) = look.chain.topology["log_sinks"]
    path = f"/v2/projects/{look.chain.project}/sinks/dualdeploy-{name}"
    sink = look.google.get("logging", path, needs="logging.sinks.get")
    return str(sink.get("writerIdentity", "")).removeprefix("serviceAccount:")


def _gives(binding: Binding, grant: Grant, chain: Chain, member: str) -> bool:
    role = grant.role if grant.role.startswith("roles/") else f"projects/{chain.project}/roles/{grant.role}"
    if binding.role != role or member not in binding.members:
        return False
    if not binding.condition:
        return True
    bucket = f'resource.name == "projects/_/buckets/{chain.project}-{grant.on.removeprefix("bucket ")}"'
    wanted = [f'/objects/{prefix}"' for prefix in grant.objects] + [bucket] * grant.lists
    return all(each in binding.condition for each in wanted)


def _bindings(look: Look, place: str) -> list[Binding]:
    """What is granted at a place, and on the project as a whole: a role there is a role here too."""
    own = _own_bindings(look, place)
    project = look.google.policy(
        "cloudresourcemanager", f"/v1/projects/{look.chain.project}", needs="resourcemanager.projects.getIamPolicy"
    )
    return [*map(_of_json, project.get("bindings", [])), *own]


def _own_bindings(look: Look, place: str) -> list[Binding]:
    chain, (kind, _, name) = look.chain, place.partition(" ")
    if kind == "project":
        return []
    if kind in ("topic", "subscription"):
        path = chain.topic_path(name) if kind == "topic" else chain.subscription_path(name)
        policy = look.google.pubsub_policy(path)
        return [Binding(each.role, list(each.members), each.condition.expression) for each in policy.bindings]
    if kind == "bucket":
        document = look.google.get(
            "storage",
            f"/storage/v1/b/{chain.project}-{name}/iam",
            needs="storage.buckets.getIamPolicy",
            optionsRequestedPolicyVersion=3,
        )
    elif kind == "service":
        path = f"/v2/projects/{chain.project}/locations/{chain.region}/services/{name}:getIamPolicy"
        document = look.google.get("run", path, needs="run.services.getIamPolicy")
    else:
        path = f"/v1/projects/{chain.project}/serviceAccounts/{chain.account(name)}"
        document = look.google.policy("iam", path, needs="iam.serviceAccounts.getIamPolicy")
    return [_of_json(each) for each in document.get("bindings", [])]


def _of_json(binding: Mapping[str, Any]) -> Binding:
    return Binding(binding["role"], binding.get("members", []), str(binding.get("condition", {}).get("expression", "")))


def _remedy(look: Look, place: str, grant: Grant, member: str) -> str:
    """The command that grants one role; what holds for some objects only is granted by Terraform."""
    chain, (kind, _, name) = look.chain, place.partition(" ")
    if grant.objects or not grant.role.startswith("roles/"):
        return chain.deploy
    bind, project = f"--member={member} --role={grant.role}", f"--project={chain.project}"
    commands = {
        "topic": f"gcloud pubsub topics add-iam-policy-binding {name} {bind} {project}",
        "subscription": f"gcloud pubsub subscriptions add-iam-policy-binding {name} {bind} {project}",
        "bucket": f"gcloud storage buckets add-iam-policy-binding gs://{chain.project}-{name} {bind}",
        "service": f"gcloud run services add-iam-policy-binding {name} {bind} --region={chain.region} {project}",
        "account": f"gcloud iam service-accounts add-iam-policy-binding {chain.account(name)} {bind} {project}",
        "project": f"gcloud projects add-iam-policy-binding {chain.project} {bind} --condition=None",
    }
    return commands[kind]
