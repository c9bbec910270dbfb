"""TFLite files as other writers make them: metadata_schema.fbs written down a second time, by hand.

Our own writer (`tflite_metadata.describe`) always says the same; what reads files of Vertex AI's AutoML, or of anybody
else, must not share its assumptions.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from automl_search.edge_file import floats, table, vector

#: AssociatedFileType: UNKNOWN, DESCRIPTIONS, TENSOR_AXIS_LABELS, TENSOR_VALUE_LABELS.
UNKNOWN, DESCRIPTIONS, AXIS_LABELS, VALUE_LABELS = range(4)


def foreign(
    tflite: bytes,
    *,
    files: Mapping[str, str] | None = None,
    named: Sequence[tuple[str, int, str]] = (),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> bytes:
    """The file with a description: `named` are name, type and language of the files that its output tensor names.

    `files` are what lies behind the model; without `mean` and `std` there are no NormalizationOptions.
    """
    with_entry = _with_entry(tflite, _metadata(named, mean, std))
    return zipped(with_entry, files or {})


def automl(tflite: bytes, labels: Sequence[str]) -> bytes:
    """As Vertex AI's AutoML exports it: dict.txt inside, labels in its own order, mean 128 and std 127."""
    text = "".join(f"{label}\n" for label in labels)
    named = [("dict.txt", AXIS_LABELS, "")]
    return foreign(tflite, files={"dict.txt": text}, named=named, mean=[128.0], std=[127.0])


def zipped(tflite: bytes, files: Mapping[str, str]) -> bytes:
    """The file with others behind it, and no word about them."""
    if not files:
        return tflite
    out = io.BytesIO(tflite)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


def _with_entry(tflite: bytes, metadata: bytes) -> bytes:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(tflite, 0))
    buffer = schema.BufferT(data=list(metadata))
    model.metadata = [*(model.metadata or []), schema.MetadataT(name=b"TFLITE_METADATA", buffer=len(model.buffers))]
    model.buffers.append(buffer)
    builder = flatbuffers.Builder(len(tflite))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _metadata(
    named: Sequence[tuple[str, int, str]], mean: Sequence[float] | None, std: Sequence[float] | None
) -> bytes:
    builder = flatbuffers.Builder(256)
    units = []
    if mean is not None or std is not None:
        # NormalizationOptions: mean 0, std 1. ProcessUnit: the union's type 0 (NormalizationOptions is 1) and value 1.
        options = table(builder, 2, {0: floats(builder, mean or []), 1: floats(builder, std or [])})
        units.append(table(builder, 2, {1: options}, {0: 1}))
    # TensorMetadata: process_units 4, associated_files 6. AssociatedFile: name 0, type 2, locale 3.
    taken = table(builder, 7, {4: vector(builder, units)})
    files = []
    for name, kind, language in named:
        offsets = {0: builder.CreateString(name)}
        if language:
            offsets[3] = builder.CreateString(language)
        files.append(table(builder, 5, offsets, {2: kind}))
    given = table(builder, 7, {6: vector(builder, files)})
    # SubGraphMetadata: input_tensor_metadata 2, output_tensor_metadata 3. ModelMetadata: subgraph_metadata 3.
    subgraph = table(builder, 10, {2: vector(builder, [taken]), 3: vector(builder, [given])})
    builder.Finish(table(builder, 8, {3: vector(builder, [subgraph])}), b"M001")
    return bytes(builder.Output())
