"""A new version reaches phones share by share, is overtaken, aborted and rolled back; phones never have half of one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from dualdeploy.contracts import dataset_config
from dualdeploy.errors import InvalidDatasetConfig, RejectedByGoogle, ServiceUnavailable, SigningRefused
from dualdeploy.ledger import State
from support.chain_data import overwrite
from support.fakes import Failing
from support.publishing import Publishing

KEY = "dualdeploy_flowers_version"
ROLLOUT = {"rollout": {"steps": [10, 50, 100], "bake": "1h"}}


def live_run(project: Publishing, number: int = 1) -> str:
    run_id = project.train(number)
    project.tick(3600, times=4)
    assert project.release(run_id).state is State.LIVE, project.release(run_id).reason
    return run_id


@pytest.fixture
def project() -> Publishing:
    project = Publishing()
    project.configure(publishing=ROLLOUT)
    return project


@pytest.fixture
def first(project: Publishing) -> str:
    return live_run(project)


@pytest.fixture
def second(project: Publishing, first: str) -> str:
    """A second run, whose rollout has begun."""
    run_id = project.train(2)
    project.tick()
    assert project.release(run_id).state is State.CANARY
    return run_id


# Forward -------------------------------------------------------------------------------------------------------


def test_the_first_version_of_a_name_is_everyones_at_once(project: Publishing) -> None:
    run_id = project.train(1)
    project.tick()
    assert project.release(run_id).state is State.LIVE
    assert project.seen() == {project.pointer()} == {project.version(run_id)}
    assert project.expression() == ""


def test_each_share_is_held_for_its_time_and_then_everything_moves(
    project: Publishing, first: str, second: str
) -> None:
    old, new = project.version(first), project.version(second)
    seed = second.removeprefix("flowers-")
    begun = project.release(second)
    assert begun.reason == f"{new} goes to 10, 50, 100 % of the installations, 3600 s apart"
    assert (begun.step, project.expression()) == ("bake", f"percent('{seed}') <= 10")
    project.tick(3500)
    assert project.expression().endswith("<= 10")
    project.tick(100)
    assert project.expression() == f"percent('{seed}') <= 50"
    # Until everybody's turn: the pointer, Firebase ML and what counts as live are the old version's.
    assert (project.seen(), project.pointer()) == ({old, new}, old)
    assert project.firebase_holds(first)
    assert project.live() == first
    project.tick(3600)
    assert project.release(second).state is State.LIVE
    assert (project.seen(), project.pointer(), project.expression()) == ({new}, new, "")
    assert project.firebase_holds(second)
    assert "; 10 % from 20" in project.release(second).reason
    assert "; 50 % from 20" in project.release(second).reason
    assert project.release(first).state is State.SUPERSEDED


def test_nothing_is_asked_of_remote_config_while_a_share_is_held(project: Publishing, second: str) -> None:
    project.operations.clear()
    for _ in range(10):
        project.tick()
    assert [name for name in project.operations if name.startswith("remote_config.")] == []


def test_the_plan_holds_although_the_configuration_changes_or_breaks(project: Publishing, second: str) -> None:
    project.write_config(b"dataset: [")
    project.tick(3600)
    assert project.expression().endswith("<= 50")
    project.tick(3600)
    assert project.release(second).state is State.LIVE
    assert project.firebase_holds(second)


def test_without_a_rollout_in_the_configuration_remote_config_is_never_called() -> None:
    project = Publishing()
    live_run(project)
    live_run(project, 2)
    assert not [name for name in project.operations if name.startswith("remote_config.")]


def test_a_rollout_that_is_configured_no_more_lets_phones_follow_the_pointer_again(
    project: Publishing, first: str
) -> None:
    assert project.serving().current.remote_config == KEY
    project.configure()
    second = live_run(project, 2)
    assert project.remote_config.values(KEY) == set()
    assert project.pointer() == project.version(second)
    assert project.serving().current.remote_config == ""


def test_a_release_without_the_bucket_in_between_does_not_leave_phones_at_the_version_of_before(
    project: Publishing, first: str
) -> None:
    """Remote Config goes on naming the version that the bucket's phones have; a later release has to change it."""
    project.configure(publishing={"channels": ["firebase-ml"]})
    live_run(project, 2)
    assert project.seen() == {project.version(first)}
    project.configure()
    third = live_run(project, 3)
    assert project.seen() == {project.pointer()} == {project.version(third)}


