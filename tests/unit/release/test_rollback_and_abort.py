"""`POST /rollback` and `POST /abort`, who asked for them, and what happens when they are sent twice."""

from __future__ import annotations

from typing import Any

import pytest
from chain import Chain
from werkzeug.test import TestResponse

from dualdeploy import openapi
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.ledger import State
from dualdeploy.testing.callers import from_sender


@pytest.fixture
def chain() -> Chain:
    """A project whose second run is live and whose first one was before."""
    chain = Chain()
    for edition in (1, 2):
        chain.upload(edition=edition)
        chain.settle()
        chain.clock.advance(3600)
    return chain


@pytest.fixture
def newer(chain: Chain) -> str:
    return chain.live("cloud").current.run_id


@pytest.fixture
def older(chain: Chain) -> str:
    return chain.live("cloud").previous.run_id


def post(chain: Chain, command: str, *, headers: dict[str, str] | None = None, **body: Any) -> TestResponse:
    return chain.http("cloud").post(f"/{command}", json=body, headers=headers or {})


def serving(chain: Chain) -> list[str]:
    endpoint = chain.vertex.endpoints["flowers"]
    return [deployed.display_name for deployed in endpoint.deployed if endpoint.traffic.get(deployed.id)]


# Rollback ------------------------------------------------------------------------------------------------------


def test_a_rollback_brings_back_what_was_live_before_and_marks_what_it_replaced(
    chain: Chain, older: str, newer: str
) -> None:
    response = post(chain, "rollback", dataset="flowers", reason="it sees cats")
    assert response.status_code == 202
    assert response.json["run_id"] == older
    chain.settle()
    assert serving(chain) == [older]
    assert chain.live("cloud").current.run_id == older
    assert chain.live("cloud").previous.run_id == newer
    replaced = chain.branch(newer, "cloud")
    assert (replaced.state, replaced.reason) == (
        State.ROLLED_BACK,
        f"rollback: it sees cats; {older} serves again",
    )
    # The phones were not asked for.
    assert chain.live("mobile").current.run_id == newer


def test_a_rollback_moves_all_traffic_in_one_step_and_is_probed_all_the_same(chain: Chain, older: str) -> None:
    chain.configure(serving={"canary": {"steps": [5, 25, 50, 100], "bake": "1d", "answers": 2}})
    chain.vertex.splits.clear()
    chain.vertex.answered.clear()
    post(chain, "rollback", dataset="flowers")
    chain.settle()
    assert serving(chain) == [older]
    assert {share for _, split in chain.vertex.splits for share in split.values()} == {0, 100}
    assert len(chain.vertex.answered) == 2


def test_a_rollback_to_a_warm_model_deploys_nothing() -> None:
    chain = Chain()
    chain.configure(serving={"keep_previous": 1, "canary": {"bake": 0, "answers": 2}})
    for edition in (1, 2):
        chain.upload(edition=edition)
        chain.settle()
        chain.clock.advance(3600)
    older = chain.live("cloud").previous
    chain.vertex.operations.clear()
    post(chain, "rollback", dataset="flowers")
    chain.tick()
    assert chain.vertex.operations == {}
    assert serving(chain) == [older.run_id]
    assert chain.live("cloud").current.facts["deployed_model"] == older.facts["deployed_model"]


@pytest.fixture
def split_by_hand() -> Chain:
    """Somebody saw that the newer model is bad, and has already given a fifth of its traffic back to the older one."""
    chain = Chain()
    chain.configure(serving={"keep_previous": 1, "canary": {"bake": 0, "answers": 2}})
    for edition in (1, 2):
        chain.upload(edition=edition)
        chain.settle()
        chain.clock.advance(3600)
    live = chain.live("cloud")
    newer, older = (str(release.facts["deployed_model"]) for release in (live.current, live.previous))
    chain.vertex.set_traffic(chain.vertex.find_endpoint("flowers"), {newer: 80, older: 20})
    return chain


def test_a_rollback_goes_on_where_somebody_began_it_by_hand(split_by_hand: Chain) -> None:
    older = split_by_hand.live("cloud").previous.run_id
    post(split_by_hand, "rollback", dataset="flowers")
    split_by_hand.settle()
    branch = split_by_hand.branch(older, "cloud")
    assert branch.state is State.LIVE, branch.reason
    assert serving(split_by_hand) == [older]


