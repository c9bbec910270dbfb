"""Listing, metadata, deletion, copies, compositions and batches, judged by Google's client."""

from __future__ import annotations

import pytest
import requests
from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed
from google.cloud.storage import Bucket, Client


def names(bucket: Bucket, **arguments: object) -> list[str]:
    return [blob.name for blob in bucket.list_blobs(**arguments)]


@pytest.fixture
def tree(bucket: Bucket) -> Bucket:
    for name in ["a.txt", "b/1.txt", "b/2.csv", "b/c/3.txt", "b/c/", "d.txt", "é/4.txt", "z"]:
        bucket.blob(name).upload_from_string(name)
    return bucket


def test_objects_are_listed_in_utf8_order(tree: Bucket) -> None:
    assert names(tree) == ["a.txt", "b/1.txt", "b/2.csv", "b/c/", "b/c/3.txt", "d.txt", "z", "é/4.txt"]


def test_a_prefix_and_a_delimiter_make_folders(tree: Bucket) -> None:
    top = tree.list_blobs(delimiter="/")
    inner = tree.list_blobs(prefix="b/", delimiter="/")

    assert [blob.name for blob in top] == ["a.txt", "d.txt", "z"]
    assert top.prefixes == {"b/", "é/"}
    assert [blob.name for blob in inner] == ["b/1.txt", "b/2.csv"]
    assert inner.prefixes == {"b/c/"}


def test_a_folder_object_is_listed_where_it_was_asked_for(tree: Bucket) -> None:
    listing = tree.list_blobs(prefix="b/", delimiter="/", include_trailing_delimiter=True)

    assert [blob.name for blob in listing] == ["b/1.txt", "b/2.csv", "b/c/"]


def test_offsets_cut_the_listing(tree: Bucket) -> None:
    assert names(tree, start_offset="b/2.csv", end_offset="d.txt") == ["b/2.csv", "b/c/", "b/c/3.txt"]
    assert names(tree, start_offset="a", prefix="z") == ["z"]


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.txt", ["a.txt", "d.txt"]),
        ("**.txt", ["a.txt", "b/1.txt", "b/c/3.txt", "d.txt", "é/4.txt"]),
        ("b/*", ["b/1.txt", "b/2.csv"]),
        ("b/?.{txt,csv}", ["b/1.txt", "b/2.csv"]),
        ("[a-c].txt", ["a.txt"]),
        ("[!a].txt", ["d.txt"]),
        ("b.", []),
    ],
)
def test_a_glob_selects_names(tree: Bucket, glob: str, found: list[str]) -> None:
    assert names(tree, match_glob=glob) == found


@pytest.mark.parametrize("page_size", [1, 2, 3, 7])
@pytest.mark.parametrize("delimiter", [None, "/"])
def test_pages_together_are_the_whole_listing(tree: Bucket, page_size: int, delimiter: str | None) -> None:
    whole = tree.list_blobs(delimiter=delimiter)
    expected = [blob.name for blob in whole]
    paged = tree.list_blobs(delimiter=delimiter, page_size=page_size)
    pages = [[blob.name for blob in page] for page in paged.pages]

    assert [name for page in pages for name in page] == expected
    assert all(len(page) <= page_size for page in pages)
    assert paged.prefixes == whole.prefixes
    assert names(tree, max_results=3) == names(tree)[:3]


def test_a_page_shows_what_was_created_behind_it_meanwhile(bucket: Bucket, base_url: str) -> None:
    url = f"{base_url}/storage/v1/b/{bucket.name}/o"
    for name in ["a", "c"]:
        bucket.blob(name).upload_from_string("")
    first = requests.get(url, params={"maxResults": "1"}, timeout=5).json()
    bucket.blob("b").upload_from_string("")
    second = requests.get(url, params={"pageToken": first["nextPageToken"]}, timeout=5).json()

    assert [item["name"] for item in second["items"]] == ["b", "c"]


@pytest.mark.parametrize(
    "parameters", [{"maxResults": "0"}, {"maxResults": "x"}, {"pageToken": "?"}, {"matchGlob": "{a"}]
)
def test_a_malformed_listing_is_a_bad_request(bucket: Bucket, base_url: str, parameters: dict[str, str]) -> None:
    answer = requests.get(f"{base_url}/storage/v1/b/{bucket.name}/o", params=parameters, timeout=5)

    assert answer.status_code == 400
    assert next(iter(parameters)) in answer.json()["error"]["message"]


def test_listing_a_missing_bucket_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound):
        list(client.list_blobs("no-such-bucket-at-all"))


def test_patch_merges_custom_metadata_and_keeps_the_generation(bucket: Bucket) -> None:
    blob = bucket.blob("patched")
    blob.metadata = {"keep": "1", "drop": "2"}
    blob.upload_from_string("x", content_type="text/plain")
    generation = blob.generation
    blob.metadata = {"drop": None, "new": "3"}
    blob.content_type = "text/html"
    blob.patch()

    found = bucket.get_blob("patched")
    assert found.metadata == {"keep": "1", "new": "3"}
    assert (found.content_type, found.generation, found.metageneration) == ("text/html", generation, 2)
    assert found.updated > found.time_created


