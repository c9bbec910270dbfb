"""Two pictures for people: how training went, and which classes are taken for which. Drawn with Pillow alone."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dualdeploy.contracts.training import Metrics

Point = tuple[float, float]

PAPER, INK, FAINT = (255, 255, 255), (32, 33, 36), (218, 220, 224)
TRAIN, HELD_OUT, KEPT = (26, 115, 232), (217, 83, 25), (120, 124, 130)

#: Cells of the confusion matrix go from paper to this blue.
FULL = (21, 87, 176)

#: A matrix shows all classes up to the first, else so many of them as the second says: its memory is bounded.
MOST_CLASSES_IN_FULL, MOST_CLASSES_SHOWN = 60, 40

#: Characters of a class's name that are shown.
LONGEST_LABEL = 40

_TEXT = ImageFont.load_default(size=15)
_TITLE = ImageFont.load_default(size=19)


def curves(history: Sequence[Mapping[str, Any]], *, best_epoch: int, title: str) -> bytes:
    """A PNG of loss and accuracy by epoch, on training and on held-out pictures; the epoch that was kept is marked."""
    image = Image.new("RGB", (1060, 480), PAPER)
    canvas = ImageDraw.Draw(image)
    canvas.text((30, 16), title, INK, _TITLE)
    highest = max((value for entry in history for value in (entry["loss"], entry["held_out_loss"])), default=1.0)
    for left, name, top in ((30, "loss", _round_up(highest)), (550, "accuracy", 1.0)):
        panel = _Panel(canvas, (left + 50, 80, left + 470, 420), epochs=max(len(history), 2), top=top)
        panel.frame(name)
        panel.mark(best_epoch)
        for key, colour in ((name, TRAIN), (f"held_out_{name}", HELD_OUT)):
            panel.line([(entry["epoch"], entry[key]) for entry in history], colour)
    for left, colour, text in ((700, TRAIN, "training"), (810, HELD_OUT, "held out"), (920, KEPT, "epoch kept")):
        canvas.line((left, 27, left + 20, 27), colour, 4)
        canvas.text((left + 26, 18), text, INK, _TEXT)
    return _png(image)


def confusion(metrics: Metrics, labels: Sequence[str], *, title: str) -> bytes:
    """A PNG of the confusion matrix: a row for each true class, a column for each answer, shaded by share.

    Of many classes it shows those that are confused most: a matrix of all would take gigabytes.
    """
    shown = labels if len(labels) <= MOST_CLASSES_IN_FULL else _most_confused(metrics, labels)
    counts = _counts(metrics, labels, shown)
    cell = max(28, min(88, 900 // len(shown)))
    names = [_shortened(label) for label in shown]
    margin = 40 + int(max(_TEXT.getlength(name) for name in names))
    side = cell * len(shown)
    image = Image.new("RGB", (max(margin + side + 30, 460), margin + side + 80), PAPER)
    canvas = ImageDraw.Draw(image)
    canvas.text((30, 16), title, INK, _TITLE)
    part = "" if len(shown) == len(labels) else f"; the {len(shown)} of {len(labels)} classes that are confused most"
    canvas.text(
        (30, 44), f"rows: what it is, columns: the answer ({metrics.examples} held-out pictures{part})", INK, _TEXT
    )
    top = margin + 50
    for row, (label, name) in enumerate(zip(shown, names, strict=True)):
        y = top + row * cell
        canvas.text((margin - 10, y + cell / 2), name, INK, _TEXT, anchor="rm")
        _sideways(image, name, (margin + row * cell + cell // 2, top - 8))
        examples = metrics.per_class[label].examples
        for column, other in enumerate(shown):
            count = counts[label, other]
            share = count / max(examples, 1)
            x = margin + column * cell
            colour = _mix(PAPER, FULL, share)
            canvas.rectangle((x, y, x + cell, y + cell), colour, FAINT)
            canvas.text((x + cell / 2, y + cell / 2), str(count), PAPER if share > 0.5 else INK, _TEXT, anchor="mm")
    return _png(image)


def _most_confused(metrics: Metrics, labels: Sequence[str]) -> list[str]:
    """The classes of the most frequent confusions, then the weakest others, in the order of the labels."""
    chosen = dict.fromkeys(label for pair in metrics.confused for label in (pair.label, pair.taken_for))
    weakest = sorted(labels, key=lambda label: metrics.per_class[label].f1)
    kept = set([*chosen, *(label for label in weakest if label not in chosen)][:MOST_CLASSES_SHOWN])
    return [label for label in labels if label in kept]


def _counts(metrics: Metrics, labels: Sequence[str], shown: Sequence[str]) -> Counter[tuple[str, str]]:
    """How many pictures of one class got another's answer, by both names."""
    if metrics.confusion:
        index = {label: number for number, label in enumerate(labels)}
        return Counter({(a, b): metrics.confusion[index[a]][index[b]] for a in shown for b in shown})
    right = {
        (label, label): round(metrics.per_class[label].recall * metrics.per_class[label].examples) for label in shown
    }
    return Counter(right | {(pair.label, pair.taken_for): pair.examples for pair in metrics.confused})


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


