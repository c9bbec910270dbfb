"""How a network is trained: phases, learning rate, augmentation, and one compiled step.

`compile` and `fit` trace DenseNet121's step twice and spend 54 to 69 s before the first one runs on two cores,
because slot variables and metrics are made inside the traced function. Here every variable exists before tracing
and Adam is one fused operation for each weight: 10 to 15 s.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.architectures import Network
from trainer.failures import DivergedTraining

WARM_UP = 0.15
LABEL_SMOOTHING = 0.05
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7

#: Share of the epochs that trains only the new head on a pretrained base, and how much slower the rest learns.
HEAD_SHARE = 0.3
FINE_TUNING_RATE = 0.1

#: Share of a pretrained base, counted in layers from its output, that is fine-tuned.
FINE_TUNED_LAYERS = 0.4

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Predict = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of epochs in which the same variables are trained; `batch_statistics` as in training=True."""

    name: str
    variables: Sequence[Any]
    epochs: int
    learning_rate: float
    batch_statistics: bool


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """One finished epoch; `seconds` is its duration without the evaluation."""

    phase: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float
    seconds: float
    images_per_second: float


def phases(network: Network, *, epochs: int, learning_rate: float) -> list[Phase]:
    """One phase from scratch; head first, then the top of the base, from pretrained weights."""
    if not network.pretrained:
        everything = network.model.trainable_variables
        return [Phase("train", everything, epochs, learning_rate, batch_statistics=True)]
    head = network.head.trainable_variables
    head_epochs = max(1, round(epochs * HEAD_SHARE))
    plan = [Phase("head", head, head_epochs, learning_rate, batch_statistics=False)]
    if epochs > head_epochs:
        first = int(len(network.base.layers) * (1 - FINE_TUNED_LAYERS))
        top = [variable for layer in network.base.layers[first:] for variable in layer.trainable_variables]
        rate = learning_rate * FINE_TUNING_RATE
        # Batch statistics of small batches would wash out what the published averages know.
        plan.append(Phase("fine-tune", [*top, *head], epochs - head_epochs, rate, batch_statistics=False))
    return plan


def train(
    network: Network,
    images: Pixels,
    labels: Labels,
    *,
    plan: Sequence[Phase],
    image_size: int,
    batch_size: int,
    seed: int,
    after_step: Callable[[], None],
    after_epoch: Callable[[EpochReport], None],
) -> None:
    """Train `network` in place on uint8 [examples, side, side, 3] images, side >= image_size, and int labels.

    Images larger than `image_size` are cropped at random. Raises DivergedTraining.
    """
    prepare_tensorflow()
    prepare_tensorflow()
    batch_size = min(batch_size, len(images))
    shuffle = np.random.default_rng(seed)
    total = sum(phase.epochs for phase in plan)
    epoch = 0
    for phase in plan:
        step = make_step(network.model, phase, image_size, batch_size, steps=len(images) // batch_size)
        for _ in range(phase.epochs):
            epoch += 1
            began = time.perf_counter()
            outcomes = []
            for batch_images, batch_labels in batches(images, labels, batch_size, shuffle):
                outcomes.append(step(batch_images, batch_labels))
                after_step()
            # Read only now: fetching each step's loss would make an accelerator wait for Python.
            loss, accuracy = np.mean([[float(value) for value in outcome] for outcome in outcomes], axis=0)
            if not math.isfinite(loss):
                raise DivergedTraining(
                    f"the loss became {loss} in epoch {epoch}: use a learning_rate below {phase.learning_rate:g}"
                )
            seconds = time.perf_counter() - began
            rate = len(outcomes) * batch_size / seconds
            after_epoch(EpochReport(phase.name, epoch, total, float(loss), float(accuracy), seconds, rate))


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


def make_step(
    model: keras.Model, phase: Phase, image_size: int, batch_size: int, *, steps: int
) -> Callable[[Any, Any], Any]:
    """A compiled step: augment, forward, backward, Adam. Returns the batch's loss and accuracy."""
    variables = [variable.value for variable in phase.variables]
    moments = [(tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in variables]
    done = tf.Variable(0.0)
    total = float(steps * phase.epochs)
    classes = int(model.output_shape[-1])

    @tf.function(autograph=False)
    def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = augment(images, image_size, batch_size)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            probabilities = model(pixels, training=phase.batch_statistics)
            target = tf.one_hot(labels, classes) * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / classes
            loss = -tf.reduce_mean(tf.reduce_sum(target * tf.math.log(probabilities + EPSILON), axis=1))
        gradients = tape.gradient(loss, variables)
        count = done.assign_add(1.0)
        rate = phase.learning_rate * schedule(count / total)
        for variable, gradient, (first, second) in zip(variables, gradients, moments, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=tf.pow(BETA_1, count),
                beta2_power=tf.pow(BETA_2, count),
                lr=rate,
                beta1=BETA_1,
                beta2=BETA_2,
                epsilon=EPSILON,
                grad=gradient,
            )
        hits = tf.equal(tf.argmax(probabilities, axis=1, output_type=labels.dtype), labels)
        return loss, tf.reduce_mean(tf.cast(hits, tf.float32))

    return step  # type: ignore[no-any-return]  # tf.function keeps the signature


def schedule(progress: Any) -> Any:
    """Share of the learning rate at `progress` (0..1) of a phase: linear warm-up, then half a cosine to zero."""
    return tf.minimum(progress / WARM_UP, 0.5 * (1 + tf.cos(math.pi * tf.minimum(progress, 1.0))))


def augment(images: tf.Tensor, image_size: int, batch_size: int) -> tf.Tensor:
    """Random crop, mirror and brightness of uint8 [batch, side, side, 3]; returns float32 in 0..255."""
    pixels = tf.cast(images, tf.float32)
    if images.shape[1] != image_size:
        pixels = tf.image.random_crop(pixels, [batch_size, image_size, image_size, 3])
    each = [batch_size, 1, 1, 1]
    pixels = tf.where(tf.random.uniform(each) < 0.5, pixels, tf.reverse(pixels, [2]))
    return tf.clip_by_value(pixels * tf.random.uniform(each, 0.8, 1.2), 0.0, 255.0)


def inference(model: keras.Model, image_size: int) -> Any:
    """Trace the trained model once: float32 [batch, image_size, image_size, 3] pixels to probabilities.

    Evaluation and every exported signature call this one function, so that the network is traced once, not
    four times.
    """

    @tf.function(autograph=False)
    def predict(pixels: tf.Tensor) -> tf.Tensor:
        return model(pixels, training=False)

    return predict.get_concrete_function(tf.TensorSpec([None, image_size, image_size, 3], tf.float32))
