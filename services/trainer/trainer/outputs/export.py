"""The model as its users take it: two SavedModels, a Keras file, and golden examples that prove each copy.

`tf.saved_model.save` of a plain module writes every variable once (33 MB for DenseNet121) where Keras' own export
writes them twice, and all signatures call one traced function, so the network is traced once in all.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from dualdeploy.contracts import saved_model
from dualdeploy.contracts.golden import Picture, encode
from dualdeploy.images.pixels import decode_rgb
from trainer.architectures import Network
from trainer.data.examples import GoldenPicture, written_anew
from trainer.loop.evaluation import BATCH
from trainer.outputs.live import ask, load

log = logging.getLogger("trainer")

#: The one definition of resizing, stated in every manifest; dualdeploy.images.pixels does the same without TensorFlow.
RESIZE = "tf.image.resize(method=bilinear, antialias=False), half-pixel centers, aspect not kept, RGB 0..255"


def write_models(
    network: Network, predict: Any, *, labels: Sequence[str], image_size: int, model: Path, pixels_model: Path
) -> None:
    """Write both SavedModels. Raises UnusableGraph for a network that uses an operator nobody would serve.

    `model`: signature serving_default, input image_bytes [batch] of JPEG or PNG files, outputs label [batch],
    confidence [batch] and probabilities [batch, classes]; signature labels, no input, output labels [classes].
    `pixels_model`: signature serving_default, input pixels float32 [1, image_size, image_size, 3] RGB in 0..255,
    output probabilities [1, classes]; its fixed shape is what the TFLite converter wants.
    """
    weights = [variable.value for variable in network.model.variables]
    # Whoever serves it never learns, so what gradients are made of stays here.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    served = tf.Module()
    served.weights = weights
    served.serve = _serve_bytes(predict, labels, image_size)
    served.labels = tf.function(lambda: {"labels": tf.constant(list(labels))}, input_signature=[])
    signatures = {"serving_default": served.serve, "labels": served.labels}
    tf.saved_model.save(served, str(model), signatures=signatures, options=options)

    on_device = tf.Module()
    on_device.weights = weights
    on_device.serve = _serve_pixels(predict, len(labels), image_size)
    tf.saved_model.save(on_device, str(pixels_model), signatures={"serving_default": on_device.serve}, options=options)
    for folder in (model, pixels_model):
        saved_model.check_folder(folder)


def write_weights(network: Network, folder: Path, *, own: bool) -> None:
    """Write what a later training can start from: `model.keras`, or of somebody's `own` network its weights alone.

    Keras can only save a network whose classes say how they are made again, and load it where these classes are.
    """
    if own:
        inner = next(layer for layer in network.model.layers if isinstance(layer, keras.Model))
        inner.save_weights(folder / "network.weights.h5")
    else:
        network.model.save(folder / "model.keras")


def _serve_bytes(predict: Any, labels: Sequence[str], image_size: int) -> Any:
    names = tf.constant(list(labels))

    def decode(data: tf.Tensor) -> tf.Tensor:
        # decode_jpeg reads PNG as well, and alone lets us ask for the exact cosine transform that Pillow and
        # phones use; decode_image takes a fast one that is up to 5 grey levels off.
        image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
        return tf.image.resize(image, [image_size, image_size], method="bilinear", antialias=False)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.TensorSpec([image_size, image_size, 3], tf.float32)
        probabilities = predict(tf.map_fn(decode, image_bytes, fn_output_signature=shape))
        return {
            "label": tf.gather(names, tf.argmax(probabilities, axis=1)),
            "confidence": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
        }

    return serve


def _serve_pixels(predict: Any, classes: int, image_size: int) -> Any:
    @tf.function(input_signature=[tf.TensorSpec([1, image_size, image_size, 3], tf.float32, name="pixels")])
    def serve(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = predict(pixels)
        probabilities.set_shape([1, classes])
        return {"probabilities": probabilities}

    return serve


def readable(model: Path, pictures: Sequence[GoldenPicture]) -> list[GoldenPicture]:
    """The pictures as the saved `model` can be asked about them: one that it cannot decode is written anew.

    It should not happen (`contracts.image_file`), and a training that was paid for must not end on it.
    """
    serve = load(model).signatures["serving_default"]
    answered: set[int] = set()
    for start in range(0, len(pictures), BATCH):
        found, _ = ask(serve, [picture.data for picture in pictures[start : start + BATCH]])
        answered.update(start + place for place in found)
    refused = [place for place in range(len(pictures)) if place not in answered]
    if refused:
        log.warning("%d golden pictures are written anew: the saved model cannot decode them", len(refused))
    anew = {place: written_anew(decode_rgb(pictures[place].data)) for place in refused}
    return [dataclasses.replace(picture, data=anew.get(place, picture.data)) for place, picture in enumerate(pictures)]


def golden(model: Path, pictures: Sequence[GoldenPicture], labels: Sequence[str]) -> bytes:
    """The golden document: held-out pictures, their true labels, and what the saved `model` itself answers.

    The model is loaded from disk for it: a copy that answers differently was damaged, or resizes differently.
    """
    serve = load(model).signatures["serving_default"]
    answered = []
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        answers = serve(image_bytes=tf.constant([picture.data for picture in batch]))["probabilities"].numpy()
        answered += [
            Picture(image=picture.data, label=labels[picture.label], probabilities=answer.tolist())
            for picture, answer in zip(batch, answers, strict=True)
        ]
    return encode(answered, resize=RESIZE)