@pytest.mark.parametrize("garbage", [b"{", b"[]", b"{}", b'{"version": ""}'])
def test_a_pointer_that_names_no_version_is_pointed_at_what_is_live_and_the_rollout_is_staged(
    project: Publishing, first: str, garbage: bytes
) -> None:
    old = project.version(first)
    overwrite(project.phones, "models/flowers/latest.json", garbage)
    second = project.train(2)
    project.tick()
    assert (project.release(second).state, project.pointer()) == (State.CANARY, old)
    remark = f"gs://phones/models/flowers/latest.json named no version, and was pointed at {old} again, which is live"
    assert project.release(second).reason.endswith(f"3600 s apart; {remark}")
    for _ in range(3):
        project.tick(3600)
    assert project.seen() == {project.pointer()} == {project.version(second)}
    assert project.release(second).reason.endswith(remark)


def test_a_pointer_that_names_no_version_where_none_is_known_is_said_to_be_replaced_at_once(
    project: Publishing,
) -> None:
    overwrite(project.phones, "models/flowers/latest.json", b"{")
    run_id = live_run(project)
    assert project.pointer() == project.version(run_id)
    assert "latest.json named no version, and none is known: to everyone at once" in project.release(run_id).reason


def test_a_redeploy_without_canary_is_everyones_at_once(project: Publishing, second: str) -> None:
    project.post("abort")
    project.tick()
    project.redeploy(second, canary=False)
    project.tick()
    assert project.release(second).state is State.LIVE
    assert project.seen() == {project.version(second)}


def test_a_rollout_is_refused_before_anything_changed_when_the_template_may_not_be_read(
    project: Publishing, first: str
) -> None:
    old = project.version(first)
    project.remote_config.faults.plan("read", Failing(RejectedByGoogle("403 The caller does not have permission")))
    second = project.train(2)
    project.tick()
    assert project.release(second).state is State.FAILED
    assert "does not have permission" in project.release(second).reason
    assert (project.seen(), project.pointer()) == ({old}, old)


# Overtaken -----------------------------------------------------------------------------------------------------


def test_a_newer_run_takes_the_place_of_a_rollout_under_way(project: Publishing, first: str, second: str) -> None:
    third = project.train(3)
    project.tick(times=2)
    overtaken = project.release(second)
    assert (overtaken.state, overtaken.reason) == (State.SUPERSEDED, f"replaced by {third}")
    assert project.release(third).state is State.CANARY
    assert project.seen() == {project.version(first), project.version(third)}
    assert project.pointer() == project.version(first)
    for _ in range(3):
        project.tick(3600)
    assert project.live() == third
    assert project.serving().previous.run_id == first
    assert project.seen() == {project.version(third)}


def test_a_newer_run_that_its_gate_rejects_lets_the_rollout_go_on(project: Publishing, second: str) -> None:
    project.configure(publishing=ROLLOUT, gates={"mobile": {"min_accuracy": 0.99}})
    third = project.train(3)
    project.tick()
    assert project.release(third).state is State.REJECTED
    for _ in range(3):
        project.tick(3600)
    assert project.live() == second


def test_a_newer_run_waits_for_a_rollout_that_is_at_its_end(project: Publishing, second: str) -> None:
    project.firebase.faults.plan("find", *[Failing(ServiceUnavailable("503")) for _ in range(2)])
    project.tick(3600)
    project.tick(3600)
    assert project.release(second).step == "register"
    third = project.train(3)
    for _ in range(4):
        project.tick()
    assert project.release(second).state is State.LIVE
    assert project.release(third).state is State.CANARY
    assert project.seen() == {project.version(second), project.version(third)}


