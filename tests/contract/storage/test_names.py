"""Object names are data: whatever they look like, they come back as they went in and touch no other file."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.api_core.exceptions import BadRequest
from google.cloud.storage import Bucket, Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_cloud.storage import Storage

ODD_NAMES = [
    "plain",
    "with space",
    " leading and trailing ",
    "a/b/c",
    "a//b",
    "/leading",
    "trailing/",
    "//",
    "100%",
    "%2F",
    "a%20b",
    "a+b",
    "what?#&=;:@!$'()*,",
    'quote"back\\slash',
    "../../escape",
    "./here",
    "a/../b",
    "...",
    "tab\there",
    "zero\0byte",
    "umlaut ä",
    "日本語/ファイル",
    "emoji 🎉",
    "e\u0301 is not é",
    "copyTo/b/x/o/y",
    "x/rewriteTo/b/x/o/y",
    "compose",
    "x" * 1024,
    "ü" * 512,
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_comes_back_as_it_went_in(bucket: Bucket, name: str) -> None:
    blob = bucket.blob(name)
    blob.upload_from_string(name)
    blob.metadata = {"touched": "yes"}
    blob.patch()
    bucket.copy_blob(blob, bucket, f"c{name[:-1]}")

    assert [found.name for found in bucket.list_blobs(prefix=name)] == [name]
    assert bucket.get_blob(name).metageneration == 2
    assert bucket.blob(name).download_as_bytes() == name.encode()
    assert bucket.blob(f"c{name[:-1]}").download_as_bytes() == name.encode()
    blob.delete()
    assert not blob.exists()


@pytest.mark.parametrize("name", ["x" * 1025, "ü" * 513, "line\nbreak", "carriage\rreturn", ".", ".."])
def test_a_name_that_google_refuses_is_refused(bucket: Bucket, name: str) -> None:
    with pytest.raises(BadRequest, match="Invalid object name"):
        bucket.blob(name).upload_from_string("x")


def test_no_name_becomes_a_path(bucket: Bucket, emulator: Storage, tmp_path: Path) -> None:
    folder = emulator.state.blobs.path("x").parent
    for name in [f"{tmp_path}/absolute", "../../../climbing", "..%2F..%2Fquoted"]:
        bucket.blob(name).upload_from_string("x")

    assert list(tmp_path.iterdir()) == []
    assert all(len(path.name) == 32 and path.name.isalnum() for path in folder.iterdir())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=60).filter(
        lambda text: text not in {".", ".."}
    )
)
def test_any_name_round_trips(client: Client, emulator: Storage, name: str) -> None:
    emulator.ensure_bucket("any-name", project="demo-dualdeploy")
    blob = client.bucket("any-name").blob(name)
    blob.upload_from_string(name)

    assert client.bucket("any-name").blob(name).download_as_bytes() == name.encode()
    assert name in {found.name for found in client.list_blobs("any-name", prefix=name)}
