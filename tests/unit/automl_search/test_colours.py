"""The search without TensorFlow: its phone file is a real one, and says of a picture what the model itself says."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automl_search import colours, folders
from support import automl_data

LABELS = ["tulips", "daisy", "roses"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours")
    listing = automl_data.listed(folder, automl_data.pictures())
    task = {"model_type": "MOBILE_TF_VERSATILE_1", "labels": LABELS, "pictures": listing}
    (folder / "task.json").write_text(json.dumps(task))
    colours.train(folders.read_task(folder))
    return folder


def test_its_file_is_like_those_of_automl_and_agrees_with_its_scores(folder: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    tflite = (folder / "exports" / "tflite" / "model.tflite").read_bytes()
    with zipfile.ZipFile(io.BytesIO(tflite)) as archive:
        assert archive.read("dict.txt").decode().splitlines() == LABELS
    interpreter = Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (given["dtype"], given["quantization"]) == (np.uint8, (pytest.approx(1 / 127), 128))
    assert (answer["dtype"], answer["quantization"]) == (np.uint8, (1 / 256, 0))
    scores = json.loads((folder / "scores.json").read_text())
    task = folders.read_task(folder)
    assert scores.keys() == {each.file for each in task.of_set("test")}
    for each in task.of_set("test"):
        with Image.open(folder / each.file) as image:
            pixels = np.asarray(image.convert("RGB").resize((224, 224)), np.uint8)
        interpreter.set_tensor(given["index"], pixels[None])
        interpreter.invoke()
        assert interpreter.get_tensor(answer["index"])[0] / 256 == pytest.approx(scores[each.file], abs=0.05)
        assert int(np.argmax(scores[each.file])) == each.label


def test_it_learns_from_the_training_set_alone(folder: Path) -> None:
    means = np.array(json.loads((folder / "colours.json").read_text()))
    task = folders.read_task(folder)
    own = [colours.colour(task.read(each)) for each in task.of_set("training") if each.label == 0]
    assert means[0] == pytest.approx(np.mean(own, axis=0))
