"""Is this file a JPEG or PNG that every part of the chain reads alike? Judged by its structure, without a decoder.

Validation, trainer, predictor and publisher use two decoders: TensorFlow's (also inside the SavedModels) and Pillow's.
One reads files that the other refuses, so neither is the judge: this module is, and it is at least as strict as both.
What it lets pass, both decode to the same pixels, or both refuse (damage inside the compressed pixels shows only
there). What only surrounds the pixels (profiles, texts, EXIF, their checksums) decides nothing.

Sources: PNG specification (third edition) and libpng's reader; ITU T.81, annex B, and libjpeg-turbo's jdmarker.c.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dualdeploy.images.unusable import UnusableRecord

#: A picture with more pixels is refused before it is decoded: 64 MP is more than any phone sends, and its
#: decoded 192 MB still fit a small service. A few kilobytes of JPEG can declare 4 gigapixels.
MAX_PIXELS = 64_000_000

#: The decoders refuse longer sides: libpng's PNG_USER_WIDTH_MAX, libjpeg's JPEG_MAX_DIMENSION.
_LONGEST_SIDE = {"PNG": 1_000_000, "JPEG": 65_500}

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3
#: Left and top of the first pixel of each pass of an interlaced PNG, and the steps to the next ones.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: More than the pixels in a PNG's stream is harmless and ignored by all, up to this many bytes: it may be a bomb.
_SURPLUS = 1 << 16
#: Megabytes of empty chunks take seconds to walk, and a JPEG of a thousand empty scans minutes to decode. Writers put
#: 8 kB into a chunk, and make ten scans.
_MOST_CHUNKS, _MOST_SCANS = 1 << 16, 200
_BLOCK = 1 << 20
#: How far back a stream of zlib may refer, at most; and how much of one that declares less is inflated at once.
_LARGEST_WINDOW, _BLOCK_OF_A_SMALL_WINDOW = 1 << 15, 32

#: Baseline, extended and progressive: the Huffman-coded kinds that every decoder of phones and browsers reads.
_DECODABLE_FRAMES = {0xC0, 0xC1, 0xC2}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # of these, DHT, JPG and DAC are not frames
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length: TEM and the restarts
_SCAN, _END, _PROGRESSIVE = 0xDA, 0xD9, 0xC2
#: Where coded pixels stop: a marker that is neither a stuffed byte nor a restart.
_AFTER_PIXELS = re.compile(rb"\xff(?=[^\x00\xff\xd0-\xd7])")
_COEFFICIENTS = 64

_OTHERS = {
    b"GIF8": "a GIF", b"BM": "a BMP", b"RIFF": "a WebP or other RIFF file", b"II*\0": "a TIFF", b"MM\0*": "a TIFF",
    b"\0\0\0\x0cjP": "a JPEG 2000 file", b"\xff\x4f\xff\x51": "a JPEG 2000 stream", b"\xff\x0a": "a JPEG XL file",
    b"\0\0\0\x0cJXL": "a JPEG XL file", b"%PDF": "a PDF", b"PK": "a ZIP",
    b"<": "XML, SVG or HTML text", b"iVBOR": "base64 text (of a PNG)", b"/9j/": "base64 text (of a JPEG)",
    b"data:": "a data: URL", b"gs://": "a path", b"http": "a URL", b"\x93NUMPY": "a NumPy array (.npy)",
    b"8BPS": "a Photoshop file", b"\x1f\x8b": "gzip-compressed",
}  # fmt: skip

_REMEDY = "re-encode the image as JPEG or PNG (baseline RGB is safest), or leave the record out"


class UnreadableImage(UnusableRecord):
    """The bytes are not a picture that a model could be asked about; the message says why."""


class ImageHeader(NamedTuple):
    """What the header says."""

    format: str
    width: int
    height: int
    progressive: bool = False

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read_header(image: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Judge what can be judged without following the coded pixels of a JPEG: for every record of a large data set.

    A PNG is judged whole. Raises UnreadableImage.
    """
    if image.startswith(_PNG_START):
        return _png(image, max_pixels).header
    frame = _jpeg_frame(image, max_pixels)
    if not image.endswith(_JPEG_END):
        _follow_jpeg(image, frame)
    return frame.header