def test_a_share_that_was_given_by_hand_is_not_given_back_to_a_model_that_fails(split_by_hand: Chain) -> None:
    live, good = split_by_hand.live("cloud"), split_by_hand.vertex.serve

    def only_the_live_one_answers(deployed: Any, instance: Any) -> Any:
        if deployed.display_name != live.current.run_id:
            raise ServiceUnavailable("500: cannot load")
        return good(deployed, instance)

    split_by_hand.vertex.serve = only_the_live_one_answers
    post(split_by_hand, "rollback", dataset="flowers")
    split_by_hand.settle()
    branch = split_by_hand.branch(live.previous.run_id, "cloud")
    assert branch.state is State.ROLLED_BACK, branch.reason
    assert serving(split_by_hand) == [live.current.run_id]


def test_the_phones_are_rolled_back_by_their_own_service(chain: Chain, older: str) -> None:
    response = chain.http("mobile").post("/rollback", json={"dataset": "flowers"})
    assert response.status_code == 202
    chain.settle()
    assert chain.live("mobile").current.run_id == older


def test_a_rollback_to_a_run_of_ones_choice(chain: Chain, older: str, newer: str) -> None:
    chain.upload(edition=3)
    chain.settle()
    assert post(chain, "rollback", dataset="flowers", to_run=older).json["run_id"] == older
    chain.settle()
    assert serving(chain) == [older]


def test_a_second_rollback_does_not_bring_back_what_was_just_taken_away(chain: Chain, newer: str) -> None:
    post(chain, "rollback", dataset="flowers")
    chain.settle()
    response = post(chain, "rollback", dataset="flowers")
    assert response.status_code == 409
    assert response.json["error"] == f"{newer} was itself rolled back; send to_run to choose a run"


def test_a_rollback_that_fails_behind_the_endpoint_leaves_what_was_live(chain: Chain, older: str, newer: str) -> None:
    good = chain.vertex.serve

    def only_the_live_one_answers(deployed: Any, instance: Any) -> Any:
        if deployed.display_name == older:
            raise ServiceUnavailable("500: cannot load")
        return good(deployed, instance)

    chain.vertex.serve = only_the_live_one_answers
    post(chain, "rollback", dataset="flowers")
    chain.settle()
    assert serving(chain) == [newer]
    assert chain.live("cloud").current.run_id == newer
    assert chain.branch(older, "cloud").state is State.ROLLED_BACK


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "dataset is needed"),
        ({"dataset": "flowers", "run_id": "x"}, 422, "unknown keys ['run_id']"),
        ({"dataset": "flowers", "to_run": 3}, 422, "are texts"),
        ({"dataset": "flowers", "to_run": "animals-0123456789ab"}, 422, "is no run of flowers"),
        ({"dataset": "flowers", "to_run": "flowers-0123456789ab"}, 404, "no cloud branch of run"),
        ({"dataset": "animals"}, 404, "nothing of data set 'animals' is live"),
    ],
)
def test_a_rollback_that_means_nothing_is_refused(
    chain: Chain, body: dict[str, Any], status: int, message: str
) -> None:
    response = post(chain, "rollback", **body)
    assert response.status_code == status
    assert message in response.json["error"]
    assert chain.active() == []


def test_a_rollback_to_what_is_live_is_refused(chain: Chain, newer: str) -> None:
    response = post(chain, "rollback", dataset="flowers", to_run=newer)
    assert response.status_code == 409
    assert "is live already" in response.json["error"]


def test_a_rollback_with_nothing_before_is_refused() -> None:
    chain = Chain()
    chain.upload()
    chain.settle()
    response = post(chain, "rollback", dataset="flowers")
    assert response.status_code == 409
    assert "nothing was live before" in response.json["error"]


# Abort ---------------------------------------------------------------------------------------------------------


