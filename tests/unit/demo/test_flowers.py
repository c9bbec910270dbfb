"""The painted data set: repeatable, balanced, and shaped like the public flowers data set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualdeploy.images.pixels import decode_rgb
from dualdeploy.images.tfrecord import parse_example, read_records
from dualdeploy_demo import flowers, painting
from dualdeploy_demo.flowers import LABELS, Picture, Style

SMALL = {"train": 11, "held_out": 5, "shards": 2, "style": Style(seed=3, side=32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("flowers")
    flowers.generate(output, unseen=3, **SMALL)
    return output


def examples(path: Path) -> list[tuple[bytes, int, list[float]]]:
    with path.open("rb") as stream:
        parsed = [parse_example(record.data) for record in read_records(stream, name=path.name)]
    return [
        (example["image"].values[0], example["class"].values[0], list(example["one_hot_class"].values))
        for example in parsed
    ]


def test_the_shards_have_the_names_and_features_of_the_public_data_set(folder: Path) -> None:
    assert sorted(path.name for path in folder.glob("*.tfrecord")) == [
        "eval-00000-of-00001.tfrecord",
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
    ]
    for path in folder.glob("*.tfrecord"):
        for image, label, one_hot in examples(path):
            assert decode_rgb(image).shape == (32, 32, 3)
            assert one_hot == [1.0 if index == label else 0.0 for index in range(5)]


def test_every_picture_is_written_once_and_the_classes_are_balanced(folder: Path) -> None:
    train = [example for path in sorted(folder.glob("train*")) for example in examples(path)]
    held_out = examples(folder / "eval-00000-of-00001.tfrecord")
    assert len({image for image, _, _ in train + held_out}) == len(train) + len(held_out) == 16
    assert sorted(Counter(label for _, label, _ in train).values()) == [2, 2, 2, 2, 3]
    assert sorted(label for _, label, _ in held_out) == [0, 1, 2, 3, 4]


def test_unseen_pictures_come_with_their_labels(folder: Path) -> None:
    labels = json.loads((folder / "unseen" / "labels.json").read_text())
    assert sorted(labels) == ["unseen-000.jpg", "unseen-001.jpg", "unseen-002.jpg"]
    assert set(labels.values()) <= set(LABELS)
    assert all(decode_rgb((folder / "unseen" / name).read_bytes()).shape == (32, 32, 3) for name in labels)


def test_the_same_seed_gives_the_same_bytes_and_compression_changes_nothing_else(folder: Path, tmp_path: Path) -> None:
    flowers.generate(tmp_path / "again", compressed=True, **SMALL)
    for path in folder.glob("*.tfrecord"):
        again = tmp_path / "again" / f"{path.name}.gz"
        assert again.read_bytes()[:2] == b"\x1f\x8b"
        assert examples(again) == examples(path)


def test_another_seed_and_another_part_give_other_pictures() -> None:
    pictures = {
        Style(seed=seed, side=32).jpeg(Picture(part, 0, 0)) for seed in (1, 2) for part in ("train", "eval", "unseen")
    }
    assert len(pictures) == 6


@pytest.mark.parametrize("level", painting.LEVELS)
@pytest.mark.parametrize("kind", painting.FLOWERS)
def test_every_kind_can_be_painted_at_every_level_and_is_not_a_plain_surface(kind: str, level: str) -> None:
    for number in range(4):
        image = painting.paint(kind, f"{number}", level=painting.LEVELS[level], side=48)
        assert (image.mode, image.size) == ("RGB", (48, 48))
        assert np.asarray(image.convert("L")).std() > 8


def test_the_kinds_share_their_colours_so_that_shape_has_to_decide() -> None:
    offered = Counter(colour for colours in painting.COLOURS.values() for colour, _ in colours)
    for kind, colours in painting.COLOURS.items():
        shared = sum(weight for colour, weight in colours if offered[colour] > 1)
        assert shared >= 0.9 * sum(weight for _, weight in colours), kind


def test_a_painted_flower_is_in_the_middle_and_differs_from_its_background() -> None:
    plain = painting.Level((0.4, 0.4), (1.0, 0.0, 0.0), (0, 0), (0, 0), (0.0, 0.0), 0.0)
    image = np.asarray(painting.paint("sunflowers", "one", level=plain, side=64).convert("RGB"), dtype=float)
    middle, corner = image[28:36, 28:36].mean(axis=(0, 1)), image[:6, :6].mean(axis=(0, 1))
    assert np.abs(middle - corner).max() > 30


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--output", str(tmp_path / "out"), "--train", "5", "--eval", "0", "--shards", "1", "--side", "32"]
    assert flowers.main(arguments) == 0
    assert "labels: daisy,dandelion,roses,sunflowers,tulips" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train-00000-of-00001.tfrecord"]


@pytest.mark.parametrize("flags", [["--train", "-1"], ["--shards", "0"], ["--side", "x"]])
def test_a_senseless_number_is_refused_by_name(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flowers.main(["--output", "o", *flags])
    assert flags[0] in capsys.readouterr().err


def test_the_contact_sheet_is_rgb(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    flowers.contact_sheet(path, columns=2, style=Style(side=24))
    with Image.open(path) as sheet:
        assert sheet.size == (2 * 28 + 4, 5 * 28 + 4)