def test_update_replaces_all_metadata(bucket: Bucket, base_url: str) -> None:
    blob = bucket.blob("updated")
    blob.metadata = {"old": "1"}
    blob.upload_from_string("x", content_type="text/plain")
    url = f"{base_url}/storage/v1/b/{bucket.name}/o/updated"
    answer = requests.put(url, json={"metadata": {"new": "2"}}, timeout=5).json()

    assert answer["metadata"] == {"new": "2"}
    assert answer["contentType"] == "application/octet-stream"


def test_metadata_that_is_not_text_is_refused(bucket: Bucket) -> None:
    blob = bucket.blob("numbers")
    blob.upload_from_string("x")
    with pytest.raises(BadRequest, match=r"metadata\.size"):
        bucket.client._patch_resource(blob.path, {"metadata": {"size": 3}})


def test_a_deleted_object_is_gone(bucket: Bucket) -> None:
    blob = bucket.blob("gone")
    blob.upload_from_string("x")
    blob.delete()

    assert not blob.exists()
    with pytest.raises(NotFound, match="No such object"):
        blob.delete()


def test_a_copy_keeps_content_and_metadata_and_is_a_new_generation(bucket: Bucket, client: Client) -> None:
    source = bucket.blob("source/a b")
    source.metadata = {"k": "v"}
    source.upload_from_string("content", content_type="text/x")
    other = client.create_bucket(f"{bucket.name}-2")
    copy = bucket.copy_blob(source, other, "copy/of it")
    source.delete()

    found = other.get_blob("copy/of it")
    assert (found.metadata, found.content_type, found.metageneration) == ({"k": "v"}, "text/x", 1)
    assert found.generation == copy.generation > source.generation
    assert found.download_as_bytes() == b"content"


def test_a_rewrite_may_change_metadata(bucket: Bucket) -> None:
    source = bucket.blob("source")
    source.metadata = {"k": "v"}
    source.upload_from_string("content", content_type="text/x")
    target = bucket.blob("target")
    target.metadata = {"own": "1"}
    token, rewritten, size = target.rewrite(source)

    assert (token, rewritten, size) == (None, 7, 7)
    found = bucket.get_blob("target")
    assert (found.metadata, found.content_type) == ({"own": "1"}, "text/x")


def test_a_copy_of_a_missing_object_is_not_found(bucket: Bucket) -> None:
    with pytest.raises(NotFound):
        bucket.copy_blob(bucket.blob("nothing"), bucket, "copy")


def test_a_storage_class_is_changed_by_rewriting(bucket: Bucket) -> None:
    blob = bucket.blob("cold")
    blob.upload_from_string("x")
    blob.update_storage_class("NEARLINE")

    assert bucket.get_blob("cold").storage_class == "NEARLINE"


def test_parts_are_composed_in_order(bucket: Bucket) -> None:
    parts = [bucket.blob(f"part-{number}") for number in range(3)]
    for number, part in enumerate(parts):
        part.upload_from_string(f"<{number}>", content_type="text/x")
    whole = bucket.blob("whole")
    whole.compose(parts)
    whole.compose([whole, *parts])

    found = bucket.get_blob("whole")
    assert found.download_as_bytes() == b"<0><1><2><0><1><2>"
    assert (found.component_count, found.md5_hash, found.content_type) == (6, None, "text/x")


def test_composing_checks_each_source_s_generation(bucket: Bucket) -> None:
    part = bucket.blob("part")
    part.upload_from_string("x")
    whole = bucket.blob("whole")
    whole.compose([part], if_source_generation_match=[part.generation])
    with pytest.raises(PreconditionFailed):
        whole.compose([part], if_source_generation_match=[part.generation + 1])
    with pytest.raises(NotFound):
        whole.compose([bucket.blob("nothing")])
    with pytest.raises(BadRequest, match="sourceObjects"):
        whole.compose([])


def test_a_batch_deletes_many_and_answers_each(bucket: Bucket, client: Client) -> None:
    for number in range(5):
        bucket.blob(f"batch/{number} %").upload_from_string("x")
    with client.batch():
        for number in range(5):
            bucket.blob(f"batch/{number} %").delete()

    assert names(bucket) == []


def test_a_batch_with_one_failing_call_does_the_others(bucket: Bucket, client: Client) -> None:
    bucket.blob("there").upload_from_string("x")

    def delete_both() -> None:
        with client.batch():
            bucket.blob("missing").delete()
            bucket.blob("there").delete()

    with pytest.raises(NotFound, match="No such object"):
        delete_both()

    assert names(bucket) == []


def test_a_batch_patches_with_a_body_and_returns_resources(bucket: Bucket, client: Client) -> None:
    blob = bucket.blob("in batch")
    blob.upload_from_string("x")
    with client.batch(raise_exception=False) as batch:
        blob.metadata = {"a": "ü"}
        blob.patch()
        bucket.blob("missing").patch()

    assert [response.status_code for response in batch._responses] == [200, 404]
    assert blob.metageneration == 2
    assert bucket.get_blob("in batch").metadata == {"a": "ü"}


def test_a_body_that_is_not_a_batch_is_refused(base_url: str) -> None:
    answer = requests.post(f"{base_url}/batch/storage/v1", data=b"x", timeout=5)

    assert answer.status_code == 400
    assert "multipart/mixed" in answer.json()["error"]["message"]
