"""From a trained mobile model to a published one, one looked-at step at a time."""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any

import pytest
from chain import Chain

from dualdeploy.errors import ServiceUnavailable, SigningRefused, UnusableResult
from dualdeploy.firebase import FirebaseModel
from dualdeploy.ledger import Branch, State
from dualdeploy.object_store import ABSENT
from dualdeploy.testing import Failing
from dualdeploy.vertex import RejectedByGoogle
from mobile_publisher import firebase_channel
from mobile_publisher.firebase_channel import LOCK_LIMIT_SECONDS, MAX_REGISTRATIONS, SIGNING_LIMIT_SECONDS


def train_one(chain: Chain, edition: int = 1, *, dataset: str = "flowers") -> str:
    known = set(chain.run_ids(dataset))
    shards = [f"{dataset}/train-00000-of-00001.tfrecord", f"{dataset}/eval-00000-of-00001.tfrecord"]
    chain.upload(*shards, edition=edition)
    chain.drain()
    for _ in range(3):
        chain.tick()
    (run_id,) = set(chain.run_ids(dataset)) - known
    (job,) = chain.jobs_of(run_id, "mobile")
    chain.train(job, hints=False)
    chain.handle(chain.log_hint(job))
    return run_id


def trained(looks_locked: int = 0) -> Chain:
    """A project with one run whose mobile model is trained; nobody was told yet."""
    chain = Chain(looks_locked=looks_locked)
    train_one(chain)
    return chain


@pytest.fixture
def chain() -> Chain:
    return trained()


@pytest.fixture
def run_id(chain: Chain) -> str:
    (run_id,) = chain.run_ids()
    return run_id


def branch(chain: Chain) -> Branch:
    (run_id,) = chain.run_ids()
    return chain.branch(run_id, "mobile")


def tags_of(branch: Branch) -> list[str]:
    return firebase_channel.tags_of(branch.dataset, branch.run_id, branch.facts)


def tick(chain: Chain, seconds: float = 60) -> str:
    chain.clock.advance(seconds)
    assert chain.handle(chain.clock_deliveries()[3])
    return chain.outcomes[-1][2]


def firebase_calls(chain: Chain) -> list[str]:
    """The calls that change something at Firebase, in order."""
    return [name for name in chain.operations if name in ("firebase.create", "firebase.update", "firebase.publish")]


def the_model(chain: Chain) -> FirebaseModel:
    (model,) = chain.firebase.models.values()
    return model


def test_a_first_run_is_created_published_and_recorded_as_live(chain: Chain, run_id: str) -> None:
    tick(chain)
    assert branch(chain).state is State.LIVE
    assert branch(chain).reason == "published as flowers on Firebase ML and Cloud Storage for Firebase"
    assert firebase_calls(chain) == ["firebase.create", "firebase.publish"]
    model = the_model(chain)
    assert (model.display_name, model.published) == ("flowers", True)
    assert model.gcs_uri.startswith(f"gs://models/mobile/flowers/{run_id}/")
    live = chain.live("mobile")
    assert live.current.run_id == run_id
    assert live.current.facts["firebase_model"] == model.id
    assert live.current.facts["tflite"] == model.gcs_uri


def test_a_second_run_updates_the_same_firebase_model(chain: Chain) -> None:
    tick(chain)
    first = the_model(chain)
    chain.clock.advance(3600)
    newer = train_one(chain, edition=2)
    tick(chain)
    assert chain.branch(newer, "mobile").state is State.LIVE
    assert the_model(chain).id == first.id
    assert the_model(chain).gcs_uri != first.gcs_uri
    assert firebase_calls(chain) == ["firebase.create", "firebase.publish", "firebase.update"]


def test_a_model_that_firebase_does_not_show_as_published_is_published_again(chain: Chain) -> None:
    tick(chain)
    chain.clock.advance(3600)
    chain.firebase.models["101"] = FirebaseModel(**{**vars(the_model(chain)), "published": False})
    train_one(chain, edition=2)
    tick(chain)
    assert firebase_calls(chain)[-2:] == ["firebase.update", "firebase.publish"]
    assert the_model(chain).published


