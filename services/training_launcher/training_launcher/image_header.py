"""Is this a JPEG or PNG that the trainer can decode? From the header (always), by decoding (for a sample)."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

from dualdeploy.images import FORMATS
from training_launcher.example_reader import UnusableRecord

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}

#: Baseline, extended and progressive: the Huffman-coded kinds that libjpeg, and so TensorFlow, decodes.
_DECODABLE_FRAMES = {0xC0, 0xC1, 0xC2}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # of these, DHT, JPG and DAC are no frames
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length: TEM and the restarts

_OTHERS = {
    b"GIF8": "a GIF", b"BM": "a BMP", b"RIFF": "a WebP or other RIFF file", b"II*\0": "a TIFF", b"MM\0*": "a TIFF",
    b"\0\0\0": "a HEIC, AVIF or MP4 file", b"%PDF": "a PDF", b"PK": "a ZIP", b"<": "XML, SVG or HTML text",
    b"iVBOR": "base64 text (of a PNG)", b"/9j/": "base64 text (of a JPEG)", b"gs://": "a path", b"http": "a URL",
}  # fmt: skip

#: Progressive JPEGs and PNGs are decoded as a whole; above this they would cost more memory than the check is worth.
MOST_PIXELS_IN_MEMORY = 3_000_000

_REMEDY = "re-encode the image as JPEG or PNG (baseline RGB is safest), or leave the record out"
_REMEMBERED = 4096


class ImageHeader(NamedTuple):
    """What the header says; `whole` tells whether the file's end marker is in its place."""

    format: str
    width: int
    height: int
    progressive: bool
    whole: bool


class ImageHeaderReader:
    """Reads headers; images of one encoder begin alike, so all but the first cost two comparisons."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._start, self._end, self._stop = b"\0", b"", 0
        self._known: dict[bytes, ImageHeader] = {}

    def read(self, image: bytes) -> ImageHeader:
        """Return the header of a JPEG or PNG; raises `UnusableRecord`."""
        if image.startswith(self._start) and image.endswith(self._end):
            known = self._known.get(image[len(self._start) : self._stop])
            if known is not None:
                return known
        if image.startswith(_JPEG_START):
            return self._remember(image, *_read_jpeg(image), end=_JPEG_END, size=5)
        if image.startswith(_PNG_START):
            return self._remember(image, *_read_png(image), end=_PNG_END, size=17)
        raise _not_an_image(image)

    def _remember(self, image: bytes, header: ImageHeader, start: int, *, end: bytes, size: int) -> ImageHeader:
        if header.width * header.height > self._max_pixels:
            problem = f"the image is {header.width} x {header.height} pixels, more than {self._max_pixels} in all"
            raise UnusableRecord(
                "image_too_large", problem, "scale the image down; the models see a few hundred pixels"
            )
        if header.whole:
            if image[:start] != self._start or len(self._known) >= _REMEMBERED:
                self._start, self._end, self._stop = image[:start], end, start + size
                self._known = {}
            self._known[image[start : start + size]] = header
        return header


def _read_jpeg(image: bytes) -> tuple[ImageHeader, int]:
    """Walk the segments to the frame header (ITU T.81, B.2.2); also return where its height begins."""
    position, end = 2, len(image)
    while position + 4 <= end:
        if image[position] != 0xFF:
            break
        marker = image[position + 1]
        if marker == 0xFF or marker in _ALONE:  # fill byte, or a marker without content
            position += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            return _read_frame(image, position)
        if marker in {0xD9, 0xDA}:  # the end, or pixels, before any frame header
            break
        position += 2 + max(2, int.from_bytes(image[position + 2 : position + 4]))
    raise UnusableRecord("image_header", "the JPEG has no readable frame header (damaged or cut off)", _REMEDY)


def _read_frame(image: bytes, position: int) -> tuple[ImageHeader, int]:
    if position + 10 > len(image):
        raise UnusableRecord("image_header", "the JPEG ends inside its frame header", _REMEDY)
    marker = image[position + 1]
    precision, height, width, components = struct.unpack_from(">BHHB", image, position + 4)
    if marker not in _DECODABLE_FRAMES or precision != 8 or components not in {1, 3, 4}:
        kind = f"frame 0x{marker:02x}, {precision} bits, {components} components"
        problem = f"the JPEG is of a kind that TensorFlow cannot decode ({kind})"
        raise UnusableRecord("image_unsupported", problem, _REMEDY)
    if not width or not height:
        raise UnusableRecord("image_header", f"the JPEG says that it is {width} x {height} pixels", _REMEDY)
    return ImageHeader("JPEG", width, height, marker == 0xC2, image.endswith(_JPEG_END)), position + 5


def _read_png(image: bytes) -> tuple[ImageHeader, int]:
    """Check the IHDR chunk, which must come first and has a checksum (PNG specification, 11.2.1)."""
    if len(image) < 33 or image[8:16] != b"\0\0\0\rIHDR":
        raise UnusableRecord("image_header", "the PNG has no header chunk (damaged or cut off)", _REMEDY)
    width, height, depth, color = struct.unpack_from(">IIBB", image, 16)
    if zlib.crc32(image[12:29]) != int.from_bytes(image[29:33]):
        raise UnusableRecord("image_header", "the PNG's header does not match its checksum", _REMEDY)
    if not width or not height or depth not in _PNG_DEPTHS.get(color, ()):
        problem = f"the PNG says {width} x {height} pixels, {depth} bits, colour type {color}, which does not exist"
        raise UnusableRecord("image_header", problem, _REMEDY)
    return ImageHeader("PNG", width, height, False, image.endswith(_PNG_END)), 16


def _not_an_image(image: bytes) -> UnusableRecord:
    if not image:
        return UnusableRecord("image_empty", "the image is empty (0 bytes)", "leave the record out or write its image")
    kind = next((kind for start, kind in _OTHERS.items() if image.startswith(start)), None)
    begins = f"its {len(image)} bytes begin {image[:8].hex(' ')}"
    problem = f"the image is neither JPEG nor PNG: {begins}" + (f" (looks like {kind})" if kind else "")
    remedy = "store the encoded file's bytes (not pixels, not a path, not base64) as JPEG or PNG"
    return UnusableRecord("image_format", problem, remedy)


def can_decode_in_little_memory(header: ImageHeader) -> bool:
    """Tell whether `decode` needs only a few MiB: few pixels, or a JPEG that is decoded row by row."""
    small = header.width * header.height <= MOST_PIXELS_IN_MEMORY
    return small or (header.format == "JPEG" and not header.progressive)


def decode(image: bytes, header: ImageHeader) -> None:
    """Decode the whole image and forget it; raises `UnusableRecord` when the decoder does not reach the end."""
    from PIL import Image  # noqa: PLC0415 (100 ms that a rejected header need not pay)

    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
            size = picture.size
            if size == (header.width, header.height):
                # Of a JPEG, every coded bit is still read, and pixels are made at an eighth of the size: half the time.
                picture.draft("RGB", (max(1, header.width // 8), max(1, header.height // 8)))
                picture.load()
    except Exception as exc:  # a decoder fed damaged bytes may raise anything, and all of it means this
        raise UnusableRecord("image_decode", f"the {header.format} cannot be decoded: {exc}", _REMEDY) from exc
    if size != (header.width, header.height):
        problem = f"the header says {header.width} x {header.height} pixels, the decoder {size[0]} x {size[1]}"
        raise UnusableRecord("image_decode", problem, _REMEDY)
