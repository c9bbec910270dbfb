"""The on-device gate's table: every variant with its figures, for programs (JSON), people (Markdown) and eyes (PNG)."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from mobile_publisher.candidates import Candidate

_WIDTH, _HEIGHT, _MARGIN = 640, 420, 60
_COLUMNS = (
    "variant",
    "size MB",
    "accuracy",
    "loss against float",
    "worst class loss",
    "accuracy of the live file",
    "agrees with source",
    "agrees with cloud",
    "ms, 1 thread",
    "ms, 2 threads",
    "peak memory MB",
    "verdict",
)
_GREEN, _RED, _GREY = (30, 130, 60), (190, 50, 40), (120, 120, 120)


def rows(made: Sequence[Candidate], chosen: Candidate) -> list[dict[str, Any]]:
    """One row for each variant; shares from 0 to 1, sizes in bytes, times in milliseconds."""
    return [
        {
            "variant": candidate.variant,
            "chosen": candidate is chosen,
            "passed": bool(candidate.verdict and candidate.verdict.passed),
            "reason": str(candidate.refused) if candidate.refused else _verdict(candidate),
            **(candidate.figures.model_dump() if candidate.figures else {}),
            "per_class": dict(candidate.evaluation.per_class) if candidate.evaluation else {},
        }
        for candidate in made
    ]


def to_json(run_id: str, table: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps({"v": 1, "run_id": run_id, "variants": table}, indent=1, ensure_ascii=False).encode()


def to_markdown(run_id: str, table: Sequence[dict[str, Any]]) -> str:
    """A table with a row for each variant, and below it why."""
    lines = [
        f"# On-device gate of {run_id}",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|---" * len(_COLUMNS) + "|",
    ]
    lines += [_line(row) for row in table]
    lines += ["", *(f"- **{row['variant']}**: {row['reason']}" for row in table), ""]
    return "\n".join(lines)


def to_png(table: Sequence[dict[str, Any]]) -> bytes:
    """Size against accuracy, one point for each variant that could be measured; green passed the gate."""
    measured = [row for row in table if row.get("size_bytes")]
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    draw.line([(_MARGIN, _MARGIN), (_MARGIN, bottom), (right, bottom)], fill=_GREY, width=2)
    draw.text((_WIDTH // 2 - 30, _HEIGHT - 22), "size in MB", fill=_GREY)
    draw.text((12, 20), "accuracy on the held-out pictures", fill=_GREY)
    largest = max((row["size_bytes"] for row in measured), default=1) * 1.1
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.text((_MARGIN - 38, bottom - share * (bottom - _MARGIN) - 6), f"{share:.2f}", fill=_GREY)
        draw.text((_MARGIN + share * (right - _MARGIN) - 10, bottom + 8), f"{share * largest / 1e6:.2f}", fill=_GREY)
    for number, row in enumerate(sorted(measured, key=lambda each: int(each["size_bytes"]))):
        x = _MARGIN + row["size_bytes"] / largest * (right - _MARGIN)
        y = bottom - row["accuracy"] * (bottom - _MARGIN)
        colour = _GREEN if row["passed"] else _RED
        draw.ellipse([x - 6, y - 6, x + 6, y + 6], fill=colour, outline="black" if row["chosen"] else colour, width=2)
        # Neighbours in size are often alike in accuracy: their names go above and below in turn.
        name = f"{row['variant']} (chosen)" if row["chosen"] else row["variant"]
        draw.text((x - 6, y + 10 if number % 2 else y - 22), name, fill=colour)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _verdict(candidate: Candidate) -> str:
    return candidate.verdict.describe() if candidate.verdict else "not measured"


def _line(row: dict[str, Any]) -> str:
    if "accuracy" not in row:
        return f"| {row['variant']} |" + " |" * (len(_COLUMNS) - 2) + " refused |"
    loss = None if row["float_accuracy"] is None else row["float_accuracy"] - row["accuracy"]
    cells = [
        row["variant"],
        f"{row['size_bytes'] / 1e6:.2f}",
        _figure(row["accuracy"]),
        _figure(loss),
        _figure(row["worst_class_loss"]),
        _figure(row["live_accuracy"]),
        _figure(row["agreement_with_source"]),
        _figure(row["cloud_agreement"]),
        _figure(row["latency_ms"], 2),
        _figure(row["latency_two_threads_ms"], 2),
        _figure(row["peak_memory_mb"], 1),
        ("chosen" if row["chosen"] else "passed") if row["passed"] else "failed" + ", chosen" * row["chosen"],
    ]
    return "| " + " | ".join(cells) + " |"


def _figure(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
