"""answers.csv.gz: what one model answered to each picture that was held out when it was trained.

One row for each picture, in the order of their fingerprints, so that the answers of two models can be paired, of
another run too: a picture that both held out is one that neither has learned from. Some 30 bytes a picture.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from dualdeploy.errors import UnusableResult

FILE_NAME = "answers.csv.gz"


class Answer(NamedTuple):
    """`picture` is its `fingerprint`, `label` its true label, `confidence` the largest probability."""

    picture: str
    label: str
    predicted: str
    confidence: float


class Pair(NamedTuple):
    """What both models answered to one picture: the phone's label and how sure it was, and who was right."""

    predicted: str
    confidence: float
    phone_right: bool
    cloud_right: bool


def fingerprint(picture: bytes) -> str:
    """The first 16 hex digits of the SHA-256 of the file's bytes: one in 15 billion among 50,000 pictures has two."""
    return hashlib.sha256(picture).hexdigest()[:16]


def encode(answers: Iterable[Answer]) -> bytes:
    """The file; the same answers in any order are the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Answer._fields)
    # Nine digits tell any two float32 apart.
    writer.writerows(sorted((*each[:3], f"{each.confidence:.9g}") for each in answers))
    return gzip.compress(text.getvalue().encode(), mtime=0)


def decode(data: bytes, *, source: str) -> list[Answer]:
    """Read such a file. Raises UnusableResult that names it."""
    try:
        rows = csv.reader(io.StringIO(gzip.decompress(data).decode()))
        columns = tuple(next(rows, ()))
        read = [Answer(picture, label, said, float(sure)) for picture, label, said, sure in rows]
    except (ValueError, OSError, EOFError, zlib.error, csv.Error) as exc:
        raise UnusableResult(f"{source} does not hold answers to held-out pictures: {exc}") from exc
    if columns != Answer._fields:
        raise UnusableResult(f"{source} has the columns {', '.join(columns)}, not {', '.join(Answer._fields)}")
    return read


def pair(phone: Iterable[Answer], cloud: Iterable[Answer]) -> list[Pair]:
    """Both answers to each picture that both held out, once for each picture.

    A picture whose label differs between the two runs says nothing of either model and is left out.
    """
    other = {answer.picture: answer for answer in cloud}
    paired = {}
    for mine in phone:
        theirs = other.get(mine.picture)
        if theirs and theirs.label == mine.label:
            right = mine.predicted == mine.label, theirs.predicted == theirs.label
            paired[mine.picture] = Pair(mine.predicted, mine.confidence, *right)
    return list(paired.values())