def test_of_two_runs_that_wait_the_newer_one_takes_the_place(project: Publishing, first: str, second: str) -> None:
    third, fourth = project.train(3), project.train(4)
    project.tick(times=3)
    assert project.release(second).state is State.SUPERSEDED
    assert project.release(fourth).state is State.CANARY
    # Should the newer one not come through, the older one is still there.
    assert project.release(third).state is State.WAITING
    assert project.seen() == {project.version(first), project.version(fourth)}
    project.tick(3600, times=4)
    assert project.release(third).reason == f"{fourth} is newer and live"


# Back ----------------------------------------------------------------------------------------------------------


def test_an_abort_gives_every_phone_the_old_version_at_once(project: Publishing, first: str, second: str) -> None:
    answer = project.http.post("/abort", json={"dataset": "flowers", "reason": "it sees cats"})
    assert (answer.status_code, answer.json["run_id"]) == (202, second)
    project.tick()
    aborted = project.release(second)
    assert (aborted.state, aborted.reason) == (State.ROLLED_BACK, "aborted: it sees cats")
    assert (project.seen(), project.pointer(), project.expression()) == (
        {project.version(first)},
        project.version(first),
        "",
    )
    assert project.firebase_holds(first)
    assert project.release(first).state is State.LIVE
    # And the same version may be tried again.
    project.redeploy(second)
    project.tick()
    assert project.seen() == {project.version(first), project.version(second)}


def test_an_abort_means_the_rollout_and_not_a_newer_run_that_waits(project: Publishing, second: str) -> None:
    project.train(3)
    answer = project.http.post("/abort", json={"dataset": "flowers"})
    assert answer.json["run_id"] == second


@pytest.mark.parametrize("stop_at", ["publish", "point", "settle"])
def test_an_abort_at_the_very_end_restores_all_three(
    project: Publishing, first: str, second: str, stop_at: str
) -> None:
    """Each channel that had moved already goes back to what is live."""
    call = {"publish": "firebase.find", "point": "phones.put", "settle": "remote_config.write"}[stop_at]

    def unreachable(name: str, when: str) -> None:
        if (name, when) == (call, "before") and project.release(second).step == stop_at:
            raise ServiceUnavailable("503")

    project.tick(3600)
    project.interfere = unreachable
    project.tick(3600)
    assert project.release(second).step == stop_at
    assert project.http.post("/abort", json={"dataset": "flowers"}).status_code == 202
    project.interfere = lambda _name, _when: None
    for _ in range(3):
        project.tick()
    assert (project.release(second).state, project.release(second).reason) == (State.ROLLED_BACK, "aborted")
    assert (project.seen(), project.pointer(), project.expression()) == (
        {project.version(first)},
        project.version(first),
        "",
    )
    assert project.firebase_holds(first)


def test_what_cannot_be_taken_back_is_said_and_keeps_nothing_else(project: Publishing, first: str, second: str) -> None:
    project.remote_config.faults.plan("read", Failing(RejectedByGoogle("403 not any more")))
    project.post("abort")
    project.tick()
    aborted = project.release(second)
    assert (aborted.state, aborted.reason) == (
        State.ROLLED_BACK,
        "aborted; not taken back: Remote Config: 403 not any more",
    )
    assert project.pointer() == project.version(first)


def test_a_parameter_that_someone_changed_by_hand_ends_the_rollout_and_stays(project: Publishing, second: str) -> None:
    document = project.remote_config.document
    document["parameters"][KEY] = {"defaultValue": {"value": "v0"}}
    project.remote_config.edit_by_hand(document)
    project.tick(3600)
    assert project.release(second).state is State.ROLLED_BACK
    assert "was changed by hand in Remote Config" in project.release(second).reason
    assert project.remote_config.values(KEY) == {"v0"}
    assert project.expression() == ""


