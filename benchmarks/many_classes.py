"""What the way from answers to metrics, chart, result and model costs with 2, 1,000 and 20,000 classes.

Nothing on it may grow with the square of the classes: a full confusion matrix of 20,000 has 400 million entries. Each
number of classes runs in a process of its own, for its peak of memory. No TensorFlow.

    python -m benchmarks.many_classes
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
for source in ("shared/src", "services/trainer"):
    sys.path.insert(0, str(ROOT / source))

CLASSES = (2, 1_000, 20_000)
EXAMPLES_OF_EACH = 2
BATCH = 64
GOAL_SECONDS, GOAL_MEBIBYTES = 120, 600


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each number of classes, and write the rows of the largest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, help="measure this number here, and print it")
    options = parser.parse_args(arguments)
    if options.classes:
        print(json.dumps(measured(options.classes)))
        return
    found = {}
    for classes in CLASSES:
        command = [sys.executable, "-m", "benchmarks.many_classes", "--classes", str(classes)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found[classes] = json.loads(done.stdout)
        print(f"{classes:>7,} classes: {found[classes]}")
    most, how = (
        found[CLASSES[-1]],
        f"{CLASSES[-1]:,} classes, {EXAMPLES_OF_EACH} held-out pictures of each; no training",
    )
    append_rows(
        [
            Row("many_classes.seconds", most["seconds"], "s", None, GOAL_SECONDS, f"metrics, chart and result; {how}"),
            Row("many_classes.peak_rss", most["peak_mebibytes"], "MiB", None, GOAL_MEBIBYTES, how),
            Row("many_classes.result", most["result_mebibytes"], "MiB", None, None, f"the result document; {how}"),
        ]
    )


def measured(classes: int) -> dict[str, float]:
    """Seconds, peak of memory, and the size of what is written."""
    import numpy as np  # noqa: PLC0415 (found through the path above, like the next)

    from trainer.loop.evaluation import Tally  # noqa: PLC0415
    from trainer.outputs import charts  # noqa: PLC0415

    labels = [f"class {number}" for number in range(classes)]
    generator, tally, making = np.random.default_rng(0), Tally(), 0.0
    began = time.monotonic()
    for start in range(0, classes * EXAMPLES_OF_EACH, BATCH):
        made = time.monotonic()
        truth = (np.arange(start, min(start + BATCH, classes * EXAMPLES_OF_EACH)) % classes).astype(np.int32)
        answers = generator.random((len(truth), classes), dtype=np.float32)
        making += time.monotonic() - made
        tally.add(answers, truth)
    metrics = tally.metrics(labels)
    chart = charts.confusion(metrics, labels, title=f"{classes} classes")
    document = metrics.model_dump_json().encode()
    return {
        "seconds": round(time.monotonic() - began - making, 1),
        "peak_mebibytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "result_mebibytes": round(len(document) / (1 << 20), 1),
        "chart_kilobytes": round(len(chart) / 1000),
    }


if __name__ == "__main__":
    main()
