"""The deployer at the local cloud's Vertex AI, with model servers that really answer through the traffic split."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloud_deployer.release import CloudRelease
from dualdeploy.errors import ModelAsleep, ServiceUnavailable
from dualdeploy.google.monitoring import MonitoringGateway
from dualdeploy.google.object_store import Generation
from dualdeploy.google.vertex import Answer, Endpoint, VertexGateway
from dualdeploy.ledger import State
from local_cloud.faults import Faults
from local_cloud.monitoring import Monitoring
from local_cloud.monitoring.requests import Requests
from local_cloud.storage import Storage
from local_cloud.vertex import Image, Vertex
from support.deployer import SETTINGS, Deployer

TOY = Path(__file__).parent / "toy_predictor"
#: Two seconds for a rollout of toys; a slow one needs 400 ms for an answer.
SERVING = {"canary": {"steps": [30, 100], "bake": 0, "answers": 3, "latency_slack": 0.15}, "cool_down": 0}


#: The same for a model that must be alone on its endpoint.
ALONE = {"scale_to_zero": {"idle": "10m", "warm": "5m"}, "canary": {"bake": 0, "answers": 3}}


class IdleClock:
    """By which Vertex AI takes the machine away; it stands unless a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Project:
    """A deployer that talks to a Vertex AI that runs model servers."""

    def __init__(self, vertex: Vertex, behaviours: Path, requests: Requests, idle_clock: IdleClock) -> None:
        self.idle_clock = idle_clock
        self.behaviours = behaviours
        self.requests = requests
        self.monitoring = Monitoring(faults=Faults(), project=SETTINGS.project, requests=requests).start()
        #: Every split that was set after a deployment.
        self.splits: list[dict[str, int]] = []
        self.gateway = VertexGateway(project=SETTINGS.project, region=SETTINGS.region, emulator_host=vertex.address)
        set_traffic = self.gateway.set_traffic

        def set_and_remember(endpoint: Endpoint, traffic: Mapping[str, int]) -> None:
            self.splits.append(dict(traffic))
            set_traffic(endpoint, traffic)

        self.gateway.set_traffic = set_and_remember  # type: ignore[method-assign]
        self.deployer = Deployer()
        requests.now = lambda: self.deployer.clock().timestamp()
        self.deployer.configure(serving=SERVING)
        watched = MonitoringGateway(project=SETTINGS.project, emulator_host=self.monitoring.address)
        self.deployer.service = self.deployer.another(vertex=self.gateway, monitoring=watched)

    def close(self) -> None:
        self.monitoring.close()

    def train(self, edition: int, *, behaviour: str = "good", accuracy: float = 0.95) -> str:
        run_id = self.deployer.train(edition, accuracy=accuracy, announce=False)
        (self.behaviours / run_id).write_text(behaviour)
        return run_id

    def bring_out(self, run_id: str, *, users: Callable[[], None] = lambda: None, seconds: float = 40) -> CloudRelease:
        """Let ticks come until the run's release has come to its end; `users` send requests at each tick."""
        deadline = time.monotonic() + seconds
        self.deployer.begin(run_id)
        while not (release := self.deployer.release(run_id)).announced:
            assert time.monotonic() < deadline, release
            self.idle_clock.now += 60
            users()
            self.deployer.tick()
            time.sleep(0.05)
        self.deployer.clock.advance(3600)
        return release

    def shares(self) -> dict[str, int]:
        endpoint = self.gateway.find_endpoint("flowers")
        assert endpoint is not None
        return {deployed.display_name: endpoint.traffic.get(deployed.id, 0) for deployed in endpoint.deployed}

    def send_users_picture(self) -> None:
        endpoint = self.gateway.find_endpoint("flowers")
        assert endpoint is not None
        for _ in range(10):
            with contextlib.suppress(ServiceUnavailable):
                self.gateway.predict(endpoint, {"b64": base64.b64encode(b"a user's").decode()})

    def die_before_records(self, which: int) -> tuple[set[str], set[str]]:
        """From now on the deployer dies after it acted and before it could say so: once for each kind of step, at each
        second kind from `which` on, so that it is not given up as what kills every process. Returns the kinds that
        were met, and those at which it died."""
        met: set[str] = set()
        died: set[str] = set()
        write = self.deployer.ledger.write

        def die_or_write(name: str, document: Any, *, expect: Generation) -> Any:
            if isinstance(document, CloudRelease):
                step = f"{document.state} {document.step}".rstrip() + (" begun" if document.operation else "")
                is_new = step not in met
                met.add(step)
                if is_new and len(met) % 2 == which:
                    died.add(step)
                    self.deployer.die()
            return write(name, document, expect=expect)

        self.deployer.ledger.write = die_or_write  # type: ignore[method-assign]
        return met, died

    def largest_share(self, run_id: str) -> int:
        candidate = self.deployer.release(run_id).plan.candidate
        return max(split.get(candidate, 0) for split in self.splits)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    behaviours = tmp_path / "behaviours"
    behaviours.mkdir()
    faults = Faults()
    with Storage(faults=faults, state_dir=tmp_path / "storage") as storage:
        requests, idle_clock = Requests(), IdleClock()
        vertex = Vertex(
            faults=faults,
            state_dir=tmp_path / "vertex",
            project=SETTINGS.project,
            region=SETTINGS.region,
            storage_address=storage.address,
            environment=lambda _account: {},
            images={"predictor": Image(TOY, ("python", "server.py", str(behaviours)))},
            publish_log=lambda _entry: None,
            operation_seconds=0.02,
            grace_seconds=0.5,
            seed=7,
            on_served=requests.note,
            idle_clock=idle_clock,
        ).start()
        try:
            project = Project(vertex, behaviours, requests, idle_clock)
            yield project
            project.close()
        finally:
            vertex.close()


