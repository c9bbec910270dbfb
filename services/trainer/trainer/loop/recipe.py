"""How a network is trained: phases, learning rate, one compiled step, and which epoch's weights are kept.

`compile` and `fit` trace DenseNet121's step twice and spend 54 to 69 s before the first one runs on two cores,
because slot variables and metrics are made inside the traced function. Here every variable exists before tracing
and AdamW is one fused operation for each weight: 10 to 15 s.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dualdeploy.contracts.training import Augmentation, Metrics, Recipe
from trainer.architectures import Network
from trainer.loop.augmentation import augment
from trainer.loop.optimizer import AdamW
from trainer.loop.replicas import Team
from trainer.process.checkpoints import Checkpoint
from trainer.process.failures import DivergedTraining, UnusableModule
from trainer.process.hardware import Policy

log = logging.getLogger("trainer")

#: uint8 [examples, side, side, 3], or what is indexed by a list of positions as that is.
Pixels = Any
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
    """What does not change from phase to phase. `class_weights` float32 [classes], or None when all count the same.

    `batch_size` counts the pictures of one step on all replicas together. `precision` is what the network was built
    with; `compiled`: forward and backward pass go through XLA.
    """

    image_size: int
    batch_size: int
    seed: int = 0
    augmentation: Augmentation = "standard"
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    class_weights: npt.NDArray[Any] | None = None
    precision: Policy = "float32"
    compiled: bool = False


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
    """Who is told what: after each step, and after each epoch with all that a new attempt would need.

    A step comes with its loss and accuracy as tensors that are not read yet: reading one makes an accelerator wait.
    """

    after_step: Callable[[Sequence[Any]], None]
    after_epoch: Callable[[EpochReport, Checkpoint], None]


def phases(network: Network, *, epochs: int, learning_rate: float, recipe: Recipe) -> list[Phase]:
    """One phase from scratch; head first, then the top of the base, from pretrained weights.

    A head that was fitted to features (`recipe.head`) needs no phase of its own.
    """
    if not network.pretrained:
        everything = network.model.trainable_variables
        return [Phase("train", everything, epochs, learning_rate, batch_statistics=True)]
    head = network.head
    head_epochs = 0 if recipe.head == "features" else max(1, round(epochs * recipe.head_share))
    if head_epochs >= epochs:
        return [Phase("head", head, epochs, learning_rate, batch_statistics=False)]
    layers = network.layers
    first = int(len(layers) * (1 - recipe.fine_tuned_share))
    top = [variable for layer in layers[first:] for variable in layer.trainable_variables]
    rate, rest = learning_rate * recipe.fine_tuning_rate, epochs - head_epochs
    # Batch statistics of small batches would wash out what the published averages know.
    tuned = Phase("fine-tune", [*top, *head], rest, rate, batch_statistics=False, before=head_epochs)
    if not head_epochs:
        return [tuned]
    return [Phase("head", head, head_epochs, learning_rate, batch_statistics=False, last=False), tuned]


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What is taught, and how it is watched: uint8 images [examples, side, side, 3] with int labels [examples].

    `side` is what `examples.training_side` says. `watch` measures the network as it is, after each epoch. The
    pictures are those of this worker; `fewest` is how many the worker has that has least, if there are others.
    """

    network: Network
    images: Pixels
    labels: Labels
    settings: Settings
    watch: Callable[[], Metrics]
    listener: Listener
    team: Team = dataclasses.field(default_factory=Team)
    fewest: int | None = None

    @property
    def batch_size(self) -> int:
        """Pictures of this worker in one step.

        Never more than there are: an incomplete batch is left out, and one must be whole, on every replica.
        """
        each = min(self.settings.batch_size // self.team.replicas, self._pictures // self.team.local)
        return int(max(1, each) * self.team.local)

    @property
    def steps(self) -> int:
        """Steps in one epoch: no worker can take one alone."""
        return self._pictures // self.batch_size

    @property
    def _pictures(self) -> int:
        return len(self.images) if self.fewest is None else self.fewest


def train(lesson: Lesson, plan: Sequence[Phase], resume: Checkpoint | None = None) -> Checkpoint:
    """Train the network in place; returns how it ended.

    The weights of the epoch with the lowest held-out loss are those that the network has in the end. With `resume`,
    goes on after its last epoch as if there had been no interruption. Raises DivergedTraining.
    """
    prepare_tensorflow()
    reached = resume if resume and _fits(resume, lesson.network.model) else Checkpoint()
    if reached.epoch:
        put_weights(lesson.network.model, reached.weights)
    for phase in plan:
        if reached.epoch < phase.end:
            reached = _train_phase(lesson, phase, plan[-1].end, reached)
    if reached.best_epoch != reached.epoch:
        put_weights(lesson.network.model, reached.best_weights)
    return reached


def _train_phase(lesson: Lesson, phase: Phase, total: int, reached: Checkpoint) -> Checkpoint:
    if _hopeless(reached, phase, lesson.settings.recipe):
        return reached
    recipe = lesson.settings.recipe
    optimizer = make_optimizer(lesson, phase)
    if reached.epoch > phase.before:
        optimizer.restore(reached.optimizer)
    step = make_step(lesson, phase, optimizer)
    while reached.epoch < phase.end and not _hopeless(reached, phase, recipe):
        began = time.perf_counter()
        loss, accuracy = _train_epoch(lesson, phase, step, reached.epoch)
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
            images_per_second=lesson.steps * lesson.batch_size * lesson.team.place.workers / seconds,
            finished_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        )
        reached = _after(reached, report, lesson.network.model, optimizer if report.epoch < phase.end else None)
        lesson.listener.after_epoch(report, reached)
    return reached


