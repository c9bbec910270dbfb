"""Leaving Firebase ML: every hosted model ends in the bucket that phones read, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.object_store import ABSENT
from mobile_publisher import tflite_metadata
from mobile_publisher.migrate import Migrated, Migration
from support.command_line import invoke, session
from support.fakes import Failing, FakeFirebaseMl, MemoryObjectStore
from support.fakes.failing import ProcessDied


def bucket() -> MemoryObjectStore:
    return MemoryObjectStore("demo-mobile")


@pytest.fixture
def firebase(tiny_float32: bytes) -> FakeFirebaseMl:
    """Two published models, one that is not, and one whose file is bad."""
    described = tflite_metadata.describe(
        tiny_float32, name="a", description="", labels=("red", "green", "blue"), image_size=8, version="1", extra={}
    )
    files = {"gs://old/birds": described, "gs://old/cats": tiny_float32}
    fake = FakeFirebaseMl()
    fake.file = lambda uri: files.get(uri, b"no model at all")
    fake.validate = lambda uri: "" if uri in files else "Invalid flatbuffer format"
    for name, uri in (("birds", "gs://old/birds"), ("cats", "gs://old/cats"), ("dogs", "gs://old/cats")):
        model = fake.create(name, gcs_uri=uri, tags=[])
        if name != "dogs":
            fake.publish(model.id)
    fake.create("eels", gcs_uri="gs://old/eels", tags=[])
    return fake


def migrated(firebase: FakeFirebaseMl, store: MemoryObjectStore) -> dict[str, Migrated]:
    return {each.name: each for each in Migration(firebase, store, project="demo").run()}


def document(store: MemoryObjectStore, name: str) -> Any:
    return json.loads(store.read(name).data)


def test_published_models_are_copied_described_and_pointed_at(firebase: FakeFirebaseMl) -> None:
    store = bucket()
    done = migrated(firebase, store)
    assert {name: each.outcome for name, each in done.items()} == {
        "birds": "copied",
        "cats": "copied",
        "dogs": "skipped",
        "eels": "skipped",
    }
    pointer = document(store, "models/birds/latest.json")
    tflite = store.read(pointer["model"]).data
    assert tflite == firebase.file("gs://old/birds")
    assert pointer["sha256"] == hashlib.sha256(tflite).hexdigest()
    described = document(store, pointer["manifest"])
    assert described["labels"] == ["red", "green", "blue"]
    assert described["input"] == {"shape": [1, 8, 8, 3], "type": "float32"}
    assert described["output"] == {"shape": [1, 3], "type": "float32"}
    assert described["imported_from"] == "projects/demo/models/101"
    assert described["sha256"] == pointer["sha256"]
    assert described["version"] == pointer["version"] == done["birds"].version


def test_a_file_without_labels_is_copied_without_them(firebase: FakeFirebaseMl) -> None:
    store = bucket()
    migrated(firebase, store)
    assert document(store, document(store, "models/cats/latest.json")["manifest"])["labels"] == []


@pytest.mark.parametrize("garbage", [b"", b"\xff{", b"[1]", b"{}"])
def test_a_manifest_that_is_none_is_named_and_keeps_no_other_model(firebase: FakeFirebaseMl, garbage: bytes) -> None:
    store = bucket()
    done = migrated(firebase, store)
    name = f"models/birds/{done['birds'].version}/manifest.json"
    store.put(name, garbage, expect=store.read(name).generation)
    again = migrated(firebase, store)
    assert (again["birds"].outcome, again["cats"].outcome) == ("failed", "there")
    assert done["birds"].version in again["birds"].note


def test_what_no_phone_can_have_is_passed_over_with_the_reason(firebase: FakeFirebaseMl) -> None:
    done = migrated(firebase, bucket())
    assert done["dogs"].note == "not published, no phone can load it"
    assert done["eels"].note == "not published, its file is bad: Invalid flatbuffer format"


def test_a_second_run_downloads_nothing_and_changes_nothing(firebase: FakeFirebaseMl) -> None:
    store = bucket()
    migrated(firebase, store)
    before = {each.name: each.generation for each in store.list("")}
    firebase.faults.calls.clear()
    done = migrated(firebase, store)
    assert [each.outcome for each in done.values()] == ["there", "there", "skipped", "skipped"]
    assert firebase.faults.calls["download"] == 0
    assert {each.name: each.generation for each in store.list("")} == before


def test_a_newer_file_of_the_same_model_gets_a_version_of_its_own(firebase: FakeFirebaseMl) -> None:
    store = bucket()
    migrated(firebase, store)
    old = document(store, "models/cats/latest.json")
    (cats,) = [model for model in firebase.models.values() if model.display_name == "cats"]
    firebase.update(cats.id, gcs_uri="gs://old/birds", tags=[])
    migrated(firebase, store)
    new = document(store, "models/cats/latest.json")
    assert (new["previous"], new["sha256"] != old["sha256"]) == (old["version"], True)
    assert store.read(old["model"]).data == firebase.file("gs://old/cats")


def test_a_pointer_that_mobile_publisher_moved_stays(firebase: FakeFirebaseMl) -> None:
    store = bucket()
    ours = json.dumps({"v": 1, "version": "0123456789ab-fedcba987654"}).encode()
    store.put("models/birds/latest.json", ours, expect=ABSENT)
    done = migrated(firebase, store)
    assert done["birds"].note == "the pointer stays at 0123456789ab-fedcba987654, which mobile_publisher published"
    assert store.read("models/birds/latest.json").data == ours
    assert store.read(f"models/birds/{done['birds'].version}/model.tflite").data == firebase.file("gs://old/birds")


def test_a_download_with_another_checksum_is_not_stored(firebase: FakeFirebaseMl) -> None:
    store = bucket()
    (birds,) = [model for model in firebase.models.values() if model.display_name == "birds"]
    firebase.models[birds.id] = dataclasses.replace(birds, model_hash="0" * 64)
    done = migrated(firebase, store)
    assert done["birds"].outcome == "failed"
    assert "Firebase says 000000000000" in done["birds"].note
    assert [each.name for each in store.list("models/birds/")] == []
    assert done["cats"].outcome == "copied"


def test_a_copy_that_was_changed_in_the_bucket_is_found(firebase: FakeFirebaseMl) -> None:
    store = bucket()
    version = migrated(firebase, store)["birds"].version
    name = f"models/birds/{version}/model.tflite"
    store.put(name, b"something else", expect=store.read(name).generation)
    done = migrated(firebase, store)
    assert done["birds"].outcome == "failed"
    assert f"{version} in the bucket is not what Firebase has" in done["birds"].note


def test_a_model_that_firebase_is_at_is_left_for_the_next_run(firebase: FakeFirebaseMl) -> None:
    (birds,) = [model for model in firebase.models.values() if model.display_name == "birds"]
    firebase.models[birds.id] = dataclasses.replace(birds, locked=True)
    assert migrated(firebase, bucket())["birds"].outcome == "failed"


@pytest.mark.parametrize("number", range(6))
def test_killed_before_any_write_or_download_the_next_run_finishes_it(firebase: FakeFirebaseMl, number: int) -> None:
    store = bucket()
    left = [number]

    def maybe(name: str) -> None:
        if name in ("put", "download"):
            left[0] -= 1
            if left[0] < 0:
                raise ProcessDied

    for faults in (store.faults, firebase.faults):
        faults.before = maybe
    with pytest.raises(ProcessDied):
        migrated(firebase, store)
    left[0] = 1000
    done = migrated(firebase, store)
    assert {each.outcome for each in done.values()} <= {"copied", "there", "skipped"}
    for name in ("birds", "cats"):
        pointer = document(store, f"models/{name}/latest.json")
        assert hashlib.sha256(store.read(pointer["model"]).data).hexdigest() == pointer["sha256"]


# The command ---------------------------------------------------------------------------------------------------


def command(firebase: FakeFirebaseMl, *arguments: str) -> tuple[int, str]:
    given = session()
    given.hosted_models, given.bucket = lambda _project: firebase, lambda _name: bucket()
    return invoke("firebase-migrate", *arguments, given=given)


def test_the_command_says_what_became_of_each(firebase: FakeFirebaseMl) -> None:
    code, said = command(firebase, "--project", "demo")
    assert code == 0
    assert "birds: copied: gs://demo-mobile/models/birds/latest.json points at it" in said
    assert "eels: skipped: not published, its file is bad: Invalid flatbuffer format" in said


def test_the_command_fails_when_one_model_could_not_be_copied(firebase: FakeFirebaseMl) -> None:
    firebase.faults.plan("download", Failing(ServiceUnavailable("Firebase ML is not available")))
    code, said = command(firebase, "--project", "demo")
    assert code == 1
    assert "birds: failed: Firebase ML is not available; run this again" in said
    assert "cats: copied" in said


def test_without_a_project_or_without_access_it_says_what_to_do(
    firebase: FakeFirebaseMl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    code, said = command(firebase)
    assert (code, "which project?" in said) == (2, True)
    firebase.faults.plan("all", Failing(ServiceUnavailable("no answer")))
    code, said = command(firebase, "--project", "demo")
    assert code == 3
    assert "gcloud auth application-default login" in said


def test_a_project_without_models_has_nothing_to_bring_over() -> None:
    code, said = command(FakeFirebaseMl(), "--project", "demo")
    assert (code, said.strip()) == (0, "Firebase ML does not host a model of demo.")
