"""What an interruption costs a training: accuracy, and finished epochs that are trained again.

For each seed the same small training runs undisturbed, then interrupted by SIGTERM, then interrupted by SIGKILL, at a
random moment before the end of its last epoch; the same command then goes on to the end. Every attempt is a process
`python -m trainer` of its own. The moments come from `--seed`. The epoch under way when the signal comes is always
begun anew; counted are those that the log calls finished, and that were trained once more.

Accuracy is compared with the undisturbed run of the same seed: data, order and augmentation are the same, but sums over
threads are not, so two undisturbed runs differ as well. The goal is two standard errors of one measured accuracy.

    python -m benchmarks.trainer_resume [--rounds 4] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
_PATHS = [str(ROOT / name) for name in ("shared/src", "services/trainer", "infra/demo")]
sys.path[:0] = _PATHS

EPOCHS = 12
HELD_OUT = 200
TRAINING = {"image-size": 32, "batch-size": 16, "epochs": EPOCHS, "learning-rate": 0.003, "early-stopping": 0}
SIGNALS = {"terminated": signal.SIGTERM, "killed": signal.SIGKILL}
GOAL_REPEATED = 1.0


@dataclasses.dataclass(frozen=True)
class Interruption:
    """One training that was interrupted after `finished` epochs and went on after `resumed` of them."""

    finished: int
    resumed: int
    difference: float

    @property
    def repeated(self) -> int:
        return self.finished - self.resumed


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, interrupt and go on, and write the rows of the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="decides the moments and the first weights")
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    undisturbed: list[float] = []
    found: dict[str, list[Interruption]] = {name: [] for name in SIGNALS}
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder))
        for seed in range(options.seed, options.seed + options.rounds):
            whole = bench.undisturbed(seed)
            undisturbed.append(whole.accuracy)
            for name, number in SIGNALS.items():
                moment = chance.uniform(0, EPOCHS)
                found[name].append(bench.interrupted(f"{name}-{seed}", seed, number, moment, whole))
                print(f"  seed {seed}, {name} after {moment:.2f} epochs: {found[name][-1]}", flush=True)
    append_rows(row for name, cases in found.items() for row in _rows(name, cases, undisturbed))


def _rows(name: str, cases: Sequence[Interruption], undisturbed: Sequence[float]) -> Iterator[Row]:
    differences = [case.difference for case in cases]
    accuracy, difference = statistics.fmean(undisturbed), statistics.fmean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
    noise = (accuracy * (1 - accuracy) / HELD_OUT) ** 0.5
    yield Row(
        f"trainer_resume.{name}_accuracy",
        round(abs(difference), 4),
        "difference of accuracy",
        None,
        round(2 * noise, 4),
        f"mean of {len(cases)} interruptions at random moments: {difference:+.4f} with a standard error of {error:.4f}"
        f"; undisturbed {accuracy:.3f}, whose standard error is {noise:.3f} ({HELD_OUT} held-out pictures)",
    )
    yield Row(
        f"trainer_resume.{name}_repeated",
        max(case.repeated for case in cases),
        "finished epochs trained again",
        None,
        GOAL_REPEATED,
        f"largest of {len(cases)}, of {EPOCHS} epochs each; interrupted after {[case.finished for case in cases]}, "
        f"gone on after {[case.resumed for case in cases]}; the epoch under way is begun anew besides",
    )


@dataclasses.dataclass(frozen=True)
class _Whole:
    """An undisturbed training; seconds from its start to the end of the first epoch, and of an epoch after that."""

    accuracy: float
    first_epoch: float
    epoch: float


class _Bench:
    """Painted flowers, and trainings of them."""

    def __init__(self, folder: Path) -> None:
        from dualdeploy_demo import flowers  # noqa: PLC0415 (found through the path above)

        self._folder = folder
        self._data = folder / "data"
        self._labels = ",".join(flowers.LABELS)
        self._data.mkdir()
        flowers.generate(self._data, train=400, held_out=HELD_OUT, shards=4, style=flowers.Style(side=48))

    def undisturbed(self, seed: int) -> _Whole:
        """Train to the end."""
        output = self._folder / f"undisturbed-{seed}"
        began = time.time()
        with self._started(output, seed) as process:
            _expect(process, {0}, self._log(output))
        history = json.loads((output / "metrics.json").read_text())["epochs"]
        ends = [datetime.datetime.fromisoformat(epoch["finished_at"]).timestamp() for epoch in history]
        return _Whole(_result(output)["metrics"]["accuracy"], ends[0] - began, (ends[-1] - ends[0]) / (EPOCHS - 1))

    def interrupted(self, name: str, seed: int, number: signal.Signals, moment: float, whole: _Whole) -> Interruption:
        """Send the signal after `moment` epochs, and go on; `whole` is the undisturbed training of the same seed."""
        output = self._folder / name
        with self._started(output, seed) as process:
            while self._finished(output) < int(moment) and process.poll() is None:
                time.sleep(0.02)
            time.sleep(moment % 1 * (whole.epoch if moment >= 1 else whole.first_epoch))
            process.send_signal(number)
            # Python's own end where the trainer does not listen yet, and 0 where the export was as quick as this.
            _expect(process, {0, 75, -signal.SIGTERM, -signal.SIGKILL}, self._log(output))
        finished = self._finished(output)
        if (output / "result.json").exists():
            return self.interrupted(f"{name}-sooner", seed, number, moment / 2, whole)
        with self._started(output, seed) as process:
            _expect(process, {0}, self._log(output))
        result = _result(output)
        resumed = max(result["course"]["resumed_at"], default=0)
        return Interruption(finished, resumed, result["metrics"]["accuracy"] - whole.accuracy)

    @contextlib.contextmanager
    def _started(self, output: Path, seed: int) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "trainer", "--target", "mobile", "--data", str(self._data)]
        command += ["--labels", self._labels, "--output", str(output), "--seed", str(seed)]
        command += [word for name, value in TRAINING.items() for word in (f"--{name}", str(value))]
        with self._log(output).open("wb") as log:
            process = subprocess.Popen(command, env=self._environment(), stdout=log, stderr=subprocess.STDOUT)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def _finished(self, output: Path) -> int:
        """Epochs that the log calls finished."""
        lines = self._log(output).read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return max((entry["epoch"] for entry in entries if "epoch" in entry), default=0)

    def _log(self, output: Path) -> Path:
        return self._folder / f"{output.name}.log"

    def _environment(self) -> Mapping[str, str]:
        paths = os.pathsep.join(_PATHS)
        # Killed trainers leave their scratch folders behind: in ours.
        return {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(self._folder), "CUDA_VISIBLE_DEVICES": "-1"}


def _expect(process: subprocess.Popen[bytes], codes: set[int], log: Path) -> None:
    if process.wait() not in codes:
        raise RuntimeError(f"the trainer ended with {process.returncode}:\n{log.read_text()[-4000:]}")


def _result(output: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((output / "result.json").read_text())
    return found


if __name__ == "__main__":
    main()
