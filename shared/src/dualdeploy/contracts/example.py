"""What a record must hold to be used: one picture and one label, as this project and others write them.

A label may be a class index (counted from `first_label`), the class's name, or one-hot; several equal ones, as object
detection writes for each box, are one. A feature that names a split overrules the checksum for its record.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from dualdeploy.contracts import split
from dualdeploy.contracts.split import Side
from dualdeploy.images import image_file
from dualdeploy.images.tfrecord import Example, Feature, parse_example
from dualdeploy.images.unusable import UnusableRecord

#: The label of a data set without a list of labels is checked against this: each class costs memory.
MOST_CLASSES = 65_536

_SHOWN_FEATURES = 8
_SHOWN_CHARACTERS = 60
#: Raw pixels without a height and a width beside them are told by their number, from this side on.
_SMALLEST_SIDE = 8
_ONE_PICTURE = "write one tf.train.Example for each picture"
#: RGB, grey, and both as float32: what is told from the number of bytes alone.
_SQUARES_OF = (3, 1, 12, 4)
#: One to four channels of 8, 16 or 32 bits.
_BYTES_OF_A_PIXEL = frozenset(channels * size for channels in (1, 2, 3, 4) for size in (1, 2, 4))


class Preset(NamedTuple):
    """Names that a family of writers gives its features, and the number of its first class."""

    image: str
    label: str
    first_label: int = 0


#: `data.schema`. Sources: TensorFlow's public flowers; TensorFlow Datasets' Image and ClassLabel features; TF-Slim's
#: download_and_convert; create_pet_tf_record of the Object Detection API, whose label maps begin with 1.
PRESETS: Mapping[str, Preset] = {
    "flowers": Preset("image", "class"),
    "tfds": Preset("image", "label"),
    "slim": Preset("image/encoded", "image/class/label"),
    "object-detection": Preset("image/encoded", "image/object/class/label", 1),
}


class UsableExample(NamedTuple):
    """The picture's bytes, which begin as a JPEG or PNG, the class index, and the side that the record itself names."""

    image: bytes
    label: int
    side: Side | None = None


