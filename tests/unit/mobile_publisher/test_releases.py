"""From a trained mobile model to a published one, one looked-at step at a time."""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any

import pytest

from dualdeploy.errors import PermissionSpreads, RejectedByGoogle, ServiceUnavailable, SigningRefused, UnusableResult
from dualdeploy.google.firebase_ml import FirebaseModel
from dualdeploy.ledger import State
from mobile_publisher.release import MobileRelease
from mobile_publisher.steps import firebase_ml
from mobile_publisher.steps.firebase_ml import LOCK_LIMIT_SECONDS, MAX_REGISTRATIONS, SIGNING_LIMIT_SECONDS
from support.fakes import Failing
from support.publishing import Publishing

RUN = "flowers-000000000001"


def trained(looks_locked: int = 0) -> Publishing:
    """A project with one run whose mobile model is trained; no one was told yet."""
    project = Publishing(looks_locked=looks_locked)
    assert project.train() == RUN
    return project


@pytest.fixture
def project() -> Publishing:
    return trained()


def release(project: Publishing) -> MobileRelease:
    return project.release(RUN)


def tags_of(release: MobileRelease) -> list[str]:
    return list(firebase_ml.tags_of(release.run_id, release.dataset, release.file))


def the_model(project: Publishing) -> FirebaseModel:
    (model,) = project.firebase.models.values()
    return model


def test_a_first_run_is_created_published_and_recorded_as_live(project: Publishing) -> None:
    project.tick()
    assert release(project).state is State.LIVE
    assert release(project).reason == "published as flowers on Firebase ML and Cloud Storage for Firebase"
    assert project.firebase_calls() == ["firebase.create", "firebase.publish"]
    model = the_model(project)
    assert (model.display_name, model.published) == ("flowers", True)
    assert model.gcs_uri.startswith(f"gs://models/mobile/flowers/{RUN}/")
    current = project.serving().current
    assert current is not None
    assert (current.run_id, current.firebase_model, current.file.uri) == (RUN, model.id, model.gcs_uri)


def test_a_second_run_updates_the_same_firebase_model(project: Publishing) -> None:
    project.tick()
    first = the_model(project)
    project.clock.advance(3600)
    newer = project.train(2)
    project.tick()
    assert project.release(newer).state is State.LIVE
    assert the_model(project).id == first.id
    assert the_model(project).gcs_uri != first.gcs_uri
    assert project.firebase_calls() == ["firebase.create", "firebase.publish", "firebase.update"]


def test_a_model_that_firebase_does_not_show_as_published_is_published_again(project: Publishing) -> None:
    project.tick()
    project.clock.advance(3600)
    project.firebase.models["101"] = FirebaseModel(**{**vars(the_model(project)), "published": False})
    project.train(2)
    project.tick()
    assert project.firebase_calls()[-2:] == ["firebase.update", "firebase.publish"]
    assert the_model(project).published


def test_a_release_is_live_only_when_firebase_shows_its_model_as_published(project: Publishing) -> None:
    publish = project.firebase.publish

    def begin_to_publish(model_id: str) -> FirebaseModel:
        """What the SDK answers while the operation is under way."""
        return dataclasses.replace(project.firebase.models[model_id], locked=True)

    project.firebase.publish = begin_to_publish  # type: ignore[method-assign]
    project.tick()
    assert release(project).step == "publish"
    project.firebase.publish = publish  # type: ignore[method-assign]
    project.tick()
    assert release(project).state is State.LIVE
    assert the_model(project).published


def test_the_name_in_firebase_is_that_of_the_configuration(project: Publishing) -> None:
    project.configure(publishing={"name": "Botany"})
    project.tick()
    assert the_model(project).display_name == "Botany"


def test_tags_tell_run_and_file_within_firebases_thirty_two_characters(project: Publishing) -> None:
    project.tick()
    tags = tags_of(release(project))
    assert tags[0] == f"run-{RUN.removeprefix('flowers-')}"
    assert tags[1] == f"sha256-{release(project).file.sha256[:12]}"
    repeated = release(project).changed(run_id=f"{RUN}-r99")
    assert all(len(tag) <= 32 for tag in tags_of(repeated))
    assert list(the_model(project).tags) == tags


# The gate ------------------------------------------------------------------------------------------------------


def test_a_file_below_the_gate_is_rejected_and_firebase_hears_nothing(project: Publishing) -> None:
    project.configure(gates={"mobile": {"min_accuracy": 0.91}})
    project.tick()
    assert release(project).state is State.REJECTED
    assert release(project).reason.startswith("accuracy 0.9 >= 0.91: failed")
    assert project.firebase_calls() == []
    (message,) = project.messages(target="mobile")
    assert message["outcome"] == "rejected"


