"""Reading, checking and splitting the pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from PIL import Image

from dualdeploy.contracts.training import FeatureNames
from dualdeploy.images.pixels import decode_rgb, resize_bilinear
from dualdeploy.images.tfrecord import encode_example
from support.training import jpeg, record
from trainer.data import examples
from trainer.data.examples import DataSet, Shard
from trainer.data.pictures import Index, PicturesOnDemand
from trainer.process.failures import UnusableData

LABELS = ("daisy", "tulips")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., DataSet]:
    def call(train: list[Shard], held_out: list[Shard], **changes: Any) -> DataSet:
        arguments = {"labels": LABELS, "features": FeatureNames(), "image_size": 32, "max_bad_records": 0.0}
        return examples.load(train, held_out, **({"folder": tmp_path} | arguments | changes))

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """Scratch of a call's own: what an earlier one mapped into memory must stay what it is."""

    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


def both_classes(count: int, first: int = 0) -> list[bytes]:
    return [record(first + number, number % 2) for number in range(count)]


def test_named_shards_decide_what_is_held_out(shard: Any, load: Any) -> None:
    data = load([shard("train.tfrecord", both_classes(6))], [shard("eval.tfrecord", both_classes(3, 100))])
    assert (len(data.train), len(data.held_out), data.split) == (6, 3, "named")
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.held_out.labels.tolist() == [0, 1, 0]


def test_a_training_picture_keeps_a_margin_to_crop_and_a_held_out_one_is_as_it_will_be_served(
    shard: Any, load: Any
) -> None:
    data = load([shard("train.tfrecord", both_classes(2))], [shard("eval.tfrecord", [record(77, 0)])])
    assert data.train.pixels.shape == (2, 36, 36, 3)
    assert data.train.pixels.dtype == np.uint8
    assert data.held_out.pixels.dtype == np.float32
    assert (data.held_out.pixels[0] == resize_bilinear(decode_rgb(jpeg(77)), 32)).all()


def test_pictures_come_in_the_order_of_the_shards_whatever_thread_decodes_them(shard: Any, load: Any) -> None:
    shards = [shard(f"train-{part}.tfrecord", both_classes(40, 40 * part)) for part in range(3)]
    data = load(shards, [shard("eval.tfrecord", both_classes(2))])
    assert np.abs(data.train.pixels[:, 0, 0, 0].astype(int) - np.arange(120)).max() <= 1


def test_a_gzip_shard_is_recognised_by_its_bytes_not_by_its_name(shard: Any, load: Any) -> None:
    data = load([shard("train.tfrecord", both_classes(4), gzip=True)], [shard("eval.tfrecord.gz", both_classes(2))])
    assert (len(data.train), len(data.held_out)) == (4, 2)


