"""What a .tflite file would run: built-in operators that only compute, and nothing else.

LiteRT's own kernels open no files; what could is a custom operator (TensorFlow's whole list comes in as `FlexWriteFile`
and so on where a process has the Flex delegate). Operators that keep something between two pictures are refused, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from dualdeploy import lazily
from dualdeploy.errors import CannotEverSucceed

#: Built-in, and yet more than reckoning: they run other code, keep a state, or answer by chance.
_REFUSED = frozenset(
    {
        "ASSIGN_VARIABLE",
        "CALL_ONCE",
        "DELEGATE",
        "HASHTABLE",
        "HASHTABLE_FIND",
        "HASHTABLE_IMPORT",
        "HASHTABLE_SIZE",
        "MULTINOMIAL",
        "PLACEHOLDER_FOR_GREATER_OP_CODES",
        "RANDOM_STANDARD_NORMAL",
        "RANDOM_UNIFORM",
        "READ_VARIABLE",
        "STABLEHLO_CUSTOM_CALL",
        "STABLEHLO_RNG_BIT_GENERATOR",
        "VAR_HANDLE",
    }
)


class RefusedOperator(CannotEverSucceed):
    """The file is damaged, or uses an operator that no file of ours may use."""


def check(tflite: bytes) -> None:
    """Hold every operator of the file against the list. Raises RefusedOperator, whose sentence names it."""
    try:
        used = list(_used(tflite))
    except (struct.error, IndexError, TypeError, ValueError) as exc:
        raise RefusedOperator(f"the operators of these {len(tflite)} bytes cannot be read: {exc}") from exc
    if refused := next((name for name, allowed in used if not allowed), None):
        raise RefusedOperator(
            f"the file uses the operator {refused}, which phones do not run: write that step of the network with "
            "layers of Keras that only compute, and train again"
        )


def _used(tflite: bytes) -> Iterator[tuple[str, bool]]:
    """The name of each operator, and whether it is allowed."""
    # Late: the schema is a megabyte of Python.
    schema = lazily.load("ai_edge_litert.schema_py_generated")
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model: Any = schema.Model.GetRootAsModel(tflite, 0)
    for place in range(model.OperatorCodesLength()):
        entry = model.OperatorCodes(place)
        # Codes above 127 stand in the newer field only. Source: tensorflow/compiler/mlir/lite/schema/schema_utils.cc
        code = max(entry.BuiltinCode(), entry.DeprecatedBuiltinCode())
        if code == schema.BuiltinOperator.CUSTOM:
            yield (entry.CustomCode() or b"without a name").decode(errors="replace"), False
        else:
            name = names.get(code, "")
            yield name or f"number {code}", bool(name) and name not in _REFUSED
