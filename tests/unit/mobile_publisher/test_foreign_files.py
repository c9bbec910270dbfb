"""Files that others made, as Vertex AI's AutoML does: read by their own word about input, labels and output."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobile_publisher import on_device, tflite_metadata
from mobile_publisher.on_device import UnusableModel
from support import tflite_files
from support.tflite_files import AXIS_LABELS, DESCRIPTIONS, UNKNOWN, VALUE_LABELS

FIXTURES = Path(__file__).parents[2] / "fixtures"
COLOURS = ("red", "lime", "blue")

#: As the network answers: red, then green, then blue.
TRUE_ORDER = ("red", "green", "blue")

#: Files of different inputs, and what they say of it; each is the same network inside.
CENTRED = {"mean": [128.0], "std": [127.0]}
INPUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "float32, nothing said": ("float32", {}),
    "float32, mean 0 and std 1": ("float32", {"mean": [0.0], "std": [1.0]}),
    "float32, -1 to 1": ("centred_float32", CENTRED),
    "float32, -1 to 1, for each channel": ("centred_float32", {"mean": [128.0] * 3, "std": [127.0] * 3}),
    "float32, a mean and std of each channel": (
        "channels_float32",
        {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
    ),
    "uint8, nothing said": ("uint8", {}),
    "uint8, mean 0 and std 1": ("uint8", {"mean": [0.0], "std": [1.0]}),
    "uint8, as AutoML exports it": ("centred_uint8", CENTRED),
    "uint8, as AutoML exports it, nothing said": ("centred_uint8", {}),
    "uint8, a mean between two numbers": ("centred_uint8", {"mean": [127.5], "std": [127.5]}),
    "int8, -1 to 1": ("centred_int8", CENTRED),
    "int8, nothing said": ("centred_int8", {}),
}


def file(name: str) -> bytes:
    return (FIXTURES / f"tiny_{name}.tflite").read_bytes()


@pytest.mark.parametrize("kind", INPUTS)
def test_a_picture_becomes_the_input_that_the_file_asks_for(kind: str, picture: Callable[[str], bytes]) -> None:
    name, says = INPUTS[kind]
    tflite = tflite_files.foreign(file(name), **says)
    ours = on_device.Classifier(file("float32"), labels=TRUE_ORDER)
    found = on_device.Classifier(tflite, labels=TRUE_ORDER)
    # Shades tell more than pure colours: an input that is cut off at 255 still calls pure red red.
    for colour in (*COLOURS, "#c02010", "#a0b020", "#406080", "#303038", "#e8e0f0"):
        expected = ours.probabilities(picture(colour))
        np.testing.assert_allclose(found.probabilities(picture(colour)), expected, atol=0.04, err_msg=colour)


@pytest.mark.parametrize("order", list(itertools.permutations(TRUE_ORDER)), ids=" ".join)
def test_labels_may_stand_in_any_order(order: tuple[str, ...], picture: Callable[[str], bytes]) -> None:
    # The output's order is fixed, so the file's words are what they are; it is our own order that differs.
    tflite = tflite_files.automl(file("centred_uint8"), TRUE_ORDER)
    pairs = [(picture(colour), order.index(name)) for colour, name in zip(COLOURS, TRUE_ORDER, strict=True)]
    found = on_device.evaluate(tflite, pairs, labels=order)
    assert found.accuracy == 1.0
    assert found.confusion == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert [(each.label, each.predicted) for each in found.answers] == [(name, name) for name in TRUE_ORDER]
    assert {label: row["recall"] for label, row in found.per_class.items()} == dict.fromkeys(order, 1.0)
    golden = [(picture("red"), [1.0 if label == "red" else 0.0 for label in order])]
    assert on_device.agreement(tflite, golden, labels=order).max_difference < 0.05


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"dict.txt": "{}"}, [("dict.txt", AXIS_LABELS, "")]),
        ({"labels.txt": "{}"}, [("labels.txt", VALUE_LABELS, "")]),
        ({"classes": "{}"}, [("classes", UNKNOWN, "")]),
        # The tensor's word counts, not the usual name.
        ({"labels.txt": "a\nb\nc\n", "mine.txt": "{}"}, [("mine.txt", AXIS_LABELS, "")]),
        ({"about": "x", "dict.txt": "{}"}, [("about", DESCRIPTIONS, ""), ("dict.txt", AXIS_LABELS, "")]),
        ({"de": "rot\ngrün\nblau\n", "x": "{}"}, [("de", AXIS_LABELS, "de"), ("x", AXIS_LABELS, "")]),
        ({"dict.txt": "{}"}, []),
        ({"labels.txt": "{}"}, []),
    ],
)
@pytest.mark.parametrize("text", ["red\ngreen\nblue\n", "red\r\ngreen\r\nblue", "\ufeffred\ngreen\nblue\n\n\n"])
def test_labels_are_found_where_the_output_tensor_says(
    files: dict[str, str], named: list[tuple[str, int, str]], text: str
) -> None:
    inside = {name: content.format(text) for name, content in files.items()}
    tflite = tflite_files.foreign(file("centred_uint8"), files=inside, named=named)
    assert on_device.Classifier(tflite).labels == TRUE_ORDER


def test_labels_behind_a_file_that_says_nothing_are_found(picture: Callable[[str], bytes]) -> None:
    tflite = tflite_files.zipped(file("centred_uint8"), {"dict.txt": "red\ngreen\nblue\n"})
    assert on_device.Classifier(tflite, labels=("blue", "red", "green")).classify(picture("lime")).label == "green"


@pytest.mark.parametrize(
    ("inside", "says"),
    [
        (("red", "green"), "blue missing, none too many"),
        (("red", "green", "blue", "pink"), "none missing, pink too many"),
        (("red", "green", "pink"), "blue missing, pink too many"),
        (("red", "green", "Blue"), "blue missing, Blue too many"),
        (("red", "red", "blue"), "more than one of its classes red"),
        (("red", "", "blue"), "green missing"),
    ],
)
def test_labels_that_are_not_the_data_sets_are_named(inside: tuple[str, ...], says: str) -> None:
    tflite = tflite_files.automl(file("centred_uint8"), inside)
    with pytest.raises(UnusableModel, match=says):
        on_device.Classifier(tflite, labels=TRUE_ORDER)


def test_as_many_labels_as_answers(picture: Callable[[str], bytes]) -> None:
    with pytest.raises(UnusableModel, match=r"answers \[1, 3\], which does not fit 2 labels"):
        on_device.Classifier(tflite_files.automl(file("centred_uint8"), ("red", "blue")))


def test_a_labels_file_that_is_named_and_away_is_an_error_and_no_guess() -> None:
    tflite = tflite_files.foreign(file("uint8"), files={"labels.txt": "a\nb\nc"}, named=[("dict.txt", AXIS_LABELS, "")])
    with pytest.raises(UnusableModel, match=r"dict.txt, which is not there"):
        on_device.Classifier(tflite, labels=TRUE_ORDER)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([128.0], [0.0]),
        ([128.0], []),
        ([], [127.0]),
        ([1.0, 2.0], [1.0, 2.0]),
        ([float("nan")], [1.0]),
        ([0.0] * 3, [1.0, 0.0, 1.0]),
    ],
)
def test_a_normalization_that_nothing_can_be_reckoned_with_is_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(UnusableModel, match="normalization"):
        on_device.Classifier(tflite_files.foreign(file("centred_uint8"), mean=mean, std=std), labels=TRUE_ORDER)


def test_a_foreign_file_that_is_cut_off_is_refused_and_nothing_else() -> None:
    whole = tflite_files.automl(file("centred_uint8"), TRUE_ORDER)
    for length in range(8, len(whole) - 1, 61):
        with pytest.raises(tflite_metadata.MetadataError):
            tflite_metadata.read(whole[:length])
