"""Whether a trained model may go out: pure functions with a verdict that lists every rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from dualdeploy.training import Metrics


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


def judge_cloud(*, accuracy: float, min_accuracy: float) -> Verdict:
    """`accuracy` is the trainer's, on the held-out examples."""
    return Verdict([Rule("accuracy", accuracy, min_accuracy, ">=")])


def judge_against_live(
    metrics: Metrics, live: Metrics, *, max_regression: float | None, max_class_regression: float | None
) -> list[Rule]:
    """Both measured on the same pictures; a class's figure is its recall, and the class that lost most counts."""
    rules = []
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
    return rules


def judge_mobile(*, accuracy: float, min_accuracy: float, size_bytes: int, max_size_mb: float) -> Verdict:
    """`accuracy` is that of the file itself in the LiteRT interpreter; a megabyte is a million bytes."""
    return Verdict(
        [
            Rule("accuracy", accuracy, min_accuracy, ">="),
            Rule("size_mb", size_bytes / 1e6, max_size_mb, "<="),
        ]
    )
