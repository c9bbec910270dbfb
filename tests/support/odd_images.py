"""Picture files as they are found: sound ones of every kind, and those that one decoder reads and another refuses.

`USABLE`, `UNUSABLE` and `ROTTEN` are the test table of `dualdeploy.images.image_file`: everything that judges,
decodes or serves a picture must give the same verdict on each, and the decoders the same pixels.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NOISE = np.random.default_rng(0)


def chunk(kind: bytes, body: bytes = b"", *, checksum: int | None = None) -> bytes:
    """A chunk of a PNG, with a right checksum unless another is given."""
    right = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", right)


def header(width: int = 8, height: int = 8, depth: int = 8, color: int = 2, methods: bytes = b"\0\0\0") -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, color) + methods)


def rows(count: int, length: int, highest: int = 256) -> bytes:
    """So many unfiltered rows of noise."""
    return b"".join(b"\0" + _NOISE.integers(0, highest, length, dtype=np.uint8).tobytes() for _ in range(count))


RAW = rows(8, 24)
STREAM = zlib.compress(RAW)
IDAT, IEND = chunk(b"IDAT", STREAM), chunk(b"IEND")
PALETTE = bytes(range(12))
#: 120 rows of 160 RGB pixels; each row is like the one before.
_LARGE = rows(1, 480) * 120
INDEXED = chunk(b"IDAT", zlib.compress(rows(8, 8, 4)))


def png(*chunks: bytes) -> bytes:
    """A PNG of 8 x 8 RGB pixels, or of what the chunks say if the first is a header; the end is added if it lacks."""
    first = () if chunks[:1] and chunks[0][4:8] in (b"IHDR", b"CgBI") else (header(),)
    end = () if chunks[-1:] and chunks[-1][4:8] in (b"IEND", b"NONE") else (IEND,)
    return SIGNATURE + b"".join((*first, *(each for each in chunks if each[4:8] != b"NONE"), *end))


NO_END = chunk(b"NONE")


def _all_kinds_of_png() -> Iterator[tuple[str, bytes]]:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    for color, interlace in itertools.product(channels, (0, 1)):
        for depth in depths[color]:
            raw = b""
            for left, top, across, down in passes if interlace else ((0, 0, 1, 1),):
                columns, lines = -(-(13 - left) // across), -(-(9 - top) // down)
                raw += rows(lines, (columns * channels[color] * depth + 7) // 8)
            palette = [chunk(b"PLTE", _NOISE.bytes(3 << depth))] if color == 3 else []
            transparent = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: b"\x10\x80"}.get(color)
            head = header(13, 9, depth, color, bytes((0, 0, interlace)))
            pixels = chunk(b"IDAT", zlib.compress(raw))
            name = f"png colour {color} depth {depth}" + (" interlaced" if interlace else "")
            yield name, png(head, *palette, pixels)
            if transparent:
                yield f"{name} transparent", png(head, *palette, chunk(b"tRNS", transparent), pixels)


def _pngs_with_surroundings() -> Iterator[tuple[str, bytes]]:
    large = 2 << 20
    surroundings = {
        "profile of 2 MB": chunk(b"iCCP", b"p\0\0" + zlib.compress(_NOISE.bytes(large), 1)),
        "compressed text of 2 MB": chunk(b"zTXt", b"p\0\0" + zlib.compress(b"a" * large)),
        "text of 9 MB": chunk(b"tEXt", b"p\0" + b"a" * (9 << 20)),
        "text with a wrong checksum": chunk(b"tEXt", b"a\0b", checksum=1),
        "broken profile": chunk(b"iCCP", b"p\0\7garbage"),
        "broken texts": chunk(b"zTXt", b"p\0\0garbage") + chunk(b"iTXt", bytes(4)),
        "short pHYs": chunk(b"pHYs", b"p"),
        "short gAMA": chunk(b"gAMA", b"p"),
        "gamma": chunk(b"gAMA", struct.pack(">I", 45455)),
        "short cHRM": chunk(b"cHRM", b"p"),
        "empty sRGB": chunk(b"sRGB"),
        "empty acTL": chunk(b"acTL"),
        "short tRNS": chunk(b"tRNS", b"\0"),
        "eXIf": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
        "unknown chunk": chunk(b"prVt", b"x"),
        "many texts": chunk(b"tEXt", b"a\0b") * 2000,
        "suggested palette": chunk(b"PLTE", PALETTE),
    }
    for name, each in surroundings.items():
        yield f"png, {name}", png(each, IDAT)
    yield "png, text behind the pixels", png(IDAT, surroundings["compressed text of 2 MB"])
    yield "png, bytes behind the end", png(IDAT) + b"more"
    yield "png, pixels in many chunks", png(*(chunk(b"IDAT", STREAM[i : i + 7]) for i in range(0, len(STREAM), 7)))
    yield "png, empty pixel chunks", png(chunk(b"IDAT"), IDAT, chunk(b"IDAT"))
    small = zlib.compressobj(9, zlib.DEFLATED, 9)
    yield "png, small window", png(header(160, 120), chunk(b"IDAT", small.compress(_LARGE) + small.flush()))
    yield "png, bytes behind the stream", png(chunk(b"IDAT", STREAM + b"more"))
    yield "png, 3 MB behind the stream", png(chunk(b"IDAT", STREAM + bytes(3 << 20)), chunk(b"IDAT", bytes(3 << 20)))
    yield "png, more rows than the header says", png(chunk(b"IDAT", zlib.compress(RAW + b"\0" * 400)))
    yield "png, palette shorter than its indices", png(header(color=3), chunk(b"PLTE", PALETTE[:6]), INDEXED)
    yield "png, one pixel wide", png(header(1, 5), chunk(b"IDAT", zlib.compress(rows(5, 3))))


def _unusable_pngs() -> Iterator[tuple[str, bytes]]:
    yield "png without IEND", png(IDAT, NO_END)
    yield "png, IEND cut", png(IDAT)[:-1]
    yield "png, IEND checksum", png(IDAT, chunk(b"IEND", checksum=0))
    yield "png, IDAT checksum", png(chunk(b"IDAT", STREAM, checksum=5))
    yield "png, IHDR checksum", png(chunk(b"IHDR", struct.pack(">IIBB", 8, 8, 8, 2) + bytes(3), checksum=1), IDAT)
    yield "png, unknown critical chunk", png(chunk(b"ABCD", b"x"), IDAT)
    yield "png, unknown critical chunk behind", png(IDAT, chunk(b"ABCD", b"x"))
    yield "png of Apple's", png(chunk(b"CgBI", b"\x50\0\x20\x02"), header(), IDAT)
    yield "png, chunk named by no letters", png(chunk(b"a1cd"), IDAT)
    yield "png, chunk longer than the file", png(struct.pack(">I", 1 << 30) + b"tEXtabc", NO_END)
    yield "png without pixels", png(IEND)
    yield "png, two headers", png(header(), header(), IDAT)
    yield "png, long header", png(chunk(b"IHDR", struct.pack(">IIBB", 8, 8, 8, 2) + bytes(4)), IDAT)
    yield (
        "png, pixels interrupted",
        png(chunk(b"IDAT", STREAM[:50]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", STREAM[50:])),
    )
    for name, methods in (("compression", b"\1\0\0"), ("filter", b"\0\1\0"), ("interlace", b"\0\0\2")):
        yield f"png, unknown {name} method", png(header(methods=methods), IDAT)
    yield "png, depth 3", png(header(depth=3), IDAT)
    yield "png, no width", png(header(width=0), IDAT)
    yield "png, wider than libpng allows", png(header(2_000_000, 1), chunk(b"IDAT", zlib.compress(bytes(6_000_001))))
    yield "png, no palette", png(header(color=3), INDEXED)
    yield "png, palette too late", png(header(color=3), INDEXED, chunk(b"PLTE", PALETTE))
    yield "png, two palettes", png(header(color=3), chunk(b"PLTE", PALETTE), chunk(b"PLTE", PALETTE), INDEXED)
    yield "png, palette of thirds", png(header(color=3), chunk(b"PLTE", PALETTE[:10]), INDEXED)
    yield "png, empty palette", png(header(color=3), chunk(b"PLTE"), INDEXED)
    yield "png, too many chunks", png(*[chunk(b"teXt")] * 70_000, IDAT)
    yield "png, empty suggested palette", png(chunk(b"PLTE"), IDAT)
    yield "png, palette checksum", png(header(color=3), chunk(b"PLTE", PALETTE, checksum=1), INDEXED)


def _with_window(stream: bytes, first: int) -> bytes:
    """The stream of zlib with another first byte, which declares how far back it refers; the second checks it."""
    return bytes((first, 31 - (first << 8) % 31)) + stream[2:]


def _rotten_pngs() -> Iterator[tuple[str, bytes]]:
    """Sound outside, damaged inside the compressed pixels: only decoding shows it."""
    yield "png, rows missing", png(chunk(b"IDAT", zlib.compress(RAW[:-30])))
    yield "png, a byte missing", png(chunk(b"IDAT", zlib.compress(RAW[:-1])))
    yield "png, stream damaged", png(chunk(b"IDAT", STREAM[:40] + b"\x55\x55\x55" + STREAM[43:]))
    yield "png, stream's checksum wrong", png(chunk(b"IDAT", STREAM[:-1] + bytes([STREAM[-1] ^ 1])))
    yield "png, stream's checksum missing", png(chunk(b"IDAT", STREAM[:-4]))
    yield "png, raw deflate", png(chunk(b"IDAT", STREAM[2:-4]))
    for name, first in (("too small", 0x08), ("larger than there is", 0x88)):
        yield f"png, window {name}", png(header(160, 120), chunk(b"IDAT", _with_window(zlib.compress(_LARGE), first)))
    yield "png, stream with a dictionary", png(chunk(b"IDAT", b"\x78\xbb" + STREAM[2:]))
    yield "png, unknown filter", png(chunk(b"IDAT", zlib.compress(b"\7" + RAW[1:])))
    yield "png, empty stream", png(chunk(b"IDAT"))


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    """A coarse coloured pattern of 81 x 65 pixels."""
    blocks = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize((81, 65), Image.Resampling.BICUBIC).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def jpeg_of(width: int, height: int) -> bytes:
    """One colour."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(stream, "JPEG")
    return stream.getvalue()


