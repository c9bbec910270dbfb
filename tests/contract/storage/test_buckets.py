"""Buckets, judged by Google's client."""

from __future__ import annotations

import pytest
import requests
from google.api_core.exceptions import BadRequest, Conflict, NotFound, PreconditionFailed
from google.cloud.storage import Bucket, Client


def test_a_bucket_is_created_read_and_listed(client: Client) -> None:
    created = client.create_bucket("list-me-1")
    client.create_bucket("list-me-2")

    assert client.get_bucket("list-me-1").metageneration == created.metageneration == 1
    assert [found.name for found in client.list_buckets(prefix="list-me-")] == ["list-me-1", "list-me-2"]
    assert client.lookup_bucket("list-me-3") is None


def test_creating_a_bucket_twice_is_a_conflict(client: Client, bucket: Bucket) -> None:
    with pytest.raises(Conflict, match="you already own it") as refused:
        client.create_bucket(bucket.name)

    assert refused.value.errors[0]["reason"] == "conflict"


def test_a_missing_bucket_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="The specified bucket does not exist") as refused:
        client.get_bucket("nobody-made-me")

    assert refused.value.errors[0]["reason"] == "notFound"


@pytest.mark.parametrize("name", ["ab", "UPPER", "-start", "end-", "a..b", "x" * 64, "under the bridge", "../up"])
def test_a_name_that_google_refuses_is_refused(client: Client, name: str) -> None:
    with pytest.raises(BadRequest, match="Invalid bucket name"):
        client._post_resource("/b", {"name": name}, query_params={"project": "demo-dualdeploy"})


def test_labels_are_merged_by_patch_and_metageneration_grows(client: Client, bucket: Bucket) -> None:
    bucket.labels = {"a": "1", "b": "2"}
    bucket.patch()
    bucket.labels = {"b": "3"}
    bucket.patch()

    found = client.get_bucket(bucket.name)
    assert found.labels == {"b": "3"}
    assert found.metageneration == 3


def test_update_replaces_what_patch_would_merge(bucket: Bucket, base_url: str) -> None:
    url = f"{base_url}/storage/v1/b/{bucket.name}"
    requests.patch(url, json={"labels": {"a": "1"}, "location": "EU"}, timeout=5)

    assert requests.put(url, json={"labels": {"b": "1"}}, timeout=5).json()["labels"] == {"b": "1"}
    assert requests.get(url, timeout=5).json()["location"] == "US"


def test_a_bucket_that_holds_objects_is_not_deleted(client: Client, bucket: Bucket) -> None:
    bucket.blob("x").upload_from_string("x")
    with pytest.raises(Conflict, match="not empty"):
        bucket.delete()

    bucket.delete(force=True)
    assert not client.bucket(bucket.name).exists()


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
def test_every_bucket_call_honours_metageneration(bucket: Bucket, base_url: str, method: str) -> None:
    url = f"{base_url}/storage/v1/b/{bucket.name}"
    body = None if method in {"GET", "DELETE"} else {}

    stale = requests.request(method, url, params={"ifMetagenerationMatch": "9"}, json=body, timeout=5)
    excluded = requests.request(method, url, params={"ifMetagenerationNotMatch": "1"}, json=body, timeout=5)
    current = requests.request(method, url, params={"ifMetagenerationMatch": "1"}, json=body, timeout=5)

    assert stale.status_code == 412
    assert excluded.status_code == (304 if method == "GET" else 412)
    assert current.status_code == (204 if method == "DELETE" else 200)


def test_the_client_turns_a_stale_metageneration_into_its_own_error(bucket: Bucket) -> None:
    bucket.labels = {"a": "1"}
    with pytest.raises(PreconditionFailed):
        bucket.patch(if_metageneration_match=7)


def test_every_permission_asked_for_is_granted(bucket: Bucket) -> None:
    permissions = ["storage.objects.create", "storage.objects.get"]

    assert bucket.test_iam_permissions(permissions) == permissions
