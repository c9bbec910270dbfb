"""The states of a training and of a release, and which state may follow which: two tables, checked at every write."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from dualdeploy.errors import CannotEverSucceed


class State(enum.StrEnum):
    """Where one target of a run stands; the first four belong to its training, the rest to its releases."""

    PENDING = "pending"
    LAUNCHING = "launching"
    TRAINING = "training"
    TRAINED = "trained"
    WAITING = "waiting"
    GATING = "gating"
    DEPLOYING = "deploying"
    CANARY = "canary"
    LIVE = "live"
    REJECTED = "rejected"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"


#: A training: `training` leads back to `launching` when Vertex AI could not place the job and it is asked for again.
TRAINING_MOVES: Mapping[str, frozenset[State]] = {
    State.PENDING: frozenset({State.LAUNCHING, State.REJECTED, State.FAILED, State.SUPERSEDED}),
    State.LAUNCHING: frozenset({State.TRAINING, State.FAILED, State.SUPERSEDED}),
    State.TRAINING: frozenset({State.LAUNCHING, State.TRAINED, State.FAILED, State.SUPERSEDED}),
}

#: A release. What was live ends when something replaces it.
RELEASE_MOVES: Mapping[str, frozenset[State]] = {
    State.WAITING: frozenset(
        {State.GATING, State.DEPLOYING, State.REJECTED, State.FAILED, State.ROLLED_BACK, State.SUPERSEDED}
    ),
    State.GATING: frozenset(
        {State.WAITING, State.DEPLOYING, State.REJECTED, State.FAILED, State.ROLLED_BACK, State.SUPERSEDED}
    ),
    State.DEPLOYING: frozenset({State.CANARY, State.LIVE, State.FAILED, State.ROLLED_BACK, State.SUPERSEDED}),
    # Phones have what follows a staged rollout (the pointer, Firebase ML) still ahead of them.
    State.CANARY: frozenset({State.DEPLOYING, State.LIVE, State.FAILED, State.ROLLED_BACK, State.SUPERSEDED}),
    State.LIVE: frozenset({State.ROLLED_BACK, State.SUPERSEDED}),
}

#: A training in one of these is over.
TRAINING_ENDS = frozenset({State.TRAINED, State.REJECTED, State.FAILED, State.SUPERSEDED})

#: A release in one of these is over.
RELEASE_ENDS = frozenset({State.LIVE, State.REJECTED, State.FAILED, State.ROLLED_BACK, State.SUPERSEDED})


class IllegalTransition(CannotEverSucceed):
    """The table has no such move."""


def check_move(what: str, before: str, after: str, moves: Mapping[str, frozenset[State]]) -> None:
    """Raise IllegalTransition unless `moves` leads from `before` to `after`.

    A state that this version does not know is one of a newer version, which has a table of its own.
    """
    if not {before, after} <= set(State):
        return
    allowed = moves.get(before, frozenset())
    if after not in allowed:
        raise IllegalTransition(
            f"{what}: {before} cannot become {after} (allowed: {', '.join(sorted(allowed)) or 'nothing, it is over'})"
        )
