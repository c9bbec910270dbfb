"""From a trained cloud model to an endpoint that serves it, one looked-at step at a time."""

from __future__ import annotations

import dataclasses

import pytest

from cloud_deployer.naming import deployed_id_of, model_id_of
from cloud_deployer.release import CloudRelease
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.object_store import ABSENT
from dualdeploy.google.vertex import DeployedModel
from dualdeploy.ledger import State
from support.deployer import SETTINGS, Deployer
from support.fakes import Failing
from support.graphs import Node, graph


@pytest.fixture
def deployer() -> Deployer:
    """A project with one run whose cloud model is trained; its release has not begun."""
    deployer = Deployer()
    deployer.train(announce=False)
    return deployer


@pytest.fixture
def run_id(deployer: Deployer) -> str:
    (run_id,) = deployer.ledger.run_ids("flowers")
    return run_id


def release_of(deployer: Deployer) -> CloudRelease:
    (run_id,) = deployer.ledger.run_ids("flowers")
    return deployer.release(run_id)


def begin(deployer: Deployer) -> None:
    deployer.begin(deployer.ledger.run_ids("flowers")[0])


def go_on(deployer: Deployer, *, until: State, ticks: int = 12) -> None:
    begin(deployer)
    for _ in range(ticks):
        if release_of(deployer).state == until:
            return
        deployer.vertex.finish_operations()
        deployer.tick()
    raise AssertionError(f"{release_of(deployer).state} {release_of(deployer).step}: {release_of(deployer).reason}")


def test_each_look_starts_one_operation_and_never_waits_for_it(deployer: Deployer, run_id: str) -> None:
    deployer.begin(run_id)
    steps = []
    for _ in range(4):
        steps.append((release_of(deployer).state, release_of(deployer).step))
        # Nothing ends meanwhile: further looks begin nothing.
        begun = len(deployer.vertex.operations)
        deployer.tick()
        deployer.tick()
        assert len(deployer.vertex.operations) == begun
        deployer.vertex.finish_operations()
        deployer.tick()
    assert steps == [
        (State.DEPLOYING, "upload"),
        (State.DEPLOYING, "endpoint"),
        (State.DEPLOYING, "deploy"),
        (State.LIVE, ""),
    ]
    assert len(deployer.vertex.operations) == 3


def test_a_run_that_passes_the_gate_serves_all_traffic_and_is_recorded_as_live(deployer: Deployer, run_id: str) -> None:
    go_on(deployer, until=State.LIVE)
    endpoint = deployer.vertex.endpoints["flowers"]
    deployed_id = deployed_id_of(release_of(deployer))
    assert dict(endpoint.traffic) == {deployed_id: 100}
    live = deployer.serving()
    assert live.previous is None
    assert (live.current.run_id, live.current.release) == (run_id, 1)
    current = live.current
    assert (current.model, current.model_version) == ("projects/p/locations/l/models/dualdeploy-flowers", "1")
    assert (current.endpoint, current.endpoint_dns) == (endpoint.name, "localhost")
    assert (current.deployed_model, current.accuracy) == (deployed_id, 0.95)
    assert current.deployment.to_vertex() == deployer.vertex.deployments[deployed_id]


def test_the_model_is_uploaded_with_what_the_predictor_needs(deployer: Deployer, run_id: str) -> None:
    go_on(deployer, until=State.LIVE)
    (upload,) = deployer.vertex.uploads
    assert upload.model_id == "dualdeploy-flowers"
    assert upload.artifact_uri == f"gs://models/runs/{run_id}/cloud/model"
    assert (upload.predict_route, upload.health_route, upload.port) == ("/predict", "/health", 8080)
    assert upload.image == SETTINGS.predictor_image
    assert upload.environment == {"MODEL_VERSION": run_id}
    assert list(upload.aliases) == [run_id]


