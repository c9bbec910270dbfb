"""Bytes coming back: whole, in ranges, by generation, and through signed URLs."""

from __future__ import annotations

import datetime
import gzip
import re

import google.auth.credentials
import pytest
import requests
from google.api_core.exceptions import NotFound, RequestRangeNotSatisfiable
from google.cloud.storage import Bucket, transfer_manager


class Signer(google.auth.credentials.AnonymousCredentials, google.auth.credentials.Signing):
    """A credential that can sign; nobody checks what."""

    signer = None
    signer_email = "signer@demo-dualdeploy.iam.gserviceaccount.com"

    def sign_bytes(self, message: bytes) -> bytes:
        return b"signature"


@pytest.fixture
def digits(bucket: Bucket) -> Bucket:
    bucket.blob("digits").upload_from_string("0123456789", content_type="text/plain")
    return bucket


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=2-4", (206, "bytes 2-4/10", b"234")),
        ("bytes=7-", (206, "bytes 7-9/10", b"789")),
        ("bytes=7-99", (206, "bytes 7-9/10", b"789")),
        ("bytes=-3", (206, "bytes 7-9/10", b"789")),
        ("bytes=-99", (206, "bytes 0-9/10", b"0123456789")),
        ("bytes=0-0", (206, "bytes 0-0/10", b"0")),
        ("bytes=5-2", (200, None, b"0123456789")),
        ("bytes=-", (200, None, b"0123456789")),
        ("lines=1-2", (200, None, b"0123456789")),
    ],
)
def test_a_range_selects_bytes(
    digits: Bucket, base_url: str, header: str, expected: tuple[int, str | None, bytes]
) -> None:
    url = f"{base_url}/download/storage/v1/b/{digits.name}/o/digits?alt=media"
    answer = requests.get(url, headers={"Range": header}, timeout=5)

    assert (answer.status_code, answer.headers.get("Content-Range"), answer.content) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_a_range_behind_the_end_is_416(digits: Bucket, base_url: str, header: str) -> None:
    url = f"{base_url}/storage/v1/b/{digits.name}/o/digits?alt=media"
    answer = requests.get(url, headers={"Range": header}, timeout=5)

    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */10")
    assert answer.json()["error"]["errors"][0]["reason"] == "requestedRangeNotSatisfiable"


def test_the_client_reads_ranges(digits: Bucket) -> None:
    blob = digits.blob("digits")

    assert blob.download_as_bytes(start=3, end=5) == b"345"
    assert blob.download_as_bytes(start=8) == b"89"
    with pytest.raises(RequestRangeNotSatisfiable):
        blob.download_as_bytes(start=10)


def test_an_empty_object_downloads_as_nothing(bucket: Bucket) -> None:
    bucket.blob("empty").upload_from_string("")

    assert bucket.blob("empty").download_as_bytes() == b""


def test_chunked_and_concurrent_downloads_agree(bucket: Bucket, tmp_path: object) -> None:
    data = bytes(range(256)) * 4096
    bucket.blob("large").upload_from_string(data)

    assert bucket.blob("large", chunk_size=256 * 1024).download_as_bytes() == data
    target = f"{tmp_path}/large"
    transfer_manager.download_chunks_concurrently(
        bucket.blob("large"), target, chunk_size=300_000, worker_type=transfer_manager.THREAD, max_workers=3
    )
    with open(target, "rb") as file:  # noqa: PTH123  # the client wrote a plain path
        assert file.read() == data


def test_an_older_generation_is_not_found(bucket: Bucket) -> None:
    blob = bucket.blob("versions")
    blob.upload_from_string("one")
    old = blob.generation
    blob.upload_from_string("two")

    assert bucket.blob("versions", generation=blob.generation).download_as_bytes() == b"two"
    with pytest.raises(NotFound, match="No such object"):
        bucket.blob("versions", generation=old).download_as_bytes()
    assert bucket.get_blob("versions", generation=old) is None


