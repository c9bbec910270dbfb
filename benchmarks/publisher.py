"""What the process of mobile_publisher that answers events costs, because TensorFlow stays in its child processes.

The application is built in a fresh interpreter and asked for `/healthz`; the baseline does the same after importing
TensorFlow, as a publisher would that converts in its own process.

    python -m benchmarks.publisher [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
_PATHS = [str(ROOT / "services" / "mobile_publisher"), str(ROOT / "shared" / "src")]
sys.path[:0] = _PATHS

#: Memory in kB at the end (VmRSS of man 5 proc_pid_status), seconds from the interpreter's first line.
_PROCESS = """
import json, sys, time
began = time.perf_counter()
if {tensorflow}:
    import tensorflow
import main
client = main.create_app().test_client()
assert client.get("/healthz").status_code == 200
seconds = time.perf_counter() - began
status = open("/proc/self/status").read()
memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
assert {tensorflow} or "tensorflow" not in sys.modules
print(json.dumps([seconds, memory]))
"""
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Start both by turns, and write the rows of the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args(arguments).rounds
    # The first of each warms the file cache.
    measured = [(started(tensorflow=False), started(tensorflow=True)) for _ in range(rounds + 1)][1:]
    how = (
        f"application built and /healthz answered in a fresh interpreter, by turns, median of {rounds};"
        " baseline: the same with TensorFlow imported"
    )
    seconds, seconds_with = (statistics.median(pair[side][0] for pair in measured) for side in (0, 1))
    memory, memory_with = (statistics.median(pair[side][1] for pair in measured) / 1024 for side in (0, 1))
    append_rows(
        [
            Row("publisher.start_seconds", round(seconds, 3), "s", round(seconds_with, 3), 0.5, how),
            Row("publisher.memory", round(memory, 1), "MiB", round(memory_with, 1), 0.5, how),
        ]
    )


def started(*, tensorflow: bool) -> tuple[float, float]:
    """Seconds and kB of one process."""
    from dualdeploy import settings  # noqa: PLC0415  # the path to both is made above
    from mobile_publisher.settings import PublisherSettings  # noqa: PLC0415

    # No call is made, so anything will do for what must be set.
    required = {
        variable: "demo" for variable, is_required in settings.variables(PublisherSettings).items() if is_required
    }
    environment = {**os.environ, **required, **_QUIET, "PYTHONPATH": os.pathsep.join(_PATHS)}
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS.format(tensorflow=tensorflow)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


if __name__ == "__main__":
    main()
