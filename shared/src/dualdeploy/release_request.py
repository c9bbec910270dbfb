"""What somebody asked of a branch over HTTP: kept in its facts, where whoever works on the branch reads it."""

from __future__ import annotations

import datetime
from typing import Literal

import pydantic

from dualdeploy import clock as clocks
from dualdeploy.ledger import Branch

_FACT, _ABORT, _SUCCESSOR = "request", "abort", "successor"

Kind = Literal["training", "redeploy", "rollback"]


class ReleaseRequest(pydantic.BaseModel):
    """Why the present release of a branch began. `by` is who called, empty when nobody's identity was verified.

    `quantization` is the variant of the file that was asked for, empty for the one that the configuration names.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    kind: Kind = "training"
    by: str = ""
    reason: str = ""
    canary: bool = True
    quantization: str = ""
    release: int = 1

    @classmethod
    def of(cls, branch: Branch) -> ReleaseRequest:
        """The request behind the branch's present release; the one that training makes, if there is none."""
        request = cls.model_validate(branch.facts.get(_FACT) or {})
        return request if request.release == branch.release else cls(release=branch.release)

    def describe(self) -> str:
        """`rollback by jo@example.com: the reason`, for the history."""
        return _sentence(self.kind, self.by, self.reason)

    def recorded(self, branch: Branch) -> Branch:
        return branch.with_facts(**{_FACT: self.model_dump(mode="json")})

    @staticmethod
    def with_abort(branch: Branch, *, by: str, reason: str, at: datetime.datetime) -> Branch:
        """Ask whoever works on the branch to stop and to leave everything as it was."""
        asked = {"by": by, "reason": reason, "at": clocks.to_text(at), "release": branch.release}
        return branch.with_facts(**{_ABORT: asked})

    @staticmethod
    def abort_of(branch: Branch) -> str:
        """The sentence of an abort of the present release, or nothing."""
        asked = branch.facts.get(_ABORT) or {}
        if asked.get("release") != branch.release:
            return ""
        return _sentence("aborted", asked.get("by", ""), asked.get("reason", ""))

    @staticmethod
    def with_successor(branch: Branch, run_id: str) -> Branch:
        """Ask whoever works on the branch to make way for a newer run."""
        return branch.with_facts(**{_SUCCESSOR: {"run_id": run_id, "release": branch.release}})

    @staticmethod
    def successor_of(branch: Branch) -> str:
        """The newer run that asked the present release to make way, or nothing."""
        asked = branch.facts.get(_SUCCESSOR) or {}
        return str(asked["run_id"]) if asked.get("release") == branch.release else ""


def _sentence(what: str, by: str, reason: str) -> str:
    return what + (f" by {by}" if by else "") + (f": {reason}" if reason else "")
