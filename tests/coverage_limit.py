"""How much of the product the fast tests run: what SlipCover has counted, against the figure that is committed here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

#: Per cent of lines and branches together; 90.27 on 2026-11-28. Raise it when the figure has grown.
LEAST = 90.0

#: So many files are named when it is missed.
_TOLD = 10


def main() -> int:
    """Print the figure, and when it is too small, where most is missing. The argument is SlipCover's JSON."""
    counted: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    percent = counted["summary"]["percent_covered"]
    print(f"The fast tests run {percent:.2f} % of the lines and branches of the library and the services.")
    if percent >= LEAST:
        return 0
    print(f"At least {LEAST} % are wanted (tests/coverage_limit.py). Most is missing in:")
    missing = {
        name: file["summary"]["missing_lines"] + file["summary"]["missing_branches"]
        for name, file in counted["files"].items()
    }
    for name in sorted(missing, key=missing.__getitem__, reverse=True)[:_TOLD]:
        print(f"  {name}: {missing[name]}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
