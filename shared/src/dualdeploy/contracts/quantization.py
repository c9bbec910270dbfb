"""Which variant of the file phones get; `auto` is the smallest that passes the gate."""

from __future__ import annotations

from typing import Literal

Quantization = Literal["auto", "float32", "float16", "dynamic", "int8"]
