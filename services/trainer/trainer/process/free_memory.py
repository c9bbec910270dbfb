"""How much memory this process may still take: the machine's, or its container's if that has less."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path


def available(*, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes; 0 where nobody says.

    Source: https://docs.kernel.org/filesystems/proc.html (MemAvailable), https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    found = []
    with contextlib.suppress(OSError):
        free = re.search(r"^MemAvailable:\s+(\d+) kB$", (proc / "meminfo").read_text(), flags=re.MULTILINE)
        found += [int(free[1]) * 1024] if free else []
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        limit = int((groups / "memory.max").read_text())
        found.append(limit - int((groups / "memory.current").read_text()))
    return max(0, min(found, default=0))