def test_a_file_that_is_too_large_is_rejected_although_it_is_accurate(project: Publishing) -> None:
    project.configure(gates={"mobile": {"max_size_mb": 1.9}})
    project.tick()
    assert release(project).state is State.REJECTED
    assert release(project).reason.startswith("size_mb 2 <= 1.9: failed")


def test_it_is_the_files_own_accuracy_that_counts_and_not_the_trainers(project: Publishing) -> None:
    project.configure(gates={"mobile": {"min_accuracy": 0.8}})
    project.accuracy = 0.2
    project.tick()
    assert release(project).state is State.REJECTED


def test_a_rejected_file_that_is_forced_is_published(project: Publishing) -> None:
    project.configure(gates={"mobile": {"min_accuracy": 0.99}})
    project.tick()
    project.redeploy(RUN, force=True)
    project.tick()
    assert release(project).state is State.LIVE
    assert the_model(project).published


# Exporting -----------------------------------------------------------------------------------------------------


def test_an_export_that_can_never_succeed_fails_the_release(project: Publishing) -> None:
    def gone(name: str, _when: str) -> None:
        if name == "models.put":
            raise UnusableResult("the file agrees with its source model on 12 % of 10 golden pictures")

    project.interfere = gone
    project.tick()
    assert release(project).state is State.FAILED
    assert "agrees with its source model on 12 %" in release(project).reason


def test_an_export_that_fails_for_now_is_repeated(project: Publishing) -> None:
    project.models.faults.plan("put", Failing(ServiceUnavailable("no answer")))
    project.tick()
    assert release(project).state is State.GATING
    project.tick()
    assert release(project).state is State.LIVE


def test_a_finished_export_is_not_repeated_when_the_rest_is_resumed() -> None:
    project = trained(looks_locked=3)
    project.tick()
    project.operations.clear()
    project.tick()
    assert release(project).state is State.DEPLOYING
    assert "models.put" not in project.operations


# Firebase ------------------------------------------------------------------------------------------------------


def test_a_locked_model_is_waited_for_tick_by_tick() -> None:
    project = trained(looks_locked=3)
    states = []
    for _ in range(4):
        project.tick()
        states.append(release(project).state)
    assert states == [*[State.DEPLOYING] * 3, State.LIVE]
    assert project.firebase_calls() == ["firebase.create", "firebase.publish"]


def test_a_model_that_stays_locked_fails_the_release() -> None:
    project = trained(looks_locked=1_000)
    project.tick()
    assert release(project).holdup.what == "Firebase ML, which works on flowers"
    project.tick(LOCK_LIMIT_SECONDS - 60)
    assert release(project).state is State.DEPLOYING
    project.tick(times=2)
    # Whether the file is in the model can not be seen, so the way back waits for it as long again.
    project.tick(LOCK_LIMIT_SECONDS, times=2)
    assert release(project).state is State.FAILED
    assert release(project).reason.startswith("WaitedTooLong: waited since 2026-11-23T12:0")


def test_a_lock_of_an_earlier_file_does_not_count_for_the_next_one() -> None:
    project = trained(looks_locked=2)
    # Someone else's file of that name is being looked at.
    project.firebase.create("flowers", gcs_uri="gs://else/where", tags=[])
    project.tick()
    assert release(project).holdup
    project.tick(LOCK_LIMIT_SECONDS - 60)
    project.tick(LOCK_LIMIT_SECONDS - 60)
    project.tick()
    assert release(project).state is State.LIVE


def test_a_file_that_firebase_refuses_fails_the_release_with_its_words(project: Publishing) -> None:
    project.firebase.validate = lambda _uri: "Invalid TFLite model"
    project.tick()
    assert release(project).state is State.FAILED
    assert "Invalid TFLite model" in release(project).reason
    assert "firebase.publish" not in project.firebase_calls()
    assert project.live() == ""


@pytest.mark.parametrize("call", ["find", "create", "publish"])
@pytest.mark.parametrize("after", [False, True], ids=["nothing was done", "the answer was lost"])
def test_a_call_that_firebase_does_not_answer_is_repeated_without_doing_it_twice(
    project: Publishing, call: str, after: bool
) -> None:
    project.firebase.faults.plan(call, Failing(ServiceUnavailable("no answer"), after=after))
    project.tick()
    project.tick()
    assert project.firebase.faults.pending() == {}
    assert release(project).state is State.LIVE
    assert len(project.firebase.models) == 1


#: Firebase was never added to the project, its API is off, or it does not know this account.
REFUSED = "Firebase ML, create flowers: 400 this project is not a Firebase project"


