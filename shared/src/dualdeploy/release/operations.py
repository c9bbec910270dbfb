"""Long-running operations of Vertex AI as steps of a release: started once, looked at, never waited for."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import TypeVar

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed, DualDeployError, RetryLater
from dualdeploy.ledger import Release
from dualdeploy.release.route import Stay, Turn, Wait

AnyRelease = TypeVar("AnyRelease", bound=Release)

#: How often an operation is begun that ended without an error and without its effect.
_MOST_LOST = 3

#: What failed for a reason that passes by itself is begun again after so long.
_AGAIN_AFTER = datetime.timedelta(minutes=5)


class OperationFailed(CannotEverSucceed):
    """A long-running operation ended with an error, was lost, or took longer than its limit."""


@dataclasses.dataclass(frozen=True)
class Looked:
    """How an operation stands: whether it has ended, and what its failure means by the table of Google's errors."""

    done: bool
    failure: DualDeployError | None = None


def poll_operation(
    release: AnyRelease,
    *,
    look: Callable[[str], Looked | None],
    start: Callable[[], str],
    there: Callable[[], bool],
    clock: Clock,
    limit_seconds: float,
    what: str,
) -> Turn[AnyRelease]:
    """Start a long-running operation, or look at the one already started; never wait for it.

    `look(name)` tells how it stands, or None when Google no longer knows it. `there()` tells whether its effect can be
    seen; the caller has already looked once and not seen it. What failed for a reason that passes by itself is begun
    again, for as long as such a reason is waited for (`RetryLater.patience`). Raises OperationFailed when it failed for
    good, or is older than `limit_seconds`.
    """
    if not release.operation:
        return Stay(release.changed(operation=start(), operation_since=clocks.to_text(clock())))
    looked = look(release.operation) or Looked(done=True)
    if looked.failure is not None:
        if there():
            # This was a second start, after a death before the first one's name was recorded; that one succeeded.
            return Stay(release.changed(operation="", operation_since=""))
        return _failed(release, looked.failure, clock=clock, what=what)
    age = (clock() - clocks.from_text(release.operation_since)).total_seconds()
    if not looked.done:
        if age > limit_seconds:
            raise OperationFailed(f"{what}: {release.operation} is still running after {age:.0f} s")
        return Wait(release, f"{what} ({release.operation})")
    # Done without an error, and yet its effect is not to be seen: lost, or not visible yet. Again, not forever.
    if release.attempts >= _MOST_LOST:
        raise OperationFailed(f"{what}: {release.operation} ended, but what it should have made is not there")
    return Stay(release.changed(operation="", operation_since="", attempts=release.attempts + 1))


def _failed(release: AnyRelease, failure: DualDeployError, *, clock: Clock, what: str) -> Turn[AnyRelease]:
    if not isinstance(failure, RetryLater):
        raise OperationFailed(f"{what}: {failure}") from failure
    since = release.failing_since or clocks.to_text(clock())
    until = clocks.from_text(since) + datetime.timedelta(seconds=failure.patience)
    if clock() >= until:
        raise OperationFailed(f"{what}: {failure}; tried since {since}") from failure
    waiting = release.changed(operation="", operation_since="", failing_since=since)
    why = f"{what} to succeed, until {clocks.to_text(until)} at most: {failure}"
    return Wait(waiting, why, at=clock() + _AGAIN_AFTER)