def test_a_better_model_goes_from_nothing_to_all_traffic_and_the_old_one_is_taken_down(project: Project) -> None:
    older = project.train(1)
    assert project.bring_out(older).state is State.LIVE
    assert project.shares() == {older: 100}
    newer = project.train(2)
    release = project.bring_out(newer)
    assert release.state is State.LIVE, release.reason
    assert [step["share"] for step in release.plan.passed] == [30, 100]
    assert project.shares() == {newer: 100}


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("wrong-order", "label_agreement 0 >= 0.9: failed"),
        ("error", "first failure: Vertex AI"),
        ("slow", "of the traffic: p95_seconds "),
    ],
)
def test_a_model_that_fails_only_behind_the_endpoint_is_rolled_back_at_the_first_share(
    project: Project, behaviour: str, words: str
) -> None:
    older = project.train(1)
    assert project.bring_out(older).state is State.LIVE
    bad = project.train(2, behaviour=behaviour)
    release = project.bring_out(bad)
    assert release.state is State.ROLLED_BACK
    assert release.reason.startswith("at 30 % of the traffic: ")
    assert words in release.reason
    assert project.shares() == {older: 100}
    assert project.largest_share(bad) == 30
    assert project.deployer.serving().current.run_id == older


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("behaviour", "state", "steps"),
    [
        ("good", State.LIVE, {"canary shift", "canary probe", "canary record", "canary undeploy begun", "live"}),
        ("error", State.ROLLED_BACK, {"canary restore", "canary withdraw", "canary withdraw begun", "rolled_back"}),
    ],
)
def test_a_deployer_that_dies_after_steps_of_its_own_ends_with_one_model_that_serves(
    project: Project, behaviour: str, state: State, steps: set[str], which: int
) -> None:
    older = project.train(1)
    assert project.bring_out(older).state is State.LIVE
    met, died = project.die_before_records(which)
    newer = project.train(2, behaviour=behaviour)
    release = project.bring_out(newer, seconds=90)
    assert release.state is state, release.reason
    assert met >= steps | {"deploying upload begun", "deploying deploy begun", "canary baseline"}
    assert len(died) >= len(met) // 2
    assert project.shares() == {newer if state is State.LIVE else older: 100}
    assert all(sum(split.values()) == 100 for split in project.splits)
    if state is State.ROLLED_BACK:
        assert project.largest_share(newer) == 30


