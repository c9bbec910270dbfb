"""Look everywhere at once: nothing that fails, or never answers, keeps the rest from being seen."""

from __future__ import annotations

import dataclasses
import datetime
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from doctor.chain import Chain
from doctor.findings import Finding, Hint, Place, State, in_order, merged, weigh_hints
from doctor.reads import CouldNotLook, Google, NotSignedIn, NotThere


@dataclasses.dataclass(frozen=True)
class Look:
    """What a check looks with."""

    chain: Chain
    google: Google
    now: datetime.datetime
    bindings: Mapping[str, Any]  # infra/bindings.json


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing to look at. `look` may raise NotThere: then `missing` is what follows from that, and `remedy` mends it.

    It may raise CouldNotLook, or anything else: then nobody could look.
    """

    place: Place
    about: str
    look: Callable[[], Iterable[Finding]]
    missing: str = ""
    remedy: str = ""
    hint: Hint | None = None
    only_a_hint: bool = False

    def run(self) -> list[Finding]:
        try:
            return list(self.look())
        except NotThere as exc:
            return [self.finding(State.BROKEN, self.missing or str(exc), self.remedy)]
        except CouldNotLook as exc:
            return [self.unseen(str(exc), exc.remedy)]
        except NotSignedIn as exc:
            return [self.unseen("this machine is not signed in to Google Cloud", str(exc))]
        except Exception as exc:  # noqa: BLE001  # a fault of the doctor's own must not hide what else there is
            return [self.unseen(f"the doctor itself failed here: {exc!r}", "report it, with this line")]

    def finding(self, state: State, says: str, remedy: str = "") -> Finding:
        return Finding(self.place, self.about, state, says, remedy, self.hint, self.only_a_hint)

    def ok(self, says: str) -> Finding:
        return self.finding(State.OK, says)

    def broken(self, says: str, remedy: str = "") -> Finding:
        return self.finding(State.BROKEN, says, remedy or self.remedy)

    def warning(self, says: str, remedy: str = "") -> Finding:
        return self.finding(State.WARNING, says, remedy or self.remedy)

    def unseen(self, says: str, remedy: str = "") -> Finding:
        return self.finding(State.UNSEEN, says, remedy)


def examine(checks: Sequence[Check], *, limit_seconds: float) -> list[Finding]:
    """Every finding, in the order of the chain. A check that has no end after `limit_seconds` could not look."""
    found: list[list[Finding]] = [[] for _ in checks]
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def work(number: int) -> None:
        found[number] = checks[number].run()
        done.put(number)

    # A thread for each, so that those which hang keep no other from beginning; daemons, so that they do not keep the
    # command from ending.
    for number in range(len(checks)):
        threading.Thread(target=work, args=(number,), name="doctor", daemon=True).start()
    deadline = time.monotonic() + limit_seconds
    ended: set[int] = set()
    while len(ended) < len(checks):
        try:
            ended.add(done.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            break
    for number, check in enumerate(checks):
        if number not in ended:
            says = f"this check did not finish within {limit_seconds:g} s"
            found[number] = [check.unseen(says, "ask again later")]
    return merged(in_order(weigh_hints([finding for each in found for finding in each])))
