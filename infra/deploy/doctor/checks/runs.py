"""Runs that do not move, and events that were refused."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Mapping

from doctor.examination import Check, Look
from doctor.findings import Finding, Place, State
from doctor.store import ReadOnlyStore
from dualdeploy import clock as clocks
from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import Ledger
from dualdeploy.ledger import State as RunState
from dualdeploy.ledger.due import Due
from dualdeploy.ledger.standing import Standing, standing

_HOUR = datetime.timedelta(hours=1)
#: How long a target of a run may be in a state before someone should look, with all the repetitions that the code
#: itself makes. A canary is not among them: how long it bakes is up to the data set.
_LONGEST: Mapping[RunState, datetime.timedelta] = {
    RunState.PENDING: 25 * _HOUR,
    RunState.LAUNCHING: 25 * _HOUR,
    RunState.TRAINING: 26 * _HOUR,
    RunState.TRAINED: 2 * _HOUR,
    RunState.GATING: 3 * _HOUR,
    RunState.DEPLOYING: 3 * _HOUR,
}
_RECENT = datetime.timedelta(days=1)

#: Kinds of due work that belong to a run, and the service that has each.
_OF_A_RUN = (("training_launcher", "launch"), ("cloud_deployer", "release"), ("mobile_publisher", "release"))


def checks(look: Look) -> Iterator[Check]:
    bucket = look.chain.bucket("ledger")
    missing = f"gs://{bucket} is missing: no run is known"
    under_way = Check(Place.RUN, "under way", lambda: _under_way(look, under_way), missing, look.chain.deploy)
    yield under_way
    refused = Check(Place.RUN, "refused events", lambda: _refused(look, refused), missing, look.chain.deploy)
    yield refused


def _under_way(look: Look, check: Check) -> Iterator[Finding]:
    ledger = Ledger(ReadOnlyStore(look.google, look.chain.bucket("ledger")))
    run_ids = sorted({run_id for service, kind in _OF_A_RUN for run_id in _due(ledger, service, kind)})
    count = 0
    for run_id, target in itertools.product(run_ids, TARGETS):
        try:
            found = standing(ledger, run_id, target)
        except CannotEverSucceed as exc:
            yield check.warning(f"{run_id}/{target} is under way and cannot be read: {exc}", _run(look, run_id))
            continue
        count += not found.is_over
        yield from _judged(look, found)
    yield check.ok(f"{count} releases and trainings are under way" if count else "no run is under way")


def _due(ledger: Ledger, service: str, kind: str) -> Iterator[str]:
    """The runs that a service has yet to look at."""
    for key in Due(service, ledger).all_keys():
        found, _, what = key.partition("/")
        if found == kind:
            yield what.partition("/")[0]


def _judged(look: Look, found: Standing) -> Iterator[Finding]:
    about = f"{found.run_id}/{found.target}"
    if found.is_over:
        return
    if found.state in (RunState.PENDING, RunState.LAUNCHING) and "asked again" in found.waits_for:
        yield Finding(Place.QUOTA, about, State.WARNING, f"waits for {found.waits_for}", _run(look, found.run_id))
        return
    stood = look.now - clocks.from_text(found.since)
    longest = next((limit for state, limit in _LONGEST.items() if state == found.state), None)
    if longest and stood > longest:
        hours = int(stood / _HOUR)
        says = f"is {found.state} for {hours} hours: a tick should have moved it, or given it up"
        yield Finding(Place.RUN, about, State.WARNING, says, _run(look, found.run_id))


def _run(look: Look, run_id: str) -> str:
    return f"make run ID={run_id} PROJECT={look.chain.project}"


def _refused(look: Look, check: Check) -> Iterator[Finding]:
    bucket = look.chain.bucket("ledger")
    store = ReadOnlyStore(look.google, bucket)
    recent = [each.name for each in store.list("rejected/") if look.now - each.updated < _RECENT]
    if recent:
        says = f"{len(recent)} events were refused for good within a day; each object says why"
        yield check.warning(says, f"gcloud storage cat gs://{bucket}/{recent[-1]}")
    else:
        yield check.ok("none within a day")
