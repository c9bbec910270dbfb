"""Asks the toy model in the given folder directly and prints, as JSON, what it said and which batches its graph saw.

Run as a program, because TensorFlow must not enter the process of the tests.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from predictor import loading, threads
from predictor.answers import Prediction
from predictor.model import ImageModel, graph, tensorflow
from predictor.readiness import Readiness
from predictor.settings import PredictorSettings
from support.pictures import picture


class WatchedModel(ImageModel):
    """Remembers the size of every batch."""

    def __init__(self, folder: Path, *, largest_batch: int) -> None:
        super().__init__(folder, largest_batch=largest_batch)
        self.batches: list[int] = []

    def _run(self, images: Sequence[bytes]) -> Mapping[str, Any]:
        self.batches.append(len(images))
        return super()._run(images)


def main(folder: Path) -> None:
    """Warm up, then ask for five good pictures, and for eight of which one is broken."""
    loading.load(PredictorSettings(storage_uri=str(folder)), Readiness())
    model = WatchedModel(folder, largest_batch=8)
    model.warm_up()
    said: dict[str, Any] = {"sizes": model.sizes, "pads": model.pads, "warmed": model.batches}
    said["multiply_adds"] = list(threads.multiply_adds(graph(folder)))
    said["threads"] = tensorflow().config.threading.get_intra_op_parallelism_threads()
    good = [picture(colour) for colour in ("red", "lime", "blue", "lime", "red")]
    cut = picture("red", "JPEG", size=200)[:-400]
    for name, images in {"five": good, "broken": [*good, cut, picture("blue"), picture("lime")]}.items():
        model.batches = []
        answers = model.predict(images)
        labels = [answer.label if isinstance(answer, Prediction) else None for answer in answers]
        said[name] = {"labels": labels, "batches": model.batches}
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
