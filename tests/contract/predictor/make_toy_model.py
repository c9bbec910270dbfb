"""Writes tiny SavedModels with the trainer's signatures below the given folder, and files that are none.

`good` names the colour that a picture has most of; `nan`, `scores`, `no_labels`, `writes` and `garbage` cannot be
served.
Run as a program, because TensorFlow must not enter the process of the tests.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

LABELS = ("red", "green", "blue")
SIZE = 8


class ToyClassifier(tf.Module):
    """Softmax of the mean colour, with decoding and resizing in the graph."""

    def __init__(self, weights: np.ndarray, *, last: Callable[[tf.Tensor], tf.Tensor] = tf.nn.softmax) -> None:
        super().__init__()
        self.weights = tf.Variable(weights.astype(np.float32))
        self.last = last

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.TensorSpec([SIZE, SIZE, 3], tf.float32)
        pixels = tf.map_fn(_decode, image_bytes, fn_output_signature=shape)
        probabilities = self.last(tf.reduce_mean(pixels / 255.0, axis=[1, 2]) @ self.weights)
        return {
            "label": tf.gather(tf.constant(LABELS), tf.argmax(probabilities, axis=1)),
            "confidence": tf.reduce_max(probabilities, axis=1),
            "probabilities": probabilities,
        }

    @tf.function(input_signature=[])
    def labels(self) -> dict[str, tf.Tensor]:
        return {"labels": tf.constant(LABELS)}


class Writing(tf.Module):
    """A model that writes a file as it answers."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.io.write_file(self.path, "written")
        return {"probabilities": tf.zeros([tf.size(image_bytes), 3])}


def _decode(data: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.image.resize(image, [SIZE, SIZE], method="bilinear", antialias=False)


def main(folder: Path) -> None:
    """Write all of them."""
    good = ToyClassifier(8 * np.eye(3))
    signatures = {"serving_default": good.serve, "labels": good.labels}
    tf.saved_model.save(good, str(folder / "good"), signatures=signatures)
    tf.saved_model.save(good, str(folder / "no_labels"), signatures={"serving_default": good.serve})
    nan, scores = ToyClassifier(np.nan * np.eye(3)), ToyClassifier(8 * np.eye(3), last=tf.identity)
    for name, broken in {"nan": nan, "scores": scores}.items():
        signatures = {"serving_default": broken.serve, "labels": broken.labels}
        tf.saved_model.save(broken, str(folder / name), signatures=signatures)
    writing = Writing(str(folder / "written"))
    tf.saved_model.save(writing, str(folder / "writes"), signatures={"serving_default": writing.serve})
    (folder / "garbage").mkdir()
    (folder / "garbage" / "saved_model.pb").write_bytes(b"no protobuf")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
