"""A new version reaches phones share by share, is overtaken, aborted and rolled back; phones never have half of one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from chain import PUBLISHER_SETTINGS, Chain

from dualdeploy.branches import BranchWorker
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable, SigningRefused
from dualdeploy.ledger import Branch, State
from dualdeploy.object_store import ABSENT
from dualdeploy.testing import Failing
from mobile_publisher.handler import MobilePublisher

KEY = "dualdeploy_flowers_version"
ROLLOUT = {"rollout": {"steps": [10, 50, 100], "bake": "1h"}}


def train(chain: Chain, edition: int) -> str:
    """Bring one more run as far as both targets are trained; nobody was told yet."""
    known = set(chain.run_ids())
    chain.upload("flowers/train-00000-of-00001.tfrecord", "flowers/eval-00000-of-00001.tfrecord", edition=edition)
    chain.drain()
    for _ in range(3):
        chain.clock.advance(60)
        chain.handle(chain.clock_deliveries()[0])
    (run_id,) = set(chain.run_ids()) - known
    (job,) = chain.jobs_of(run_id, "mobile")
    chain.train(job, hints=False)
    chain.handle(chain.log_hint(job))
    return run_id


def tick(chain: Chain, seconds: float = 60) -> None:
    chain.clock.advance(seconds)
    assert chain.handle(chain.clock_deliveries()[3])


def live_run(chain: Chain, edition: int = 1) -> str:
    run_id = train(chain, edition)
    for _ in range(4):
        tick(chain, 3600)
    assert mobile(chain, run_id).state is State.LIVE, mobile(chain, run_id).reason
    return run_id


def mobile(chain: Chain, run_id: str) -> Branch:
    return chain.branch(run_id, "mobile")


def version(chain: Chain, run_id: str) -> str:
    return str(mobile(chain, run_id).facts["published_manifest"]["version"])


def pointer(chain: Chain) -> str:
    return str(json.loads(chain.phones.read("models/flowers/latest.json").data)["version"])


def expression(chain: Chain) -> str:
    found = [each["expression"] for each in chain.remote_config.document.get("conditions", [])]
    return found[-1] if found else ""


def firebase_holds(chain: Chain, run_id: str) -> bool:
    (model,) = chain.firebase.models.values()
    return f"run-{run_id.removeprefix('flowers-')}" in model.tags and model.published


def seen(chain: Chain) -> set[str]:
    """Every version that a phone may be told now: Remote Config's values, or the pointer for those without."""
    return chain.remote_config.values(KEY) or {pointer(chain)}


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    chain.configure(publishing=ROLLOUT)
    return chain


@pytest.fixture
def first(chain: Chain) -> str:
    return live_run(chain)


@pytest.fixture
def second(chain: Chain, first: str) -> str:
    """A second run, whose rollout has begun."""
    run_id = train(chain, 2)
    tick(chain)
    assert mobile(chain, run_id).state is State.CANARY
    return run_id


# Forward -------------------------------------------------------------------------------------------------------


def test_the_first_version_of_a_name_is_everybodys_at_once(chain: Chain) -> None:
    run_id = train(chain, 1)
    tick(chain)
    assert mobile(chain, run_id).state is State.LIVE
    assert seen(chain) == {pointer(chain)} == {version(chain, run_id)}
    assert expression(chain) == ""


def test_each_share_is_held_for_its_time_and_then_everything_moves(chain: Chain, first: str, second: str) -> None:
    old, new = version(chain, first), version(chain, second)
    seed = second.removeprefix("flowers-")
    begun = mobile(chain, second)
    assert begun.reason == f"{new} goes to 10, 50, 100 % of the installations, 3600 s apart"
    assert (begun.step, expression(chain)) == ("bake", f"percent('{seed}') <= 10")
    tick(chain, 3500)
    assert expression(chain).endswith("<= 10")
    tick(chain, 100)
    assert expression(chain) == f"percent('{seed}') <= 50"
    # Until everybody's turn: the pointer, Firebase ML and what counts as live are the old version's.
    assert (seen(chain), pointer(chain)) == ({old, new}, old)
    assert firebase_holds(chain, first)
    assert chain.live("mobile").current.run_id == first
    tick(chain, 3600)
    assert mobile(chain, second).state is State.LIVE
    assert (seen(chain), pointer(chain), expression(chain)) == ({new}, new, "")
    assert firebase_holds(chain, second)
    assert "; 10 % from 20" in mobile(chain, second).reason
    assert "; 50 % from 20" in mobile(chain, second).reason
    assert mobile(chain, first).state is State.SUPERSEDED


