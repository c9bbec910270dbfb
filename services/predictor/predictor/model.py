"""The SavedModel, loaded: encoded pictures in, named probabilities out. The only module that imports TensorFlow."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdeploy.contracts import prediction, saved_model
from predictor import accelerators
from predictor.answers import Answer, Fault, Prediction

_SERVE, _LABELS = "serving_default", "labels"
_OUTPUTS = ("label", "confidence", "probabilities")

_log = logging.getLogger("predictor")


class UnusableModel(Exception):
    """The files are no model that this server can serve, or the model answers nonsense."""


@functools.cache
def tensorflow() -> Any:
    """TensorFlow, imported at the first call (seconds), with GPU memory taken as it is needed."""
    import tensorflow as tf  # noqa: PLC0415 - seconds, and only in the process that serves

    for gpu in gpus(tf):
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf


def gpus(tf: Any) -> Sequence[Any]:
    """The GPUs that TensorFlow can use; a GPU that it cannot is worth a warning."""
    usable: Sequence[Any] = tf.config.list_physical_devices("GPU")
    if not usable and accelerators.names(os.environ):
        _log.warning(
            "this TensorFlow cannot use the GPU of this machine, predictions run on its processors: "
            "build the image with tensorflow[and-cuda]"
        )
    return usable


def graph(folder: Path) -> Any:
    """The GraphDef of the SavedModel in `folder`, whose operators are known to be harmless. Raises UnusableGraph."""
    data = saved_model.check_folder(folder)
    tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: PLC0415 - as above

    return SavedModel.FromString(data).meta_graphs[0].graph_def


class ImageModel:
    """A SavedModel with the signatures `serving_default` (image_bytes → label, confidence, probabilities) and
    `labels` (the names, in the order of the probabilities). Thread-safe, as TensorFlow's sessions are.
    """

    def __init__(self, folder: Path, *, largest_batch: int) -> None:
        """Load it, for batches of 1, 2, 4 … `largest_batch`. Raises UnusableModel that says what is missing."""
        tf = self._tf = tensorflow()
        self.sizes = batch_sizes(largest_batch)
        # A processor works for every picture; a GPU has the place, so a batch of 9 costs it hardly less than one of 16.
        self.pads = bool(tf.config.list_logical_devices("GPU"))
        self._grey: bytes = tf.io.encode_jpeg(tf.fill([64, 64, 3], tf.constant(127, tf.uint8))).numpy()
        try:
            # Held on to: a signature alone does not keep the variables of its model alive.
            self._loaded = tf.saved_model.load(str(folder))
        except (OSError, ValueError, tf.errors.OpError) as exc:
            raise UnusableModel(f"TensorFlow cannot load the SavedModel: {exc}") from exc
        signatures = self._loaded.signatures
        missing = [name for name in (_SERVE, _LABELS) if name not in signatures]
        if missing:
            raise UnusableModel(f"the SavedModel has no signature {missing}, only {list(signatures)}")
        self._serve = signatures[_SERVE]
        absent = [name for name in _OUTPUTS if name not in self._serve.structured_outputs]
        if absent or "image_bytes" not in self._serve.structured_input_signature[1]:
            raise UnusableModel(
                f"{_SERVE} must take image_bytes and answer {_OUTPUTS}; it lacks {absent or 'the input'}"
            )
        self.labels = tuple(name.decode() for name in signatures[_LABELS]()["labels"].numpy().tolist())

    def warm_up(self) -> None:
        """Predict on a batch of every size, so that no user pays for the first run of one.

        Raises UnusableModel when the answers are not probabilities of the labels.
        """
        for size in self.sizes:
            for answer in self.predict([self._grey] * size):
                if isinstance(answer, Fault):
                    raise UnusableModel("the model cannot decode a plain grey JPEG")
                if not prediction.are_probabilities(row := answer.probabilities.values()):
                    raise UnusableModel(
                        f"the model's answers sum to {sum(row):.3g}, and probabilities to 1: end it with a softmax"
                    )

    def predict(self, images: Sequence[bytes]) -> list[Answer]:
        """Classify at most the largest batch of JPEGs or PNGs, in order; the graph only sees sizes that were warmed.

        A picture that cannot be decoded is a Fault. Raises UnusableModel when the model is to blame.
        """
        size = next(size for size in self.sizes if size >= len(images))
        try:
            answer = self._run([*images, *itertools.repeat(self._grey, size - len(images))])
        except self._tf.errors.InvalidArgumentError:
            # One bad picture fails its whole batch before the network runs, and the message does not say which:
            # halving finds it, and every good half is answered on the way.
            if len(images) > 1:
                half = len(images) // 2
                return [*self.predict(images[:half]), *self.predict(images[half:])]
            begin = f"{len(images[0])} bytes that begin like a picture but cannot be decoded"
            return [Fault(f"{begin}: send a whole file")]
        return self._read(answer, size)[: len(images)]

    def _read(self, answer: Mapping[str, Any], size: int) -> list[Answer]:
        names, confidences, rows = (answer[name].numpy().tolist() for name in _OUTPUTS)
        if len(rows) != size or any(len(row) != len(self.labels) for row in rows):
            raise UnusableModel(f"the model answers {answer['probabilities'].shape} for {len(self.labels)} labels")
        if not all(math.isfinite(probability) for row in rows for probability in row):
            raise UnusableModel("the model answers NaN or infinity")
        return [
            Prediction(name.decode(), confidence, dict(zip(self.labels, row, strict=True)))
            for name, confidence, row in zip(names, confidences, rows, strict=True)
        ]

    def _run(self, images: Sequence[bytes]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self._serve(image_bytes=self._tf.constant(list(images), self._tf.string))
        return answer


def batch_sizes(largest: int) -> list[int]:
    """1, 2, 4 … and `largest` itself."""
    sizes = [1 << power for power in range(largest.bit_length()) if 1 << power < largest]
    return [*sizes, largest]