def test_a_model_that_fails_for_users_alone_is_caught_by_monitoring(project: Project) -> None:
    watched = {"canary": {**SERVING["canary"], "bake": "2m", "monitoring": {"max_error_rate": 0.05}}}
    older = project.train(1)
    assert project.bring_out(older).state is State.LIVE
    project.deployer.configure(serving=watched)
    bad = project.train(2, behaviour="error-for-users")
    release = project.bring_out(bad, users=project.send_users_picture)
    assert release.state is State.ROLLED_BACK
    assert release.reason.startswith("at 30 % of the traffic, Cloud Monitoring: monitored_error_rate")
    assert project.shares() == {older: 100}
    assert project.largest_share(bad) == 30


def test_a_good_model_that_monitoring_watches_reaches_all_traffic(project: Project) -> None:
    watched = {"canary": {**SERVING["canary"], "bake": "2m", "monitoring": {"max_latency": "10s"}}}
    project.deployer.configure(serving=watched)
    older = project.train(1)
    assert project.bring_out(older).state is State.LIVE
    newer = project.train(2)
    release = project.bring_out(newer, users=project.send_users_picture)
    assert release.state is State.LIVE, release.reason
    assert [step["monitoring"]["passed"] for step in release.plan.passed] == [True, True]


def test_a_model_that_is_stopped_at_the_gate_never_reaches_the_endpoint(project: Project) -> None:
    older = project.train(1)
    project.bring_out(older)
    project.deployer.configure(serving=SERVING, gates={"cloud": {"min_accuracy": 0.9}})
    worse = project.train(2, accuracy=0.6)
    assert project.bring_out(worse).state is State.REJECTED
    assert project.shares() == {older: 100}


# Alone on the endpoint -----------------------------------------------------------------------------------------


def one_live_run(project: Project) -> str:
    project.deployer.configure(serving=ALONE)
    run_id = project.train(1)
    release = project.bring_out(run_id)
    assert release.state is State.LIVE, release.reason
    return run_id


def check_record(project: Project, run_id: str) -> None:
    endpoint, current = project.gateway.find_endpoint("flowers"), project.deployer.serving().current
    assert project.shares() == {run_id: 100}
    assert (current.run_id, current.deployed_model) == (run_id, endpoint.deployed[0].id)
    assert project.gateway.predict(endpoint, {"b64": base64.b64encode(b"red").decode()}).prediction["label"] == "red"


def test_a_model_that_scales_to_zero_is_replaced_in_place(project: Project) -> None:
    one_live_run(project)
    newer = project.train(2)
    release = project.bring_out(newer)
    assert release.state is State.LIVE, release.reason
    check_record(project, newer)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("wrong-order", "label_agreement 0 >= 0.9: failed"), ("error", "first failure: Vertex AI")],
)
def test_a_worse_model_behind_the_endpoint_makes_way_for_the_former_one(
    project: Project, behaviour: str, words: str
) -> None:
    older = one_live_run(project)
    release = project.bring_out(project.train(2, behaviour=behaviour))
    assert release.state is State.ROLLED_BACK, release.reason
    assert words in release.reason
    assert f"{older} was deployed again" in release.reason
    check_record(project, older)


def test_a_release_in_place_that_is_stopped_in_the_middle_brings_the_former_one_back(project: Project) -> None:
    older = one_live_run(project)
    newer = project.train(2)
    project.deployer.go_to(newer, "replace")
    assert project.deployer.post("abort", dataset="flowers").status_code == 202
    release = project.bring_out(newer)
    assert release.state is State.ROLLED_BACK, release.reason
    check_record(project, older)


def test_a_new_model_that_fell_asleep_before_it_was_asked_is_woken_and_asked_again(project: Project) -> None:
    one_live_run(project)
    newer, predict = project.train(2), project.gateway.predict
    asleep: list[str] = []

    def after_an_hour_without_a_clock(endpoint: Endpoint, instance: Mapping[str, Any]) -> Answer:
        project.idle_clock.now += 0 if asleep else 3600
        try:
            return predict(endpoint, instance)
        except ModelAsleep as exc:
            asleep.append(str(exc))
            raise

    project.gateway.predict = after_an_hour_without_a_clock  # type: ignore[method-assign]
    release = project.bring_out(newer)
    assert release.state is State.LIVE, release.reason
    assert asleep
    assert release.plan.tally.failures == 0
