"""`python -m shard_writer`."""

from __future__ import annotations

import sys

from shard_writer.command import main

if __name__ == "__main__":
    sys.exit(main())