def test_machine_and_endpoint_are_those_of_the_configuration_as_it_is_now(deployer: Deployer) -> None:
    deployer.configure(serving={"endpoint": "botany", "machine": "n1-highmem-2"})
    go_on(deployer, until=State.LIVE)
    assert list(deployer.vertex.endpoints) == ["botany"]


# The gate ------------------------------------------------------------------------------------------------------


def test_a_model_below_the_gate_is_rejected_and_nothing_is_uploaded(deployer: Deployer) -> None:
    deployer.configure(gates={"cloud": {"min_accuracy": 0.97}})
    begin(deployer)
    assert release_of(deployer).state is State.REJECTED
    assert release_of(deployer).reason == "accuracy 0.95 >= 0.97: failed"
    assert deployer.vertex.operations == {}
    (message,) = deployer.messages()
    assert message["outcome"] == "rejected"
    assert deployer.under_way() == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (graph(Node("PartitionedCall", calls="serve"), functions={"serve": [Node("ReadFile")]}), "operator ReadFile"),
        (b"no protobuf", "is not a SavedModel"),
        (None, "the job did not write it, or it was deleted; train again"),
    ],
    ids=["reads files", "is none", "is gone"],
)
def test_a_model_that_could_do_more_than_reckon_goes_nowhere_even_if_forced(
    deployer: Deployer, run_id: str, data: bytes | None, says: str
) -> None:
    name = f"runs/{run_id}/cloud/model/saved_model.pb"
    deployer.models.delete(name, expect=deployer.models.read(name).generation)
    if data is not None:
        deployer.models.put(name, data, expect=ABSENT)
    begin(deployer)
    deployer.post("redeploy", run_id=run_id, force=True)
    deployer.tick()
    for n in (1, 2):
        release = deployer.release(run_id, n)
        assert release.state is State.FAILED
        assert says in release.reason
    assert deployer.vertex.operations == {}


def test_a_graph_beside_the_one_that_was_looked_at_keeps_a_model_from_going_out(
    deployer: Deployer, run_id: str
) -> None:
    deployer.models.put(f"runs/{run_id}/cloud/model/saved_model.cpb", graph(Node("WriteFile")), expect=ABSENT)
    begin(deployer)
    assert release_of(deployer).state is State.FAILED
    assert "saved_model.cpb lies beside saved_model.pb" in release_of(deployer).reason


def test_a_model_exactly_at_the_gate_passes(deployer: Deployer) -> None:
    deployer.configure(gates={"cloud": {"min_accuracy": 0.95}})
    go_on(deployer, until=State.LIVE)


def test_a_rejected_model_that_is_forced_goes_out_and_its_history_says_so(deployer: Deployer, run_id: str) -> None:
    deployer.configure(gates={"cloud": {"min_accuracy": 0.97}})
    begin(deployer)
    deployer.post("redeploy", run_id=run_id, force=True)
    go_on(deployer, until=State.LIVE)
    notes = [moment.note for moment in release_of(deployer).history]
    assert "forced although accuracy 0.95 >= 0.97: failed" in notes


def test_a_redeploy_after_the_gate_was_lowered_needs_no_force(deployer: Deployer, run_id: str) -> None:
    deployer.configure(gates={"cloud": {"min_accuracy": 0.97}})
    begin(deployer)
    deployer.configure()
    deployer.post("redeploy", run_id=run_id)
    go_on(deployer, until=State.LIVE)


def test_a_result_that_is_gone_fails_the_release(deployer: Deployer, run_id: str) -> None:
    name = f"results/{run_id}/cloud.json"
    deployer.models.delete(name, expect=deployer.models.read(name).generation)
    begin(deployer)
    assert release_of(deployer).state is State.FAILED
    assert "is gone; train again" in release_of(deployer).reason


def test_a_broken_configuration_is_waited_for_and_the_release_says_so(deployer: Deployer, run_id: str) -> None:
    deployer.write_config("flowers", b"dataset: [")
    deployer.begin(run_id)
    assert release_of(deployer).state is State.WAITING
    assert "is not YAML" in deployer.standing(run_id).waits_for
    deployer.configure()
    go_on(deployer, until=State.LIVE)


