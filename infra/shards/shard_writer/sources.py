"""Where pictures and their labels come from: folders of classes, or a list as CSV or JSON lines."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dualdeploy.contracts.example import fault_of_labels
from dualdeploy.contracts.shards import Kind, ShardNames
from dualdeploy.contracts.split import Side, side_of_word

#: Files that are pictures by their names; which of them can be used is seen when they are read.
PICTURE = re.compile(r"\.(jpe?g|jfif|png|gif|bmp|webp|tiff?|heic|heif|avif)$", re.IGNORECASE)

#: Names of columns and keys, as people and tools call them; the last part of a nested key counts.
_PATHS = (
    *("path", "image", "image_path", "file", "file_name", "filename", "filepath", "img", "picture"),
    *("uri", "image_uri", "gcs_uri", "imagegcsuri"),
)
_LABELS = ("label", "class", "class_name", "label_name", "category", "species", "displayname", "target", "y")
_SPLITS = ("split", "set", "subset", "usage", "ml_use", "phase", "partition", "fold")

#: What Google's import files have where the split is left to the service.
_NO_SPLIT = ("unassigned", "ml_use_unspecified")

_NAMED = 5


class UnusableSource(ValueError):
    """What was named cannot be turned into shards; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One file; `name` is how it is called in the data set, `side` what its folder or list says of the split."""

    name: str
    path: Path
    label: str
    side: Side | None


@dataclasses.dataclass(frozen=True)
class Source:
    """The pictures in the order of their names, the labels in the order of their indices, and what is no picture."""

    pictures: Sequence[Picture]
    labels: Sequence[str]
    passed_over: Sequence[str]


def read(images: Path, *, labels: Sequence[str] = ()) -> Source:
    """Find the pictures. `labels`, or a file labels.txt beside them, gives the order of the classes; else the alphabet.

    Raises UnusableSource.
    """
    if images.is_dir():
        pictures, passed_over = _of_folders(images)
        beside = images / "labels.txt"
    elif images.is_file():
        pictures, passed_over = _of_list(images), []
        beside = images.with_name("labels.txt")
    else:
        raise UnusableSource(f"{images} does not exist: name a folder of class folders, a .csv or a .jsonl")
    if not pictures and images.is_file():
        raise UnusableSource(f"{images} lists no pictures")
    if not pictures:
        raise UnusableSource(f"{images} holds no pictures in folders that are called like their classes")
    if not labels and beside.is_file():
        labels = [line.strip() for line in _text(beside).splitlines() if line.strip()]
    return Source(sorted(pictures, key=lambda each: each.name), _labels(pictures, labels), sorted(passed_over))


def _text(file: Path) -> str:
    """What a person wrote. Raises UnusableSource for another encoding than UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UnusableSource(f"{file} is not text in UTF-8 ({exc}): save it as UTF-8") from exc


def _labels(pictures: Sequence[Picture], given: Sequence[str]) -> list[str]:
    found = _in_order({picture.label for picture in pictures})
    if fault := fault_of_labels(given or found):
        raise UnusableSource(fault)
    if unknown := sorted(set(found) - set(given)) if given else []:
        raise UnusableSource(f"pictures have labels that the list of labels lacks: {_some(unknown)}")
    if len(found) < 2:
        inner = "; name the folder that holds the class folders" if any(map(_is_deep, pictures)) else ""
        raise UnusableSource(f"all pictures have the label {found[0]!r}, and a classifier needs two classes{inner}")
    return list(given) or found


def _is_deep(picture: Picture) -> bool:
    """Whether there are folders in the class's folder, which may be the classes themselves."""
    return picture.name.count("/") > (2 if picture.side else 1)


def _in_order(labels: Collection[str]) -> list[str]:
    """By the alphabet, or as numbers when all of them are: class 10 comes after class 9."""
    return sorted(labels, key=int if all(map(str.isdecimal, labels)) else None)


# Folders -------------------------------------------------------------------------------------------------------


def _of_folders(folder: Path) -> tuple[list[Picture], list[str]]:
    pictures, passed_over = [], []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            continue
        if ShardNames(patterns=("*",)).kind(name) is Kind.HIDDEN:
            # A class may be called `_others`, and its pictures must not vanish without a word.
            if name.startswith("_") and PICTURE.search(name) and not path.name.startswith("."):
                passed_over.append(name)
            continue
        folders = name.split("/")[:-1]
        side = side_of_word(folders[0]) if len(folders) > 1 else None
        classes = folders[1:] if side else folders
        if not PICTURE.search(name) or not classes or not path.is_file():
            passed_over.append(name)
            continue
        pictures.append(Picture(name, path, classes[0], side))
    if pictures and all(side_of_word(picture.label) for picture in pictures):
        raise UnusableSource(f"{folder} has folders of a split, and no folders of classes in them")
    if any(picture.side for picture in pictures):
        # `test/1.jpg` beside `train/roses/1.jpg`: pictures for a contest, of which nobody tells the class.
        unlabelled = {each.name for each in pictures if not each.side and side_of_word(each.label)}
        passed_over += sorted(unlabelled)
        pictures = [each for each in pictures if each.name not in unlabelled]
    sides = {picture.side for picture in pictures}
    if None in sides and len(sides) > 1:
        alone = sorted({picture.name.split("/")[0] for picture in pictures if picture.side is None})
        raise UnusableSource(
            f"some folders name a split (train/, val/, …) and others do not: {_some(alone)}; move them into one"
        )
    return pictures, [name for name in passed_over if name != "labels.txt"]


