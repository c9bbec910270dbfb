"""From a trained cloud model to an endpoint that serves it, one looked-at step at a time."""

from __future__ import annotations

import dataclasses

import pytest
from chain import DEPLOYER_SETTINGS, Chain
from releases import tick

from cloud_deployer.handler import deployed_id_of, model_id_of
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.ledger import Branch, State
from dualdeploy.testing import Failing
from dualdeploy.vertex import DeployedModel, RejectedByGoogle


@pytest.fixture
def chain() -> Chain:
    """A project with one run whose cloud model is trained; nobody was told yet."""
    chain = Chain()
    train_one(chain)
    return chain


def train_one(chain: Chain, edition: int = 1, accuracy: float = 0.95) -> str:
    known = set(chain.run_ids())
    chain.upload("flowers/train-00000-of-00001.tfrecord", "flowers/eval-00000-of-00001.tfrecord", edition=edition)
    chain.drain()
    for _ in range(3):
        chain.tick()
    (run_id,) = set(chain.run_ids()) - known
    (job,) = chain.jobs_of(run_id, "cloud")
    chain.train(job, accuracy=accuracy, hints=False)
    chain.handle(chain.log_hint(job))
    return run_id


@pytest.fixture
def run_id(chain: Chain) -> str:
    (run_id,) = chain.run_ids()
    return run_id


def branch(chain: Chain) -> Branch:
    (run_id,) = chain.run_ids()
    return chain.branch(run_id, "cloud")


def go_on(chain: Chain, *, until: State, ticks: int = 12) -> None:
    for _ in range(ticks):
        tick(chain)
        if branch(chain).state is until:
            return
        chain.vertex.finish_operations()
    raise AssertionError(f"{branch(chain).state} {branch(chain).step}: {branch(chain).reason}")


def test_each_tick_starts_one_operation_and_never_waits_for_it(chain: Chain, run_id: str) -> None:
    steps = []
    for _ in range(4):
        tick(chain)
        steps.append((branch(chain).state, branch(chain).step))
        # Nothing ended meanwhile: the second look changes nothing.
        before = branch(chain)
        tick(chain)
        assert branch(chain) == before
        chain.vertex.finish_operations()
    assert steps == [
        (State.DEPLOYING, "upload"),
        (State.DEPLOYING, "endpoint"),
        (State.DEPLOYING, "deploy"),
        (State.LIVE, ""),
    ]
    assert len(chain.vertex.operations) == 3


def test_a_run_that_passes_the_gate_serves_all_traffic_and_is_recorded_as_live(chain: Chain, run_id: str) -> None:
    go_on(chain, until=State.LIVE)
    endpoint = chain.vertex.endpoints["flowers"]
    deployed_id = deployed_id_of(branch(chain))
    assert dict(endpoint.traffic) == {deployed_id: 100}
    live = chain.live("cloud")
    assert live.previous is None
    assert (live.current.run_id, live.current.release) == (run_id, 1)
    assert live.current.facts == {
        "model": "projects/p/locations/l/models/dualdeploy-flowers",
        "model_version": "1",
        "endpoint": endpoint.name,
        "endpoint_dns": "localhost",
        "deployed_model": deployed_id,
        "accuracy": 0.95,
    }


def test_the_model_is_uploaded_with_what_the_predictor_needs(chain: Chain, run_id: str) -> None:
    go_on(chain, until=State.LIVE)
    (upload,) = chain.vertex.uploads
    assert upload.model_id == "dualdeploy-flowers"
    assert upload.artifact_uri == f"gs://models/runs/{run_id}/cloud/model"
    assert (upload.predict_route, upload.health_route, upload.port) == ("/predict", "/health", 8080)
    assert upload.image == DEPLOYER_SETTINGS.predictor_image
    assert upload.environment == {"MODEL_VERSION": run_id}
    assert list(upload.aliases) == [run_id]


def test_machine_and_endpoint_are_those_of_the_configuration_as_it_is_now(chain: Chain) -> None:
    chain.configure(serving={"endpoint": "botany", "machine": "n1-highmem-2"})
    go_on(chain, until=State.LIVE)
    assert list(chain.vertex.endpoints) == ["botany"]


# The gate ------------------------------------------------------------------------------------------------------


def test_a_model_below_the_gate_is_rejected_and_nothing_is_uploaded(chain: Chain) -> None:
    chain.configure(gates={"cloud": {"min_accuracy": 0.97}})
    tick(chain)
    assert branch(chain).state is State.REJECTED
    assert branch(chain).reason == "accuracy 0.95 >= 0.97: failed"
    assert chain.vertex.operations == {}
    (message,) = chain.messages("deployment-completed", target="cloud")
    assert message["outcome"] == "rejected"
    assert not [name for name in chain.active() if name.startswith("cloud/")]


