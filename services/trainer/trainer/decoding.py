"""JPEGs decoded and resized by TensorFlow's kernels, many at a time: Python's threads would wait for each other.

Pillow does the same for one picture (trainer.examples), but copies its pixels three times, and holds the interpreter
meanwhile. Two threads in here keep two cores busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dualdeploy.images import MAX_PIXELS


class JpegDecoder:
    """Decodes to uint8 [pictures, side, side, 3], the samples of `resize_bilinear` rounded to whole grey levels."""

    def __init__(self, side: int) -> None:
        specification = tf.TensorSpec([side, side, 3], tf.uint8)

        def one(data: tf.Tensor) -> tf.Tensor:
            shape = tf.image.extract_jpeg_shape(data)
            # A few kilobytes can declare gigapixels: what is refused here is looked at alone, and named.
            tf.debugging.assert_less_equal(
                tf.reduce_prod(tf.cast(shape[:2], tf.int64)), tf.constant(MAX_PIXELS, tf.int64)
            )
            image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
            return tf.ensure_shape(
                tf.cond(tf.reduce_all(shape[:2] == side), lambda: image, lambda: _resized(image, side)), [side, side, 3]
            )

        def every(pictures: tf.Tensor) -> tf.Tensor:
            return tf.map_fn(one, pictures, fn_output_signature=specification)

        self._every = tf.function(every, autograph=False).get_concrete_function(tf.TensorSpec([None], tf.string))

    def __call__(self, pictures: Sequence[bytes]) -> npt.NDArray[np.uint8] | None:
        """All pictures, or None when one of them is no JPEG that can be decoded."""
        try:
            with tf.device("CPU:0"):
                return np.asarray(self._every(tf.constant(list(pictures))))
        except tf.errors.InvalidArgumentError:
            return None


def _resized(image: Any, side: int) -> Any:
    return tf.cast(tf.round(tf.image.resize(image, [side, side], method="bilinear", antialias=False)), tf.uint8)
