"""The image and the label of a serialised tf.train.Example, as fast as Python can get at them.

Records of one writer look alike: the same features in the same order, and around the image only lengths that
follow from the image's own. `ExampleReader` parses the first such record with protobuf, remembers the layout, and
from then on compares the bytes around the image instead of parsing it: half the time of protobuf, which copies
the image twice. Whatever does not compare equal is parsed in full, so the layout can make nothing wrong, only slow.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from dualdeploy.contracts.unusable import UnusableRecord
from dualdeploy.tfrecord import Example, Feature, MalformedExample, parse_example

_MOST_LAYOUTS = 4
_MOST_SURROUNDING_BYTES = 4096
_MOST_REMEMBERED = 1 << 16

#: The label of a data set without a list of labels is checked against this: each class costs memory.
MOST_CLASSES = 65_536


class _Frame(NamedTuple):
    """What must stand before the image in a record of one length: `front`, other features, `tail`.

    Without other features before the image, `front` is all of it and `tail` is empty.
    """

    front: bytes
    tail: bytes
    before_start: int
    before_end: int
    image_start: int


#: Around no record: an example begins with the tag of its features.
_NEVER = _Frame(b"\0", b"", 0, 0, 0)


class _Layout:
    """Records with `before` bytes of other features before the image's, and `after` bytes behind it."""

    def __init__(self, image_feature: str, before: int, after: int) -> None:
        self.before = before
        self.after = after
        self.frames: dict[int, _Frame] = {}
        self._key = _field(1, image_feature.encode())

    def frame(self, record_length: int) -> _Frame:
        """Compute the frame of records of this length; one that never fits when no image length gives it."""
        if len(self.frames) >= _MOST_REMEMBERED:
            self.frames.clear()
        # Five tags and five lengths surround the image; none of the lengths is longer than the record's own.
        surrounding = self.before + self.after + len(self._key) + 5
        least = record_length - surrounding - 5 * len(_varint(record_length))
        frame = _NEVER
        for image_length in range(max(0, least), record_length - surrounding - 5 + 1):
            front, tail = self.around(image_length)
            if len(front) + self.before + len(tail) + image_length + self.after == record_length:
                start = len(front) + self.before
                if self.before:
                    frame = _Frame(front, tail, len(front), start, start + len(tail))
                else:
                    frame = _Frame(front + tail, b"", 0, 0, start + len(tail))
                break
        self.frames[record_length] = frame
        return frame

    def around(self, image_length: int) -> tuple[bytes, bytes]:
        """Return the start of the example and what stands directly before an image of this length."""
        value = image_length
        tail = b"\x0a" + _varint(value)  # Feature.bytes_list.value
        value += len(tail)
        tail = b"\x0a" + _varint(value) + tail  # Feature.bytes_list
        value = image_length + len(tail)
        tail = self._key + b"\x12" + _varint(value) + tail  # FeatureEntry.key and .value
        tail = b"\x0a" + _varint(image_length + len(tail)) + tail  # Features.feature
        front = b"\x0a" + _varint(self.before + len(tail) + image_length + self.after)  # Example.features
        return front, tail


@dataclasses.dataclass
class ExampleReader:
    """Reads the pair of an image and a label; `class_count` None accepts any label below `MOST_CLASSES`."""

    image_feature: str
    label_feature: str
    class_count: int | None

    def __post_init__(self) -> None:
        self._layouts: list[_Layout] = []
        self._labels: dict[tuple[bytes, bytes], int] = {}

    def read(self, data: bytes) -> tuple[bytes, int]:
        """Return the image's bytes and the class index.

        Raises `UnusableRecord`, or `MalformedExample` without a place.
        """
        length = len(data)
        for layout in self._layouts:
            front, tail, before_start, before_end, image_start = layout.frames.get(length) or layout.frame(length)
            if not data.startswith(front) or (tail and not data.startswith(tail, before_end)):
                continue
            image_end = length - layout.after
            surroundings = (data[before_start:before_end], data[image_end:])
            label = self._labels.get(surroundings)
            if label is None:
                return self._read_in_full(data, surroundings)
            return data[image_start:image_end], label
        return self._read_in_full(data, None)

    def _read_in_full(self, data: bytes, surroundings: tuple[bytes, bytes] | None) -> tuple[bytes, int]:
        """Parse with protobuf; remember the layout, or the label that these surroundings mean."""
        example = parse_example(data)
        image: bytes = _single(example, self.image_feature, "image", "bytes", "the JPEG or PNG file").values[0]
        label: int = _single(example, self.label_feature, "label", "int64", "the class index").values[0]
        most = self.class_count or MOST_CLASSES
        if not 0 <= label < most:
            raise _label_out_of_range(label, self.label_feature, self.class_count)
        if surroundings is None:
            self._learn(data, image)
        elif self._is_only_around(surroundings):
            if len(self._labels) >= _MOST_REMEMBERED // 16:
                self._labels.clear()
            self._labels[surroundings] = label
        return image, label

    def _learn(self, data: bytes, image: bytes) -> None:
        """Remember where this record has its image, if it is written the way TensorFlow writes."""
        start = data.find(image, 0, len(image) + _MOST_SURROUNDING_BYTES)
        after = len(data) - start - len(image)
        if start < 0 or after > _MOST_SURROUNDING_BYTES or len(self._layouts) >= _MOST_LAYOUTS:
            return
        front, tail = _Layout(self.image_feature, 0, 0).around(len(image))
        for front_length in range(2, 7):  # the tag and a length of 1 to 5 bytes
            before = start - front_length - len(tail)
            layout = _Layout(self.image_feature, max(0, before), after)
            front, tail = layout.around(len(image))
            if len(front) == front_length and before >= 0 and data[:start].endswith(tail) and data.startswith(front):
                self._layouts.append(layout)
                return

    def _is_only_around(self, surroundings: tuple[bytes, bytes]) -> bool:
        """Tell whether both parts are whole features by themselves, none of which is the image again."""
        for part in surroundings:
            try:
                if self.image_feature in parse_example(_field(1, part)):
                    return False
            except MalformedExample:
                return False
        return True


def _single(example: Example, name: str, setting: str, kind: str, holds: str) -> Feature:
    """Return the feature if it has one value of the right kind, or say what it has instead."""
    wanted = f"one {kind} value ({holds})"
    remedy = f"write feature {name!r} with {wanted}, or name the right feature as data.features.{setting}"
    if name not in example:
        present = ", ".join(repr(other) for other in sorted(example)[:8]) or "none at all"
        problem = f"there is no feature {name!r}; the record's features: {present}"
        raise UnusableRecord(f"{setting}_missing", problem, remedy)
    feature = example[name]
    if feature.kind != kind:
        problem = f"feature {name!r} is {feature.kind}, not {kind}"
        raise UnusableRecord(f"{setting}_type", problem, remedy)
    if len(feature.values) != 1:
        problem = f"feature {name!r} has {len(feature.values)} values, not one"
        raise UnusableRecord(f"{setting}_count", problem, remedy)
    return feature


def _label_out_of_range(label: int, feature: str, class_count: int | None) -> UnusableRecord:
    if class_count is None:
        problem = f"label {label} is not between 0 and {MOST_CLASSES - 1}"
        remedy = f"write the class index (0 for the first class) as feature {feature!r}"
    else:
        problem = f"label {label} is outside the {class_count} configured labels (0 to {class_count - 1})"
        remedy = "add the missing label to `labels` of the data set's configuration, or correct the record"
    return UnusableRecord("label_out_of_range", problem, remedy)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data