def test_without_evaluation_shards_the_bytes_of_a_picture_decide(shard: Any, load: Any) -> None:
    shades = list(range(0, 250, 2))
    expected = [shade for shade in shades if google_crc32c.value(jpeg(shade)) % 5 == 0]
    data = load([shard("all.tfrecord", [record(shade, shade // 2 % 2) for shade in shades])], [])
    assert data.split == "hash"
    assert len(data.held_out) == len(expected)
    assert np.abs(np.asarray(data.held_out.pixels)[:, 0, 0, 0] - expected).max() <= 1


def test_the_hash_split_does_not_depend_on_how_the_data_are_sharded(shard: Any, load: Any) -> None:
    records = both_classes(60)
    whole = load([shard("whole.tfrecord", records)], [])
    parts = load([shard("b.tfrecord", records[30:]), shard("a.tfrecord", records[:30])], [])
    assert sorted(np.asarray(whole.held_out.pixels)[:, 0, 0, 0]) == sorted(
        np.asarray(parts.held_out.pixels)[:, 0, 0, 0]
    )
    assert {picture.data for picture in whole.golden} == {picture.data for picture in parts.golden}


def test_the_golden_set_has_a_few_held_out_pictures_of_each_class_as_they_came(shard: Any, load: Any) -> None:
    held_out = both_classes(40, 100)
    data = load([shard("train.tfrecord", both_classes(2))], [shard("eval.tfrecord", held_out)])
    assert [picture.label for picture in data.golden] == [0] * 5 + [1] * 5
    originals = {(jpeg(100 + number), number % 2) for number in range(40)}
    assert {(picture.data, picture.label) for picture in data.golden} <= originals


def test_a_huge_picture_is_golden_only_when_there_is_no_other_and_then_small_enough_to_send(
    shard: Any, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    Image.effect_noise((900, 900), 200).convert("RGB").save(stream, "JPEG", quality=100)
    huge = stream.getvalue()
    assert len(huge) > examples.GOLDEN_BYTES
    held_out = [encode_example({"image": huge, "class": label}) for label in (0, 1)]
    small = [record(shade, 0) for shade in range(examples.GOLDEN_PER_CLASS)]
    data = load([shard("train.tfrecord", both_classes(2))], [shard("eval.tfrecord", held_out + small)])
    assert [picture.label for picture in data.golden] == [0] * examples.GOLDEN_PER_CLASS + [1]
    assert max(len(picture.data) for picture in data.golden) <= examples.GOLDEN_BYTES
    assert decode_rgb(data.golden[-1].data).shape == (32, 32, 3)


@pytest.mark.parametrize("side", [32, 1024])
def test_whatever_is_written_anew_fits_into_a_request(side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.float32)
    data = examples.written_anew(noise)
    assert len(data) <= examples.GOLDEN_BYTES
    assert side > 32 or np.array_equal(decode_rgb(data), noise)


def test_the_golden_set_of_very_many_classes_stays_small(shard: Any, load: Any) -> None:
    labels = [f"class {number}" for number in range(600)]
    train = [record(number % 256, number) for number in range(600)]
    held_out = [encode_example({"image": jpeg(number % 256, 8 + number % 9), "class": number}) for number in range(600)]
    data = load([shard("train.tfrecord", train)], [shard("eval.tfrecord", held_out)], labels=labels)
    assert len(data.golden) == examples.GOLDEN_PICTURES
    assert len({picture.label for picture in data.golden}) > 100


def test_other_features_are_ignored_and_names_can_be_chosen(shard: Any, load: Any) -> None:
    renamed = [encode_example({"jpeg": jpeg(9), "y": label, "one_hot": [0.0, 1.0]}) for label in (0, 1)]
    data = load(
        [shard("train.tfrecord", renamed)],
        [shard("eval.tfrecord", renamed)],
        features=FeatureNames(image="jpeg", label="y"),
    )
    assert len(data.train) == 2


BAD = {
    "no JPEG or PNG": (
        encode_example({"image": b"GIF89a...", "class": 0}),
        "neither JPEG nor PNG: its 9 bytes begin 47 49 46",
    ),
    "half a JPEG": (encode_example({"image": jpeg(5)[:200], "class": 0}), "cut off"),
    "label too large": (record(1, 2), "label 2 is outside the 2 configured labels"),
    "negative label": (record(1, -1), "label -1 is outside the 2 configured labels"),
    "no label": (encode_example({"image": jpeg(1)}), "there is no feature 'class'; the record's features: 'image'"),
    "label as unknown text": (encode_example({"image": jpeg(1), "class": "tulip"}), "label 'tulip' is not one of"),
    "two labels": (encode_example({"image": jpeg(1), "class": [0, 1, 1]}), "has 3 values (0, 1), not one class"),
    "no example at all": (b"\xff\xff\xff", "is not a tf.train.Example"),
}


@pytest.mark.parametrize(("bad", "says"), BAD.values(), ids=BAD)
def test_a_bad_record_is_named_with_its_shard_number_and_reason(shard: Any, load: Any, bad: bytes, says: str) -> None:
    train = shard("train.tfrecord", [*both_classes(2), bad])
    with pytest.raises(UnusableData) as refused:
        load([train], [shard("eval.tfrecord", both_classes(2))])
    assert "gs://data/train.tfrecord, record 2: " in str(refused.value)
    assert says in str(refused.value)
    assert "1 of 5 records" in str(refused.value)


def test_bad_records_up_to_the_limit_are_skipped_and_counted(shard: Any, load: Any) -> None:
    bad = BAD["label too large"][0]
    train = shard("train.tfrecord", [bad, *both_classes(97)])
    held_out = shard("eval.tfrecord", [*both_classes(1), bad])
    data = load([train], [held_out], max_bad_records=0.02)
    assert (len(data.train), len(data.held_out), data.skipped) == (97, 1, 2)
    assert [(bad.shard, bad.index) for bad in data.bad_records] == [
        ("gs://data/train.tfrecord", 0),
        ("gs://data/eval.tfrecord", 1),
    ]
    with pytest.raises(UnusableData, match=r"2 of 100 records .* max_bad_records \(0.019\)"):
        load([train], [held_out], max_bad_records=0.019)


def test_a_thousand_bad_records_are_not_all_spelled_out(shard: Any, load: Any) -> None:
    train = shard("train.tfrecord", [BAD["label too large"][0]] * 50)
    with pytest.raises(UnusableData, match="and 30 more"):
        load([train], [])


def test_a_damaged_record_counts_as_bad_and_those_behind_it_are_read(shard: Any, load: Any) -> None:
    train = shard("train.tfrecord", both_classes(10))
    data = bytearray(train.path.read_bytes())
    data[60] ^= 0xFF
    train.path.write_bytes(data)
    loaded = load([train], [shard("eval.tfrecord", both_classes(2))], max_bad_records=0.5)
    assert (len(loaded.train), loaded.skipped) == (9, 1)
    assert loaded.bad_records[0].index == 0
    assert "checksum" in loaded.bad_records[0].reason


def test_a_truncated_shard_is_refused_by_name_however_many_bad_records_are_allowed(shard: Any, load: Any) -> None:
    train = shard("train-00001.tfrecord", both_classes(10))
    train.path.write_bytes(train.path.read_bytes()[:-7])
    with pytest.raises(UnusableData, match=r"gs://data/train-00001.tfrecord, record 9 .*Write this shard again"):
        load([train], [], max_bad_records=1.0)


def test_a_file_that_is_not_a_shard_is_refused_by_name(shard: Any, load: Any, tmp_path: Path) -> None:
    (tmp_path / "train.tfrecord").write_bytes(b"image,label\na.jpg,daisy\n")
    with pytest.raises(UnusableData, match=r"gs://data/train.tfrecord, .*not a TFRecord header"):
        load([Shard("gs://data/train.tfrecord", tmp_path / "train.tfrecord")], [])


@pytest.mark.parametrize(
    ("train", "held_out", "says"),
    [
        ([], both_classes(2), "no picture to train on"),
        (both_classes(2), [], "no picture to evaluate on"),
        ([record(1, 1)], both_classes(2), "no picture to learn daisy from"),
    ],
    ids=["nothing to learn", "nothing to evaluate", "a class without pictures"],
)
def test_data_that_cannot_be_learned_from_are_refused(
    shard: Any, load: Any, train: list[bytes], held_out: list[bytes], says: str
) -> None:
    with pytest.raises(UnusableData, match=says):
        load([shard("train.tfrecord", train)], [shard("eval.tfrecord", held_out)])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_costs_the_decoded_file_and_not_the_training(shard: Any, load: Any, folder: Any) -> None:
    shards = [shard("train.tfrecord", both_classes(30))], [shard("eval.tfrecord", both_classes(2))]
    whole, full = load(*shards, image_size=64), folder("full")
    (full / "train.pixels").symlink_to("/dev/full")
    data = load(*shards, image_size=64, folder=full)
    assert isinstance(data.train.pixels, PicturesOnDemand)
    assert (np.asarray(data.train.pixels) == np.asarray(whole.train.pixels)).all()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_without_room_even_for_the_copies_is_reported_with_what_to_do(
    shard: Any, load: Any, tmp_path: Path
) -> None:
    (tmp_path / "copied.pictures").symlink_to("/dev/full")
    shards = [shard("train.tfrecord", both_classes(300), gzip=True)], [shard("eval.tfrecord", both_classes(2))]
    with pytest.raises(UnusableData, match=r"no room for the pictures .*larger boot disk"):
        load(*shards, image_size=64, disk=0)


@pytest.mark.parametrize("compressed", [False, True])
def test_pictures_that_fit_nowhere_are_the_same_ones_in_the_same_order(
    shard: Any, load: Any, folder: Any, compressed: bool
) -> None:
    """Some are held out by their bytes, some only Pillow decodes, and some records are bad."""
    records = [*both_classes(150), b"no example", record(7, 1)]
    shards = [shard("train.tfrecord", records, gzip=compressed), shard("more.tfrecord", both_classes(40))], []

    def decoders(side: int) -> Any:
        def one(data: bytes) -> np.ndarray:
            return np.full((side, side, 3), decode_rgb(data)[0, 0, 0] // 2, np.uint8)

        # As the real decoder: a group with a picture that it does not take is refused whole.
        return lambda data: None if jpeg(7) in data else np.stack([one(each) for each in data])

    def loaded(name: str, **limits: int) -> Any:
        return load(*shards, max_bad_records=0.5, decoders=decoders, folder=folder(name), **limits)

    memory = loaded("memory", memory=1 << 30)
    assert isinstance(memory.train.pixels, examples.KeptPictures)
    assert isinstance(memory.held_out.pixels, np.ndarray)
    file, each_time = loaded("file"), loaded("each time", disk=0)
    assert isinstance(file.train.pixels, np.memmap)
    assert isinstance(each_time.train.pixels, PicturesOnDemand)
    assert isinstance(each_time.held_out.pixels, PicturesOnDemand)
    order = np.random.default_rng(0).permutation(len(memory.train))
    for data in (file, each_time):
        assert (data.train.labels == memory.train.labels).all()
        for start in range(0, len(order), 32):
            places = order[start : start + 32]
            assert (data.train.pixels[places] == memory.train.pixels[places]).all()
        assert (np.asarray(data.held_out.pixels) == memory.held_out.pixels).all()
        assert (np.asarray(data.held_out.pixels[3:20:2]) == memory.held_out.pixels[3:20:2]).all()
        assert [picture.data for picture in data.golden] == [picture.data for picture in memory.golden]
        assert (data.skipped, data.split) == (1, "hash")


def test_a_shard_that_changes_while_it_is_trained_on_ends_the_job(shard: Any, load: Any) -> None:
    train = shard("train.tfrecord", both_classes(30))
    data = load([train], [shard("eval.tfrecord", both_classes(2))], disk=0)
    content = bytearray(train.path.read_bytes())
    content[content.find(jpeg(20)) + 30] ^= 1
    train.path.write_bytes(bytes(content))
    with pytest.raises(UnusableData, match=r"train\.tfrecord changed at byte \d+ while it was trained on"):
        np.asarray(data.train.pixels)
    train.path.unlink()
    with pytest.raises(UnusableData, match="cannot be read any more"):
        data.train.pixels[[0]]


def test_a_picture_costs_24_bytes_where_it_lies() -> None:
    index = Index()
    for place in range(1000):
        index.append(file=place, offset=place << 33, data=b"x" * place, label=place, alone=bool(place % 2))
    found = index.finish([])
    assert found._entries.nbytes == 24 * 1000
    assert found.labels.tolist() == list(range(1000))
    assert found.taken_alone().tolist() == [False, True] * 500


def test_held_out_pictures_can_be_had_as_they_came_and_in_order(shard: Any, load: Any) -> None:
    held_out = [record(10, 0), b"no example", record(20, 1), record(30, 0)]
    shards = [shard("train.tfrecord", both_classes(2))], [shard("eval.tfrecord", held_out)]
    data = load(*shards, max_bad_records=0.5)
    assert list(data.encoded) == [jpeg(shade) for shade in (10, 20, 30)]
    assert len(data.encoded) == len(data.held_out) == 3


@pytest.mark.parametrize(
    ("augmentation", "image_size", "side"),
    [("standard", 64, 72), ("standard", 224, 224), ("light", 224, 252), ("light", 32, 36), ("none", 64, 64)],
)
def test_training_pictures_are_as_large_as_their_augmentation_wants_them(
    augmentation: Any, image_size: int, side: int, shard: Any, load: Any
) -> None:
    shards = [shard("train.tfrecord", both_classes(2))], [shard("eval.tfrecord", both_classes(1))]
    data = load(*shards, image_size=image_size, augmentation=augmentation)
    assert data.train.pixels.shape == (2, side, side, 3)
    assert data.held_out.pixels.shape == (1, image_size, image_size, 3)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (36, 36), (36, 90), (61, 20), (300, 200), (37, 35)])
def test_training_pictures_are_sampled_as_served_ones_within_one_grey_level(
    height: int, width: int, shard: Any, load: Any
) -> None:
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    picture = encode_example({"image": stream.getvalue(), "class": 0})
    data = load([shard("train.tfrecord", [picture, record(1, 1)])], [shard("eval.tfrecord", both_classes(1))])
    assert np.abs(data.train.pixels[0] - resize_bilinear(noise, 36)).max() <= 1.01


def test_pictures_kept_in_memory_are_those_that_would_be_in_the_file(shard: Any, load: Any, folder: Any) -> None:
    shards = [shard("train.tfrecord", both_classes(50))], [shard("eval.tfrecord", both_classes(2))]
    filed = load(*shards, folder=folder("filed"))
    picture = filed.train.pixels[0].nbytes
    kept = load(*shards, memory=50 * picture, folder=folder("kept"))
    full = load(*shards, memory=49 * picture, folder=folder("full"))
    assert isinstance(kept.train.pixels, examples.KeptPictures)
    assert isinstance(full.train.pixels, np.memmap)
    positions = [3, 17, 49]
    for data in (kept, full):
        assert len(data.train.pixels) == 50
        assert (data.train.pixels[positions] == filed.train.pixels[positions]).all()


def test_a_decoder_takes_the_pictures_to_learn_from_and_what_it_cannot_take_is_decoded_alone(
    shard: Any, load: Any
) -> None:
    whole = 2 * examples.TOGETHER
    asked: list[int] = []

    def decoders(side: int) -> examples.Decode:
        def decode(pictures: Any) -> Any:
            asked.append(len(pictures))
            if jpeg(whole + 7) in pictures:
                return None
            return np.full((len(pictures), side, side, 3), 7, np.uint8)

        return decode

    records = [*both_classes(whole + 8), encode_example({"image": b"no picture", "class": 0})]
    data = load(
        [shard("train.tfrecord", records)],
        [shard("eval.tfrecord", both_classes(2))],
        decoders=decoders,
        max_bad_records=0.1,
    )
    assert sorted(asked) == [8, examples.TOGETHER, examples.TOGETHER]
    assert (data.train.pixels[:whole] == 7).all()
    assert np.abs(data.train.pixels[whole:, 0, 0, 0].astype(int) - np.arange(whole, whole + 8)).max() <= 1
    assert [(bad.shard, bad.index) for bad in data.bad_records] == [("gs://data/train.tfrecord", whole + 8)]


@pytest.mark.parametrize("named", [True, False])
def test_two_workers_learn_from_all_pictures_and_the_chief_holds_out_the_same_as_one_alone(
    named: bool, shard: Any, load: Any, folder: Any
) -> None:
    first, second = shard("a.tfrecord", both_classes(60)), shard("b.tfrecord", both_classes(60, 60))
    held_out = [shard("eval.tfrecord", both_classes(10, 150))] if named else []
    alone = load([first, second], held_out, folder=folder("alone"))
    chief = load([first], held_out, elsewhere=[] if named else [second], by_hash=not named, folder=folder("chief"))
    worker = load([second], [], by_hash=not named, evaluates=False, folder=folder("worker"))
    assert len(worker.held_out) == 0
    assert (np.asarray(chief.held_out.pixels) == np.asarray(alone.held_out.pixels)).all()
    assert np.concatenate([chief.train.pixels, worker.train.pixels]).tolist() == alone.train.pixels.tolist()
