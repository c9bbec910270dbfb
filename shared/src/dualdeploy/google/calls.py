"""A call of one of Google's clients: what it raises becomes one of our errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from dualdeploy import health
from dualdeploy.errors import CredentialsUnavailable, DualDeployError
from dualdeploy.google import errors

Result = TypeVar("Result")


def call(
    subject: str, function: Callable[[], Result], *, meanings: Mapping[int, type[DualDeployError]] | None = None
) -> Result:
    """What `function` returns. Raises what the table (`errors.RULES`) makes of Google's errors, and others as they are.

    `subject` says which service is asked for what; `meanings` is as for `errors.translate`.
    """
    try:
        result = function()
    except Exception as exc:
        ours = errors.translate(exc, subject, meanings=meanings)
        if ours is None:
            raise
        if isinstance(ours, CredentialsUnavailable):
            health.PROCESS.credentials_missing(ours)
        raise ours from exc
    health.PROCESS.credentials_work()
    return result