def test_a_release_is_live_only_when_firebase_shows_its_model_as_published(chain: Chain) -> None:
    publish = chain.firebase.publish

    def begin_to_publish(model_id: str) -> FirebaseModel:
        """What the SDK answers while the operation is under way."""
        return dataclasses.replace(chain.firebase.models[model_id], locked=True)

    chain.firebase.publish = begin_to_publish  # type: ignore[method-assign]
    tick(chain)
    assert branch(chain).step == "publish"
    chain.firebase.publish = publish  # type: ignore[method-assign]
    tick(chain)
    assert branch(chain).state is State.LIVE
    assert the_model(chain).published


def test_the_name_in_firebase_is_that_of_the_configuration(chain: Chain) -> None:
    chain.configure(publishing={"name": "Botany"})
    tick(chain)
    assert the_model(chain).display_name == "Botany"


def test_tags_tell_run_and_file_within_firebases_thirty_two_characters(chain: Chain, run_id: str) -> None:
    tick(chain)
    tags = tags_of(branch(chain))
    assert tags[0] == f"run-{run_id.removeprefix('flowers-')}"
    assert tags[1] == f"sha256-{branch(chain).facts['tflite_sha256'][:12]}"
    repeated = branch(chain).changed(run_id=f"{run_id}-r99")
    assert all(len(tag) <= 32 for tag in tags_of(repeated))
    assert list(the_model(chain).tags) == tags


# The gate ------------------------------------------------------------------------------------------------------


def test_a_file_below_the_gate_is_rejected_and_firebase_hears_nothing(chain: Chain) -> None:
    chain.configure(gates={"mobile": {"min_accuracy": 0.91}})
    tick(chain)
    assert branch(chain).state is State.REJECTED
    assert branch(chain).reason.startswith("accuracy 0.9 >= 0.91: failed")
    assert firebase_calls(chain) == []
    (message,) = chain.messages("deployment-completed", target="mobile")
    assert message["outcome"] == "rejected"


def test_a_file_that_is_too_large_is_rejected_although_it_is_accurate(chain: Chain) -> None:
    chain.configure(gates={"mobile": {"max_size_mb": 1.9}})
    tick(chain)
    assert branch(chain).state is State.REJECTED
    assert branch(chain).reason.startswith("size_mb 2 <= 1.9: failed")


def test_it_is_the_files_own_accuracy_that_counts_and_not_the_trainers(chain: Chain) -> None:
    chain.configure(gates={"mobile": {"min_accuracy": 0.8}})
    chain.mobile_accuracy = 0.2
    tick(chain)
    assert branch(chain).state is State.REJECTED


def test_a_rejected_file_that_is_forced_is_published(chain: Chain, run_id: str) -> None:
    chain.configure(gates={"mobile": {"min_accuracy": 0.99}})
    tick(chain)
    chain.handle(chain.redeploy("mobile", run_id=run_id, force=True))
    tick(chain)
    assert branch(chain).state is State.LIVE
    assert the_model(chain).published


# Exporting -----------------------------------------------------------------------------------------------------


def test_an_export_that_can_never_succeed_fails_the_branch(chain: Chain) -> None:
    def gone(_number: int, name: str, _when: str) -> None:
        if name == "models.put":
            raise UnusableResult("the file agrees with its source model on 12 % of 10 golden pictures")

    chain.interfere = gone
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert "agrees with its source model on 12 %" in branch(chain).reason


def test_an_export_that_fails_for_now_is_repeated(chain: Chain) -> None:
    chain.models.faults.plan("put", Failing(ServiceUnavailable("no answer")))
    tick(chain)
    assert branch(chain).state is State.GATING
    tick(chain)
    assert branch(chain).state is State.LIVE


def test_a_finished_export_is_not_repeated_when_the_rest_is_resumed() -> None:
    chain = trained(looks_locked=3)
    tick(chain)
    chain.operations.clear()
    tick(chain)
    assert branch(chain).state is State.DEPLOYING
    assert "models.put" not in chain.operations


# Firebase ------------------------------------------------------------------------------------------------------


def test_a_locked_model_is_waited_for_tick_by_tick() -> None:
    chain = trained(looks_locked=3)
    states = []
    for _ in range(3):
        tick(chain)
        states.append(branch(chain).state)
    assert states == [State.DEPLOYING, State.DEPLOYING, State.LIVE]
    assert firebase_calls(chain) == ["firebase.create", "firebase.publish"]