# Operations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["upload", "create_endpoint", "deploy"])
def test_an_operation_that_ends_with_an_error_fails_the_release_with_googles_words(
    deployer: Deployer, kind: str
) -> None:
    deployer.vertex.fail_operation(kind, "Model server exited unexpectedly.")
    go_on(deployer, until=State.FAILED)
    assert "Model server exited unexpectedly." in release_of(deployer).reason
    assert deployer.serving().current is None
    (message,) = deployer.messages(outcome="failed")
    assert "Model server exited unexpectedly." in message["reason"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (14, "The service is currently unavailable."),
        (13, "Internal error encountered."),
        (8, "The following quota metrics exceed quota limits: aiplatform.googleapis.com/custom_model_serving_cpus"),
        (9, "Resources are insufficient in region: us-central1."),
    ],
)
@pytest.mark.parametrize("kind", ["upload", "create_endpoint", "deploy"])
def test_an_operation_that_fails_for_a_reason_that_passes_is_begun_again(
    deployer: Deployer, run_id: str, kind: str, code: int, message: str
) -> None:
    for _ in range(3):
        deployer.vertex.fail_operation(kind, message, code=code)
    deployer.begin(run_id)
    told = set()
    for _ in range(40):
        deployer.vertex.finish_operations()
        deployer.tick()
        told.add(deployer.standing(run_id).waits_for)
    assert release_of(deployer).state is State.LIVE, release_of(deployer).reason
    waits = [text for text in told if message in text]
    assert waits
    assert all("to succeed, until 2026-11-24T" in text for text in waits)


def test_a_machine_that_is_not_to_be_had_for_a_day_ends_the_release_and_leaves_what_serves(deployer: Deployer) -> None:
    older, newer = two_releases(deployer)
    for _ in range(400):
        deployer.vertex.fail_operation("deploy", "Resources are insufficient in region: us-central1.", code=9)
    began = deployer.clock()
    for _ in range(60):
        deployer.begin(newer)
        if deployer.release(newer).announced:
            break
        deployer.tick(1800)
        deployer.vertex.finish_operations()
    release = deployer.release(newer)
    assert (release.state, deployer.shares()) == (State.FAILED, {older: 100})
    assert "Resources are insufficient in region" in release.reason
    assert 24 <= (deployer.clock() - began).total_seconds() / 3600 <= 27


def test_a_failed_release_can_be_redeployed_and_uses_what_was_done_already(deployer: Deployer, run_id: str) -> None:
    deployer.vertex.fail_operation("deploy", "no machines left")
    go_on(deployer, until=State.FAILED)
    deployer.tick()
    deployer.post("redeploy", run_id=run_id)
    go_on(deployer, until=State.LIVE)
    assert len(deployer.vertex.uploads) == 1


def test_an_operation_that_vertex_forgot_is_started_again(deployer: Deployer) -> None:
    begin(deployer)
    deployer.vertex.operations.clear()
    deployer.tick()
    assert len(deployer.vertex.operations) == 1
    go_on(deployer, until=State.LIVE)


def test_an_operation_that_is_forgotten_again_and_again_fails_the_release(deployer: Deployer) -> None:
    begin(deployer)
    for _ in range(8):
        deployer.vertex.operations.clear()
        deployer.tick()
    assert release_of(deployer).state is State.FAILED
    assert "ended, but what it should have made is not there" in release_of(deployer).reason


def test_an_operation_that_runs_for_longer_than_its_limit_fails_the_release(deployer: Deployer) -> None:
    begin(deployer)
    deployer.tick(SETTINGS.operation_limit_seconds)
    assert release_of(deployer).state is State.DEPLOYING
    deployer.tick()
    assert release_of(deployer).state is State.FAILED
    assert "is still running after 3660 s" in release_of(deployer).reason


