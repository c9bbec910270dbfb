"""Random changes to training pictures, on whole batches inside the compiled step; never on held-out ones.

Every random number comes from a seed that the caller gives, not from a generator with a state: an interrupted
training that goes on elsewhere sees the pictures that it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from dualdeploy.contracts.training import Augmentation

#: Smallest part of a picture's side that a zoomed crop keeps.
ZOOM = 0.7

#: Factors of brightness, contrast and saturation are drawn from 1 - x to 1 + x.
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.2, 0.3

#: What the eye makes of red, green and blue (ITU-R BT.601).
_LUMINANCE = (0.299, 0.587, 0.114)

Draw = Callable[..., Any]


def augment(
    images: tf.Tensor, image_size: int, seed: tf.Tensor, strength: Augmentation, *, part: tf.Tensor = 0, parts: int = 1
) -> tf.Tensor:
    """Change uint8 [batch, side, side, 3]; returns float32 [batch, image_size, image_size, 3] in 0..255.

    `seed` is int64 [2]: the same seed gives the same changes. `standard`: crop and zoom, mirror, brightness,
    contrast, saturation; `light`: crop at the same scale, mirror, brightness; `none`: pictures as they are, which
    must then have `image_size`. `part`: `images` are that one of so many equal `parts` of the batch that `seed` is for.
    """
    pixels = tf.cast(images, tf.float32)
    if strength == "none":
        return pixels
    draw = _drawing(seed, tf.shape(pixels)[0], part, parts)
    pixels = _crop(pixels, image_size, draw, zoomed=strength == "standard")
    pixels *= draw(1 - BRIGHTNESS, 1 + BRIGHTNESS)
    if strength == "standard":
        average = tf.reduce_mean(pixels, axis=[1, 2, 3], keepdims=True)
        pixels = average + (pixels - average) * draw(1 - CONTRAST, 1 + CONTRAST)
        grey = tf.reduce_sum(pixels * tf.constant(_LUMINANCE), axis=3, keepdims=True)
        pixels = grey + (pixels - grey) * draw(1 - SATURATION, 1 + SATURATION)
    return tf.clip_by_value(pixels, 0.0, 255.0)


def _drawing(seed: tf.Tensor, size: tf.Tensor, part: tf.Tensor, parts: int) -> Draw:
    """A function that draws one uniform number for each picture, a different one at each call."""
    drawn = 0

    def draw(low: float = 0.0, high: float = 1.0) -> Any:
        nonlocal drawn
        drawn += 1
        each = tf.random.experimental.stateless_fold_in(seed, drawn)
        whole = tf.random.stateless_uniform([parts * size, 1, 1, 1], each, low, high)
        return whole[part * size : (part + 1) * size]

    return draw


def _crop(pixels: tf.Tensor, image_size: int, draw: Draw, *, zoomed: bool) -> tf.Tensor:
    """Cut a window out of each picture, mirror half of them, and bring it to size, in one operation."""
    last = pixels.shape[1] - 1
    extent = tf.fill([tf.shape(pixels)[0]], float(image_size - 1))
    if zoomed:
        extent = draw(ZOOM, 1.0)[:, 0, 0, 0] * last
    room = last - extent
    top, left = draw()[:, 0, 0, 0] * room, draw()[:, 0, 0, 0] * room
    if not zoomed:
        # Whole pixels, so that nothing is interpolated.
        top, left = tf.round(top), tf.round(left)
    # crop_and_resize mirrors when the second edge lies before the first.
    mirrored = draw()[:, 0, 0, 0] < 0.5
    start = tf.where(mirrored, left + extent, left)
    end = tf.where(mirrored, left, left + extent)
    boxes = tf.stack([top, start, top + extent, end], axis=1) / last
    indices = tf.range(tf.shape(pixels)[0])
    return tf.image.crop_and_resize(pixels, boxes, indices, [image_size, image_size])