def test_a_model_that_stays_locked_fails_the_branch() -> None:
    chain = trained(looks_locked=1_000)
    tick(chain)
    tick(chain, LOCK_LIMIT_SECONDS)
    assert branch(chain).state is State.DEPLOYING
    tick(chain, 1)
    assert branch(chain).state is State.FAILED
    assert "Firebase ML model flowers is locked since 1801 s" in branch(chain).reason


def test_a_lock_of_an_earlier_file_does_not_count_for_the_next_one() -> None:
    chain = trained(looks_locked=2)
    # Somebody else's file of that name is being looked at.
    chain.firebase.create("flowers", gcs_uri="gs://else/where", tags=[])
    tick(chain)
    assert branch(chain).operation_since
    tick(chain, LOCK_LIMIT_SECONDS - 60)
    tick(chain, LOCK_LIMIT_SECONDS - 60)
    tick(chain)
    assert branch(chain).state is State.LIVE


def test_a_file_that_firebase_refuses_fails_the_branch_with_its_words(chain: Chain) -> None:
    chain.firebase.validate = lambda _uri: "Invalid TFLite model"
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert "Invalid TFLite model" in branch(chain).reason
    assert "firebase.publish" not in firebase_calls(chain)
    assert chain.live("mobile") is None


@pytest.mark.parametrize("call", ["find", "create", "publish"])
@pytest.mark.parametrize("after", [False, True], ids=["nothing was done", "the answer was lost"])
def test_a_call_that_firebase_does_not_answer_is_repeated_without_doing_it_twice(
    chain: Chain, call: str, after: bool
) -> None:
    chain.firebase.faults.plan(call, Failing(ServiceUnavailable("no answer"), after=after))
    tick(chain)
    tick(chain)
    assert chain.firebase.faults.pending() == {}
    assert branch(chain).state is State.LIVE
    assert len(chain.firebase.models) == 1


def test_a_call_that_firebase_refuses_fails_the_branch(chain: Chain) -> None:
    chain.firebase.faults.plan("create", Failing(RejectedByGoogle("no service account to sign as")))
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert "no service account to sign as" in branch(chain).reason


def test_a_file_that_firebase_takes_and_never_shows_fails_the_branch_after_some_tries(chain: Chain) -> None:
    def forget(_number: int, name: str, when: str) -> None:
        if (name, when) == ("firebase.find", "before"):
            chain.firebase.models.clear()

    chain.interfere = forget
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert "took" in branch(chain).reason
    assert firebase_calls(chain) == ["firebase.create"] * MAX_REGISTRATIONS


def test_a_model_that_somebody_overwrites_before_it_is_published_is_registered_again(chain: Chain) -> None:
    looks: list[str] = []

    def overwrite_once(_number: int, name: str, when: str) -> None:
        if (name, when) == ("firebase.find", "before"):
            looks.append(name)
            if len(looks) == 3:
                chain.firebase.models["101"] = FirebaseModel(**{**vars(the_model(chain)), "tags": ("else",)})

    chain.interfere = overwrite_once
    tick(chain)
    assert branch(chain).state is State.LIVE
    assert list(the_model(chain).tags) == tags_of(branch(chain))


def test_a_redeploy_of_the_live_run_changes_nothing_at_firebase(chain: Chain) -> None:
    tick(chain)
    before = firebase_calls(chain)
    chain.handle(chain.redeploy("mobile", dataset="flowers"))
    tick(chain)
    assert branch(chain).state is State.LIVE
    assert firebase_calls(chain) == before
    assert chain.live("mobile").current.release == 2


# Channels ------------------------------------------------------------------------------------------------------


def pointer(chain: Chain) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(chain.phones.read("models/flowers/latest.json").data)
    return found


def test_the_pointer_names_the_live_run(chain: Chain, run_id: str) -> None:
    tick(chain)
    assert pointer(chain)["version"].startswith(run_id.removeprefix("flowers-"))
    assert chain.live("mobile").current.facts["pointer"] == "gs://phones/models/flowers/latest.json"


