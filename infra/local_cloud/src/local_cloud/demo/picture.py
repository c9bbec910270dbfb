"""`predictions.png`: the pictures that both models were asked about, with both answers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from local_cloud.demo.answers import Answer
from local_cloud.demo.source import Picture

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


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow carries a font of its own, so the picture looks the same on every machine.
    return ImageFont.load_default(size)
