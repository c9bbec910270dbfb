"""The three ways bytes become an object, judged by Google's client and by the protocol's own words."""

from __future__ import annotations

import base64
import io
import os

import google_crc32c
import pytest
import requests
from google.api_core.exceptions import BadRequest, NotFound
from google.cloud.storage import Bucket

from local_cloud.faults import Faults

CHUNK = 256 * 1024


class Unseekable(io.RawIOBase):
    """A stream whose length nobody knows beforehand, such as a pipe."""

    def __init__(self, data: bytes) -> None:
        self._source = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._source.read(size)

    def tell(self) -> int:
        return self._source.tell()


def crc32c_of(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


def test_an_upload_has_google_s_metadata(bucket: Bucket) -> None:
    blob = bucket.blob("folder/a.txt")
    blob.metadata = {"Camel": "Äpfel", "empty": ""}
    blob.cache_control = "no-store"
    blob.upload_from_string("hello", content_type="text/plain", checksum="md5")

    found = bucket.get_blob("folder/a.txt")
    assert found.metadata == {"Camel": "Äpfel", "empty": ""}
    assert (found.content_type, found.cache_control, found.size) == ("text/plain", "no-store", 5)
    assert (found.crc32c, found.md5_hash) == ("mnG7TA==", "XUFAKrxLKna5cZ2REBfFkg==")
    assert found.metageneration == 1
    assert found.time_created == found.updated
    assert found.id == f"{bucket.name}/folder/a.txt/{found.generation}"


def test_generations_strictly_increase_and_etags_differ(bucket: Bucket) -> None:
    seen = []
    # More would wait for the rate limit of one object.
    for _ in range(4):
        blob = bucket.blob("again")
        blob.upload_from_string("same bytes")
        seen.append((blob.generation, blob.etag))

    assert seen == sorted(set(seen))
    assert len({etag for _, etag in seen}) == 4


def test_a_media_upload_takes_its_type_from_the_request(bucket: Bucket, base_url: str) -> None:
    answer = requests.post(
        f"{base_url}/upload/storage/v1/b/{bucket.name}/o",
        params={"uploadType": "media", "name": "raw"},
        data=b"\0\r\n--\xff",
        headers={"Content-Type": "image/png"},
        timeout=5,
    )

    assert answer.json()["contentType"] == "image/png"
    assert bucket.blob("raw").download_as_bytes() == b"\0\r\n--\xff"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7])
def test_a_resumable_upload_keeps_every_byte(bucket: Bucket, size: int) -> None:
    data = os.urandom(size)
    bucket.blob("big", chunk_size=CHUNK).upload_from_file(io.BytesIO(data), checksum="crc32c")

    assert bucket.get_blob("big").size == size
    assert bucket.blob("big").download_as_bytes(checksum="md5") == data


@pytest.mark.parametrize("size", [CHUNK, 2 * CHUNK + 5])
def test_a_stream_of_unknown_length_is_uploaded(bucket: Bucket, size: int) -> None:
    data = os.urandom(size)
    bucket.blob("piped", chunk_size=CHUNK).upload_from_file(Unseekable(data))

    assert bucket.blob("piped").download_as_bytes() == data


def test_a_multipart_body_larger_than_a_block_is_split_at_its_boundary_only(bucket: Bucket) -> None:
    data = (b"\r\n--=" * 40_000) + os.urandom(5 * CHUNK)
    bucket.blob("multi").upload_from_string(data, checksum="crc32c")

    assert bucket.blob("multi").download_as_bytes() == data


def test_writing_through_the_file_interface_works(bucket: Bucket) -> None:
    with bucket.blob("file").open("wb", chunk_size=CHUNK) as file:
        for _ in range(5):
            file.write(b"x" * 100_000)

    with bucket.blob("file").open("rb") as file:
        assert file.read() == b"x" * 500_000