@dataclasses.dataclass(frozen=True)
class ExampleSchema:
    """How records of a data set are to be read; without `labels` any class index below `MOST_CLASSES` will do."""

    image: str = "image"
    label: str = "class"
    split: str = "split"
    first_label: int = 0
    labels: tuple[str, ...] | None = None
    #: Without `labels`: the class names that were met, in their order, and the index that each was given.
    met: dict[str, int] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def read(self, data: bytes) -> UsableExample:
        """Read a serialised tf.train.Example. Raises UnusableRecord, or MalformedExample without a place."""
        return self.read_example(parse_example(data))

    def read_example(self, example: Example) -> UsableExample:
        """Read a parsed one. Raises UnusableRecord."""
        image = self._image(example)
        return UsableExample(image, self._label(example), self._side(example))

    def is_held_out(self, example: UsableExample) -> bool:
        """Whether the example is held out where no shard is: by its own word, else by its picture's checksum."""
        return split.is_held_out(example.image) if example.side is None else example.side == "eval"

    # The picture -----------------------------------------------------------------------------------------------

    def _image(self, example: Example) -> bytes:
        feature = self._feature(example, self.image, "image", "one bytes value (the JPEG or PNG file)")
        if feature.kind != "bytes":
            if len(feature.values) > 1:
                raise _raw_pixels(f"feature {self.image!r} holds {len(feature.values)} {feature.kind} values")
            self._refuse(self.image, "image", "type", f"is {feature.kind}, not bytes")
        if len(feature.values) != 1:
            self._refuse(self.image, "image", "count", f"has {len(feature.values)} values, not one")
        image: bytes = feature.values[0]
        if not image_file.begins_like_an_image(image):
            raise _explained(image, example)
        return image

    # The label -------------------------------------------------------------------------------------------------

    def _label(self, example: Example) -> int:
        feature = self._feature(example, self.label, "label", "one class index (int64) or name (bytes)")
        if not feature.values:
            self._refuse(self.label, "label", "count", "has no value: the record has no label")
        if feature.kind == "bytes":
            return self._index_of_name(self._only(feature))
        place = self._one_hot(feature.values)
        if place is not None:
            return place
        if feature.kind == "float":
            self._refuse(self.label, "label", "type", "is float and not one-hot: a class index is int64")
        return self._index_of_number(self._only(feature))

    def _only(self, feature: Feature) -> Any:
        """The one value, or the one that all values are: object detection writes a class for each box."""
        different = sorted(set(feature.values))
        if different == [0, 1] and sum(feature.values) == 1 and self.labels is not None:
            count = f"{len(feature.values)} classes, and `labels` names {len(self.labels)}"
            self._refuse(self.label, "label", "count", f"is one-hot of {count}")
        if len(different) > 1:
            listed = ", ".join(map(_text, different[:_SHOWN_FEATURES]))
            self._refuse(self.label, "label", "count", f"has {len(feature.values)} values ({listed}), not one class")
        return different[0]

    def _one_hot(self, values: Sequence[Any]) -> int | None:
        """The place of the only 1 among as many values as there are classes; None for anything else."""
        if len(values) < 2 or (self.labels is not None and len(values) != len(self.labels)):
            return None
        if not set(values) <= {0, 1}:
            return None
        if sum(values) == 1:
            return list(values).index(1)
        if self.first_label == 0:
            self._refuse(self.label, "label", "count", f"has {len(values)} values, of which {int(sum(values))} are 1")
        return None

    def _index_of_number(self, number: int) -> int:
        index = number - self.first_label
        if not 0 <= index < (MOST_CLASSES if self.labels is None else len(self.labels)):
            raise self._out_of_range(number)
        return index

    def _out_of_range(self, number: int) -> UnusableRecord:
        first = self.first_label
        no_label = "a number below 0 mostly stands for `no label`: leave such records out, or correct them"
        if self.labels is None:
            problem = f"label {number} is not between {first} and {first + MOST_CLASSES - 1}"
            remedy = f"write the class index (0 for the first class) as feature {self.label!r}"
            return UnusableRecord("label_out_of_range", problem, no_label if number < 0 else remedy)
        last = first + len(self.labels) - 1
        problem = f"label {number} is outside the {len(self.labels)} configured labels ({first} to {last})"
        remedy = "add the missing label to `labels` of the data set's configuration, or correct the record"
        if number < 0:
            remedy = no_label
        elif number == last + 1:
            remedy = f"if the labels count from {first + 1}, write data.first_label: {first + 1}; otherwise {remedy}"
        elif number == first - 1:
            remedy = (
                f"if the labels count from {number}, write data.first_label: {number}; otherwise correct the record"
            )
        return UnusableRecord("label_out_of_range", problem, remedy)

    def _index_of_name(self, value: bytes) -> int:
        try:
            name = value.decode()
        except UnicodeDecodeError:
            self._refuse(self.label, "label", "type", f"is bytes that are not text ({value[:8].hex(' ')}…)")
        if not name.strip():
            self._refuse(self.label, "label", "count", "is an empty text: the record has no label")
        if self.labels is None and not is_class_name(name):
            raise UnusableRecord("label_unknown", f"the label {_text(name)} has a line break", "write it without")
        if self.labels is None and (name in self.met or len(self.met) < MOST_CLASSES):
            return self.met.setdefault(name, len(self.met))
        index = self._places.get(name)
        if index is not None:
            return index
        alike = self._alike.get(_simplified(name))
        remedy = "add the name to `labels` of the data set's configuration, or correct the record"
        if alike is not None:
            remedy = f"write it as `labels` does ({_text(alike)}): names must be equal to the letter"
            if _composed(name) == _composed(alike):
                remedy = "it only looks like that of `labels`: write the same characters (Unicode's NFC)"
        elif name.strip().lstrip("-").isdigit():
            remedy = "it is a number written as text: write it as an int64, or list the numbers as names in `labels`"
        raise UnusableRecord("label_unknown", f"the label {_text(name)} is not one of the configured labels", remedy)

    @functools.cached_property
    def _places(self) -> Mapping[str, int]:
        return {name: index for index, name in enumerate(self.labels or ())}

    @functools.cached_property
    def _alike(self) -> Mapping[str, str]:
        return {_simplified(name): name for name in self.labels or ()}

    # The split, and what is wrong ------------------------------------------------------------------------------

    def _side(self, example: Example) -> Side | None:
        if self.split not in example:
            return None
        feature = example[self.split]
        if feature.kind != "bytes" or len(feature.values) != 1:
            return None
        return split.side_of_word(feature.values[0].decode(errors="replace"))

    def _feature(self, example: Example, name: str, setting: str, wanted: str) -> Feature:
        if name in example:
            return example[name]
        if example.has_sequences:
            raise UnusableRecord("malformed_example", "the record is a tf.train.SequenceExample", _ONE_PICTURE)
        if setting == "image":
            _refuse_raw_pixels(example)
        present = ", ".join(repr(other) for other in sorted(example)[:_SHOWN_FEATURES]) or "none at all"
        found = guess(example)
        remedy = f"write feature {name!r} with {wanted}, or name the right feature as data.features.{setting}"
        if setting == "label":
            remedy += "; shards of pictures without labels are left out by data.shards"
        if found and getattr(found, setting) != name:
            remedy += f" ({getattr(found, setting)!r} looks like it" + (
                f"; data.schema: {found.preset} says so)" if found.preset else ")"
            )
        raise UnusableRecord(
            f"{setting}_missing", f"there is no feature {name!r}; the record's features: {present}", remedy
        )

    def _refuse(self, name: str, setting: str, what: str, problem: str) -> NoReturn:
        wanted = {"image": "one bytes value (the JPEG or PNG file)", "label": "one class index (int64) or name (bytes)"}
        remedy = f"write feature {name!r} with {wanted[setting]}, or name the right feature as data.features.{setting}"
        raise UnusableRecord(f"{setting}_{what}", f"feature {name!r} {problem}", remedy)


