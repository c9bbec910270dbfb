"""SavedModel to TFLite, in a child process: TensorFlow's memory and crashes stay out of the service."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from dualdeploy.errors import CannotEverSucceed
from mobile_publisher.convert_child import EXIT_UNUSABLE

Variant = Literal["dynamic", "float32", "float16", "int8"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

#: The program that converts; a parameter so that the limits can be tested without TensorFlow.
CONVERTER: tuple[str, ...] = (sys.executable, "-m", "mobile_publisher.convert_child")

_POLL_SECONDS = 0.05
_TAIL_CHARACTERS = 2000
#: Where programs, libraries and scratch files are, how text is written, how many threads there may be.
_IS_NEEDED = re.compile(r"PATH|HOME|TMPDIR|LANG|LC_\w+|LD_LIBRARY_PATH|VIRTUAL_ENV|PYTHON\w*|TF_\w+|OMP_\w+")
_OUT_OF_MEMORY = re.compile(r"std::bad_alloc|\bMemoryError\b|Cannot allocate memory|RESOURCE_EXHAUSTED")


class ConversionFailed(CannotEverSucceed):
    """The converter refused the model or died; the message ends with what it said last."""


class ConversionTimedOut(ConversionFailed):
    """The converter was still running when its time was up, and was ended."""


class ConversionOutOfMemory(ConversionFailed):
    """The converter needed more memory than it was given."""


@dataclasses.dataclass(frozen=True)
class Conversion:
    """One finished .tflite file: where it is, which variant, its size and how long making it took."""

    path: Path
    variant: Variant
    bytes: int
    seconds: float


def convert(
    pixels_model_dir: Path,
    output: Path,
    *,
    variant: Variant,
    representative: Sequence[npt.NDArray[np.float32]] | None = None,
    timeout: float = 300,
    memory_bytes: int | None = None,
    converter: Sequence[str] = CONVERTER,
) -> Conversion:
    """Convert the SavedModel in `pixels_model_dir` to `output` (a .tflite file, written whole or not at all).

    The model has one input, float32 [1, px, px, 3] in 0..255, and every variant keeps it: int8 quantises
    weights and activations, not the interface, so a phone feeds all variants alike. int8 needs
    `representative`: some tens of float32 [px, px, 3] pictures in 0..255; the other variants ignore it.
    `timeout` is in seconds. `memory_bytes` limits the child's resident memory (its virtual size says nothing:
    TensorFlow reserves far more than it touches). Raises ConversionFailed, ConversionTimedOut or
    ConversionOutOfMemory, and ValueError for arguments that no model could satisfy. Measured: MobileNetV3
    4 to 10 s, DenseNet121 12 to 18 s, int8 at 224 px 45 s on two cores.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown: choose one of {', '.join(VARIANTS)}")
    if variant == "int8" and not representative:
        raise ValueError("int8 needs representative pictures to calibrate with: pass some tens of them")
    if not (pixels_model_dir / "saved_model.pb").is_file():
        raise ConversionFailed(f"{pixels_model_dir} holds no SavedModel: there is no saved_model.pb in it")
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    # Beside the output, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=".conversion-", dir=output.parent) as folder:
        partial = Path(folder, "model.tflite")
        command = [
            *converter,
            "--model",
            str(pixels_model_dir),
            "--output",
            str(partial),
            "--variant",
            variant,
        ]
        if variant == "int8" and representative:
            command += ["--representative", str(_save_samples(representative, Path(folder, "samples.npz")))]
        command.append("--leave-when-stdin-ends")
        _run(command, variant=variant, log=Path(folder, "log"), timeout=timeout, memory_bytes=memory_bytes)
        size = _checked_size(partial, variant, Path(folder, "log"))
        partial.replace(output)
    return Conversion(path=output, variant=variant, bytes=size, seconds=time.monotonic() - started)


def _save_samples(samples: Sequence[npt.NDArray[np.float32]], path: Path) -> Path:
    shapes = {sample.shape for sample in samples}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise ValueError(f"representative pictures must all be float32 [px, px, 3] of one size, not {sorted(shapes)}")
    np.savez(path, samples=np.stack(samples).astype(np.float32))
    return path


def _run(command: list[str], *, variant: str, log: Path, timeout: float, memory_bytes: int | None) -> None:
    """Run the child to its end, or end it when it is over a limit; its output goes to `log`."""
    with log.open("wb") as stream:
        # A session of its own, so that helpers it starts end with it. The open stdin is its lifeline:
        # when this process dies, however it dies, the child reads end-of-file and leaves.
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,
        )
        try:
            _wait(child, variant=variant, log=log, timeout=timeout, memory_bytes=memory_bytes)
        finally:
            _end(child)
    if child.returncode == 0:
        return
    said = _tail(log)
    if child.returncode == EXIT_UNUSABLE:
        raise ConversionFailed(f"the {variant} conversion was refused: {said.splitlines()[-1]}")
    if child.returncode == -signal.SIGKILL:
        raise ConversionOutOfMemory(
            f"the {variant} conversion was killed by the system, most likely for memory: "
            f"give the service more. It said last: {said}"
        )
    if _OUT_OF_MEMORY.search(said):
        raise ConversionOutOfMemory(f"the {variant} conversion ran out of memory. It said last: {said}")
    raise ConversionFailed(f"the {variant} conversion ended with code {child.returncode}. It said last: {said}")


def _wait(child: subprocess.Popen[bytes], *, variant: str, log: Path, timeout: float, memory_bytes: int | None) -> None:
    deadline = time.monotonic() + timeout
    while child.poll() is None:
        if time.monotonic() > deadline:
            raise ConversionTimedOut(
                f"the {variant} conversion was not done after {timeout:g} s and was ended. It said last: {_tail(log)}"
            )
        used = resident_bytes(child.pid)
        if memory_bytes is not None and used > memory_bytes:
            raise ConversionOutOfMemory(
                f"the {variant} conversion used {used / 2**20:.0f} MiB, more than the "
                f"{memory_bytes / 2**20:.0f} MiB it may, and was ended. It said last: {_tail(log)}"
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=_POLL_SECONDS)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it started, unless it has already ended, and reap it."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    if child.stdin is not None:
        child.stdin.close()
    child.wait()


def resident_bytes(pid: int) -> int:
    """Memory the process touches now, in bytes; 0 when it is gone (Linux: /proc, elsewhere: ps)."""
    try:
        if sys.platform == "linux":
            # Second field of statm: resident pages. Source: man 5 proc.
            pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return int(shown.stdout.strip() or 0) * 1024
    except (OSError, ValueError, IndexError):
        return 0


def child_environment() -> dict[str, str]:
    """What Python and TensorFlow need, with this package importable and TensorFlow quiet and off any GPU.

    A child reads a model that came from elsewhere: it is not told the service's settings, nor where a key lies.
    """
    services = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [services, os.environ.get("PYTHONPATH", "")]))
    needed = {name: value for name, value in os.environ.items() if _IS_NEEDED.fullmatch(name)}
    return {**needed, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}


def _checked_size(path: Path, variant: str, log: Path) -> int:
    header = path.read_bytes()[:8] if path.is_file() else b""
    # The flatbuffer's file identifier. Source: tensorflow/compiler/mlir/lite/schema/schema.fbs.
    if header[4:] != b"TFL3":
        raise ConversionFailed(
            f"the {variant} conversion succeeded but wrote no TFLite file. It said last: {_tail(log)}"
        )
    return path.stat().st_size


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    return text[-_TAIL_CHARACTERS:] or "(nothing)"
