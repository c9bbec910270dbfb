"""What a rollout costs besides Vertex AI's own time: its calls, and how long our code takes between them.

The deployer replaces a live model on an in-memory Vertex AI that answers at once, through every default share without
bake time, so that all that is left is ours.

    python -m benchmarks.rollout [--rounds 5]
"""

from __future__ import annotations

import argparse
import collections
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
for source in ("tests", "shared/src", *(f"services/{path.name}" for path in (ROOT / "services").iterdir())):
    sys.path.insert(0, str(ROOT / source))


def main(arguments: Sequence[str] | None = None) -> None:
    """Replace a live model several times, and write the rows of the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(arguments).rounds
    logging.disable(logging.CRITICAL)
    measured = [rollout() for _ in range(rounds)]
    calls = measured[0][1]
    probes = calls.pop("predict")
    how = f"a second run, shares 5, 25, 50 and 100, in-memory Vertex AI and ledger, median of {rounds}"
    listed = ", ".join(f"{name} {count}" for name, count in sorted(calls.items()))
    append_rows(
        [
            Row("rollout.own_seconds", statistics.median(row[0] for row in measured), "s", None, 1.0, how),
            Row("rollout.vertex_calls", float(calls.total()), "calls", None, None, listed),
            Row("rollout.probes", float(probes), "predictions", None, None, how),
        ]
    )


def rollout() -> tuple[float, collections.Counter[str]]:
    """Seconds inside the deployer from `training-completed` to live, and its calls of Vertex AI by name."""
    from support.chain import Chain  # noqa: PLC0415  # the path to it is made above

    chain = Chain()
    chain.configure(serving={"canary": {"bake": 0}})
    chain.upload(edition=1)
    chain.settle()
    chain.clock.advance(3600)
    known = set(chain.run_ids())
    chain.upload(edition=2)
    for _ in range(4):
        chain.drain()
        chain.tick()
    (run_id,) = set(chain.run_ids()) - known
    (job,) = chain.jobs_of(run_id, "cloud")
    chain.train(job, hints=False)
    chain.handle(chain.log_hint(job))
    chain.vertex.faults.calls.clear()
    seconds = 0.0
    while not chain.branch(run_id, "cloud").is_final:
        chain.clock.advance(60)
        began = time.perf_counter()
        chain.workers["cloud"].on_clock()
        seconds += time.perf_counter() - began
        chain.vertex.finish_operations()
    return seconds, chain.vertex.faults.calls


if __name__ == "__main__":
    main()