def test_a_model_exactly_at_the_gate_passes(chain: Chain) -> None:
    chain.configure(gates={"cloud": {"min_accuracy": 0.95}})
    go_on(chain, until=State.LIVE)


def test_a_rejected_model_that_is_forced_goes_out_and_its_history_says_so(chain: Chain, run_id: str) -> None:
    chain.configure(gates={"cloud": {"min_accuracy": 0.97}})
    tick(chain)
    chain.handle(chain.redeploy("cloud", run_id=run_id, force=True))
    go_on(chain, until=State.LIVE)
    notes = [moment.note for moment in branch(chain).history]
    assert "forced although accuracy 0.95 >= 0.97: failed" in notes


def test_a_redeploy_after_the_gate_was_lowered_needs_no_force(chain: Chain, run_id: str) -> None:
    chain.configure(gates={"cloud": {"min_accuracy": 0.97}})
    tick(chain)
    chain.configure()
    chain.handle(chain.redeploy("cloud", run_id=run_id))
    go_on(chain, until=State.LIVE)


def test_a_result_that_is_gone_fails_the_branch(chain: Chain, run_id: str) -> None:
    name = f"results/{run_id}/cloud.json"
    chain.models.delete(name, expect=chain.models.read(name).generation)
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert "is gone; train again" in branch(chain).reason


def test_a_broken_configuration_fails_the_branch_and_a_redeploy_mends_it(chain: Chain, run_id: str) -> None:
    chain.write_config("flowers", b"dataset: [")
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert "is not YAML" in branch(chain).reason
    chain.configure()
    chain.handle(chain.redeploy("cloud", run_id=run_id))
    go_on(chain, until=State.LIVE)


# Operations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["upload", "create_endpoint", "deploy"])
def test_an_operation_that_ends_with_an_error_fails_the_branch_with_googles_words(chain: Chain, kind: str) -> None:
    chain.vertex.fail_operation(kind, "Model server exited unexpectedly.")
    go_on(chain, until=State.FAILED)
    assert "Model server exited unexpectedly." in branch(chain).reason
    assert chain.live("cloud") is None
    (message,) = chain.messages("deployment-completed", target="cloud")
    assert message["outcome"] == "failed"


def test_a_failed_branch_can_be_redeployed_and_uses_what_was_done_already(chain: Chain, run_id: str) -> None:
    chain.vertex.fail_operation("deploy", "no machines left")
    go_on(chain, until=State.FAILED)
    chain.handle(chain.redeploy("cloud", run_id=run_id))
    go_on(chain, until=State.LIVE)
    assert len(chain.vertex.uploads) == 1


def test_an_operation_that_vertex_forgot_is_started_again(chain: Chain) -> None:
    tick(chain)
    chain.vertex.operations.clear()
    tick(chain)
    assert len(chain.vertex.operations) == 1
    go_on(chain, until=State.LIVE)


def test_an_operation_that_is_forgotten_again_and_again_fails_the_branch(chain: Chain) -> None:
    for _ in range(8):
        tick(chain)
        chain.vertex.operations.clear()
    assert branch(chain).state is State.FAILED
    assert "ended, but what it should have made is not there" in branch(chain).reason


def test_an_operation_that_runs_for_longer_than_its_limit_fails_the_branch(chain: Chain) -> None:
    tick(chain)
    tick(chain, DEPLOYER_SETTINGS.operation_limit_seconds)
    assert branch(chain).state is State.DEPLOYING
    tick(chain, 1)
    assert branch(chain).state is State.FAILED
    assert "is still running after 3601 s" in branch(chain).reason


def test_a_start_that_google_does_not_answer_is_repeated(chain: Chain) -> None:
    chain.vertex.faults.plan("start_upload", Failing(ServiceUnavailable("no answer")))
    assert tick(chain).startswith("nothing waits")
    assert branch(chain).step == "upload"
    go_on(chain, until=State.LIVE)


def test_a_start_that_google_refuses_fails_the_branch(chain: Chain) -> None:
    chain.vertex.faults.plan("start_create_endpoint", Failing(RejectedByGoogle("quota of endpoints")))
    go_on(chain, until=State.FAILED)
    assert "quota of endpoints" in branch(chain).reason


