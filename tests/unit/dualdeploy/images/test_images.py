"""The one definition of decoding and resizing, against values worked out by hand."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dualdeploy.images.pixels import UnreadableImage, decode_rgb, resize_bilinear


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def png_that_declares(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 16)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_png_is_decoded_to_the_pixels_it_was_made_of() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert decode_rgb(encoded(Image.fromarray(pixels), "PNG")).tolist() == pixels.tolist()


def test_a_grey_jpeg_becomes_three_equal_channels() -> None:
    decoded = decode_rgb(encoded(Image.new("L", (8, 8), 100), "JPEG"))
    assert decoded.shape == (8, 8, 3)
    assert decoded.dtype == np.uint8
    assert set(decoded.ravel().tolist()) == {100}


def test_transparency_is_dropped_not_blended() -> None:
    assert decode_rgb(encoded(Image.new("RGBA", (1, 1), (10, 20, 30, 0)), "PNG")).tolist() == [[[10, 20, 30]]]


def test_sixteen_bit_grey_keeps_the_high_byte() -> None:
    image = Image.fromarray(np.array([[0x1234, 0xFFFF]], dtype=np.uint16))
    assert decode_rgb(encoded(image, "PNG")).tolist() == [[[0x12] * 3, [0xFF] * 3]]


def test_cmyk_without_ink_is_white_and_with_full_black_is_black() -> None:
    assert decode_rgb(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")).min() == 255
    assert decode_rgb(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG")).max() == 0


def test_exif_rotation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    assert decode_rgb(encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif)).shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"not a picture at all", "6e 6f 74 20"),
        (encoded(Image.new("RGB", (64, 64)), "JPEG")[:-200], "cut off"),
        (encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "PNG")[:2000], "cut off"),
        (encoded(Image.new("RGB", (2, 2)), "GIF"), "looks like a GIF"),
    ],
    ids=["empty", "text", "truncated-jpeg", "truncated-png", "gif"],
)
def test_what_is_not_a_whole_jpeg_or_png_is_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(UnreadableImage, match=says):
        decode_rgb(data)


@pytest.mark.parametrize("side", [8_001, 12_000, 20_000], ids=["ours", "pillow-warns", "pillow-refuses"])
def test_a_picture_that_declares_too_many_pixels_is_refused_before_decoding(side: int) -> None:
    with pytest.raises(UnreadableImage, match="pixels"):
        decode_rgb(png_that_declares(side, side))


def test_the_limit_counts_pixels_and_a_picture_at_the_limit_passes() -> None:
    data = encoded(Image.new("RGB", (10, 10)), "PNG")
    assert decode_rgb(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(UnreadableImage, match="10 x 10"):
        decode_rgb(data, max_pixels=99)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_picture_is_decoded_or_refused_but_never_anything_else(tail: bytes, at: int, value: int) -> None:
    data = bytearray(encoded(Image.linear_gradient("L").resize((16, 16)), "JPEG") + tail)
    data[at % len(data)] = value
    with contextlib.suppress(UnreadableImage):
        assert decode_rgb(bytes(data)).dtype == np.uint8


def test_enlarging_two_pixels_to_four_interpolates_between_their_centers() -> None:
    # Half-pixel centers: outputs sit at -0.25, 0.25, 0.75 and 1.25 of the input; what is outside is the edge.
    # The kernel takes the way from floor(-0.25) = -1, but both neighbours are pixel 0 there.
    row = np.array([[[0.0], [100.0]]], dtype=np.float32)
    assert resize_bilinear(np.repeat(row, 2, axis=0), 4)[0, :, 0].tolist() == [0.0, 25.0, 75.0, 100.0]


def test_halving_four_pixels_averages_the_two_in_the_middle_of_each_half() -> None:
    row = np.array([[[10], [20], [40], [80]]], dtype=np.uint8)
    assert resize_bilinear(np.repeat(row, 4, axis=0), 2)[:, :, 0].tolist() == [[15.0, 60.0], [15.0, 60.0]]


def test_making_smaller_samples_and_does_not_average() -> None:
    # Eight to two: outputs sit at 1.5 and 5.5, so pixels 0, 3, 4 and 7 have no influence at all.
    row = np.array([[[255], [0], [0], [255], [255], [0], [0], [255]]], dtype=np.uint8)
    assert resize_bilinear(np.repeat(row, 8, axis=0), 2).max() == 0.0


def test_the_aspect_is_not_kept() -> None:
    assert resize_bilinear(np.zeros((10, 30, 3), dtype=np.uint8), 7).shape == (7, 7, 3)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(0, 255))
def test_a_plain_picture_stays_plain_at_any_size(height: int, width: int, size: int, value: int) -> None:
    resized = resize_bilinear(np.full((height, width, 3), value, dtype=np.uint8), size)
    assert resized.shape == (size, size, 3)
    assert resized.dtype == np.float32
    assert (resized == value).all()


@given(st.integers(1, 30))
def test_the_same_size_gives_the_same_pixels(size: int) -> None:
    image = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    assert (resize_bilinear(image, size) == image).all()


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 3), (4, 4, 3, 1)])
def test_an_array_that_is_not_an_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="height, width, channels"):
        resize_bilinear(np.zeros(shape, dtype=np.uint8), 8)


def test_a_size_below_one_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        resize_bilinear(np.zeros((4, 4, 3), dtype=np.uint8), 0)
