"""`POST /redeploy` and `GET /status`: what callers are told, and what is written for it."""

from __future__ import annotations

from typing import Any

import pytest
from chain import Chain
from werkzeug.test import TestResponse

from dualdeploy.clock import to_text
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.ledger import State
from dualdeploy.testing import Failing


@pytest.fixture
def chain() -> Chain:
    """A project whose one run is live for both targets."""
    chain = Chain()
    chain.upload()
    chain.settle()
    chain.clock.advance(3600)
    return chain


@pytest.fixture
def run_id(chain: Chain) -> str:
    (run_id,) = chain.run_ids()
    return run_id


def redeploy(chain: Chain, **body: Any) -> TestResponse:
    return chain.http("cloud").post("/redeploy", json=body)


def status(chain: Chain, dataset: str = "flowers") -> TestResponse:
    return chain.http("cloud").get(f"/status/{dataset}")


def start_second_run(chain: Chain) -> str:
    """A newer run in training."""
    known = set(chain.run_ids())
    chain.upload(edition=2)
    chain.drain()
    for _ in range(3):
        chain.tick()
    (newer,) = set(chain.run_ids()) - known
    return newer


# Accepted ------------------------------------------------------------------------------------------------------


def test_a_redeploy_of_a_data_set_takes_its_live_run(chain: Chain, run_id: str) -> None:
    response = redeploy(chain, dataset="flowers", reason="traffic was moved")
    assert response.status_code == 202
    assert response.json == {
        "run_id": run_id,
        "target": "cloud",
        "state": "gating",
        "release": 2,
        "status": "/status/flowers",
    }
    branch = chain.branch(run_id, "cloud")
    assert (branch.state, branch.release, branch.deployment_announced) == (State.GATING, 2, False)
    assert branch.history[-1].note == "redeploy: traffic was moved"
    assert chain.active() == [f"cloud/{run_id}"]


def test_an_accepted_redeploy_goes_on_at_the_next_tick_and_is_announced_again(chain: Chain, run_id: str) -> None:
    redeploy(chain, dataset="flowers")
    chain.settle()
    assert chain.branch(run_id, "cloud").state is State.LIVE
    assert len(chain.messages("deployment-completed", target="cloud", outcome="live")) == 2
    assert chain.live("cloud").current.release == 2


def test_a_redeploy_takes_a_body_whatever_its_content_type_says(chain: Chain) -> None:
    response = chain.http("cloud").post(
        "/redeploy", data='{"dataset": "flowers"}', content_type="application/x-www-form-urlencoded"
    )
    assert response.status_code == 202


def test_a_redeploy_of_a_data_set_that_was_never_live_takes_its_newest_trained_run() -> None:
    chain = Chain()
    chain.configure(gates={"cloud": {"min_accuracy": 1.0}})
    chain.upload()
    chain.settle()
    older = chain.run_ids()
    chain.clock.advance(3600)
    newer = start_second_run(chain)
    chain.settle()
    assert [chain.branch(run_id, "cloud").state for run_id in (*older, newer)] == [State.REJECTED] * 2
    assert redeploy(chain, dataset="flowers").json["run_id"] == newer


@pytest.mark.parametrize("state", ["JOB_STATE_FAILED"])
def test_runs_without_a_trained_model_are_passed_over(state: str) -> None:
    chain = Chain()
    chain.configure(gates={"cloud": {"min_accuracy": 1.0}})
    chain.upload()
    chain.settle()
    (trained,) = chain.run_ids()
    chain.clock.advance(3600)
    chain.job_states["cloud"] = state
    start_second_run(chain)
    chain.settle()
    assert redeploy(chain, dataset="flowers").json["run_id"] == trained


# Refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "exactly one of dataset and run_id"),
        ({"dataset": "flowers", "run_id": "flowers-0123456789ab"}, "exactly one of dataset and run_id"),
        ({"dataset": "flowers", "forced": True}, "unknown keys ['forced']"),
        ({"dataset": "flowers", "force": "yes"}, "force is true or false"),
        ({"dataset": 7}, "are texts"),
        ({"dataset": "flowers", "reason": None}, "are texts"),
        ({"dataset": "Flowers!"}, "'Flowers!' is no data set's name"),
        ({"run_id": "flowers"}, "'flowers' is no run id"),
        ({"run_id": "../../x-0123456789ab"}, "is no run id"),
        ({"run_id": "a/b-0123456789ab"}, "is no run id"),
    ],
)
def test_a_body_that_means_nothing_is_answered_422_with_what_to_send(
    chain: Chain, body: dict[str, Any], message: str
) -> None:
    response = redeploy(chain, **body)
    assert response.status_code == 422
    assert message in response.json["error"]
    assert 'send {"dataset": "flowers"}' in response.json["error"]
    assert chain.active() == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"flowers"', b"null", b"\xff"])
def test_a_body_that_is_no_json_object_is_answered_422(chain: Chain, data: bytes) -> None:
    response = chain.http("cloud").post("/redeploy", data=data, content_type="application/json")
    assert response.status_code == 422
    assert "the body is no JSON object" in response.json["error"]


def test_a_run_that_the_ledger_does_not_have_is_answered_404(chain: Chain) -> None:
    response = redeploy(chain, run_id="flowers-000000000000")
    assert response.status_code == 404
    assert "no cloud branch of run 'flowers-000000000000'" in response.json["error"]


def test_a_data_set_without_a_trained_run_is_answered_404(chain: Chain) -> None:
    response = redeploy(chain, dataset="animals")
    assert response.status_code == 404
    assert "has no trained cloud run" in response.json["error"]


def test_a_branch_that_is_under_way_is_answered_409(chain: Chain, run_id: str) -> None:
    assert redeploy(chain, run_id=run_id).status_code == 202
    response = redeploy(chain, run_id=run_id, force=True)
    assert response.status_code == 409
    assert response.json["error"].startswith(f"{run_id} is gating: wait until it is through")
    assert chain.branch(run_id, "cloud").release == 2


def test_another_branch_of_the_data_set_under_way_is_answered_409(chain: Chain, run_id: str) -> None:
    newer = start_second_run(chain)
    for job in chain.unfinished_jobs():
        chain.train(job)
    chain.drain()
    response = redeploy(chain, run_id=run_id, force=True)
    assert response.status_code == 409
    assert response.json["error"].startswith(f"{newer} is deploying: wait")


def test_a_run_that_was_never_trained_is_answered_409_with_why(chain: Chain) -> None:
    chain.job_states["cloud"] = "JOB_STATE_FAILED"
    failed = start_second_run(chain)
    chain.settle()
    response = redeploy(chain, run_id=failed, force=True)
    assert response.status_code == 409
    assert "has no trained cloud model: the job failed: out of memory" in response.json["error"]


def test_an_older_run_than_the_live_one_needs_force(chain: Chain, run_id: str) -> None:
    newer = start_second_run(chain)
    chain.settle()
    response = redeploy(chain, run_id=run_id)
    assert response.status_code == 409
    assert response.json["error"] == f"{newer} is newer and live; send force: true to replace it by {run_id}"
    assert redeploy(chain, run_id=run_id, force=True).status_code == 202
    assert chain.branch(run_id, "cloud").forced


def test_a_redeploy_while_an_instance_is_at_work_is_answered_503(chain: Chain) -> None:
    with chain.ledger.lease("flowers/cloud", seconds=60):
        response = redeploy(chain, dataset="flowers")
    assert response.status_code == 503
    assert response.json["error"].startswith("try again in a moment")
    assert chain.active() == []


def test_a_ledger_that_does_not_answer_is_503_and_the_next_try_is_accepted(chain: Chain) -> None:
    chain.ledger_store.faults.plan("put", Failing(ServiceUnavailable("no answer")))
    assert redeploy(chain, dataset="flowers").status_code == 503
    assert redeploy(chain, dataset="flowers").status_code == 202


def test_a_marker_without_a_branch_does_not_stand_in_the_way_of_a_redeploy(chain: Chain) -> None:
    chain.ledger.mark_active("flowers-000000000000", "cloud")
    assert redeploy(chain, dataset="flowers").status_code == 202


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_a_redeploy_by_another_method_is_refused(chain: Chain, method: str) -> None:
    assert getattr(chain.http("cloud"), method)("/redeploy").status_code == 405


