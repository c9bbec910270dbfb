"""`python -m model_check.networks`: all networks of keras.applications the whole way, and the table of what was found.

Those above 60 million parameters are built and exported only: a step and a conversion would take minutes and gigabytes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras

from dualdeploy.contracts.architectures import KERAS, Published
from mobile_publisher.conversion import Variant
from model_check import stages
from model_check.stages import Asked, Found, StageFailed

MOST_MILLIONS = 60.0

PAGE = Path(__file__).parents[3] / "docs" / "networks.md"
_BEGIN, _END = "<!-- table: make test-networks -->\n", "<!-- end of table -->\n"
_VARIANTS: tuple[Variant, ...] = ("float32", "dynamic", "int8")


def main(argv: Sequence[str] | None = None) -> int:
    """Go through the networks, print what became of each, and write the table into docs/networks.md."""
    parser = argparse.ArgumentParser(prog="python -m model_check.networks", description=__doc__)
    parser.add_argument("--only", default="", help="names, comma-separated; the others keep their rows")
    parser.add_argument("--image-size", type=int, default=224)
    options = parser.parse_args(argv)
    wanted = [name for name in KERAS if not options.only or name in options.only.split(",")]
    rows = read_rows(PAGE.read_text(encoding="utf-8"))
    failed = []
    for name in wanted:
        try:
            rows[name] = row(KERAS[name], _way(KERAS[name], options.image_size))
            PAGE.write_text(with_rows(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
        except StageFailed as exc:
            failed.append(name)
            print(f"{name}: {exc.stage}: {exc}", file=sys.stderr)
        keras.backend.clear_session()
        gc.collect()
    print(json.dumps({"went the whole way": len(wanted) - len(failed), "failed": failed}))
    return 1 if failed else 0


def _way(network: Published, image_size: int) -> Found:
    asked = Asked(
        f"keras:{network.name}",
        image_size=image_size,
        variants=_VARIANTS,
        trains=network.millions < MOST_MILLIONS,
    )
    print(network.name, flush=True)
    return stages.take(asked, lambda stage, seconds, told: print(f"  {stage:<20} {seconds:6.1f} s  {told}", flush=True))


# --- the table ---

_HEADER = (
    "| network | parameters, millions | input | least px | first step, CPU s | export, CPU s | float32 MB / ms | "
    "dynamic MB / ms | int8 MB / ms |\n|---|---|---|---|---|---|---|---|---|\n"
)


def row(network: Published, found: Found) -> str:
    """The line of the table. `first step` is building the network and its first step of training."""
    steps = found.seconds.get("build", 0.0) + found.seconds.get("learn", 0.0)
    cells: list[Any] = [
        network.name,
        f"{found.millions:.1f}",
        network.scaling,
        network.least_px,
        f"{steps:.0f}" if "learn" in found.seconds else "",
        f"{found.export_seconds:.0f}",
    ]
    for variant in _VARIANTS:
        measured = variant in found.milliseconds
        cells.append(f"{found.megabytes[variant]:.1f} / {found.milliseconds[variant]:.1f}" if measured else "")
    return f"| {' | '.join(map(str, cells))} |"


def read_rows(page: str) -> dict[str, str]:
    """The rows of the table in the page, by network."""
    table = page.partition(_BEGIN)[2].partition(_END)[0].splitlines()[2:]
    return {line.split("|")[1].strip(): line for line in table if line.startswith("|")}


def with_rows(page: str, rows: Mapping[str, str]) -> str:
    """The page with these rows, in the order of `dualdeploy.contracts.architectures`."""
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    lines = "".join(f"{rows[name]}\n" for name in KERAS if name in rows)
    return f"{before}{_BEGIN}{_HEADER}{lines}{_END}{after}"


if __name__ == "__main__":
    sys.exit(main())
