"""How well both models learn real photos from scratch in three minutes on two cores, against the original's recipe.

Every contender is a child process that may live for `--seconds`, imports and reading of the data included. Both see
the same training shards and answer for the same held-out photos. Ours keeps the epoch with the lowest loss on them, as
it always does. Of the original the epoch that answers best counts, which is more than it could have known.

ours: `python -m trainer`, whole, until its result is written: exports and charts are within the time. How many epochs
fit is settled beforehand: a short run tells what one costs, and `MARGIN` of the time is left to chance. If that was
too many all the same, because the machine had other work, a new run has fewer.

original: Adam as Keras has it, cross-entropy, unshuffled, no augmentation, no schedule, `compile` and `fit`, and a
serial input (`TFRecordDataset → map → batch`, TensorFlow's own parallelism off); as many steps as fit. It trained a
head on ImageNet's weights, frozen, for two epochs; from scratch a frozen backbone is a random one, so it is measured
both ways, frozen and trainable, and the better one is the baseline. It answers for the held-out photos after each epoch
outside of its time, and uses our image sizes, which leave it more epochs than its 224 px.

The photos are not part of this project: without `--data`, or PHOTOS in the environment, nothing is measured.

    python -m benchmarks.trainer_photos --data folder [--seconds 180] [--targets cloud,mobile]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
_PATHS = [str(ROOT / "shared" / "src"), str(ROOT / "services" / "trainer")]
sys.path[:0] = _PATHS

LABELS = "daisy,dandelion,roses,sunflowers,tulips"
BATCH = 32

#: Share of the time that ours leaves unplanned, because an epoch does not take as long as the one before.
MARGIN = 0.15

#: Runs of ours that may take too long before the machine is said to be too busy.
RUNS = 3

#: Epochs of the short run: the first one traces and compiles, the others tell what one costs.
TRIAL_EPOCHS = 3

#: "Clearly better": by two standard errors of the difference, on the same photos.
GOAL_MARGIN = 2.0


@dataclasses.dataclass(frozen=True)
class Profile:
    """What is trained for a target from scratch, by both."""

    architecture: str
    image_size: int
    learning_rate: float


PROFILES = {
    "cloud": Profile("densenet121", 48, 0.002),
    "mobile": Profile("mobilenet_v3_small", 96, 0.006),
}


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What came of one contender: for each held-out photo whether it was right, epochs trained, seconds it took.

    `processor` seconds, of all cores together, tell whether the machine had other work meanwhile.
    """

    right: Sequence[bool]
    epochs: float
    seconds: float
    processor: float = 0.0

    @property
    def accuracy(self) -> float:
        return statistics.fmean(self.right)


def main(arguments: Sequence[str] | None = None) -> None:
    """Let every contender have its time, one after the other, and write the rows of the report."""
    options = _options(arguments)
    if options.contender:
        print(json.dumps(dataclasses.asdict(_contend(options))))
        return
    if options.data is None:
        print("skipped: the photos are not part of this project; name a folder of shards with --data or PHOTOS")
        return
    for target in options.targets.split(","):
        found = {}
        for name in ("ours", "trainable", "frozen"):
            found[name] = _ours(options, target) if name == "ours" else _in_child(options, target, name)
            print(f"  {target:<8}{name:<12}{found[name].accuracy:.3f} after {found[name].epochs:g} epochs", flush=True)
        append_rows(_rows(options, target, found))


def _rows(options: argparse.Namespace, target: str, found: dict[str, Attempt]) -> Iterator[Row]:
    profile, ours = PROFILES[target], found["ours"]
    originals = {name: attempt for name, attempt in found.items() if name != "ours"}
    original = max(originals.values(), key=lambda attempt: attempt.accuracy)
    both = " and ".join(f"{name} {each.accuracy:.3f} ({_effort(each)})" for name, each in originals.items())
    how = (
        f"{profile.architecture}, {profile.image_size} px, from scratch, {options.seconds:g} s on {os.cpu_count()} "
        f"cores, {len(ours.right)} held-out photos; ours: {_effort(ours)} in {ours.seconds:.0f} s; "
        f"original, the better one: {both}; standard errors {_error(ours):.3f} and {_error(original):.3f}"
    )
    yield Row(f"trainer_photos.{target}", round(ours.accuracy, 4), "accuracy", round(original.accuracy, 4), None, how)
    differences = [float(one) - float(other) for one, other in zip(ours.right, original.right, strict=True)]
    difference, error = statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    yield Row(
        f"trainer_photos.{target}_margin",
        round(difference / error, 2),
        "standard errors of the difference",
        None,
        GOAL_MARGIN,
        f"paired by photo: {difference:.3f} more are right, with a standard error of {error:.3f}",
    )


def _effort(attempt: Attempt) -> str:
    return f"{attempt.epochs:.1f} epochs, {attempt.processor:.0f} s of processor time"


def _error(attempt: Attempt) -> float:
    return float((attempt.accuracy * (1 - attempt.accuracy) / len(attempt.right)) ** 0.5)


# Ours


def _ours(options: argparse.Namespace, target: str) -> Attempt:
    with tempfile.TemporaryDirectory() as folder:
        trial = _trainer(options, target, Path(folder) / "trial", TRIAL_EPOCHS)
        each = statistics.median(epoch["seconds"] for epoch in trial.history[1:])
        for run in range(RUNS):
            epochs = TRIAL_EPOCHS + int((options.seconds * (1 - MARGIN) - trial.seconds) / each)
            output = Path(folder) / f"run-{run}"
            ran = _trainer(options, target, output, epochs)
            if ran.seconds <= options.seconds:
                command = [*_command("ours", target, options), "--model", str(output / "model")]
                right = json.loads(_output(command))["right"]
                return Attempt(right, len(ran.history), ran.seconds, ran.processor)
            print(f"  {target:<8}{epochs} epochs took {ran.seconds:.0f} s: once more with fewer", flush=True)
            each *= ran.seconds / (options.seconds * (1 - MARGIN))
    raise RuntimeError(f"no run of {target} was done within {options.seconds:g} s: the machine has too much other work")


@dataclasses.dataclass(frozen=True)
class _Training:
    history: Sequence[dict[str, Any]]
    seconds: float
    processor: float


def _trainer(options: argparse.Namespace, target: str, output: Path, epochs: int) -> _Training:
    profile = PROFILES[target]
    command = [sys.executable, "-m", "trainer", "--target", target, "--data", str(options.data)]
    command += ["--labels", options.labels, "--output", str(output), "--epochs", str(epochs)]
    command += ["--architecture", profile.architecture, "--image-size", str(profile.image_size)]
    command += ["--learning-rate", str(profile.learning_rate), "--batch-size", str(BATCH)]
    began, before = time.monotonic(), _processor()
    _output(command)
    seconds, processor = time.monotonic() - began, _processor() - before
    return _Training(json.loads((output / "metrics.json").read_text())["epochs"], seconds, processor)


def _answers(options: argparse.Namespace) -> Attempt:
    """What the saved model says to the photos as files, as they would be sent to it."""
    import tensorflow as tf  # noqa: PLC0415 (seconds, and only the contenders')

    serve = tf.saved_model.load(str(options.model)).signatures["serving_default"]
    right: list[bool] = []
    for serialized in _dataset(options.data, "eval-*").batch(BATCH):
        features = tf.io.parse_example(serialized, _features())
        best = tf.argmax(serve(image_bytes=features["image"])["probabilities"], axis=1)
        right += (best == features["class"]).numpy().tolist()
    return Attempt(right, 0, 0)


# The original


