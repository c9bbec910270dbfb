"""The trainer's own loop against `keras.Model.fit`: what a short training costs, and how good its network is.

Both get the same first weights, painted flowers, augmentation, learning rate by step, weight decay, label smoothing and
momentum of BatchNorm, and both keep the epoch with the lowest held-out loss. `fit` reads from memory by tf.data with
autotuning off, its best case here. They train in turns, in one process, from scratch; the order in which pictures are
met and the numbers that augmentation draws are each side's own, so one seed says little: ten are compared in pairs.

    python -m benchmarks.trainer_fit [--seeds 10] [--first 0] [--epochs 12] [--image-size 64]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Row, append_rows

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
for source in ("shared/src", "services/trainer", "infra/demo"):
    sys.path.insert(0, str(ROOT / source))

ARCHITECTURE, BATCH, LEARNING_RATE = "mobilenet_v3_small", 32, 0.006
LEARNED, HELD_OUT = 600, 400


@dataclasses.dataclass(frozen=True)
class Case:
    """What both sides are given."""

    seed: int
    epochs: int
    image_size: int
    data: Any
    labels: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Trained:
    """Of one training: held-out accuracy and loss, and CPU seconds up to the first step and in all."""

    accuracy: float
    loss: float
    first_step: float
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Train in turns for each seed, and write the rows of the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed, to go on where an earlier call ended")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--image-size", type=int, default=64)
    options = parser.parse_args(arguments)
    found: dict[str, list[Trained]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        data, labels = painted(Path(folder), options.image_size)
        for seed in range(options.first, options.first + options.seeds):
            case = Case(seed, options.epochs, options.image_size, data, labels)
            # Who goes first has caches to fill.
            turn = list(CONTENDERS) if seed % 2 else list(CONTENDERS)[::-1]
            for name in turn:
                found[name].append(CONTENDERS[name](case))
                print(f"  seed {seed} {name}: {found[name][-1]}", flush=True)
    append_rows(rows(found, f"{ARCHITECTURE}, {options.image_size} px, {options.epochs} epochs, {options.seeds} seeds"))


def rows(found: dict[str, list[Trained]], how: str) -> list[Row]:
    """Medians of what was spent, and the mean difference of each pair with its standard error."""

    def middle(name: str, what: str) -> float:
        return round(statistics.median(getattr(each, what) for each in found[name]), 3)

    spent = [
        Row(f"trainer_fit.{what}", middle("ours", what), "CPU s", middle("fit", what), None, how)
        for what in ("first_step", "seconds")
    ]
    compared = []
    for what in ("accuracy", "loss"):
        pairs = zip(found["ours"], found["fit"], strict=True)
        differences = [getattr(ours, what) - getattr(theirs, what) for ours, theirs in pairs]
        error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
        means = {name: statistics.fmean(getattr(each, what) for each in found[name]) for name in ("ours", "fit")}
        told = f"{how}; ours {means['ours']:.4f}, fit {means['fit']:.4f}; standard error of the pairs {error:.4f}"
        mean = round(statistics.fmean(differences), 4)
        compared.append(Row(f"trainer_fit.{what}", mean, f"difference of held-out {what}", None, None, told))
    return [*spent, *compared]


def painted(folder: Path, image_size: int) -> tuple[Any, Sequence[str]]:
    """Painted flowers, decoded once for both sides."""
    from dualdeploy.contracts.training import FeatureNames  # noqa: PLC0415
    from dualdeploy_demo import flowers  # noqa: PLC0415
    from trainer.data import examples  # noqa: PLC0415
    from trainer.data.examples import Shard  # noqa: PLC0415

    flowers.generate(folder, train=LEARNED, held_out=HELD_OUT, shards=2, style=flowers.Style(side=image_size + 32))
    shards = [Shard(path.name, path) for path in sorted(folder.iterdir())]
    data = examples.load(
        [shard for shard in shards if shard.name.startswith("train")],
        [shard for shard in shards if shard.name.startswith("eval")],
        labels=flowers.LABELS,
        features=FeatureNames(),
        image_size=image_size,
        max_bad_records=0.0,
        folder=folder,
        augmentation="light",
        memory=1 << 30,
    )
    return data, flowers.LABELS


def ours(case: Case) -> Trained:
    """The trainer's loop as a job runs it, without its checkpoints."""
    from dualdeploy.contracts.training import Recipe  # noqa: PLC0415
    from trainer.loop import evaluation, recipe  # noqa: PLC0415

    began, steps = time.process_time(), list[float]()
    network = _network(case)
    predict = recipe.inference(network.model, case.image_size)
    lesson = recipe.Lesson(
        network=network,
        images=case.data.train.pixels,
        labels=case.data.train.labels,
        settings=recipe.Settings(
            image_size=case.image_size, batch_size=BATCH, seed=case.seed, augmentation="light", recipe=_recipe()
        ),
        watch=lambda: evaluation.evaluate(predict, case.data.held_out, case.labels).metrics,
        listener=recipe.Listener(lambda _: steps.append(time.process_time()), lambda *_: None),
    )
    plan = recipe.phases(network, epochs=case.epochs, learning_rate=LEARNING_RATE, recipe=Recipe())
    recipe.train(lesson, plan)
    return _trained(case, network, began, steps[0])


