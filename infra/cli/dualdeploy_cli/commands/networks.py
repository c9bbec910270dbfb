"""check-module: a network of one's own, the whole way and before anything is spent."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import click

from dualdeploy_cli import options
from dualdeploy_cli.exits import REFUSED
from dualdeploy_cli.output import console, emit, note_console


@click.command("check-module")
@click.argument("network", metavar="FILE")
@click.option("--classes", type=click.IntRange(min=2), default=5, show_default=True, help="how many labels")
@click.option("--image-size", type=click.IntRange(32, 1024), default=224, show_default=True, help="pixels, both ways")
@click.option("--target", type=click.Choice(["cloud", "mobile"]), default="mobile", show_default=True, help="its users")
@click.option("--max-mb", type=float, help="as gates.mobile.max_size_mb; default: what a configuration has")
@options.as_json
def check_module(
    *, network: str, classes: int, image_size: int, target: str, max_mb: float | None, as_json: bool
) -> None:
    """Take a network of your own the whole way on this machine: one step, export, predictor, TFLite, LiteRT.

    FILE is Python with build(classes, image_size), or keras:<Name>. Its code is run here, as you.
    Exits with 1 at the stage where it cannot go on, with a sentence that says what to write.

    \b
    Examples:
      dualdeploy check-module my_network.py --classes 5 --image-size 224
      dualdeploy check-module keras:EfficientNetV2B0 --target cloud
    """
    # Read by TensorFlow when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from model_check import checking

    told: list[dict[str, Any]] = []
    where = note_console() if as_json else console()

    def say(stage: str, seconds: float, what: str) -> None:
        told.append({"stage": stage, "seconds": round(seconds, 2), "found": what})
        where.print(f"{stage:<20} {seconds:6.1f} s  {what}", highlight=False, markup=False, soft_wrap=True)

    # Standard output is for the JSON: what the file prints is for whoever looks.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        verdict = checking.check(network, say, classes=classes, image_size=image_size, target=target, max_mb=max_mb)
    if as_json:
        emit({"passed": verdict.passed, "stage": verdict.stage, "says": verdict.says, "stages": told})
    else:
        where.print(f"{verdict.stage}: {verdict.says}", highlight=False, markup=False, soft_wrap=True)
    if not verdict.passed:
        raise click.exceptions.Exit(REFUSED)