def check(image: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Judge the whole structure of the file. Raises UnreadableImage.

    What passes can still be damaged inside its compressed pixels: `pixels.decode_rgb`, or the model itself, tells.
    """
    if image.startswith(_PNG_START):
        return _png(image, max_pixels).header
    frame = _jpeg_frame(image, max_pixels)
    _follow_jpeg(image, frame)
    return frame.header


def essence(image: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[ImageHeader, bytes]:
    """Judge the file as `check` does, and return it without what says nothing about its pixels.

    A decoder that is handed the essence cannot stumble over a profile, a text or EXIF data. The compressed pixels of a
    PNG are looked through as well, to the checksum at their end, which Pillow does not ask for.
    """
    if image.startswith(_PNG_START):
        png = _png(image, max_pixels)
        _check_compressed_pixels(png)
        return png.header, png.essence()
    frame = _jpeg_frame(image, max_pixels)
    _follow_jpeg(image, frame)
    return frame.header, _jpeg_essence(image)


def frame_of_jpeg(image: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Where the frame header of a JPEG begins and ends that `read_header` has passed."""
    frame = _jpeg_frame(image, max_pixels)
    return frame.start, frame.end


def begins_like_an_image(data: bytes) -> bool:
    """Whether the bytes begin as a JPEG or PNG; nothing else of them is looked at."""
    return data.startswith((_JPEG_START, _PNG_START))


# Neither ---------------------------------------------------------------------------------------------------------


def known_format(data: bytes) -> str | None:
    """What else the bytes are, if they begin like something that is often taken for a picture."""
    if data[4:8] == b"ftyp":
        return "a HEIC, AVIF or MP4 file"
    return next((kind for start, kind in _OTHERS.items() if data.startswith(start)), None)


def not_an_image(image: bytes) -> UnreadableImage:
    """What to say of bytes that begin like neither format."""
    if not image:
        return UnreadableImage(
            "image_empty", "the image is empty (0 bytes)", "leave the record out or write the bytes of its JPEG or PNG"
        )
    kind = known_format(image)
    begins = f"its {len(image)} bytes begin {image[:8].hex(' ')}"
    problem = f"the image is neither JPEG nor PNG: {begins}" + (f" (looks like {kind})" if kind else "")
    remedy = "store the encoded file's bytes (not pixels, not a path, not base64) as JPEG or PNG"
    return UnreadableImage("image_format", problem, remedy)


def _refuse_size(header: ImageHeader, max_pixels: int) -> None:
    if not header.width or not header.height:
        problem = f"the {header.format} says that it is {header.width} x {header.height} pixels"
        raise UnreadableImage("image_header", problem, _REMEDY)
    longest = _LONGEST_SIDE[header.format]
    if max(header.width, header.height) > longest:
        problem = f"the {header.format} is {header.width} x {header.height} pixels, and a side may have {longest}"
        raise UnreadableImage("image_too_large", problem, _REMEDY)
    if header.pixels > max_pixels:
        problem = f"the image is {header.width} x {header.height} pixels, more than the {max_pixels} allowed"
        raise UnreadableImage("image_too_large", problem, "scale the image down; the models see a few hundred pixels")


# PNG -------------------------------------------------------------------------------------------------------------


class _Chunk(NamedTuple):
    kind: bytes
    start: int  # of its length field
    end: int  # behind its checksum

    @property
    def critical(self) -> bool:
        """An upper-case first letter: the picture cannot be shown without it."""
        return self.kind[0] < ord("a")

    def body(self, image: bytes) -> bytes:
        return image[self.start + 8 : self.end - 4]


class _Png(NamedTuple):
    """A PNG whose structure is sound: its critical chunks in order, without a palette that no pixel needs."""

    image: bytes
    header: ImageHeader
    bits: int  # of one pixel
    interlaced: bool
    needed: tuple[_Chunk, ...]

    def essence(self) -> bytes:
        return _PNG_START + b"".join(self.image[chunk.start : chunk.end] for chunk in self.needed)

    def pixel_chunks(self) -> Iterator[bytes]:
        """The compressed pixels, chunk by chunk; none of them is empty."""
        return filter(None, (chunk.body(self.image) for chunk in self.needed if chunk.kind == b"IDAT"))

    def raw_bytes(self) -> int:
        """Bytes of all rows before compression, each with the byte that names its filter."""
        width, height = self.header.width, self.header.height
        passes = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        sizes = [(-(-(width - left) // across), -(-(height - top) // down)) for left, top, across, down in passes]
        return sum(rows * (1 + (columns * self.bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def _png(image: bytes, max_pixels: int) -> _Png:
    """Walk the chunks to the end and check all that the pixels depend on (PNG specification, 5.3 and 11.2)."""
    if len(image) < 33 or image[8:16] != b"\0\0\0\rIHDR":
        raise _png_fault("has no header chunk (damaged or cut off)", "image_header")
    width, height, depth, color, compression, filtering, interlace = struct.unpack_from(">IIBBBBB", image, 16)
    if zlib.crc32(image[12:29]) != int.from_bytes(image[29:33]):
        raise _png_fault("has a header that does not match its checksum", "image_header")
    if depth not in _PNG_DEPTHS.get(color, ()) or compression or filtering or interlace > 1:
        kind = f"{depth} bits, colour type {color}, methods {compression}, {filtering}, {interlace}"
        raise _png_fault(f"is of a kind that does not exist ({kind})")
    header = ImageHeader("PNG", width, height)
    _refuse_size(header, max_pixels)
    chunks = list(_chunks(image))
    _check_order(chunks, image, color)
    needed = tuple(chunk for chunk in chunks if chunk.critical and (chunk.kind != b"PLTE" or color == _PALETTE))
    return _Png(image, header, depth * _PNG_CHANNELS[color], bool(interlace), needed)


def _chunks(image: bytes) -> Iterator[_Chunk]:
    """All chunks up to IEND; the critical ones are known to this module and match their checksums."""
    position, size, count = len(_PNG_START), len(image), 0
    while position + 12 <= size:
        count += 1
        if count > _MOST_CHUNKS:
            raise _png_fault(f"has more than {_MOST_CHUNKS} chunks")
        length, kind = struct.unpack_from(">I4s", image, position)
        chunk = _Chunk(kind, position, position + 12 + length)
        if not kind.isalpha():
            raise _png_fault(f"has a chunk at byte {position} whose name is not of letters (damaged)")
        if chunk.end > size:
            break
        if chunk.critical:
            if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
                raise _png_fault(f"needs a chunk that no decoder here knows ({kind.decode()})")
            checksum = int.from_bytes(image[chunk.end - 4 : chunk.end])
            if zlib.crc32(memoryview(image)[position + 4 : chunk.end - 4]) != checksum:
                raise _png_fault(f"has a {kind.decode()} chunk at byte {position} that does not match its checksum")
        yield chunk
        if kind == b"IEND":
            return
        position = chunk.end
    raise _png_fault("ends before its end chunk (IEND): it was cut off")


def _check_order(chunks: Sequence[_Chunk], image: bytes, color: int) -> None:
    """What libpng insists on: one header, pixels in one row, and one palette before them where they need one."""
    kinds = [chunk.kind for chunk in chunks]
    pixels = [number for number, kind in enumerate(kinds) if kind == b"IDAT"]
    palettes = [number for number, kind in enumerate(kinds) if kind == b"PLTE"]
    if not pixels:
        raise _png_fault("has no pixels (no IDAT chunk)")
    if pixels[-1] - pixels[0] != len(pixels) - 1:
        raise _png_fault("has other chunks between those of its pixels (IDAT)")
    if kinds.count(b"IHDR") > 1 or len(palettes) > 1:
        raise _png_fault("has its header or its palette twice")
    if color == _PALETTE and (not palettes or palettes[0] > pixels[0]):
        raise _png_fault("has no palette before its pixels")
    palette = chunks[palettes[0]].body(image) if palettes else b"rgb"
    if not palette or len(palette) % 3 or len(palette) > 768:
        raise _png_fault(f"has a palette of {len(palette)} bytes")


def _check_compressed_pixels(png: _Png) -> None:
    """Inflate the pixels without keeping them, to the end of the stream and its checksum.

    libpng holds a stream to the window that its first byte declares; Pillow allows the largest one always. What is
    inflated at once may be referred to without any window: hence the small blocks.
    """
    expected = png.raw_bytes()
    stream, seen, block = zlib.decompressobj(wbits=0), 0, _BLOCK
    for number, body in enumerate(png.pixel_chunks()):
        if number == 0 and 256 << (body[0] >> 4) < min(expected, _LARGEST_WINDOW):
            block = _BLOCK_OF_A_SMALL_WINDOW
        for start in range(0, len(body), block):
            rest = body[start : start + block]
            # What stands behind the end of the stream is never asked for: zlib would hand it back for ever.
            while rest and not stream.eof:
                try:
                    seen += len(stream.decompress(rest, block))
                except zlib.error as exc:
                    raise _png_fault(f"has pixels that cannot be decompressed ({exc})", "image_decode") from exc
                if seen > expected + _SURPLUS:
                    problem = f"has more than the {expected} bytes of pixels that its header says"
                    raise _png_fault(problem, "image_decode")
                rest = stream.unconsumed_tail
    if seen < expected or not stream.eof:
        part = f"{seen} of {expected} bytes" if seen < expected else "no end of the compressed stream"
        raise _png_fault(f"has not all of its pixels ({part})", "image_decode")


def _png_fault(problem: str, code: str = "image_damaged") -> UnreadableImage:
    return UnreadableImage(code, f"the PNG {problem}", _REMEDY)


# JPEG ------------------------------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    """The frame header of a JPEG: `start` of its segment, `end` behind it, and the numbers of its components."""

    header: ImageHeader
    start: int
    end: int
    components: tuple[int, ...]


def _jpeg_frame(image: bytes, max_pixels: int) -> _Frame:
    """Walk the segments to the frame header (ITU T.81, B.2.2)."""
    if not image.startswith(_JPEG_START):
        raise not_an_image(image)
    for marker, start, end in _segments(image, 2):
        if marker in _FRAMES:
            return _read_frame(image, marker, start, end, max_pixels)
        if marker in (_SCAN, _END):  # pixels, or the end, before any frame header
            break
    raise _jpeg_fault("has no readable frame header (damaged or cut off)", "image_header")


def _segments(image: bytes, position: int) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment; ends where the bytes are not a marker with as much as it announces."""
    size = len(image)
    while position + 2 <= size and image[position] == 0xFF:
        marker = image[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _ALONE or marker == _END:
            yield marker, position, position + 2
            position += 2
            continue
        length = int.from_bytes(image[position + 2 : position + 4])
        end = position + 2 + length
        if not marker or length < 2 or end > size:
            return
        yield marker, position, end
        position = end


def _read_frame(image: bytes, marker: int, start: int, end: int, max_pixels: int) -> _Frame:
    if end - start < 10:
        raise _jpeg_fault("ends inside its frame header", "image_header")
    precision, height, width, components = struct.unpack_from(">BHHB", image, start + 4)
    if marker not in _DECODABLE_FRAMES or precision != 8 or components not in {1, 3, 4}:
        kind = f"frame 0x{marker:02x}, {precision} bits, {components} components"
        problem = f"the JPEG is of a kind that TensorFlow or phones cannot decode ({kind})"
        raise UnreadableImage("image_unsupported", problem, _REMEDY)
    if end - start != 10 + 3 * components:
        raise _jpeg_fault("has a frame header of a wrong length", "image_header")
    header = ImageHeader("JPEG", width, height, marker == _PROGRESSIVE)
    _refuse_size(header, max_pixels)
    return _Frame(header, start, end, tuple(image[start + 10 : end : 3]))


def _follow_jpeg(image: bytes, frame: _Frame) -> None:
    """Follow scans and the segments between them to the end marker, and see that no coefficients are left out."""
    scans, position = _Scans(frame), frame.end
    while True:
        for marker, start, end in _segments(image, position):
            if marker == _END:
                scans.refuse_incomplete()
                return
            if marker in _FRAMES:
                raise _jpeg_fault("has two frame headers")
            if marker == _SCAN:
                scans.add(image[start + 4 : end])
                found = _AFTER_PIXELS.search(image, end)
                if found is None:
                    raise _jpeg_fault("ends before its end marker: it was cut off")
                position = found.start()
                break
        else:
            raise _jpeg_fault("is damaged, or was cut off, between its frame header and its end")


class _Scans:
    """Which coefficients the scans have brought: a progressive JPEG that was cut off and closed again lacks some.

    Decoders fill in what is missing, each in its own way, so the models would not see the same pixels.
    """

    def __init__(self, frame: _Frame) -> None:
        self._progressive = frame.header.progressive
        self._scans = 0
        #: For each component the bits that are still missing of each coefficient; -1: nothing was sent yet.
        self._missing = {number: [-1] * _COEFFICIENTS for number in frame.components}

    def add(self, scan: bytes) -> None:
        self._scans += 1
        if self._scans > _MOST_SCANS:
            raise _jpeg_fault(f"has more than {_MOST_SCANS} scans")
        count = scan[0] if scan else 0
        if not 1 <= count <= 4 or len(scan) != 4 + 2 * count:
            raise _jpeg_fault("has a damaged scan header")
        first, last, bits = scan[-3], scan[-2], scan[-1] & 15
        if not self._progressive:
            first, last, bits = 0, _COEFFICIENTS - 1, 0
        if not first <= last < _COEFFICIENTS or not set(scan[1 : 1 + 2 * count : 2]) <= set(self._missing):
            raise _jpeg_fault("has a damaged scan header")
        for number in scan[1 : 1 + 2 * count : 2]:
            self._missing[number][first : last + 1] = [bits] * (last + 1 - first)

    def refuse_incomplete(self) -> None:
        if any(any(missing) for missing in self._missing.values()):
            raise _jpeg_fault("lacks some of its scans: it was cut off and closed again", "image_decode")


def _jpeg_essence(image: bytes) -> bytes:
    """Leave out what stands before the first scan and is no table: EXIF, profiles, comments, previews."""
    kept = [_JPEG_START]
    for marker, start, end in _segments(image, 2):
        if marker == _SCAN:
            return b"".join([*kept, image[start:]])
        surrounds = marker == 0xFE or 0xE0 <= marker <= 0xEF
        if not surrounds or _tells_colours(marker, image[start + 4 : end]):
            kept.append(image[start:end])
    raise _jpeg_fault("has no scan")


def _tells_colours(marker: int, body: bytes) -> bool:
    """JFIF and Adobe's segment say how the components are to be read."""
    is_jfif = marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
    return is_jfif or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)


def _jpeg_fault(problem: str, code: str = "image_damaged") -> UnreadableImage:
    return UnreadableImage(code, f"the JPEG {problem}", _REMEDY)
