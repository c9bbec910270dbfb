"""Pictures as the models see them, without TensorFlow: decoding to RGB and the one definition of resizing.

The SavedModels decode and resize inside their graph; whoever feeds a model with pixels (the on-device gate,
the phone, a benchmark) does it outside. Two definitions cost more agreement than quantisation does, so there
is one: `tf.io.decode_jpeg(dct_method="INTEGER_ACCURATE")` and `tf.image.resize(bilinear, antialias=False)`,
which uses half-pixel centers. This module is that definition in Pillow and numpy.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dualdeploy.images import image_file
from dualdeploy.images.image_file import MAX_PIXELS, ImageHeader, UnreadableImage

#: What the serving graphs decode as well. Everything else Pillow could read would only agree by chance.
FORMATS = ("JPEG", "PNG")

__all__ = ["MAX_PIXELS", "ImageHeader", "UnreadableImage", "decode_rgb", "resize_bilinear", "verify"]


def decode_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode a JPEG or PNG to RGB, as the serving graphs do (no EXIF rotation, alpha dropped).

    Returns uint8 [height, width, 3]. Raises UnreadableImage when the bytes are not a whole JPEG or PNG as
    `contracts.image_file` defines it, or when the picture has more than `max_pixels` pixels.
    """
    header, essence = image_file.essence(data, max_pixels=max_pixels)
    with _opened(header, essence) as image:
        return _to_rgb(image)


def verify(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Judge a file as `decode_rgb` does, to its last coded bit, in half the time and without its pixels."""
    header, essence = image_file.essence(data, max_pixels=max_pixels)
    with _opened(header, essence) as image:
        # Of a JPEG, every coded bit is still read, and pixels are made at an eighth of the size.
        image.draft("RGB", (max(1, header.width // 8), max(1, header.height // 8)))
        image.load()
    return header


@contextlib.contextmanager
def _opened(header: ImageHeader, essence: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(essence), formats=FORMATS) as image:
            yield image
    except Exception as exc:  # a decoder fed damaged bytes may raise anything, and all of it means this
        problem = f"the {header.format} of {len(essence)} bytes cannot be decoded: {exc}"
        raise UnreadableImage("image_decode", problem, "re-encode the image, or leave the record out") from exc


def resize_bilinear(image: npt.NDArray[Any], size: int) -> npt.NDArray[np.float32]:
    """Resize to size x size exactly as `tf.image.resize(image, [size, size])` does; the aspect is not kept.

    `image` is [height, width, channels] of any number type; returns float32 [size, size, channels] in the
    same range (0..255 for a decoded picture). Raises ValueError for another shape or a size below 1.
    Source: TensorFlow, kernels/image/resize_bilinear_op.cc with half-pixel centers; no antialiasing, so a
    picture that is made smaller is sampled, not averaged (Pillow's BILINEAR averages: up to 54/255 apart).
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"an image is [height, width, channels], not {image.shape}")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    top, bottom, down = _neighbours(image.shape[0], size)
    left, right, across = _neighbours(image.shape[1], size)
    across = across[None, :, None]

    def row(index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        # Only the pixels that are sampled are ever converted to float.
        from_left = image[index[:, None], left].astype(np.float32)
        return from_left + (image[index[:, None], right].astype(np.float32) - from_left) * across

    upper = row(top)
    return upper + (row(bottom) - upper) * down[:, None, None]


def _neighbours(length: int, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each output position: the input index before it, the one after it, and the way between."""
    # float32 throughout, as in the kernel: with float64 a position on a pixel may round differently.
    scale = np.float32(length) / np.float32(size)
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    before = np.floor(position)
    lower = np.maximum(before.astype(np.int64), 0)
    upper = np.minimum(np.ceil(position).astype(np.int64), length - 1)
    return lower, upper, (position - before).astype(np.float32)


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 when it converts to RGB; libpng, in the graph, keeps the high byte.
        grey = (np.asarray(image, dtype=np.int64) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "CMYK":
        return _cmyk_to_rgb(np.asarray(image, dtype=np.int32), adobe="adobe" in image.info)
    return np.array(image.convert("RGB"))


def _cmyk_to_rgb(image: npt.NDArray[np.int32], *, adobe: bool) -> npt.NDArray[np.uint8]:
    """TensorFlow's integer conversion; Pillow has inverted the stored values, assuming Adobe's convention."""
    ink = 255 - image
    if not adobe:
        ink = 255 - ink
    return (ink[:, :, :3] * ink[:, :, 3:] // 255).astype(np.uint8)