def test_the_error_of_a_second_start_does_not_fail_what_the_first_one_did(chain: Chain) -> None:
    tick(chain)
    # The first start succeeded; its name was never recorded, so the recorded operation is that of a second one.
    recorded = branch(chain).operation
    chain.vertex.finish_operations()
    chain.vertex.operations[recorded] = dataclasses.replace(
        chain.vertex.operations[recorded], error="already exists", done=True
    )

    def not_seen_at_the_first_look(_number: int, name: str, when: str) -> None:
        if (name, when) == ("vertex.find_model_version", "before"):
            chain.interfere = seen_from_then_on
            chain.vertex.models, hidden[:] = {}, [chain.vertex.models]

    def seen_from_then_on(_number: int, name: str, when: str) -> None:
        if (name, when) == ("vertex.operation", "before"):
            chain.vertex.models = hidden[0]

    hidden: list = []
    chain.interfere = not_seen_at_the_first_look
    tick(chain)
    chain.interfere = lambda *_: None
    go_on(chain, until=State.LIVE)
    assert len(chain.vertex.uploads) == 1


def test_a_deployment_whose_start_was_not_recorded_is_not_started_twice(chain: Chain) -> None:
    chain.vertex.faults.plan("start_deploy", Failing(ServiceUnavailable("the answer was lost"), after=True))
    go_on(chain, until=State.LIVE)
    assert chain.vertex.faults.pending() == {}
    assert len(chain.vertex.endpoints["flowers"].deployed) == 1


def test_an_endpoint_that_is_deleted_during_the_deployment_fails_the_branch(chain: Chain) -> None:
    for _ in range(3):
        tick(chain)
        chain.vertex.finish_operations()
    chain.vertex.endpoints.clear()
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert "endpoint flowers was deleted during the deployment" in branch(chain).reason


def test_traffic_that_somebody_moved_away_is_not_taken_back_behind_their_back(chain: Chain) -> None:
    for _ in range(3):
        tick(chain)
        chain.vertex.finish_operations()
    endpoint = chain.vertex.endpoints["flowers"]
    chain.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, traffic={endpoint.deployed[0].id: 0, "7": 100})
    tick(chain)
    assert branch(chain).state is State.FAILED
    assert "traffic was moved away from it" in branch(chain).reason


# What was there before -----------------------------------------------------------------------------------------


def two_releases(chain: Chain) -> tuple[str, str]:
    go_on(chain, until=State.LIVE)
    (older,) = chain.run_ids()
    chain.clock.advance(3600)
    return older, train_one(chain, edition=2)


def run_until_through(chain: Chain, run_id: str) -> Branch:
    for _ in range(12):
        tick(chain)
        chain.vertex.finish_operations()
        if chain.branch(run_id, "cloud").is_final:
            break
    return chain.branch(run_id, "cloud")


def test_a_new_run_is_a_further_version_and_takes_down_what_it_replaced(chain: Chain) -> None:
    older, newer = two_releases(chain)
    assert run_until_through(chain, newer).state is State.LIVE
    assert [v.aliases for v in chain.vertex.models[model_id_of("flowers")].versions] == [
        [older, "default", "previous"],
        [newer, "live"],
    ]
    (deployed,) = chain.vertex.endpoints["flowers"].deployed
    assert deployed.display_name == newer
    assert chain.live("cloud").previous.run_id == older
    assert chain.branch(older, "cloud").state is State.SUPERSEDED


def test_a_new_version_is_the_candidate_until_it_is_live(chain: Chain) -> None:
    _older, newer = two_releases(chain)
    while chain.branch(newer, "cloud").step != "deploy":
        tick(chain)
        chain.vertex.finish_operations()
    aliases = {alias: v.version for v in chain.vertex.models[model_id_of("flowers")].versions for alias in v.aliases}
    assert (aliases["live"], aliases["candidate"]) == ("1", "2")


def test_aliases_that_google_refuses_do_not_keep_a_model_from_its_users(chain: Chain) -> None:
    chain.vertex.faults.plan("change_aliases", *[Failing(RejectedByGoogle("no"))] * 2)
    go_on(chain, until=State.LIVE)
    assert chain.vertex.faults.pending() == {}


def test_the_old_model_keeps_all_traffic_until_the_new_one_is_ready(chain: Chain) -> None:
    older, newer = two_releases(chain)
    while chain.branch(newer, "cloud").step != "deploy":
        tick(chain)
        if chain.branch(newer, "cloud").step != "deploy":
            chain.vertex.finish_operations()
    endpoint = chain.vertex.endpoints["flowers"]
    assert [deployed.display_name for deployed in endpoint.deployed] == [older]
    assert list(endpoint.traffic.values()) == [100]
    chain.vertex.finish_operations()
    endpoint = chain.vertex.endpoints["flowers"]
    shares = {deployed.display_name: endpoint.traffic.get(deployed.id, 0) for deployed in endpoint.deployed}
    assert shares == {older: 100, newer: 0}
    run_until_through(chain, newer)
    (deployed,) = chain.vertex.endpoints["flowers"].deployed
    assert dict(chain.vertex.endpoints["flowers"].traffic) == {deployed.id: 100}
    assert deployed.display_name == newer


