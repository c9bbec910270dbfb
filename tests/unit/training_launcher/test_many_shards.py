"""More shards than one request reads, or than are read at all."""

from __future__ import annotations

import dataclasses
import io
import random

import numpy as np
import pytest

from dualdeploy.contracts.split import divide
from training_launcher.extrapolation import Extrapolation
from training_launcher.sampling import SMALLEST_SHARE, plan
from training_launcher.validation import MemoryShard, Validation, ValidationLimits

FEATURES = {"image": "image", "label": "class"}
LABELS = ("daisy", "roses")
MEBIBYTE = SMALLEST_SHARE


# Which of them are opened --------------------------------------------------------------------------------------------


def shares(sizes: list[int], *, held_out: set[int] = frozenset(), max_bytes: int = 1 << 40, max_shards: int = 10_000):
    names = [f"s{number:05d}" for number in range(len(sizes))]
    sides = [number in held_out for number in range(len(sizes))]
    return plan(names, sizes, sides, max_bytes=max_bytes, max_shards=max_shards).shares


def test_small_shards_leave_their_share_to_others() -> None:
    assert shares([5, 7], max_bytes=100) == (5, 7)
    sizes = [0, 2 * MEBIBYTE, 100 * MEBIBYTE, 100 * MEBIBYTE]
    assert shares(sizes, max_bytes=20 * MEBIBYTE) == (0, 2 * MEBIBYTE, 9 * MEBIBYTE, 9 * MEBIBYTE)


@pytest.mark.parametrize(
    ("sizes", "max_bytes", "max_shards", "opened"),
    [
        ([10 * MEBIBYTE] * 1000, 100 * MEBIBYTE, 10_000, 100),
        ([1000] * 3000, 1 << 40, 500, 500),
        ([10 * MEBIBYTE] * 1000, 100 * MEBIBYTE, 30, 30),
        ([0] * 50 + [1000] * 50, 1 << 40, 60, 50),
        ([1000] * 3000, 10_000, 10_000, 2),
    ],
)
def test_a_draw_stays_within_both_limits(sizes: list[int], max_bytes: int, max_shards: int, opened: int) -> None:
    held_out = set(range(0, len(sizes), 7)) | {len(sizes) - 1}
    drawn = shares(sizes, held_out=held_out, max_bytes=max_bytes, max_shards=max_shards)

    chosen = [number for number, share in enumerate(drawn) if share]
    assert len(chosen) == opened
    assert sum(drawn) <= max_bytes
    assert held_out & set(chosen), "both sides of the split are looked at"
    assert set(chosen) - held_out


@pytest.mark.parametrize("few", [1, 3])
def test_a_side_of_few_shards_is_never_left_out(few: int) -> None:
    for most in (2, 5, 100):
        for held_out in (set(range(few)), set(range(few, 1000))):
            chosen = {
                number for number, share in enumerate(shares([9] * 1000, held_out=held_out, max_shards=most)) if share
            }
            assert len(chosen) == most
            assert chosen & held_out
            assert chosen - held_out


def test_the_same_shards_are_drawn_again_and_other_data_draws_others() -> None:
    sizes = [1000] * 400
    first = shares(sizes, max_shards=40)
    assert first == shares(sizes, max_shards=40)
    assert first != shares([*sizes[:-1], 999], max_shards=40)
    positions = [number for number, share in enumerate(first) if share]
    assert max(positions) > 300
    assert min(positions) < 100, "a draw is no beginning"


# What they say of the others -----------------------------------------------------------------------------------------


def test_what_was_read_whole_is_not_estimated() -> None:
    found = Extrapolation()
    found.add(np.array([3, 4]), 100)
    found.add(np.array([5]), 50)

    assert [str(each) for each in found.of_all(150)] == ["8", "4"]


def test_one_shard_alone_says_nothing_of_its_own_uncertainty() -> None:
    found = Extrapolation()
    found.add(np.array([10]), 100)

    assert str(found.of_all(1000)[0]) == "about 100 (at least 10)"


def test_bounds_hold_in_nineteen_of_twenty_draws() -> None:
    chance = random.Random(1)
    # Shards sorted by class, as writers leave them, of different sizes: the hard case.
    shards = [(chance.randrange(50, 150), number % 4 == 0) for number in range(400)]
    truth = sum(records for records, has_class in shards if has_class)
    total = sum(records * 10 for records, _ in shards)
    right = 0
    for _ in range(200):
        found = Extrapolation()
        for records, has_class in chance.sample(shards, 60):
            found.add(np.array([records if has_class else 0]), records * 10)
        (estimate,) = found.of_all(total)
        right += estimate.low <= truth <= (estimate.high or 0)
    assert 180 <= right <= 200


