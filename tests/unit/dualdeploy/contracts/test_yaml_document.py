"""People write YAML 1.2, and a text field gets what they wrote."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dualdeploy.contracts import dataset_config, yaml_document
from dualdeploy.contracts.dataset_config import DatasetConfig, parse
from dualdeploy.errors import InvalidDatasetConfig

HEAD = "dataset: flowers\nlabels: [a, b]\n"


def value(text: str) -> Any:
    return yaml_document.as_meant(yaml_document.load(text), Any)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((word, word) for word in ("on", "off", "yes", "no", "On", "NO", "y", "n", "tRUE", "nULL", "2:00", "1:30:00")),
        *((word, word) for word in ("2026-11-28", "0b101", "0o8", "0x", "1e", "_1", "1_000", "=", ".", "+")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, None) for word in ("null", "Null", "NULL", "~", "")),
        ("010", 10),
        ("-007", -7),
        ("0o17", 15),
        ("0xFf", 255),
        ("+3", 3),
        ("1.10", 1.1),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("09.5", 9.5),
        ("-.inf", -math.inf),
        (".Inf", math.inf),
        ("'010'", "010"),
        ('"true"', "true"),
        ("!!str 010", "010"),
        ("!!int '010'", 10),
    ],
)
def test_a_plain_scalar_is_what_yaml_1_2_says(text: str, expected: object) -> None:
    found = value(f"a: {text}")["a"]
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "labels",
    [
        *("yes, no", "on, off", "true, false", "null, ~", "DE, NO", "2:00, 3:00"),
        *("001, 010", "1, 2", "1.10, 1.1", "0x1F, 0o7", "1e3, .inf"),
    ],
)
def test_labels_stay_as_they_are_written(labels: str) -> None:
    assert parse(f"dataset: flowers\nlabels: [{labels}]\n", source="x").labels == tuple(labels.split(", "))


@pytest.mark.parametrize(
    ("lines", "read"),
    [
        ("publishing: {min_app_version: 1.10}", lambda config: config.publishing.min_app_version == "1.10"),
        ("data: {features: {image: 001, label: true}}", lambda config: config.data.features.label == "true"),
        ("training: {cloud: {xla: on}}", lambda config: config.training.cloud.xla == "on"),
        ("training: {cloud: {epochs: 010}}", lambda config: config.training.cloud.epochs == 10),
        ("training: {cloud: {accelerator: null}}", lambda config: config.training.cloud.accelerator is None),
        ("training: {cloud: {accelerator: }}", lambda config: config.training.cloud.accelerator is None),
        ("gates: {cloud: {max_regression: ~}}", lambda config: config.gates.cloud.max_regression is None),
        ("serving: {access_log: true}", lambda config: config.serving.access_log is True),
        ("data: {snapshot: {last: 3}}", lambda config: config.data.last_folders == 3),
        ("data: {quiet_period: 90}", lambda config: config.data.quiet_period == 90.0),
    ],
)
def test_a_value_is_read_as_its_field_means_it(lines: str, read: Any) -> None:
    assert read(parse(f"{HEAD}{lines}\n", source="x"))


@pytest.mark.parametrize(
    "lines",
    [
        *(f"{section}:" for section in DatasetConfig.model_fields if section not in ("dataset", "labels")),
        "gates: {cloud: , mobile: null}",
        "training:\n  cloud:\n    # epochs: 3\n  mobile: ~",
        "data:\n  features:",
    ],
)
def test_an_empty_section_is_its_defaults(lines: str) -> None:
    assert parse(f"{HEAD}{lines}\n", source="x") == parse(HEAD, source="x")


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("gates: {cloud: {min_accuracy: yes}}", "gates.cloud.min_accuracy: Input should be a valid number"),
        ("gates: {cloud: {min_accuracy: true}}", "unable to parse string as a number, not 'true'"),
        ("training: {cloud: {epochs: true}}", "unable to parse string as an integer, not 'true'"),
        ("training: {cloud: {timeout: 2:00}}", "may be hours or minutes: write 120m or 120s, not '2:00'"),
        ("data: {quiet_period: true}", "data.quiet_period: must be a duration"),
        ("data: {prefix: null}", "data: prefix must begin with flowers/"),
    ],
)
def test_a_word_where_a_number_belongs_is_refused_as_it_is_written(lines: str, fault: str) -> None:
    with pytest.raises(InvalidDatasetConfig) as caught:
        parse(f"{HEAD}{lines}\n", source="x")
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("training: {cloud: &job {epochs: 3}, mobile: *job}", r"(?s)aliases \(\*job\) are not read.*line 3"),
        ("data: &a [*a]", r"aliases \(\*a\) are not read"),
        ("training: {cloud: {<<: {epochs: 3}}}", r"(?s)merge keys \(<<\) are not read: write the keys out.*line 3"),
        ("gates: {cloud: {min_accuracy: 0.9, min_accuracy: 0.1}}", r"(?s)duplicate key 'min_accuracy'.*line 3"),
        ("? [a]\n: 1", "a key is a list or a mapping, not a word"),
        ("data: !!binary aGk=", "the tag !!binary is not read"),
        ("data: !mine {}", "the tag !mine is not read"),
        ("data: !!int abc", "'abc' is not a value of type int"),
        ("gates:\n\tcloud: {}", r"(?s)'\\t' that cannot start any token: lines are indented with spaces.*line 4"),
        ("data: {shards: *.tfrecord}", r"(?s)a text that begins with \* must stand in quotes.*line 3"),
        ("data: {retrain_schedule: * 3 * * *}", r"a text that begins with \* must stand in quotes"),
        ("data: {split: {eval: *_val}}", r"aliases \(\*_val\) are not read: .*or put it in quotes if it is a text"),
        ("data: {shards: @a}", "a text that begins with @ must stand in quotes"),
        ("data: {shards: [a: b]}", "data.shards.0: .* one with a colon and a space in it stands in quotes"),
    ],
)
def test_what_would_be_a_guess_is_refused_with_its_line(lines: str, fault: str) -> None:
    with pytest.raises(InvalidDatasetConfig, match=fault):
        parse(f"{HEAD}{lines}\n", source="x")


@pytest.mark.parametrize(
    "text",
    [
        "dataset:\tflowers\t# a comment\nlabels:\t[a,\tb]\t\n",
        '{\n\t"dataset": "flowers",\n\t"labels": [\n\t\t"a",\n\t\t"b"\n\t]\n}',
        "dataset: flowers\nlabels:\n- a\t\n- b\n",
    ],
)
def test_tabs_may_stand_between_words_and_indent_json(text: str) -> None:
    assert parse(text, source="x") == parse(HEAD, source="x")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_begin_with_a_byte_order_mark(encoding: str) -> None:
    assert parse("dataset: flowers\r\nlabels: [gänse, b]\r\n".encode(encoding), source="x").labels == ("gänse", "b")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-32"])
def test_another_encoding_is_refused_by_name(encoding: str) -> None:
    with pytest.raises(InvalidDatasetConfig, match="it must be text in UTF-8"):
        parse("dataset: flowers\nlabels: [gänse, b]\n".encode(encoding), source="x")


def test_an_anchor_that_no_alias_uses_harms_nothing() -> None:
    assert parse(f"{HEAD}training: {{cloud: &job {{epochs: 3}}}}", source="x").training.cloud.epochs == 3


def test_a_document_that_is_changed_and_written_again_keeps_its_texts() -> None:
    document = dataset_config.load("dataset: flowers\nlabels: [010, no]\ngates:\n", source="x")
    assert document == {"dataset": "flowers", "labels": ["010", "no"]}
