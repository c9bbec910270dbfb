"""The converter process, `python -m mobile_publisher.convert_child`: the only one that imports TensorFlow.

Exit codes: 0 written · 64 the model or the arguments cannot be converted (the reason is the last line) · any
other: a crash.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXIT_UNUSABLE = 64  # EX_USAGE of sysexits.h: do not try again
SIGNATURE = "serving_default"


class UnconvertibleModelError(Exception):
    """The model is not what the converter takes; the message says what is wrong with it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert one SavedModel to one .tflite file and return the process's exit code."""
    parser = argparse.ArgumentParser(description="Convert a SavedModel with one fixed-size input to TFLite.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--variant", choices=["dynamic", "float32", "float16", "int8"], required=True)
    parser.add_argument("--representative", type=Path)
    parser.add_argument("--leave-when-stdin-ends", action="store_true")
    options = parser.parse_args(arguments)
    if options.leave_when_stdin_ends:
        _leave_when_stdin_ends()
    _offer_to_the_memory_killer()
    try:
        flatbuffer = _convert(options.model, options.variant, options.representative)
    except UnconvertibleModelError as exc:
        print(f"cannot convert {options.model.name}: {exc}", file=sys.stderr)
        return EXIT_UNUSABLE
    options.output.write_bytes(flatbuffer)
    return 0


def _convert(model: Path, variant: str, representative: Path | None) -> bytes:
    import tensorflow as tf  # noqa: PLC0415 - after the arguments are known to be good: it takes seconds

    size = _input_size(tf, model)
    # from_saved_model, not from_concrete_functions: with Keras 3 the latter silently writes a NaN model.
    converter = tf.lite.TFLiteConverter.from_saved_model(str(model), signature_keys=[SIGNATURE])
    if variant != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if variant == "int8":
        if representative is None:
            raise UnconvertibleModelError("int8 needs --representative")
        samples = _samples(representative, size)
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
        # Refuse a model that would silently keep float operators.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return bytes(converter.convert())


def _input_size(tf: Any, model: Path) -> int:
    """Read the signature and return px of its one input, float32 [1, px, px, 3].

    From the file itself: loading the model to ask it costs seconds and a second copy of the weights.
    """
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415

    try:
        saved = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
        signature = saved.meta_graphs[0].signature_def[SIGNATURE]
    except (OSError, DecodeError, IndexError) as exc:
        raise UnconvertibleModelError(f"it is not a SavedModel: {exc}") from exc
    inputs = [
        (name, tf.as_dtype(info.dtype), [dimension.size for dimension in info.tensor_shape.dim])
        for name, info in signature.inputs.items()
    ]
    taken = ", ".join(f"{name}, {kind.name} {shape}" for name, kind, shape in inputs) or "nothing"
    match inputs:
        case [(_, tf.float32, [1, height, width, 3])] if height == width and height > 0:
            return int(height)
    raise UnconvertibleModelError(
        f"its {SIGNATURE} signature takes {taken}, and a phone's model takes pixels, float32 [1, px, px, 3]: write "
        "artifacts.pixels_model for one picture, as docs/own-container.md says"
    )


def _samples(path: Path, size: int) -> Any:
    """Read float32 [n, px, px, 3] from an npz file and check it against the model's input."""
    import numpy as np  # noqa: PLC0415 - only int8 needs it here

    with np.load(path) as archive:
        samples = archive["samples"]
    if samples.shape[1:] != (size, size, 3):
        raise UnconvertibleModelError(
            f"representative pictures are {samples.shape[1:]}, the model takes {(size, size, 3)}"
        )
    return samples


def _leave_when_stdin_ends() -> None:
    """The parent holds our stdin open for as long as it lives: no converter outlives a service that died."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _offer_to_the_memory_killer() -> None:
    """When memory runs out, Linux shall end this process and not the service that started it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
