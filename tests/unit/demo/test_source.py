"""The demo on a folder of the user's own TFRecords."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dualdeploy.contracts import dataset_config
from dualdeploy.images.tfrecord import encode_example, write_records
from dualdeploy_demo import source


def shard(path: Path, labels: Sequence[int], *, image: bytes = b"\xff\xd8 a picture") -> None:
    write_records(path, [encode_example({"image": image + bytes([label]), "class": label}) for label in labels])


def test_a_path_that_is_not_a_folder_is_refused_with_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(source.UnusableFolder, match="--data must name one"):
        source.folder(tmp_path / "absent")


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(source.UnusableFolder, match=r"holds no shards: only readme\.txt is there"):
        source.folder(tmp_path)


def test_labels_txt_names_the_classes(tmp_path: Path) -> None:
    shard(tmp_path / "train.tfrecord", [0, 1, 2])
    (tmp_path / "labels.txt").write_text("cat\ndog\nhen\n")
    found = source.folder(tmp_path)
    assert found.config["labels"] == ["cat", "dog", "hen"]
    assert "labels.txt" in found.described[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cat\ncat\n", "labels.txt: duplicate label 'cat'"),
        ("cat,dog\n", "labels.txt: a classifier needs two classes, and here are 1: one name a line"),
        ("", "labels.txt: a classifier needs two classes, and here are 0"),
    ],
)
def test_labels_that_no_configuration_takes_are_refused(tmp_path: Path, text: str, says: str) -> None:
    shard(tmp_path / "train.tfrecord", [0, 1])
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(source.UnusableFolder, match=says):
        source.folder(tmp_path)


def test_labels_given_by_the_user_come_before_labels_txt(tmp_path: Path) -> None:
    shard(tmp_path / "train.tfrecord", [0, 1])
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert source.folder(tmp_path, labels=["a", "b"]).config["labels"] == ["a", "b"]


def test_five_classes_without_names_are_taken_for_the_public_flowers_and_said_so(tmp_path: Path) -> None:
    shard(tmp_path / "flowers00-5.tfrec", [0, 1, 2, 3, 4])
    found = source.folder(tmp_path)
    assert found.config["labels"][0] == "daisy"
    assert "public flowers" in found.described[0]


def test_other_classes_without_names_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "train.tfrecord", [0, 1, 2])
    with pytest.raises(source.UnusableFolder, match="has 3 classes: name them"):
        source.folder(tmp_path)


def test_too_few_names_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "train.tfrecord", [0, 1, 2])
    with pytest.raises(source.UnusableFolder, match="names 2 classes, but the data has class 2"):
        source.folder(tmp_path, labels=["cat", "dog"])


def test_names_and_indices_may_stand_in_one_data_set(tmp_path: Path) -> None:
    for number, value in enumerate(("dog", 0)):
        write_records(tmp_path / f"{number}.tfrecord", [encode_example({"image": b"\xff\xd8", "class": value})])
    found = source.folder(tmp_path, labels=["cat", "dog"])
    assert sorted(picture.label for picture in found.unseen) == ["cat", "dog"]


def test_pictures_to_ask_about_come_from_held_out_shards_with_classes_in_turn(tmp_path: Path) -> None:
    shard(tmp_path / "train-00000-of-00001.tfrecord", [0] * 50, image=b"\xff\xd8 trained on")
    shard(tmp_path / "eval-00000-of-00002.tfrecord", [0] * 60)
    shard(tmp_path / "eval-00001-of-00002.tfrecord", [1] * 60)
    found = source.folder(tmp_path, labels=["cat", "dog"])
    assert len(found.unseen) == source.UNSEEN
    assert {picture.label for picture in found.unseen[:2]} == {"cat", "dog"}
    assert not any(picture.data.startswith(b"\xff\xd8 trained on") for picture in found.unseen)


def test_records_without_values_and_damaged_shards_are_passed_over(tmp_path: Path) -> None:
    empty = encode_example({"image": [], "class": []})
    write_records(tmp_path / "a.tfrecord", [empty])
    (tmp_path / "b.tfrecord").write_bytes(b"no TFRecord")
    with pytest.raises(source.UnusableFolder, match="no record has a picture in feature 'image'"):
        source.folder(tmp_path, labels=["cat", "dog"])


def test_features_are_guessed_and_a_yaml_counts_more(tmp_path: Path) -> None:
    picture = b"\xff\xd8 a picture"
    records = [encode_example({"image": picture, "label": number % 3 + 1, "kind": number % 2}) for number in range(12)]
    write_records(tmp_path / "train.tfrecord", records)
    file = tmp_path / "birds.yaml"
    file.write_text("{dataset: birds, labels: [a, b], data: {features: {label: kind}, split: hash, quiet_period: 1h}}")
    guessed = source.folder(tmp_path, labels=["x", "a", "b", "c"])
    assert guessed.config["data"]["features"] == {"image": "image", "label": "label"}
    assert "data.schema: tfds" in guessed.described[-1]
    told = source.folder(tmp_path, config_file=file)
    assert told.config["labels"] == ["a", "b"]
    assert told.config["data"]["features"] == {"label": "kind"}
    assert told.config["data"]["quiet_period"] == "20s"
    with pytest.raises(source.UnusableFolder, match="names 2 classes"):
        source.folder(tmp_path, labels=["a", "b"])


def test_names_of_classes_may_come_from_the_records(tmp_path: Path) -> None:
    records = [encode_example({"image": b"\xff\xd8", "class": name}) for name in ("hen", "cat")]
    write_records(tmp_path / "train.tfrecord", records)
    assert source.folder(tmp_path).config["labels"] == ["hen", "cat"]


@pytest.mark.parametrize("labels", [[], ["a", "b"]])
def test_labels_that_count_from_one_are_told(tmp_path: Path, labels: list[str]) -> None:
    shard(tmp_path / "train.tfrecord", [1, 2, 1, 2])
    with pytest.raises(source.UnusableFolder, match=r"seem to count from 1: `dualdeploy validate` prints the YAML"):
        source.folder(tmp_path, labels=labels)


def test_a_list_of_labels_in_another_encoding_is_told(tmp_path: Path) -> None:
    shard(tmp_path / "train.tfrecord", [0, 1])
    (tmp_path / "labels.txt").write_bytes("gänse\nrosen\n".encode("latin-1"))
    with pytest.raises(source.UnusableFolder, match=r"labels\.txt is not text in UTF-8"):
        source.folder(tmp_path)


def test_the_split_and_what_is_passed_over_are_said(tmp_path: Path) -> None:
    shard(tmp_path / "train.tfrecord", [0, 1])
    shard(tmp_path / "tst.tfrecord", [0, 1])
    (tmp_path / "more.tfr").write_bytes(b"")
    said = source.folder(tmp_path, labels=["a", "b"]).described
    assert said[1].startswith("No shard is held out (")
    assert said[2].startswith("'tst' in tst.tfrecord looks like a split and is not taken for one: ")
    assert said[3].startswith("1 object is not a shard by its name: more.tfr; ")


def test_one_class_is_not_a_data_set(tmp_path: Path) -> None:
    shard(tmp_path / "train.tfrecord", [0, 0])
    with pytest.raises(source.UnusableFolder, match="of one class, and a classifier needs two"):
        source.folder(tmp_path, labels=["a", "b"])


def test_a_split_that_is_unclear_is_said_before_anything_is_started(tmp_path: Path) -> None:
    shard(tmp_path / "test-1.tfrecord", [0, 1])
    with pytest.raises(source.UnusableFolder, match=r"all 1 shards are held out.*data\.split"):
        source.folder(tmp_path, labels=["a", "b"])


def test_the_demo_s_own_configuration_is_one_that_automl_takes(tmp_path: Path) -> None:
    shard(tmp_path / "train.tfrecord", [0, 1])
    config = source.for_automl(source.folder(tmp_path, labels=["a", "b"])).config
    read = dataset_config.parse(json.dumps(config), source="flowers.yaml")
    assert read.training.method == "automl"
    assert read.training.automl.of("cloud").budget_node_hours == 8
    assert not read.serving.dedicated