def _insert(data: bytes, at: int, more: bytes) -> bytes:
    return data[:at] + more + data[at:]


def _without_segment(data: bytes, marker: bytes) -> bytes:
    at = data.index(marker)
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]


def _sound_jpegs() -> Iterator[tuple[str, bytes]]:
    for mode, progressive in itertools.product(("RGB", "L", "CMYK"), (False, True)):
        yield f"jpeg {mode}" + (" progressive" if progressive else ""), jpeg(mode, progressive=progressive)
    for subsampling in (0, 1, 2):
        yield f"jpeg subsampling {subsampling}", jpeg(subsampling=subsampling)
    plain, restarting = jpeg(), jpeg(restart_marker_blocks=1)
    yield "jpeg quality 100", jpeg(quality=100)
    yield "jpeg optimised", jpeg(optimize=True)
    yield "jpeg restart markers", restarting
    at = restarting.index(b"\xff\xd1")
    yield "jpeg, a restart marker missing", restarting[:at] + restarting[at + 2 :]
    yield "jpeg, bytes behind the end", plain + b"more"
    yield "jpeg, two pictures", plain + jpeg("L")
    yield "jpeg without JFIF", _without_segment(plain, b"\xff\xe0")
    yield "jpeg, fill bytes", _insert(plain, plain.index(b"\xff\xc0"), b"\xff\xff\xff")
    yield "jpeg, comment of 60 kB", jpeg(comment=b"x" * 60_000)
    yield "jpeg, profile of 2 MB", jpeg(icc_profile=bytes(2 << 20))
    yield "jpeg, broken EXIF", jpeg(exif=b"Exif\0\0garbage")
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "jpeg, turned by EXIF", jpeg(exif=exif)
    yield "jpeg, broken previews", _insert(plain, 2, b"\xff\xe2\0\x0aMPF\0\1\2\3\4" + b"\xff\xed\0\x04ab")
    for transform in (0, 1, 2, 7):
        adobe = b"\xff\xee\0\x0eAdobe\0d\0\0\0\0" + bytes([transform])
        yield f"jpeg, Adobe transform {transform}", _insert(plain, 2, adobe)
    yield "jpeg stored as RGB", jpeg(keep_rgb=True)
    yield "jpeg without Huffman tables", plain[: plain.index(b"\xff\xc4")] + plain[plain.index(b"\xff\xda") :]
    yield "jpeg of one pixel", jpeg_of(1, 1)
    yield "jpeg of one column", jpeg_of(1, 60_000)
    # Both decoders fill up what is missing, and alike.
    frame, half = plain.index(b"\xff\xc0"), len(plain) // 2
    yield "jpeg, cut and closed", plain[:half] + b"\xff\xd9"
    yield "jpeg, zeros among its pixels", plain[:half] + bytes(200) + plain[half + 200 :]
    yield "jpeg, higher than its pixels", plain[: frame + 5] + struct.pack(">H", 200) + plain[frame + 7 :]
    yield "jpeg, lower than its pixels", plain[: frame + 5] + struct.pack(">H", 20) + plain[frame + 7 :]
    yield "jpeg, Adobe segment too short", _insert(plain, 2, b"\xff\xee\0\x07Adobe")
    yield "cmyk jpeg without Adobe", _without_segment(jpeg("CMYK"), b"\xff\xee")
    stream = io.BytesIO()
    Image.new("RGB", (20, 10), "teal").save(stream, "MPO", save_all=True, append_images=[Image.new("RGB", (20, 10))])
    yield "mpo", stream.getvalue()
    yield "mpo, second picture cut", stream.getvalue()[:-300]


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def _unusable_jpegs() -> Iterator[tuple[str, bytes]]:
    plain, progressive = jpeg(), jpeg(progressive=True)
    scan, frame = plain.index(b"\xff\xda"), plain.index(b"\xff\xc0")
    for share in (0.1, 0.5, 0.95):
        yield f"jpeg cut at {share}", _cut(plain, share)
        yield f"progressive jpeg cut at {share}", _cut(progressive, share)
    yield "jpeg without its end", plain[:-2]
    yield "jpeg with half its end", plain[:-1]
    yield "progressive jpeg, cut and closed", progressive[: progressive.rindex(b"\xff\xda")] + b"\xff\xd9"
    yield "progressive jpeg, cut early and closed", _cut(progressive, 0.4) + b"\xff\xd9"
    yield "jpeg, a marker among its pixels", plain[: scan + 60] + b"\xff\xe3" + plain[scan + 62 :]
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    yield "progressive jpeg, too many scans", progressive[:-2] + last * 200 + b"\xff\xd9"
    yield "jpeg, arithmetic coding", plain.replace(b"\xff\xc0", b"\xff\xc9", 1)
    yield "jpeg, lossless", plain.replace(b"\xff\xc0", b"\xff\xc3", 1)
    yield "jpeg, 12 bits", plain[: frame + 4] + b"\x0c" + plain[frame + 5 :]
    yield "jpeg, no height", plain[: frame + 5] + b"\0\0" + plain[frame + 7 :]
    yield "jpeg, only its markers", b"\xff\xd8\xff\xd9"
    yield "jpeg, bytes before it", b"\0" + plain
    yield "jpeg, begun twice", plain[:2] + plain
    yield (
        "jpeg, its height behind its pixels",
        (plain[: frame + 5] + b"\0\0" + plain[frame + 7 : -2] + b"\xff\xdc\0\4\0\x41" + plain[-2:]),
    )
    yield "jpeg, line ends changed", plain.replace(b"\n", b"\r\n")
    yield "jpeg, read and written as text", plain.decode("latin-1").encode("utf-8")
    yield "jpeg of 81 megapixels", plain[: frame + 5] + struct.pack(">HH", 9000, 9000) + plain[frame + 9 :]
    yield "jpeg, higher than libjpeg allows", plain[: frame + 5] + struct.pack(">H", 65_501) + plain[frame + 7 :]
    yield "jpeg, bytes between its segments", _insert(plain, frame, b"abc")