def test_firebase_storage_alone_leaves_firebase_ml_in_peace(chain: Chain) -> None:
    chain.configure(publishing={"channels": ["firebase-storage"]})
    tick(chain)
    assert branch(chain).state is State.LIVE
    assert branch(chain).reason == "published as flowers on Cloud Storage for Firebase"
    assert chain.firebase.models == {}
    assert "firebase_model" not in chain.live("mobile").current.facts


def test_firebase_ml_alone_writes_nothing_for_phones(chain: Chain) -> None:
    chain.configure(publishing={"channels": ["firebase-ml"]})
    tick(chain)
    assert branch(chain).state is State.LIVE
    assert chain.phones.names() == []


def test_a_file_that_firebase_ml_refuses_reaches_no_phone_by_the_other_channel(chain: Chain) -> None:
    chain.firebase.validate = lambda _uri: "Invalid TFLite model"
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert "models/flowers/latest.json" not in chain.phones.names()


def test_from_the_day_that_firebase_ml_closes_the_other_channel_goes_on(chain: Chain) -> None:
    # An hour before midnight it is still open.
    chain.clock.now = datetime.datetime(2027, 6, 14, 23, 0, tzinfo=datetime.UTC)
    tick(chain)
    assert len(chain.firebase.models) == 1
    chain.clock.now = datetime.datetime(2027, 6, 15, 0, 0, tzinfo=datetime.UTC)
    newer = train_one(chain, edition=2)
    tick(chain)
    assert chain.branch(newer, "mobile").state is State.LIVE
    why = "firebase-ml: Firebase ML hosts no custom models since 2027-06-15"
    assert why in chain.branch(newer, "mobile").reason
    (closed,) = chain.http("mobile").get("/status/flowers").json["live"]["current"]["facts"]["closed_channels"]
    assert closed.startswith(why)
    assert pointer(chain)["version"].startswith(newer.removeprefix("flowers-"))
    assert "firebase.update" not in firebase_calls(chain)


def test_with_no_channel_left_the_release_fails_and_says_what_to_do(chain: Chain) -> None:
    chain.configure(publishing={"channels": ["firebase-ml"]})
    chain.clock.now = datetime.datetime(2027, 7, 1, tzinfo=datetime.UTC)
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert "set publishing.channels to [firebase-storage], see docs/phones.md" in branch(chain).reason


def test_another_quantization_makes_another_file_on_a_redeploy_unless_it_is_forced(chain: Chain, run_id: str) -> None:
    def exports() -> int:
        return sum(name == "models.put" for name in chain.operations)

    tick(chain)
    chain.ledger.write_branch(
        branch(chain).with_facts(quantization="dynamic"),
        expect=chain.ledger.read_branch(run_id, "mobile").generation,
    )
    before = exports()
    chain.handle(chain.redeploy("mobile", run_id=run_id, force=True))
    tick(chain)
    assert exports() == before
    chain.handle(chain.redeploy("mobile", run_id=run_id))
    tick(chain)
    assert branch(chain).state is State.LIVE
    assert exports() > before


def test_another_name_makes_a_file_that_bears_it_on_a_redeploy(chain: Chain, run_id: str) -> None:
    tick(chain)
    chain.configure(publishing={"name": "botany"})
    chain.handle(chain.redeploy("mobile", run_id=run_id))
    tick(chain)
    assert branch(chain).state is State.LIVE
    assert branch(chain).facts["named"] == "botany"
    assert "models/botany/latest.json" in chain.phones.names()


def test_a_rollback_brings_the_earlier_file_back_on_both_channels_without_converting(chain: Chain, run_id: str) -> None:
    tick(chain)
    first, uri = pointer(chain), the_model(chain).gcs_uri
    chain.clock.advance(3600)
    newer = train_one(chain, edition=2)
    tick(chain)
    assert (pointer(chain)["previous"], chain.live("mobile").current.run_id) == (first["version"], newer)
    chain.operations.clear()
    assert chain.handle(chain.post("mobile", "rollback", dataset="flowers", reason="worse in the field"))
    tick(chain)
    assert chain.live("mobile").current.run_id == run_id
    assert pointer(chain)["version"] == first["version"]
    assert chain.phones.read(pointer(chain)["model"]).data == f"file of {run_id}".encode()
    assert the_model(chain).gcs_uri == uri
    assert "models.put" not in chain.operations


