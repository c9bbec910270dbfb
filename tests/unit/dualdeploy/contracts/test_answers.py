"""What a model answered to the pictures that were held out, and how two models' answers are paired."""

from __future__ import annotations

import gzip
import random
import struct

import pytest

from dualdeploy.contracts import answers
from dualdeploy.contracts.answers import Answer, Pair
from dualdeploy.errors import UnusableResult


def test_the_order_of_the_pictures_changes_no_byte() -> None:
    said = [Answer(f"{number:016x}", "a, b", 'c "d"', number / 7) for number in range(20)]
    shuffled = random.Random(1).sample(said, len(said))
    assert answers.encode(said) == answers.encode(shuffled)


def test_what_is_read_is_what_was_written_to_the_last_bit_of_a_float32() -> None:
    # 1/3 as float32, and its neighbour.
    said = [Answer("0" * 16, "Löwenzahn", "a\nb", 0.3333333432674408), Answer("1" * 16, "", "", 0.3333333134651184)]
    read = answers.decode(answers.encode(said), source="test")
    assert [each[:3] for each in read] == [each[:3] for each in said]
    assert [struct.pack("<f", each.confidence) for each in read] == [
        struct.pack("<f", each.confidence) for each in said
    ]


DAMAGED = {
    "empty": b"",
    "no gzip": b"no gzip",
    "cut off": answers.encode([Answer("0", "a", "b", 1.0)])[:-6],
    "other columns": gzip.compress(b"picture,label\n1,2\n"),
    "a column too few": gzip.compress(b"picture,label,predicted,confidence\n1,2,3\n"),
    "no number": gzip.compress(b"picture,label,predicted,confidence\n1,2,3,sure\n"),
    "no text": gzip.compress(b"\xff\xfe"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_holds_no_answers_is_refused_by_name(what: str) -> None:
    with pytest.raises(UnusableResult, match="gs://b/answers"):
        answers.decode(DAMAGED[what], source="gs://b/answers")


def test_pictures_that_both_held_out_are_paired_once_and_those_of_another_label_are_not() -> None:
    phone = [
        Answer("both", "daisy", "daisy", 0.9),
        Answer("both", "daisy", "daisy", 0.9),
        Answer("phone alone", "daisy", "daisy", 0.8),
        Answer("mended label", "daisy", "daisy", 0.7),
        Answer("both wrong", "roses", "daisy", 0.6),
    ]
    cloud = [
        Answer("both", "daisy", "roses", 0.5),
        Answer("mended label", "roses", "roses", 0.5),
        Answer("both wrong", "roses", "tulips", 0.5),
        Answer("cloud alone", "roses", "roses", 0.5),
    ]
    assert answers.pair(phone, cloud) == [
        Pair("daisy", 0.9, phone_right=True, cloud_right=False),
        Pair("daisy", 0.6, phone_right=False, cloud_right=False),
    ]
