"""The deployer at the local cloud's Vertex AI, with model servers that really answer through the traffic split."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from chain import DEPLOYER_SETTINGS, Chain

from cloud_deployer.canary import rollout_of
from dualdeploy.errors import ModelAsleep, ServiceUnavailable
from dualdeploy.ledger import Branch, State, Versioned
from dualdeploy.monitoring import MonitoringGateway
from dualdeploy.object_store import Generation
from dualdeploy.vertex import Answer, Endpoint, VertexGateway
from local_cloud.faults import Faults
from local_cloud.monitoring import Monitoring
from local_cloud.monitoring.requests import Requests
from local_cloud.storage import Storage
from local_cloud.vertex import Image, Vertex

TOY = Path(__file__).parent / "toy_predictor"
#: Two seconds for a rollout of toys; a slow one needs 400 ms for an answer.
SERVING = {"canary": {"steps": [30, 100], "bake": 0, "answers": 3, "latency_slack": 0.15}}


#: The same for a model that must be alone on its endpoint.
ALONE = {"scale_to_zero": {"idle": "10m", "warm": "5m"}, "canary": {"bake": 0, "answers": 3}}


class IdleClock:
    """By which Vertex AI takes the machine away; it stands unless a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Project:
    """A chain whose deployer talks to a Vertex AI that runs model servers."""

    def __init__(self, vertex: Vertex, behaviours: Path, requests: Requests, idle_clock: IdleClock) -> None:
        self.idle_clock = idle_clock
        self.behaviours = behaviours
        self.requests = requests
        self.dies = False
        self.monitoring = Monitoring(faults=Faults(), project=DEPLOYER_SETTINGS.project, requests=requests).start()
        #: Every split that was set after a deployment.
        self.splits: list[dict[str, int]] = []
        settings = DEPLOYER_SETTINGS
        self.gateway = VertexGateway(project=settings.project, region=settings.region, emulator_host=vertex.address)
        set_traffic = self.gateway.set_traffic

        def set_and_remember(endpoint: Endpoint, traffic: Mapping[str, int]) -> None:
            self.splits.append(dict(traffic))
            set_traffic(endpoint, traffic)

        self.gateway.set_traffic = set_and_remember  # type: ignore[method-assign]
        self.chain = Chain()
        requests.now = lambda: self.chain.clock().timestamp()
        self.chain.configure(serving=SERVING)
        watched = MonitoringGateway(project=settings.project, emulator_host=self.monitoring.address)
        self.chain.use_deployer(vertex=self.gateway, monitoring=watched)

    def close(self) -> None:
        self.monitoring.close()

    def train(self, edition: int, *, behaviour: str = "good", accuracy: float = 0.95) -> str:
        known = set(self.chain.run_ids())
        names = "flowers/train-00000-of-00001.tfrecord", "flowers/eval-00000-of-00001.tfrecord"
        self.chain.upload(*names, edition=edition)
        self.chain.drain()
        for _ in range(3):
            self.chain.tick()
        (run_id,) = set(self.chain.run_ids()) - known
        (self.behaviours / run_id).write_text(behaviour)
        for job in self.chain.jobs_of(run_id, "cloud"):
            self.chain.train(job, accuracy=accuracy)
        self.chain.drain()
        return run_id

    def bring_out(self, run_id: str, *, users: Callable[[], None] = lambda: None, seconds: float = 40) -> Branch:
        """Let clocks tick until the run's cloud branch has come to its end; `users` send requests at each tick."""
        deadline = time.monotonic() + seconds
        while not (branch := self.chain.branch(run_id, "cloud")).is_final:
            assert time.monotonic() < deadline, branch
            self.chain.clock.advance(30)
            self.idle_clock.now += 30
            users()
            assert self.chain.handle(self.chain.clock_deliveries()[2]) or self.dies
            time.sleep(0.05)
        return branch

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

    def die_before_every_record(self) -> set[str]:
        """From now on the deployer dies, once for each kind of step, after it acted and before it could say so."""
        self.dies = True
        died: set[str] = set()
        write = self.chain.ledger.write_branch

        def die_or_write(branch: Branch, *, expect: Generation) -> Versioned[Branch]:
            step = f"{branch.state} {branch.step}".rstrip() + (" begun" if branch.operation else "")
            is_deployers = branch.target == "cloud" and branch.was_trained and branch.state is not State.TRAINED
            if is_deployers and step not in died:
                died.add(step)
                self.chain.die()
            return write(branch, expect=expect)

        self.chain.ledger.write_branch = die_or_write  # type: ignore[method-assign]
        return died

    def largest_share(self, run_id: str) -> int:
        candidate = rollout_of(self.chain.branch(run_id, "cloud")).candidate
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
            project=DEPLOYER_SETTINGS.project,
            region=DEPLOYER_SETTINGS.region,
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
    project.chain.clock.advance(3600)
    newer = project.train(2)
    branch = project.bring_out(newer)
    assert branch.state is State.LIVE, branch.reason
    assert [step["share"] for step in rollout_of(branch).passed] == [30, 100]
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
    project.chain.clock.advance(3600)
    bad = project.train(2, behaviour=behaviour)
    branch = project.bring_out(bad)
    assert branch.state is State.ROLLED_BACK
    assert branch.reason.startswith("at 30 % of the traffic: ")
    assert words in branch.reason
    assert project.shares() == {older: 100}
    assert project.largest_share(bad) == 30
    assert project.chain.live("cloud").current.run_id == older


