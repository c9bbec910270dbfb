"""The model that serves today, on the new job's held-out pictures: the gate then compares like with like."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dualdeploy.contracts import saved_model
from dualdeploy.contracts.saved_model import UnusableGraph
from dualdeploy.contracts.training import Metrics
from trainer.data.pictures import EncodedPictures
from trainer.loop import evaluation

log = logging.getLogger("trainer")

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
        model = load(folder)
        known = [label.decode() for label in model.signatures["labels"]()["labels"].numpy()]
        serve = model.signatures["serving_default"]
        tally, position, seconds = evaluation.Tally(), 0, 0.0
        columns = _columns(known, labels)
        for batch in _batches(pictures):
            began = time.perf_counter()
            answered, answers = ask(serve, batch)
            seconds += time.perf_counter() - began
            if answered:
                tally.add(_by_label(answers, columns, len(labels)), truth[position : position + len(batch)][answered])
            position += len(batch)
        metrics = tally.metrics(labels)
    except (UnusableGraph, OSError, KeyError, ValueError, TypeError, tf.errors.OpError) as exc:
        raise UnusableModel(f"{type(exc).__name__}: {exc}") from exc
    if metrics.examples < len(truth):
        log.warning("the live model could not read %d of %d pictures", len(truth) - metrics.examples, len(truth))
    return metrics.model_copy(update={"images_per_second": round(len(truth) / max(seconds, 1e-9), 1)})


def load(folder: Path) -> Any:
    """The SavedModel in `folder`, whose operators are known to be harmless. Raises UnusableGraph."""
    saved_model.check_folder(folder)
    return tf.saved_model.load(str(folder))


def ask(serve: Any, pictures: Sequence[bytes]) -> tuple[list[int], npt.NDArray[Any]]:
    """The places of the pictures that the signature answered, and its probabilities [answered, classes] for them.

    One picture that a model cannot decode must not cost the answers of the others.
    """
    try:
        answers = serve(image_bytes=tf.constant(list(pictures)))["probabilities"].numpy()
        return list(range(len(pictures))), answers
    except tf.errors.InvalidArgumentError:
        if len(pictures) == 1:
            return [], np.zeros((0, 0), np.float32)
    alone = [ask(serve, [picture]) for picture in pictures]
    answered = [place for place, (found, _) in enumerate(alone) if found]
    return answered, np.concatenate([answer for found, answer in alone if found] or [np.zeros((0, 0), np.float32)])


def latency(folder: Path, pictures: Sequence[bytes]) -> float:
    """Median seconds of one picture after the other through the SavedModel in `folder`, as a file is sent to it.

    The first calls, which choose kernels and lay out memory, do not count. Raises UnusableModel.
    """
    try:
        serve = load(folder).signatures["serving_default"]
        took = []
        for number in range(WARM_UP_CALLS + TIMED_CALLS):
            picture = tf.constant([pictures[number % len(pictures)]])
            began = time.perf_counter()
            serve(image_bytes=picture)["probabilities"].numpy()
            took.append(time.perf_counter() - began)
    except (UnusableGraph, OSError, KeyError, ValueError, TypeError, tf.errors.OpError) as exc:
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


def _columns(known: Sequence[str], labels: Sequence[str]) -> tuple[list[int], list[int]]:
    """Where the answers to `labels` are among those to `known`: the former's places, and the latter's."""
    place = {label: number for number, label in enumerate(known)}
    found = [(number, place[label]) for number, label in enumerate(labels) if label in place]
    return [number for number, _ in found], [number for _, number in found]


def _by_label(answers: npt.NDArray[Any], columns: tuple[list[int], list[int]], classes: int) -> npt.NDArray[Any]:
    ordered = np.zeros((len(answers), classes), dtype=answers.dtype)
    ordered[:, columns[0]] = answers[:, columns[1]]
    return ordered
