"""`python -m model_check FILE`: a network of your own the whole way, before any money is spent.

Exit codes: 0 it went the whole way · 64 it did not, and the last line says what to write.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Read by TensorFlow when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from dualdeploy import architectures
from dualdeploy.dataset_config import MobileGate
from training_launcher import modules

EXIT_FAULT = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Check the file that the arguments name, stage by stage."""
    parser = argparse.ArgumentParser(prog="python -m model_check", description=__doc__)
    parser.add_argument("network", metavar="FILE", help="a file with build(classes, image_size), or keras:<Name>")
    parser.add_argument("--classes", type=int, default=5, help="how many labels (default 5)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels, both ways (default 224)")
    parser.add_argument("--target", choices=("cloud", "mobile"), default="mobile", help="cloud: nothing for phones")
    parser.add_argument("--max-mb", type=float, default=MobileGate().max_size_mb, help="as gates.mobile.max_size_mb")
    options = parser.parse_args(argv)
    if fault := _fault(options.network, options.image_size):
        return _failed("read", fault)
    # TensorFlow takes seconds to import: what cannot be read is told first.
    from model_check import stages  # noqa: PLC0415
    from model_check.stages import Asked, StageFailed  # noqa: PLC0415

    path = None if architectures.published(options.network) else Path(options.network)
    asked = Asked(
        options.network,
        module=path,
        max_mb=options.max_mb,
        classes=options.classes,
        image_size=options.image_size,
        variants=("float32", "float16", "dynamic") if options.target == "mobile" else (),
    )
    try:
        stages.take(asked, lambda stage, seconds, told: print(f"{stage:<20} {seconds:6.1f} s  {told}", flush=True))
    except StageFailed as exc:
        return _failed(exc.stage, str(exc))
    named = f"module:gs://CONFIG/modules/{path.name}" if path else options.network
    print(f"It goes the whole way: training.<target>.architecture: {named}")
    return 0


def _fault(network: str, image_size: int) -> str:
    if network.startswith("keras:") or network in architectures.SHORT:
        misused = architectures.misused(network, weights="none", image_size=image_size)
        return architectures.unknown(network) or misused
    try:
        return modules.syntax_fault(Path(network).read_bytes())
    except OSError as exc:
        return f"{network} cannot be read ({exc.strerror}): name a file of Python, or keras:<Name>"


def _failed(stage: str, reason: str) -> int:
    print(f"{stage}: {reason}", file=sys.stderr)
    return EXIT_FAULT


if __name__ == "__main__":
    sys.exit(main())
