"""How a network is trained: phases, learning rate, one compiled step, and which epoch's weights are kept.

`compile` and `fit` trace DenseNet121's step twice and spend 54 to 69 s before the first one runs on two cores,
because slot variables and metrics are made inside the traced function. Here every variable exists before tracing
and AdamW is one fused operation for each weight: 10 to 15 s.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dualdeploy.training import Augmentation, Metrics, Recipe
from trainer.architectures import Network
from trainer.augmentation import augment
from trainer.checkpoints import Checkpoint
from trainer.failures import DivergedTraining
from trainer.optimizer import EPSILON, AdamW

log = logging.getLogger("trainer")

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Predict = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of epochs in which the same variables are trained; `batch_statistics` as in training=True.

    `before`: epochs of the phases before this one; `last`: no phase follows.
    """

    name: str
    variables: Sequence[Any]
    epochs: int
    learning_rate: float
    batch_statistics: bool
    before: int = 0
    last: bool = True

    @property
    def end(self) -> int:
        """Epochs trained when this phase is over."""
        return self.before + self.epochs


@dataclasses.dataclass(frozen=True)
class Settings:
    """What does not change from phase to phase. `class_weights` float32 [classes], or None when all count the same."""

    image_size: int
    batch_size: int
    seed: int = 0
    augmentation: Augmentation = "standard"
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    class_weights: npt.NDArray[Any] | None = None


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """One finished epoch; `seconds` is its duration without the evaluation, `held_out_…` that of watched pictures."""

    phase: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float
    held_out_loss: float
    held_out_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float
    finished_at: str


@dataclasses.dataclass(frozen=True)
class Listener:
    """Who is told what: after each step, and after each epoch with all that a new attempt would need."""

    after_step: Callable[[], None]
    after_epoch: Callable[[EpochReport, Checkpoint], None]


