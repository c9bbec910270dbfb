"""Figures from a confusion matrix: all that is known of a model that only its maker has tested."""

from __future__ import annotations

from collections.abc import Sequence

from dualdeploy.contracts.training import (
    MOST_CLASSES_IN_A_MATRIX,
    MOST_CONFUSED,
    ClassMetrics,
    Confused,
    Metrics,
)


def metrics(labels: Sequence[str], rows: Sequence[Sequence[int]], *, loss: float) -> Metrics:
    """`rows[i][j]` counts pictures of label i that were called j, each picture once. Raises ValueError."""
    size = len(labels)
    if len(rows) != size or any(len(row) != size for row in rows):
        raise ValueError(f"a confusion matrix of {size} labels has {size} rows of as many columns")
    total, right = sum(map(sum, rows)), sum(rows[place][place] for place in range(size))
    if not total:
        raise ValueError("no picture was tested")
    called = [sum(column) for column in zip(*rows, strict=True)]
    return Metrics(
        accuracy=right / total,
        loss=loss,
        examples=total,
        per_class={label: ClassMetrics.of(rows[i][i], called[i], sum(rows[i])) for i, label in enumerate(labels)},
        confusion=tuple(map(tuple, rows)) if size <= MOST_CLASSES_IN_A_MATRIX else (),
        confused=_confused(labels, rows),
    )


def _confused(labels: Sequence[str], rows: Sequence[Sequence[int]]) -> tuple[Confused, ...]:
    pairs = [(-count, i, j) for i, row in enumerate(rows) for j, count in enumerate(row) if count and i != j]
    return tuple(
        Confused(label=labels[i], taken_for=labels[j], examples=-count) for count, i, j in sorted(pairs)[:MOST_CONFUSED]
    )
