"""The image and the label of a serialised tf.train.Example, as fast as Python can get at them.

Records of one writer look alike: the same features in the same order, and around the image only lengths that
follow from the image's own. `ExampleReader` parses the first such record with protobuf, remembers the layout, and
from then on compares the bytes around the image instead of parsing it: half the time of protobuf, which copies
the image twice. Whatever does not compare equal is parsed in full, so the layout can make nothing wrong, only slow.
"""

from __future__ import annotations

from typing import NamedTuple

from dualdeploy.contracts.example import ExampleSchema, UsableExample
from dualdeploy.contracts.split import Side
from dualdeploy.images.image_file import begins_like_an_image
from dualdeploy.images.tfrecord import MalformedExample, parse_example

_MOST_LAYOUTS = 4
#: As much of an image as tells its format.
_MAGIC_BYTES = 16
_MOST_SURROUNDING_BYTES = 4096
_MOST_REMEMBERED = 1 << 16


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
        #: What surrounded the image of the record before: images of about one size have about as much around them.
        self._surrounding = 0
        self._key = _field(1, image_feature.encode())

    def frame(self, record_length: int) -> _Frame:
        """Compute the frame of records of this length; one that never fits when no image length gives it."""
        if len(self.frames) >= _MOST_REMEMBERED:
            self.frames.clear()
        # Five tags and five lengths surround the image; none of the lengths is longer than the record's own.
        surrounding = self.before + self.after + len(self._key) + 5
        least = record_length - surrounding - 5 * len(_varint(record_length))
        frame = _NEVER
        as_before = max(0, record_length - self._surrounding)
        for image_length in (as_before, *range(max(0, least), record_length - surrounding - 5 + 1)):
            front, tail = self.around(image_length)
            if len(front) + self.before + len(tail) + image_length + self.after == record_length:
                start = len(front) + self.before
                if self.before:
                    frame = _Frame(front, tail, len(front), start, start + len(tail))
                else:
                    frame = _Frame(front + tail, b"", 0, 0, start + len(tail))
                self._surrounding = record_length - image_length
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


class ExampleReader:
    """Reads what `ExampleSchema.read` reads, faster where records look alike."""

    def __init__(self, schema: ExampleSchema) -> None:
        self._schema = schema
        self._layouts: list[_Layout] = []
        self._known: dict[tuple[bytes, bytes], tuple[int, Side | None]] = {}

    def read(self, data: bytes) -> tuple[bytes, int, Side | None]:
        """Return the image's bytes, the class index, and the side of the split that the record names itself.

        Raises `UnusableRecord`, or `MalformedExample` without a place.
        """
        place = self._locate(data)
        if place is None:
            return self._read_in_full(data, None)
        start, end, surroundings = place
        image, known = data[start:end], self._known.get(surroundings)
        if known is None or not begins_like_an_image(image):
            return self._read_in_full(data, surroundings)
        return image, *known

    def find(self, data: bytes) -> tuple[int, int, int, Side | None] | None:
        """Where the image begins and ends, the class index, and the side, without a copy of the image.

        None where only `read` can tell.
        """
        place = self._locate(data)
        if place is None:
            return None
        start, end, surroundings = place
        known = self._known.get(surroundings)
        if known is None or not begins_like_an_image(data[start : start + _MAGIC_BYTES]):
            return None
        return start, end, *known

    def _locate(self, data: bytes) -> tuple[int, int, tuple[bytes, bytes]] | None:
        """Where the image is by the layouts that were met, and what stands before and behind it."""
        length = len(data)
        for layout in self._layouts:
            front, tail, before_start, before_end, image_start = layout.frames.get(length) or layout.frame(length)
            if data.startswith(front) and (not tail or data.startswith(tail, before_end)):
                image_end = length - layout.after
                return image_start, image_end, (data[before_start:before_end], data[image_end:])
        return None

    def _read_in_full(self, data: bytes, surroundings: tuple[bytes, bytes] | None) -> UsableExample:
        """Parse with protobuf; remember the layout, or what these surroundings mean."""
        found = self._schema.read(data)
        if surroundings is None:
            self._learn(data, found.image)
        elif self._is_only_around(surroundings):
            if len(self._known) >= _MOST_REMEMBERED // 16:
                self._known.clear()
            self._known[surroundings] = (found.label, found.side)
        return found

    def _learn(self, data: bytes, image: bytes) -> None:
        """Remember where this record has its image, if it is written the way TensorFlow writes."""
        start = data.find(image, 0, len(image) + _MOST_SURROUNDING_BYTES)
        after = len(data) - start - len(image)
        if start < 0 or after > _MOST_SURROUNDING_BYTES or len(self._layouts) >= _MOST_LAYOUTS:
            return
        front, tail = _Layout(self._schema.image, 0, 0).around(len(image))
        for front_length in range(2, 7):  # the tag and a length of 1 to 5 bytes
            before = start - front_length - len(tail)
            layout = _Layout(self._schema.image, max(0, before), after)
            front, tail = layout.around(len(image))
            if len(front) == front_length and before >= 0 and data[:start].endswith(tail) and data.startswith(front):
                self._layouts.append(layout)
                return

    def _is_only_around(self, surroundings: tuple[bytes, bytes]) -> bool:
        """Tell whether both parts are whole features by themselves, none of which is the image again."""
        for part in surroundings:
            try:
                if self._schema.image in parse_example(_field(1, part)):
                    return False
            except MalformedExample:
                return False
        return True


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