def _train_epoch(lesson: Lesson, phase: Phase, step: Callable[..., Any], epoch: int) -> tuple[float, float]:
    """Take the steps of the epoch after `epoch` others; returns the mean loss and accuracy on training pictures."""
    seed, team = lesson.settings.seed, lesson.team
    # By epoch, not from a generator that goes on: a resumed training has the order that it would have had.
    shuffle = np.random.default_rng([seed, epoch, team.place.index])
    outcomes = []
    upcoming = batches(lesson.images, lesson.labels, lesson.batch_size, shuffle, put=team.put)
    for number, (images, labels) in enumerate(itertools.islice(upcoming, lesson.steps)):
        taken = epoch * lesson.steps + number
        count = np.float32(taken - phase.before * lesson.steps + 1)
        outcomes.append(step(images, labels, np.array([seed, taken], dtype=np.int64), count))
        lesson.listener.after_step(outcomes[-1])
    # Read only now: fetching each step's loss would make an accelerator wait for Python.
    loss, accuracy = np.mean([[float(value) for value in outcome] for outcome in outcomes], axis=0)
    return float(loss), float(accuracy)


def _refuse_no_number(loss: float, epoch: int, phase: Phase) -> None:
    if not math.isfinite(loss):
        raise DivergedTraining(
            f"the loss became {loss} in epoch {epoch}: use a learning_rate below {phase.learning_rate:g}"
        )


