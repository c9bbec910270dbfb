"""What a record must hold: the forms in which labels and pictures are written, and how what cannot be used is named."""

from __future__ import annotations

import io
from typing import Any

import google_crc32c
import pytest
from PIL import Image

from dualdeploy.contracts.example import PRESETS, ExampleSchema, Guess, guess, schema_of
from dualdeploy.images.tfrecord import encode_example, parse_example
from dualdeploy.images.unusable import UnusableRecord


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 8), "teal").save(stream, "JPEG")
    return stream.getvalue()


IMAGE = picture()
LABELS = ("daisy", "tulips", "roses")


def label_of(value: Any, **schema: Any) -> int:
    return ExampleSchema(**{"labels": LABELS, **schema}).read(encode_example({"image": IMAGE, "class": value})).label


def refused(features: dict[str, Any], **schema: Any) -> UnusableRecord:
    with pytest.raises(UnusableRecord) as raised:
        ExampleSchema(**{"labels": LABELS, **schema}).read(encode_example(features))
    assert raised.value.remedy
    return raised.value


@pytest.mark.parametrize(
    ("value", "schema", "label"),
    [
        (2, {}, 2),
        (1, {"first_label": 1}, 0),
        (3, {"first_label": 1}, 2),
        ("tulips", {}, 1),
        (b"roses", {"first_label": 1}, 2),
        ([0, 1, 0], {}, 1),
        ([0.0, 0.0, 1.0], {}, 2),
        ([0.0, 0.0, 1.0], {"first_label": 1}, 2),
        ([2, 2], {}, 2),
        ([2, 2, 2], {"first_label": 1}, 1),
        (["daisy", "daisy"], {}, 0),
        (7, {"labels": None}, 7),
        ([0, 0, 0, 1], {"labels": None}, 3),
        ("Gänseblümchen", {"labels": ("Rose", "Gänseblümchen")}, 1),
        ("3", {"labels": ("1", "2", "3")}, 2),
    ],
)
def test_a_label_is_an_index_a_name_or_one_hot(value: Any, schema: dict[str, Any], label: int) -> None:
    assert label_of(value, **schema) == label


@pytest.mark.parametrize(
    ("value", "schema", "code", "says"),
    [
        (3, {}, "label_out_of_range", "data.first_label: 1"),
        (0, {"first_label": 1}, "label_out_of_range", "data.first_label: 0"),
        (9, {}, "label_out_of_range", "add the missing label"),
        (
            -1,
            {},
            "label_out_of_range",
            "configured labels (0 to 2). a number below 0 mostly",
        ),
        (-1, {"labels": None}, "label_out_of_range", "leave such records out"),
        ("", {}, "label_count", "is an empty text: the record has no label"),
        (" ", {"labels": None}, "label_count", "is an empty text: the record has no label"),
        ("tulips\n", {}, "label_unknown", "write it as `labels` does ('tulips')"),
        ("tulips\r\n", {"labels": None}, "label_unknown", "has a line break"),
        (4, {"first_label": 1}, "label_out_of_range", "outside the 3 configured labels (1 to 3)"),
        (65_536, {"labels": None}, "label_out_of_range", "not between 0 and 65535"),
        ("Tulips", {}, "label_unknown", "write it as `labels` does ('tulips')"),
        ("\ufefftulips", {}, "label_unknown", "write it as `labels` does ('tulips')"),
        (b"tulips\0\0", {}, "label_unknown", "write it as `labels` does ('tulips')"),
        ("gru\u0308n", {"labels": ("gr\u00fcn", "rot")}, "label_unknown", "it only looks like that of `labels`"),
        ("tulip ", {}, "label_unknown", "is not one of the configured labels"),
        ("2", {}, "label_unknown", "a number written as text"),
        (b"\xff\xfe", {}, "label_type", "bytes that are not text"),
        (2.0, {}, "label_type", "is float and not one-hot"),
        ([0.2, 0.7, 0.1], {}, "label_type", "is float and not one-hot"),
        ([1, 1, 0], {}, "label_count", "of which 2 are 1"),
        ([0, 0, 0], {}, "label_count", "of which 0 are 1"),
        ([0, 1], {}, "label_count", "is one-hot of 2 classes, and `labels` names 3"),
        ([1, 2], {}, "label_count", "has 2 values (1, 2), not one class"),
        (["daisy", "roses"], {}, "label_count", "('daisy', 'roses'), not one class"),
        ([], {}, "label_count", "has no value"),
    ],
)
def test_a_label_that_is_none_of_these_is_named(value: Any, schema: dict[str, Any], code: str, says: str) -> None:
    fault = refused({"image": IMAGE, "class": value}, **schema)
    assert fault.code == code
    assert says in f"{fault.problem}. {fault.remedy}"


