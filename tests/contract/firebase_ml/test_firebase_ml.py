"""Firebase ML, as firebase_admin sees it.

The expectations of the first half are those of firebase-admin's own integration tests, which Google runs
against the real service.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest
import requests
from firebase_admin import exceptions, ml


def test_a_model_with_a_file_is_created_verified(firebase: Any) -> None:
    data = firebase.tflite()
    model = ml.create_model(firebase.model("flowers", data, ["run-r1"]))
    assert (model.display_name, model.tags) == ("flowers", ["run-r1"])
    assert model.create_time
    assert model.update_time
    assert model.etag
    assert (model.locked, model.published, model.validation_error) == (False, False, None)
    assert model.model_hash == hashlib.sha256(data).hexdigest()
    assert model.model_format.size_bytes == str(len(data))
    assert model.model_format.model_source.gcs_tflite_uri.startswith("gs://")


def test_a_model_without_a_file_says_so(firebase: Any) -> None:
    model = ml.create_model(firebase.model("empty"))
    assert model.model_format is None
    assert model.validation_error == "No model file has been uploaded."
    assert model.published is False


def test_a_taken_display_name_is_refused(firebase: Any) -> None:
    ml.create_model(firebase.model("flowers"))
    with pytest.raises(exceptions.AlreadyExistsError, match="Model 'flowers' already exists"):
        ml.create_model(firebase.model("flowers"))
    other = ml.create_model(firebase.model("trees"))
    other.display_name = "flowers"
    with pytest.raises(exceptions.AlreadyExistsError):
        ml.update_model(other)


@pytest.mark.parametrize(
    "data",
    [b"not a model", b"", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 40, b"\x08\x00\x00\x00TFL3"],
    ids=["text", "empty", "garbage", "cut off"],
)
def test_a_file_that_is_not_a_model_leaves_a_model_that_cannot_be_published(firebase: Any, data: bytes) -> None:
    model = ml.create_model(firebase.model("broken", data))
    assert model.validation_error == "Invalid flatbuffer format"
    assert model.model_hash is None
    assert model.model_format.size_bytes is None
    with pytest.raises(exceptions.FailedPreconditionError, match="Cannot publish a model that is not verified"):
        ml.publish_model(model.model_id)


def test_another_schema_version_is_refused(firebase: Any) -> None:
    model = ml.create_model(firebase.model("old", firebase.tflite(version=1)))
    assert model.validation_error == "Invalid model version 1"


def test_a_model_is_published_and_unpublished(firebase: Any) -> None:
    model = ml.create_model(firebase.model("flowers", firebase.tflite()))
    assert ml.publish_model(model.model_id).published is True
    assert ml.unpublish_model(model.model_id).published is False


def test_an_update_replaces_the_file_and_stays_published(firebase: Any) -> None:
    model = ml.create_model(firebase.model("flowers", firebase.tflite("first")))
    published = ml.publish_model(model.model_id)
    published.model_format = ml.TFLiteFormat(model_source=firebase.source(firebase.tflite("second")))
    updated = ml.update_model(published)
    assert updated.model_hash == hashlib.sha256(firebase.tflite("second")).hexdigest()
    assert updated.published is True
    assert updated.model_id == model.model_id


def test_an_update_read_before_another_change_is_refused_by_its_etag(firebase: Any) -> None:
    stale = ml.create_model(firebase.model("flowers", firebase.tflite()))
    ml.publish_model(stale.model_id)
    stale.tags = ["late"]
    with pytest.raises(exceptions.AbortedError, match="etag"):
        ml.update_model(stale)


def test_a_broken_update_ends_the_publication(firebase: Any) -> None:
    model = ml.publish_model(ml.create_model(firebase.model("flowers", firebase.tflite())).model_id)
    model.model_format = ml.TFLiteFormat(model_source=firebase.source(b"broken"))
    updated = ml.update_model(model)
    assert (updated.published, updated.validation_error) == (False, "Invalid flatbuffer format")


def test_a_missing_source_object_is_reported_on_the_model(firebase: Any) -> None:
    firebase.source(firebase.tflite())
    missing = ml.TFLiteGCSModelSource("gs://demo-dualdeploy-models/absent.tflite")
    model = ml.create_model(ml.Model(display_name="absent", model_format=ml.TFLiteFormat(model_source=missing)))
    assert "absent.tflite was not found" in model.validation_error


def test_models_are_listed_by_name_and_tag_and_page_by_page(firebase: Any) -> None:
    for index in range(3):
        ml.create_model(firebase.model(f"flowers-{index}", tags=["common", f"run-{index}"]))

    def found(text: str) -> list[str]:
        return [model.display_name for model in ml.list_models(list_filter=text).iterate_all()]

    assert found("display_name = flowers-1 AND tags: run-1") == ["flowers-1"]
    assert found("display_name = flowers-1 AND tags: run-2") == []
    assert found("displayName=flowers-0 OR tags:run-2") == ["flowers-0", "flowers-2"]
    assert found("tags: 'common'") == ["flowers-0", "flowers-1", "flowers-2"]
    page = ml.list_models(page_size=2)
    assert [model.display_name for model in page.models] == ["flowers-0", "flowers-1"]
    assert [model.display_name for model in page.get_next_page().models] == ["flowers-2"]
    with pytest.raises(exceptions.InvalidArgumentError):
        ml.list_models(list_filter="InvalidFilterParam=123")


def test_a_deleted_model_is_gone_for_every_call(firebase: Any) -> None:
    model = ml.create_model(firebase.model("flowers"))
    ml.delete_model(model.model_id)
    for call in (ml.get_model, ml.delete_model):
        with pytest.raises(exceptions.NotFoundError, match=r"Requested entity was not found\."):
            call(model.model_id)
    for call in (ml.publish_model, ml.unpublish_model):
        with pytest.raises(exceptions.NotFoundError, match="was not found"):
            call(model.model_id)
    with pytest.raises(exceptions.NotFoundError, match="was not found"):
        ml.update_model(model)


@pytest.mark.parametrize(
    "body", [{"displayName": "a b"}, {"displayName": "x" * 33}, {}, {"displayName": "a", "tags": ["a b"]}]
)
def test_malformed_names_and_tags_are_refused(firebase: Any, body: dict[str, Any]) -> None:
    response = requests.post(f"{firebase.url}/models", json=body, timeout=5)
    assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_an_unsigned_or_expired_url_is_not_a_source(firebase: Any) -> None:
    firebase.source(firebase.tflite(), "signed.tflite")
    url = f"http://{firebase.storage.address}/demo-dualdeploy-models/signed.tflite"
    body = {"displayName": "flowers", "tfliteModel": {"gcsTfliteUri": url}}
    assert requests.post(f"{firebase.url}/models", json=body, timeout=5).status_code == 400
    signed = f"{url}?X-Goog-Signature=00&X-Goog-Date=20200101T000000Z&X-Goog-Expires=600"
    body = {"displayName": "flowers", "tfliteModel": {"gcsTfliteUri": signed}}
    model = requests.post(f"{firebase.url}/models", json=body, timeout=5).json()["response"]
    assert "has expired" in model["state"]["validationError"]["message"]


def test_a_model_is_locked_while_its_file_is_read(slow_firebase: Any) -> None:
    model = ml.create_model(slow_firebase.model("flowers", slow_firebase.tflite()))
    assert model.locked
    with pytest.raises(exceptions.FailedPreconditionError):
        ml.publish_model(model.model_id)
    with pytest.raises(exceptions.FailedPreconditionError, match="locked"):
        ml.delete_model(model.model_id)
    model.wait_for_unlocked(max_time_seconds=10)
    assert (model.locked, model.validation_error) == (False, None)
    assert ml.publish_model(model.model_id).published is True


def test_an_operation_and_its_model_survive_a_restart(slow_firebase: Any) -> None:
    body = {
        "displayName": "flowers",
        "tfliteModel": {"gcsTfliteUri": slow_firebase.source(slow_firebase.tflite()).gcs_tflite_uri},
    }
    operation = requests.post(f"{slow_firebase.url}/models", json=body, timeout=5).json()
    assert operation["metadata"]["@type"].endswith("ModelOperationMetadata")
    slow_firebase.restart()
    url = slow_firebase.url.partition("/projects")[0]
    deadline = time.monotonic() + 30
    while not (found := requests.get(f"{url}/{operation['name']}", timeout=5).json()).get("done"):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert found["response"]["modelHash"]
    listed = requests.get(f"{slow_firebase.url}/models", timeout=5).json()["models"]
    assert [model["displayName"] for model in listed] == ["flowers"]


def test_a_phone_downloads_what_is_published_and_only_once(firebase: Any) -> None:
    data = firebase.tflite()
    model = ml.create_model(firebase.model("flowers", data))
    url = f"{firebase.url}/models/flowers:download"
    assert requests.get(url, timeout=5).status_code == 404
    ml.publish_model(model.model_id)
    answer = requests.get(url, timeout=5)
    assert answer.headers["ETag"] == model.model_hash
    assert answer.json()["sizeBytes"] == str(len(data))
    assert len(answer.json()["expireTime"]) == len("2026-11-22T00:00:00.000Z")
    assert requests.get(answer.json()["downloadUri"], timeout=5).content == data
    again = requests.get(url, headers={"If-None-Match": model.model_hash}, timeout=5)
    assert (again.status_code, again.content) == (304, b"")


def test_overwriting_the_source_object_changes_no_published_model(firebase: Any) -> None:
    source = firebase.source(firebase.tflite("first"), "same-name.tflite")
    model_format = ml.TFLiteFormat(model_source=source)
    model = ml.create_model(ml.Model(display_name="flowers", model_format=model_format))
    ml.publish_model(model.model_id)
    firebase.source(firebase.tflite("second"), "same-name.tflite")
    answer = requests.get(f"{firebase.url}/models/flowers:download", timeout=5).json()
    assert requests.get(answer["downloadUri"], timeout=5).content == firebase.tflite("first")


def test_firebase_admin_repeats_a_lost_create_by_itself_and_hears_that_the_name_is_taken(firebase: Any) -> None:
    model = firebase.model("flowers", firebase.tflite())
    with (
        firebase.faults.plan({"firebaseml.models.create": ["lost-response"]}),
        pytest.raises(exceptions.AlreadyExistsError),
    ):
        ml.create_model(model)
    assert [found.display_name for found in ml.list_models().iterate_all()] == ["flowers"]


def test_unavailable_storage_ends_the_operation_with_an_error(firebase: Any) -> None:
    model = firebase.model("flowers", firebase.tflite())
    with (
        firebase.faults.plan({"storage.objects.get": ["return-503"]}),
        pytest.raises(exceptions.UnavailableError, match="Cloud Storage answered 503"),
    ):
        ml.create_model(model)
