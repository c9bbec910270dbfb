"""One network from its first weights, or from where an interrupted attempt was, to its measured last ones."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from dualdeploy.training import Course, TrainingJob
from trainer import architectures, checkpoints, evaluation, event_log, recipe
from trainer.architectures import Network
from trainer.background import BackgroundWriter
from trainer.balance import class_weights
from trainer.checkpoints import Checkpoint
from trainer.examples import DataSet, Examples
from trainer.progress import Reporter

log = logging.getLogger("trainer")

#: Held-out pictures that are looked at after every epoch; all of them are at the end.
WATCHED = 500


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained network, its one traced function, and how training went."""

    network: Network
    predict: Any
    history: tuple[Mapping[str, Any], ...]
    course: Course


@dataclasses.dataclass(frozen=True)
class Memory:
    """Where the state after each epoch is kept, and what an earlier attempt left there."""

    writer: BackgroundWriter
    checkpoint: str
    logs: str
    earlier: Checkpoint | None


def fit(job: TrainingJob, data: DataSet, weights: str | Path, memory: Memory, reporter: Reporter) -> Fitted:
    """Build the network that `job` names and train it; state goes to `memory` after each epoch.

    Raises UnusableWeights and DivergedTraining.
    """
    training = job.training
    keras.utils.set_random_seed(training.seed)
    network = architectures.build(
        training.architecture, classes=len(job.labels), image_size=training.image_size, weights=weights
    )
    predict = recipe.inference(network.model, training.image_size)
    some = _some(data.held_out)
    lesson = recipe.Lesson(
        network=network,
        images=data.train.pixels,
        labels=data.train.labels,
        settings=recipe.Settings(
            image_size=training.image_size,
            batch_size=training.batch_size,
            seed=training.seed,
            augmentation=training.augmentation,
            recipe=training.recipe,
            class_weights=_class_weights(job, data),
        ),
        watch=lambda: evaluation.evaluate(predict, some, job.labels),
        listener=_listener(job, memory, reporter),
    )
    plan = recipe.phases(network, epochs=training.epochs, learning_rate=training.learning_rate, recipe=training.recipe)
    earlier = _taken_over(memory)
    reporter.expect(lesson.steps * (training.epochs - (earlier.epoch if earlier else 0)))
    reached = recipe.train(lesson, plan, earlier)
    if reached.epoch < training.epochs:
        log.info("stopped after epoch %d of %d: no better since %d", reached.epoch, training.epochs, reached.best_epoch)
    course = Course(
        epochs=training.epochs,
        epochs_trained=reached.epoch,
        best_epoch=reached.best_epoch,
        resumed_at=reached.resumed_at,
    )
    return Fitted(network, predict, reached.history, course)


def _taken_over(memory: Memory) -> Checkpoint | None:
    if memory.earlier is None:
        return None
    earlier = memory.earlier
    log.info("an earlier attempt got to epoch %d: going on from there", earlier.epoch)
    return dataclasses.replace(earlier, resumed_at=(*earlier.resumed_at, earlier.epoch))


def _listener(job: TrainingJob, memory: Memory, reporter: Reporter) -> recipe.Listener:
    identity = checkpoints.fingerprint(job)

    def after_epoch(report: recipe.EpochReport, reached: Checkpoint) -> None:
        log.info(
            "epoch %d of %d: loss %.3f, accuracy %.3f, held out %.3f, %.0f pictures/s",
            report.epoch,
            report.epochs,
            report.loss,
            report.accuracy,
            report.held_out_accuracy,
            report.images_per_second,
            extra=dataclasses.asdict(report),
        )
        memory.writer.put(memory.checkpoint, lambda: reached.to_bytes(identity))
        for name, content in event_log.encode(reached.history).items():
            memory.writer.put(f"{memory.logs}/{name}", lambda content=content: content)  # type: ignore[misc]

    return recipe.Listener(after_step=reporter.advance, after_epoch=after_epoch)


def _class_weights(job: TrainingJob, data: DataSet) -> Any:
    if job.training.recipe.class_weights == "none":
        return None
    weights = class_weights(data.train.labels, len(job.labels))
    if weights is not None:
        named = ", ".join(f"{label} {weight:.2f}" for label, weight in zip(job.labels, weights, strict=True))
        log.info("the classes are unbalanced; they count %s", named)
    return weights


def _some(examples: Examples) -> Examples:
    """At most about `WATCHED` held-out pictures, evenly spread: enough to see after each epoch where it goes."""
    stride = -(-len(examples) // WATCHED)
    return Examples(examples.pixels[::stride], examples.labels[::stride])
