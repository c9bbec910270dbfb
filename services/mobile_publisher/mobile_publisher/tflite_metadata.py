"""TFLite metadata: what a phone needs to know about a model, inside the model's own file.

The format is Google's (metadata_schema.fbs of tflite-support, file identifier M001): a flatbuffer in one of
the model's buffers, named by the entry TFLITE_METADATA, and the associated files as a stored zip after the
model. Its own writer ends at Python 3.11 and needs libusb; these are the few tables that we use. Readers
that know the format: Android's metadata extractor, ML Kit, the Task Library, Netron.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table

from dualdeploy import lazily
from dualdeploy.errors import CannotEverSucceed

LABELS_FILE = "labels.txt"
DETAILS_FILE = "dualdeploy.json"

#: What the file with the labels is called where the output tensor names none: ours, and that of Vertex AI's AutoML.
_USUAL_LABELS_FILES = (LABELS_FILE, "dict.txt")

#: Vertex AI's 5,000 labels of 128 characters take less.
_LARGEST_ASSOCIATED_FILE = 8_000_000

#: The one definition of making a picture fit the input; `dualdeploy.images.pixels` is its implementation.
RESIZE: Mapping[str, object] = {
    "decode": "RGB",
    "method": "bilinear",
    "antialias": False,
    "half_pixel_centers": True,
    "keep_aspect": False,
    "values": "float32 0..255; scaling is inside the model",
}

_ENTRY = b"TFLITE_METADATA"
_MODEL_IDENTIFIER = b"TFL3"
_METADATA_IDENTIFIER = b"M001"
#: The oldest parser that knows every table below. Source: metadata_parser.h of tflite-support.
_MIN_PARSER_VERSION = "1.0.0"

# Enum values and union tags of metadata_schema.fbs.
_NORMALIZATION_OPTIONS, _FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 1, 2
_COLOR_SPACE_RGB = 1
_DESCRIPTIONS, _TENSOR_AXIS_LABELS, _TENSOR_VALUE_LABELS = 1, 2, 3


class MetadataError(CannotEverSucceed):
    """The file is no TFLite model, carries no description, or contradicts the one it is given."""


class NotDescribed(MetadataError):
    """The file is a TFLite model that says nothing about itself."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What a .tflite file says about itself.

    `labels` are in the order of the output; `mean` and `std`, one for all channels or one for each, turn 0..255 into
    the input's real values: (value - mean) / std. All are empty where the file does not say.
    """

    name: str
    description: str
    version: str
    labels: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Mapping[str, Any]
    extra: Mapping[str, Any]


def describe(
    tflite: bytes,
    *,
    name: str,
    description: str,
    labels: Sequence[str],
    image_size: int,
    version: str,
    extra: Mapping[str, Any],
) -> bytes:
    """Return `tflite` with metadata, labels.txt and dualdeploy.json; its outputs are unchanged.

    `labels` are in the order of the model's output, `image_size` is px of its input [1, px, px, 3], `extra`
    (run, data set, metrics: anything that JSON holds) goes into dualdeploy.json. An existing description is
    replaced. The same arguments give the same bytes, and describing twice is describing once. Raises
    MetadataError when the labels or the size are not the model's.
    """
    _check(tflite, labels=labels, image_size=image_size)
    details = {
        "v": 1,
        "name": name,
        "version": version,
        "labels": list(labels),
        "image_size": image_size,
        "resize": RESIZE,
        "extra": dict(extra),
    }
    files = {
        DETAILS_FILE: json.dumps(details, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False),
        LABELS_FILE: "".join(f"{label}\n" for label in labels),
    }
    metadata = _metadata(name, description, version, image_size)
    return _with_files(_with_entry(tflite, metadata), files)


def read(tflite: bytes) -> Description:
    """Read what `describe` wrote (or another writer of the format, as far as it goes).

    Raises NotDescribed when it says nothing, and MetadataError when it is no TFLite model or is damaged.
    """
    try:
        return _read(tflite)
    except (struct.error, IndexError, TypeError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError) as exc:
        raise MetadataError(f"the description in these {len(tflite)} bytes is damaged: {exc}") from exc


def _read(tflite: bytes) -> Description:
    model = _Table.root(tflite, _MODEL_IDENTIFIER, "a TFLite model")
    metadata = _metadata_of(model)
    with _archive(tflite) as archive:
        labels_file = _labels_file(metadata, archive.namelist())
        if metadata is None and not labels_file:
            raise NotDescribed("the model carries no description: publish it through tflite_metadata.describe")
        labels = _labels(_text(archive, labels_file)) if labels_file else ()
        details = json.loads(_text(archive, DETAILS_FILE)) if DETAILS_FILE in archive.namelist() else {}
    shape = next(_tensor_shapes(model, _Model.INPUTS), ())
    mean, std = _normalization(metadata) if metadata else ((), ())
    return Description(
        name=metadata.text(_ModelMetadata.NAME) if metadata else "",
        description=metadata.text(_ModelMetadata.DESCRIPTION) if metadata else "",
        version=metadata.text(_ModelMetadata.VERSION) if metadata else "",
        labels=labels,
        image_size=shape[1] if len(shape) == 4 else 0,
        mean=mean,
        std=std,
        resize=details.get("resize", {}),
        extra=details.get("extra", {}),
    )


def _labels(text: str) -> tuple[str, ...]:
    """One label a line; a writer may end the file with empty lines, none of which is a label."""
    return tuple(line.strip() for line in text.rstrip().splitlines())


def _check(tflite: bytes, *, labels: Sequence[str], image_size: int) -> None:
    model = _Table.root(tflite, _MODEL_IDENTIFIER, "a TFLite model")
    try:
        inputs, outputs = (list(_tensor_shapes(model, slot)) for slot in (_Model.INPUTS, _Model.OUTPUTS))
    except (struct.error, IndexError, TypeError) as exc:
        raise MetadataError(f"these {len(tflite)} bytes are a damaged TFLite model: {exc}") from exc
    if inputs != [(1, image_size, image_size, 3)]:
        raise MetadataError(f"the model's inputs are {inputs}, not one [1, {image_size}, {image_size}, 3]")
    if outputs != [(1, len(labels))]:
        raise MetadataError(f"the model's outputs are {outputs}, but {len(labels)} labels need one [1, {len(labels)}]")
    bad = [label for label in labels if not label.strip() or label.splitlines() != [label]]
    if bad or len(set(labels)) != len(labels):
        raise MetadataError(f"labels must be different, not empty and of one line each: {list(labels)}")


# --- the tables of metadata_schema.fbs: how they are written ---


def _metadata(name: str, description: str, version: str, image_size: int) -> bytes:
    """The ModelMetadata of an image classifier with one input and one output. Slots as in the schema."""
    builder = flatbuffers.Builder(1024)
    text = functools.partial(builder.CreateString, encoding="utf-8")
    root = _table(
        builder,
        slots=8,
        offsets={
            0: text(name),
            1: text(description),
            2: text(version),
            3: _vector(builder, [_subgraph(builder, image_size)]),
            6: _vector(builder, [_file(builder, DETAILS_FILE, "run, data set, resizing, metrics", _DESCRIPTIONS)]),
            7: text(_MIN_PARSER_VERSION),
        },
    )
    builder.Finish(root, _METADATA_IDENTIFIER)
    return bytes(builder.Output())


def _subgraph(builder: flatbuffers.Builder, image_size: int) -> int:
    inputs = _vector(builder, [_input_tensor(builder, image_size)])
    outputs = _vector(builder, [_output_tensor(builder)])
    return _table(builder, slots=10, offsets={2: inputs, 3: outputs})


def _input_tensor(builder: flatbuffers.Builder, image_size: int) -> int:
    size = _table(builder, slots=2, uint32={0: image_size, 1: image_size})
    image = _table(builder, slots=2, uint8={0: _COLOR_SPACE_RGB}, offsets={1: size})
    content = _table(builder, slots=3, uint8={0: _IMAGE_PROPERTIES}, offsets={1: image})
    # Mean 0 and deviation 1: the model scales inside, so the reader must not. Left out, the Task Library
    # refuses a float model ("requires specifying NormalizationOptions").
    options = _table(builder, slots=2, offsets={0: _floats(builder, [0.0]), 1: _floats(builder, [1.0])})
    unit = _table(builder, slots=2, uint8={0: _NORMALIZATION_OPTIONS}, offsets={1: options})
    offsets = {
        0: builder.CreateString("image"),
        1: builder.CreateString(f"RGB picture, {image_size} x {image_size}, values 0..255, not scaled"),
        3: content,
        4: _vector(builder, [unit]),
        5: _stats(builder, low=0.0, high=255.0),
    }
    return _table(builder, slots=7, offsets=offsets)


def _output_tensor(builder: flatbuffers.Builder) -> int:
    features = _table(builder, slots=0)
    offsets = {
        0: builder.CreateString("probability"),
        1: builder.CreateString("probability of each label"),
        3: _table(builder, slots=3, uint8={0: _FEATURE_PROPERTIES}, offsets={1: features}),
        5: _stats(builder, low=0.0, high=1.0),
        6: _vector(builder, [_file(builder, LABELS_FILE, "one label a line", _TENSOR_AXIS_LABELS)]),
    }
    return _table(builder, slots=7, offsets=offsets)


def _stats(builder: flatbuffers.Builder, *, low: float, high: float) -> int:
    return _table(builder, slots=2, offsets={0: _floats(builder, [high]), 1: _floats(builder, [low])})


def _file(builder: flatbuffers.Builder, name: str, description: str, kind: int) -> int:
    offsets = {0: builder.CreateString(name), 1: builder.CreateString(description)}
    return _table(builder, slots=5, uint8={2: kind}, offsets=offsets)


def _table(
    builder: flatbuffers.Builder,
    *,
    slots: int,
    offsets: Mapping[int, int] | None = None,
    uint8: Mapping[int, int] | None = None,
    uint32: Mapping[int, int] | None = None,
) -> int:
    builder.StartObject(slots)
    for slot, offset in (offsets or {}).items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in (uint32 or {}).items():
        builder.PrependUint32Slot(slot, value, 0)
    for slot, value in (uint8 or {}).items():
        builder.PrependUint8Slot(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())


# --- the model that carries them ---


def _with_entry(tflite: bytes, metadata: bytes) -> bytes:
    """Rewrite the model's flatbuffer with `metadata` in a buffer; what followed the flatbuffer is dropped."""
    # Late: only the publisher writes, and the schema is a megabyte of Python.
    schema = lazily.load("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(tflite, 0))
    model.buffers = [_AlignedBuffer(buffer.data, buffer.offset, buffer.size) for buffer in model.buffers]
    if any(buffer.offset > 1 for buffer in model.buffers):
        # Models over 2 GB keep weights behind the flatbuffer, at absolute positions.
        raise MetadataError("the model keeps weights outside its flatbuffer: it is too large for a phone anyway")
    entries = model.metadata or []
    entry = next((entry for entry in entries if entry.name == _ENTRY), None)
    if entry is None:
        entry = schema.MetadataT(name=_ENTRY, buffer=len(model.buffers))
        model.buffers.append(_AlignedBuffer(b"", 0, 0))
        model.metadata = [*entries, entry]
    model.buffers[entry.buffer] = _AlignedBuffer(metadata, 0, 0)
    builder = flatbuffers.Builder(len(tflite) + 4096)
    builder.Finish(model.Pack(builder), _MODEL_IDENTIFIER)
    return bytes(builder.Output())


class _AlignedBuffer:
    """A Buffer of the model's schema whose data starts at a multiple of 16 bytes.

    schema.fbs demands it (`data:[ubyte] (force_align: 16)`: kernels read weights in place), and the generated
    Python packs at multiples of one.
    """

    def __init__(self, data: Any, offset: int, size: int) -> None:
        self.data = None if data is None else bytes(data)
        self.offset = offset
        self.size = size

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 - the generated code calls it by this name
        offsets = {}
        if self.data is not None:
            builder.StartVector(1, len(self.data), 16)
            # As Builder.CreateByteVector does it: one copy instead of one call a byte.
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
            offsets[0] = builder.EndVector()
        builder.StartObject(3)
        for slot, offset in offsets.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        builder.PrependUint64Slot(1, self.offset, 0)
        builder.PrependUint64Slot(2, self.size, 0)
        return int(builder.EndObject())


def _with_files(tflite: bytes, files: Mapping[str, str]) -> bytes:
    """Append `files` as a zip: stored, because Android's extractor maps them; dated, so that bytes repeat."""
    out = io.BytesIO(tflite)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as archive:
        for name, text in sorted(files.items()):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # otherwise it names the machine that published
            info.external_attr = 0o644 << 16
            archive.writestr(info, text.encode())
    return out.getvalue()


# --- reading: only flatbuffers and zipfile ---


class _Model:
    """Slots of Model, SubGraph, Tensor, Buffer and Metadata in the model's schema.fbs."""

    SUBGRAPHS, BUFFERS, METADATA = 2, 4, 6
    TENSORS, INPUTS, OUTPUTS = 0, 1, 2
    TENSOR_SHAPE = 0
    BUFFER_DATA = 0
    METADATA_NAME, METADATA_BUFFER = 0, 1


class _ModelMetadata:
    """Slots of ModelMetadata, SubGraphMetadata, TensorMetadata, AssociatedFile, ProcessUnit, NormalizationOptions."""

    NAME, DESCRIPTION, VERSION, SUBGRAPHS = 0, 1, 2, 3
    INPUT_TENSORS, OUTPUT_TENSORS = 2, 3
    PROCESS_UNITS, ASSOCIATED_FILES = 4, 6
    FILE_NAME, FILE_TYPE, FILE_LOCALE = 0, 2, 3
    OPTIONS_TYPE, OPTIONS = 0, 1
    MEAN, STD = 0, 1


class _Table:
    """A flatbuffers table read by slot number; an absent field is empty or 0."""

    def __init__(self, data: bytes, position: int) -> None:
        self._table = Table(data, position)

    @classmethod
    def root(cls, data: bytes, identifier: bytes, what: str) -> _Table:
        """The root table of `data`, when its file identifier is the expected one."""
        if data[4:8] != identifier:
            raise MetadataError(f"these {len(data)} bytes are not {what}: the file identifier is {data[4:8]!r}")
        return cls(data, int.from_bytes(data[:4], "little"))

    def _field(self, slot: int) -> int:
        return int(self._table.Offset(4 + 2 * slot))

    def text(self, slot: int) -> str:
        field = self._field(slot)
        return bytes(self._table.String(self._table.Pos + field)).decode() if field else ""

    def unsigned(self, slot: int, kind: Any) -> int:
        field = self._field(slot)
        return int(self._table.Get(kind, self._table.Pos + field)) if field else 0

    def child(self, slot: int) -> _Table | None:
        field = self._field(slot)
        return _Table(self._table.Bytes, self._table.Indirect(self._table.Pos + field)) if field else None

    def tables(self, slot: int) -> list[_Table]:
        field = self._field(slot)
        if not field:
            return []
        start = self._table.Vector(field)
        return [
            _Table(self._table.Bytes, self._table.Indirect(start + 4 * index))
            for index in range(self._table.VectorLen(field))
        ]

    def numbers(self, slot: int, kind: Any) -> tuple[Any, ...]:
        field = self._field(slot)
        if not field:
            return ()
        start = self._table.Vector(field)
        width = kind.bytewidth
        return tuple(self._table.Get(kind, start + width * i) for i in range(self._table.VectorLen(field)))

    def data(self, slot: int) -> bytes:
        field = self._field(slot)
        if not field:
            return b""
        start = self._table.Vector(field)
        return bytes(self._table.Bytes[start : start + self._table.VectorLen(field)])


def _metadata_of(model: _Table) -> _Table | None:
    buffers = model.tables(_Model.BUFFERS)
    for entry in model.tables(_Model.METADATA):
        if entry.text(_Model.METADATA_NAME) == _ENTRY.decode():
            index = entry.unsigned(_Model.METADATA_BUFFER, number_types.Uint32Flags)
            return _Table.root(buffers[index].data(_Model.BUFFER_DATA), _METADATA_IDENTIFIER, "TFLite metadata")
    return None


def _tensor_shapes(model: _Table, slot: int) -> Iterator[tuple[int, ...]]:
    subgraph = model.tables(_Model.SUBGRAPHS)[0]
    tensors = subgraph.tables(_Model.TENSORS)
    for index in subgraph.numbers(slot, number_types.Int32Flags):
        yield tensors[index].numbers(_Model.TENSOR_SHAPE, number_types.Int32Flags)


def _normalization(metadata: _Table) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for subgraph in metadata.tables(_ModelMetadata.SUBGRAPHS):
        for tensor in subgraph.tables(_ModelMetadata.INPUT_TENSORS):
            for unit in tensor.tables(_ModelMetadata.PROCESS_UNITS):
                options = unit.child(_ModelMetadata.OPTIONS)
                kind = unit.unsigned(_ModelMetadata.OPTIONS_TYPE, number_types.Uint8Flags)
                if options is not None and kind == _NORMALIZATION_OPTIONS:
                    mean = options.numbers(_ModelMetadata.MEAN, number_types.Float32Flags)
                    return mean, options.numbers(_ModelMetadata.STD, number_types.Float32Flags)
    return (), ()


def _labels_file(metadata: _Table | None, there: Sequence[str]) -> str:
    """The name of the associated file that holds the labels; empty without one. Raises MetadataError if it is away.

    Source: the output tensor names it (metadata_schema.fbs, AssociatedFileType); of translations, the one for no
    certain language is meant.
    """
    named = list(_files_of_output(metadata)) if metadata else []
    labels = [file for file in named if file[1] in {_TENSOR_AXIS_LABELS, _TENSOR_VALUE_LABELS}] or named
    if labels:
        name, _, _ = min(labels, key=lambda file: bool(file[2]))
        if name not in there:
            raise MetadataError(f"the model's labels should be in its file {name}, which is not there")
        return name
    return next((name for name in _USUAL_LABELS_FILES if name in there), "")


def _files_of_output(metadata: _Table) -> Iterator[tuple[str, int, str]]:
    """Name, type and language of each file that the output tensor names."""
    for subgraph in metadata.tables(_ModelMetadata.SUBGRAPHS):
        for tensor in subgraph.tables(_ModelMetadata.OUTPUT_TENSORS):
            for file in tensor.tables(_ModelMetadata.ASSOCIATED_FILES):
                kind = file.unsigned(_ModelMetadata.FILE_TYPE, number_types.Uint8Flags)
                yield file.text(_ModelMetadata.FILE_NAME), kind, file.text(_ModelMetadata.FILE_LOCALE)


def _archive(tflite: bytes) -> zipfile.ZipFile:
    """The associated files; empty where the model is all there is."""
    try:
        return zipfile.ZipFile(io.BytesIO(tflite))
    except zipfile.BadZipFile:
        return zipfile.ZipFile(io.BytesIO(), "w")


def _text(archive: zipfile.ZipFile, name: str) -> str:
    if archive.getinfo(name).file_size > _LARGEST_ASSOCIATED_FILE:
        raise MetadataError(f"the model's file {name} is larger than {_LARGEST_ASSOCIATED_FILE / 1e6:g} MB")
    return archive.read(name).decode("utf-8-sig")
