"""What a file is that should be a TFRecord and is not, told by its first bytes: for people, who want to know."""

from __future__ import annotations

import codecs
import zlib

from dualdeploy.images.tfrecord import is_gzip, starts_like_records

#: First bytes, what they are of, and what to do about it.
_WRITE_GZIP = "write the shards with GZIP, or without compression: of compressed ones only gzip is read"
_TEXT = "upload the TFRecords themselves"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file", "fetch the files (git lfs pull) and upload those"),
    (b"\xff\x06\0\0sNaPpY", "Snappy-compressed", _WRITE_GZIP),
    (b"\x28\xb5\x2f\xfd", "Zstandard-compressed", _WRITE_GZIP),
    (b"BZh", "bzip2-compressed", _WRITE_GZIP),
    (b"\xfd7zXZ", "xz-compressed", _WRITE_GZIP),
    (b"\x04\x22\x4d\x18", "LZ4-compressed", _WRITE_GZIP),
    (b"PK\x03\x04", "a ZIP archive", "unpack it and upload the shards in it"),
    (b"PAR1", "a Parquet file", "write its rows as TFRecords"),
    (b"\x89HDF", "an HDF5 file", "write its pictures as TFRecords"),
    (b"\x93NUMPY", "a NumPy array", "write its pictures, as JPEG or PNG, as TFRecords"),
    (b"ARROW1", "an Arrow file", "write its rows as TFRecords"),
    (b"SQLite format 3\0", "an SQLite database", "write its rows as TFRecords"),
    (b"Obj\x01", "an Avro file", "write its rows as TFRecords"),
    (b"\xff\xd8\xff", "a JPEG picture", "make shards turns pictures into shards"),
    (b"\x89PNG", "a PNG picture", "make shards turns pictures into shards"),
    (b"%PDF", "a PDF", _TEXT),
    (b"\0\x05\x16\x07", "what macOS keeps beside a file (AppleDouble)", "delete the files that begin with ._"),
    (b"<", "HTML or XML text, perhaps the answer of a server that refused a download", _TEXT),
    (b"{", "JSON text", _TEXT),
    (b"[", "JSON text", _TEXT),
)  # fmt: skip

#: Where the header of the first file in a tar archive says what it is (POSIX ustar).
_TAR_PLACE = 257


def what_it_is(head: bytes) -> tuple[str, str]:
    """What a file with these first bytes (some hundred) is, and what to do; empty texts where nothing is known."""
    if is_gzip(head):
        inside = _inflated(head, wbits=31)
        if is_gzip(inside):
            return "compressed with gzip twice", "compress the shards once, or not at all"
        kind, remedy = what_it_is(inside) if inside else ("", "")
        return f"{kind}, and that compressed with gzip" if kind else "", remedy
    for wbits, name in ((zlib.MAX_WBITS, "ZLIB-compressed"), (-zlib.MAX_WBITS, "compressed with raw deflate")):
        if starts_like_records(_inflated(head, wbits=wbits)):
            return f"TFRecords, {name}", _WRITE_GZIP
    return _uncompressed(head)


def _uncompressed(head: bytes) -> tuple[str, str]:
    for signature, kind, remedy in _SIGNATURES:
        if head.startswith(signature) or head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(signature):
            return kind, remedy
    if head[_TAR_PLACE:].startswith(b"ustar"):
        return "a tar archive, perhaps of WebDataset", "write its pictures as TFRecords"
    if _is_text(head):
        return "a text file, such as CSV", _TEXT
    return "", ""


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # what Excel's "Unicode text" begins with
        return True
    try:
        # The head may end within a character.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(each in "\t\r\n" or each.isprintable() for each in text)


def _inflated(head: bytes, *, wbits: int) -> bytes:
    try:
        return zlib.decompressobj(wbits).decompress(head, 1 << 12)
    except zlib.error:
        return b""
