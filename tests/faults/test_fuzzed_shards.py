"""Ten thousand damaged shards: each is accepted or rejected with a reason, quickly and in little memory.

`FUZZED_SHARDS=100000` runs a longer version.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import resource
import struct
import time
from collections import Counter

from PIL import Image

from dualdeploy.images.tfrecord import encode_example, frame_record, masked_crc32c, write_records
from training_launcher.validation import MemoryShard, ValidationLimits, validate

SHARDS = int(os.environ.get("FUZZED_SHARDS", "10000"))
LABELS = ("daisy", "dandelion", "roses")
#: Of the processor: what else the machine does is not the validator's.
SECONDS_PER_SHARD = 2.0
MEBIBYTES_MORE = 64


def encoded_image(chance: random.Random, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.frombytes("RGB", (12, 12), chance.randbytes(432)).save(stream, kind)
    return stream.getvalue()


class Workshop:
    """Makes a good shard of a few records, and damages it in every way it knows."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.images = [encoded_image(self.chance, kind) for kind in ("JPEG", "PNG") for _ in range(6)]
        self.damages = [getattr(self, name) for name in dir(self) if name.startswith("with_")]

    def examples(self) -> list[bytes]:
        chosen = self.chance.sample(self.images, 6)
        return [encode_example({"image": image, "class": number % 3}) for number, image in enumerate(chosen)]

    @staticmethod
    def join(records: list[bytes]) -> bytes:
        stream = io.BytesIO()
        write_records(stream, records)
        return stream.getvalue()

    def damaged(self) -> tuple[str, bytes]:
        damage = self.chance.choice(self.damages)
        data = damage()
        if self.chance.random() < 0.2:
            data = gzip.compress(data, 1)
            if self.chance.random() < 0.5:
                data = self.flipped(data)
        return damage.__name__, data

    def flipped(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.chance.randint(1, 4)):
            changed[self.chance.randrange(len(changed))] ^= 1 << self.chance.randrange(8)
        return bytes(changed)

    def with_nothing_wrong(self) -> bytes:
        return self.join(self.examples())

    def with_the_end_cut_off(self) -> bytes:
        data = self.join(self.examples())
        return data[: self.chance.randrange(len(data))]

    def with_bits_flipped(self) -> bytes:
        return self.flipped(self.join(self.examples()))

    def with_a_lying_length(self) -> bytes:
        length = self.chance.choice([0, 1, 2**20, 2**31, 2**63, 2**64 - 1, self.chance.randrange(2**24)])
        header = struct.pack("<Q", length)
        records = self.examples()
        return self.join(records[:2]) + header + struct.pack("<I", masked_crc32c(header)) + self.join(records[2:])

    def with_flipped_examples(self) -> bytes:
        """Right checksums around damaged protobufs."""
        return self.join([self.flipped(record) for record in self.examples()])

    def with_cut_examples(self) -> bytes:
        return self.join([record[: self.chance.randrange(len(record))] for record in self.examples()])

    def with_wrong_features(self) -> bytes:
        image = self.chance.choice(self.images)
        label = self.chance.choice([-1, 3, 2**40, [0, 1], [], 0.5, b"daisy", 1])
        name = self.chance.choice(["image", "picture", "", "class"])
        return self.join([encode_example({"class": label, name: image}), *self.examples()])

    def with_damaged_images(self) -> bytes:
        images = [self.flipped(image) for image in self.chance.sample(self.images, 6)]
        return self.join([encode_example({"image": image, "class": 1}) for image in images])

    def with_cut_images(self) -> bytes:
        images = [image[: self.chance.randrange(len(image))] for image in self.chance.sample(self.images, 6)]
        return self.join([encode_example({"image": image, "class": 1}) for image in images])

    def with_huge_dimensions(self) -> bytes:
        image = bytearray(self.images[0])
        frame = image.index(b"\xff\xc0")
        image[frame + 5 : frame + 9] = self.chance.randbytes(4)
        return self.join([encode_example({"image": bytes(image), "class": 1}), *self.examples()])

    def with_another_format(self) -> bytes:
        image = self.chance.choice(
            [b"GIF89a", b"", b"<svg/>", self.chance.randbytes(50), b"\xff\xd8", b"\x89PNG\r\n\x1a\n"]
        )
        return self.join([encode_example({"image": image, "class": 1}), *self.examples()])

    def with_random_bytes(self) -> bytes:
        return self.chance.randbytes(self.chance.randrange(2000))

    def with_random_records(self) -> bytes:
        return self.join([self.chance.randbytes(self.chance.randrange(300)) for _ in range(5)])

    def with_shuffled_blocks(self) -> bytes:
        data = self.join(self.examples())
        blocks = [data[start : start + 64] for start in range(0, len(data), 64)]
        self.chance.shuffle(blocks)
        return b"".join(blocks)


def judge(data: bytes, limits: ValidationLimits | None = None):
    return validate(
        [MemoryShard("fuzzed", data)], labels=LABELS, features={"image": "image", "label": "class"}, limits=limits
    )


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_every_damaged_shard_gets_a_verdict_with_a_reason_in_bounded_time_and_memory() -> None:
    workshop = Workshop(seed=20)
    judge(workshop.with_nothing_wrong())  # imports the decoders
    before = peak_mebibytes()
    outcomes: Counter[tuple[str, bool]] = Counter()
    for _ in range(SHARDS):
        damage, data = workshop.damaged()
        started = time.process_time()
        verdict = judge(data)
        assert time.process_time() - started < SECONDS_PER_SHARD, damage
        assert verdict.reason(), damage
        if not verdict.accepted:
            errors = [finding for finding in verdict.findings if finding.severity == "error"]
            assert errors, damage
            assert all(finding.message and finding.remedy for finding in errors), damage
        assert verdict.to_json()
        outcomes[damage, verdict.accepted] += 1
    assert peak_mebibytes() - before < MEBIBYTES_MORE
    for damage in ("with_a_lying_length", "with_cut_images", "with_another_format", "with_random_bytes"):
        assert outcomes[damage, False], "the damage never happened"
        assert not outcomes[damage, True], f"{damage} was accepted"


def test_gzip_bombs_are_rejected_in_bounded_time_and_memory() -> None:
    zeros = frame_record(b"\0" * 60_000) * 1000
    bombs = {
        "records of zeros": gzip.compress(zeros),
        "one endless record": gzip.compress(struct.pack("<Q", 15 << 20) + b"\0" * (64 << 20)),
        "members": gzip.compress(b"\0" * (1 << 20)) * 64,
        "padding": gzip.compress(b"") + b"\0" * (8 << 20),
    }
    for record in (b"", b"\0"):  # millions of records in a few kilobytes
        bombs[f"{len(record)}-byte records"] = gzip.compress(frame_record(record) * (2 << 20))
    judge(gzip.compress(b""))
    before = peak_mebibytes()
    for name, bomb in bombs.items():
        started = time.process_time()
        verdict = judge(bomb, ValidationLimits(max_gzip_ratio=100))
        assert not verdict.accepted, name
        assert time.process_time() - started < SECONDS_PER_SHARD, name
    assert peak_mebibytes() - before < MEBIBYTES_MORE