@pytest.mark.parametrize("while_at", ["bake", "settle"])
def test_a_parameter_changed_by_hand_at_the_last_share_ends_the_rollout_and_stays_too(
    project: Publishing, first: str, second: str, while_at: str
) -> None:
    def unreachable(name: str, when: str) -> None:
        if (name, when) == ("remote_config.read", "before") and project.release(second).step == "settle":
            raise ServiceUnavailable("503")

    project.tick(3600)
    if while_at == "settle":
        project.interfere = unreachable
        project.tick(3600)
        project.interfere = lambda _name, _when: None
    assert (project.release(second).step, project.expression()[-5:]) == (while_at, "<= 50")
    document = project.remote_config.document
    document["parameters"][KEY] = {"defaultValue": {"value": "v0"}}
    project.remote_config.edit_by_hand(document)
    for _ in range(2):
        project.tick(3600)
    assert project.release(second).state is State.ROLLED_BACK
    assert "was changed by hand in Remote Config" in project.release(second).reason
    assert project.remote_config.values(KEY) == {"v0"}
    assert (project.pointer(), project.expression()) == (project.version(first), "")
    assert project.firebase_holds(first)


def test_a_file_that_firebase_ml_refuses_at_the_end_is_taken_back(project: Publishing, first: str, second: str) -> None:
    project.firebase.validate = lambda uri: "Invalid TFLite model" if second in uri else ""
    project.tick(3600)
    project.tick(3600)
    assert project.release(second).state is State.ROLLED_BACK
    assert "Invalid TFLite model" in project.release(second).reason
    assert (project.seen(), project.pointer()) == ({project.version(first)}, project.version(first))
    assert project.firebase_holds(first)


def test_a_rollback_restores_pointer_remote_config_and_firebase_ml_together(project: Publishing, first: str) -> None:
    second = live_run(project, 2)
    answer = project.http.post("/rollback", json={"dataset": "flowers", "reason": "worse in the field"})
    assert (answer.status_code, answer.json["run_id"]) == (202, first)
    project.tick()
    assert project.release(first).state is State.LIVE
    assert (project.seen(), project.pointer(), project.expression()) == (
        {project.version(first)},
        project.version(first),
        "",
    )
    assert project.firebase_holds(first)
    assert project.release(second).state is State.ROLLED_BACK


def test_a_rollback_to_a_run_of_ones_choice(project: Publishing, first: str) -> None:
    live_run(project, 2)
    live_run(project, 3)
    assert project.http.post("/rollback", json={"dataset": "flowers", "to_run": first}).status_code == 202
    project.tick()
    assert (project.seen(), project.pointer()) == ({project.version(first)}, project.version(first))


def refuse(project: Publishing, call: str) -> None:
    def refused(name: str, when: str) -> None:
        if (name, when) == (call, "before"):
            raise RejectedByGoogle("403 not any more")

    project.interfere = refused


@pytest.mark.parametrize(
    ("call", "part"),
    [
        ("firebase.update", "Firebase ML"),
        ("remote_config.write", "Remote Config"),
        ("phones.put", "the pointer"),
    ],
)
def test_a_rollback_says_which_channel_did_not_go_back_and_brings_the_others(
    project: Publishing, first: str, call: str, part: str
) -> None:
    second = live_run(project, 2)
    if call == "phones.put":
        # The files are there already; only moving the pointer is refused.
        project.interfere = lambda name, when: _refuse_pointer(project, first, name, when)
    else:
        refuse(project, call)
    project.post("rollback")
    project.tick()
    project.interfere = lambda _name, _when: None
    assert project.release(first).state is State.LIVE
    assert project.release(first).reason.endswith(f"; not brought back on {part}: 403 not any more")
    old, new = project.version(first), project.version(second)
    assert project.pointer() == (new if part == "the pointer" else old)
    assert project.remote_config.values(KEY) == ({new} if part == "Remote Config" else {old})
    assert project.firebase_holds(second if part == "Firebase ML" else first)


def _refuse_pointer(project: Publishing, run_id: str, name: str, when: str) -> None:
    if (name, when) == ("phones.put", "before") and project.release(run_id).step == "point":
        raise RejectedByGoogle("403 not any more")


@pytest.mark.parametrize("state", [State.REJECTED, State.LIVE])
def test_a_rollback_brings_the_file_that_served_and_not_one_that_a_later_release_made(
    project: Publishing, first: str, state: State
) -> None:
    """Whether the gate lets out what `first` is converted to anew or not, the rollback means what phones had last."""
    served = project.version(first)
    if state is State.REJECTED:
        project.accuracy = 0.1
        project.configure(publishing=ROLLOUT, gates={"mobile": {"min_accuracy": 0.8}})
    project.redeploy(first, quantization="int8")
    for _ in range(4):
        project.tick(3600)
    assert project.release(first).state is state, project.release(first).reason
    if state is State.LIVE:
        served, before = project.version(first), served
        assert served != before
    project.accuracy = 0.9
    live_run(project, 2)
    project.post("rollback")
    project.tick()
    assert project.release(first).state is State.LIVE, project.release(first).reason
    assert (project.pointer(), project.seen()) == (served, {served})


