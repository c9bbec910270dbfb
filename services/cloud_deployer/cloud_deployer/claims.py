"""Which data set holds an endpoint: one object for each, changed by compare-and-swap before the endpoint is touched.

    absent ─► held by flowers ─► its configuration is gone, or names another endpoint, and that is where it serves
                 ▲                        │    └─► ten minutes later, and nothing under way ─► held by blooms
                 └────────────────────────┘ configured again, or its release goes on
                 └─► retired, or the endpoint is deleted by the cleanup ─► absent

Someone who wants an endpoint is told who holds it and since when.
"""

from __future__ import annotations

import datetime
import logging

from cloud_deployer.release import TARGET, CloudServing
from dualdeploy import clock as clocks
from dualdeploy.errors import CannotEverSucceed, UnknownDataset
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.ledger import Claim, Ledger, UnreadableDocument, Versioned, names

log = logging.getLogger(__name__)

#: So long a holder without a configuration keeps its endpoint from whoever wants it: a file may be replaced by
#: deleting it first.
GRACE = datetime.timedelta(minutes=10)

#: A deletion that was begun longer ago is over, or was given up without a word.
DELETION_LIMIT = datetime.timedelta(hours=2)


class EndpointTaken(CannotEverSucceed):
    """Another data set holds the endpoint: its users must not get answers of this one's model."""


def claim_endpoint(ledger: Ledger, config: ObjectStore, endpoint_id: str, dataset: str) -> str:
    """Hold the endpoint for `dataset`. Returns what it waits for, empty once it is held. Raises EndpointTaken."""
    waits_for = ""
    now = clocks.to_text(ledger.clock())

    def decide(present: Claim | None) -> Claim:
        nonlocal waits_for
        waits_for = ""
        if present is None:
            return Claim(dataset=dataset, since=now)
        if _is_being_deleted(present, ledger.clock()):
            waits_for = f"the cleanup, which deletes endpoint {endpoint_id} since {present.deleting_since}"
            return present
        if present.dataset == dataset:
            return present.changed(unconfigured_since="", deleting_since="")
        leaves = _why_it_leaves(ledger, config, present, endpoint_id, dataset)
        since = present.unconfigured_since or now
        waits_for = _waits_for(ledger, present, endpoint_id, leaves, clocks.from_text(since))
        if waits_for:
            return present.changed(unconfigured_since=since)
        log.warning("endpoint %s passes from %s, which %s, to %s", endpoint_id, present.dataset, leaves, dataset)
        formerly = (*(each for each in present.formerly if each != dataset), present.dataset)
        return Claim(dataset=dataset, since=now, formerly=formerly)

    ledger.update(names.endpoint_claim(endpoint_id), Claim, decide)
    return waits_for


def _is_being_deleted(claim: Claim, now: datetime.datetime) -> bool:
    return bool(claim.deleting_since) and now < clocks.from_text(claim.deleting_since) + DELETION_LIMIT


def _why_it_leaves(ledger: Ledger, config: ObjectStore, holder: Claim, endpoint_id: str, dataset: str) -> str:
    """Why the holder does not need the endpoint any more. Raises EndpointTaken if it does."""
    held = f"endpoint {endpoint_id} is held by data set {holder.dataset} since {holder.since}"
    try:
        wanted = config_bucket.read(config, holder.dataset).serving.endpoint
        found = ledger.find_serving(CloudServing, TARGET, holder.dataset)
    except UnknownDataset:
        return "has no configuration"
    except CannotEverSucceed:
        # What someone is about to mend counts as it stood.
        wanted, found = endpoint_id, None
    if wanted == endpoint_id:
        raise EndpointTaken(
            f"{held}: give {dataset} another serving.endpoint, or send {holder.dataset} to /retire first"
        )
    serving = found.document if found else None
    if serving and serving.current and serving.current.endpoint_id == endpoint_id and not serving.undeployed_at:
        raise EndpointTaken(
            f"{held}: its configuration names {wanted}, but {serving.current.run_id} still serves here: send"
            f" {holder.dataset} to /redeploy, then {dataset}"
        )
    return f"is configured for endpoint {wanted}"


def _waits_for(ledger: Ledger, holder: Claim, endpoint_id: str, leaves: str, since: datetime.datetime) -> str:
    """Why an endpoint that its holder does not need any more does not pass on yet."""
    held = f"endpoint {endpoint_id}, held by {holder.dataset} since {holder.since}, which {leaves}"
    until = since + GRACE
    if ledger.clock() < until:
        return f"{held}: it becomes free at {clocks.to_text(until)}{_sooner(holder, leaves)}"
    try:
        found = ledger.find_serving(CloudServing, TARGET, holder.dataset)
    except UnreadableDocument as exc:
        log.warning("what is under way of %s is not known: %s", holder.dataset, exc)
        return ""
    turn = found.document.under_way if found else None
    return f"{held} but has {turn.name} under way since {turn.since}: /abort stops it" if turn else ""


def _sooner(holder: Claim, leaves: str) -> str:
    # Of what serves elsewhere, /retire would take that down as well.
    return f", or at once when {holder.dataset} is sent to /retire" if leaves == "has no configuration" else ""


def holder_of(ledger: Ledger, endpoint_id: str) -> Versioned[Claim] | None:
    """The claim on an endpoint. Raises UnreadableDocument."""
    return ledger.find_claim(names.endpoint_claim(endpoint_id))


def held_by(ledger: Ledger, dataset: str) -> list[str]:
    """The ids of the endpoints that a data set holds; reads every claim, so it is for commands and the cleanup."""
    prefix = names.endpoint_claim("").removesuffix(".json")
    ids = [name.removeprefix(prefix).removesuffix(".json") for name in ledger.names(prefix)]
    held = []
    for endpoint_id in ids:
        try:
            found = holder_of(ledger, endpoint_id)
        except UnreadableDocument as exc:
            log.warning("%s", exc)
            continue
        if found and found.document.dataset == dataset:
            held.append(endpoint_id)
    return held


def free(ledger: Ledger, endpoint_id: str, dataset: str) -> bool:
    """Give an endpoint up; whether `dataset` does not hold it any more."""
    found = holder_of(ledger, endpoint_id)
    if found is None or found.document.dataset != dataset:
        return True
    return ledger.remove(names.endpoint_claim(endpoint_id), expect=found.generation)


def begin_deletion(ledger: Ledger, endpoint_id: str, dataset: str) -> bool:
    """Note that the cleanup deletes an endpoint, so that no one takes it over meanwhile; False if another holds it."""

    def decide(present: Claim | None) -> Claim:
        now = clocks.to_text(ledger.clock())
        if present is None:
            return Claim(dataset=dataset, since=now, deleting_since=now)
        return present.changed(deleting_since=now) if present.dataset == dataset else present

    claim = ledger.update(names.endpoint_claim(endpoint_id), Claim, decide)
    return claim is not None and claim.dataset == dataset


def end_deletion(ledger: Ledger, endpoint_id: str, dataset: str) -> None:
    """The endpoint could not be deleted: it stays the data set's."""

    def decide(present: Claim | None) -> Claim | None:
        return present.changed(deleting_since="") if present and present.dataset == dataset else present

    ledger.update(names.endpoint_claim(endpoint_id), Claim, decide)
