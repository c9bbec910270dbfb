"""Which recipe is right more often on pictures of yours: the defaults, or `whole_base`, from the same weights.

All records of the folder, whichever side of the split they are on, are divided into folds by the checksums of their
pictures. For each fold, both recipes learn from all others and answer for it, each in a process `python -m trainer`.
Answers are compared picture by picture: the difference in right ones, with the standard error of the pairs.

Neither pictures nor weights are part of this project: without them, nothing is measured. Weights are those of the
network without its top, as `keras.applications.X(include_top=False).save_weights` writes them.

    python -m benchmarks.trainer_recipes --data folder --labels a,b --weights X.weights.h5 --architecture keras:X
        [--folds 3] [--image-size 128] [--epochs 12] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
_PATHS = [str(ROOT / name) for name in ("shared/src", "services/trainer")]
sys.path[:0] = _PATHS

GOAL_MARGIN = 2.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both recipes on each fold, and write the rows of the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of shards")
    parser.add_argument("--labels", help="names of the classes by index, comma-separated")
    parser.add_argument("--weights", type=Path, help="of the network without its top")
    parser.add_argument("--architecture", default="keras:MobileNetV2")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not (options.data and options.labels and options.weights):
        print("skipped: pictures and weights are not part of this project; name them by --data, --labels and --weights")
        return
    right: dict[str, list[bool]] = {"default": [], "whole_base": []}
    losses: dict[str, list[float]] = {name: [] for name in right}
    seconds: dict[str, list[float]] = {name: [] for name in right}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.folds):
            folder = Path(scratch, f"fold-{number}")
            divide(options.data, folder, number, options.folds)
            for name in right:
                output, before = folder / name, _processor()
                train(options, name, folder / "data", output)
                answers = said(output)
                right[name] += answers
                losses[name].append(json.loads((output / "result.json").read_text())["metrics"]["loss"])
                seconds[name].append(_processor() - before)
                print(
                    f"  fold {number} {name:<11}{statistics.fmean(answers):.3f}, loss {losses[name][-1]:.3f}",
                    flush=True,
                )
    append_rows(_rows(options, right, losses, seconds))


def _rows(
    options: argparse.Namespace,
    right: dict[str, list[bool]],
    losses: dict[str, list[float]],
    seconds: dict[str, list[float]],
) -> Iterator[Row]:
    ours, before = right["whole_base"], right["default"]
    differences = [float(one) - float(other) for one, other in zip(ours, before, strict=True)]
    difference, error = statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    spent = {name: statistics.median(values) for name, values in seconds.items()}
    loss = {name: statistics.fmean(values) for name, values in losses.items()}
    how = (
        f"{options.architecture}, {options.image_size} px, {options.epochs} epochs, {options.folds} folds, {len(ours)} "
        f"pictures; loss {loss['whole_base']:.3f} and {loss['default']:.3f}; CPU seconds of a training "
        f"{spent['whole_base']:.0f} and {spent['default']:.0f}; paired by picture: {difference:+.3f}, standard "
        f"error {error:.3f}"
    )
    accuracy, baseline = (round(statistics.fmean(each), 4) for each in (ours, before))
    yield Row("trainer_recipes.whole_base", accuracy, "accuracy", baseline, None, how)
    margin = round(difference / error, 2) if error else 0.0
    yield Row("trainer_recipes.margin", margin, "standard errors of the difference", None, GOAL_MARGIN, how)


def divide(data: Path, folder: Path, number: int, folds: int) -> None:
    """Write all records of `data` as shards to learn from, and as one that is held out: fold `number` of so many."""
    import google_crc32c  # noqa: PLC0415 (found through the path above, like what follows)

    from dualdeploy.contracts.example import ExampleSchema  # noqa: PLC0415
    from dualdeploy.images.tfrecord import read_records, write_records  # noqa: PLC0415
    from dualdeploy.images.unusable import UnusableRecord  # noqa: PLC0415

    sides: dict[bool, list[bytes]] = {False: [], True: []}
    for path in sorted(path for path in data.rglob("*") if path.is_file() and ".tfrec" in path.name):
        with path.open("rb") as stream:
            for record in read_records(stream, name=path.name):
                try:
                    picture = ExampleSchema().read(record.data).image
                except UnusableRecord:
                    continue
                # Not by its last digit alone: that may be what the data set itself held out by.
                sides[google_crc32c.value(picture) // 7 % folds == number].append(bytes(record.data))
    (folder / "data").mkdir(parents=True)
    write_records(folder / "data" / "train-00000-of-00001.tfrecord", sides[False])
    write_records(folder / "data" / "eval-00000-of-00001.tfrecord", sides[True])


def train(options: argparse.Namespace, name: str, data: Path, output: Path) -> None:
    """One training in a process of its own."""
    from dualdeploy.contracts.training import RECIPES  # noqa: PLC0415

    given: dict[str, Any] = {
        "target": "mobile",
        "data": data,
        "labels": options.labels,
        "output": output,
        "architecture": options.architecture,
        "weights": options.weights.resolve(),
        "image-size": options.image_size,
        "epochs": options.epochs,
        "learning-rate": 0.001,
        "seed": options.seed,
        **{key.replace("_", "-"): value for key, value in RECIPES.get(name, {}).items()},
    }
    command = [
        sys.executable,
        "-m",
        "trainer",
        *(word for flag, value in given.items() for word in (f"--{flag}", str(value))),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_PATHS), "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the trainer ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")


def said(output: Path) -> list[bool]:
    """Whether each held-out picture was right, in the order of their fingerprints."""
    from dualdeploy.contracts import answers  # noqa: PLC0415

    path = output / answers.FILE_NAME
    return [each.label == each.predicted for each in answers.decode(path.read_bytes(), source=str(path))]


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