def test_a_download_that_is_overtaken_by_an_overwrite_ends_with_what_it_began(bucket: Bucket, base_url: str) -> None:
    before, after = b"b" * 30_000_000, b"a" * 30_000_000
    bucket.blob("overtaken").upload_from_string(before)
    url = f"{base_url}/storage/v1/b/{bucket.name}/o/overtaken?alt=media"
    with requests.get(url, stream=True, timeout=10) as answer:
        first = answer.raw.read(1000)
        bucket.blob("overtaken").upload_from_string(after)
        rest = answer.raw.read()

    assert first + rest == before


def test_headers_tell_hashes_generation_and_metadata(bucket: Bucket, base_url: str) -> None:
    blob = bucket.blob("described")
    blob.metadata = {"plain": "text", "fancy": "Ä"}
    blob.upload_from_string("hello")
    answer = requests.head(f"{base_url}/download/storage/v1/b/{bucket.name}/o/described?alt=media", timeout=5)

    assert answer.headers["X-Goog-Hash"] == "crc32c=mnG7TA==,md5=XUFAKrxLKna5cZ2REBfFkg=="
    assert answer.headers["X-Goog-Generation"] == str(blob.generation)
    assert answer.headers["Content-Length"] == "5"
    assert answer.headers["x-goog-meta-plain"] == "text"
    assert "x-goog-meta-fancy" not in answer.headers


def test_a_gzip_encoded_object_is_decoded_by_the_client_and_raw_on_request(bucket: Bucket) -> None:
    packed = gzip.compress(b"plain text" * 1000)
    blob = bucket.blob("packed")
    blob.content_encoding = "gzip"
    blob.upload_from_string(packed, content_type="text/plain")

    assert bucket.blob("packed").download_as_bytes() == b"plain text" * 1000
    assert bucket.blob("packed").download_as_bytes(raw_download=True) == packed


def test_a_signed_url_downloads_the_object_whatever_its_name(bucket: Bucket) -> None:
    blob = bucket.blob("models/v 1/a?b#c%2F.tflite")
    blob.upload_from_string("weights", content_type="application/octet-stream")
    url = blob.generate_signed_url(
        version="v4",
        expiration=datetime.timedelta(minutes=10),
        credentials=Signer(),
        response_disposition="attachment",
        response_type="text/x-model",
    )
    answer = requests.get(url, timeout=5)

    assert answer.content == b"weights"
    assert answer.headers["Content-Type"] == "text/x-model"
    assert answer.headers["Content-Disposition"] == "attachment"


def test_a_signed_url_uploads_an_object(bucket: Bucket) -> None:
    url = bucket.blob("signed/up").generate_signed_url(version="v4", expiration=60, method="PUT", credentials=Signer())
    answer = requests.put(url, data=b"from a browser", headers={"Content-Type": "text/plain"}, timeout=5)

    assert answer.status_code == 200
    assert bucket.get_blob("signed/up").content_type == "text/plain"


def test_a_signed_url_expires(digits: Bucket) -> None:
    url = digits.blob("digits").generate_signed_url(version="v4", expiration=60, credentials=Signer())
    expired = url.replace("X-Goog-Date=2", "X-Goog-Date=1")

    answer = requests.get(expired, timeout=5)
    assert answer.status_code == 400
    assert "<Code>ExpiredToken</Code><Message>The provided token has expired.</Message>" in answer.text


def test_a_signed_url_that_is_dated_far_ahead_is_refused(digits: Bucket) -> None:
    url = digits.blob("digits").generate_signed_url(version="v4", expiration=60, credentials=Signer())
    dated = re.search(r"X-Goog-Date=(\d{8}T\d{6}Z)", url)
    assert dated
    for minutes, status in ((14, 200), (16, 403)):
        ahead = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
        answer = requests.get(url.replace(dated[1], f"{ahead:%Y%m%dT%H%M%SZ}"), timeout=5)
        assert answer.status_code == status
    assert "<Code>AccessDenied</Code>" in answer.text


def test_a_call_that_is_not_served_says_so_instead_of_blaming_a_bucket(base_url: str) -> None:
    answer = requests.get(f"{base_url}/storage/v1/b/some/unknownThings", timeout=5)

    assert answer.status_code == 404
    assert "COVERAGE.md" in answer.json()["error"]["message"]
