"""Painted flowers as people have their data: up to the validation, by the way that `dualdeploy demo --data` takes."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from dualdeploy.images.tfrecord import encode_example, parse_example, read_records, write_records
from dualdeploy_demo import flowers, source
from dualdeploy_demo.flowers import LABELS, Style
from support.command_line import invoke


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    flowers.generate(folder, train=60, held_out=20, shards=2, unseen=0, style=Style(seed=5, side=32))
    return folder


def compressed(painted: Path, folder: Path) -> Path:
    """`….tfrecord.gz`, as a pipeline that saves storage writes them."""
    for path in painted.glob("*.tfrecord"):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder


def stored_with_encoding(painted: Path, folder: Path) -> Path:
    """What `gsutil cp -Z` stores: the same name, other bytes."""
    for path in painted.glob("*.tfrecord"):
        (folder / path.name).write_bytes(gzip.compress(path.read_bytes()))
    return folder


def class_folders(painted: Path, folder: Path) -> Path:
    """Pictures in folders of their classes, turned into shards by `dualdeploy shards`."""
    pictures = folder / "pictures"
    for path in painted.glob("*.tfrecord"):
        with path.open("rb") as stream:
            for record in read_records(stream, name=path.name):
                example = parse_example(record.data)
                of_class = pictures / LABELS[example["class"].values[0]]
                of_class.mkdir(parents=True, exist_ok=True)
                (of_class / f"{path.stem}-{record.index}.jpg").write_bytes(example["image"].values[0])
    made = folder / "made"
    code, said = invoke("shards", pictures, "--out", made, "--dataset", "flowers", "--workers", 1)
    assert code == 0, said
    return made


def named_by_tensorflow_datasets(painted: Path, folder: Path) -> Path:
    """`flowers-train.tfrecord-00000-of-00002` with features `image`, `label` and a file name."""
    for part in ("train", "eval"):
        paths = sorted(painted.glob(f"{part}*.tfrecord"))
        for number, path in enumerate(paths):
            name = f"flowers-{part.replace('eval', 'test')}.tfrecord-{number:05d}-of-{len(paths):05d}"
            _rewrite(path, folder / name, label="label")
    return folder


def in_folders_of_the_split(painted: Path, folder: Path) -> Path:
    """`train/`, `val/` and `test/` with names that say nothing, as in Kaggle's Petals to the Metal."""
    for part, target in (("train", "train"), ("eval", "val"), ("eval", "test")):
        (folder / target).mkdir()
        for number, path in enumerate(sorted(painted.glob(f"{part}*.tfrecord"))):
            copies = slice(0, None, 2) if target == "test" else slice(1, None, 2) if target == "val" else slice(None)
            _rewrite(path, folder / target / f"{number:02d}-32x32-10.tfrec", records=copies)
    return folder


def _rewrite(path: Path, target: Path, *, label: str = "class", records: slice = slice(None)) -> None:
    with path.open("rb") as stream:
        examples = [parse_example(record.data) for record in read_records(stream, name=path.name)]
    write_records(
        target,
        [
            encode_example({"image": each["image"].values, label: each["class"].values, "filename": f"{number}.jpg"})
            for number, each in enumerate(examples[records])
        ],
    )


@pytest.mark.parametrize(
    "arrange",
    [compressed, stored_with_encoding, class_folders, named_by_tensorflow_datasets, in_folders_of_the_split],
)
def test_painted_flowers_are_taken(painted: Path, tmp_path: Path, arrange: Callable[[Path, Path], Path]) -> None:
    folder = arrange(painted, tmp_path)

    found = source.folder(folder)
    assert found.config["labels"] == list(LABELS)
    assert len(found.unseen) >= 10
    code, said = invoke("validate", folder, "--labels", ",".join(LABELS))
    assert code == 0, said
    assert "80 records, " in said
    assert "Held out: " in said