def test_nothing_is_asked_of_remote_config_while_a_share_is_held(chain: Chain, second: str) -> None:
    chain.operations.clear()
    for _ in range(10):
        tick(chain)
    assert [name for name in chain.operations if name.startswith("remote_config.")] == []


def test_the_plan_holds_although_the_configuration_changes_or_breaks(chain: Chain, second: str) -> None:
    chain.write_config("flowers", b"dataset: [")
    tick(chain, 3600)
    assert expression(chain).endswith("<= 50")
    tick(chain, 3600)
    assert mobile(chain, second).state is State.LIVE
    assert firebase_holds(chain, second)


def test_without_a_rollout_in_the_configuration_remote_config_is_never_called() -> None:
    chain = Chain()
    live_run(chain)
    live_run(chain, 2)
    assert not [name for name in chain.operations if name.startswith("remote_config.")]


def test_a_rollout_that_is_configured_no_more_lets_phones_follow_the_pointer_again(chain: Chain, first: str) -> None:
    assert chain.live("mobile").current.facts["remote_config"] == KEY
    chain.configure()
    second = live_run(chain, 2)
    assert chain.remote_config.values(KEY) == set()
    assert pointer(chain) == version(chain, second)
    assert "remote_config" not in chain.live("mobile").current.facts


def test_a_release_without_the_bucket_in_between_does_not_leave_phones_at_the_version_of_before(
    chain: Chain, first: str
) -> None:
    """Remote Config goes on naming the version that the bucket's phones have; a later release has to change it."""
    chain.configure(publishing={"channels": ["firebase-ml"]})
    live_run(chain, 2)
    assert seen(chain) == {version(chain, first)}
    chain.configure()
    third = live_run(chain, 3)
    assert seen(chain) == {pointer(chain)} == {version(chain, third)}


@pytest.mark.parametrize("garbage", [b"{", b"[]", b"{}", b'{"version": ""}'])
def test_a_pointer_that_names_no_version_is_pointed_at_what_is_live_and_the_rollout_is_staged(
    chain: Chain, first: str, garbage: bytes
) -> None:
    old = version(chain, first)
    overwrite_pointer(chain, garbage)
    second = train(chain, 2)
    tick(chain)
    assert (mobile(chain, second).state, pointer(chain)) == (State.CANARY, old)
    remark = f"gs://phones/models/flowers/latest.json named no version, and was pointed at {old} again, which is live"
    assert mobile(chain, second).reason.endswith(f"3600 s apart; {remark}")
    for _ in range(3):
        tick(chain, 3600)
    assert seen(chain) == {pointer(chain)} == {version(chain, second)}
    assert mobile(chain, second).reason.endswith(remark)


def test_a_pointer_that_names_no_version_where_none_is_known_is_said_to_be_replaced_at_once(chain: Chain) -> None:
    overwrite_pointer(chain, b"{")
    run_id = live_run(chain)
    assert pointer(chain) == version(chain, run_id)
    assert "latest.json named no version, and none is known: everybody's at once" in mobile(chain, run_id).reason


def overwrite_pointer(chain: Chain, data: bytes) -> None:
    name = "models/flowers/latest.json"
    current = next((found.generation for found in chain.phones.list(name)), ABSENT)
    chain.phones.put(name, data, expect=current)


def test_a_redeploy_without_canary_is_everybodys_at_once(chain: Chain, second: str) -> None:
    chain.handle(chain.post("mobile", "abort", dataset="flowers"))
    tick(chain)
    chain.handle(chain.redeploy("mobile", run_id=second, canary=False))
    tick(chain)
    assert mobile(chain, second).state is State.LIVE
    assert seen(chain) == {version(chain, second)}


