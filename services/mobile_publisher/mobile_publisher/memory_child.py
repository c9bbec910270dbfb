"""What loading and running one .tflite file adds to a process, `python -m mobile_publisher.memory_child FILE`.

Prints one line, the bytes, or nothing where the kernel does not tell. A process of its own, because in the service's
the memory of earlier files would be used again and not be seen.
"""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RUNS = 3


def main(path: str) -> int:
    """Load the file as a phone does, run it on an empty picture, and print the peak above the empty interpreter."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  # before the first look: it is not the model's

    _forget_peak()
    before = _kilobytes("VmRSS")
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    for _ in range(_RUNS):
        interpreter.invoke()
    peak = _kilobytes("VmHWM")
    if before is not None and peak is not None:
        print(max(0, peak - before) * 1024)
    return 0


def _forget_peak() -> None:
    """Let the peak begin anew; where that is not allowed it includes what importing took."""
    try:
        # 5 resets VmHWM. Source: man 5 proc_pid_clear_refs.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _kilobytes(field: str) -> int | None:
    """`VmRSS`, memory touched now, or `VmHWM`, its peak. Not getrusage, whose peak a child inherits from its parent."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