def start_third_run(chain: Chain, *, until_step: str) -> str:
    chain.configure(serving={"canary": {"steps": [25, 100], "bake": "5m", "answers": 2}})
    known = set(chain.run_ids())
    chain.upload(edition=3)
    for _ in range(20):
        chain.drain()
        started = set(chain.run_ids()) - known
        if started and chain.branch(next(iter(started)), "cloud").step == until_step:
            return started.pop()
        for job in chain.unfinished_jobs():
            chain.train(job)
        chain.vertex.finish_operations()
        chain.tick()
    raise AssertionError("never came there")


@pytest.mark.parametrize("step", ["upload", "deploy", "bake"])
def test_an_abort_leaves_everything_as_it_was(chain: Chain, newer: str, step: str) -> None:
    run_id = start_third_run(chain, until_step=step)
    response = post(chain, "abort", dataset="flowers", reason="a holiday")
    assert (response.status_code, response.json["run_id"]) == (202, run_id)
    chain.settle()
    branch = chain.branch(run_id, "cloud")
    assert (branch.state, branch.reason) == (State.ROLLED_BACK, "aborted: a holiday")
    assert [deployed.display_name for deployed in chain.vertex.endpoints["flowers"].deployed] == [newer]
    assert serving(chain) == [newer]
    assert chain.live("cloud").current.run_id == newer


def test_an_abort_of_a_redeploy_that_has_not_begun_leaves_the_release_that_serves(chain: Chain, newer: str) -> None:
    post(chain, "redeploy", run_id=newer)
    assert post(chain, "abort", dataset="flowers").status_code == 202
    chain.settle()
    assert chain.branch(newer, "cloud").reason == "aborted"
    assert serving(chain) == [newer]
    assert chain.live("cloud").current.run_id == newer


def test_an_abort_is_not_heeded_by_the_next_release(chain: Chain) -> None:
    run_id = start_third_run(chain, until_step="bake")
    post(chain, "abort", dataset="flowers")
    chain.settle()
    chain.configure()
    post(chain, "redeploy", run_id=run_id)
    chain.settle()
    assert serving(chain) == [run_id]


def test_an_abort_sent_twice_is_one_abort(chain: Chain) -> None:
    start_third_run(chain, until_step="deploy")
    assert post(chain, "abort", dataset="flowers").status_code == 202
    again = post(chain, "abort", dataset="flowers")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")


def test_there_is_nothing_to_abort_when_nothing_is_under_way(chain: Chain) -> None:
    response = post(chain, "abort", dataset="flowers")
    assert response.status_code == 409
    assert "nothing of flowers is under way" in response.json["error"]


# Who, and twice ------------------------------------------------------------------------------------------------


#: What the console says of a person, and Identity-Aware Proxy.
JO = {"X-Console-User": "jo@example.com", "X-Goog-Authenticated-User-Email": "accounts.google.com:jo@example.com"}


@pytest.mark.parametrize(
    ("headers", "note"),
    [
        # gcloud's own audience, which Cloud Run takes from people.
        (
            from_sender("jo@example.com", aud="32555940559.apps.googleusercontent.com"),
            "rollback by jo@example.com: cats",
        ),
        # Whoever may call can send that header too.
        ({**from_sender("al@example.com"), **JO}, "rollback by al@example.com: cats"),
        (JO, "rollback: cats"),
        ({"Authorization": "Basic abc"}, "rollback: cats"),
        ({}, "rollback: cats"),
    ],
)
def test_who_called_is_in_the_history_if_google_vouches_for_them(
    chain: Chain, older: str, headers: dict[str, str], note: str
) -> None:
    assert post(chain, "rollback", headers=headers, dataset="flowers", reason="cats").status_code == 202
    assert chain.http("cloud").get(f"/runs/{older}").json["history"][-1]["note"] == note


@pytest.mark.parametrize(
    "headers",
    [
        from_sender("jo@example.com", signature="c2lnbmVk"),
        from_sender("jo@example.com", email_verified=False),
        from_sender("jo@example.com", exp=1),
        {"Authorization": "Bearer e30.!.SIGNATURE_REMOVED_BY_GOOGLE"},
    ],
)
def test_a_token_that_is_none_is_refused_and_changes_nothing(chain: Chain, older: str, headers: dict[str, str]) -> None:
    before = chain.live("cloud").current.run_id
    assert post(chain, "rollback", headers=headers, dataset="flowers").status_code in (401, 503)
    assert chain.active() == []
    assert chain.live("cloud").current.run_id == before != older