def test_a_start_that_google_does_not_answer_is_repeated(deployer: Deployer, run_id: str) -> None:
    deployer.vertex.faults.plan("start_upload", Failing(ServiceUnavailable("no answer")))
    begin(deployer)
    assert release_of(deployer).step == "upload"
    assert deployer.standing(run_id).waits_for.startswith("no answer, since ")
    go_on(deployer, until=State.LIVE)


def test_a_start_that_google_refuses_fails_the_release(deployer: Deployer) -> None:
    deployer.vertex.faults.plan("start_create_endpoint", Failing(RejectedByGoogle("quota of endpoints")))
    go_on(deployer, until=State.FAILED)
    assert "quota of endpoints" in release_of(deployer).reason


def test_the_error_of_a_second_start_does_not_fail_what_the_first_one_did(deployer: Deployer) -> None:
    begin(deployer)
    # The first start succeeded; its name was never recorded, so the recorded operation is that of a second one.
    recorded = release_of(deployer).operation
    deployer.vertex.finish_operations()
    deployer.vertex.operations[recorded] = dataclasses.replace(
        deployer.vertex.operations[recorded], error="already exists", done=True
    )

    def not_seen_at_the_first_look(_number: int, name: str, when: str) -> None:
        if (name, when) == ("vertex.find_model_version", "before"):
            deployer.interfere = seen_from_then_on
            deployer.vertex.models, hidden[:] = {}, [deployer.vertex.models]

    def seen_from_then_on(_number: int, name: str, when: str) -> None:
        if (name, when) == ("vertex.operation", "before"):
            deployer.vertex.models = hidden[0]

    hidden: list = []
    deployer.interfere = not_seen_at_the_first_look
    deployer.tick()
    deployer.interfere = lambda *_: None
    go_on(deployer, until=State.LIVE)
    assert len(deployer.vertex.uploads) == 1


def test_a_deployment_whose_start_was_not_recorded_is_not_started_twice(deployer: Deployer) -> None:
    deployer.vertex.faults.plan("start_deploy", Failing(ServiceUnavailable("the answer was lost"), after=True))
    go_on(deployer, until=State.LIVE)
    assert deployer.vertex.faults.pending() == {}
    assert len(deployer.vertex.endpoints["flowers"].deployed) == 1


def test_an_endpoint_that_is_deleted_during_the_deployment_fails_the_release(deployer: Deployer, run_id: str) -> None:
    deployer.go_to(run_id, "deploy", begun=True)
    deployer.vertex.finish_operations()
    deployer.vertex.endpoints.clear()
    assert deployer.go_through(run_id).state is State.FAILED
    assert "endpoint flowers was deleted during the deployment" in release_of(deployer).reason


def test_a_split_that_someone_made_for_the_first_model_is_theirs(deployer: Deployer, run_id: str) -> None:
    deployer.go_to(run_id, "deploy", begun=True)
    deployer.vertex.finish_operations()
    endpoint = deployer.vertex.endpoints["flowers"]
    stranger = DeployedModel("7", "projects/p/locations/l/models/theirs", "1", "theirs")
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(
        endpoint, deployed=(*endpoint.deployed, stranger), traffic={"7": 100}
    )
    deployer.tick()
    assert release_of(deployer).state is State.FAILED
    assert "traffic was moved away from it" in release_of(deployer).reason
    assert deployer.shares()["theirs"] == 100


# What was there before -----------------------------------------------------------------------------------------


def two_releases(deployer: Deployer) -> tuple[str, str]:
    """One serves, the other was trained."""
    go_on(deployer, until=State.LIVE)
    (older,) = deployer.ledger.run_ids("flowers")
    deployer.tick()
    deployer.clock.advance(3600)
    return older, deployer.train(2, announce=False)