def test_a_rollout_is_refused_before_anything_changed_when_the_template_may_not_be_read(
    chain: Chain, first: str
) -> None:
    old = version(chain, first)
    chain.remote_config.faults.plan("read", Failing(RejectedByGoogle("403 The caller does not have permission")))
    second = train(chain, 2)
    tick(chain)
    assert mobile(chain, second).state is State.FAILED
    assert "does not have permission" in mobile(chain, second).reason
    assert (seen(chain), pointer(chain)) == ({old}, old)


# Overtaken -----------------------------------------------------------------------------------------------------


def test_a_newer_run_takes_the_place_of_a_rollout_under_way(chain: Chain, first: str, second: str) -> None:
    third = train(chain, 3)
    for _ in range(4):
        tick(chain)
        assert seen(chain) <= {version(chain, first), version(chain, second)} or "plan" in str(mobile(chain, third))
    overtaken = mobile(chain, second)
    assert (overtaken.state, overtaken.reason) == (State.SUPERSEDED, f"replaced by {third}")
    assert mobile(chain, third).state is State.CANARY
    assert seen(chain) == {version(chain, first), version(chain, third)}
    assert pointer(chain) == version(chain, first)
    for _ in range(3):
        tick(chain, 3600)
    assert chain.live("mobile").current.run_id == third
    assert chain.live("mobile").previous.run_id == first
    assert seen(chain) == {version(chain, third)}


def test_a_newer_run_that_its_gate_rejects_lets_the_rollout_go_on(chain: Chain, second: str) -> None:
    chain.configure(publishing=ROLLOUT, gates={"mobile": {"min_accuracy": 0.99}})
    third = train(chain, 3)
    tick(chain)
    assert mobile(chain, third).state is State.REJECTED
    for _ in range(3):
        tick(chain, 3600)
    assert chain.live("mobile").current.run_id == second


def test_a_newer_run_waits_for_a_rollout_that_is_at_its_end(chain: Chain, second: str) -> None:
    chain.firebase.faults.plan("find", *[Failing(ServiceUnavailable("503")) for _ in range(2)])
    tick(chain, 3600)
    tick(chain, 3600)
    assert mobile(chain, second).step == "register"
    third = train(chain, 3)
    for _ in range(4):
        tick(chain)
    assert mobile(chain, second).state is State.LIVE
    assert mobile(chain, third).state is State.CANARY
    assert seen(chain) == {version(chain, second), version(chain, third)}


def test_a_fourth_run_takes_the_place_of_the_third_in_its_turn(chain: Chain, first: str, second: str) -> None:
    third, fourth = train(chain, 3), train(chain, 4)
    for _ in range(8):
        tick(chain)
    assert {mobile(chain, each).state for each in (second, third)} == {State.SUPERSEDED}
    assert mobile(chain, fourth).state is State.CANARY
    assert seen(chain) == {version(chain, first), version(chain, fourth)}


# Back ----------------------------------------------------------------------------------------------------------


def test_an_abort_gives_every_phone_the_old_version_at_once(chain: Chain, first: str, second: str) -> None:
    answer = chain.http("mobile").post("/abort", json={"dataset": "flowers", "reason": "it sees cats"})
    assert (answer.status_code, answer.json["run_id"]) == (202, second)
    tick(chain)
    aborted = mobile(chain, second)
    assert (aborted.state, aborted.reason) == (State.ROLLED_BACK, "aborted: it sees cats")
    assert (seen(chain), pointer(chain), expression(chain)) == ({version(chain, first)}, version(chain, first), "")
    assert firebase_holds(chain, first)
    assert mobile(chain, first).state is State.LIVE
    # And the same version may be tried again.
    chain.handle(chain.redeploy("mobile", run_id=second))
    tick(chain)
    assert seen(chain) == {version(chain, first), version(chain, second)}


