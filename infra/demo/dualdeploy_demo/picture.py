"""`predictions.png`: the pictures that both models were asked about, with both answers."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dualdeploy.contracts.routing import Routing
from dualdeploy_demo.answers import Answer
from dualdeploy_demo.source import Picture

COLUMNS = 5
SHOWN = 15
PHOTO = 176
MARGIN = 16
CAPTION = 64
HEADER = 92

_INK, _PALE, _PAPER = (32, 36, 40), (110, 118, 126), (255, 255, 255)
_RIGHT, _WRONG = (22, 128, 70), (196, 52, 44)


def draw(
    path: Path, pictures: Sequence[Picture], cloud: Sequence[Answer], mobile: Sequence[Answer], title: str
) -> None:
    """Write a PNG with the first pictures in a grid; an answer is green when right and red when wrong."""
    shown = list(zip(pictures, cloud, mobile, strict=True))[:SHOWN]
    rows = -(-len(shown) // COLUMNS)
    width = COLUMNS * (PHOTO + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, HEADER + rows * (PHOTO + CAPTION + MARGIN)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 16), title, fill=_INK, font=_font(22))
    legend = "what each picture is, then what the cloud model and the phone model call it"
    pen.text((MARGIN, 50), legend, fill=_PALE, font=_font(14))
    for index, (picture, of_cloud, of_mobile) in enumerate(shown):
        left = MARGIN + index % COLUMNS * (PHOTO + MARGIN)
        top = HEADER + index // COLUMNS * (PHOTO + CAPTION + MARGIN)
        with Image.open(io.BytesIO(picture.data)) as photo:
            sheet.paste(photo.convert("RGB").resize((PHOTO, PHOTO), Image.Resampling.BICUBIC), (left, top))
        pen.text((left, top + PHOTO + 4), picture.label, fill=_INK, font=_font(14))
        for line, (name, answer) in enumerate((("cloud", of_cloud), ("phone", of_mobile))):
            colour = _RIGHT if answer.label == picture.label else _WRONG
            text = f"{name}: {answer.label} {answer.confidence:.0%}"
            pen.text((left, top + PHOTO + 23 + 18 * line), text, fill=colour, font=_font(13))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def draw_curve(path: Path, routing: Routing) -> None:
    """Write a PNG: how right phone and cloud are together, by the share of pictures that the cloud is asked about."""
    wide, high, left, top = 720, 440, 80, 96
    sheet = Image.new("RGB", (wide, high), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 14), f"{routing.name}: phone and cloud together", fill=_INK, font=_font(22))
    pen.multiline_text((MARGIN, 46), textwrap.fill(routing.note, 105), fill=_PALE, font=_font(13))
    if not routing.curve:
        # Without answers to compare there are no figures either.
        pen.text((left, top + 90), "there is no curve", fill=_PALE, font=_font(14))
        sheet.save(path)
        return
    alone = (routing.phone_accuracy or 0.0, routing.cloud_accuracy or 0.0)
    seen = [accuracy for _, _, accuracy in routing.curve] + list(alone)
    low, span = min(seen, default=0.0), max(max(seen, default=1.0) - min(seen, default=0.0), 0.01)

    def at(share: float, accuracy: float) -> tuple[float, float]:
        return left + share * (wide - left - 40), high - 60 - (accuracy - low) / span * (high - top - 90)

    for name, accuracy in zip(("phone alone", "cloud alone"), alone, strict=True):
        pen.line([at(0, accuracy), at(1, accuracy)], fill=_PALE)
        pen.text((at(0.84, 0)[0], at(0, accuracy)[1] - 18), f"{name} {accuracy:.1%}", fill=_PALE, font=_font(13))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        pen.text((at(share, low)[0] - 12, high - 46), f"{share:.0%}", fill=_PALE, font=_font(13))
    pen.text((left, high - 26), "of the pictures the cloud is asked about", fill=_PALE, font=_font(13))
    pen.line([at(share, accuracy) for _, share, accuracy in routing.curve], fill=_RIGHT, width=3)
    if routing.share is not None and routing.accuracy is not None:
        x, y = at(routing.share, routing.accuracy)
        pen.ellipse([x - 7, y - 7, x + 7, y + 7], fill=_RIGHT, outline=_INK, width=2)
        said = f"asks about {routing.share:.1%}: {routing.accuracy:.1%} right"
        pen.text((min(x + 12, wide - 230), y + 12), said, fill=_INK, font=_font(14))
    sheet.save(path)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow carries a font of its own, so the picture looks the same on every machine.
    return ImageFont.load_default(size)