def test_the_same_idempotency_key_begins_one_release_even_after_it_ended(chain: Chain, older: str) -> None:
    headers = {"Idempotency-Key": "4711"}
    first = post(chain, "rollback", headers=headers, dataset="flowers")
    chain.settle()
    again = post(chain, "rollback", headers=headers, dataset="flowers")
    assert (again.status_code, again.json) == (202, first.json)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert chain.active() == []
    assert chain.live("cloud").current.run_id == older


def test_an_idempotency_key_of_another_request_is_refused(chain: Chain, newer: str) -> None:
    headers = {"Idempotency-Key": "4711"}
    post(chain, "rollback", headers=headers, dataset="flowers")
    response = post(chain, "redeploy", headers=headers, run_id=newer)
    assert response.status_code == 422
    assert "send a new key" in response.json["error"]


def test_a_request_that_was_refused_may_come_again_with_its_key(chain: Chain, newer: str) -> None:
    headers = {"Idempotency-Key": "4711"}
    post(chain, "redeploy", run_id=newer)
    assert post(chain, "rollback", headers=headers, dataset="flowers").status_code == 409
    chain.settle()
    assert post(chain, "rollback", headers=headers, dataset="flowers").status_code == 202


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_key_whose_first_request_got_no_answer_begins_one_release(
    chain: Chain, older: str, number: int, when: str
) -> None:
    seen: list[str] = []

    def fail_once(name: str) -> None:
        seen.append(name)
        if len(seen) == number + 1:
            raise ServiceUnavailable(f"{name} got no answer")

    setattr(chain.ledger_store.faults, when, fail_once)
    request = {"headers": {"Idempotency-Key": "4711"}, "dataset": "flowers"}
    post(chain, "rollback", **request)
    setattr(chain.ledger_store.faults, when, lambda _name: None)
    assert len(seen) > number
    chain.clock.advance(120)
    chain.settle()
    assert post(chain, "rollback", **request).status_code == 202
    chain.settle()
    assert chain.live("cloud").current.run_id == older
    assert chain.branch(older, "cloud").release == 2


# The description -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["cloud", "mobile"])
def test_the_openapi_document_has_exactly_the_routes_of_the_service(chain: Chain, target: str) -> None:
    client = chain.http(target)
    document = client.get("/openapi.json").json
    assert document == openapi.describe(target, target)
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    served = {
        (rule.rule.replace("<", "{").replace(">", "}"), method.lower())
        for rule in client.application.url_map.iter_rules()
        if rule.endpoint != "static"
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert described == served


@pytest.mark.parametrize(
    ("target", "path"),
    [("cloud", "/redeploy"), ("cloud", "/rollback"), ("cloud", "/abort"), ("mobile", "/redeploy")],
)
def test_a_command_takes_the_keys_that_are_described_and_no_other(chain: Chain, target: str, path: str) -> None:
    client = chain.http(target)
    document = client.get("/openapi.json").json
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    described = client.post(path, json={key: [] for key in schema["properties"]})
    assert described.status_code == 422
    assert "unknown keys" not in described.json["error"]
    assert "unknown keys" in client.post(path, json={"surprise": 1}).json["error"]


def test_the_answers_have_what_is_described(chain: Chain, newer: str) -> None:
    paths = chain.http("cloud").get("/openapi.json").json["paths"]

    def required(path: str, method: str, status: str) -> set[str]:
        answer = paths[path][method]["responses"][status]["content"]["application/json"]["schema"]
        return set(answer.get("required", ()))

    client = chain.http("cloud")
    assert required("/status/{dataset}", "get", "200") | {"hygiene"} == set(client.get("/status/flowers").json)
    assert required("/runs/{run_id}", "get", "200") <= set(client.get(f"/runs/{newer}").json)
    assert required("/runs/{run_id}", "get", "404") == set(client.get("/runs/flowers-000000000000").json)
    assert required("/redeploy", "post", "422") == set(post(chain, "redeploy").json)
    assert required("/rollback", "post", "202") == set(post(chain, "rollback", dataset="flowers").json)