def test_an_abort_means_the_rollout_and_not_a_newer_run_that_waits(chain: Chain, second: str) -> None:
    train(chain, 3)
    answer = chain.http("mobile").post("/abort", json={"dataset": "flowers"})
    assert answer.json["run_id"] == second


@pytest.mark.parametrize("stop_at", ["publish", "point", "settle"])
def test_an_abort_at_the_very_end_restores_all_three(chain: Chain, first: str, second: str, stop_at: str) -> None:
    """Each channel that had moved already goes back to what is live."""
    call = {"publish": "firebase.find", "point": "phones.put", "settle": "remote_config.write"}[stop_at]

    def unreachable(_number: int, name: str, when: str) -> None:
        if (name, when) == (call, "before") and mobile(chain, second).step == stop_at:
            raise ServiceUnavailable("503")

    tick(chain, 3600)
    chain.interfere = unreachable
    tick(chain, 3600)
    assert mobile(chain, second).step == stop_at
    assert chain.http("mobile").post("/abort", json={"dataset": "flowers"}).status_code == 202
    chain.interfere = lambda _number, _name, _when: None
    for _ in range(3):
        tick(chain)
    assert (mobile(chain, second).state, mobile(chain, second).reason) == (State.ROLLED_BACK, "aborted")
    assert (seen(chain), pointer(chain), expression(chain)) == ({version(chain, first)}, version(chain, first), "")
    assert firebase_holds(chain, first)


def test_what_cannot_be_taken_back_is_said_and_keeps_nothing_else(chain: Chain, first: str, second: str) -> None:
    chain.remote_config.faults.plan("read", Failing(RejectedByGoogle("403 not any more")))
    chain.handle(chain.post("mobile", "abort", dataset="flowers"))
    tick(chain)
    aborted = mobile(chain, second)
    assert (aborted.state, aborted.reason) == (
        State.ROLLED_BACK,
        "aborted; not taken back: Remote Config: 403 not any more",
    )
    assert pointer(chain) == version(chain, first)


def test_a_parameter_that_somebody_changed_by_hand_ends_the_rollout_and_stays(chain: Chain, second: str) -> None:
    document = chain.remote_config.document
    document["parameters"][KEY] = {"defaultValue": {"value": "v0"}}
    chain.remote_config.edit_by_hand(document)
    tick(chain, 3600)
    assert mobile(chain, second).state is State.ROLLED_BACK
    assert "was changed by hand in Remote Config" in mobile(chain, second).reason
    assert chain.remote_config.values(KEY) == {"v0"}
    assert expression(chain) == ""


@pytest.mark.parametrize("while_at", ["bake", "settle"])
def test_a_parameter_changed_by_hand_at_the_last_share_ends_the_rollout_and_stays_too(
    chain: Chain, first: str, second: str, while_at: str
) -> None:
    def unreachable(_number: int, name: str, when: str) -> None:
        if (name, when) == ("remote_config.read", "before") and mobile(chain, second).step == "settle":
            raise ServiceUnavailable("503")

    tick(chain, 3600)
    if while_at == "settle":
        chain.interfere = unreachable
        tick(chain, 3600)
        chain.interfere = lambda _number, _name, _when: None
    assert (mobile(chain, second).step, expression(chain)[-5:]) == (while_at, "<= 50")
    document = chain.remote_config.document
    document["parameters"][KEY] = {"defaultValue": {"value": "v0"}}
    chain.remote_config.edit_by_hand(document)
    for _ in range(2):
        tick(chain, 3600)
    assert mobile(chain, second).state is State.ROLLED_BACK
    assert "was changed by hand in Remote Config" in mobile(chain, second).reason
    assert chain.remote_config.values(KEY) == {"v0"}
    assert (pointer(chain), expression(chain)) == (version(chain, first), "")
    assert firebase_holds(chain, first)


