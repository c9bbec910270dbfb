"""From pictures to shards that train: balanced, without copies, checked, and the same every time."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dualdeploy.contracts import dataset_config
from dualdeploy.images.pixels import decode_rgb
from dualdeploy.images.tfrecord import parse_example, read_records
from support.command_line import invoke, session

DONE, REFUSED, USAGE, STOPPED = 0, 1, 2, 130


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    def run(images: Path, *arguments: object, out: str = "out") -> tuple[int, str]:
        return invoke("shards", images, "--workers", 1, "--out", tmp_path / out, *arguments)

    return run


def records(folder: Path) -> dict[str, list[tuple[str, int, bytes]]]:
    """Name, class and bytes of the pictures in each shard."""
    found = {}
    for path in sorted(folder.glob("*.tfrecord")):
        with path.open("rb") as stream:
            examples = [parse_example(record.data) for record in read_records(stream, name=path.name)]
        found[path.name] = [
            (each["filename"].values[0].decode(), each["class"].values[0], each["image"].values[0]) for each in examples
        ]
    return found


def test_a_folder_of_class_folders_becomes_shards_that_train(make, garden: Path, tmp_path: Path) -> None:
    code, said = make(garden, "--shards", 3)

    assert code == DONE, said
    found = records(tmp_path / "out")
    assert list(found) == ["eval-00000-of-00001.tfrecord", *(f"train-0000{n}-of-00003.tfrecord" for n in range(3))]
    names = [name for shard in found.values() for name, _, _ in shard]
    assert len(set(names)) == len(names) == 65
    for shard in found.values():
        for name, label, image in shard:
            assert label == ("roses", "tulips").index(name.split("/")[0])
            assert image == (garden / name).read_bytes()
    config = dataset_config.parse((tmp_path / "out" / "my-garden.yaml").read_bytes(), source="x")
    assert (config.dataset, config.labels) == ("my-garden", ("roses", "tulips"))
    assert (tmp_path / "out" / "labels.txt").read_text() == "roses\ntulips\n"
    assert invoke("validate", tmp_path / "out", "--labels", "roses,tulips")[0] == 0


def test_shards_are_balanced_and_mixed(make, garden: Path, tmp_path: Path) -> None:
    make(garden, "--shards", 4)
    trained = [shard for name, shard in records(tmp_path / "out").items() if name.startswith("train")]

    counts = [Counter(label for _, label, _ in shard) for shard in trained]
    for label in (0, 1):
        assert max(each[label] for each in counts) - min(each[label] for each in counts) <= 1
    assert max(map(len, trained)) - min(map(len, trained)) <= 1
    assert [label for _, label, _ in trained[0]] != sorted(label for _, label, _ in trained[0])


def test_the_same_pictures_give_the_same_shards(make, garden: Path, tmp_path: Path) -> None:
    make(garden, "--shards", 2)
    moved = tmp_path / "elsewhere"
    shutil.copytree(garden, moved)
    assert make(moved, "--shards", 2, "--workers", 2, out="again")[0] == DONE

    first, again = (sorted((tmp_path / name).glob("*.tfrecord")) for name in ("out", "again"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_one_more_picture_moves_no_other_across_the_split(make, garden: Path, picture, tmp_path: Path) -> None:
    make(garden)
    before = {name for name, _, _ in records(tmp_path / "out")["eval-00000-of-00001.tfrecord"]}
    (garden / "roses" / "new.png").write_bytes(picture(7777))
    make(garden, out="more")
    after = {name for name, _, _ in records(tmp_path / "more")["eval-00000-of-00001.tfrecord"]}

    assert before <= after <= before | {"roses/new.png"}
    assert 5 <= len(before) <= 25


def test_every_class_of_two_is_held_out_once(make, garden: Path, picture, tmp_path: Path) -> None:
    for label in ("a", "b", "c", "d"):
        (garden / label).mkdir()
        for number in range(2):
            (garden / label / f"{number}.png").write_bytes(picture(ord(label) * 10 + number))
    assert make(garden)[0] == DONE

    found = records(tmp_path / "out")
    for label in range(6):
        for name, shard in found.items():
            assert any(each == label for _, each, _ in shard), (name, label)


def test_a_split_that_is_named_is_kept(make, garden: Path, tmp_path: Path) -> None:
    for label in ("roses", "tulips"):
        for side in ("train", "val"):
            (garden / side / label).mkdir(parents=True)
        for path in sorted((garden / label).iterdir()):
            path.rename(garden / ("val" if path.stem in "012345" else "train") / label / path.name)
        (garden / label).rmdir()
    code, said = make(garden)

    assert code == DONE, said
    assert "held out: as folders or the list say" in said
    for name, shard in records(tmp_path / "out").items():
        assert {each.split("/")[0] for each, _, _ in shard} == {"train" if name.startswith("train") else "val"}


def test_copies_are_left_out_and_named(make, garden: Path, tmp_path: Path) -> None:
    shutil.copy(garden / "roses" / "0.jpeg", garden / "roses" / "copy.jpeg")
    shutil.copy(garden / "roses" / "1.png", garden / "tulips" / "wrong.png")
    code, said = make(garden)

    assert code == DONE
    assert "copies of other pictures, left out: 2" in said
    assert "roses/copy.jpeg (of roses/0.jpeg)" in said
    assert "of these with another label than the one that is kept: 1" in said
    assert sum(map(len, records(tmp_path / "out").values())) == 65


def test_other_formats_are_stored_without_loss_and_what_is_broken_is_named(
    make, garden: Path, picture, tmp_path
) -> None:
    (garden / "roses" / "web.webp").write_bytes(picture(1, "WEBP"))
    (garden / "roses" / "old.bmp").write_bytes(picture(2222, "BMP"))
    (garden / "roses" / "moving.gif").write_bytes(picture(3333, "GIF"))
    deep = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) * 28
    Image.fromarray(deep).save(garden / "roses" / "deep.tif")
    Image.fromarray(deep.astype(np.float32)).save(garden / "roses" / "real.tif")
    (garden / "tulips" / "cut.png").write_bytes(picture(4444)[:-20])
    (garden / "tulips" / "text.jpg").write_bytes(b"not found")
    code, said = make(garden, "--max-bad", 0.1)

    assert code == DONE
    assert "4 pictures of other formats were stored as PNG" in said
    assert "unusable pictures: 3" in said
    assert "roses/real.tif: the TIFF has values of 32 bits" in said
    assert "tulips/cut.png: " in said
    assert "tulips/text.jpg: the image is neither JPEG nor PNG: its 9 bytes begin 6e 6f 74" in said
    images = {name: image for shard in records(tmp_path / "out").values() for name, _, image in shard}
    assert images["roses/old.bmp"].startswith(b"\x89PNG")
    assert np.array_equal(decode_rgb(images["roses/deep.tif"])[:, :, 0], deep >> 8)
    assert "tulips/text.jpg" not in images


def test_more_broken_pictures_than_are_tolerated_make_no_data_set(make, garden: Path) -> None:
    (garden / "tulips" / "text.jpg").write_bytes(b"not found")
    code, said = make(garden)

    assert code == REFUSED
    assert "1 of 66 pictures cannot be used, more than --max-bad (0.01) allows" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "My Garden"], "must match"),
        (["--to", "garden"], "give gs://<data bucket>/<dataset>"),
        (["--to", "gs://my-data/Garden"], "give gs://<data bucket>/<dataset>"),
        (["--to", "gs://my-data/garden", "--dataset", "birds"], "is not the first folder of --to"),
        (["--labels", "roses,lilies"], "labels that the list of labels lacks: tulips"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_written(make, garden, tmp_path, arguments, says) -> None:
    code, said = make(garden, *arguments)

    assert code == USAGE
    assert says in said
    assert not (tmp_path / "out").exists()


def test_without_pictures_named_nothing_is_looked_for(make) -> None:
    code, said = make(Path("anything"), "--dataset", "x")
    assert (code, "does not exist" in said) == (USAGE, True)
    code, said = invoke("shards")
    assert (code, "Missing argument 'IMAGES'" in said) == (USAGE, True)


def test_a_folder_that_cannot_be_written_is_told_before_the_pictures_are_read(make, garden: Path, tmp_path) -> None:
    (tmp_path / "out").write_text("a file")
    (garden / "roses" / "broken.jpg").write_bytes(b"\xff\xd8")
    code, said = make(garden)
    assert (code, "cannot make shards: " in said, "broken.jpg" in said) == (USAGE, True, False)


def test_ctrl_c_is_not_a_fault(garden: Path, tmp_path: Path) -> None:
    def pressed(_name: str) -> None:
        raise KeyboardInterrupt

    given = session()
    given.bucket = pressed  # type: ignore[assignment]
    wanted = ["--out", tmp_path / "out", "--to", "gs://my-data/garden", "--workers", 1]
    code, said = invoke("shards", garden, *wanted, given=given)
    assert code == STOPPED
    assert "the same command goes on, with the same shards" in said


def test_a_class_that_is_not_held_out_is_said(make, garden: Path, picture) -> None:
    (garden / "lilies").mkdir()
    (garden / "lilies" / "1.png").write_bytes(picture(7777))
    code, said = make(garden)
    assert code == DONE
    assert "warning: no held-out example of lilies (0)" in said


def test_shards_of_another_data_set_are_never_mixed_with(make, garden: Path, tmp_path: Path) -> None:
    assert make(garden, "--shards", 3)[0] == DONE
    assert make(garden, "--shards", 3)[0] == DONE, "the same again is fine"
    code, said = make(garden, "--shards", 2)

    assert code == USAGE
    assert "has other shards already, such as train-00000-of-00003.tfrecord" in said