class _Panel:
    """One pair of axes in the box (left, top, right, bottom): epochs 1 to `epochs`, values 0 to `top`."""

    def __init__(self, canvas: ImageDraw.ImageDraw, box: tuple[int, int, int, int], *, epochs: int, top: float) -> None:
        self._canvas = canvas
        self._box = box
        self._epochs = epochs
        self._top = top

    def frame(self, name: str) -> None:
        left, top, right, bottom = self._box
        self._canvas.text(((left + right) / 2, top - 14), name, INK, _TEXT, anchor="mm")
        for part in range(5):
            value = self._top * part / 4
            _, y = self._place(1, value)
            self._canvas.line((left, y, right, y), FAINT)
            self._canvas.text((left - 8, y), f"{value:.2f}", INK, _TEXT, anchor="rm")
        for epoch in range(1, self._epochs + 1, math.ceil(self._epochs / 10)):
            x, _ = self._place(epoch, 0)
            self._canvas.text((x, bottom + 14), str(epoch), INK, _TEXT, anchor="mm")
        self._canvas.text(((left + right) / 2, bottom + 36), "epoch", INK, _TEXT, anchor="mm")

    def mark(self, epoch: int) -> None:
        if epoch:
            x, _ = self._place(epoch, 0)
            self._canvas.line((x, self._box[1], x, self._box[3]), KEPT, 2)

    def line(self, points: Sequence[Point], colour: tuple[int, int, int]) -> None:
        places = [self._place(*point) for point in points]
        if len(places) > 1:
            self._canvas.line(places, colour, 3, joint="curve")
        for x, y in places:
            self._canvas.ellipse((x - 3, y - 3, x + 3, y + 3), colour)

    def _place(self, epoch: float, value: float) -> Point:
        left, top, right, bottom = self._box
        across = (epoch - 1) / (self._epochs - 1)
        up = min(value / self._top, 1.0)
        return left + across * (right - left), bottom - up * (bottom - top)


def _sideways(image: Image.Image, text: str, foot: tuple[int, int]) -> None:
    """Write `text` upwards from `foot`: names of classes are longer than cells are wide."""
    width, height = math.ceil(_TEXT.getlength(text)), 20
    strip = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(strip).text((0, height / 2), text, INK, _TEXT, anchor="lm")
    image.paste(strip.rotate(90, expand=True), (foot[0] - height // 2, foot[1] - width))


def _mix(light: tuple[int, int, int], dark: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(light, dark, strict=True))
    return red, green, blue


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20 … above `value`, so that four grid lines have round labels."""
    if not 0 < value < math.inf:
        return 1.0
    scale = 10 ** math.floor(math.log10(value))
    return float(next(scale * step for step in (1, 2, 4, 5, 10) if value <= scale * step))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
