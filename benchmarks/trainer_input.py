"""The trainer's input against the pipeline that the original project had, on the same shards and cores.

Same work on both sides: every picture of the shards is parsed, decoded and brought to size; no cache; augmentation is
part of our compiled step, so it is on neither side. The original: `TFRecordDataset → map(parse, decode, resize) →
batch`, read again in every epoch. TensorFlow may run that map in parallel on its own account (autotuning rewrites it);
so it is measured as written, and with that rewriting off, which is what its author saw. Ours decodes once, on all
cores, and trains from what it kept: `uncached` decodes all pictures of a process that has done so before, as the
original does in every epoch but its first; `cold` is the very first time on both sides, with graphs to trace and memory
that is new to the process, of which ours takes more because it keeps the pictures; `run` is twelve epochs. Held-out
pictures, which Pillow decodes, are left out but for one. Each contender runs in a process of its own, in turns, with
the shards in the system's cache; wall seconds, imports left out, repeated for a second at least unless cold.

The share of a step spent waiting is measured in a real training: time in `batches` against time in all of the epoch.

    python -m benchmarks.trainer_input [--data folder] [--image-size 224] [--rounds 3] [--pictures 6000]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, append_rows
from benchmarks.validator import generate

ROOT = Path(__file__).resolve().parent.parent
for source in ("shared/src", "services/trainer"):
    sys.path.insert(0, str(ROOT / source))

BATCH = 32
CLASSES = 5
EPOCHS = 12
LEAST_SECONDS = 1.0
GOAL_RATIO = 1.8
GOAL_WAITING = 0.10


def main(arguments: Sequence[str] | None = None) -> None:
    """Make or take shards, let all contenders read them in turns, and write the rows of the report."""
    options = _options(arguments)
    if options.contender:
        print(json.dumps(CONTENDERS[options.contender](options.data, options.image_size)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or _made(Path(scratch), options.pictures)
        runs: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(options.rounds):
            for name, results in runs.items():
                results.append(_run(name, data, options.image_size))
                print(f"  {name:<22}{results[-1]:>12,.4g}", flush=True)
    how = (
        f"{options.data.name if options.data else 'made'} shards, {options.image_size} px, {os.cpu_count()} cores; "
        f"median of {options.rounds} alternated runs, wall time"
    )
    _report({name: statistics.median(results) for name, results in runs.items()}, how)


def _report(median: dict[str, float], how: str) -> None:
    speed = {name: round(value) for name, value in median.items() if name != "waiting"}

    def row(name: str, contender: str, baseline: str | None, goal: float | None, what: str) -> Row:
        against = speed[baseline] if baseline else None
        return Row(f"trainer_input.{name}", speed[contender], "images/s", against, goal, f"{what}; {how}")

    append_rows(
        [
            row("uncached", "ours_uncached", "original_serial", GOAL_RATIO, "nothing kept; original as a serial map"),
            row("uncached_autotuned", "ours_uncached", "original", None, "nothing kept; original made parallel by TF"),
            row("cold", "ours_cold", "original_serial_cold", None, "the same, once in a new process"),
            row("cold_autotuned", "ours_cold", "original_cold", None, "the same, once in a new process"),
            row("run", "ours_run", "original", None, f"{EPOCHS} epochs; original reads again in each"),
            Row("trainer_input.waiting", round(median["waiting"], 4), "share of an epoch", None, GOAL_WAITING, how),
        ]
    )


def original(data: Path, image_size: int, *, rewritten: bool = True, cold: bool = False) -> float:
    """Images/s of the original's pipeline."""
    import tensorflow as tf  # noqa: PLC0415 (seconds, and only this contender's)

    features = {"image": tf.io.FixedLenFeature([], tf.string), "class": tf.io.FixedLenFeature([], tf.int64)}

    def parse(serialized: Any) -> Any:
        example = tf.io.parse_single_example(serialized, features)
        image = tf.io.decode_jpeg(example["image"], channels=3)
        return tf.image.resize(image, [image_size, image_size]), example["class"]

    def pipeline() -> Any:
        dataset = tf.data.TFRecordDataset([str(path) for path in _shards(data)]).map(parse).batch(BATCH)
        if rewritten:
            return dataset
        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_optimization.apply_default_optimizations = False
        return dataset.with_options(options)

    traced = None if cold else pipeline()
    return _speed(lambda: sum(int(labels.shape[0]) for _, labels in traced or pipeline()), cold=cold)


def ours(data: Path, image_size: int, *, epochs: int = 1, cold: bool = False) -> float:
    """Images/s of `epochs` epochs, from the shards to batches in memory, with all checks."""
    decoders = _imported()
    if not cold:
        decoders = functools.cache(decoders)  # traced once, as the original's map is
    return _speed(lambda: _read(data, image_size, decoders, epochs=epochs), cold=cold)