def _rotten_jpegs() -> Iterator[tuple[str, bytes]]:
    plain = jpeg()
    frame = plain.index(b"\xff\xc0")
    yield "jpeg without quantisation", _without_segment(_without_segment(plain, b"\xff\xdb"), b"\xff\xdb")
    yield "jpeg, not progressive and called so", plain[: frame + 1] + b"\xc2" + plain[frame + 2 :]
    yield "jpeg, sampling of five", plain[: frame + 11] + b"\x51" + plain[frame + 12 :]


_OTHER_FORMATS = {
    "empty": b"", "text": b"not a picture", "gif": b"GIF89a" + bytes(40), "bmp": b"BM" + bytes(60), "tiff": b"II*\0",
    "base64": b"/9j/4AAQSkZJRgABAQ==", "path": b"gs://bucket/picture.jpg", "pixels": bytes(range(192)),
    "webp": b"RIFF\x24\0\0\0WEBPVP8 " + bytes(24), "avif": b"\0\0\0\x1cftypavif" + bytes(40), "svg": b"<svg/>",
    "heic": b"\0\0\0\x18ftypheic" + bytes(40), "ico": b"\0\0\1\0" + bytes(40), "blank": b" ",
    "jxl": b"\xff\x0a" + bytes(40),
    "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n", "numpy": b"\x93NUMPY\x01\0v\0{}",
}  # fmt: skip

#: Both decoders read these, to the same pixels.
USABLE = dict(itertools.chain(_all_kinds_of_png(), _pngs_with_surroundings(), _sound_jpegs()))
#: Refused by their structure, without a decoder.
UNUSABLE = {**dict(_unusable_pngs()), **dict(_unusable_jpegs()), **_OTHER_FORMATS}
#: Sound outside: whoever decodes them refuses them.
ROTTEN = {**dict(_rotten_pngs()), **dict(_rotten_jpegs())}