def is_class_name(text: str) -> bool:
    """Whether a class may be called so: readers of label files split them at every line break that Unicode has."""
    return bool(text.strip()) and text.splitlines() == [text]


def fault_of_labels(labels: Sequence[str]) -> str:
    """Why these cannot be the names of a data set's classes; empty when they can."""
    seen = Counter(_composed(label).strip() for label in labels)
    if twice := [label for label, count in seen.items() if count > 1]:
        return f"duplicate label {twice[0]!r}"
    wrong = next((label for label in labels if not is_class_name(label)), None)
    return "" if wrong is None else f"a label is empty or has a line break: {wrong!r}"


def schema_of(config: Mapping[str, Any]) -> ExampleSchema:
    """How the records of a run are to be read, from the run's own copy of its configuration."""
    data = config.get("data", {})
    features = {name: value for name, value in data.get("features", {}).items() if name in ("image", "label", "split")}
    return ExampleSchema(**features, first_label=data.get("first_label", 0), labels=tuple(config["labels"]))


# Raw pixels ------------------------------------------------------------------------------------------------------


def _refuse_raw_pixels(example: Example) -> None:
    """Raise UnusableRecord where another feature than the one asked for holds pixels, and none a picture."""
    if guess(example) is None:
        for name in sorted(example):
            feature = example[name]
            fault = _explained(feature.values[0], example) if _is_one_of_bytes(feature) else None
            if fault and fault.code == "image_raw_pixels":
                raise UnusableRecord(fault.code, f"feature {name!r}: {fault.problem}", fault.remedy)


def _is_one_of_bytes(feature: Feature) -> bool:
    return feature.kind == "bytes" and len(feature.values) == 1


def _explained(image: bytes, example: Example) -> UnusableRecord:
    """Why bytes that are neither JPEG nor PNG are in the record: pixels, most of the time."""
    if image.startswith(b"\x08") and image[2:3] == b"\x12":
        return _raw_pixels(f"the image is a serialised tensor ({len(image)} bytes)")
    height, width = _number(example, "height", "rows"), _number(example, "width", "cols", "columns")
    if height and width and len(image) in {height * width * each for each in _BYTES_OF_A_PIXEL}:
        return _raw_pixels(f"the image is {height} x {width} raw pixels ({len(image)} bytes)")
    side = next(filter(None, (_square(len(image), size) for size in _SQUARES_OF)), 0)
    if side and not image_file.known_format(image) and not _is_printable(image):
        return _raw_pixels(f"the image looks like {side} x {side} raw pixels ({len(image)} bytes)")
    return image_file.not_an_image(image)