class TestResumableProtocol:
    """What a client sees that loses answers and asks where to go on."""

    @pytest.fixture
    def session(self, bucket: Bucket, base_url: str) -> str:
        return self.begin(bucket, base_url, "slow")

    def begin(self, bucket: Bucket, base_url: str, name: str, **parameters: str) -> str:
        answer = requests.post(
            f"{base_url}/upload/storage/v1/b/{bucket.name}/o",
            params={"uploadType": "resumable", "name": name, **parameters},
            json={"metadata": {"k": "v"}},
            headers={"X-Upload-Content-Type": "text/csv"},
            timeout=5,
        )
        assert answer.status_code == 200, answer.text
        return answer.headers["Location"]

    def put(self, session: str, data: bytes, content_range: str, **headers: str) -> requests.Response:
        headers["Content-Range"] = content_range
        return requests.put(session, data=data, headers=headers, timeout=5)

    def test_the_status_tells_how_far_it_got(self, session: str) -> None:
        nothing = self.put(session, b"", "bytes */*")
        first = self.put(session, b"a" * CHUNK, f"bytes 0-{CHUNK - 1}/*")
        status = self.put(session, b"", f"bytes */{CHUNK + 1}")
        last = self.put(session, b"b", f"bytes {CHUNK}-{CHUNK}/{CHUNK + 1}")
        again = self.put(session, b"", f"bytes */{CHUNK + 1}")

        assert (nothing.status_code, nothing.headers.get("Range")) == (308, None)
        assert (first.status_code, first.headers["Range"]) == (308, f"bytes=0-{CHUNK - 1}")
        assert (status.status_code, status.headers["Range"]) == (308, f"bytes=0-{CHUNK - 1}")
        assert last.status_code == 200
        assert (last.json()["contentType"], last.json()["metadata"]) == ("text/csv", {"k": "v"})
        assert again.json() == last.json()

    def test_a_chunk_that_comes_twice_counts_once(self, bucket: Bucket, session: str) -> None:
        self.put(session, b"a" * CHUNK, f"bytes 0-{CHUNK - 1}/*")
        repeated = self.put(session, b"a" * CHUNK, f"bytes 0-{CHUNK - 1}/*")
        overlapping = self.put(session, b"a" * CHUNK + b"bc", f"bytes 0-{CHUNK + 1}/{CHUNK + 2}")

        assert repeated.headers["Range"] == f"bytes=0-{CHUNK - 1}"
        assert overlapping.status_code == 200
        assert bucket.blob("slow").download_as_bytes() == b"a" * CHUNK + b"bc"

    def test_a_last_chunk_that_comes_twice_makes_one_generation(self, bucket: Bucket, session: str) -> None:
        first = self.put(session, b"all", "bytes 0-2/3")
        second = self.put(session, b"all", "bytes 0-2/3")

        assert first.json()["generation"] == second.json()["generation"]

    def test_a_gap_and_a_crooked_chunk_are_refused_and_forgotten(self, session: str) -> None:
        assert self.put(session, b"x" * CHUNK, f"bytes {CHUNK}-{2 * CHUNK - 1}/*").status_code == 400
        assert self.put(session, b"xyz", "bytes 0-2/*").status_code == 400
        assert self.put(session, b"xyz", "bytes 0-9/10").status_code == 400
        assert self.put(session, b"xyz", "bits 0-2/3").status_code == 400
        assert "Range" not in self.put(session, b"", "bytes */*").headers

    def test_a_cancelled_session_is_gone(self, session: str) -> None:
        assert requests.delete(session, timeout=5).status_code == 499
        assert self.put(session, b"", "bytes */*").status_code == 404

    def test_a_precondition_is_checked_when_it_begins_and_when_it_ends(self, bucket: Bucket, base_url: str) -> None:
        session = self.begin(bucket, base_url, "raced", ifGenerationMatch="0")
        bucket.blob("raced").upload_from_string("first")

        assert self.put(session, b"late", "bytes 0-3/4").status_code == 412
        assert bucket.blob("raced").download_as_bytes() == b"first"
        assert self.put(session, b"", "bytes */*").status_code == 404
        refused = requests.post(
            f"{base_url}/upload/storage/v1/b/{bucket.name}/o",
            params={"uploadType": "resumable", "name": "raced", "ifGenerationMatch": "0"},
            timeout=5,
        )
        assert refused.status_code == 412

    def test_a_wrong_checksum_at_the_end_is_refused(self, bucket: Bucket, session: str) -> None:
        answer = self.put(session, b"all", "bytes 0-2/3", **{"X-Goog-Hash": "crc32c=AAAAAA=="})

        assert answer.status_code == 400
        assert not bucket.blob("slow").exists()


def test_a_lost_answer_is_made_good_by_the_client_s_own_retry(bucket: Bucket, faults: Faults) -> None:
    data = os.urandom(2 * CHUNK)
    blob = bucket.blob("retried", chunk_size=CHUNK)
    with faults.plan({"storage.objects.insert": ["return-503", "lost-response"]}):
        blob.upload_from_file(io.BytesIO(data), if_generation_match=0)

    assert bucket.blob("retried").download_as_bytes() == data


@pytest.mark.parametrize("algorithm", ["crc32c", "md5"])
def test_wrong_checksums_are_refused_and_leave_nothing(bucket: Bucket, algorithm: str) -> None:
    blob = bucket.blob("wrong")
    setattr(blob, {"crc32c": "crc32c", "md5": "md5_hash"}[algorithm], "AAAAAA==")
    with pytest.raises(BadRequest, match="doesn't match calculated"):
        blob.upload_from_string("hello", checksum=None)

    assert not bucket.blob("wrong").exists()


def test_a_right_checksum_is_accepted(bucket: Bucket) -> None:
    blob = bucket.blob("right")
    blob.crc32c = crc32c_of(b"hello")
    blob.upload_from_string("hello", checksum=None)

    assert bucket.get_blob("right").crc32c == crc32c_of(b"hello")


def test_uploading_to_a_missing_bucket_is_not_found(bucket: Bucket) -> None:
    with pytest.raises(NotFound, match="bucket does not exist"):
        bucket.client.bucket("not-there-at-all").blob("x").upload_from_string("x")


@pytest.mark.parametrize(
    ("parameters", "content_type", "body", "words"),
    [
        ({"uploadType": "magic"}, "", b"", "uploadType"),
        ({"uploadType": "media"}, "", b"x", "name"),
        ({"uploadType": "media", "name": "x", "ifGenerationMatch": "one"}, "", b"x", "ifGenerationMatch"),
        ({"uploadType": "multipart"}, "text/plain", b"x", "boundary"),
        ({"uploadType": "multipart"}, "multipart/related; boundary=b", b"--b\r\n", "boundary"),
        ({"uploadType": "multipart"}, "multipart/related; boundary=b", b"--b\r\n\r\n{no\r\n--b\r\n", "JSON"),
        ({"uploadType": "resumable", "name": "x"}, "", b"[1]", "JSON object"),
        ({"uploadType": "resumable", "name": "x"}, "", b'{"metadata": {"a": 1}}', "metadata.a"),
    ],
)
def test_a_malformed_upload_is_a_bad_request_that_says_why(
    bucket: Bucket, parameters: dict[str, str], content_type: str, body: bytes, words: str
) -> None:
    url = f"{bucket.client.api_endpoint}/upload/storage/v1/b/{bucket.name}/o"
    answer = requests.post(url, params=parameters, headers={"Content-Type": content_type}, data=body, timeout=5)

    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
