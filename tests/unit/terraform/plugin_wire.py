"""What Terraform and a provider say to each other: tfplugin5 over gRPC, values in MessagePack.

Source: https://github.com/hashicorp/terraform/blob/main/docs/plugin-protocol/tfplugin5.9.proto. Only what plan, apply,
refresh and import need is declared here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "int64": _Field.TYPE_INT64,
    # An enumeration looks the same on the wire.
    "enum": _Field.TYPE_INT32,
}

#: Message → field → (number, type); a trailing * repeats, and a type that is no scalar is a message of this list.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "Empty": {},
    "Value": {"msgpack": (1, "bytes"), "json": (2, "bytes")},
    "Diagnostic": {"severity": (1, "enum"), "summary": (2, "string"), "detail": (3, "string")},
    "Schema": {"version": (1, "int64"), "block": (2, "Block")},
    "Block": {"version": (1, "int64"), "attributes": (2, "Attribute*"), "block_types": (3, "NestedBlock*")},
    "Attribute": {
        "name": (1, "string"),
        "type": (2, "bytes"),
        "required": (4, "bool"),
        "optional": (5, "bool"),
        "computed": (6, "bool"),
    },
    "NestedBlock": {
        "type_name": (1, "string"),
        "block": (2, "Block"),
        "nesting": (3, "enum"),
        "min_items": (4, "int64"),
        "max_items": (5, "int64"),
    },
    # A map of protobuf is a repeated pair.
    "NamedSchema": {"key": (1, "string"), "value": (2, "Schema")},
    "Schemas": {
        "provider": (1, "Schema"),
        "resource_schemas": (2, "NamedSchema*"),
        "data_source_schemas": (3, "NamedSchema*"),
    },
    "Config": {"config": (1, "Value")},
    "PreparedConfig": {"prepared_config": (1, "Value"), "diagnostics": (2, "Diagnostic*")},
    "TypedConfig": {"type_name": (1, "string"), "config": (2, "Value")},
    "Diagnostics": {"diagnostics": (1, "Diagnostic*")},
    "ToPlan": {
        "type_name": (1, "string"),
        "prior_state": (2, "Value"),
        "proposed_new_state": (3, "Value"),
        "config": (4, "Value"),
    },
    "Planned": {"planned_state": (1, "Value"), "requires_replace": (2, "Path*"), "legacy_type_system": (5, "bool")},
    "Path": {"steps": (1, "Step*")},
    "Step": {"attribute_name": (1, "string")},
    "ToApply": {
        "type_name": (1, "string"),
        "prior_state": (2, "Value"),
        "planned_state": (3, "Value"),
        "config": (4, "Value"),
    },
    "Applied": {"new_state": (1, "Value"), "diagnostics": (3, "Diagnostic*"), "legacy_type_system": (4, "bool")},
    "ToRead": {"type_name": (1, "string"), "current_state": (2, "Value")},
    "Read": {"new_state": (1, "Value"), "diagnostics": (2, "Diagnostic*")},
    "ToImport": {"type_name": (1, "string"), "id": (2, "string")},
    "ImportedOne": {"type_name": (1, "string"), "state": (2, "Value")},
    "Imported": {"imported_resources": (1, "ImportedOne*"), "diagnostics": (2, "Diagnostic*")},
    "RawState": {"json": (1, "bytes")},
    "ToUpgrade": {"type_name": (1, "string"), "version": (2, "int64"), "raw_state": (3, "RawState")},
    "Upgraded": {"upgraded_state": (1, "Value"), "diagnostics": (2, "Diagnostic*")},
    "State": {"state": (1, "Value"), "diagnostics": (2, "Diagnostic*")},
}


def _declare() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="stub_provider.proto", package="stub", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            scalar = kind.rstrip("*")
            message.field.add(
                name=field,
                number=number,
                label=_Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL,
                type=_SCALARS.get(scalar, _Field.TYPE_MESSAGE),
                type_name=None if scalar in _SCALARS else f".stub.{scalar}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"stub.{name}"))  # type: ignore[no-untyped-call]
        for name in _MESSAGES
    }


#: The message classes by name.
MESSAGES = _declare()


class Unknown:
    """A value that Terraform learns only when it applies; one instance, `UNKNOWN`."""

    def __repr__(self) -> str:
        return "(known after apply)"


UNKNOWN = Unknown()


def pack(value: Any) -> bytes:  # noqa: PLR0911  # a table of types, one line each
    """MessagePack of what JSON can say, and of UNKNOWN (extension 0)."""
    if isinstance(value, Unknown):
        return b"\xd4\x00\x00"
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return b"\xd3" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return b"\xdb" + struct.pack(">I", len(data)) + data
    if isinstance(value, list):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(pack(item) for item in value)
    pairs = b"".join(pack(key) + pack(item) for key, item in value.items())
    return b"\xdf" + struct.pack(">I", len(value)) + pairs


def unpack(data: bytes) -> Any:
    """The value of one MessagePack document."""
    return _Reader(data).value()


_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
_NUMBERS |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_STRINGS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_EXTENSIONS = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}


class _Reader:
    """Reads https://github.com/msgpack/msgpack/blob/master/spec.md from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def value(self) -> Any:  # noqa: PLR0911  # a table of formats, one line each
        kind = self._take(1)[0]
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind <= 0x7F or kind >= 0xE0:
            return kind if kind <= 0x7F else kind - 0x100
        if kind <= 0x8F or kind in (0xDE, 0xDF):
            size = kind & 0x0F if kind <= 0x8F else self._number(">H" if kind == 0xDE else ">I")
            return {self.value(): self.value() for _ in range(size)}
        if kind <= 0x9F or kind in (0xDC, 0xDD):
            size = kind & 0x0F if kind <= 0x9F else self._number(">H" if kind == 0xDC else ">I")
            return [self.value() for _ in range(size)]
        if kind <= 0xBF or kind in _STRINGS:
            return self._take(kind & 0x1F if kind <= 0xBF else self._number(_STRINGS[kind])).decode()
        # Extensions are all unknown values, some with what is known of them nevertheless.
        size = self._number(_EXTENSIONS[kind]) if kind in _EXTENSIONS else 1 << (kind - 0xD4)
        self._take(1 + size)
        return UNKNOWN

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece
