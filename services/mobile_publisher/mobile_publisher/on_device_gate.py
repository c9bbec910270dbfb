"""The on-device gate: the figures of one .tflite file against the limits of `gates.mobile`."""

from __future__ import annotations

from collections.abc import Mapping

from dualdeploy.contracts.dataset_config import MobileGate
from dualdeploy.ledger import Document
from dualdeploy.release import gate
from dualdeploy.release.gate import Rule, Verdict


class Figures(Document):
    """What was measured of one file; None where there is nothing to compare with. Shares from 0 to 1, times in ms.

    `accuracy` is measured on `examples` held-out pictures.
    `float_accuracy` and `worst_class_loss` (recall) compare with the float model of the run, `live_accuracy` is that of
    the file that is live, all on the held-out pictures of this run; `cloud_agreement` is with the cloud model of the
    run on its golden pictures; `peak_memory_mb` is what the file adds to an empty interpreter, in millions of bytes.
    `not_measured` says of rules why their figure cannot be had.
    """

    accuracy: float
    size_bytes: int
    examples: int = 0
    agreement_with_source: float | None = 1.0
    float_accuracy: float | None = None
    worst_class_loss: float | None = None
    live_accuracy: float | None = None
    cloud_agreement: float | None = None
    latency_ms: float | None = None
    latency_two_threads_ms: float | None = None
    peak_memory_mb: float | None = None
    not_measured: Mapping[str, str] = {}


def judge(figures: Figures, limits: MobileGate) -> Verdict:
    """A rule for every limit that is given and whose figure there is; a first run has no live file to compare with."""
    basic = gate.judge_mobile(
        accuracy=figures.accuracy,
        min_accuracy=limits.min_accuracy,
        size_bytes=figures.size_bytes,
        max_size_mb=limits.max_size_mb,
    )
    compared = [
        _at_most("conversion_loss", _loss(figures.float_accuracy, figures.accuracy), limits.max_conversion_loss),
        _at_most("worst_class_loss", figures.worst_class_loss, limits.max_class_loss),
        _at_most("regression", _loss(figures.live_accuracy, figures.accuracy), limits.max_regression),
        _at_most("latency_ms", figures.latency_ms, limits.max_latency_ms),
        _at_most("peak_memory_mb", figures.peak_memory_mb, limits.max_memory_mb),
    ]
    if figures.cloud_agreement is not None and limits.min_cloud_agreement is not None:
        compared.append(Rule("cloud_agreement", figures.cloud_agreement, limits.min_cloud_agreement, ">="))
    asked = {
        "conversion_loss": limits.max_conversion_loss,
        "worst_class_loss": limits.max_class_loss,
        "cloud_agreement": limits.min_cloud_agreement,
    }
    not_judged = [f"{rule}: {why}" for rule, why in figures.not_measured.items() if asked.get(rule) is not None]
    return Verdict([*basic.rules, *(rule for rule in compared if rule)], not_judged)


def _loss(before: float | None, after: float) -> float | None:
    # Rounded, so that 0.95 - 0.90 does not miss a limit of 0.05 by the last bit.
    return None if before is None else round(before - after, 9)


def _at_most(name: str, figure: float | None, limit: float | None) -> Rule | None:
    return None if figure is None or limit is None else Rule(name, figure, limit, "<=")
