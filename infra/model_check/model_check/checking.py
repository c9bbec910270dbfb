"""What `dualdeploy check-module` answers: a verdict on a file, or on a network of Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from dualdeploy.contracts import architectures
from dualdeploy.contracts.dataset_config import MobileGate
from training_launcher import modules


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the network goes the whole way; if not, at which `stage` it ended, and what to write."""

    passed: bool
    stage: str
    says: str


def check(
    network: str,
    say: Callable[[str, float, str], None],
    *,
    classes: int,
    image_size: int,
    target: str,
    max_mb: float | None = None,
) -> Verdict:
    """Take `network` (a file, or `keras:<Name>`) through all stages; `say` hears of each that passed."""
    if fault := _fault(network, image_size):
        return Verdict(False, "read", fault)
    # TensorFlow takes seconds to import: what cannot be read is told first.
    from model_check import stages  # noqa: PLC0415

    path = None if architectures.published(network) else Path(network)
    asked = stages.Asked(
        network,
        module=path,
        max_mb=MobileGate().max_size_mb if max_mb is None else max_mb,
        classes=classes,
        image_size=image_size,
        variants=("float32", "float16", "dynamic") if target == "mobile" else (),
    )
    try:
        stages.take(asked, say)
    except stages.StageFailed as exc:
        return Verdict(False, exc.stage, str(exc))
    named = f"module:gs://CONFIG/modules/{path.name}" if path else network
    return Verdict(True, "done", f"it goes the whole way; write training.{target}.architecture: {named}")


def _fault(network: str, image_size: int) -> str:
    if network.startswith("keras:") or network in architectures.SHORT:
        misused = architectures.misused(network, weights="none", image_size=image_size)
        return architectures.unknown(network) or misused
    try:
        return modules.syntax_fault(Path(network).read_bytes())
    except OSError as exc:
        return f"{network} cannot be read ({exc.strerror}): name a file of Python, or keras:<Name>"