def test_a_file_that_firebase_ml_refuses_at_the_end_is_taken_back(chain: Chain, first: str, second: str) -> None:
    chain.firebase.validate = lambda uri: "Invalid TFLite model" if second in uri else ""
    tick(chain, 3600)
    tick(chain, 3600)
    assert mobile(chain, second).state is State.ROLLED_BACK
    assert "Invalid TFLite model" in mobile(chain, second).reason
    assert (seen(chain), pointer(chain)) == ({version(chain, first)}, version(chain, first))
    assert firebase_holds(chain, first)


def test_a_rollback_restores_pointer_remote_config_and_firebase_ml_together(chain: Chain, first: str) -> None:
    second = live_run(chain, 2)
    answer = chain.http("mobile").post("/rollback", json={"dataset": "flowers", "reason": "worse in the field"})
    assert (answer.status_code, answer.json["run_id"]) == (202, first)
    tick(chain)
    assert mobile(chain, first).state is State.LIVE
    assert (seen(chain), pointer(chain), expression(chain)) == ({version(chain, first)}, version(chain, first), "")
    assert firebase_holds(chain, first)
    assert mobile(chain, second).state is State.ROLLED_BACK


def test_a_rollback_to_a_run_of_ones_choice(chain: Chain, first: str) -> None:
    live_run(chain, 2)
    live_run(chain, 3)
    assert chain.http("mobile").post("/rollback", json={"dataset": "flowers", "to_run": first}).status_code == 202
    tick(chain)
    assert (seen(chain), pointer(chain)) == ({version(chain, first)}, version(chain, first))


def refuse(chain: Chain, call: str) -> None:
    def refused(_number: int, name: str, when: str) -> None:
        if (name, when) == (call, "before"):
            raise RejectedByGoogle("403 not any more")

    chain.interfere = refused


@pytest.mark.parametrize(
    ("call", "part"),
    [
        ("firebase.update", "Firebase ML"),
        ("remote_config.write", "Remote Config"),
        ("phones.put", "the pointer"),
    ],
)
def test_a_rollback_says_which_channel_did_not_go_back_and_brings_the_others(
    chain: Chain, first: str, call: str, part: str
) -> None:
    second = live_run(chain, 2)
    if call == "phones.put":
        # The files are there already; only moving the pointer is refused.
        chain.interfere = lambda _number, name, when: _refuse_pointer(chain, first, name, when)
    else:
        refuse(chain, call)
    chain.handle(chain.post("mobile", "rollback", dataset="flowers"))
    tick(chain)
    chain.interfere = lambda _number, _name, _when: None
    assert mobile(chain, first).state is State.LIVE
    assert mobile(chain, first).reason.endswith(f"; not brought back on {part}: 403 not any more")
    old, new = version(chain, first), version(chain, second)
    assert pointer(chain) == (new if part == "the pointer" else old)
    assert chain.remote_config.values(KEY) == ({new} if part == "Remote Config" else {old})
    assert firebase_holds(chain, second if part == "Firebase ML" else first)


def _refuse_pointer(chain: Chain, run_id: str, name: str, when: str) -> None:
    if (name, when) == ("phones.put", "before") and mobile(chain, run_id).step == "point":
        raise RejectedByGoogle("403 not any more")


@pytest.mark.parametrize("state", [State.REJECTED, State.LIVE])
def test_a_rollback_brings_the_file_that_served_and_not_one_that_a_later_release_made(
    chain: Chain, first: str, state: State
) -> None:
    """Whether the gate lets out what `first` is converted to anew or not, the rollback means what phones had last."""
    served = version(chain, first)
    if state is State.REJECTED:
        chain.mobile_accuracy = 0.1
        chain.configure(publishing=ROLLOUT, gates={"mobile": {"min_accuracy": 0.8}})
    chain.handle(chain.redeploy("mobile", run_id=first, quantization="int8"))
    for _ in range(4):
        tick(chain, 3600)
    assert mobile(chain, first).state is state, mobile(chain, first).reason
    if state is State.LIVE:
        served, before = version(chain, first), served
        assert served != before
    chain.mobile_accuracy = 0.9
    live_run(chain, 2)
    chain.handle(chain.post("mobile", "rollback", dataset="flowers"))
    tick(chain)
    assert mobile(chain, first).state is State.LIVE, mobile(chain, first).reason
    assert (pointer(chain), seen(chain)) == (served, {served})