@pytest.mark.parametrize(
    ("features", "code", "says"),
    [
        ({"image": [1, 2, 3] * 64}, "image_raw_pixels", "holds 192 int64 values"),
        ({"image": [0.5] * 192}, "image_raw_pixels", "holds 192 float values"),
        ({"image": bytes(192), "height": 8, "width": 8}, "image_raw_pixels", "8 x 8 raw pixels"),
        ({"image": bytes(6 * 40 * 3), "image/height": 6, "image/width": 40}, "image_raw_pixels", "6 x 40 raw pixels"),
        ({"image": bytes(range(256)) * 12}, "image_raw_pixels", "looks like 32 x 32 raw pixels"),
        ({"image": bytes(28 * 28)}, "image_raw_pixels", "looks like 28 x 28 raw pixels"),
        ({"image": bytes(30 * 30 * 12)}, "image_raw_pixels", "looks like 60 x 60 raw pixels"),
        ({"image": bytes(17 * 13), "rows": 17, "cols": 13}, "image_raw_pixels", "17 x 13 raw pixels"),
        ({"image": b"x" * 100}, "image_format", "neither JPEG nor PNG"),
        ({"image": b"\x08\x04\x12\x0c\x12\x02\x08\x08" + bytes(99)}, "image_raw_pixels", "a serialised tensor"),
        ({"image": b"GIF89a" + bytes(300)}, "image_format", "looks like a GIF"),
        ({"image": b"/data/1.jpg"}, "image_format", "neither JPEG nor PNG"),
        ({"image": b""}, "image_empty", "is empty"),
        ({"image": 7}, "image_type", "is int64, not bytes"),
        ({"image": [IMAGE, IMAGE]}, "image_count", "has 2 values"),
        ({"photo": IMAGE}, "image_missing", "'photo' looks like it"),
        ({"image_raw": bytes(192), "height": 8, "width": 8}, "image_raw_pixels", "feature 'image_raw': "),
        ({"image_raw": bytes(192), "photo": IMAGE, "height": 8, "width": 8}, "image_missing", "'photo' looks like it"),
    ],
)
def test_what_is_not_a_picture_is_named_raw_pixels_above_all(features: dict[str, Any], code: str, says: str) -> None:
    fault = refused({"class": 0, **features})
    assert fault.code == code
    assert says in f"{fault.problem}. {fault.remedy}"


def test_a_sequence_example_is_called_so() -> None:
    context = encode_example({"label": 1})
    fault_of_context = refused({"label": 1})
    feature_lists = b"\x12\x09\x0a\x07\x0a\x05image"
    with pytest.raises(UnusableRecord, match=r"the record is a tf\.train\.SequenceExample"):
        ExampleSchema(labels=LABELS).read(context + feature_lists)
    assert fault_of_context.code == "image_missing"


def test_a_missing_feature_is_answered_with_the_schema_that_fits() -> None:
    fault = refused({"image/encoded": IMAGE, "image/object/class/label": [1], "image/height": 8})
    assert fault.code == "image_missing"
    assert "data.schema: object-detection" in fault.remedy


@pytest.mark.parametrize("word", ["train", "val", "test", "fold 3", "", None])
def test_a_record_may_name_its_side_and_else_the_checksum_decides(word: str | None) -> None:
    features = {"image": IMAGE, "class": 1} | ({} if word is None else {"split": word})
    schema = ExampleSchema(labels=LABELS)
    example = schema.read(encode_example(features))
    by_checksum = google_crc32c.value(IMAGE) % 5 == 0
    assert schema.is_held_out(example) == {"train": False, "val": True, "test": True}.get(word or "", by_checksum)


def test_names_without_a_list_are_numbered_as_they_are_met() -> None:
    schema = ExampleSchema()
    records = [encode_example({"image": IMAGE, "class": name}) for name in ("b", "a", "b")]
    assert [schema.read(record).label for record in records] == [0, 1, 0]
    assert list(schema.met) == ["b", "a"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_its_writers_write_and_is_guessed_from_a_record(name: str) -> None:
    preset = PRESETS[name]
    surroundings = {"image/height": 8, "image/width": 9, "image/format": "jpeg", "image/filename": "a.jpg", "id": 3}
    example = {preset.image: IMAGE, preset.label: preset.first_label, **surroundings}
    assert guess(parse_example(encode_example(example))) == Guess(preset.image, preset.label, name)
    schema = ExampleSchema(preset.image, preset.label, first_label=preset.first_label, labels=LABELS)
    assert schema.read(encode_example(example)).label == 0


@pytest.mark.parametrize(
    ("features", "image", "label"),
    [
        ({"image_raw": IMAGE, "y": 3, "height": 8}, "image_raw", "y"),
        ({"image": IMAGE, "class": 1, "one_hot_class": [0.0, 1.0]}, "image", "class"),
        ({"jpeg": IMAGE, "species": "daisy", "filename": "daisy.jpg"}, "jpeg", "species"),
        ({"image": IMAGE, "id": "abc", "target_onehot": [0, 1]}, "image", "target_onehot"),
        ({"i/encoded": IMAGE, "i/class/text": "daisy", "i/class/label": 1}, "i/encoded", "i/class/label"),
    ],
)  # fmt: skip
def test_picture_and_label_are_guessed_by_what_they_hold(features: dict[str, Any], image: str, label: str) -> None:
    found = guess(parse_example(encode_example(features)))
    assert found is not None
    assert (found.image, found.label) == (image, label)


@pytest.mark.parametrize("features", [{}, {"image": IMAGE}, {"class": 1}, {"image": IMAGE, "height": 3, "weight": 0.5}])
def test_a_record_without_both_is_not_guessed_at(features: dict[str, Any]) -> None:
    assert guess(parse_example(encode_example(features))) is None


def test_a_run_tells_how_its_records_were_read() -> None:
    config = {"labels": ["a", "b"], "data": {"features": {"image": "x", "label": "y", "more": "z"}, "first_label": 1}}
    assert schema_of(config) == ExampleSchema("x", "y", first_label=1, labels=("a", "b"))
    assert schema_of({"labels": ["a", "b"]}) == ExampleSchema(labels=("a", "b"))
