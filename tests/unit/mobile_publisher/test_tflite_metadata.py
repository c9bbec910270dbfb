"""Describing a model inside its own file, and reading the description back."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from mobile_publisher import tflite_metadata
from mobile_publisher.tflite_metadata import MetadataError

LABELS = ("red", "green", "blue")


def describe(tflite: bytes, **changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "name": "colours",
        "description": "names the mean colour",
        "labels": LABELS,
        "image_size": 8,
        "version": "colours-0123456789ab",
        "extra": {"run_id": "colours-0123456789ab", "metrics": {"accuracy": 0.9}},
    }
    return tflite_metadata.describe(tflite, **{**arguments, **changes})


def answers(tflite: bytes) -> np.ndarray:
    """The model's raw outputs for twenty random inputs."""
    interpreter = Interpreter(model_content=tflite)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    random = np.random.default_rng(7)
    found = []
    for _ in range(20):
        interpreter.set_tensor(source["index"], random.integers(0, 256, source["shape"]).astype(source["dtype"]))
        interpreter.invoke()
        found.append(interpreter.get_tensor(target["index"]))
    return np.stack(found)


def test_what_was_described_is_read_back(tiny_float32: bytes) -> None:
    read = tflite_metadata.read(describe(tiny_float32))
    assert read.name == "colours"
    assert read.description == "names the mean colour"
    assert read.version == "colours-0123456789ab"
    assert read.labels == LABELS
    assert read.image_size == 8
    assert (read.mean, read.std) == ((0.0,), (1.0,))
    assert read.resize["antialias"] is False
    assert read.extra == {"run_id": "colours-0123456789ab", "metrics": {"accuracy": 0.9}}


@pytest.mark.parametrize("model", ["tiny_float32", "tiny_uint8"])
def test_a_described_model_answers_exactly_as_before(model: str, request: pytest.FixtureRequest) -> None:
    tflite = request.getfixturevalue(model)
    np.testing.assert_array_equal(answers(describe(tflite)), answers(tflite))


def test_the_same_description_gives_the_same_bytes_and_twice_is_once(tiny_float32: bytes) -> None:
    once = describe(tiny_float32)
    assert describe(tiny_float32) == once
    assert describe(once) == once


def test_a_new_description_replaces_the_old_one(tiny_float32: bytes) -> None:
    long = describe(tiny_float32, description="x" * 5000, extra={"old": True})
    assert describe(long) == describe(tiny_float32)


def test_every_buffer_of_weights_starts_at_a_multiple_of_16(tiny_float32: bytes) -> None:
    described = describe(tiny_float32)
    model = schema.Model.GetRootAsModel(described, 0)
    starts = []
    for index in range(model.BuffersLength()):
        table = model.Buffers(index)._tab
        field = table.Offset(4)
        if field:
            starts.append(table.Vector(field))
    assert len(starts) > 1
    assert [start % 16 for start in starts] == [0] * len(starts)


def test_any_zip_reader_finds_the_labels(tiny_float32: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(describe(tiny_float32))) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode().splitlines() == list(LABELS)
        # Android's extractor reads stored entries only.
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_labels_and_names_may_be_in_any_script(tiny_float32: bytes) -> None:
    read = tflite_metadata.read(describe(tiny_float32, name="цвета", labels=("rot", "grün", "青")))
    assert read.name == "цвета"
    assert read.labels == ("rot", "grün", "青")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": ("red", "green")}, "2 labels"),
        ({"labels": ("red", "green", "green")}, "different"),
        ({"labels": ("red", "green", " ")}, "not empty"),
        ({"labels": ("red", "green", "bl\nue")}, "one line"),
        ({"image_size": 9}, r"\[1, 9, 9, 3\]"),
    ],
)
def test_a_description_that_is_not_the_models_is_refused(
    tiny_float32: bytes, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(MetadataError, match=says):
        describe(tiny_float32, **changes)


def test_a_model_without_a_description_says_so(tiny_float32: bytes) -> None:
    with pytest.raises(MetadataError, match="carries no description"):
        tflite_metadata.read(tiny_float32)


@pytest.mark.parametrize("data", [b"", b"TFL3", b"GIF89a..................", b"\xff\xff\xff\x7fTFL3" + bytes(20)])
def test_bytes_that_are_not_a_model_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(MetadataError):
        tflite_metadata.read(data)
    with pytest.raises(MetadataError):
        describe(data)


def test_a_file_cut_anywhere_is_a_metadata_error_and_nothing_else(tiny_float32: bytes) -> None:
    whole = describe(tiny_float32)
    for length in range(0, len(whole) - 1, 97):
        # The flatbuffer may be whole while the files behind it are cut off: then the labels that it names are missing.
        with pytest.raises(MetadataError):
            tflite_metadata.read(whole[:length])
