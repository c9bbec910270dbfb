"""The networks that can be trained: pixels in (float32 RGB, 0..255), probabilities out, scaling inside."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from trainer.failures import UnusableWeights
from trainer.hardware import Policy

#: Seconds that the download of ImageNet weights may take: they are 8 to 30 MB. Keras itself would wait for ever.
DOWNLOAD_TIMEOUT = 300.0

#: Keras' 0.99 (0.999 in MobileNetV3) needs hundreds of steps before the moving averages mean anything: a run of
#: twelve short epochs then trains well and evaluates at chance (measured: 0.20 against 0.71).
BATCH_NORM_MOMENTUM = 0.9

#: Mean and standard deviation of ImageNet's pixels, which DenseNet's published weights were trained with.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network of keras.applications; `scaled_outside`: it expects pixels that were scaled before it."""

    factory: Callable[..., keras.Model]
    scaled_outside: bool
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)


ARCHITECTURES = {
    "densenet121": Architecture(keras.applications.DenseNet121, scaled_outside=True),
    "mobilenet_v3_small": Architecture(
        keras.applications.MobileNetV3Small, scaled_outside=False, arguments={"include_preprocessing": True}
    ),
    "mobilenet_v3_large": Architecture(
        keras.applications.MobileNetV3Large, scaled_outside=False, arguments={"include_preprocessing": True}
    ),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A built classifier: `base` extracts features, `head` is the layer that was made for these labels."""

    model: keras.Model
    base: keras.Model
    head: keras.layers.Layer
    pretrained: bool


def build(
    name: str,
    *,
    classes: int,
    image_size: int,
    weights: str | Path,
    precision: Policy = "float32",
    shared: bool = False,
) -> Network:
    """Build architecture `name` for [image_size, image_size, 3] pixels and `classes` probabilities.

    `weights` is "none", "imagenet", or the file of a saved base without its top. `precision` is the number format of
    the layers in between. `shared`: replicas learn it together, and normalise by the statistics of the whole batch.
    Raises UnusableWeights.
    """
    architecture = ARCHITECTURES[name]
    shape = (image_size, image_size, 3)
    imagenet = weights == "imagenet"

    def make() -> keras.Model:
        return architecture.factory(
            include_top=False,
            weights="imagenet" if imagenet else None,
            input_shape=shape,
            pooling="avg",
            **architecture.arguments,
        )

    with _policy(precision):
        base = _download(make, name) if imagenet else make()
    if isinstance(weights, Path):
        _load(base, weights, name)
    pretrained = weights != "none"
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = shared
            if not pretrained:
                layer.momentum = BATCH_NORM_MOMENTUM
    pixels = keras.Input(shape, name="pixels")
    head = keras.layers.Dense(classes, activation="softmax", dtype="float32", name="probabilities")
    model = keras.Model(pixels, head(base(_scaled(pixels) if architecture.scaled_outside else pixels)))
    return Network(model, base, head, pretrained)


@contextlib.contextmanager
def _policy(precision: Policy) -> Iterator[None]:
    """Layers made in this block compute in `precision`; the networks of keras.applications take no argument for it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _scaled(pixels: keras.KerasTensor) -> keras.KerasTensor:
    scale = [1 / (255 * deviation) for deviation in _IMAGENET_DEVIATION]
    offset = [-mean / deviation for mean, deviation in zip(_IMAGENET_MEAN, _IMAGENET_DEVIATION, strict=True)]
    return keras.layers.Rescaling(scale, offset, name="scaled")(pixels)


def _load(base: keras.Model, path: Path, name: str) -> None:
    try:
        base.load_weights(path)
    except Exception as exc:  # h5py, zipfile and Keras each have errors of their own for a file that does not fit
        raise UnusableWeights(
            f"{path.name} does not hold weights of {name} without its top: {exc}. Save them with "
            f"`keras.applications` (include_top=False) and `base.save_weights('{name}.weights.h5')`"
        ) from exc


def _download(make: Callable[[], keras.Model], name: str) -> keras.Model:
    """Let Keras fetch the published weights, but not for ever: it has no time-out of its own."""
    outcome: list[keras.Model | Exception] = []

    def attempt() -> None:
        try:
            outcome.append(make())
        except Exception as exc:  # noqa: BLE001  # handed to the thread that waits
            outcome.append(exc)

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30.0)
    try:
        thread = threading.Thread(target=attempt, daemon=True, name="imagenet-weights")
        thread.start()
        thread.join(DOWNLOAD_TIMEOUT)
    finally:
        socket.setdefaulttimeout(before)
    if outcome and not isinstance(outcome[0], Exception):
        return outcome[0]
    reason = outcome[0] if outcome else f"no answer within {DOWNLOAD_TIMEOUT:.0f} s"
    raise UnusableWeights(
        f"the ImageNet weights of {name} cannot be downloaded from storage.googleapis.com ({reason}). Use "
        f"`weights: gs://…/{name}.weights.h5` (a copy in a bucket of yours) or `weights: none` (from scratch)"
    )