def test_a_new_run_is_a_further_version_and_takes_down_what_it_replaced(deployer: Deployer) -> None:
    older, newer = two_releases(deployer)
    assert deployer.go_through(newer).state is State.LIVE
    assert [v.aliases for v in deployer.vertex.models[model_id_of("flowers")].versions] == [
        [older, "default", "previous"],
        [newer, "live"],
    ]
    (deployed,) = deployer.vertex.endpoints["flowers"].deployed
    assert deployed.display_name == newer
    assert deployer.serving().previous.run_id == older
    assert deployer.release(older).state is State.SUPERSEDED


def test_a_new_version_is_the_candidate_until_it_is_live(deployer: Deployer) -> None:
    _older, newer = two_releases(deployer)
    deployer.go_to(newer, "deploy")
    aliases = {alias: v.version for v in deployer.vertex.models[model_id_of("flowers")].versions for alias in v.aliases}
    assert (aliases["live"], aliases["candidate"]) == ("1", "2")


def test_a_redeploy_of_the_live_run_leaves_no_candidate(deployer: Deployer, run_id: str) -> None:
    go_on(deployer, until=State.LIVE)
    deployer.tick()
    assert deployer.post("redeploy", dataset="flowers").status_code == 202
    assert deployer.go_through(run_id, n=2).state is State.LIVE
    (version,) = deployer.vertex.models[model_id_of("flowers")].versions
    assert set(version.aliases) == {run_id, "default", "live"}


def test_aliases_that_google_refuses_do_not_keep_a_model_from_its_users(deployer: Deployer) -> None:
    deployer.vertex.faults.plan("change_aliases", *[Failing(RejectedByGoogle("no"))] * 2)
    go_on(deployer, until=State.LIVE)
    assert deployer.vertex.faults.pending() == {}


def test_the_old_model_keeps_all_traffic_until_the_new_one_is_ready(deployer: Deployer) -> None:
    older, newer = two_releases(deployer)
    deployer.go_to(newer, "deploy", begun=True)
    assert deployer.shares() == {older: 100}
    deployer.vertex.finish_operations()
    assert deployer.shares() == {older: 100, newer: 0}
    deployer.go_through(newer)
    assert deployer.shares() == {newer: 100}


def test_a_failed_deployment_leaves_the_old_model_serving_and_recorded(deployer: Deployer) -> None:
    older, newer = two_releases(deployer)
    deployer.vertex.fail_operation("deploy", "Model server exited unexpectedly.")
    assert deployer.go_through(newer).state is State.FAILED
    assert deployer.serving().current.run_id == older
    assert deployer.release(older).state is State.LIVE
    assert [deployed.display_name for deployed in deployer.vertex.endpoints["flowers"].deployed] == [older]


def test_models_that_are_not_ours_stay_on_the_endpoint(deployer: Deployer) -> None:
    _older, newer = two_releases(deployer)
    endpoint = deployer.vertex.endpoints["flowers"]
    foreign = DeployedModel("42", "projects/p/locations/l/models/other", "1", "someone's experiment")
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(*endpoint.deployed, foreign))
    assert deployer.go_through(newer).state is State.LIVE
    names = {deployed.display_name for deployed in deployer.vertex.endpoints["flowers"].deployed}
    assert names == {newer, "someone's experiment"}


def test_however_many_models_were_replaced_all_are_taken_down(deployer: Deployer) -> None:
    _older, newer = two_releases(deployer)
    endpoint = deployer.vertex.endpoints["flowers"]
    (serves,) = endpoint.deployed
    left_behind = tuple(dataclasses.replace(serves, id=str(number)) for number in range(1, 8))
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(endpoint, deployed=(*endpoint.deployed, *left_behind))
    through = deployer.go_through(newer)
    assert (through.state, through.reason) == (State.LIVE, "serves all traffic of flowers")
    assert [deployed.display_name for deployed in deployer.vertex.endpoints["flowers"].deployed] == [newer]


