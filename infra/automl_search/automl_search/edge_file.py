"""The wrapping of a phone file as AutoML's exports have it: metadata in the model, labels in a zip at its end.

Read off four files that AutoML exported in 2019 and 2020: input uint8 with scale 1/127 and zero point 128, output uint8
with scale 1/256; NormalizationOptions with mean 128 and deviation 127; the labels in `dict.txt`, in any order.

This stands for Google, and shares nothing with what reads and writes phone files for us
(`mobile_publisher.tflite_metadata`): an error there must not be made here too.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

LABELS_FILE = "dict.txt"
#: pixel = real * 127 + 128
MEAN, DEVIATION = 128.0, 127.0

_MODEL_IDENTIFIER, _METADATA_IDENTIFIER = b"TFL3", b"M001"
_ENTRY = b"TFLITE_METADATA"
# Enum values and union tags of metadata_schema.fbs.
_NORMALIZATION_OPTIONS, _FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 1, 2
_COLOR_SPACE_RGB, _TENSOR_AXIS_LABELS = 1, 2


def wrapped(tflite: bytes, labels: Sequence[str]) -> bytes:
    """The model with metadata, and with its labels at the end."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(tflite), 0))
    entry = schema.MetadataT()
    entry.name, entry.buffer = _ENTRY, len(model.buffers)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(_metadata(), np.uint8)
    model.buffers.append(buffer)
    model.metadata = [*(each for each in model.metadata or [] if each.name != _ENTRY), entry]
    out = io.BytesIO(packed(model))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_FILE), "".join(f"{label}\n" for label in labels))
    return out.getvalue()


def packed(model: schema.ModelT) -> bytes:
    """A model as the bytes of a file."""
    for buffer in model.buffers:
        buffer.Pack = _Aligned(buffer).pack
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), _MODEL_IDENTIFIER)
    return bytes(builder.Output())


class _Aligned:
    """Packs a Buffer at a multiple of 16 bytes, as schema.fbs demands and the generated Python does not."""

    def __init__(self, buffer: schema.BufferT) -> None:
        self._data = None if buffer.data is None else bytes(bytearray(buffer.data))

    def pack(self, builder: flatbuffers.Builder) -> int:
        place = None
        if self._data is not None:
            builder.StartVector(1, len(self._data), 16)
            builder.head -= len(self._data)
            builder.Bytes[builder.head : builder.head + len(self._data)] = self._data
            place = builder.EndVector()
        builder.StartObject(3)
        if place is not None:
            builder.PrependUOffsetTRelativeSlot(0, place, 0)
        return int(builder.EndObject())


def _metadata() -> bytes:
    builder = flatbuffers.Builder(512)
    text = builder.CreateString
    options = table(builder, 2, {0: floats(builder, [MEAN]), 1: floats(builder, [DEVIATION])})
    unit = table(builder, 2, {1: options}, {0: _NORMALIZATION_OPTIONS})
    properties = table(builder, 2, {}, {0: _COLOR_SPACE_RGB})
    picture = table(
        builder,
        7,
        {
            0: text("image"),
            3: table(builder, 3, {1: properties}, {0: _IMAGE_PROPERTIES}),
            4: vector(builder, [unit]),
            5: table(builder, 2, {0: floats(builder, [1.0]), 1: floats(builder, [-1.0])}),
        },
    )
    file = table(builder, 5, {0: text(LABELS_FILE), 1: text("labels")}, {2: _TENSOR_AXIS_LABELS})
    scores = table(
        builder,
        7,
        {
            0: text("scores"),
            3: table(builder, 3, {1: table(builder, 0, {})}, {0: _FEATURE_PROPERTIES}),
            5: table(builder, 2, {0: floats(builder, [1.0]), 1: floats(builder, [0.0])}),
            6: vector(builder, [file]),
        },
    )
    graph = table(builder, 10, {2: vector(builder, [picture]), 3: vector(builder, [scores])})
    root = table(builder, 8, {0: text("image_classifier"), 3: vector(builder, [graph]), 7: text("1.0.0")})
    builder.Finish(root, _METADATA_IDENTIFIER)
    return bytes(builder.Output())


def table(
    builder: flatbuffers.Builder, slots: int, offsets: Mapping[int, int], uint8: Mapping[int, int] | None = None
) -> int:
    """A table's offset: by slot, offsets of what is written already, and numbers of 8 bits."""
    builder.StartObject(slots)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in (uint8 or {}).items():
        builder.PrependUint8Slot(slot, value, 0)
    return int(builder.EndObject())


def vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    """The offset of a vector of what is written already."""
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    """The offset of a vector of 32-bit floats."""
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())
