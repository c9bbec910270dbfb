"""The model that serves today, on the new job's held-out pictures: the gate then compares like with like."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dualdeploy.training import Metrics
from trainer import evaluation
from trainer.examples import EncodedPictures

#: Single pictures that are asked about before and while time is taken.
WARM_UP_CALLS, TIMED_CALLS = 3, 20


class UnusableModel(ValueError):
    """The folder holds no model that can be asked the same questions."""


def measure(folder: Path, pictures: EncodedPictures, truth: npt.NDArray[np.int32], labels: Sequence[str]) -> Metrics:
    """Ask the SavedModel in `folder` about the pictures, as files: it decodes and resizes as it always did.

    A class that the model does not know has probability 0; what it says about classes that no longer exist is left
    out. Raises UnusableModel.
    """
    try:
        model = tf.saved_model.load(str(folder))
        known = [label.decode() for label in model.signatures["labels"]()["labels"].numpy()]
        serve = model.signatures["serving_default"]
        began = time.perf_counter()
        answers = [serve(image_bytes=tf.constant(batch))["probabilities"].numpy() for batch in _batches(pictures)]
        seconds = time.perf_counter() - began
    except (OSError, KeyError, ValueError, TypeError, tf.errors.OpError) as exc:
        raise UnusableModel(f"{type(exc).__name__}: {exc}") from exc
    metrics = evaluation.measure(_by_label(np.concatenate(answers), known, labels), truth, labels)
    return metrics.model_copy(update={"images_per_second": round(len(truth) / max(seconds, 1e-9), 1)})


def latency(folder: Path, pictures: Sequence[bytes]) -> float:
    """Median seconds of one picture after the other through the SavedModel in `folder`, as a file is sent to it.

    The first calls, which choose kernels and lay out memory, do not count. Raises UnusableModel.
    """
    try:
        serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
        took = []
        for number in range(WARM_UP_CALLS + TIMED_CALLS):
            picture = tf.constant([pictures[number % len(pictures)]])
            began = time.perf_counter()
            serve(image_bytes=picture)["probabilities"].numpy()
            took.append(time.perf_counter() - began)
    except (OSError, KeyError, ValueError, TypeError, tf.errors.OpError) as exc:
        raise UnusableModel(f"{type(exc).__name__}: {exc}") from exc
    return round(statistics.median(took[WARM_UP_CALLS:]), 6)


def _batches(pictures: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == evaluation.BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _by_label(answers: npt.NDArray[Any], known: Sequence[str], labels: Sequence[str]) -> npt.NDArray[Any]:
    nothing = np.zeros(len(answers), dtype=answers.dtype)
    return np.stack([answers[:, known.index(label)] if label in known else nothing for label in labels], axis=1)