def _square(length: int, size: int) -> int:
    """The side of a square of pixels of `size` bytes each; 0 where there is none worth the name."""
    side = math.isqrt(length // size)
    return side if side >= _SMALLEST_SIDE and side * side * size == length else 0


def _is_printable(data: bytes) -> bool:
    return data[:64].decode("latin-1").isprintable() and data.isascii()


def _number(example: Example, *words: str) -> int | None:
    """The one int64 of a feature whose name ends in one of the words: `height`, `image/height`."""
    for name in example:
        if name.rsplit("/", 1)[-1].lower() in words:
            feature = example[name]
            if feature.kind == "int64" and len(feature.values) == 1 and feature.values[0] > 0:
                return int(feature.values[0])
    return None


def _raw_pixels(problem: str) -> UnusableRecord:
    remedy = "store the encoded file instead: tf.io.encode_jpeg(pixels) or tf.io.encode_png(pixels)"
    return UnusableRecord("image_raw_pixels", f"{problem}, not an encoded JPEG or PNG", remedy)


# Guessing --------------------------------------------------------------------------------------------------------


class Guess(NamedTuple):
    """Features of a record that look like its picture and its label; `preset` when a schema has just these."""

    image: str
    label: str
    preset: str | None


#: The last part of the name of a feature that is no label, whatever it holds.
_NO_LABELS = frozenset(
    {"height", "width", "depth", "channels", "format", "filename", "file_name", "filepath", "path", "id", "image_id"}
    | {"source_id", "key", "sha256", "colorspace", "split", "is_crowd", "area", "url", "timestamp", "fold"}
)
#: And of one that is, best first.
_LABELS = (
    "class",
    "label",
    "labels",
    "class_id",
    "label_id",
    "category",
    "category_id",
    "target",
    "text",
    "species",
    "y",
)


def guess(example: Example) -> Guess | None:
    """Which features hold picture and label, judged by what they hold and then by their names; None without both."""
    images = [name for name in sorted(example) if _holds_image(example[name])]
    if not images:
        return None
    labels = sorted((name for name in example if _may_be_label(name, example[name])), key=_label_rank)
    if not labels:
        return None
    image = min(images, key=lambda name: (name not in {preset.image for preset in PRESETS.values()}, name))
    found = (image, labels[0])
    preset = next((name for name, each in PRESETS.items() if (each.image, each.label) == found), None)
    return Guess(*found, preset)


def _holds_image(feature: Feature) -> bool:
    return _is_one_of_bytes(feature) and image_file.begins_like_an_image(feature.values[0])


def _may_be_label(name: str, feature: Feature) -> bool:
    if name.rsplit("/", 1)[-1].lower() in _NO_LABELS or not feature.values:
        return False
    if feature.kind == "bytes":
        return all(len(value) <= _SHOWN_CHARACTERS and b"\0" not in value for value in feature.values)
    return feature.kind == "int64" or _is_one_hot(feature.values)


def _is_one_hot(values: Sequence[Any]) -> bool:
    return len(values) > 1 and set(values) == {0, 1} and sum(values) == 1


def _label_rank(name: str) -> tuple[int, int, str]:
    # An index of a class before its name, and what stands at the top before what stands in a box.
    last = name.rsplit("/", 1)[-1].lower()
    words = list(_parts(last))
    best = min((_LABELS.index(word) for word in (last, *words) if word in _LABELS), default=len(_LABELS))
    return best, name.count("/"), name


def _parts(name: str) -> Iterator[str]:
    yield from name.replace("-", "_").split("_")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _simplified(name: str) -> str:
    """The name without case, ends, and what files and fixed-width fields put around it."""
    bare = _composed(name).strip("\ufeff\0").casefold()
    return " ".join(bare.replace("_", " ").replace("-", " ").split())


def _text(value: Any) -> str:
    shown = value.decode(errors="replace") if isinstance(value, bytes) else value
    if not isinstance(shown, str):
        return str(shown)
    return repr(shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "…")