@pytest.mark.parametrize("how", ["the operation fails", "the start is refused"])
def test_an_old_model_that_cannot_be_taken_down_does_not_make_a_release_a_failure(deployer: Deployer, how: str) -> None:
    _older, newer = two_releases(deployer)
    if how == "the operation fails":
        deployer.vertex.fail_operation("undeploy", "internal trouble")
    else:
        deployer.vertex.faults.plan("start_undeploy", Failing(RejectedByGoogle("internal trouble")))
    through = deployer.go_through(newer)
    assert through.state is State.LIVE
    assert "could not be taken down" in through.reason
    assert "internal trouble" in through.reason
    assert deployer.serving().current.run_id == newer
    # The next release takes it down with the rest.
    deployer.clock.advance(3600)
    newest = deployer.train(3, announce=False)
    assert deployer.go_through(newest).state is State.LIVE
    assert [deployed.display_name for deployed in deployer.vertex.endpoints["flowers"].deployed] == [newest]


def test_an_old_model_that_someone_else_took_down_meanwhile_is_just_gone(deployer: Deployer) -> None:
    _older, newer = two_releases(deployer)

    def someone_was_faster(_number: int, name: str, when: str) -> None:
        if (name, when) == ("vertex.start_undeploy", "before"):
            endpoint = deployer.vertex.endpoints["flowers"]
            left = tuple(deployed for deployed in endpoint.deployed if deployed.display_name == newer)
            deployer.vertex.endpoints["flowers"] = dataclasses.replace(
                endpoint, deployed=left, traffic={left[0].id: 100}
            )

    deployer.interfere = someone_was_faster
    through = deployer.go_through(newer)
    assert through.state is State.LIVE
    assert through.reason == "serves all traffic of flowers"


def test_a_redeploy_of_the_live_run_is_a_new_deployment_without_an_upload(deployer: Deployer, run_id: str) -> None:
    go_on(deployer, until=State.LIVE)
    first = deployed_id_of(release_of(deployer))
    deployer.post("redeploy", dataset="flowers")
    go_on(deployer, until=State.LIVE)
    second = deployed_id_of(release_of(deployer))
    assert first != second
    assert [deployed.id for deployed in deployer.vertex.endpoints["flowers"].deployed] == [second]
    assert len(deployer.vertex.uploads) == 1
    live = deployer.serving()
    assert (live.current.release, live.previous) == (2, None)


def test_the_id_of_a_deployed_model_is_a_number_of_ten_digits_that_vertex_takes(
    deployer: Deployer, run_id: str
) -> None:
    deployer.begin(run_id)
    release = release_of(deployer)
    seen = {deployed_id_of(release.changed(n=n)) for n in range(1, 200)}
    assert len(seen) == 199
    assert all(text.isdigit() and len(text) == 10 and text[0] != "0" for text in seen)


def test_a_replaced_model_that_cannot_be_taken_down_for_now_does_not_keep_newer_runs_waiting(
    deployer: Deployer,
) -> None:
    _, newer = two_releases(deployer)
    for _ in range(3):
        deployer.vertex.fail_operation("undeploy", "The service is currently unavailable.", code=14)
    release = deployer.go_through(newer)
    assert release.state is State.LIVE
    assert "could not be taken down: undeploy" in release.reason
    assert deployer.go_through(deployer.train(3)).state is State.LIVE
    deployer.check_promises()


def test_a_candidate_that_cannot_be_taken_down_for_now_does_not_keep_newer_runs_waiting(deployer: Deployer) -> None:
    older, newer = two_releases(deployer)
    deployer.go_to(newer, "deploy", begun=True)
    deployer.vertex.finish_operations()
    deployer.post("abort", dataset="flowers")
    for _ in range(3):
        deployer.vertex.fail_operation("undeploy", "The service is currently unavailable.", code=14)
    release = deployer.go_through(newer, ticks=10)
    assert release.state is State.ROLLED_BACK
    deployer.check_promises()
    assert deployer.live_run() == older