def phases(network: Network, *, epochs: int, learning_rate: float, recipe: Recipe) -> list[Phase]:
    """One phase from scratch; head first, then the top of the base, from pretrained weights."""
    if not network.pretrained:
        everything = network.model.trainable_variables
        return [Phase("train", everything, epochs, learning_rate, batch_statistics=True)]
    head = network.head.trainable_variables
    head_epochs = max(1, round(epochs * recipe.head_share))
    if head_epochs >= epochs:
        return [Phase("head", head, epochs, learning_rate, batch_statistics=False)]
    first = int(len(network.base.layers) * (1 - recipe.fine_tuned_share))
    top = [variable for layer in network.base.layers[first:] for variable in layer.trainable_variables]
    rate, rest = learning_rate * recipe.fine_tuning_rate, epochs - head_epochs
    # Batch statistics of small batches would wash out what the published averages know.
    return [
        Phase("head", head, head_epochs, learning_rate, batch_statistics=False, last=False),
        Phase("fine-tune", [*top, *head], rest, rate, batch_statistics=False, before=head_epochs),
    ]


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What is taught, and how it is watched: uint8 images [examples, side, side, 3] with int labels [examples].

    `side` is what `examples.training_side` says. `watch` measures the network as it is, after each epoch.
    """

    network: Network
    images: Pixels
    labels: Labels
    settings: Settings
    watch: Callable[[], Metrics]
    listener: Listener

    @property
    def batch_size(self) -> int:
        """Never more than there is: an incomplete batch is left out, and one must be whole."""
        return min(self.settings.batch_size, len(self.images))

    @property
    def steps(self) -> int:
        """Steps in one epoch."""
        return len(self.images) // self.batch_size


def train(lesson: Lesson, plan: Sequence[Phase], resume: Checkpoint | None = None) -> Checkpoint:
    """Train the network in place; returns how it ended.

    The weights of the epoch with the lowest held-out loss are those that the network has in the end. With `resume`,
    goes on after its last epoch as if there had been no interruption. Raises DivergedTraining.
    """
    prepare_tensorflow()
    reached = resume if resume and _fits(resume, lesson.network.model) else Checkpoint()
    if reached.epoch:
        _put_weights(lesson.network.model, reached.weights)
    for phase in plan:
        if reached.epoch < phase.end:
            reached = _train_phase(lesson, phase, plan[-1].end, reached)
    if reached.best_epoch != reached.epoch:
        _put_weights(lesson.network.model, reached.best_weights)
    return reached


def _train_phase(lesson: Lesson, phase: Phase, total: int, reached: Checkpoint) -> Checkpoint:
    if _hopeless(reached, phase, lesson.settings.recipe):
        return reached
    recipe = lesson.settings.recipe
    optimizer = AdamW([variable.value for variable in phase.variables], decay=recipe.weight_decay)
    if reached.epoch > phase.before:
        optimizer.restore(reached.optimizer)
    step = make_step(lesson, phase, optimizer)
    while reached.epoch < phase.end and not _hopeless(reached, phase, recipe):
        began = time.perf_counter()
        loss, accuracy = _train_epoch(lesson, step, reached.epoch)
        seconds = time.perf_counter() - began
        held_out = lesson.watch()
        _refuse_no_number(loss + held_out.loss, reached.epoch + 1, phase)
        report = EpochReport(
            phase=phase.name,
            epoch=reached.epoch + 1,
            epochs=total,
            loss=loss,
            accuracy=accuracy,
            held_out_loss=held_out.loss,
            held_out_accuracy=held_out.accuracy,
            learning_rate=phase.learning_rate
            * float(schedule((reached.epoch + 0.5 - phase.before) / phase.epochs, recipe.warm_up)),
            seconds=seconds,
            images_per_second=lesson.steps * lesson.batch_size / seconds,
            finished_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        )
        reached = _after(reached, report, lesson.network.model, optimizer if report.epoch < phase.end else None)
        lesson.listener.after_epoch(report, reached)
    return reached


def _train_epoch(lesson: Lesson, step: Callable[..., Any], epoch: int) -> tuple[float, float]:
    """Take the steps of the epoch after `epoch` others; returns the mean loss and accuracy on training pictures."""
    seed = lesson.settings.seed
    # By epoch, not from a generator that goes on: a resumed training has the order that it would have had.
    shuffle = np.random.default_rng([seed, epoch])
    outcomes = []
    for number, (images, labels) in enumerate(batches(lesson.images, lesson.labels, lesson.batch_size, shuffle)):
        outcomes.append(step(images, labels, np.array([seed, epoch * lesson.steps + number], dtype=np.int64)))
        lesson.listener.after_step()
    # Read only now: fetching each step's loss would make an accelerator wait for Python.
    loss, accuracy = np.mean([[float(value) for value in outcome] for outcome in outcomes], axis=0)
    return float(loss), float(accuracy)


def _refuse_no_number(loss: float, epoch: int, phase: Phase) -> None:
    if not math.isfinite(loss):
        raise DivergedTraining(
            f"the loss became {loss} in epoch {epoch}: use a learning_rate below {phase.learning_rate:g}"
        )


def _hopeless(reached: Checkpoint, phase: Phase, recipe: Recipe) -> bool:
    """Whether training ends early: so many epochs of the last phase brought no lower held-out loss."""
    since = reached.epoch - max(reached.best_epoch, phase.before)
    return phase.last and 0 < recipe.early_stopping <= since


def _after(before: Checkpoint, report: EpochReport, model: keras.Model, optimizer: AdamW | None) -> Checkpoint:
    weights = [variable.value.numpy() for variable in model.variables]
    reached = dataclasses.replace(
        before,
        epoch=report.epoch,
        weights=weights,
        optimizer=optimizer.state() if optimizer else (),
        history=(*before.history, dataclasses.asdict(report)),
    )
    if report.held_out_loss < before.best_loss:
        reached = dataclasses.replace(
            reached, best_epoch=report.epoch, best_loss=report.held_out_loss, best_weights=weights
        )
    return reached


def _fits(checkpoint: Checkpoint, model: keras.Model) -> bool:
    """Whether the weights are those of this network: another version of Keras may build another one."""
    fits = [value.shape for value in checkpoint.weights] == [tuple(variable.shape) for variable in model.variables]
    if not fits:
        log.warning("the checkpoint is of a network with other weights; training starts anew")
    return fits


def _put_weights(model: keras.Model, weights: Sequence[npt.NDArray[Any]]) -> None:
    for variable, value in zip(model.variables, weights, strict=True):
        variable.assign(value)


def prepare_tensorflow() -> None:
    """Skip Grappler on a CPU: it rewrites DenseNet121's graph for 5 s there, and the step costs the same after.

    On a GPU it stays: its layout pass is what turns the pictures the way that cuDNN wants them.
    """
    if not tf.config.list_physical_devices("GPU"):
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def batches(
    images: Pixels, labels: Labels, batch_size: int, shuffle: np.random.Generator
) -> Iterator[tuple[Pixels, Labels]]:
    """One epoch in a new order, each batch gathered while the one before it is trained on.

    The pictures are already decoded, so there is nothing here for tf.data to do; its autotuner stalled every third
    epoch by up to a second when the iterator was dropped. An incomplete last batch is left out.
    """
    order = shuffle.permutation(len(images))
    parts = [order[start : start + batch_size] for start in range(0, len(order) - batch_size + 1, batch_size)]

    def gather(part: npt.NDArray[np.int64]) -> tuple[Pixels, Labels]:
        part = np.sort(part)  # a memory-mapped cache is read forward
        return images[part], labels[part]

    with concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as ahead:
        upcoming = ahead.submit(gather, parts[0])
        for following in [*parts[1:], None]:
            batch = upcoming.result()
            if following is not None:
                upcoming = ahead.submit(gather, following)
            yield batch


def make_step(lesson: Lesson, phase: Phase, optimizer: AdamW) -> Callable[..., Any]:
    """A compiled step: augment, forward, backward, AdamW. Returns the batch's loss and accuracy."""
    settings, model = lesson.settings, lesson.network.model
    recipe = settings.recipe
    variables = [variable.value for variable in phase.variables]
    total = float(lesson.steps * phase.epochs)
    classes = int(model.output_shape[-1])
    smooth = recipe.label_smoothing

    @tf.function(autograph=False)
    def step(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = augment(images, settings.image_size, seed, settings.augmentation)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            probabilities = model(pixels, training=phase.batch_statistics)
            target = tf.one_hot(labels, classes) * (1 - smooth) + smooth / classes
            each = -tf.reduce_sum(target * tf.math.log(probabilities + EPSILON), axis=1)
            if settings.class_weights is not None:
                each *= tf.gather(tf.constant(settings.class_weights, tf.float32), labels)
            loss = tf.reduce_mean(each)
        gradients = tape.gradient(loss, variables)
        count = optimizer.steps.assign_add(1.0)
        optimizer.apply(gradients, phase.learning_rate * schedule(count / total, recipe.warm_up))
        hits = tf.equal(tf.argmax(probabilities, axis=1, output_type=labels.dtype), labels)
        return loss, tf.reduce_mean(tf.cast(hits, tf.float32))

    return step  # type: ignore[no-any-return]  # tf.function keeps the signature


def schedule(progress: Any, warm_up: float) -> Any:
    """Share of the learning rate at `progress` (0..1) of a phase: linear warm-up, then half a cosine to zero."""
    cosine = 0.5 * (1 + tf.cos(math.pi * tf.minimum(progress, 1.0)))
    return tf.minimum(progress / warm_up, cosine) if warm_up else cosine


def inference(model: keras.Model, image_size: int) -> Any:
    """Trace the trained model once: float32 [batch, image_size, image_size, 3] pixels to probabilities.

    Evaluation and every exported signature call this one function, so that the network is traced once, not
    four times.
    """

    @tf.function(autograph=False)
    def predict(pixels: tf.Tensor) -> tf.Tensor:
        return model(pixels, training=False)

    return predict.get_concrete_function(tf.TensorSpec([None, image_size, image_size, 3], tf.float32))
