"""Which conditions hold for one installation of an app: `true`, `false` and shares of the users by `percent`.

The other elements that Google documents are taken, and hold for nobody: of an app here no version, country or user is
known, and "if the value for a rule is undefined, that rule evaluates to false".
Source: https://firebase.google.com/docs/remote-config/condition-reference
"""

from __future__ import annotations

import hashlib
import re

_PERCENT = re.compile(
    r"percent\s*(?:\(\s*['\"](?P<seed>[^'\"]*)['\"]\s*\))?\s*"
    r"(?:(?P<comparison><=|>)\s*(?P<limit>\d+(?:\.\d+)?)"
    r"|between\s+(?P<low>\d+(?:\.\d+)?)\s+and\s+(?P<high>\d+(?:\.\d+)?))"
)
_HUNDRED = 100_000_000
_OF_THE_DEVICE = re.compile(
    r"(app\.(build|version|id|audiences|firstOpenTimestamp|userProperty|operatingSystemAndVersion|browserAndVersion"
    r"|firebaseInstallationId|customSignal|userAudience)|device\.(country|dateTime|language|os))\b.+|dateTime\b.+"
)


class UnknownExpression(ValueError):
    """An expression of another kind than those of this module."""


def percentile(seed: str, installation: str) -> float:
    """Where in 0..100 an installation lies for a seed: always the same place.

    Source: firebase-admin, `ConditionEvaluator` (SHA-256 of "<seed>.<id>" in millionths of a percent). Which hash the
    service itself uses for apps is not published; that shares are kept and places do not change is what it promises.
    """
    text = f"{seed}.{installation}" if seed else installation
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % _HUNDRED / 1_000_000


def holds(expression: str, installation: str) -> bool:
    """Whether `expression`, of parts joined by `&&`, holds. Raises UnknownExpression."""
    # Every part is looked at, so that an unknown one is refused wherever it stands.
    parts = [_part_holds(part.strip(), installation) for part in expression.split("&&")]
    return all(parts)


def _part_holds(part: str, installation: str) -> bool:
    if part in ("true", "false"):
        return part == "true"
    if _OF_THE_DEVICE.fullmatch(part):
        return False
    found = _PERCENT.fullmatch(part)
    if found is None:
        raise UnknownExpression(f"the local cloud does not evaluate {part!r}")
    place = percentile(found["seed"] or "", installation)
    if found["comparison"] == "<=":
        return place <= float(found["limit"])
    if found["comparison"] == ">":
        return place > float(found["limit"])
    return float(found["low"]) < place <= float(found["high"])
