"""Runs that do not move, and events that were refused."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping

from doctor.examination import Check, Look
from doctor.findings import Finding, Place, State
from doctor.store import ReadOnlyStore
from dualdeploy import clock as clocks
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import Branch, Ledger
from dualdeploy.ledger import State as BranchState
from dualdeploy.training import TARGETS

_HOUR = datetime.timedelta(hours=1)
#: How long a branch may be in a state before somebody should look, with all the repetitions that the code itself makes.
#: A canary is not among them: how long it bakes is up to the data set.
_LONGEST: Mapping[BranchState, datetime.timedelta] = {
    BranchState.PENDING: 25 * _HOUR,
    BranchState.LAUNCHING: 25 * _HOUR,
    BranchState.TRAINING: 26 * _HOUR,
    BranchState.TRAINED: 2 * _HOUR,
    BranchState.GATING: 3 * _HOUR,
    BranchState.DEPLOYING: 3 * _HOUR,
}
_RECENT = datetime.timedelta(days=1)


def checks(look: Look) -> Iterator[Check]:
    bucket = look.chain.bucket("ledger")
    missing = f"gs://{bucket} is missing: nobody knows of any run"
    under_way = Check(Place.RUN, "under way", lambda: _under_way(look, under_way), missing, look.chain.deploy)
    yield under_way
    refused = Check(Place.RUN, "refused events", lambda: _refused(look, refused), missing, look.chain.deploy)
    yield refused


def _under_way(look: Look, check: Check) -> Iterator[Finding]:
    ledger = Ledger(ReadOnlyStore(look.google, look.chain.bucket("ledger")))
    active = [(run_id, target) for target in TARGETS for run_id in ledger.active(target)]
    for run_id, target in active:
        try:
            branch = ledger.read_branch(run_id, target).document
        except CannotEverSucceed as exc:
            yield check.warning(
                f"{run_id}/{target} is marked as under way and cannot be read: {exc}", _run(look, run_id)
            )
            continue
        yield from _judged(look, branch)
    if not any(True for _ in active):
        yield check.ok("no run is under way")
    else:
        yield check.ok(f"{len(active)} branches are under way")


def _judged(look: Look, branch: Branch) -> Iterator[Finding]:
    about = f"{branch.run_id}/{branch.target}"
    if branch.is_final:
        return
    if branch.retry_at:
        says = f"waits for quota or capacity of Vertex AI since {branch.waiting_since}, and is asked for again"
        yield Finding(Place.QUOTA, about, State.WARNING, says, _run(look, branch.run_id))
        return
    stood = look.now - clocks.from_text(branch.since)
    longest = _LONGEST.get(branch.state)
    if longest and stood > longest:
        hours = int(stood / _HOUR)
        says = f"is {branch.state} for {hours} hours: the clock should have moved it, or given it up"
        yield Finding(Place.RUN, about, State.WARNING, says, _run(look, branch.run_id))


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