def test_a_failed_deployment_leaves_the_old_model_serving_and_recorded(chain: Chain) -> None:
    older, newer = two_releases(chain)
    chain.vertex.fail_operation("deploy", "Model server exited unexpectedly.")
    assert run_until_through(chain, newer).state is State.FAILED
    assert chain.live("cloud").current.run_id == older
    assert chain.branch(older, "cloud").state is State.LIVE
    assert [deployed.display_name for deployed in chain.vertex.endpoints["flowers"].deployed] == [older]


def test_models_that_are_not_ours_stay_on_the_endpoint(chain: Chain) -> None:
    _older, newer = two_releases(chain)
    endpoint = chain.vertex.endpoints["flowers"]
    foreign = DeployedModel("42", "projects/p/locations/l/models/other", "1", "somebody's experiment")
    chain.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(*endpoint.deployed, foreign))
    assert run_until_through(chain, newer).state is State.LIVE
    names = {deployed.display_name for deployed in chain.vertex.endpoints["flowers"].deployed}
    assert names == {newer, "somebody's experiment"}


def test_however_many_models_were_replaced_all_are_taken_down(chain: Chain) -> None:
    _older, newer = two_releases(chain)
    endpoint = chain.vertex.endpoints["flowers"]
    (serves,) = endpoint.deployed
    left_behind = tuple(dataclasses.replace(serves, id=str(number)) for number in range(1, 8))
    chain.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(*endpoint.deployed, *left_behind))
    through = run_until_through(chain, newer)
    assert (through.state, through.reason) == (State.LIVE, "serves all traffic of flowers")
    assert [deployed.display_name for deployed in chain.vertex.endpoints["flowers"].deployed] == [newer]


@pytest.mark.parametrize("how", ["the operation fails", "the start is refused"])
def test_an_old_model_that_cannot_be_taken_down_does_not_make_a_release_a_failure(chain: Chain, how: str) -> None:
    _older, newer = two_releases(chain)
    if how == "the operation fails":
        chain.vertex.fail_operation("undeploy", "internal trouble")
    else:
        chain.vertex.faults.plan("start_undeploy", Failing(RejectedByGoogle("internal trouble")))
    through = run_until_through(chain, newer)
    assert through.state is State.LIVE
    assert "could not be taken down" in through.reason
    assert "internal trouble" in through.reason
    assert chain.live("cloud").current.run_id == newer
    # The next release takes it down with the rest.
    chain.clock.advance(3600)
    newest = train_one(chain, edition=3)
    assert run_until_through(chain, newest).state is State.LIVE
    assert [deployed.display_name for deployed in chain.vertex.endpoints["flowers"].deployed] == [newest]


def test_an_old_model_that_somebody_else_took_down_meanwhile_is_just_gone(chain: Chain) -> None:
    _older, newer = two_releases(chain)

    def somebody_was_faster(_number: int, name: str, when: str) -> None:
        if (name, when) == ("vertex.start_undeploy", "before"):
            endpoint = chain.vertex.endpoints["flowers"]
            left = tuple(deployed for deployed in endpoint.deployed if deployed.display_name == newer)
            chain.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=left, traffic={left[0].id: 100})

    chain.interfere = somebody_was_faster
    through = run_until_through(chain, newer)
    assert through.state is State.LIVE
    assert through.reason == "serves all traffic of flowers"


def test_a_redeploy_of_the_live_run_is_a_new_deployment_without_an_upload(chain: Chain, run_id: str) -> None:
    go_on(chain, until=State.LIVE)
    first = deployed_id_of(branch(chain))
    chain.handle(chain.redeploy("cloud", dataset="flowers"))
    go_on(chain, until=State.LIVE)
    second = deployed_id_of(branch(chain))
    assert first != second
    assert [deployed.id for deployed in chain.vertex.endpoints["flowers"].deployed] == [second]
    assert len(chain.vertex.uploads) == 1
    live = chain.live("cloud")
    assert (live.current.release, live.previous) == (2, None)


def test_the_id_of_a_deployed_model_is_a_number_of_ten_digits_that_vertex_takes(chain: Chain) -> None:
    seen = {deployed_id_of(branch(chain).changed(release=release)) for release in range(1, 200)}
    assert len(seen) == 199
    assert all(text.isdigit() and len(text) == 10 and text[0] != "0" for text in seen)