def _hopeless(reached: Checkpoint, phase: Phase, recipe: Recipe) -> bool:
    """Whether training ends early: so many epochs in the second half of the last phase brought no lower held-out loss.

    In the first half, where the learning rate is high, the held-out loss jumps about without telling anything.
    """
    since = reached.epoch - max(reached.best_epoch, phase.before + phase.epochs // 2)
    return phase.last and 0 < recipe.early_stopping <= since


def _after(before: Checkpoint, report: EpochReport, model: keras.Model, optimizer: AdamW | None) -> Checkpoint:
    weights = weights_of(model)
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


def weights_of(model: keras.Model) -> list[npt.NDArray[Any]]:
    """The values of all variables, in the order of the network."""
    return [variable.value.numpy() for variable in model.variables]


def put_weights(model: keras.Model, weights: Sequence[npt.NDArray[Any]]) -> None:
    for variable, value in zip(model.variables, weights, strict=True):
        variable.assign(value)


def prepare_tensorflow() -> None:
    """Skip Grappler on a CPU: it rewrites DenseNet121's graph for 5 s there, and the step costs the same after.

    On a GPU it stays: its layout pass is what turns the pictures the way that cuDNN wants them.
    """
    if not tf.config.list_physical_devices("GPU"):
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def batches(
    images: Pixels,
    labels: Labels,
    batch_size: int,
    shuffle: np.random.Generator,
    *,
    put: Callable[[Pixels, Labels], tuple[Any, Any]] = lambda images, labels: (images, labels),
) -> Iterator[tuple[Any, Any]]:
    """One epoch in a new order, each batch gathered, and `put` where it is needed, while the one before is trained on.

    The pictures are already decoded, so there is nothing here for tf.data to do; its autotuner stalled every third
    epoch by up to a second when the iterator was dropped. An incomplete last batch is left out.
    """
    order = shuffle.permutation(len(images))
    parts = [order[start : start + batch_size] for start in range(0, len(order) - batch_size + 1, batch_size)]

    def gather(part: npt.NDArray[np.int64]) -> tuple[Pixels, Labels]:
        part = np.sort(part)  # a memory-mapped cache is read forward
        return put(images[part], labels[part])

    with concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as ahead:
        upcoming = ahead.submit(gather, parts[0])
        for following in [*parts[1:], None]:
            batch = upcoming.result()
            if following is not None:
                upcoming = ahead.submit(gather, following)
            yield batch


def make_optimizer(lesson: Lesson, phase: Phase) -> AdamW:
    """AdamW for the variables of a phase, with its state on every replica."""
    settings = lesson.settings
    with lesson.team.scope():
        return AdamW(
            [variable.value for variable in phase.variables],
            decay=settings.recipe.weight_decay,
            scaled=settings.precision == "mixed_float16",
        )


def make_step(lesson: Lesson, phase: Phase, optimizer: AdamW) -> Callable[..., Any]:
    """A traced step: augment, forward, backward, AdamW, the same on every replica.

    Takes the local batch (uint8 images, int32 labels), the seed int64 [2] and the number of the step in its phase,
    from 1; returns loss and accuracy of the whole batch.
    """
    settings, team = lesson.settings, lesson.team
    total, everyone = float(lesson.steps * phase.epochs), float(lesson.batch_size * team.place.workers)
    learn = _gradients(lesson, phase, optimizer, everyone)
    if settings.compiled:
        learn = tf.function(learn, autograph=False, jit_compile=True)

    def on_replica(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, count: tf.Tensor) -> list[tf.Tensor]:
        # Outside of what XLA compiles: it has no crop_and_resize.
        pixels = augment(
            images, settings.image_size, seed, settings.augmentation, part=team.number(), parts=team.replicas
        )
        loss, hits, gradients = learn(pixels, labels)
        rate = phase.learning_rate * schedule(count / total, settings.recipe.warm_up)
        optimizer.apply(team.sum(gradients), rate, count)
        return list(team.sum([loss, hits]))

    @tf.function(autograph=False)
    def step(images: Any, labels: Any, seed: tf.Tensor, count: tf.Tensor) -> Any:
        return team.run(on_replica, (images, labels, seed, count))

    return step  # type: ignore[no-any-return]  # tf.function keeps the signature


def _gradients(lesson: Lesson, phase: Phase, optimizer: AdamW, everyone: float) -> Callable[..., Any]:
    """Forward and backward: a replica's share of the mean loss, of the hits, and of the (scaled) gradients."""
    settings, model = lesson.settings, lesson.network.model
    variables = [variable.value for variable in phase.variables]

    def learn(pixels: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            probabilities = model(pixels, training=phase.batch_statistics)
            each = cross_entropy(probabilities, labels, settings.recipe.label_smoothing)
            if settings.class_weights is not None:
                each *= tf.gather(tf.constant(settings.class_weights, tf.float32), labels)
            loss = tf.reduce_sum(each) / everyone
            scaled = optimizer.scale(loss)
        hits = tf.equal(tf.argmax(probabilities, axis=1, output_type=labels.dtype), labels)
        gradients = tape.gradient(scaled, variables)
        if unused := [found.path for found, each in zip(phase.variables, gradients, strict=True) if each is None]:
            raise UnusableModule(
                f"the answer of the network does not depend on {', '.join(unused[:3])}, so they cannot learn: take "
                "their layers out of it, or set trainable=False on them"
            )
        return loss, tf.reduce_sum(tf.cast(hits, tf.float32)) / everyone, gradients

    return learn


def cross_entropy(probabilities: Any, labels: Any, smoothing: float) -> Any:
    """The loss of each picture [batch]: probabilities [batch, classes] as the network answered them, classes [batch].

    Keras takes it from the scores that the network's softmax was given: of a probability below 1e-7 a logarithm has no
    gradient left, and what the network is most wrong about would teach it nothing.
    """
    classes = probabilities.shape[-1]
    target = tf.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    return keras.ops.categorical_crossentropy(target, probabilities)


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
