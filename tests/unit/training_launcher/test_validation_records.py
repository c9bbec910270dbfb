"""What the validator says about single records and shards: the place to the byte, and the cure."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import lzma
import struct
import zlib

import pytest
from PIL import Image

from dualdeploy.images.tfrecord import encode_example, frame_record
from support import odd_images
from training_launcher.validation import ValidationLimits


@pytest.fixture
def one_fault(check, record, shard, good_eval):
    """Validate a shard whose fourth record (number 3) is given; return the verdict and its one finding."""

    def one_fault(bad: bytes, **options):
        records = [record(seed) for seed in range(6)]
        offset = sum(16 + len(data) for data in records[:3])
        verdict = check({"train-0": shard([*records[:3], bad, *records[3:]]), "eval-0": good_eval}, **options)
        assert not verdict.accepted
        assert verdict.coverage.bad_records == 1
        assert verdict.coverage.records == 13
        [finding] = verdict.findings
        assert (finding.severity, finding.shard, finding.record) == ("error", "train-0", 3)
        assert finding.offset == offset
        assert verdict.reason() == finding.sentence()
        assert verdict.reason().startswith(f"train-0, record 3 at byte {offset}: ")
        assert finding.remedy
        return finding

    return one_fault


def test_good_shards_are_accepted_plain_and_gzip(check, record, shard, good_eval) -> None:
    records = [record(seed) for seed in range(10)]
    verdict = check({"train-0": shard(records), "train-1.gz": gzip.compress(good_eval[:0]), "eval-0": good_eval})
    assert verdict.accepted
    assert verdict.finding_counts == {"empty_shard": 1}
    compressed = check({"train-0": shard(records, compress=True), "eval-0": good_eval})
    assert compressed.accepted
    assert compressed.findings == ()
    assert [entry.compressed for entry in compressed.shards] == [True, False]
    assert compressed.coverage.images_decoded == 16
    assert compressed.reason() == "accepted: 16 records in 2 shards"
    assert compressed.splits[0].image_width.median == 20
    assert compressed.splits[0].image_height.maximum == 16


def test_png_is_as_good_as_jpeg(check, record, image, shard) -> None:
    records = [record(seed, image=image(seed, kind="PNG")) for seed in range(20)]
    verdict = check({"train-0": shard(records)})
    assert verdict.accepted, verdict.findings


def test_a_changed_byte_is_placed_and_the_other_records_still_count(check, record, shard, good_eval) -> None:
    records = [record(seed) for seed in range(4)]
    data = bytearray(shard(records))
    offset = 16 + len(records[0])
    data[offset + 40] ^= 0xFF
    verdict = check({"train-0": bytes(data), "eval-0": good_eval})
    [finding] = verdict.findings
    assert (finding.code, finding.shard, finding.record, finding.offset) == ("checksum_mismatch", "train-0", 1, offset)
    assert verdict.shards[0].records == 4
    assert verdict.shards[0].bad_records == 1
    assert verdict.shards[0].whole
    assert verdict.splits[0].records == 3


def test_a_cut_shard_is_placed_at_the_record_that_was_cut(check, record, shard, good_eval) -> None:
    records = [record(seed) for seed in range(4)]
    verdict = check({"train-0": shard(records)[:-9], "eval-0": good_eval})
    [finding] = verdict.findings
    offset = sum(16 + len(data) for data in records[:3])
    assert (finding.code, finding.record, finding.offset) == ("truncated", 3, offset)
    assert "ends 9 bytes before the end" in finding.message
    assert not verdict.shards[0].whole


def test_a_changed_length_ends_the_shard(check, record, shard, good_eval) -> None:
    data = bytearray(shard([record(seed) for seed in range(4)]))
    offset = 16 + len(record(0))
    data[offset] ^= 1
    verdict = check({"train-0": bytes(data), "eval-0": good_eval})
    finding = verdict.findings[0]
    assert (finding.code, finding.record, finding.offset) == ("checksum_mismatch", 1, offset)
    assert verdict.shards[0].records == 2


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"image,label\n1.jpg,daisy\n", "not_tfrecord"),
        (gzip.compress(frame_record(b"\0" * 60_000) * 500), "compression_bomb"),
        (gzip.compress(bytes(number * number % 251 for number in range(9000)))[:2000], "not_tfrecord"),
        (b"\x1f\x8b\x08\0" + b"\xff" * 30, "damaged_compression"),
    ],
)
def test_what_is_not_a_shard_is_named(check, good_eval, data: bytes, code: str) -> None:
    verdict = check({"train-0": good_eval, "train-1": data})
    assert not verdict.accepted
    errors = [finding for finding in verdict.findings if finding.shard == "train-1" and finding.code == code]
    assert errors, verdict.findings


def deflated(data: bytes, wbits: int) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, wbits)
    return compressor.compress(data) + compressor.flush()


OTHER_FILES = {
    "TFRecords, ZLIB-compressed": lambda data: deflated(data, 15),
    "TFRecords, compressed with raw deflate": lambda data: deflated(data, -15),
    "compressed with gzip twice": lambda data: gzip.compress(gzip.compress(data)),
    "HTML or XML text": lambda _: b"<!DOCTYPE html><html><title>404</title>",
    "HTML or XML text, perhaps the answer of a server that refused a download, and that compressed with gzip": (
        lambda _: gzip.compress(b"<!DOCTYPE html><html><title>404</title>" * 20)
    ),
    "a Git LFS pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n",
    "a ZIP archive": lambda data: b"PK\x03\x04" + data,
    "Snappy-compressed": lambda data: b"\xff\x06\0\0sNaPpY" + data,
    "Zstandard-compressed": lambda data: b"\x28\xb5\x2f\xfd" + data,
    "bzip2-compressed": bz2.compress,
    "xz-compressed": lzma.compress,
    "a text file, such as CSV": lambda _: b"image,label\n1.jpg,daisy\n",
    "JSON text": lambda _: b'\xef\xbb\xbf  {"image": "1.jpg"}\n',
    "what macOS keeps beside a file (AppleDouble)": lambda _: b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + bytes(60),
    "a JPEG picture": lambda _: b"\xff\xd8\xff\xe0" + bytes(40),
    "a tar archive, perhaps of WebDataset": lambda _: b"0001.jpg".ljust(257, b"\0") + b"ustar\x0000" + bytes(300),
    "an SQLite database": lambda _: b"SQLite format 3\0" + bytes(60),
    "an Arrow file": lambda _: b"ARROW1\0\0" + bytes(60),
    "a Parquet file": lambda _: b"PAR1" + bytes(60),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_another_file_is_called_what_it_is(check, record, shard, good_eval, kind: str) -> None:
    data = OTHER_FILES[kind](shard(map(record, range(20))))
    verdict = check({"train-0": shard([record(100), record(101)]), "train-1": data, "eval-0": good_eval})

    (finding,) = [each for each in verdict.findings if each.code == "not_tfrecord"]
    assert finding.shard == "train-1"
    assert f"this looks like {kind}" in finding.message
    assert not finding.remedy.startswith("keep only TFRecord files")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_text_in_any_language(check, good_eval, encoding: str) -> None:
    verdict = check({"train-0": ("bild;klasse\n1.jpg;gänseblümchen\n" * 200).encode(encoding), "eval-0": good_eval})
    (finding,) = [each for each in verdict.findings if each.code == "not_tfrecord"]
    assert "this looks like a text file, such as CSV" in finding.message


def test_a_file_of_no_known_kind_is_not_guessed_at(check, good_eval) -> None:
    verdict = check({"train-0": bytes(range(200, 256)) * 20, "eval-0": good_eval})

    (finding,) = [each for each in verdict.findings if each.code == "not_tfrecord"]
    assert "looks like" not in finding.message


@pytest.mark.parametrize("tolerated", [0.0, 0.2])
def test_a_record_longer_than_the_limit_is_one_bad_record(check, record, shard, good_eval, tolerated: float) -> None:
    data = shard([record(0), b"x" * 5000, record(1), record(2)])
    limits = ValidationLimits(max_record_bytes=4000, max_bad_records=tolerated)
    verdict = check({"train-0": data, "eval-0": good_eval}, limits=limits)
    [finding] = verdict.findings
    assert (finding.code, finding.record) == ("record_too_long", 1)
    assert "5000 bytes, the limit is 4000" in finding.message
    assert "scale the picture down" in finding.remedy
    assert verdict.coverage.records == 10, "what stands behind it is read"
    assert verdict.accepted is bool(tolerated)


def test_bytes_that_are_not_an_example_are_named(one_fault) -> None:
    assert one_fault(b"\x0a\xff\xff").code == "malformed_example"


def test_a_missing_feature_is_named_with_those_that_are_there(one_fault, image) -> None:
    finding = one_fault(encode_example({"picture": image(50), "class": 1}))
    assert finding.code == "image_missing"
    assert finding.message == "there is no feature 'image'; the record's features: 'class', 'picture'"
    assert "data.features.image" in finding.remedy
    assert one_fault(encode_example({"image": image(51)})).code == "label_missing"


def test_a_feature_of_the_wrong_type_or_number_is_named(one_fault, image) -> None:
    assert one_fault(encode_example({"image": 7, "class": 1})).message == "feature 'image' is int64, not bytes"
    finding = one_fault(encode_example({"image": image(53), "class": [0, 1, 1]}))
    assert (finding.code, finding.message) == ("label_count", "feature 'class' has 3 values (0, 1), not one class")
    assert one_fault(encode_example({"image": [], "class": 1})).code == "image_type"


@pytest.mark.parametrize("label", [2, -1, 2**40])
def test_a_label_out_of_range_is_named(one_fault, record, label: int) -> None:
    finding = one_fault(record(54, label=label))
    assert finding.code == "label_out_of_range"
    assert finding.message == f"label {label} is outside the 2 configured labels (0 to 1)"


def test_an_image_of_another_format_is_recognised(one_fault, record, image) -> None:
    finding = one_fault(record(55, image=image(55, kind="GIF")))
    assert finding.code == "image_format"
    assert "looks like a GIF" in finding.message
    assert one_fault(record(56, image=b"")).code == "image_empty"
    assert one_fault(record(57, image=b"/9j/4AAQSkZJRg==")).message.endswith("(looks like base64 text (of a JPEG))")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_that_is_cut_off_is_found_even_outside_the_sample(one_fault, record, image, kind: str) -> None:
    finding = one_fault(record(58, image=image(58, kind=kind)[:-60]), limits=ValidationLimits(full_decode_sample=0))
    assert finding.code == "image_damaged"
    assert "cut off" in finding.message


def test_what_only_decoding_shows_is_found_in_the_sample_and_counted_for_all(check, record, shard, good_eval) -> None:
    def shards(broken_in_hundred: int) -> dict[str, bytes]:
        rotten = odd_images.png(odd_images.chunk(b"IDAT", zlib.compress(b"\0" * 40)))
        images = [rotten if number % 100 < broken_in_hundred else None for number in range(600)]
        records = [record(number, image=each) for number, each in enumerate(images)]
        return {"train-0": shard(records), "eval-0": good_eval}

    limits = ValidationLimits(max_bad_records=0.02, full_decode_sample=150)
    refused = check(shards(8), limits=limits)
    assert not refused.accepted
    assert refused.reason().startswith(
        f"{refused.coverage.images_damaged} of {refused.coverage.images_decoded} decoded"
    )
    found = refused.coverage
    assert found.bad_records < 30 < found.unusable.value < 70
    assert found.unusable.low < found.unusable.value < found.unusable.high
    tolerated = check(shards(1), limits=dataclasses.replace(limits, max_bad_records=0.1))
    assert tolerated.accepted
    assert "no more than max_bad_records" in tolerated.findings[0].message


def test_a_damaged_header_is_named(one_fault, record, image) -> None:
    png = bytearray(image(60, kind="PNG"))
    png[16] ^= 1
    assert one_fault(record(60, image=bytes(png))).message == "the PNG has a header that does not match its checksum"
    assert one_fault(record(61, image=image(61)[:30])).code == "image_header"
    assert one_fault(record(62, image=b"\xff\xd8\xff\xd9")).code == "image_header"


def test_a_jpeg_that_tensorflow_cannot_decode_is_named(one_fault, record, image) -> None:
    data = bytearray(image(63))
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = 12
    assert one_fault(record(63, image=bytes(data))).code == "image_unsupported"


def test_a_picture_with_too_many_pixels_is_never_decoded(one_fault, record, image) -> None:
    data = bytearray(image(64))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    finding = one_fault(record(64, image=bytes(data)))
    assert finding.code == "image_too_large"
    assert "60000 x 60000" in finding.message


def test_grey_cmyk_and_progressive_jpegs_are_accepted(check, record, shard, image) -> None:
    records = [record(seed) for seed in range(16)]
    for seed, mode in enumerate(("L", "CMYK"), start=70):
        stream = io.BytesIO()
        Image.frombytes("RGB", (20, 16), bytes(range(240)) * 4).convert(mode).save(stream, "JPEG")
        records.append(record(seed, image=stream.getvalue()))
    records.append(record(72, image=image(72, progressive=True)))
    verdict = check({"train-0": shard(records)})
    assert verdict.accepted, verdict.findings


def test_empty_shards_are_warned_about(check, record, shard, good_eval) -> None:
    verdict = check(
        {
            "train-0": shard([record(0), record(1)]),
            "train-1": b"",
            "train-2": gzip.compress(b""),
            "eval-0": good_eval,
        }
    )
    assert verdict.accepted
    assert [(finding.severity, finding.code, finding.shard) for finding in verdict.findings] == [
        ("warning", "empty_shard", "train-2"),
        ("warning", "empty_shard", "train-1"),
    ]
    assert verdict.findings[1].message == "the shard is empty (0 bytes)"
    assert verdict.reason().endswith("4 shards, 2 warnings")


def test_findings_are_capped_but_counted(check, record, shard, good_eval) -> None:
    records = [record(seed, label=9) for seed in range(50)] + [record(seed) for seed in range(50, 60)]
    limits = ValidationLimits(max_findings_per_code=3)
    verdict = check({"train-0": shard(records), "eval-0": good_eval}, limits=limits)
    assert verdict.finding_counts == {"label_out_of_range": 50}
    assert [finding.record for finding in verdict.findings] == [0, 1, 2]
    assert verdict.reason().endswith("(and 49 more findings)")


def test_as_many_bad_records_as_the_trainer_skips_are_warnings(check, record, shard, good_eval) -> None:
    data = {"train-0": shard([*map(record, range(93)), record(93, label=9)]), "eval-0": good_eval}
    tolerant = check(data, limits=ValidationLimits(max_bad_records=0.01))
    assert tolerant.accepted
    assert [finding.severity for finding in tolerant.findings] == ["warning"]
    assert not check(data, limits=ValidationLimits(max_bad_records=0.009)).accepted


def test_a_cut_shard_is_never_tolerated(check, record, shard, good_eval) -> None:
    data = {"train-0": shard(map(record, range(99)))[:-1], "eval-0": good_eval}
    assert not check(data, limits=ValidationLimits(max_bad_records=0.5)).accepted


def test_a_shard_of_nothing_but_bad_records_is_given_up(check, record, shard, good_eval) -> None:
    data = shard([*map(record, range(3)), *[b""] * 50])
    verdict = check({"train-0": data, "eval-0": good_eval}, limits=ValidationLimits(max_bad_records_per_shard=10))
    assert not verdict.accepted
    assert verdict.coverage.records == 13 + 6
    assert verdict.finding_counts == {"image_missing": 10, "given_up": 1}
    assert verdict.findings[-1].message == "given up after 10 unusable records of 13"
