"""The SavedModel, loaded: encoded pictures in, named probabilities out. The only module that imports TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SERVE, _LABELS = "serving_default", "labels"
_OUTPUTS = ("label", "confidence", "probabilities")


class UnusableModel(Exception):
    """The files are no model that this server can serve, or the model answers nonsense."""


class UndecodableImages(Exception):
    """The graph could not decode some pictures; `faults` says which, by their position."""

    def __init__(self, faults: Mapping[int, str]) -> None:
        super().__init__(f"pictures {sorted(faults)} cannot be decoded")
        self.faults = faults


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The best label, its probability, and the probability of every label."""

    label: str
    confidence: float
    probabilities: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "confidence": self.confidence,
            "probabilities": dict(self.probabilities),
        }


class ImageModel:
    """A SavedModel with the signatures `serving_default` (image_bytes → label, confidence, probabilities) and
    `labels` (the names, in the order of the probabilities). Thread-safe, as TensorFlow's sessions are.
    """

    def __init__(self, folder: Path) -> None:
        """Load it. Raises UnusableModel that says what is missing."""
        import tensorflow as tf  # noqa: PLC0415 - seconds, and only in the process that serves

        self._tf = tf
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

    def warm_up(self, *, largest_batch: int) -> None:
        """Predict on batches of 1, 2, 4 … `largest_batch`, so that no user pays for the first run of a size.

        Raises UnusableModel when the answers are not probabilities of the labels.
        """
        grey = self._tf.io.encode_jpeg(self._tf.fill([64, 64, 3], self._tf.constant(127, self._tf.uint8))).numpy()
        for size in batch_sizes(largest_batch):
            try:
                self.predict([grey] * size)
            except UndecodableImages as exc:
                raise UnusableModel("the model cannot decode a plain grey JPEG") from exc

    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """Classify JPEGs or PNGs, in order. Raises UndecodableImages for the sender's faults, else UnusableModel."""
        try:
            answer = self._run(images)
        except self._tf.errors.InvalidArgumentError as exc:
            # One bad picture fails its whole batch, and the message does not say which: ask for each alone.
            faults = self._faults(images)
            if not faults:
                raise UnusableModel(f"the model fails on a batch whose pictures are good one by one: {exc}") from exc
            raise UndecodableImages(faults) from exc
        names, confidences, rows = (answer[name].numpy().tolist() for name in _OUTPUTS)
        if len(rows) != len(images) or any(len(row) != len(self.labels) for row in rows):
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

    def _faults(self, images: Sequence[bytes]) -> dict[int, str]:
        faults = {}
        for index, image in enumerate(images):
            try:
                self._run([image])
            except self._tf.errors.InvalidArgumentError:
                faults[index] = f"{len(image)} bytes that begin like a picture but cannot be decoded: send a whole file"
        return faults


def batch_sizes(largest: int) -> list[int]:
    """1, 2, 4 … and `largest` itself."""
    sizes = [1 << power for power in range(largest.bit_length()) if 1 << power < largest]
    return [*sizes, largest]
