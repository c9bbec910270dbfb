"""A data set of painted flowers: TFRecord shards that look like the public flowers data set's.

    python -m dualdeploy_demo.flowers --output DIR --train 640 --eval 160 --shards 4 --seed 7

The same arguments give the same bytes, so a second upload of them is recognised as nothing new.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import io
import json
import multiprocessing
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from dualdeploy.images.tfrecord import encode_example, write_records
from dualdeploy_demo.painting import FLOWERS, LEVELS, paint

#: In the order of the public flowers data set: the position is the class index.
LABELS = tuple(FLOWERS)

#: JPEG quality: photos from a camera are better, photos from the web worse.
QUALITY = 88


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture to paint: which set it belongs to, its number there, and its class."""

    part: str
    number: int
    label: int


@dataclasses.dataclass(frozen=True)
class Style:
    """What all pictures of a data set have in common; `side` in pixels."""

    seed: int = 7
    level: str = "easy"
    side: int = 128

    def jpeg(self, picture: Picture) -> bytes:
        """The picture as a JPEG file; parts never share a picture, because the part's name is in the seed."""
        seed = f"{self.seed}/{self.level}/{picture.part}/{picture.number}"
        image = paint(LABELS[picture.label], seed, level=LEVELS[self.level], side=self.side)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=QUALITY)
        return stream.getvalue()

    def example(self, picture: Picture) -> bytes:
        """The picture as a serialised tf.train.Example with the public data set's features."""
        one_hot = [1.0 if index == picture.label else 0.0 for index in range(len(LABELS))]
        return encode_example({"image": self.jpeg(picture), "class": picture.label, "one_hot_class": one_hot})


def pictures(part: str, count: int, seed: int) -> list[Picture]:
    """`count` pictures with the classes as equal as can be, in an order that mixes them."""
    labels = [number % len(LABELS) for number in range(count)]
    random.Random(f"{seed}/{part}").shuffle(labels)
    return [Picture(part, number, label) for number, label in enumerate(labels)]


def generate(
    output: Path,
    *,
    train: int = 640,
    held_out: int = 160,
    shards: int = 4,
    unseen: int = 0,
    style: Style | None = None,
    compressed: bool = False,
) -> list[Path]:
    """Write the shards, and `unseen` more pictures as JPEG files with a labels.json; returns all paths.

    A folder that already holds a part of another size keeps those files: give every data set its own folder.
    """
    style = style or Style()
    output.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with _painters() as painters:
        for part, count, files in (("train", train, shards), ("eval", held_out, 1)):
            if count == 0:
                continue
            batch = pictures(part, count, style.seed)
            for index in range(files):
                path = output / f"{part}-{index:05d}-of-{files:05d}.tfrecord{'.gz' if compressed else ''}"
                examples = painters.map(style.example, batch[index::files], chunksize=8)
                write_records(path, examples, gzip=compressed)
                written.append(path)
        if unseen:
            written += _write_unseen(output / "unseen", unseen, style, painters)
    return written


def _write_unseen(folder: Path, count: int, style: Style, painters: concurrent.futures.Executor) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    batch = pictures("unseen", count, style.seed)
    labels: dict[str, str] = {}
    for picture, jpeg in zip(batch, painters.map(style.jpeg, batch, chunksize=8), strict=True):
        path = folder / f"unseen-{picture.number:03d}.jpg"
        path.write_bytes(jpeg)
        labels[path.name] = LABELS[picture.label]
        yield path
    path = folder / "labels.json"
    path.write_text(json.dumps(labels, indent=1) + "\n")
    yield path


def contact_sheet(path: Path, *, columns: int = 10, style: Style | None = None) -> None:
    """Write one picture with `columns` unseen flowers of each class, a row for each: for README and people."""
    style = style or Style()
    gap = 4
    cell = style.side + gap
    sheet = Image.new("RGB", (columns * cell + gap, len(LABELS) * cell + gap), "white")
    for row in range(len(LABELS)):
        for column in range(columns):
            jpeg = style.jpeg(Picture("sheet", row * columns + column, row))
            sheet.paste(Image.open(io.BytesIO(jpeg)), (gap + column * cell, gap + row * cell))
    sheet.save(path)


def _painters() -> concurrent.futures.ProcessPoolExecutor:
    # Spawned, not forked: whoever calls this may have threads (gRPC, TensorFlow) that do not survive a fork.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=context)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dualdeploy_demo.flowers", description=__doc__.split("\n")[0])
    at_least = functools.partial(_whole_number, minimum=0)
    positive = functools.partial(_whole_number, minimum=1)
    parser.add_argument("--output", type=Path, required=True, help="folder for the shards; made if absent")
    parser.add_argument("--train", type=at_least, default=640, help="pictures to learn from (default 640)")
    parser.add_argument("--eval", type=at_least, default=160, help="held-out pictures (default 160; 0: no shard)")
    parser.add_argument("--shards", type=positive, default=4, help="files to spread the training pictures over")
    parser.add_argument("--unseen", type=at_least, default=0, help="further pictures, as JPEG files")
    parser.add_argument("--seed", type=int, default=7, help="another seed, other pictures (default 7)")
    parser.add_argument("--level", choices=sorted(LEVELS), default="easy", help="hard: small, crowded, hidden")
    parser.add_argument("--side", type=positive, default=128, help="width and height in pixels (default 128)")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet of further pictures to this file")
    parser.add_argument("--gzip", action="store_true", help="compress the shards")
    return parser.parse_args(argv)


def _whole_number(text: str, *, minimum: int) -> int:
    if not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least {minimum}, not {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    style = Style(arguments.seed, arguments.level, arguments.side)
    written = generate(
        arguments.output,
        train=arguments.train,
        held_out=arguments.eval,
        shards=arguments.shards,
        unseen=arguments.unseen,
        style=style,
        compressed=arguments.gzip,
    )
    if arguments.sheet:
        contact_sheet(arguments.sheet, style=style)
    size = sum(path.stat().st_size for path in written)
    print(f"{len(written)} files, {size / 1e6:.1f} MB in {arguments.output}; labels: {','.join(LABELS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