@pytest.mark.parametrize("call", ["find", "create", "publish"])
def test_what_firebase_ml_refuses_goes_out_on_the_other_channel_alone(project: Publishing, call: str) -> None:
    project.firebase.faults.plan(call, Failing(RejectedByGoogle(REFUSED)))
    project.tick()
    assert release(project).state is State.LIVE
    assert release(project).reason == (
        f"published as flowers on Cloud Storage for Firebase; without firebase-ml: {REFUSED}"
    )
    assert pointer(project)["version"].startswith(RUN.removeprefix("flowers-"))


def test_a_permission_that_never_comes_closes_firebase_ml_alone(project: Publishing) -> None:
    project.firebase.faults.plan("create", *[Failing(PermissionSpreads("firebaseml.models.create denied"))] * 100)
    project.tick()
    assert release(project).state is State.DEPLOYING
    project.tick(times=40)
    assert release(project).state is State.LIVE
    assert "without firebase-ml: " in release(project).reason
    assert "firebaseml.models.create denied" in release(project).reason


def test_what_firebase_ml_refuses_fails_where_there_is_no_other_channel(project: Publishing) -> None:
    project.configure(publishing={"channels": ["firebase-ml"]})
    project.firebase.faults.plan("create", Failing(RejectedByGoogle(REFUSED)))
    project.tick()
    assert release(project).state is State.FAILED
    assert REFUSED in release(project).reason


def test_a_file_that_firebase_takes_and_never_shows_fails_the_release_after_some_tries(project: Publishing) -> None:
    def forget(name: str, when: str) -> None:
        if (name, when) == ("firebase.find", "before"):
            project.firebase.models.clear()

    project.interfere = forget
    project.tick()
    assert release(project).state is State.FAILED
    assert "took" in release(project).reason
    assert project.firebase_calls() == ["firebase.create"] * MAX_REGISTRATIONS


def test_a_model_that_someone_overwrites_before_it_is_published_is_registered_again(project: Publishing) -> None:
    looks: list[str] = []

    def overwrite_once(name: str, when: str) -> None:
        if (name, when) == ("firebase.find", "before"):
            looks.append(name)
            if len(looks) == 3:
                project.firebase.models["101"] = FirebaseModel(**{**vars(the_model(project)), "tags": ("else",)})

    project.interfere = overwrite_once
    project.tick()
    assert release(project).state is State.LIVE
    assert list(the_model(project).tags) == tags_of(release(project))


def test_a_redeploy_of_the_live_run_changes_nothing_at_firebase(project: Publishing) -> None:
    project.tick()
    before = project.firebase_calls()
    project.post("redeploy")
    project.tick()
    assert release(project).state is State.LIVE
    assert project.firebase_calls() == before
    assert project.serving().current.release == 2


# Channels ------------------------------------------------------------------------------------------------------


def pointer(project: Publishing) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(project.phones.read("models/flowers/latest.json").data)
    return found


def test_the_pointer_names_the_live_run(project: Publishing) -> None:
    project.tick()
    assert pointer(project)["version"].startswith(RUN.removeprefix("flowers-"))
    assert project.serving().current.pointer == "gs://phones/models/flowers/latest.json"


def test_firebase_storage_alone_leaves_firebase_ml_in_peace(project: Publishing) -> None:
    project.configure(publishing={"channels": ["firebase-storage"]})
    project.tick()
    assert release(project).state is State.LIVE
    assert release(project).reason == "published as flowers on Cloud Storage for Firebase"
    assert project.firebase.models == {}
    assert project.serving().current.firebase_model == ""


def test_firebase_ml_alone_writes_nothing_for_phones(project: Publishing) -> None:
    project.configure(publishing={"channels": ["firebase-ml"]})
    project.tick()
    assert release(project).state is State.LIVE
    assert project.phones.names() == []


def test_a_file_that_firebase_ml_refuses_reaches_no_phone_by_the_other_channel(project: Publishing) -> None:
    project.firebase.validate = lambda _uri: "Invalid TFLite model"
    project.tick()
    assert release(project).state is State.FAILED
    assert "models/flowers/latest.json" not in project.phones.names()


def test_from_the_day_that_firebase_ml_closes_the_other_channel_goes_on(project: Publishing) -> None:
    # An hour before midnight it is still open.
    project.clock.now = datetime.datetime(2027, 6, 14, 23, 0, tzinfo=datetime.UTC)
    project.tick()
    assert len(project.firebase.models) == 1
    project.clock.now = datetime.datetime(2027, 6, 15, 0, 0, tzinfo=datetime.UTC)
    newer = project.train(2)
    project.tick()
    assert project.release(newer).state is State.LIVE
    why = "firebase-ml: Firebase ML hosts no custom models since 2027-06-15"
    assert why in project.release(newer).reason
    (closed,) = project.http.get("/status/flowers").json["live"]["current"]["closed_channels"]
    assert closed.startswith(why)
    assert pointer(project)["version"].startswith(newer.removeprefix("flowers-"))
    assert "firebase.update" not in project.firebase_calls()


