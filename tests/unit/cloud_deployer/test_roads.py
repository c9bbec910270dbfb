"""From a model of our trainer to one of AutoML's, and back: what serves is understood by everyone who asks."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from cloud_deployer.naming import model_id_of, model_ids_of
from cloud_deployer.probes import judge, parse_golden
from cloud_deployer.release import Limits, Tally
from dualdeploy.contracts import automl, golden, prediction
from dualdeploy.contracts.golden import Picture
from dualdeploy.errors import RejectedByGoogle
from dualdeploy.google.vertex import Answer, DeployedModel
from dualdeploy.ledger import State
from support.deployer import QUICK, SETTINGS, SHARED, Deployer
from support.fakes.vertex import AUTOMLS

AUTOMLS_MODEL = automl.model_id("flowers", "cloud")


@pytest.fixture
def deployer() -> Deployer:
    deployer = Deployer()
    deployer.configure(serving=SHARED)
    return deployer


class Client:
    """Asks every minute, as an app that sends `content` does, and counts what it could not use."""

    def __init__(self, deployer: Deployer) -> None:
        self.deployer = deployer
        self.answers: list[str] = []
        self.failed: list[str] = []

    def ask(self, times: int = 10) -> None:
        endpoint = self.deployer.vertex.endpoints["flowers"]
        for _ in range(times):
            try:
                answer = self.deployer.vertex.predict(endpoint, prediction.instance(b"red", "content"))
                self.answers.append(prediction.said(answer.prediction).label)
            except (RejectedByGoogle, ValueError) as exc:
                self.failed.append(str(exc))


def go_through(deployer: Deployer, run_id: str, client: Client) -> State:
    deployer.begin(run_id)
    for _ in range(90):
        client.ask()
        deployer.tick()
        deployer.vertex.finish_operations()
        if deployer.release(run_id).announced:
            return deployer.release(run_id).state
    raise AssertionError(deployer.release(run_id))


def test_a_client_never_sees_a_failed_prediction_on_the_way_to_automl_and_back(deployer: Deployer) -> None:
    ours = deployer.bring_out(1)
    client = Client(deployer)
    for edition, managed in ((2, True), (3, True), (4, False), (5, True)):
        run_id = deployer.train(edition, managed=managed, announce=False)
        assert go_through(deployer, run_id, client) is State.LIVE
        current = deployer.serving().current
        assert (current.run_id, current.takes_content) == (run_id, True)
        assert current.deployment.automatic is managed
    # The way back leads over both roads, too.
    for expected in (4, 3):
        assert deployer.post("rollback", dataset="flowers", to_run=run_of(deployer, expected)).status_code == 202
        for _ in range(30):
            client.ask()
            deployer.tick()
            deployer.vertex.finish_operations()
        assert deployer.live_run() == run_of(deployer, expected)
    assert client.failed == []
    assert set(client.answers) == {"red"}
    assert deployer.vertex.misunderstood == []
    deployer.check_promises()
    assert ours != deployer.live_run()


def run_of(deployer: Deployer, edition: int) -> str:
    """The run that was trained as the n-th."""
    runs = [deployer.ledger.read_run(run_id) for run_id in deployer.ledger.run_ids("flowers")]
    return next(run.run_id for run in runs if run.snapshot.shards[0].name.endswith(f"-{edition}.tfrecord"))


def test_what_automl_trained_is_deployed_as_it_is_with_machines_of_googles_choice(deployer: Deployer) -> None:
    run_id = deployer.bring_out(1, managed=True)
    assert deployer.vertex.uploads == []
    (deployment,) = deployer.vertex.deployments.values()
    assert deployment.model == f"projects/p/locations/l/models/{AUTOMLS_MODEL}@1"
    assert (deployment.automatic, deployment.machine, deployment.service_account) == (True, "", "")
    assert (deployment.min_replicas, deployment.max_replicas) == (1, 1)
    (version,) = deployer.vertex.models[AUTOMLS_MODEL].versions
    assert set(version.aliases) == {run_id, "default", "live"}
    # Google has shown its own figures; ours would be a second evaluation.
    assert deployer.vertex.evaluations == []


def test_a_dedicated_endpoint_is_refused_with_the_way_out() -> None:
    deployer = Deployer()
    ours = deployer.bring_out(1)
    release = deployer.go_through(deployer.train(2, managed=True))
    assert release.state is State.FAILED
    assert "set serving.dedicated: false" in release.reason
    assert "another serving.endpoint" in release.reason
    assert deployer.shares() == {ours: 100}
    deployer.configure(serving={**SHARED, "endpoint": "flowers-shared"})
    automls = deployer.bring_out(3, managed=True)
    assert deployer.shares("flowers-shared") == {automls: 100}
    deployer.check_promises(endpoint_id="flowers-shared")


def test_a_live_predictor_from_before_content_is_not_put_beside_a_model_of_automl(deployer: Deployer) -> None:
    ours = deployer.bring_out(1)
    forget_forms(deployer)
    release = deployer.go_through(deployer.train(2, managed=True))
    assert release.state is State.FAILED
    assert f"{ours} serves, and its predictor is from before" in release.reason
    assert "training.method: custom first" in release.reason
    assert deployer.shares() == {ours: 100}
    deployer.bring_out(3)
    automls = deployer.bring_out(4, managed=True)
    assert deployer.live_run() == automls
    deployer.check_promises()


def test_an_old_version_of_ours_does_not_come_back_where_clients_send_content(deployer: Deployer) -> None:
    ours = deployer.bring_out(1, accuracy=0.9)
    deployer.bring_out(2)
    automls = deployer.bring_out(3, managed=True)
    forget_forms(deployer)
    assert deployer.post("redeploy", run_id=ours, force=True).status_code == 202
    release = deployer.go_through(ours)
    assert release.state is State.FAILED
    assert "Train once more with training.method: custom" in release.reason
    assert deployer.shares()[automls] == 100
    assert deployer.vertex.misunderstood == []


def forget_forms(deployer: Deployer) -> None:
    """Versions of ours were uploaded by a service that did not say what their predictor takes."""
    model = deployer.vertex.models[model_id_of("flowers")]
    model.versions = [dataclasses.replace(each, labels={"dualdeploy_dataset": "flowers"}) for each in model.versions]


def test_a_version_that_no_endpoint_can_serve_ends_before_anything_is_deployed(deployer: Deployer) -> None:
    run_id = deployer.train(1, managed=True, announce=False)
    model = deployer.vertex.models[AUTOMLS_MODEL]
    model.versions = [dataclasses.replace(each, resources=("SHARED_RESOURCES",)) for each in model.versions]
    release = deployer.go_through(run_id)
    assert release.state is State.FAILED
    assert "SHARED_RESOURCES alone" in release.reason
    assert deployer.vertex.deployments == {}


def test_a_version_that_google_does_not_have_any_more_says_so(deployer: Deployer) -> None:
    run_id = deployer.train(1, managed=True, announce=False)
    deployer.vertex.models.clear()
    release = deployer.go_through(run_id)
    assert release.state is State.FAILED
    assert "to be in the Model Registry; if someone deleted it, train again" in release.reason
    # Whoever asks for it hears it at once.
    assert deployer.post("redeploy", run_id=run_id, force=True).status_code == 202
    release = deployer.go_through(run_id, ticks=5)
    assert (release.n, release.state) == (2, State.FAILED)
    assert "was deleted; train again" in release.reason


def test_a_version_that_google_does_not_have_yet_is_waited_for(deployer: Deployer) -> None:
    """Google shows a new model only minutes after it said that the training succeeded, at times."""
    run_id = deployer.train(1, managed=True, announce=False)
    hidden = deployer.vertex.models.pop(AUTOMLS_MODEL)
    deployer.begin(run_id)
    deployer.pass_time(10)
    assert "to be in the Model Registry" in deployer.release(run_id).holdup.what
    deployer.vertex.models[AUTOMLS_MODEL] = hidden
    assert deployer.go_through(run_id).state is State.LIVE


# What is compared ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("managed", [(True, False), (False, True), (True, True)])
def test_figures_that_a_model_of_automl_cannot_have_are_not_judged_with_the_reason(
    managed: tuple[bool, bool],
) -> None:
    deployer = Deployer(dataclasses.replace(SETTINGS, trainer_image="trainer@sha256:1"))
    gates = {"cloud": {"max_calibration_error": 0.1, "max_latency": 0.2}}
    deployer.configure(serving=SHARED, gates=gates)
    serves = deployer.bring_out(1, managed=managed[0])
    release = deployer.go_through(deployer.train(2, managed=managed[1]))
    assert release.state is State.LIVE, release.reason
    assert deployer.vertex.job_specs == {}
    by = "AutoML" if managed[1] else "the trainer"
    *own, against = release.gate["not_judged"]
    assert own == [f"calibration_error: {by} did not measure it", f"latency_seconds: {by} did not measure it"]
    assert against.startswith(f"regression: {serves}, which serves, was not measured on the same pictures: AutoML")


def test_models_of_both_roads_that_held_out_the_same_pictures_are_compared(deployer: Deployer) -> None:
    deployer.bring_out(1, accuracy=0.99)
    worse = deployer.go_through(deployer.train(1, repeat=2, managed=True, accuracy=0.9))
    assert worse.state is State.REJECTED
    assert "regression 0.09 <= " in worse.reason


def test_golden_pictures_without_an_answer_are_held_against_their_true_label() -> None:
    data = golden.encode([Picture(image=b"x", label="red"), Picture(image=b"y", label="red", probabilities=(0.9, 0.1))])
    true, answered = parse_golden(data, labels=["blue", "red"], source="gs://m/golden.json")
    assert (true.labels, true.is_answer) == ({"red"}, False)
    assert (answered.labels, answered.is_answer) == ({"blue"}, True)


@pytest.mark.parametrize(
    ("accuracy", "answers", "right", "passed"),
    [
        # 0.9 - (1 - 0.9) - 2 * sqrt(0.9 * 0.1 / 10) = 0.61
        (0.9, 10, 7, True),
        (0.9, 10, 6, False),
        # As many pictures more, as much less of it may be chance: 0.74
        (0.9, 100, 75, True),
        (0.9, 100, 73, False),
        (1.0, 10, 9, True),
        (1.0, 10, 8, False),
    ],
)
def test_a_share_of_right_answers_must_be_the_models_own_but_for_chance(
    accuracy: float, answers: int, right: int, passed: bool
) -> None:
    tally = Tally(requests=answers, agreed=right, candidate_seconds=(0.1,) * answers)
    verdict = judge(tally, Limits(accuracy=accuracy), before=Tally())
    assert verdict.passed is passed
    assert "right_answers" in [rule.name for rule in verdict.rules]


def test_a_model_of_automl_that_answers_otherwise_than_in_its_evaluation_loses_its_traffic(deployer: Deployer) -> None:
    ours = deployer.bring_out(1)
    newer = deployer.train(2, managed=True, announce=False)

    def serve(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        label = base64.b64decode(instance["content"]).decode()
        wrong = {"red": "blue", "blue": "red"}[label] if deployed.display_name == newer else label
        return Answer(deployed.id, {"label": wrong, "confidence": 1.0}, 0.01)

    deployer.vertex.serve = serve
    release = deployer.go_through(newer)
    assert release.state is State.ROLLED_BACK
    assert "right_answers 0 >= " in release.reason
    deployer.check_promises()
    assert deployer.live_run() == ours


# What is left over ---------------------------------------------------------------------------------------------


def test_names_in_the_registry_tell_what_serves_whatever_trained_it(deployer: Deployer) -> None:
    runs = [deployer.bring_out(edition, managed=managed) for edition, managed in ((1, False), (2, True), (3, False))]
    said = {
        alias: version.aliases[0]
        for model_id in model_ids_of("flowers")
        for version in deployer.vertex.models[model_id].versions
        for alias in ("live", "previous", "candidate")
        if alias in version.aliases
    }
    assert said == {"live": runs[2], "previous": runs[1]}


def test_versions_that_nothing_needs_are_deleted_whatever_trained_them(deployer: Deployer) -> None:
    deployer.configure(serving={**QUICK, "dedicated": False, "keep_versions": 2})
    for edition in range(1, 9):
        deployer.bring_out(edition, managed=edition % 2 == 0)
    deployer.pass_time(60 * 24, seconds=1800)
    for model_id, kept in ((model_id_of("flowers"), (5, 7)), (AUTOMLS_MODEL, (6, 8))):
        there = [version.aliases[0] for version in deployer.vertex.models[model_id].versions]
        assert there == [run_of(deployer, edition) for edition in kept]
        assert "default" in deployer.vertex.models[model_id].versions[-1].aliases
    deployer.check_promises()


def test_a_version_that_automl_has_just_trained_is_kept_until_its_release_begins(deployer: Deployer) -> None:
    deployer.configure(serving={**SHARED, "keep_versions": 2})
    waits = deployer.train(1, managed=True, announce=False)
    for edition in (2, 3, 4):
        deployer.bring_out(edition, managed=True)
    deployer.pass_time(60 * 24, seconds=1800)
    there = [version.aliases[0] for version in deployer.vertex.models[AUTOMLS_MODEL].versions]
    assert there == [waits, run_of(deployer, 3), run_of(deployer, 4)]


def test_a_data_set_that_is_retired_leaves_neither_model(deployer: Deployer) -> None:
    for edition, managed in ((1, False), (2, True)):
        deployer.bring_out(edition, managed=managed)
    told = deployer.post("retire", dataset="flowers").json
    assert f"model version 1 of {AUTOMLS_MODEL}" in str(told)
    assert deployer.post("retire", dataset="flowers", confirm=True).status_code == 202
    deployer.settle()
    assert deployer.vertex.models == {}
    assert deployer.vertex.endpoints == {}


def test_what_google_says_of_resources_decides() -> None:
    version = Deployer().vertex.add_managed(AUTOMLS_MODEL, "r", {})
    assert version.resources == AUTOMLS
    assert version.is_automatic
    # AutoML's models of tables take machines of ours; of what nothing is said, neither did older versions of it.
    assert not dataclasses.replace(version, resources=("AUTOMATIC_RESOURCES", "DEDICATED_RESOURCES")).is_automatic
    assert not dataclasses.replace(version, resources=()).is_automatic
