"""What is looked at, one module for each stretch of the chain."""

from __future__ import annotations

from doctor.checks import access, buckets, ends, messages, project, quota, runs, services, signals
from doctor.examination import Check, Look

_STRETCHES = (project, buckets, services, messages, signals, access, quota, runs, ends)


def of(look: Look) -> list[Check]:
    """Every check, each with a look of its own."""
    return [check for stretch in _STRETCHES for check in stretch.checks(look)]


__all__ = ["of"]