# Status --------------------------------------------------------------------------------------------------------


def test_the_status_tells_what_serves_and_what_is_under_way(chain: Chain, run_id: str) -> None:
    newer = start_second_run(chain)
    document = status(chain).json
    assert document["live"]["current"]["run_id"] == run_id
    assert [branch["run_id"] for branch in document["under_way"]] == [newer]
    assert document["under_way"][0]["state"] == "training"
    assert (document["dataset"], document["target"]) == ("flowers", "cloud")
    assert document["at"] == to_text(chain.clock())


def test_the_status_of_one_data_set_does_not_show_another(chain: Chain) -> None:
    chain.ledger.mark_active("flowers-2-0123456789ab", "cloud")
    assert status(chain).json["under_way"] == []


def test_the_status_before_the_first_release_has_nothing_live() -> None:
    chain = Chain()
    chain.upload()
    chain.drain()
    document = status(chain).json
    assert document["live"] is None
    assert document["under_way"][0]["state"] == "training"


def test_the_status_shows_an_unreadable_branch_instead_of_failing(chain: Chain) -> None:
    chain.ledger.mark_active("flowers-000000000000", "cloud")
    response = status(chain)
    assert response.status_code == 200
    assert response.json["under_way"][0]["state"] == "unreadable"


@pytest.mark.parametrize("dataset", ["animals", "Flowers", "f%2F..", "x" * 60])
def test_the_status_of_what_is_unknown_is_404(chain: Chain, dataset: str) -> None:
    assert status(chain, dataset).status_code == 404


def test_the_health_of_a_service_costs_no_call(chain: Chain) -> None:
    calls = chain.ledger_store.faults.calls.total()
    assert chain.http("cloud").get("/healthz").json == {"status": "ok", "service": "cloud"}
    assert chain.ledger_store.faults.calls.total() == calls


# A variant of the file for phones ------------------------------------------------------------------------------


def test_a_redeploy_may_ask_for_a_variant_of_the_file_for_phones(chain: Chain, run_id: str) -> None:
    client = chain.http("mobile")
    assert client.post("/redeploy", json={"dataset": "flowers", "quantization": "float16"}).status_code == 202
    chain.settle()
    facts = chain.live("mobile").current.facts
    assert (facts["variant"], chain.live("mobile").current.release) == ("float16", 2)
    assert chain.models.read(facts["tflite"].removeprefix("gs://models/")).data == f"float16 file of {run_id}".encode()


def test_a_forced_redeploy_that_names_a_variant_means_the_variant(chain: Chain) -> None:
    chain.http("mobile").post("/redeploy", json={"dataset": "flowers", "quantization": "int8", "force": True})
    chain.settle()
    assert chain.live("mobile").current.facts["variant"] == "int8"


def test_the_variant_of_one_redeploy_is_not_that_of_the_next(chain: Chain) -> None:
    client = chain.http("mobile")
    first = chain.live("mobile").current.facts["tflite"]
    client.post("/redeploy", json={"dataset": "flowers", "quantization": "int8"})
    chain.settle()
    client.post("/redeploy", json={"dataset": "flowers"})
    chain.settle()
    assert chain.live("mobile").current.facts["tflite"] == first


def test_an_unknown_variant_is_refused_with_those_that_there_are(chain: Chain) -> None:
    response = chain.http("mobile").post("/redeploy", json={"dataset": "flowers", "quantization": "int4"})
    assert response.status_code == 422
    assert "auto, float32, float16, dynamic, int8, not 'int4'" in response.json["error"]


def test_the_cloud_model_has_no_variants_to_ask_for(chain: Chain) -> None:
    response = redeploy(chain, dataset="flowers", quantization="int8")
    assert response.status_code == 422
    assert "unknown keys ['quantization']" in response.json["error"]


def test_the_same_idempotency_key_with_another_variant_is_refused(chain: Chain) -> None:
    client, headers = chain.http("mobile"), {"Idempotency-Key": "one"}
    client.post("/redeploy", json={"dataset": "flowers", "quantization": "int8"}, headers=headers)
    response = client.post("/redeploy", json={"dataset": "flowers", "quantization": "float16"}, headers=headers)
    assert response.status_code == 422
