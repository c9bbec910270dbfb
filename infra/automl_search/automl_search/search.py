"""A search of one candidate: our own trainer with settings that a laptop is done with in a minute.

It learns from the training set, keeps the epoch that is best on the validation set, and is judged on the test set,
which it has never seen. For phones the file itself is judged, since it is what an export hands out.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Read by TensorFlow when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from PIL import Image

from automl_search import folders
from automl_search.folders import IMAGE_SIZE, Picture, Task
from dualdeploy.images.pixels import decode_rgb, resize_bilinear
from dualdeploy.images.tfrecord import encode_example, write_records

#: What the trainer is asked for, and how many pictures are looked at, each as often as it comes. 56 pixels go four
#: times into the 224 of a phone's file.
_CLOUD: Mapping[str, Any] = {"architecture": "densenet121", "image_size": 48, "learning_rate": 0.001}
_MOBILE: Mapping[str, Any] = {"architecture": "mobilenet_v3_small", "image_size": 56, "learning_rate": 0.004}
_SEEN = {"cloud": 3_000, "mobile": 6_000}
_FEWEST_EPOCHS, _MOST_EPOCHS = 4, 30
_LARGEST_BATCH = 32
_BATCHES_OF_FEW = 4
#: About so many pictures tell which numbers a phone's network works with.
_CALIBRATION = 100


class TrainerFailed(RuntimeError):
    """The trainer ended with an exit code that is not 0; its log says why."""


def train(task: Task) -> None:
    """Learn, leave the model in the folder, and score the test set."""
    asked = _MOBILE if task.is_for_phones else _CLOUD
    shards = task.folder / "shards"
    shards.mkdir(exist_ok=True)
    picture = _small_for_phones if task.is_for_phones else _taken_by_trainer
    for name, pictures in (("train", task.of_set("training")), ("eval", task.of_set("validation"))):
        write_records(shards / f"{name}.tfrecord", (_record(task, each, picture) for each in pictures))
    _run_trainer(task, asked, shards)
    shutil.rmtree(shards)
    test = task.of_set("test")
    classify = _phone_classifier(task) if task.is_for_phones else served(task.folder)
    folders.write_scores(task, {each.file: list(classify(task.read(each))) for each in test})


def _phone_classifier(task: Task) -> Callable[[bytes], Sequence[float]]:
    """Write the file for phones; what it says of a picture."""
    from automl_search import conversion  # noqa: PLC0415  # TensorFlow, seconds

    training = task.of_set("training")
    stride = max(1, len(training) // _CALIBRATION)
    samples = [phone_pixels(task.read(each)) for each in training[::stride]]
    tflite = conversion.converted(task.folder / "output" / "pixels_model", samples, task.labels)
    folders.write_edge_file(task, tflite)
    interpreter = conversion.Interpreter(tflite)
    return lambda data: interpreter(phone_pixels(data))


def served(folder: Path) -> Callable[[bytes], Sequence[float]]:
    """From a picture's bytes to probabilities, by the SavedModel in the folder of a search."""
    import tensorflow as tf  # noqa: PLC0415  # seconds

    model = tf.saved_model.load(str(folder / "output" / "model"))
    signature = model.signatures["serving_default"]

    def classify(data: bytes) -> Sequence[float]:
        answer = signature(image_bytes=tf.constant([_taken_by_trainer(data)]))["probabilities"].numpy()[0]
        numbers: list[float] = answer.tolist()
        return numbers

    # The signature holds its model by a weak reference only.
    classify.model = model  # type: ignore[attr-defined]
    return classify


def phone_pixels(data: bytes) -> np.ndarray:
    """A picture as an app hands it to the file: uint8 [224, 224, 3]."""
    pixels = np.round(resize_bilinear(decode_rgb(_taken_by_trainer(data)), IMAGE_SIZE))
    whole: np.ndarray = np.clip(pixels, 0, 255).astype(np.uint8)
    return whole


def _small_for_phones(data: bytes) -> bytes:
    """A picture as the network in a phone's file sees it: averaged over squares, so that it learns from just that."""
    size, square = _MOBILE["image_size"], IMAGE_SIZE // _MOBILE["image_size"]
    squares = phone_pixels(data).astype(np.float64).reshape(size, square, size, square, 3).mean(axis=(1, 3))
    return _png(Image.fromarray(np.round(squares).astype(np.uint8)))


def _taken_by_trainer(data: bytes) -> bytes:
    """A picture of any format that AutoML takes, as JPEG or PNG."""
    with Image.open(io.BytesIO(data)) as image:
        return data if image.format in {"JPEG", "PNG"} else _png(image.convert("RGB"))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _record(task: Task, picture: Picture, prepared: Callable[[bytes], bytes]) -> bytes:
    return encode_example({"image": prepared(task.read(picture)), "class": picture.label})


def _run_trainer(task: Task, asked: Mapping[str, Any], shards: Path) -> None:
    from trainer import __main__ as trainer  # noqa: PLC0415

    count, target = len(task.of_set("training")), "mobile" if task.is_for_phones else "cloud"
    output = task.folder / "output"
    job = {
        "run_id": "automl-search",
        "dataset": "automl",
        "target": target,
        "labels": task.labels,
        "shards": {name: [{"uri": str(shards / f"{name}.tfrecord")}] for name in ("train", "eval")},
        "training": {
            **asked,
            "epochs": max(_FEWEST_EPOCHS, min(_MOST_EPOCHS, _SEEN[target] // count)),
            "batch_size": max(1, min(_LARGEST_BATCH, count // _BATCHES_OF_FEW)),
            "max_bad_records": 0.05,
        },
        "output": {"directory": str(output), "result": str(output / "result.json")},
    }
    description = task.folder / "job.json"
    description.write_text(json.dumps(job), encoding="utf-8")
    code = trainer.main(["--target", target, "--job", str(description)])
    if code:
        raise TrainerFailed(f"the trainer ended with exit code {code}")