def test_a_rollback_that_no_channel_takes_has_failed(project: Publishing, first: str) -> None:
    live_run(project, 2)

    def refused(name: str, when: str) -> None:
        _refuse_pointer(project, first, name, when)
        if (name, when) in (("remote_config.write", "before"), ("firebase.update", "before")):
            raise RejectedByGoogle("403 not any more")

    project.interfere = refused
    project.post("rollback")
    project.tick()
    assert project.release(first).state is State.FAILED


def test_an_abort_waits_for_a_file_that_firebase_ml_is_still_taking_in(
    project: Publishing, first: str, second: str
) -> None:
    """The model may name the new file only when the operation is over; then it has to be the old one's again."""
    project.tick(3600)
    project.firebase.looks_locked = 99
    project.tick(3600)
    assert project.release(second).step == "register"
    (model,) = project.firebase.models.values()
    project.firebase.models[model.id] = dataclasses.replace(model, tags=("run-of-the-file-before",))
    project.post("abort")
    project.tick()
    assert not project.release(second).is_over
    project.firebase.models[model.id] = model
    project.firebase.looks_locked = 0
    project.firebase._locks.clear()
    for _ in range(3):
        project.tick()
    assert project.release(second).state is State.ROLLED_BACK
    assert project.firebase_holds(first)


def test_an_abort_does_not_wait_forever_for_a_permission_to_sign(project: Publishing, first: str, second: str) -> None:
    refused = SigningRefused("IAM does not let it sign: gcloud iam …")
    project.firebase.faults.plan("find", *[Failing(refused)] * 50)
    project.post("abort")
    project.tick(times=15)
    assert not project.release(second).is_over
    project.tick(times=2)
    assert project.release(second).state is State.ROLLED_BACK
    assert "not taken back: Firebase ML: waited since " in project.release(second).reason
    assert project.release(second).reason.endswith(str(refused))


def test_a_pointer_that_cannot_be_reached_any_more_is_said_to_stay(
    project: Publishing, first: str, second: str
) -> None:
    project.post("abort")
    project.build(bucket=False)
    project.tick()
    assert project.release(second).state is State.ROLLED_BACK
    assert (
        "not taken back: the pointer: FIREBASE_STORAGE_BUCKET was set when this release began and is not any more"
        in project.release(second).reason
    )


# What people see -----------------------------------------------------------------------------------------------


def test_the_status_tells_the_share_and_since_when(project: Publishing, second: str) -> None:
    (under_way,) = [each for each in project.http.get("/status/flowers").json["under_way"] if each["run_id"] == second]
    rollout: dict[str, Any] = under_way["facts"]["rollout"]
    assert under_way["state"] == "canary"
    assert rollout["shares"] == [10, 50, 100]
    assert (rollout["passed"][0]["share"], rollout["passed"][0]["at"]) == (10, rollout["shifted_at"])


@pytest.mark.parametrize(
    ("publishing", "message"),
    [
        ({"rollout": {"steps": [50, 10, 100]}}, "publishing.rollout.steps: must rise and end with 100"),
        ({"rollout": {"steps": [10, 50]}}, "must rise and end with 100"),
        ({"rollout": {"bake": "soon"}}, "must be a duration"),
        ({"rollout": {}, "channels": ["firebase-ml"]}, "rollout needs channel firebase-storage"),
    ],
)
def test_a_rollout_that_cannot_be_is_a_fault_of_the_configuration(publishing: Any, message: str) -> None:
    document = {"dataset": "flowers", "labels": ["a", "b"], "publishing": publishing}
    with pytest.raises(InvalidDatasetConfig, match=message):
        dataset_config.parse(json.dumps(document), source="x")