def test_a_sampled_verdict_says_what_it_expects_of_all(record, shard) -> None:
    shards = [
        MemoryShard(f"train-{number:03d}", shard(map(record, range(4 * number, 4 * number + 4))))
        for number in range(60)
    ]
    shards += [
        MemoryShard(f"eval-{number}", shard(map(record, range(5000 + number * 4, 5004 + number * 4))))
        for number in range(6)
    ]
    validation = Validation(
        shards,
        labels=LABELS,
        features=FEATURES,
        split=divide(each.name for each in shards),
        limits=ValidationLimits(max_shards=22),
    )
    validation.read()
    verdict = validation.conclude()

    assert verdict.accepted
    assert (verdict.coverage.shards_read, verdict.coverage.records) == (22, 88)
    assert verdict.records_estimated.low <= 264 <= verdict.records_estimated.high
    trained = [each.estimated["train"] for each in verdict.classes]
    assert sum(each.value for each in trained) == pytest.approx(240, abs=12)
    (note,) = [note for note in verdict.notes if note.startswith("Sampled: ")]
    assert "22 of 66 shards, drawn at random (draw " in note
    assert note.endswith(f"All shards together have {verdict.records_estimated} records.")


# In several goes -----------------------------------------------------------------------------------------------------


def shards_with_faults(record, shard) -> list[MemoryShard]:
    found = []
    for number in range(12):
        records = [record(10 * number + place) for place in range(10)]
        if number % 3 == 0:
            records[4] = record(7, label=9)
        if number % 4 == 1:
            records[5] = record(3)  # a copy of the first shard's
        data = shard(records)[: -5 if number == 5 else None]
        found.append(MemoryShard(f"{'eval' if number > 9 else 'train'}-{number:02d}", data))
    return [*found, MemoryShard("train-empty", b"")]


@pytest.mark.parametrize("by_hash", [False, True])
@pytest.mark.parametrize("limits", [{}, {"max_shards": 7}], ids=["all", "drawn"])
def test_several_goes_come_to_the_verdict_of_one(record, shard, by_hash: bool, limits: dict[str, int]) -> None:
    shards = shards_with_faults(record, shard)
    if by_hash:
        shards = [MemoryShard(each.name.replace("eval", "more"), each.data) for each in shards]

    def begun() -> Validation:
        return Validation(
            shards,
            labels=LABELS,
            features=FEATURES,
            split=divide(each.name for each in shards),
            limits=ValidationLimits(opened_ahead=2, **limits),
            keep=True,
        )

    at_once = begun()
    assert at_once.read()
    steps: list[bytes] = []
    for _ in range(20):
        again, left = begun(), iter([True, True, True])
        for step in steps:
            again.take_up(step)
        if again.read(go_on=lambda left=left: next(left, False)):
            break
        steps.append(again.step())
    assert len(steps) >= 2
    verdicts = [dataclasses.replace(each.conclude(), seconds=0.0) for each in (at_once, again)]
    assert verdicts[0] == verdicts[1]
    assert verdicts[0].finding_counts


def test_a_step_of_other_data_is_left_alone(record, shard) -> None:
    def begun(*names: str) -> Validation:
        shards = [MemoryShard(name, shard([record(0), record(1)])) for name in names]
        split = divide(names)
        return Validation(shards, labels=LABELS, features=FEATURES, split=split, keep=True)

    first = begun("train-0", "eval-0")
    first.read()
    step, other = first.step(), begun("train-1", "eval-0")
    other.take_up(step)
    assert other.shards_read == 0
    other.take_up(step.replace(b'"v": 1', b'"v": 2'))
    assert other.shards_read == 0


class CountedShard(MemoryShard):
    """Knows how many streams are open at a time."""

    now: int = 0
    most: int = 0

    def open(self, length: int) -> io.BytesIO:
        kind = type(self)
        kind.now += 1
        kind.most = max(kind.most, kind.now)

        class Stream(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    kind.now -= 1
                super().close()

            def read(self, size: int | None = -1) -> bytes:
                if self.getvalue() == b"broken":
                    raise ConnectionResetError("the peer went away")
                return super().read(size)

        return Stream(self.data)


@pytest.mark.parametrize("broken", [False, True])
def test_the_next_shards_are_opened_while_one_is_read_and_all_are_closed(record, shard, broken: bool) -> None:
    kind = type("Counted", (CountedShard,), {})
    shards = [kind(f"train-{number:02d}", shard([record(number)])) for number in range(40)]
    if broken:
        shards[20] = kind("train-20", b"broken")
    validation = Validation(shards, labels=LABELS, features=FEATURES, split=divide(each.name for each in shards))
    if broken:
        with pytest.raises(ConnectionResetError):
            validation.read()
    else:
        assert validation.read()
    assert kind.most == ValidationLimits().opened_ahead
    assert kind.now == 0
