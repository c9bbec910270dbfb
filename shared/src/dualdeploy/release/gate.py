"""Whether a trained model may go out: pure functions with a verdict that lists every rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from dualdeploy.contracts.training import Metrics


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule with the figure that was measured and the limit it was held against."""

    name: str
    figure: float
    limit: float
    comparison: Literal[">=", "<="]

    @property
    def passed(self) -> bool:
        return self.figure >= self.limit if self.comparison == ">=" else self.figure <= self.limit

    def describe(self) -> str:
        verdict = "passed" if self.passed else "failed"
        return f"{self.name} {self.figure:.4g} {self.comparison} {self.limit:.4g}: {verdict}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`not_judged` says which rules had no figure to be held against, and why: silence would look like approval."""

    rules: Sequence[Rule]
    not_judged: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        return all(rule.passed for rule in self.rules)

    def describe(self) -> str:
        """Failed rules first, so that the reason of a rejection begins with why."""
        ordered = sorted(self.rules, key=lambda rule: rule.passed)
        return "; ".join(rule.describe() for rule in ordered)

    def as_facts(self) -> dict[str, Any]:
        """For the ledger."""
        rules = [{**dataclasses.asdict(rule), "passed": rule.passed} for rule in self.rules]
        facts: dict[str, Any] = {"passed": self.passed, "rules": rules}
        return {**facts, "not_judged": list(self.not_judged)} if self.not_judged else facts


def judge_cloud(
    metrics: Metrics,
    *,
    min_accuracy: float,
    max_calibration_error: float | None = None,
    max_latency: float | None = None,
    measured_by: str = "the trainer",
) -> Verdict:
    """The figures on the held-out examples; a rule without its figure is named, and neither passes nor fails.

    `max_latency` in seconds, for one picture; see `Metrics.latency_seconds`. `measured_by` is who gave the figures.
    """
    rules = [Rule("accuracy", metrics.accuracy, min_accuracy, ">=")]
    not_judged = []
    for name, figure, limit in (
        ("calibration_error", metrics.calibration_error, max_calibration_error),
        ("latency_seconds", metrics.latency_seconds, max_latency),
    ):
        if limit is not None and figure is not None:
            rules.append(Rule(name, figure, limit, "<="))
        elif limit is not None:
            not_judged.append(f"{name}: {measured_by} did not measure it")
    return Verdict(rules, not_judged)


def judge_against_live(
    metrics: Metrics,
    live: Metrics,
    *,
    max_regression: float | None,
    max_class_regression: float | None,
    max_calibration_regression: float | None = None,
    max_latency_ratio: float | None = None,
) -> Verdict:
    """Both measured on the same pictures; a class's figure is its recall, and the class that lost most counts.

    A figure that one of the two lacks, because AutoML or an older trainer did not measure it, is not judged.
    """
    rules, not_judged = [], []
    # Rounded, because 0.91 - 0.90 is a little more than 0.01 in floating point.
    if max_regression is not None:
        rules.append(Rule("regression", round(live.accuracy - metrics.accuracy, 9), max_regression, "<="))
    losses = [
        round(then.recall - metrics.per_class[label].recall, 9)
        for label, then in live.per_class.items()
        if label in metrics.per_class and then.examples
    ]
    if max_class_regression is not None and losses:
        rules.append(Rule("class_regression", max(losses), max_class_regression, "<="))
    if max_calibration_regression is not None:
        if metrics.calibration_error is None or live.calibration_error is None:
            not_judged.append(_lacks("calibration_regression", metrics.calibration_error))
        else:
            gained = round(metrics.calibration_error - live.calibration_error, 9)
            rules.append(Rule("calibration_regression", gained, max_calibration_regression, "<="))
    if max_latency_ratio is not None:
        if metrics.latency_seconds and live.latency_seconds:
            ratio = round(metrics.latency_seconds / live.latency_seconds, 9)
            rules.append(Rule("latency_ratio", ratio, max_latency_ratio, "<="))
        else:
            not_judged.append(_lacks("latency_ratio", metrics.latency_seconds))
    return Verdict(rules, not_judged)


def _lacks(rule: str, own: float | None) -> str:
    return f"{rule}: {'this model' if own is None else 'the model that serves'} was not measured for it"


def judge_mobile(*, accuracy: float, min_accuracy: float, size_bytes: int, max_size_mb: float) -> Verdict:
    """`accuracy` is that of the file itself in the LiteRT interpreter; a megabyte is a million bytes."""
    return Verdict(
        [
            Rule("accuracy", accuracy, min_accuracy, ">="),
            Rule("size_mb", size_bytes / 1e6, max_size_mb, "<="),
        ]
    )