def _speed(read: Callable[[], int], *, cold: bool) -> float:
    """Images/s of what returns how many it read: of the first time, or of all but the first for a second at least."""
    if not cold:
        read()
    began, images = time.perf_counter(), read()
    while not cold and time.perf_counter() - began < LEAST_SECONDS:
        images += read()
    return images / (time.perf_counter() - began)


def _imported() -> Callable[[int], Any]:
    """What makes a decoder; everything that reading takes is imported."""
    from trainer.data import examples  # noqa: F401, PLC0415 (so that no clock sees it)
    from trainer.data.decoding import ImageDecoder  # noqa: PLC0415
    from trainer.loop import recipe  # noqa: F401, PLC0415 (so that no clock sees it)

    return ImageDecoder


def _read(data: Path, image_size: int, decoders: Callable[[int], Any], *, epochs: int) -> int:
    from trainer.loop import recipe  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        pictures = _loaded(data, image_size, Path(folder), decoders)
        for epoch in range(epochs):
            for images, _ in recipe.batches(pictures.pixels, pictures.labels, BATCH, _shuffle(epoch)):
                assert images.shape[0] == BATCH
    return epochs * len(pictures)


def waiting(data: Path, image_size: int) -> float:
    """Share of an epoch that the smallest network, which needs its input soonest, spends waiting for a batch."""
    import numpy as np  # noqa: PLC0415

    from dualdeploy.contracts.training import Metrics  # noqa: PLC0415
    from trainer import architectures  # noqa: PLC0415
    from trainer.loop import recipe  # noqa: PLC0415

    recipe.prepare_tensorflow()
    network = architectures.build("mobilenet_v3_small", classes=CLASSES, image_size=image_size, weights="none")
    with tempfile.TemporaryDirectory() as folder:
        pictures = _loaded(data, image_size, Path(folder), _imported())
        lesson = recipe.Lesson(
            network=network,
            images=pictures.pixels[range(20 * BATCH)],
            labels=pictures.labels[: 20 * BATCH],
            settings=recipe.Settings(image_size=image_size, batch_size=BATCH),
            watch=lambda: Metrics(accuracy=0, loss=0, examples=1),
            listener=recipe.Listener(after_step=lambda _: None, after_epoch=lambda *_: None),
        )
        (phase,) = recipe.phases(network, epochs=2, learning_rate=0.001, recipe=lesson.settings.recipe)
        step = recipe.make_step(lesson, phase, recipe.make_optimizer(lesson, phase))
        for epoch in range(2):
            began, waited = time.perf_counter(), 0.0
            batches = recipe.batches(lesson.images, lesson.labels, BATCH, _shuffle(epoch))
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                waited += time.perf_counter() - asked
                if batch is None:
                    break
                loss, _ = step(*batch, np.array([0, epoch], np.int64), np.float32(1))
                float(loss)
        return waited / (time.perf_counter() - began)


def _loaded(data: Path, image_size: int, folder: Path, decoders: Callable[[int], Any]) -> Any:
    from dualdeploy.contracts.training import FeatureNames  # noqa: PLC0415
    from dualdeploy.images.tfrecord import read_records, write_records  # noqa: PLC0415
    from trainer.data import examples  # noqa: PLC0415
    from trainer.process.free_memory import available  # noqa: PLC0415

    shards = [examples.Shard(path.name, path) for path in _shards(data)]
    # Something has to be held out: the first picture once more.
    one = folder / "held-out.tfrecord"
    with shards[0].path.open("rb") as stream:
        write_records(one, [next(read_records(stream, name="first")).data])
    loaded = examples.load(
        shards,
        [examples.Shard(one.name, one)],
        labels=[str(index) for index in range(CLASSES)],
        features=FeatureNames(),
        image_size=image_size,
        max_bad_records=0.0,
        folder=folder,
        decoders=decoders,
        memory=available() // 2,
    )
    return loaded.train


def _shuffle(epoch: int) -> Any:
    import numpy as np  # noqa: PLC0415

    return np.random.default_rng([0, epoch])


def _shards(data: Path) -> list[Path]:
    return sorted(data.glob("*.tfrecord"))


def _made(folder: Path, pictures: int) -> Path:
    for shard in range(4):
        generate(folder / f"train-{shard:05d}-of-00004.tfrecord", pictures // 4 * 11_000, 10_000)
    return folder


CONTENDERS: dict[str, Callable[[Path, int], float]] = {
    "original": original,
    "original_serial": functools.partial(original, rewritten=False),
    "original_cold": functools.partial(original, cold=True),
    "original_serial_cold": functools.partial(original, rewritten=False, cold=True),
    "ours_uncached": ours,
    "ours_cold": functools.partial(ours, cold=True),
    "ours_run": functools.partial(ours, epochs=EPOCHS),
    "waiting": waiting,
}


def _run(name: str, data: Path, image_size: int) -> float:
    command = [sys.executable, "-m", "benchmarks.trainer_input", "--contender", name]
    command += ["--data", str(data), "--image-size", str(image_size)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE).stdout
    return float(output.splitlines()[-1])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of shards with five classes (default: made ones)")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