def test_with_no_channel_left_the_release_fails_and_says_what_to_do(project: Publishing) -> None:
    project.configure(publishing={"channels": ["firebase-ml"]})
    project.clock.now = datetime.datetime(2027, 7, 1, tzinfo=datetime.UTC)
    project.tick()
    assert release(project).state is State.FAILED
    assert "set publishing.channels to [firebase-storage], see docs/phones.md" in release(project).reason


def exports(project: Publishing) -> int:
    return len([name for name in project.models.names() if name.endswith("model.tflite")])


@pytest.mark.parametrize("key", ["quantization", "name"])
def test_another_file_is_made_on_a_redeploy_for_which_something_else_is_configured_unless_it_is_forced(
    project: Publishing, key: str
) -> None:
    project.tick()
    before = release(project).file
    wanted = {"quantization": "int8", "name": "botany"}[key]
    project.configure(publishing={key: wanted})
    project.redeploy(RUN, force=True)
    project.tick()
    assert release(project).file == before
    project.redeploy(RUN)
    project.tick()
    assert release(project).state is State.LIVE, release(project).reason
    assert {"quantization": release(project).file.quantization, "name": release(project).file.named}[key] == wanted
    assert project.pointer("botany" if key == "name" else "flowers") == release(project).version


def test_a_variant_that_is_asked_for_is_made_for_one_release(project: Publishing) -> None:
    project.tick()
    first = release(project).file
    project.redeploy(RUN, quantization="int8")
    project.tick()
    assert (release(project).file.variant, exports(project)) == ("int8", 2)
    project.redeploy(RUN)
    project.tick()
    assert (release(project).file, exports(project)) == (first, 2)


def test_a_rollback_brings_the_earlier_file_back_on_both_channels_without_converting(project: Publishing) -> None:
    project.tick()
    first, uri = pointer(project), the_model(project).gcs_uri
    newer = project.train(2)
    project.tick()
    assert (pointer(project)["previous"], project.live()) == (first["version"], newer)
    project.operations.clear()
    project.post("rollback", reason="worse in the field")
    project.tick()
    assert project.live() == RUN
    assert pointer(project)["version"] == first["version"]
    assert project.phones.read(pointer(project)["model"]).data == f"file of {RUN}".encode()
    assert the_model(project).gcs_uri == uri
    assert "models.put" not in project.operations


# A permission that is missing ---------------------------------------------------------------------------------------

NOT_ALLOWED = "IAM does not let it sign: gcloud iam service-accounts add-iam-policy-binding …"


def refuse_to_sign(project: Publishing, call: str, times: int) -> None:
    project.firebase.faults.plan(call, *[Failing(SigningRefused(NOT_ALLOWED))] * times)


@pytest.mark.parametrize("call", ["find", "create"])
def test_a_permission_to_sign_that_comes_in_time_is_waited_for(project: Publishing, call: str) -> None:
    refuse_to_sign(project, call, 5)
    for _ in range(5):
        project.tick()
        assert release(project).state is State.DEPLOYING
        assert release(project).holdup.what == NOT_ALLOWED
    project.tick()
    assert release(project).reason == "published as flowers on Firebase ML and Cloud Storage for Firebase"


@pytest.mark.parametrize("call", ["find", "create", "publish"])
def test_without_the_permission_to_sign_the_other_channel_goes_on_after_a_while(project: Publishing, call: str) -> None:
    refuse_to_sign(project, call, 100)
    project.tick(times=int(SIGNING_LIMIT_SECONDS // 60))
    assert release(project).state is State.DEPLOYING
    project.tick(times=2)
    assert release(project).state is State.LIVE
    assert release(project).reason.startswith(
        "published as flowers on Cloud Storage for Firebase; without firebase-ml: "
    )
    assert NOT_ALLOWED in release(project).reason
    current = project.serving().current
    assert (current.firebase_model, current.pointer) == ("", "gs://phones/models/flowers/latest.json")


def test_without_the_permission_to_sign_a_release_that_has_no_other_channel_fails_with_what_mends_it(
    project: Publishing,
) -> None:
    project.configure(publishing={"channels": ["firebase-ml"]})
    refuse_to_sign(project, "find", 100)
    project.tick(times=40)
    assert release(project).state is State.FAILED
    assert NOT_ALLOWED in release(project).reason
