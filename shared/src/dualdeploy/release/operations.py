"""Long-running operations of Vertex AI as steps of a release: started once, looked at, never waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import Release
from dualdeploy.release.route import Stay, Turn, Wait

AnyRelease = TypeVar("AnyRelease", bound=Release)

#: How often an operation is begun that ended without an error and without its effect.
_MOST_LOST = 3


class OperationFailed(CannotEverSucceed):
    """A long-running operation ended with an error, was lost, or took longer than its limit."""


def poll_operation(
    release: AnyRelease,
    *,
    look: Callable[[str], tuple[bool, str] | None],
    start: Callable[[], str],
    there: Callable[[], bool],
    clock: Clock,
    limit_seconds: float,
    what: str,
) -> Turn[AnyRelease]:
    """Start a long-running operation, or look at the one already started; never wait for it.

    `look(name)` tells (done, error), or None when Google no longer knows the operation; an error that passes by itself
    it raises as RetryLater. `there()` tells whether the operation's effect can be seen; the caller has already looked
    once and not seen it. Raises OperationFailed when it failed, or is older than `limit_seconds`.
    """
    if not release.operation:
        return Stay(release.changed(operation=start(), operation_since=clocks.to_text(clock())))
    state = look(release.operation)
    finished, error = state if state is not None else (True, "")
    if error:
        if there():
            # This was a second start, after a death before the first one's name was recorded; that one succeeded.
            return Stay(release.changed(operation="", operation_since=""))
        raise OperationFailed(f"{what}: {error}")
    age = (clock() - clocks.from_text(release.operation_since)).total_seconds()
    if not finished:
        if age > limit_seconds:
            raise OperationFailed(f"{what}: {release.operation} is still running after {age:.0f} s")
        return Wait(release, f"{what} ({release.operation})")
    # Done without an error, and yet its effect is not to be seen: lost, or not visible yet. Again, not forever.
    if release.attempts >= _MOST_LOST:
        raise OperationFailed(f"{what}: {release.operation} ended, but what it should have made is not there")
    return Stay(release.changed(operation="", operation_since="", attempts=release.attempts + 1))
