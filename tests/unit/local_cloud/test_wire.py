"""Ranges, globs, tokens and multipart bodies: pure functions of what a request says."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_cloud.api import ApiError
from local_cloud.storage.errors import RangeNotSatisfiable
from local_cloud.storage.objects import glob_to_regex, successor
from local_cloud.storage.wire import ContentRange, RelatedParts, byte_range


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(st.characters(exclude_categories=["Cs"])))
def test_the_successor_lies_behind_everything_with_the_prefix_and_nothing_else(prefix: str, rest: str) -> None:
    behind = successor(prefix)

    if behind is None:
        assert set(prefix) == {chr(0x10FFFF)}
    else:
        assert prefix + rest < behind
        behind.encode()


@given(st.binary(max_size=3000), st.integers(1, 64))
def test_a_multipart_body_gives_back_its_media_however_it_is_cut(media: bytes, block: int) -> None:
    boundary = b"==boundary=="
    if b"\r\n--" + boundary in media:
        return
    body = (
        b"--" + boundary + b'\r\ncontent-type: application/json\r\n\r\n{"name": "x"}\r\n--' + boundary
    ) + b"\r\ncontent-type: image/png\r\n\r\n"
    body += media + b"\r\n--" + boundary + b"--\r\n"

    class Trickle(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            return super().read(block)

    parts = RelatedParts(Trickle(body), 'multipart/related; boundary="==boundary=="')
    assert (parts.metadata, parts.media_type) == ({"name": "x"}, "image/png")
    assert b"".join(parts.media()) == media


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_range_never_reaches_outside_the_object(size: int, first: int, last: int) -> None:
    try:
        selected = byte_range(f"bytes={first}-{last}", size)
    except RangeNotSatisfiable:
        assert first >= size
        return
    if last < first:
        assert selected is None
        return
    assert selected is not None
    assert list(range(*selected)) == list(range(size))[first : last + 1]


@pytest.mark.parametrize(
    ("header", "length", "expected"),
    [
        (None, 7, ContentRange(0, 7, 7)),
        ("bytes 0-6/7", 7, ContentRange(0, 7, 7)),
        ("bytes 3-6/*", 4, ContentRange(3, 7, None)),
        ("bytes */*", 0, ContentRange(None, None, None)),
        ("bytes */7", 0, ContentRange(None, None, 7)),
    ],
)
def test_a_content_range_is_read(header: str | None, length: int, expected: ContentRange) -> None:
    assert ContentRange.parse(header, length) == expected


@pytest.mark.parametrize(
    ("header", "length"),
    [("bytes 3-1/9", 0), ("bytes 0-9/5", 10), ("bytes 0-9/20", 3), ("0-9/20", 10), ("bytes 0-/9", 1)],
)
def test_a_content_range_that_contradicts_itself_is_refused(header: str, length: int) -> None:
    with pytest.raises(ApiError, match="Content-Range"):
        ContentRange.parse(header, length)


@pytest.mark.parametrize(
    ("glob", "regex"),
    [
        ("a*b", r"a[^/]*b"),
        ("**/x?", r".*/x[^/]"),
        ("{a,b}.c", r"(?:a|b)\.c"),
        ("a,b}", r"a,b\}"),
        ("[a-c]", r"[a-c]"),
        ("[!a]", r"[^/a]"),
        ("[", r"\["),
        (r"\*", r"\*"),
    ],
)
def test_a_glob_becomes_a_regular_expression(glob: str, regex: str) -> None:
    assert glob_to_regex(glob) == regex
