"""A new head fitted to features of the pictures that are computed once: seconds instead of epochs.

    each picture and its mirror image ─► base, as it is ─► features ─► softmax regression ─► the head's weights

What a head learns by steps from its first random weights makes the base learn wrong things meanwhile, if it learns at
all; a head that already fits lets the whole base be fine-tuned at once, and at a higher rate.
"""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.architectures import Network
from trainer.loop import regression

log = logging.getLogger("trainer")

#: A head has some thousand weights: more pictures than these tell it nothing new, and their features need memory.
MOST_PICTURES = 20_000

#: Every so many-th picture chooses how strongly large weights are held against the head.
ONE_IN = 5

_BATCH = 64


def fit(
    network: Network,
    pixels: Any,
    labels: npt.NDArray[np.int32],
    *,
    image_size: int,
    smoothing: float,
    class_weights: npt.NDArray[Any] | None = None,
) -> None:
    """Set the weights of the last layer of a network of keras.applications, in place.

    `pixels` uint8 [pictures, side, side, 3] as they are kept to learn from, or what is indexed by positions as that is.
    """
    places = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), MOST_PICTURES)).astype(int))
    features = _features(network, pixels, places, image_size)
    truth = np.repeat(labels[places], 2)
    last = network.model.layers[-1]
    classes = int(last.units)
    target = np.eye(classes)[truth] * (1 - smoothing) + smoothing / classes
    counted = np.ones(len(truth)) if class_weights is None else np.asarray(class_weights, float)[truth]
    # A picture and its mirror image are on one side.
    apart = (np.arange(len(truth)) // 2) % ONE_IN == 0
    weights = regression.fit(features, target, counted, apart).astype(np.float32)
    last.set_weights([weights[:-1], weights[-1]])
    log.info("the head was fitted to features of %d pictures and their mirror images", len(places))


def _features(network: Network, pixels: Any, places: npt.NDArray[np.int64], image_size: int) -> npt.NDArray[np.float64]:
    """What the last layer is given, float64 [2 x pictures, features]: of each picture, and then of its mirror image."""
    base = keras.Model(network.model.inputs, network.model.layers[-1].input)

    def seen(images: tf.Tensor) -> tf.Tensor:
        whole = tf.image.resize(images, [image_size, image_size])
        both = tf.reshape(tf.stack([whole, whole[:, :, ::-1]], axis=1), [-1, image_size, image_size, 3])
        return base(both, training=False)

    ask = tf.function(seen, autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    parts = (places[start : start + _BATCH] for start in range(0, len(places), _BATCH))
    return np.concatenate([np.asarray(ask(tf.constant(np.asarray(pixels[part]))), np.float64) for part in parts])
