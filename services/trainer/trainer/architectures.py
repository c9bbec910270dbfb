"""The networks that can be trained: pixels in (float32 RGB, 0..255), probabilities out, scaling inside."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keras

from dualdeploy.contracts import architectures
from dualdeploy.contracts.architectures import Scaling
from trainer import modules
from trainer.process.failures import UnusableJob, UnusableWeights
from trainer.process.hardware import Policy

#: Seconds that the download of ImageNet weights may take: they are 8 to 30 MB. Keras itself would wait for ever.
DOWNLOAD_TIMEOUT = 300.0

#: Keras' 0.99 (0.999 in MobileNetV3) needs hundreds of steps before the moving averages mean anything: a run of
#: twelve short epochs then trains well and evaluates at chance (measured: 0.20 against 0.71).
BATCH_NORM_MOMENTUM = 0.9

#: Factor and offset of each colour of pixels 0..255. Source: keras/src/applications/imagenet_utils.py
_SCALES: Mapping[Scaling, tuple[Sequence[float], Sequence[float]]] = {
    "unit": ([1 / 127.5] * 3, [-1.0] * 3),
    "torch": (
        [1 / (255 * deviation) for deviation in (0.229, 0.224, 0.225)],
        [-mean / deviation for mean, deviation in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))],
    ),
    "caffe": ([1.0] * 3, [-123.68, -116.779, -103.939]),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A built classifier: `base` extracts features; everything else was made for these labels."""

    model: keras.Model
    base: keras.Model
    pretrained: bool

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers of the base from its input on, those of networks inside it in their place."""
        return list(_flat(self.base))

    @property
    def head(self) -> list[keras.Variable]:
        """The variables that learn and are not the base's."""
        of_base = {id(variable) for variable in self.base.trainable_variables}
        return [variable for variable in self.model.trainable_variables if id(variable) not in of_base]


def build(
    name: str,
    *,
    classes: int,
    image_size: int,
    weights: str | Path,
    precision: Policy = "float32",
    shared: bool = False,
    module: Path | None = None,
) -> Network:
    """Build `name` (of `contracts.architectures`) for [image_size, image_size, 3] pixels and `classes` probabilities.

    `weights` is "none", "imagenet", or the file of a saved base without its top. `precision` is the number format of
    the layers in between. `shared`: replicas learn it together, and normalise by the statistics of the whole batch.
    `module` is the file of a network of somebody's own, which is run; `weights` are then those of all of it.
    Raises UnusableJob for a name that is none, UnusableWeights and UnusableModule.
    """
    if module:
        own = modules.load(module, architectures.module_of(name) or name)
        network = _own(own, classes=classes, image_size=image_size, weights=weights, precision=precision)
        if precision == "float32" and not shared:  # a twin has the same answers
            with modules.blamed(own.name, own.path, "asking it about a picture"):
                modules.check_probabilities(own, network.model, image_size)
    else:
        network = _published(name, classes=classes, image_size=image_size, weights=weights, precision=precision)
    for layer in _normalising(network.model):
        layer.synchronized = shared
        if not network.pretrained:
            layer.momentum = BATCH_NORM_MOMENTUM
    return network


def _published(name: str, *, classes: int, image_size: int, weights: str | Path, precision: Policy) -> Network:
    network = architectures.published(name)
    if network is None:
        raise UnusableJob(f"training.architecture: {architectures.unknown(name)}")
    factory: Callable[..., keras.Model] = getattr(keras.applications, network.name)
    shape = (image_size, image_size, 3)
    imagenet = weights == "imagenet"

    def make() -> keras.Model:
        return factory(include_top=False, weights="imagenet" if imagenet else None, input_shape=shape, pooling="avg")

    with _policy(precision):
        base = _download(make, network.name) if imagenet else make()
    if isinstance(weights, Path):
        _load(
            base,
            weights,
            f"{network.name} without its top",
            f"`keras.applications.{network.name}` (include_top=False) and "
            f"`base.save_weights('{network.name}.weights.h5')`",
        )
    pixels = keras.Input(shape, name="pixels")
    head = keras.layers.Dense(classes, activation="softmax", dtype="float32", name="probabilities")
    model = keras.Model(pixels, head(base(scaled(pixels, network.scaling))))
    return Network(model, base, pretrained=weights != "none")


def _own(own: modules.Module, *, classes: int, image_size: int, weights: str | Path, precision: Policy) -> Network:
    with _policy(precision):
        inner = modules.built(own, classes=classes, image_size=image_size)
        pixels = keras.Input((image_size, image_size, 3))
        answer = modules.answered(own, inner, scaled(pixels, own.pixels), classes=classes)
    if isinstance(weights, Path):
        _load(inner, weights, own.name, "`build(…).save_weights(…)`")
    # Always in a network of ours: one that is a class of the user's then has a shape, and its answer is float32.
    with modules.blamed(own.name, own.path, "building on it"):
        model = keras.Model(pixels, keras.layers.Activation("linear", dtype="float32")(answer))
    modules.check_weights(own, model)
    base = modules.base_of(own, inner)
    # Without a name for the part that is fine-tuned, everything learns at once, whatever it starts from.
    return Network(model, base or inner, pretrained=base is not None and weights != "none")


def _normalising(model: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    """Every BatchNormalization, however deep: people's own layers have layers inside."""
    # Without an underscore Keras has only `layers`, which are those of one level.
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer


@contextlib.contextmanager
def _policy(precision: Policy) -> Iterator[None]:
    """Layers made in this block compute in `precision`; the networks of keras.applications take no argument for it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _flat(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer


def scaled(pixels: keras.KerasTensor, scaling: Scaling) -> keras.KerasTensor:
    """Pixels of 0..255 as the network expects them, by layers that every copy of the model takes along."""
    if scaling == "inside":
        return pixels
    scale, offset = _SCALES[scaling]
    rescaled = keras.layers.Rescaling(scale, offset)(pixels)
    return keras.ops.flip(rescaled, axis=-1) if scaling == "caffe" else rescaled


def _load(network: keras.Model, path: Path, name: str, save: str) -> None:
    try:
        network.load_weights(path)
    except Exception as exc:  # h5py, zipfile and Keras each have errors of their own for a file that does not fit
        raise UnusableWeights(f"{path.name} does not hold weights of {name}: {exc}. Save them with {save}") from exc


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
