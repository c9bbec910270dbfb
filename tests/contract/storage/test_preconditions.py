"""Every call that reads or writes an object, against every precondition, in the protocol's own words."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import requests
from google.api_core.exceptions import NotModified, PreconditionFailed
from google.cloud.storage import Blob, Bucket

Call = Callable[[str, str, dict[str, str]], requests.Response]


def _send(method: str, path: str, **fixed: object) -> Call:
    def call(base_url: str, bucket: str, conditions: dict[str, str]) -> requests.Response:
        arguments = dict(fixed)
        parameters = {**arguments.pop("params", {}), **conditions}
        url = base_url + path.format(bucket=bucket)
        return requests.request(method, url, params=parameters, timeout=5, **arguments)

    return call


def _resumable(base_url: str, bucket: str, conditions: dict[str, str]) -> requests.Response:
    url = f"{base_url}/upload/storage/v1/b/{bucket}/o"
    begun = requests.post(url, params={"uploadType": "resumable", "name": "o", **conditions}, timeout=5)
    if begun.status_code != 200:
        return begun
    return requests.put(begun.headers["Location"], data=b"new", timeout=5)


_MULTIPART = b'--b\r\n\r\n{"name": "o"}\r\n--b\r\nContent-Type: text/plain\r\n\r\nnew\r\n--b--\r\n'
_OBJECT = "/storage/v1/b/{bucket}/o/o"
_UPLOAD = "/upload/storage/v1/b/{bucket}/o"

READS: dict[str, Call] = {
    "get": _send("GET", _OBJECT),
    "get media": _send("GET", _OBJECT, params={"alt": "media"}),
    "download": _send("GET", "/download/storage/v1/b/{bucket}/o/o", params={"alt": "media"}),
    "XML get": _send("GET", "/{bucket}/o"),
}
WRITES: dict[str, Call] = {
    "insert media": _send("POST", _UPLOAD, params={"uploadType": "media", "name": "o"}, data=b"new"),
    "insert multipart": _send(
        "POST",
        _UPLOAD,
        params={"uploadType": "multipart"},
        data=_MULTIPART,
        headers={"Content-Type": 'multipart/related; boundary="b"'},
    ),
    "insert resumable": _resumable,
    "XML put": _send("PUT", "/{bucket}/o", data=b"new"),
    "copy": _send("POST", "/storage/v1/b/{bucket}/o/source/copyTo/b/{bucket}/o/o"),
    "rewrite": _send("POST", "/storage/v1/b/{bucket}/o/source/rewriteTo/b/{bucket}/o/o"),
    "compose": _send("POST", _OBJECT + "/compose", json={"sourceObjects": [{"name": "source"}]}),
}
CHANGES: dict[str, Call] = {
    "patch": _send("PATCH", _OBJECT, json={"metadata": {"a": "b"}}),
    "update": _send("PUT", _OBJECT, json={"metadata": {"a": "b"}}),
    "delete": _send("DELETE", _OBJECT),
}
ALL = {**READS, **WRITES, **CHANGES}

#: precondition → (value given the live generation, whether it holds); the live metageneration is 2.
CONDITIONS: dict[str, tuple[str, Callable[[int], int], bool]] = {
    "the live generation": ("ifGenerationMatch", lambda live: live, True),
    "a stale generation": ("ifGenerationMatch", lambda live: live - 1, False),
    "absence": ("ifGenerationMatch", lambda live: 0, False),
    "not the live generation": ("ifGenerationNotMatch", lambda live: live, False),
    "not another generation": ("ifGenerationNotMatch", lambda live: live - 1, True),
    "presence": ("ifGenerationNotMatch", lambda live: 0, True),
    "the live metageneration": ("ifMetagenerationMatch", lambda live: 2, True),
    "a stale metageneration": ("ifMetagenerationMatch", lambda live: 1, False),
    "not the live metageneration": ("ifMetagenerationNotMatch", lambda live: 2, False),
    "not another metageneration": ("ifMetagenerationNotMatch", lambda live: 1, True),
}


@pytest.fixture
def live(bucket: Bucket) -> Blob:
    """The object `o` in its second metageneration, and a `source` to copy from."""
    bucket.blob("source").upload_from_string("new")
    blob = bucket.blob("o")
    blob.upload_from_string("old")
    blob.metadata = {"second": "metageneration"}
    blob.patch()
    return blob


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("call", ALL)
def test_every_call_honours_every_precondition(base_url: str, live: Blob, call: str, condition: str) -> None:
    parameter, value, holds = CONDITIONS[condition]
    answer = ALL[call](base_url, live.bucket.name, {parameter: str(value(live.generation))})

    if holds:
        assert answer.status_code in {200, 204}
        return
    if call in READS and "NotMatch" in parameter:
        assert (answer.status_code, answer.content) == (304, b"")
    else:
        _require_condition_not_met(answer)
    assert live.bucket.get_blob("o").generation == live.generation
    assert live.bucket.get_blob("o").metageneration == 2


def _require_condition_not_met(answer: requests.Response) -> None:
    assert answer.status_code == 412
    if answer.headers["Content-Type"].startswith("application/xml"):
        assert "<Code>PreconditionFailed</Code>" in answer.text
        return
    error = json.loads(answer.content)["error"]
    assert error["code"] == 412
    assert error["errors"][0]["reason"] == "conditionNotMet"
    assert (error["errors"][0]["locationType"], error["errors"][0]["location"]) == ("header", "If-Match")


@pytest.mark.parametrize("call", WRITES)
@pytest.mark.parametrize(
    ("conditions", "status"),
    [
        ({"ifGenerationMatch": "0"}, 200),
        ({"ifGenerationMatch": "1234567890"}, 412),
        ({"ifGenerationNotMatch": "0"}, 412),
        ({"ifMetagenerationMatch": "1"}, 412),
    ],
)
def test_writing_where_nothing_is_honours_preconditions(
    bucket: Bucket, base_url: str, call: str, conditions: dict[str, str], status: int
) -> None:
    bucket.blob("source").upload_from_string("new")
    answer = WRITES[call](base_url, bucket.name, conditions)

    assert answer.status_code == status
    assert bucket.blob("o").exists() is (status == 200)


@pytest.mark.parametrize("call", [*READS, *CHANGES])
def test_reading_or_changing_nothing_is_404_whatever_was_demanded(bucket: Bucket, base_url: str, call: str) -> None:
    assert ALL[call](base_url, bucket.name, {"ifGenerationMatch": "1"}).status_code == 404


@pytest.mark.parametrize("call", ["copy", "rewrite"])
@pytest.mark.parametrize(
    "condition",
    [
        ("ifSourceGenerationMatch", lambda live: live, True),
        ("ifSourceGenerationMatch", lambda live: live - 1, False),
        ("ifSourceGenerationNotMatch", lambda live: live, False),
        ("ifSourceGenerationNotMatch", lambda live: live - 1, True),
        ("ifSourceMetagenerationMatch", lambda live: 1, True),
        ("ifSourceMetagenerationMatch", lambda live: 2, False),
        ("ifSourceMetagenerationNotMatch", lambda live: 1, False),
        ("sourceGeneration", lambda live: live, True),
    ],
)
def test_copies_honour_preconditions_on_their_source(
    base_url: str, live: Blob, call: str, condition: tuple[str, Callable[[int], int], bool]
) -> None:
    parameter, value, holds = condition
    source = live.bucket.get_blob("source")
    answer = WRITES[call](base_url, live.bucket.name, {parameter: str(value(source.generation))})

    assert answer.status_code == (200 if holds else 412)
    assert (live.bucket.blob("o").download_as_bytes() == b"new") is holds


@pytest.mark.parametrize("call", ALL)
def test_a_precondition_that_is_not_a_number_is_a_bad_request(base_url: str, live: Blob, call: str) -> None:
    answer = ALL[call](base_url, live.bucket.name, {"ifGenerationMatch": "newest"})

    assert answer.status_code == 400
    assert "ifGenerationMatch" in answer.text


def test_etags_are_preconditions_of_reads(live: Blob) -> None:
    live.reload(if_etag_match=live.etag)
    with pytest.raises(PreconditionFailed):
        live.reload(if_etag_match="another")
    with pytest.raises(NotModified):
        live.reload(if_etag_not_match=live.etag)


def test_the_client_raises_its_own_errors(live: Blob) -> None:
    stale = live.generation - 1
    with pytest.raises(PreconditionFailed):
        live.upload_from_string("new", if_generation_match=stale)
    with pytest.raises(PreconditionFailed):
        live.download_as_bytes(if_generation_match=stale)
    with pytest.raises(PreconditionFailed):
        live.delete(if_generation_match=stale)
    with pytest.raises(NotModified):
        live.reload(if_generation_not_match=live.generation)
