"""What Firebase ML checks in an uploaded file: that it is a TensorFlow Lite flatbuffer of schema version 3.

The layout is that of flatbuffers (a root table with its vtable) and of TensorFlow Lite's schema.fbs; the
error texts are those of TensorFlow Lite's own verifier, which Firebase ML passes on.
"""

from __future__ import annotations

import struct

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3

_INVALID = "Invalid flatbuffer format"
#: Fields of schema.fbs' table Model, by position: 0 version, 1 operator_codes, 2 subgraphs, 4 buffers.
_VERSION = 0
_VECTORS = (1, 2, 4)
_SUBGRAPHS = 2


def validation_error(data: bytes) -> str | None:
    """Why `data` is not a model that can be published, or None when it is one."""
    try:
        return _model_error(data)
    except struct.error:
        return _INVALID


def _model_error(data: bytes) -> str | None:
    if data[4:8] != IDENTIFIER:
        return _INVALID
    table = _at(data, "<I", 0)
    vtable = table - _at(data, "<i", table)
    if not 0 <= vtable <= len(data) - 4:
        return _INVALID
    field_count = (_at(data, "<H", vtable) - 4) // 2
    fields = [_at(data, "<H", vtable + 4 + 2 * position) for position in range(field_count)]
    version = _at(data, "<I", table + fields[_VERSION]) if fields and fields[_VERSION] else 0
    if version != SCHEMA_VERSION:
        return f"Invalid model version {version}"
    for position in _VECTORS:
        if position < len(fields) and fields[position] and not _is_vector(data, table + fields[position]):
            return _INVALID
    has_subgraphs = len(fields) > _SUBGRAPHS and fields[_SUBGRAPHS]
    return None if has_subgraphs else "Missing 'subgraphs' section."


def _is_vector(data: bytes, field: int) -> bool:
    """Whether the vector of offsets that `field` refers to lies within the file."""
    start = field + _at(data, "<I", field)
    return start + 4 + 4 * _at(data, "<I", start) <= len(data)


def _at(data: bytes, layout: str, offset: int) -> int:
    # A negative offset would count from the end, which no flatbuffer means.
    if offset < 0:
        raise struct.error
    value: int = struct.unpack_from(layout, data, offset)[0]
    return value