def test_a_rollback_that_no_channel_takes_has_failed(chain: Chain, first: str) -> None:
    live_run(chain, 2)

    def refused(_number: int, name: str, when: str) -> None:
        _refuse_pointer(chain, first, name, when)
        if (name, when) in (("remote_config.write", "before"), ("firebase.update", "before")):
            raise RejectedByGoogle("403 not any more")

    chain.interfere = refused
    chain.handle(chain.post("mobile", "rollback", dataset="flowers"))
    tick(chain)
    assert mobile(chain, first).state is State.FAILED


def test_an_abort_waits_for_a_file_that_firebase_ml_is_still_taking_in(chain: Chain, first: str, second: str) -> None:
    """The model may name the new file only when the operation is over; then it has to be the old one's again."""
    tick(chain, 3600)
    chain.firebase.looks_locked = 99
    tick(chain, 3600)
    assert mobile(chain, second).step == "register"
    (model,) = chain.firebase.models.values()
    chain.firebase.models[model.id] = dataclasses.replace(model, tags=("run-of-the-file-before",))
    chain.handle(chain.post("mobile", "abort", dataset="flowers"))
    tick(chain)
    assert not mobile(chain, second).is_final
    chain.firebase.models[model.id] = model
    chain.firebase.looks_locked = 0
    chain.firebase._locks.clear()
    for _ in range(3):
        tick(chain)
    assert mobile(chain, second).state is State.ROLLED_BACK
    assert firebase_holds(chain, first)


def test_an_abort_does_not_wait_for_ever_for_a_right_to_sign(chain: Chain, first: str, second: str) -> None:
    refused = SigningRefused("IAM does not let it sign: gcloud iam …")
    chain.firebase.faults.plan("find", *[Failing(refused)] * 50)
    chain.handle(chain.post("mobile", "abort", dataset="flowers"))
    for _ in range(15):
        tick(chain)
    assert not mobile(chain, second).is_final
    for _ in range(2):
        tick(chain)
    assert mobile(chain, second).state is State.ROLLED_BACK
    assert "not taken back: Firebase ML: firebase-ml: since " in mobile(chain, second).reason
    assert mobile(chain, second).reason.endswith(str(refused))


def test_a_pointer_that_cannot_be_reached_any_more_is_said_to_stay(chain: Chain, first: str, second: str) -> None:
    chain.handle(chain.post("mobile", "abort", dataset="flowers"))
    chain.workers["mobile"] = without_phones_bucket(chain)
    tick(chain)
    assert mobile(chain, second).state is State.ROLLED_BACK
    assert "not taken back: the pointer: FIREBASE_STORAGE_BUCKET is not set any more" in mobile(chain, second).reason


def without_phones_bucket(chain: Chain) -> BranchWorker:
    publisher = MobilePublisher(
        ledger=chain.ledger,
        config=chain.config,
        firebase=chain.firebase,
        remote_config=chain.remote_config,
        export=chain._export,  # type: ignore[arg-type]  # a stub needs only `as_facts`
        settings=PUBLISHER_SETTINGS,
        clock=chain.clock,
    )
    return chain._worker("mobile", publisher.advance)


# What people see -----------------------------------------------------------------------------------------------


def test_the_status_tells_the_share_and_since_when(chain: Chain, second: str) -> None:
    (under_way,) = [
        each for each in chain.http("mobile").get("/status/flowers").json["under_way"] if each["run_id"] == second
    ]
    rollout: dict[str, Any] = under_way["facts"]["rollout"]
    assert under_way["state"] == "canary"
    assert rollout["steps"] == [10, 50, 100]
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
    from dualdeploy import dataset_config
    from dualdeploy.errors import InvalidDatasetConfig

    document = {"dataset": "flowers", "labels": ["a", "b"], "publishing": publishing}
    with pytest.raises(InvalidDatasetConfig, match=message):
        dataset_config.parse(json.dumps(document), source="x")
