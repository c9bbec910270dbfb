"""From the trainer's network for phones to a file like those that AutoML exports: whole numbers from end to end."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from automl_search import edge_file
from automl_search.edge_file import DEVIATION, MEAN
from automl_search.folders import IMAGE_SIZE


def converted(pixels_model: Path, samples: Sequence[np.ndarray], labels: Sequence[str]) -> bytes:
    """The file of a SavedModel that takes float32 [1, px, px, 3] in 0..255, calibrated with uint8 [224, 224, 3]."""
    with tempfile.TemporaryDirectory() as folder:
        _save_normalised(pixels_model, folder)
        # from_saved_model: with Keras 3 the other ways silently write a model of NaN.
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        # From black to white, so that the input's scale is 1/127 and its zero point 128.
        extremes = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        extremes[: IMAGE_SIZE // 2] = 255
        pictures = [(each.astype(np.float32)[None] - MEAN) / DEVIATION for each in (extremes, *samples)]
        converter.representative_dataset = lambda: ([picture.astype(np.float32)] for picture in pictures)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
        return edge_file.wrapped(converter.convert(), labels)


def _save_normalised(pixels_model: Path, folder: str) -> None:
    """The model behind the input that AutoML's files have: 224 pixels, from -128/127 to 1."""
    network = tf.saved_model.load(str(pixels_model))
    signature = network.signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    square = IMAGE_SIZE // signature.structured_input_signature[1][name].shape[1]

    @tf.function(input_signature=[tf.TensorSpec([1, IMAGE_SIZE, IMAGE_SIZE, 3], tf.float32, name="image")])
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        small = tf.nn.avg_pool2d(image, square, square, "VALID")
        return {"scores": signature(**{name: small * DEVIATION + MEAN})["probabilities"]}

    module = tf.Module()
    module.network, module.serve = network, serve
    tf.saved_model.save(module, folder, signatures={"serving_default": serve})


class Interpreter:
    """Runs a file: from uint8 [224, 224, 3] to a number for each label."""

    def __init__(self, tflite: bytes) -> None:
        from ai_edge_litert import interpreter  # noqa: PLC0415  # beside TensorFlow's own, which is going away

        self._interpreter = interpreter.Interpreter(model_content=tflite, num_threads=2)
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()

    def __call__(self, pixels: np.ndarray) -> list[float]:
        self._interpreter.set_tensor(self._input["index"], pixels[None])
        self._interpreter.invoke()
        scale, zero = self._output["quantization"]
        whole = self._interpreter.get_tensor(self._output["index"])[0].astype(np.float64)
        numbers: list[float] = ((whole - zero) * scale).tolist()
        return numbers
