"""One picture, read and judged: its bytes as a record will hold them."""

from __future__ import annotations

import dataclasses
import io

import google_crc32c
import numpy as np
from PIL import Image, UnidentifiedImageError

from dualdeploy.images.image_file import not_an_image
from dualdeploy.images.pixels import FORMATS, UnreadableImage, verify
from dualdeploy.images.tfrecord import MAX_RECORD_BYTES
from shard_writer.sources import Picture

#: Room in a record for everything but the picture.
_AROUND = 64 << 10


@dataclasses.dataclass(frozen=True)
class Judged:
    """`problem` says why a picture cannot be used; else its size in bytes and the CRC32C of them."""

    size: int = 0
    checksum: int = 0
    converted: bool = False
    problem: str = ""


def judge(picture: Picture) -> Judged:
    """Read the picture as training, serving and phones will."""
    try:
        data, converted = encoded(picture)
        if len(data) > MAX_RECORD_BYTES - _AROUND:
            return Judged(problem=f"{len(data)} bytes are more than a record may have: scale it down")
        verify(data)
    except UnreadableImage as exc:
        return Judged(problem=str(exc))
    except Exception as exc:  # noqa: BLE001  # a decoder fed damaged bytes may raise anything, and all of it means this
        return Judged(problem=f"the file cannot be read as a picture: {exc}")
    return Judged(len(data), int(google_crc32c.value(data)), converted)


def encoded(picture: Picture) -> tuple[bytes, bool]:
    """The JPEG or PNG of a picture, and whether it was made: other formats become PNGs, of which no pixel differs.

    Raises UnreadableImage for another file than a picture, and what Pillow raises for a damaged one.
    """
    data = picture.path.read_bytes()
    if data[:2] == b"\xff\xd8" or data[:4] == b"\x89PNG":
        return data, False
    try:
        opened = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise not_an_image(data) from None
    with opened as image:
        if image.format in FORMATS:
            return data, False
        image.seek(0)
        out = io.BytesIO()
        _rgb(image).save(out, "PNG")
    return out.getvalue(), True


def _rgb(image: Image.Image) -> Image.Image:
    """As a PNG of the same values is decoded. Pillow alone turns what has more than 8 bits white, or black."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        problem = f"the {image.format} has values of 32 bits, which have no agreed white"
        raise UnreadableImage("image_unsupported", problem, "scale them to 8 bits first")
    return image.convert("RGBA" if "A" in image.getbands() else "RGB").convert("RGB")
