"""Where one target of a run stands: one line made of its training and its releases, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.ledger import names
from dualdeploy.ledger.documents import AnyState, Document, Ended, Launch, Moment, PlannedStep, Release
from dualdeploy.ledger.ledger import Ledger, UnreadableDocument
from dualdeploy.ledger.states import RELEASE_ENDS, TRAINING_ENDS, State


class Standing(Document):
    """`waits_for` says what has to happen before it goes on; empty when it is at an end. `release` counts its releases,
    `steps` are those of the last one. `facts` are what the last release found out."""

    run_id: str
    dataset: str
    target: str
    state: AnyState
    since: str
    reason: str = ""
    step: str = ""
    steps: tuple[PlannedStep, ...] = ()
    waits_for: str = ""
    job: str = ""
    attempt: int = 0
    operation: str = ""
    release: int = 0
    history: tuple[Moment, ...] = ()
    facts: Mapping[str, Any] = {}

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is under way: its training failed, or its last release is over."""
        ends = RELEASE_ENDS if self.release else TRAINING_ENDS - {State.TRAINED}
        return self.state in ends


def standing(ledger: Ledger, run_id: str, target: str) -> Standing:
    """Reads three or four objects and lists the releases of the run. Raises UnknownRun.

    A document that cannot be read is said, not failed on: it is just when something is wrong that people look.
    """
    launch = _launch(ledger, run_id, target)
    ended = _ended(ledger, launch)
    n = ledger.newest_release_number(run_id, target)
    if n == 0:
        return _of_training(launch, ended, ledger)
    try:
        found = ledger.find_release(Release, run_id, target, n)
    except UnreadableDocument as exc:
        training = _of_training(launch, ended, ledger)
        return training.changed(
            state="unreadable", release=n, reason=str(exc), waits_for="someone to mend it; /abort ends it"
        )
    training = _of_training(launch, ended, ledger)
    return _of_release(found.document, training) if found else training


def _launch(ledger: Ledger, run_id: str, target: str) -> Launch:
    """The training; of a run that was only claimed, one that has not begun."""
    dataset = names.dataset_of(run_id)
    try:
        found = ledger.find(names.launch(run_id, target), Launch)
    except UnreadableDocument as exc:
        return Launch(run_id=run_id, dataset=dataset, target=target, state="unreadable", since="", reason=str(exc))
    if found:
        return found.document
    claimed_at = ledger.read_run(run_id).created_at
    return Launch(run_id=run_id, dataset=dataset, target=target, state=State.PENDING, since=claimed_at)


def _ended(ledger: Ledger, launch: Launch) -> Ended | None:
    if not launch.attempt:
        return None
    try:
        found = ledger.find_ended(launch.run_id, launch.target, launch.attempt)
    except UnreadableDocument:
        return None
    return found.document if found else None


def _of_training(launch: Launch, ended: Ended | None, ledger: Ledger) -> Standing:
    state, since, reason = launch.state, launch.since, launch.reason
    history = launch.history
    if ended and state == State.TRAINING and ended.outcome != "no_capacity":
        # The launcher writes the same a moment later.
        state = State.TRAINED if ended.outcome == "succeeded" else State.FAILED
        since, reason = ended.at, ended.reason
        history = (*history, Moment(at=since, state=state, note=reason))
    return Standing(
        run_id=launch.run_id,
        dataset=launch.dataset,
        target=launch.target,
        state=state,
        since=since,
        reason=reason,
        waits_for=_training_waits_for(launch, state, now=clocks.to_text(ledger.clock())),
        job=launch.job,
        attempt=launch.attempt,
        history=history,
        facts=_facts_of_training(ended),
    )


def _training_waits_for(launch: Launch, state: str, *, now: str) -> str:
    if state == State.TRAINED:
        return "its release to begin"
    if state in TRAINING_ENDS:
        return ""
    if launch.holdup:
        place = f" as {launch.placement.describe()}" if launch.placement else ""
        asked = f"; asked again at {launch.retry_at}{place}" if launch.retry_at else ""
        return f"{launch.holdup.what}, since {launch.holdup.since}{asked}"
    if state == "unreadable":
        return "someone to mend it"
    return _job_waits_for(launch, now=now) if state == State.TRAINING else "the next tick"


def _job_waits_for(launch: Launch, *, now: str) -> str:
    job = f"training job {launch.job}" + (f", {launch.placement.describe()}" if launch.placement else "")
    if launch.called_off or launch.passed_over:
        return f"the end of {job}, which is cancelled: {launch.called_off or launch.passed_over}"
    # Whether it has begun, only Vertex AI knows.
    return job + (f"; cancelled if it has no machine by {launch.queued_until}" if now < launch.queued_until else "")


def _facts_of_training(ended: Ended | None) -> dict[str, Any]:
    if ended is None:
        return {}
    known = {
        "accuracy": ended.accuracy,
        "eval_examples": ended.eval_examples,
        "result": ended.result or None,
        "training_seconds": ended.seconds,
        "cost_usd": ended.cost_usd,
    }
    return {key: value for key, value in known.items() if value is not None}


def _of_release(release: Release, training: Standing) -> Standing:
    fields = set(Release.model_fields)
    facts = {key: value for key, value in release.model_dump(mode="json").items() if key not in fields}
    return training.changed(
        state=release.state,
        since=release.since,
        reason=release.reason,
        step=release.step,
        steps=release.steps,
        waits_for=_release_waits_for(release),
        operation=release.operation,
        release=release.n,
        history=(*training.history, *release.history),
        facts={**training.facts, **facts},
    )


def _release_waits_for(release: Release) -> str:
    if release.is_over:
        return ""
    doing = next((step.says for step in release.steps if step.name == release.step), "")
    if release.holdup is None:
        return doing or "the next tick"
    wait = release.holdup
    until = f", until {release.look_at}" if release.look_at else f", until {wait.until} at most" if wait.until else ""
    return f"{wait.what}, since {wait.since}{until}"
