"""Every shape a client may send, and a sentence for every shape it may not."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor import instances
from predictor.answers import Fault, Wanted
from predictor.instances import BadRequest, Picture
from support.nested import nested


def body(*items: Any) -> bytes:
    return json.dumps({"instances": items}).encode()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def files(sent: bytes) -> list[bytes]:
    return [item.data for item in instances.parse(sent, max_instances=4).items if isinstance(item, Picture)]


def faults(sent: bytes) -> list[str | None]:
    """The reason of each instance that is wrong, None for each picture."""
    parsed = instances.parse(sent, max_instances=50).items
    return [item.reason if isinstance(item, Fault) else None for item in parsed]


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes whose header declares this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_every_shape_of_instance_is_read_and_shapes_may_be_mixed(png: bytes, jpeg: bytes) -> None:
    text, other = encoded(png), encoded(jpeg)
    items = [{"b64": text}, {"image_bytes": {"b64": other}}, {"image_bytes": text}, other]
    assert files(body(*items)) == [png, jpeg, png, jpeg]


def test_requests_of_automl_are_read_whatever_type_they_name(png: bytes, jpeg: bytes) -> None:
    items = [{"content": encoded(png)}, {"content": encoded(jpeg), "mimeType": "image/jpeg"}]
    assert files(body(*items, {"content": encoded(png), "mimeType": "image/webp"})) == [png, jpeg, png]


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        (None, Wanted(10, 0.0)),
        ({}, Wanted(10, 0.0)),
        ([], Wanted(10, 0.0)),
        ({"anything": 1, "confidenceThreshold": None, "maxPredictions": None}, Wanted(10, 0.0)),
        ({"confidenceThreshold": 0.5, "maxPredictions": 3}, Wanted(3, 0.5)),
        ({"confidenceThreshold": 1, "maxPredictions": 2.0}, Wanted(2, 1.0)),
    ],
)
def test_parameters_of_automl_are_read_and_others_are_not(png: bytes, parameters: Any, wanted: Wanted) -> None:
    sent = json.dumps({"instances": [encoded(png)], "parameters": parameters}).encode()
    assert instances.parse(sent, max_instances=1).wanted == wanted


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("confidenceThreshold", value) for value in (-0.1, 1.1, "0.5", True, [], float("nan"), float("inf"))),
        *(("maxPredictions", value) for value in (0, -1, 2.5, "3", True, {}, float("nan"), float("inf"))),
    ],
)
def test_parameters_that_mean_nothing_are_refused_by_name(png: bytes, key: str, value: Any) -> None:
    sent = json.dumps({"instances": [encoded(png)], "parameters": {key: value}}).encode()
    with pytest.raises(BadRequest, match=f"parameters.{key}"):
        instances.parse(sent, max_instances=1)


def test_line_breaks_in_base64_are_harmless(png: bytes) -> None:
    assert files(body(base64.encodebytes(png).decode())) == [png]


def test_keys_beside_the_picture_are_ignored(png: bytes) -> None:
    assert files(body({"b64": encoded(png), "id": 7})) == [png]


def test_the_pixels_of_a_picture_come_from_its_header(png: bytes) -> None:
    assert instances.parse(body(encoded(png), encoded(huge_png(800, 600))), max_instances=2).items == [
        Picture(png, 12),
        Picture(huge_png(800, 600), 480_000),
    ]


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"instances": [' + b"1" * 5000 + b"]}", "not JSON"),
        (b"[]", 'no "instances"'),
        (b"{}", 'no "instances"'),
        (b'{"instances": {}}', "must be a list"),
        (b'{"instances": []}', "at least one picture"),
        (b'{"instances": null}', "must be a list"),
    ],
)
def test_a_body_that_holds_no_instances_is_refused(sent: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        instances.parse(sent, max_instances=2)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (None, "null: send"),
        (True, "a boolean"),
        (3, "a number"),
        (0.5, "a number"),
        ([1], "a list"),
        ({}, r"keys \[\]"),
        ({"image": "x"}, r"keys \['image'\]"),
        ({"b64": 3}, r"keys \['b64'\]"),
        ({"image_bytes": {"b64": None}}, r"keys \['image_bytes'\]"),
        ({"\ud800" * 9000: 1}, "an object with the keys"),
        ("", "empty"),
        ("!!!!", "not standard base64"),
        ("YQ", "not standard base64"),
        ("grün", "not standard base64"),
        ("data:image/png;base64,YQ==", "data: URL"),
        (encoded(b"GIF89a" + bytes(50)), r"neither JPEG nor PNG.*looks like a GIF"),
        (encoded(b"\xff\xd8"), "no readable frame header"),
        (encoded(huge_png(40_000, 2_000)), "40000 x 2000 pixels"),
        (encoded(huge_png(60_000, 60_000)), "60000 x 60000 pixels"),
    ],
)
def test_a_wrong_instance_is_told_what_to_send(item: Any, says: str) -> None:
    (reason,) = faults(body(item))
    assert reason is not None
    assert re.search(says, reason)
    assert len(reason) < 1000


def test_a_wrong_instance_leaves_its_neighbours_alone(png: bytes) -> None:
    first, second, third, fourth = faults(body(encoded(png), 5, encoded(png), "!"))
    assert (first, third) == (None, None)
    assert second is not None
    assert second.startswith("a number")
    assert fourth is not None
    assert fourth.startswith("not standard base64")


def test_a_description_names_every_wrong_instance_but_cuts_a_long_list() -> None:
    assert instances.describe({1: "a number", 3: "empty"}) == "instances[1]: a number; instances[3]: empty"
    assert instances.describe(dict.fromkeys(range(50), "empty")).endswith("; and 40 more")


def test_too_many_instances_are_refused_with_the_limit(png: bytes) -> None:
    with pytest.raises(BadRequest, match="holds 3 pictures, at most 2"):
        instances.parse(body(*[encoded(png)] * 3), max_instances=2)


def test_pictures_that_are_too_large_together_are_refused() -> None:
    large = encoded(huge_png(8_000, 7_500))
    assert len(instances.parse(body(large, large), max_instances=3).items) == 2
    with pytest.raises(BadRequest, match="180 megapixels together"):
        instances.parse(body(large, large, large), max_instances=3)


json_values = nested(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_body_whatever_raises_anything_but_bad_request(sent: bytes) -> None:
    with pytest.raises(BadRequest):
        instances.parse(sent, max_instances=4)


@given(st.lists(json_values, min_size=1, max_size=4))
def test_every_instance_whatever_is_a_fault_in_its_place(items: list[Any]) -> None:
    parsed = instances.parse(json.dumps({"instances": items}).encode(), max_instances=4).items
    assert [type(item) for item in parsed] == [Fault] * len(items)
