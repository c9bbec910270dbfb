"""What was found: a place in the chain, how it stands there, a sentence about it, and what mends it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Sequence


class State(enum.StrEnum):
    """How a part stands. WARNING: the chain works, and somebody should do something; UNSEEN: nobody could look."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"
    UNSEEN = "could not look"


class Place(enum.StrEnum):
    """The chain, in its order."""

    PROJECT = "project"
    BUCKET = "bucket"
    TRIGGER = "trigger"
    SERVICE = "service"
    TOPIC = "topic"
    SUBSCRIPTION = "subscription"
    CLOCK = "clock"
    IDENTITY = "identity"
    QUOTA = "quota"
    HINT = "hint"
    RUN = "run"
    IMAGE = "image"
    FIREBASE = "firebase ml"


class Hint(enum.StrEnum):
    """How job_notifier hears that a training job may have ended: any one of them is enough."""

    RESULT = "the result object's notification"
    LOG = "the job's log line"
    CLOCK = "the clock"


@dataclasses.dataclass(frozen=True)
class Finding:
    """`about` is the name of the thing, `says` a sentence with what follows from it, `remedy` a command.

    `hint` is the completion hint that runs through the thing; with `only_a_hint` nothing else does.
    """

    place: Place
    about: str
    state: State
    says: str
    remedy: str = ""
    hint: Hint | None = None
    only_a_hint: bool = False


def weigh_hints(findings: Sequence[Finding]) -> list[Finding]:
    """Break no chain for a hint while another one works, and say of each hint whether it does.

    What is only part of a hint becomes a warning as long as another hint works.
    """
    hurt = {each.hint: each for each in findings if each.hint and each.state is State.BROKEN}
    unseen = {each.hint: each for each in findings if each.hint and each.state is State.UNSEEN}
    working = [hint for hint in Hint if hint not in hurt and hint not in unseen]
    still = f". job_notifier still hears that a training has ended by {' and '.join(working)}"
    weighed = [
        dataclasses.replace(each, state=State.WARNING, says=each.says + still)
        if each.only_a_hint and each.state is State.BROKEN and working
        else each
        for each in findings
    ]
    return [*weighed, *(_of(hint, hurt.get(hint), unseen.get(hint), bool(working)) for hint in Hint)]


def _of(hint: Hint, hurt: Finding | None, unseen: Finding | None, others_work: bool) -> Finding:
    if hurt:
        state = State.WARNING if others_work else State.BROKEN
        last = "another hint does" if others_work else "no other hint does: ended trainings stay unnoticed"
        says = f"does not reach job_notifier ({hurt.place} {hurt.about}); {last}"
        return Finding(Place.HINT, hint, state, says, hurt.remedy)
    if unseen:
        says = f"it could not be seen whether it reaches job_notifier ({unseen.place} {unseen.about})"
        return Finding(Place.HINT, hint, State.UNSEEN, says, unseen.remedy)
    return Finding(Place.HINT, hint, State.OK, "reaches job_notifier")


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """What could not be seen for one and the same reason is said once, with the names of all things."""
    together: dict[object, list[Finding]] = {}
    for number, each in enumerate(findings):
        is_unseen = each.state is State.UNSEEN
        together.setdefault((each.place, each.says, each.remedy) if is_unseen else number, []).append(each)
    return [
        dataclasses.replace(each[0], about=", ".join(dict.fromkeys(one.about for one in each)))
        for each in together.values()
    ]


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """By place, as the chain goes; what was found first at a place stays first."""
    order = list(Place)
    return sorted(findings, key=lambda each: order.index(each.place))
