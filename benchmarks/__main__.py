"""`make bench`: every benchmark of this folder, one after the other; rows go to build/bench/report.json.

python -m benchmarks [name …]
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

#: Modules of this folder that measure nothing by themselves.
_HELPERS = frozenset({"__init__", "__main__", "report"})


def main(arguments: Sequence[str]) -> int:
    """Run the named benchmarks, or all; the number of those that failed."""
    names = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - _HELPERS)
    if unknown := sorted(set(arguments) - set(names)):
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
        return len(unknown)
    failures = 0
    for name in arguments or names:
        print(f"== {name}", flush=True)
        try:
            importlib.import_module(f"benchmarks.{name}").main([])
        except Exception:  # noqa: BLE001 (one that fails must not keep the others from their rows)
            traceback.print_exc()
            failures += 1
    return failures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
