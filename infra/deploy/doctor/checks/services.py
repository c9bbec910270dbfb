"""Eventarc triggers, and the Cloud Run services that events are delivered to."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from doctor.examination import Check, Look
from doctor.findings import Finding, Place
from doctor.reads import NotThere
from dualdeploy import settings
from dualdeploy.http.callers import names_audience

#: Cloud Run is at work on a revision; it ends one way or the other.
_UNDER_WAY = ("CONDITION_PENDING", "CONDITION_RECONCILING")


def checks(look: Look) -> Iterator[Check]:
    for trigger in look.chain.triggers():
        yield _trigger(look, trigger)
    for service in look.chain.services:
        yield _service(look, service)
    for service in look.chain.web_services:
        yield _web_service(look, service)


# Triggers ------------------------------------------------------------------------------------------------------


def _trigger(look: Look, trigger: Mapping[str, Any]) -> Check:
    chain, name = look.chain, trigger["name"]
    follows = f"events of gs://{trigger['bucket']} do not reach {trigger['service']}"
    path = f"/v1/projects/{chain.project}/locations/{chain.region}/triggers/{name}"

    def ask() -> Iterator[Finding]:
        found = look.google.get("eventarc", path, needs="eventarc.triggers.get")
        wrong = [
            *_differs(_filters(found), {"type": trigger["event"], "bucket": trigger["bucket"]}),
            *_differs(
                found.get("destination", {}).get("cloudRun", {}),
                {"service": chain.host(trigger["service"]), "path": trigger["path"], "region": chain.region},
            ),
            *_differs(found, {"serviceAccount": chain.caller(trigger["service"])}),
            *_without_transport(look, found),
            *(f"Google says of {what}: {each.get('message')}" for what, each in found.get("conditions", {}).items()),
        ]
        if wrong:
            yield check.broken(f"{follows}: {'; '.join(wrong)}")
        else:
            yield check.ok(f"gs://{trigger['bucket']} → {trigger['service']}")

    missing = f"{follows}: the trigger {name} is missing. What arrived meanwhile is not announced again"
    check = Check(Place.TRIGGER, name, ask, missing=missing, remedy=chain.deploy)
    return check


def _without_transport(look: Look, found: Mapping[str, Any]) -> Iterator[str]:
    """Eventarc delivers through a subscription of its own, which people take for a leftover."""
    subscription = found.get("transport", {}).get("pubsub", {}).get("subscription", "")
    if subscription:
        try:
            look.google.subscription(subscription)
        except NotThere:
            name = subscription.rsplit("/", 1)[-1]
            yield f"its subscription {name} was deleted: delete the trigger too, so that it is created again"


def _filters(trigger: Mapping[str, Any]) -> Mapping[str, str]:
    return {each["attribute"]: each["value"] for each in trigger.get("eventFilters", [])}


def _differs(found: Mapping[str, Any], wanted: Mapping[str, str]) -> Iterator[str]:
    for key, value in wanted.items():
        there = str(found.get(key, ""))
        # An account can be named by its resource, of which the address is the end.
        if there.rsplit("/", 1)[-1] != value and there != value:
            yield f"its {key} is {there or 'missing'}, not {value}"


# Services ------------------------------------------------------------------------------------------------------


def running(look: Look, service: str) -> Mapping[str, Any]:
    """The Cloud Run service behind a service of the topology; a function has one too. Raises NotThere, CouldNotLook."""
    chain = look.chain
    path = f"/v2/projects/{chain.project}/locations/{chain.region}/services/{chain.host(service)}"
    return look.google.get("run", path, needs="run.services.get")


def addresses(found: Mapping[str, Any]) -> list[str]:
    """Every address that Cloud Run knows the service by."""
    return list(dict.fromkeys([found.get("uri", ""), *found.get("urls", [])]))


def variables(found: Mapping[str, Any]) -> Mapping[str, str]:
    """What is set on a service. One that comes from a secret has no value here."""
    containers = found.get("template", {}).get("containers") or [{}]
    return {each["name"]: each.get("value", "") for each in containers[0].get("env", [])}


def _service(look: Look, service: str) -> Check:
    chain, host = look.chain, look.chain.host(service)
    alone = f"make deploy SERVICE={service} PROJECT={chain.project}"
    logs = f"gcloud run services logs read {host} --region={chain.region} --project={chain.project} --limit=50"

    def ask() -> Iterator[Finding]:
        found = running(look, service)
        ready = found.get("terminalCondition", {})
        newest, serving = (_revision(found, key) for key in ("latestCreatedRevision", "latestReadyRevision"))
        problems = list(_wrong(look, service, found))
        is_ready = ready.get("state") == "CONDITION_SUCCEEDED"
        if ready.get("state") in _UNDER_WAY:
            yield check.warning(f"a new revision {newest} is being started: {_said(ready)}", "look again in a minute")
        elif newest != serving and serving:
            says = f"its newest revision {newest} failed, and {serving} goes on serving: {_said(ready)}"
            yield check.warning(says, f"{logs}   then: {alone}")
        elif not is_ready:
            says = f"it is not ready, so its events wait, and become dead letters in the end: {_said(ready)}"
            yield check.broken(says, f"{logs}   then: {alone}")
        if problems:
            yield check.broken("; ".join(problems), chain.deploy)
        elif newest == serving and is_ready:
            yield check.ok(f"ready, as {serving or newest}")

    missing = f"the Cloud Run service {host} is missing: the events of {service} wait for a week, and are then lost"
    check = Check(Place.SERVICE, service, ask, missing=missing, remedy=chain.deploy)
    return check


def _web_service(look: Look, service: str) -> Check:
    """A service that a project may do without; where it is, it is ready, and has what it reads."""
    chain, host = look.chain, look.chain.host(service)
    logs = f"gcloud run services logs read {host} --region={chain.region} --project={chain.project} --limit=50"

    def ask() -> Iterator[Finding]:
        try:
            found = running(look, service)
        except NotThere:
            yield check.ok("off, and no event needs it")
            return
        ready, given = found.get("terminalCondition", {}), variables(found)
        needed = {name for name, is_required in settings.variables(_settings(service)).items() if is_required}
        account = found.get("template", {}).get("serviceAccount", "")
        if ready.get("state") != "CONDITION_SUCCEEDED":
            yield check.warning(f"it is not ready, and nothing else needs it: {_said(ready)}", logs)
        elif missing := sorted(name for name in needed if name not in given):
            yield check.warning(f"{', '.join(missing)} not set: it cannot start a new instance", chain.deploy)
        elif account != (wanted := chain.account(host)):
            yield check.warning(f"it runs as {account or 'nobody named'}, not as {wanted}", chain.deploy)
        else:
            yield check.ok("ready")

    check = Check(Place.SERVICE, service, ask)
    return check


def _revision(found: Mapping[str, Any], key: str) -> str:
    return str(found.get(key, "")).rsplit("/", 1)[-1]


def _said(condition: Mapping[str, Any]) -> str:
    words = condition.get("message") or condition.get("reason") or condition.get("state") or "Cloud Run says nothing"
    return " ".join(str(words).split())[:300]


def _wrong(look: Look, service: str, found: Mapping[str, Any]) -> Iterator[str]:
    """What is not as Terraform sets it, each with what follows."""
    chain, given = look.chain, variables(found)
    account = found.get("template", {}).get("serviceAccount", "")
    if account != (wanted := chain.account(chain.host(service))):
        yield f"it runs as {account or 'nobody named'}, not as {wanted}, and may not do what it has to"
    kind = _settings(service)
    needed = {name for name, is_required in settings.variables(kind).items() if is_required}
    if missing := sorted(name for name in needed if name not in given):
        yield f"{', '.join(missing)} not set: it cannot start a new instance"
    for name, value in _named(look, kind).items():
        if name in given and given[name] != value:
            yield f"{name} is {given[name]}, not {value}"
    yield from _door(look, service, found, given)


def _door(look: Look, service: str, found: Mapping[str, Any], given: Mapping[str, str]) -> Iterator[str]:
    """Whether the service takes the events that are delivered to it."""
    caller = look.chain.caller(service)
    uri = str(found.get("uri", ""))
    if "PUSH_AUDIENCES" in given and not names_audience(given["PUSH_AUDIENCES"], uri):
        yield f"PUSH_AUDIENCES does not include its address {uri}: it refuses every event with 401"
    senders = [each.strip() for each in given.get("PUSH_SERVICE_ACCOUNTS", caller).split(",")]
    if caller not in senders:
        yield f"PUSH_SERVICE_ACCOUNTS does not include {caller}: it refuses every event with 403"
    if uri.endswith(".run.app") and given.get("CLOUD_RUN_CHECKS_TOKENS") != "true":
        # Cloud Run takes the signature of the tokens that it has checked.
        yield "CLOUD_RUN_CHECKS_TOKENS is not true: it refuses every event with 401"


def _named(look: Look, kind: type[Any]) -> Mapping[str, str]:
    """The variables whose values the topology says, of those that a service reads."""
    said = {f"{key.upper()}_BUCKET": bucket["name"] for key, bucket in look.chain.buckets.items()}
    said |= {"GOOGLE_CLOUD_PROJECT": look.chain.project, "GOOGLE_CLOUD_REGION": look.chain.region}
    return {name: value for name, value in said.items() if name in settings.variables(kind)}


def _settings(service: str) -> type[Any]:
    """The class that says what a service reads."""
    module = importlib.import_module(f"{service}.settings")
    for each in vars(module).values():
        if isinstance(each, type) and each.__module__ == module.__name__:
            return each
    raise TypeError(f"{service}.settings has no class of settings")
