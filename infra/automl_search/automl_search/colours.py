"""A search that takes no TensorFlow: which label's mean colour is nearest. For tests that need an answer in a second.

    python -m automl_search.colours train FOLDER
    python -m automl_search.colours serve          # the folder is in AUTOML_MODEL

Its phone file is a real one of three operators, all in uint8 like AutoML's: mean over the picture, one layer, softmax.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from automl_search import folders, serving
from automl_search.folders import Task

#: How sure a nearer colour makes it.
_SHARPNESS = 8.0
_MODEL = "colours.json"


def colour(picture: bytes) -> np.ndarray:
    """The mean colour of a picture, [3], from -1 to 1."""
    with Image.open(io.BytesIO(picture)) as image:
        pixels = np.asarray(image.convert("RGB"), np.float64)
    mean: np.ndarray = (pixels.mean(axis=(0, 1)) - 128.0) / 127.0
    return mean


def train(task: Task) -> None:
    """Learn the mean colour of each label, score the test set, and write a phone file where one is asked for."""
    seen: dict[int, list[np.ndarray]] = {place: [] for place in range(len(task.labels))}
    for picture in task.of_set("training"):
        seen[picture.label].append(colour(task.read(picture)))
    means = np.array([np.mean(colours, axis=0) for colours in seen.values()])
    (task.folder / _MODEL).write_text(json.dumps(means.tolist()), encoding="utf-8")
    test = task.of_set("test")
    folders.write_scores(task, {each.file: scores(means, colour(task.read(each))).tolist() for each in test})
    if task.is_for_phones:
        # Late: the schema of TFLite is a megabyte of Python.
        from automl_search import edge_network  # noqa: PLC0415

        weights, biases = _layer(means)
        folders.write_edge_file(task, edge_network.written(weights, biases, task.labels))


def scores(means: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Softmax of the closeness to each label's colour, [labels]."""
    weights, biases = _layer(means)
    logits = weights @ of + biases
    powers = np.exp(logits - logits.max())
    shares: np.ndarray = powers / powers.sum()
    return shares


def _layer(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distances to the means as one layer: |x - m|² is 2 m·x - |m|² but for what all labels share."""
    return _SHARPNESS * 2 * means, -_SHARPNESS * (means**2).sum(axis=1)


def main() -> None:
    if sys.argv[1] == "train":
        train(folders.read_task(Path(sys.argv[2])))
        return
    means = np.array(json.loads((folders.served_folder() / _MODEL).read_text(encoding="utf-8")))
    serving.serve(lambda picture: scores(means, colour(picture)).tolist())


if __name__ == "__main__":
    main()
