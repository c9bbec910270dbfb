"""What stands for AutoML's search really learns, and its phone file is like those that AutoML exports."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dualdeploy.images.pixels import decode_rgb, resize_bilinear
from local_cloud.vertex import searches
from mobile_publisher import tflite_metadata
from support import automl_data

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]
COMMAND = json.loads((REPOSITORY / "infra" / "topology.json").read_text())["automl"]["search"]
#: Not the sorted order, and not that in which the pictures come.
LABELS = ["roses", "tulips", "daisy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search for phones, by the command that the topology names."""
    folder = tmp_path_factory.mktemp("search")
    # AutoML takes more formats than the trainer.
    made = [
        (label, name, written_as("GIF", data) if number % 5 == 0 else data)
        for number, (label, name, data) in enumerate(automl_data.pictures())
    ]
    listing = automl_data.listed(folder, made)
    searches.write_task(folder, model_type="MOBILE_TF_VERSATILE_1", labels=LABELS, pictures=listing)
    path = [REPOSITORY / "shared" / "src", *(REPOSITORY / each for each in COMMAND["path"])]
    done = subprocess.run(
        [sys.executable, *COMMAND["command"][1:], str(folder)],
        cwd=REPOSITORY / COMMAND["folder"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def written_as(image_format: str, picture: bytes) -> bytes:
    """A picture in another format."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").save(stream, image_format)
    return stream.getvalue()


def in_the_test_set(folder: Path) -> list[Mapping[str, Any]]:
    task = json.loads((folder / "task.json").read_text())
    return [each for each in task["pictures"] if each["set"] == "test"]


def test_the_scores_are_those_of_a_classifier_that_learned(folder: Path) -> None:
    files = [each["file"] for each in in_the_test_set(folder)]
    rows = searches.read_scores(folder, files, len(LABELS))
    assert all(sum(row) == pytest.approx(1, abs=0.02) for row in rows)
    right = [
        LABELS[int(np.argmax(row))] == each["label"] for row, each in zip(rows, in_the_test_set(folder), strict=True)
    ]
    assert np.mean(right) > 0.7


def test_the_phone_file_is_like_those_of_automl(folder: Path) -> None:
    exports = folder / searches.EXPORTS
    assert [path.relative_to(exports).as_posix() for path in exports.rglob("*.*")] == ["tflite/model.tflite"]
    tflite = (exports / "tflite" / "model.tflite").read_bytes()
    with zipfile.ZipFile(io.BytesIO(tflite)) as archive:
        (entry,) = archive.infolist()
        assert (entry.filename, entry.compress_type) == ("dict.txt", zipfile.ZIP_STORED)
        assert archive.read(entry).decode().splitlines() == LABELS
    described = tflite_metadata.read(tflite)
    assert (described.mean, described.std, described.image_size) == ((128.0,), (127.0,), 224)

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (given["dtype"], given["shape"].tolist()) == (np.uint8, [1, 224, 224, 3])
    assert given["quantization"] == (pytest.approx(1 / 127), 128)
    assert (answer["dtype"], answer["shape"].tolist(), answer["quantization"]) == (np.uint8, [1, 3], (1 / 256, 0))
    # Whole numbers from end to end.
    assert {each["dtype"] for each in interpreter.get_tensor_details()} <= {np.uint8, np.int8, np.int32}

    for each in in_the_test_set(folder)[:3]:
        picture = written_as("PNG", (folder / each["file"]).read_bytes())
        pixels = resize_bilinear(decode_rgb(picture), 224)
        interpreter.set_tensor(given["index"], np.round(pixels).astype(np.uint8)[None])
        interpreter.invoke()
        scores = interpreter.get_tensor(answer["index"])[0] / 256
        assert scores == pytest.approx(searches.read_scores(folder, [each["file"]], 3)[0], abs=2 / 256)