def theirs(case: Case) -> Trained:
    """`compile` and `fit`."""
    import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    from trainer.loop.augmentation import augment  # noqa: PLC0415
    from trainer.loop.recipe import schedule  # noqa: PLC0415

    began, steps = time.process_time(), list[float]()
    network, recipe = _network(case), _recipe()
    epoch = len(case.data.train) // BATCH
    total = float(epoch * case.epochs)

    class Rate(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            return LEARNING_RATE * schedule((tf.cast(step, tf.float32) + 1) / total, recipe.warm_up)

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            steps.append(time.process_time())

    optimizer = keras.optimizers.AdamW(Rate(), weight_decay=recipe.weight_decay)
    optimizer.exclude_from_weight_decay([each for each in network.model.trainable_variables if len(each.shape) < 2])
    optimizer.build(network.model.trainable_variables)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    network.model.compile(optimizer, loss, metrics=["accuracy"])
    classes, options = len(case.labels), tf.data.Options()
    options.autotune.enabled = False
    pictures = tf.data.Dataset.from_tensor_slices((case.data.train.pixels[np.arange(LEARNED)], case.data.train.labels))
    taught = (
        tf.data.Dataset.zip(tf.data.Dataset.counter(), pictures.shuffle(LEARNED, seed=case.seed).repeat().batch(BATCH))
        .map(
            lambda number, pair: (
                augment(pair[0], case.image_size, tf.stack([case.seed, number]), "light"),
                tf.one_hot(pair[1], classes),
            ),
            num_parallel_calls=2,
        )
        .prefetch(2)
        .with_options(options)
    )
    held_out = (case.data.held_out.pixels[0:HELD_OUT], np.eye(classes, dtype=np.float32)[case.data.held_out.labels])
    network.model.fit(
        taught,
        epochs=case.epochs,
        steps_per_epoch=epoch,
        validation_data=held_out,
        validation_batch_size=BATCH,
        callbacks=[Watch(), _keep_the_best(case, network)],
        verbose=0,
    )
    return _trained(case, network, began, steps[0])


def _keep_the_best(case: Case, network: Any) -> Any:
    """By the loss that our side goes by: `val_loss` is smoothed."""
    import keras  # noqa: PLC0415

    from trainer.loop import evaluation, recipe  # noqa: PLC0415

    class Best(keras.callbacks.Callback):  # type: ignore[misc]
        lowest, weights = float("inf"), None

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            def answer(pixels: Any) -> Any:
                return network.model.predict_on_batch(pixels)

            loss = evaluation.evaluate(answer, case.data.held_out, case.labels).metrics.loss
            if loss < self.lowest:
                self.lowest, self.weights = loss, recipe.weights_of(network.model)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            recipe.put_weights(network.model, self.weights)

    return Best()


def _network(case: Case) -> Any:
    import keras  # noqa: PLC0415

    from trainer import architectures  # noqa: PLC0415

    keras.backend.clear_session()
    keras.utils.set_random_seed(case.seed)
    return architectures.build(ARCHITECTURE, classes=len(case.labels), image_size=case.image_size, weights="none")


def _recipe() -> Any:
    from dualdeploy.contracts.training import Recipe  # noqa: PLC0415

    return Recipe(early_stopping=0)


def _trained(case: Case, network: Any, began: float, first: float) -> Trained:
    from trainer.loop import evaluation, recipe  # noqa: PLC0415

    seconds = time.process_time() - began
    predict = recipe.inference(network.model, case.image_size)
    metrics = evaluation.evaluate(predict, case.data.held_out, case.labels).metrics
    return Trained(metrics.accuracy, round(metrics.loss, 4), round(first - began, 2), round(seconds, 2))


CONTENDERS: dict[str, Callable[[Case], Trained]] = {"ours": ours, "fit": theirs}


if __name__ == "__main__":
    main()