# A right that is missing ---------------------------------------------------------------------------------------

NO_RIGHT = "IAM does not let it sign: gcloud iam service-accounts add-iam-policy-binding …"


def refuse_to_sign(chain: Chain, call: str, times: int) -> None:
    chain.firebase.faults.plan(call, *[Failing(SigningRefused(NO_RIGHT))] * times)


@pytest.mark.parametrize("call", ["find", "create"])
def test_a_right_to_sign_that_comes_in_time_is_waited_for(chain: Chain, call: str) -> None:
    # Asked twice at the first tick: when it began is recorded in between.
    refuse_to_sign(chain, call, 6)
    for _ in range(5):
        tick(chain)
        assert branch(chain).state is State.DEPLOYING
    tick(chain)
    assert branch(chain).reason == "published as flowers on Firebase ML and Cloud Storage for Firebase"


@pytest.mark.parametrize("call", ["find", "create", "publish"])
def test_without_the_right_to_sign_the_other_channel_goes_on_after_a_while(chain: Chain, call: str) -> None:
    refuse_to_sign(chain, call, 100)
    for _ in range(int(SIGNING_LIMIT_SECONDS // 60)):
        tick(chain)
    assert branch(chain).state is State.DEPLOYING
    tick(chain)
    tick(chain)
    assert branch(chain).state is State.LIVE
    assert branch(chain).reason.startswith("published as flowers on Cloud Storage for Firebase; without firebase-ml: ")
    assert NO_RIGHT in branch(chain).reason
    facts = chain.live("mobile").current.facts
    assert "firebase_model" not in facts
    assert facts["pointer"] == "gs://phones/models/flowers/latest.json"


def test_without_the_right_to_sign_a_release_that_has_no_other_channel_fails_with_what_mends_it(chain: Chain) -> None:
    chain.configure(publishing={"channels": ["firebase-ml"]})
    refuse_to_sign(chain, "find", 100)
    for _ in range(17):
        tick(chain)
    assert branch(chain).state is State.FAILED
    assert branch(chain).reason.startswith("ChannelClosed: firebase-ml: since 20")
    assert NO_RIGHT in branch(chain).reason


# A name that two data sets have --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [["firebase-ml"], ["firebase-storage"], ["firebase-ml", "firebase-storage"]])
def test_a_name_under_which_another_data_set_is_live_is_refused(chain: Chain, run_id: str, channels: list[str]) -> None:
    chain.configure(publishing={"channels": channels})
    tick(chain)
    before = {name: chain.phones.read(name).data for name in chain.phones.names()}, dict(chain.firebase.models)
    chain.configure("tulips", publishing={"name": "flowers"})
    other = train_one(chain, dataset="tulips")
    tick(chain)
    assert chain.branch(other, "mobile").state is State.FAILED
    assert chain.branch(other, "mobile").reason == (
        f"NameTaken: publishing.name 'flowers' of tulips is that of flowers too, whose {run_id} is live under it:"
        " give one of the two another name, then redeploy"
    )
    after = {name: chain.phones.read(name).data for name in chain.phones.names()}, dict(chain.firebase.models)
    assert after == before


@pytest.mark.parametrize("given_up_by", ["another name", "no configuration"])
def test_a_name_that_a_data_set_gave_up_can_be_taken(chain: Chain, given_up_by: str) -> None:
    tick(chain)
    chain.configure("tulips", publishing={"name": "flowers"})
    if given_up_by == "another name":
        chain.configure(publishing={"name": "old-flowers"})
    else:
        (found,) = chain.config.list("datasets/flowers.yaml")
        chain.config.delete(found.name, expect=found.generation)
    other = train_one(chain, dataset="tulips")
    tick(chain)
    assert chain.branch(other, "mobile").state is State.LIVE, chain.branch(other, "mobile").reason
    assert f"run-{other.removeprefix('tulips-')}" in the_model(chain).tags


def test_what_cannot_be_read_of_another_data_set_keeps_no_release(chain: Chain) -> None:
    chain.ledger_store.put("live/tulips/mobile.json", b"{", expect=ABSENT)
    tick(chain)
    assert branch(chain).state is State.LIVE