# Lists ---------------------------------------------------------------------------------------------------------


def _of_list(file: Path) -> list[Picture]:
    rows = list(_json_rows(file) if file.suffix.lower() in (".jsonl", ".ndjson", ".json") else _csv_rows(file))
    faults: list[str] = []
    pictures = [picture for number, row in rows if (picture := _of_row(file, number, row, faults))]
    if faults:
        more = f"; and {len(faults) - _NAMED} more rows" if len(faults) > _NAMED else ""
        raise UnusableSource(f"{file}: {'; '.join(faults[:_NAMED])}{more}")
    counts = Counter(picture.name for picture in pictures)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise UnusableSource(f"{file} lists pictures twice: {_some(twice)}")
    return pictures


def _of_row(file: Path, number: int, row: Mapping[str, str], faults: list[str]) -> Picture | None:
    name, label, split = (_first(row, keys) for keys in (_PATHS, _LABELS, _SPLITS))
    if not name or not label:
        keys = ", ".join(row) or "nothing"
        faults.append(f"row {number} has no {'path' if not name else 'label'} (it has {keys})")
        return None
    if "://" in name:
        faults.append(f"row {number}: {name} is not on this machine; copy the pictures here first")
        return None
    side = side_of_word(split) if split else None
    if split and side is None and split.lower() not in _NO_SPLIT:
        faults.append(f"row {number}: {split!r} is not a split: write train, val or test")
    # Lists that were written on Windows.
    name = name if (file.parent / name).is_file() else name.replace("\\", "/")
    path = file.parent / name
    if not path.is_file():
        faults.append(f"row {number}: {path} does not exist")
        return None
    return Picture(name, path, label, side)


def _first(row: Mapping[str, str], keys: Sequence[str]) -> str:
    return next((row[key].strip() for key in keys if row.get(key, "").strip()), "")


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    text = _text(file)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), dialect=_dialect(text)))
    except csv.Error as exc:
        raise UnusableSource(f"{file} is not a list of comma-separated values: {exc}") from exc
    filled = [(number, row) for number, row in enumerate(rows, start=1) if any(cell.strip() for cell in row)]
    if not filled:
        raise UnusableSource(f"{file} is empty")
    header = [cell.strip().lower() for cell in filled[0][1]]
    known = {*_PATHS, *_LABELS, *_SPLITS}
    if len(known & set(header)) >= 2:
        filled = filled[1:]
    else:
        header = _header_by_place(file, filled[0][1])
        place = header.index("path")
        is_file = [len(row) > place and (file.parent / row[place].strip()).is_file() for _, row in filled[:2]]
        # `image_id,breed`: names of columns that no one here knows.
        filled = filled[1:] if is_file == [False, True] else filled
    for number, row in filled:
        yield number, dict(itertools.zip_longest(header, row[: len(header)], fillvalue=""))


def _dialect(text: str) -> type[csv.Dialect]:
    try:
        return csv.Sniffer().sniff(text[: 1 << 16], delimiters=",;\t|")
    except csv.Error:
        return csv.excel


def _header_by_place(file: Path, row: Sequence[str]) -> list[str]:
    """Without a header: path and label, and before or behind them the split, as Google's import files have it."""
    if len(row) == 2:
        return ["path", "label"]
    if len(row) == 3 and (side_of_word(row[0]) or row[0].lower() in _NO_SPLIT):
        return ["split", "path", "label"]
    if len(row) == 3 and side_of_word(row[2]):
        return ["path", "label", "split"]
    raise UnusableSource(f"{file} needs a first line that names its columns, such as path,label,split: it has {row}")


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, row in _json_values(file, _text(file)):
        if not isinstance(row, dict):
            raise UnusableSource(f"{file}, row {number} is not an object such as {{'path': …, 'label': …}}")
        yield number, dict(_flat(row.items()))


def _json_values(file: Path, text: str) -> Iterator[tuple[int, object]]:
    """One value a line, or one list of them."""
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), start=1)
        except ValueError as exc:
            raise UnusableSource(f"{file} is not JSON: {exc}") from exc
        return
    # Not splitlines(): JSON's strings may have the other line breaks of Unicode.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as exc:
                raise UnusableSource(f"{file}, line {number} is not JSON: {exc}") from exc


def _flat(items: Iterable[tuple[str, object]]) -> Iterator[tuple[str, str]]:
    """Keys in small letters, of nested objects the last part: `classificationAnnotation.displayName` is displayname."""
    for key, value in items:
        if isinstance(value, dict):
            yield from _flat(value.items())
        elif value is not None and not isinstance(value, list):
            yield key.lower().rpartition("/")[2], str(value)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