@pytest.mark.parametrize(
    ("behaviour", "state", "steps"),
    [
        ("good", State.LIVE, {"canary shift", "canary probe", "canary record", "canary undeploy begun", "live"}),
        ("error", State.ROLLED_BACK, {"canary restore", "canary withdraw", "canary withdraw begun", "rolled_back"}),
    ],
)
def test_a_deployer_that_dies_after_every_step_of_its_own_ends_with_one_model_that_serves(
    project: Project, behaviour: str, state: State, steps: set[str]
) -> None:
    older = project.train(1)
    assert project.bring_out(older).state is State.LIVE
    project.chain.clock.advance(3600)
    died = project.die_before_every_record()
    newer = project.train(2, behaviour=behaviour)
    branch = project.bring_out(newer, seconds=90)
    assert branch.state is state, branch.reason
    assert died >= steps | {"deploying upload begun", "deploying deploy begun", "canary baseline"}
    assert project.shares() == {newer if state is State.LIVE else older: 100}
    assert all(sum(split.values()) == 100 for split in project.splits)
    if state is State.ROLLED_BACK:
        assert project.largest_share(newer) == 30


def test_a_model_that_fails_for_users_alone_is_caught_by_monitoring(project: Project) -> None:
    watched = {"canary": {**SERVING["canary"], "bake": "2m", "monitoring": {"max_error_rate": 0.05}}}
    older = project.train(1)
    assert project.bring_out(older).state is State.LIVE
    project.chain.configure(serving=watched)
    project.chain.clock.advance(3600)
    bad = project.train(2, behaviour="error-for-users")
    branch = project.bring_out(bad, users=project.send_users_picture)
    assert branch.state is State.ROLLED_BACK
    assert branch.reason.startswith("at 30 % of the traffic, Cloud Monitoring: monitored_error_rate")
    assert project.shares() == {older: 100}
    assert project.largest_share(bad) == 30


def test_a_good_model_that_monitoring_watches_reaches_all_traffic(project: Project) -> None:
    watched = {"canary": {**SERVING["canary"], "bake": "2m", "monitoring": {"max_latency": "10s"}}}
    project.chain.configure(serving=watched)
    older = project.train(1)
    assert project.bring_out(older).state is State.LIVE
    project.chain.clock.advance(3600)
    newer = project.train(2)
    branch = project.bring_out(newer, users=project.send_users_picture)
    assert branch.state is State.LIVE, branch.reason
    assert [step["monitoring"]["passed"] for step in rollout_of(branch).passed] == [True, True]


def test_a_model_that_is_stopped_at_the_gate_never_reaches_the_endpoint(project: Project) -> None:
    older = project.train(1)
    project.bring_out(older)
    project.chain.configure(serving=SERVING, gates={"cloud": {"min_accuracy": 0.9}})
    project.chain.clock.advance(3600)
    worse = project.train(2, accuracy=0.6)
    assert project.bring_out(worse).state is State.REJECTED
    assert project.shares() == {older: 100}


# Alone on the endpoint -----------------------------------------------------------------------------------------


def one_live_run(project: Project) -> str:
    project.chain.configure(serving=ALONE)
    run_id = project.train(1)
    branch = project.bring_out(run_id)
    assert branch.state is State.LIVE, branch.reason
    project.chain.clock.advance(3600)
    return run_id


def check_record(project: Project, run_id: str) -> None:
    endpoint, current = project.gateway.find_endpoint("flowers"), project.chain.live("cloud").current
    assert project.shares() == {run_id: 100}
    assert (current.run_id, current.facts["deployed_model"]) == (run_id, endpoint.deployed[0].id)
    assert project.gateway.predict(endpoint, {"b64": base64.b64encode(b"red").decode()}).prediction["label"] == "red"


def test_a_model_that_scales_to_zero_is_replaced_in_place(project: Project) -> None:
    one_live_run(project)
    newer = project.train(2)
    branch = project.bring_out(newer)
    assert branch.state is State.LIVE, branch.reason
    check_record(project, newer)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("wrong-order", "label_agreement 0 >= 0.9: failed"), ("error", "first failure: Vertex AI")],
)
def test_a_worse_model_behind_the_endpoint_makes_way_for_the_former_one(
    project: Project, behaviour: str, words: str
) -> None:
    older = one_live_run(project)
    branch = project.bring_out(project.train(2, behaviour=behaviour))
    assert branch.state is State.ROLLED_BACK, branch.reason
    assert words in branch.reason
    assert f"{older} was deployed again" in branch.reason
    check_record(project, older)


def test_a_release_in_place_that_is_stopped_in_the_middle_brings_the_former_one_back(project: Project) -> None:
    older = one_live_run(project)
    newer = project.train(2)
    while project.chain.branch(newer, "cloud").step != "replace":
        assert project.chain.handle(project.chain.clock_deliveries()[2])
    project.chain.handle(project.chain.post("cloud", "abort", dataset="flowers"))
    branch = project.bring_out(newer)
    assert branch.state is State.ROLLED_BACK, branch.reason
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
    branch = project.bring_out(newer)
    assert branch.state is State.LIVE, branch.reason
    assert asleep
    assert rollout_of(branch).tally.failures == 0