def original(options: argparse.Namespace, *, trainable: bool) -> Attempt:
    """Train as the original did until the time is over."""
    import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    profile = PROFILES[options.target]
    applications = {
        "densenet121": (keras.applications.DenseNet121, keras.applications.densenet.preprocess_input),
        "mobilenet_v3_small": (keras.applications.MobileNetV3Small, keras.applications.mobilenet_v3.preprocess_input),
    }
    factory, preprocess = applications[profile.architecture]

    def parse(serialized: Any) -> Any:
        example = tf.io.parse_single_example(serialized, _features())
        image = tf.io.decode_jpeg(example["image"], channels=3)
        return preprocess(tf.image.resize(image, [profile.image_size, profile.image_size])), example["class"]

    serial = tf.data.Options()
    serial.autotune.enabled = False
    serial.experimental_optimization.apply_default_optimizations = False
    training, held_out = (
        _dataset(options.data, part).map(parse).batch(BATCH).with_options(serial) for part in ("train-*", "eval-*")
    )
    shape = (profile.image_size, profile.image_size, 3)
    base = factory(include_top=False, weights=None, input_shape=shape, pooling="avg")
    base.trainable = trainable
    classes = len(options.labels.split(","))
    model = keras.Sequential([keras.Input(shape), base, keras.layers.Dense(classes, activation="softmax")])
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    watch = _watch(model, held_out, began=options.began, seconds=options.seconds)
    model.fit(training, epochs=100_000, callbacks=[watch], verbose=0)
    return Attempt(watch.best, watch.steps / watch.steps_per_epoch, options.seconds)


def _watch(model: Any, held_out: Any, *, began: float, seconds: float) -> Any:
    """Ends the training when its time is over, and remembers what the best epoch said; its own time does not count."""
    import keras  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no types
        def __init__(self) -> None:
            super().__init__()
            self.best: list[bool] = []
            self.steps = 0
            self.steps_per_epoch = 0
            self._deadline = began + seconds

        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            self.steps += 1
            if time.time() >= self._deadline:
                model.stop_training = True

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.steps_per_epoch = self.steps_per_epoch or self.steps
            asked = time.time()
            answers = [(model(images, training=False), labels) for images, labels in held_out]
            probabilities = np.concatenate([answer for answer, _ in answers])
            truth = np.concatenate([labels for _, labels in answers])
            # The weights of the unfinished epoch count, too.
            self.best = max(self.best, (probabilities.argmax(axis=1) == truth).tolist(), key=sum)
            self._deadline += time.time() - asked

    return Watch()


def _features() -> dict[str, Any]:
    import tensorflow as tf  # noqa: PLC0415

    return {"image": tf.io.FixedLenFeature([], tf.string), "class": tf.io.FixedLenFeature([], tf.int64)}


def _dataset(data: Path, shards: str) -> Any:
    import tensorflow as tf  # noqa: PLC0415

    return tf.data.TFRecordDataset([str(path) for path in sorted(data.glob(shards))])


# Processes


def _contend(options: argparse.Namespace) -> Attempt:
    if options.contender == "ours":
        return _answers(options)
    return original(options, trainable=options.contender == "trainable")


def _in_child(options: argparse.Namespace, target: str, contender: str) -> Attempt:
    before = _processor()
    found = json.loads(_output([*_command(contender, target, options), "--began", str(time.time())]))
    return Attempt(**{**found, "processor": _processor() - before})


def _processor() -> float:
    """Seconds of processor time that the children have had which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _command(contender: str, target: str, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.trainer_photos", "--contender", contender, "--target", target]
    return [*command, "--data", str(options.data), "--labels", options.labels, "--seconds", str(options.seconds)]


def _output(command: Sequence[str]) -> str:
    """The last line that the command prints."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    environment["PYTHONPATH"] = os.pathsep.join(_PATHS)
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    photos = os.environ.get("PHOTOS")
    parser.add_argument("--data", type=Path, default=Path(photos) if photos else None, help="train-* and eval-* shards")
    parser.add_argument("--labels", default=LABELS, help="names of the classes by index, comma-separated")
    parser.add_argument("--seconds", type=float, default=180.0, help="what each contender may take")
    parser.add_argument("--targets", default=",".join(PROFILES))
    for hidden, kind in (("--contender", str), ("--target", str), ("--began", float), ("--model", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
