"""Pictures decoded and resized by TensorFlow's kernels, many at a time: Python's threads would wait for each other.

Pillow does the same for one picture (trainer.data.examples), but copies its pixels three times, and holds the
interpreter meanwhile. Two threads in here keep two cores busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf


class ImageDecoder:
    """Decodes JPEGs and PNGs that `contracts.image_file` has passed: uint8 [pictures, side, side, 3].

    These are the samples of `resize_bilinear`, rounded to whole grey levels.
    """

    def __init__(self, side: int) -> None:
        specification = tf.TensorSpec([side, side, 3], tf.uint8)

        def one(data: tf.Tensor) -> tf.Tensor:
            image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")  # reads PNG as well
            fits = tf.reduce_all(tf.shape(image)[:2] == side)
            return tf.ensure_shape(tf.cond(fits, lambda: image, lambda: _resized(image, side)), [side, side, 3])

        def every(pictures: tf.Tensor) -> tf.Tensor:
            return tf.map_fn(one, pictures, fn_output_signature=specification)

        self._every = tf.function(every, autograph=False).get_concrete_function(tf.TensorSpec([None], tf.string))

    def __call__(self, pictures: Sequence[bytes]) -> npt.NDArray[np.uint8] | None:
        """All pictures, or None when one of them cannot be decoded."""
        try:
            with tf.device("CPU:0"):
                return np.asarray(self._every(tf.constant(list(pictures))))
        except tf.errors.InvalidArgumentError:
            return None


def _resized(image: Any, side: int) -> Any:
    return tf.cast(tf.round(tf.image.resize(image, [side, side], method="bilinear", antialias=False)), tf.uint8)
