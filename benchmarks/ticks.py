"""What a tick costs, and how long what is due waits for its look: our own code in simulated time.

A service looks at each of n due things every minute; a look takes two seconds, and k request slots (instances times
requests each handles at once) work at a time. The buckets are in memory and count what Cloud Storage would charge.

    python -m benchmarks.ticks [--seconds 2]
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import heapq
import itertools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
for source in ("tests", "shared/src"):
    sys.path.insert(0, str(ROOT / source))

from dualdeploy.contracts.events import Envelope  # noqa: E402
from dualdeploy.google.object_store import ABSENT  # noqa: E402
from dualdeploy.http.ticks import Next, Ticks, parse_advance  # noqa: E402
from dualdeploy.ledger import Ledger  # noqa: E402
from dualdeploy.ledger.due import Due  # noqa: E402 (found through the path above)
from support.fakes import FakePublisher, ManualClock, MemoryObjectStore  # noqa: E402

#: What a message costs that turns out to be a duplicate: one read.
DUPLICATE_SECONDS = 0.05

#: Terraform's defaults: cloud_deployer has 10 instances of 8 requests, mobile_publisher 10 of one (a conversion each).
SLOTS = (80, 10)


@dataclasses.dataclass
class Looks:
    """Work that is due again a minute after each look; `longest` is the longest wait for one, in seconds."""

    clock: ManualClock
    due_at: dict[str, datetime.datetime] = dataclasses.field(default_factory=dict)
    longest: float = 0.0
    count: int = 0

    def advance(self, what: str) -> Next:
        now = self.clock()
        self.longest = max(self.longest, (now - self.due_at[what]).total_seconds())
        self.count += 1
        self.due_at[what] = now + datetime.timedelta(minutes=1)
        return Next("looked", self.due_at[what])

    def give_up(self, what: str, why: str) -> None:
        raise AssertionError(f"{what}: {why}")


class Service:
    """The ticks of one service with a ledger in memory."""

    def __init__(self, due: int, *, finished: int = 0, slots: int = 10_000) -> None:
        self.clock = ManualClock()
        self.store = MemoryObjectStore("ledger", clock=self.clock)
        self.listed = 0
        list_objects = self.store.list

        def counted(prefix: str, *, end: str = ""):  # type: ignore[no-untyped-def]
            found = list(list_objects(prefix, end=end))
            self.listed += len(found)
            return iter(found)

        self.store.list = counted  # type: ignore[method-assign]
        ledger = Ledger(self.store, clock=self.clock)
        self.publisher = FakePublisher()
        self.looks = Looks(self.clock)
        markers = Due("cloud_deployer", ledger)
        for number in range(due):
            markers.put(f"release/{number:05d}")
            self.looks.due_at[f"{number:05d}"] = self.clock()
        for number, name in itertools.product(
            range(finished), ("run.json", "cloud/launch.json", "cloud/release-1.json")
        ):
            self.store.put(f"runs/flowers-{number:012x}/{name}", b"{}", expect=ABSENT)
        self.ticks = Ticks(
            {"release": self.looks},
            due=markers,
            ledger=ledger,
            publisher=self.publisher,
            lease_seconds=120,
            slots=slots,
        )

    def cost_of_a_tick(self) -> tuple[int, int, int]:
        """Objects listed, objects read and messages published by one tick."""
        reads, sent = self.store.faults.calls["read"], len(self.publisher.sent)
        self.listed = 0
        self.ticks.on_tick()
        return self.listed, self.store.faults.calls["read"] - reads, len(self.publisher.sent) - sent

    def longest_wait(self, slots: int, seconds: float, *, minutes: int) -> float:
        """The longest that anything waited for its look, in seconds, ticks included."""
        began = self.clock()
        free = [0.0] * slots
        waiting: list[tuple[float, bytes]] = []
        for minute in range(minutes):
            now, until = 60.0 * minute, 60.0 * (minute + 1)
            self.clock.now = began + datetime.timedelta(seconds=now)
            sent = len(self.publisher.sent)
            self.ticks.on_tick()
            waiting += [(now, message.data) for message in self.publisher.sent[sent:]]
            waiting = self._handled(waiting, free, until, began=began, seconds=seconds)
            del self.publisher.sent[:]
        return self.looks.longest

    def _handled(
        self,
        waiting: list[tuple[float, bytes]],
        free: list[float],
        until: float,
        *,
        began: datetime.datetime,
        seconds: float,
    ) -> list[tuple[float, bytes]]:
        """Handle what can begin before `until`; returns what is left."""
        for place, (published, data) in enumerate(waiting):
            start = max(published, free[0])
            if start >= until:
                return waiting[place:]
            self.clock.now = began + datetime.timedelta(seconds=start)
            before = self.looks.count
            self.ticks.on_advance(parse_advance(Envelope("", data)))
            taken = seconds if self.looks.count > before else DUPLICATE_SECONDS
            heapq.heapreplace(free, start + taken)
        return []


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the rows of the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="what a look takes")
    seconds = parser.parse_args(arguments).seconds
    logging.disable(logging.CRITICAL)
    append_rows([*_costs(), *_waits(seconds)])


def _costs() -> list[Row]:
    rows = []
    for due, finished in ((1, 0), (100, 0), (10_000, 0), (100, 10_000)):
        listed, read, published = Service(due, finished=finished).cost_of_a_tick()
        how = f"one tick: {listed} objects listed, {read} read, {published} messages; {finished} finished runs"
        name = f"ticks.cost.{due}_due" + (f"_{finished}_finished" if finished else "")
        rows.append(Row(name, float(listed + read), "objects looked at", float(due), 1.0, how))
    return rows


def _waits(seconds: float) -> list[Row]:
    rows = []
    for due, slots in itertools.product((1, 100, 10_000), SLOTS):
        promised = due * seconds / slots + 60
        minutes = int(promised / 60) * 2 + 5
        longest = Service(due, slots=slots).longest_wait(slots, seconds, minutes=minutes)
        how = f"{due} due each minute, {slots} request slots, {seconds:g} s a look; baseline: n·s/k and one tick"
        rows.append(Row(f"ticks.longest_wait.{due}_due_{slots}_slots", longest, "s", promised, 1.0, how))
    return rows


if __name__ == "__main__":
    main()
