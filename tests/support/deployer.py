"""cloud_deployer with a project around it: trained runs appear, time passes, Vertex AI answers as a test says.

Everything that the service does outside its own process is one operation with a name (`ledger.put`,
`vertex.start_deploy`, …): `Deployer.interfere` is called before and after each of them and may raise.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from cloud_deployer.release import CloudRelease, CloudServing
from cloud_deployer.service import Service, compose
from cloud_deployer.settings import DeployerSettings
from dualdeploy import clock as clocks
from dualdeploy.contracts import automl
from dualdeploy.contracts.dataset_config import object_name
from dualdeploy.contracts.events import Envelope, TrainingCompleted
from dualdeploy.google.vertex import DATASET_LABEL, RUN_LABEL
from dualdeploy.http.ticks import ADVANCE_TOPIC, parse_advance
from dualdeploy.ledger import Ended, Launch, Ledger, Run, Shard, Snapshot, State, names, run_id_of
from dualdeploy.ledger.standing import Standing, standing
from support.chain_data import LABELS, overwrite, write_managed_result, write_result
from support.fakes import FakeMonitoring, FakePublisher, FakeVertex, Faults, ManualClock, MemoryObjectStore
from support.fakes.callers import cloud_run_callers
from support.fakes.failing import ProcessDied, When


class Kind(NamedTuple):
    """How a data set serves, and which of its first two models AutoML trains."""

    serving: Mapping[str, Any]
    automl_trains: tuple[int, ...] = ()


#: How a data set serves: a new model at two shares, each held for two minutes, or alone on its endpoint.
SIDE_BY_SIDE = {"canary": {"steps": [50, 100], "bake": "2m", "answers": 2}, "cool_down": 0}
ALONE = {"scale_to_zero": {"idle": "10m", "warm": "5m"}, "canary": {"bake": "2m", "answers": 2}}
#: What AutoML trains is served by shared endpoints only.
SHARED = {**SIDE_BY_SIDE, "dedicated": False}
#: Both ways of a release, and those that lead from one road of training to the other.
KINDS: Mapping[str, Kind] = {
    "side by side": Kind(SIDE_BY_SIDE),
    "in place": Kind(ALONE),
    "to AutoML": Kind(SHARED, (2,)),
    "from AutoML": Kind(SHARED, (1,)),
}

LEASE_SECONDS = 90.0
SETTINGS = DeployerSettings(
    project="demo-project",
    region="us-central1",
    ledger_bucket="ledger",
    config_bucket="config",
    models_bucket="models",
    lease_seconds=LEASE_SECONDS,
    predictor_image="predictor@sha256:2",
    git_revision="0123abc",
)
#: Half of the traffic, then all of it, at once.
QUICK = {"canary": {"steps": [50, 100], "bake": 0, "answers": 2}, "cool_down": 0}


class Deployer:
    """The service with everything around it."""

    def __init__(self, settings: DeployerSettings = SETTINGS) -> None:
        self.clock = ManualClock()
        self.operations: list[str] = []
        self.interfere: Callable[[int, str, str], None] = lambda _number, _name, _when: None
        self.ledger_store = self._store("ledger")
        self.config = self._store("config")
        self.models = self._store("models")
        self.vertex = FakeVertex(faults=self._faults("vertex"))
        self.monitoring = FakeMonitoring(faults=self._faults("monitoring"))
        self.publisher = FakePublisher(faults=self._faults("pubsub"))
        self.ledger = Ledger(self.ledger_store, clock=self.clock)
        self._dead = False
        self._at_work = False
        #: The due key that is looked at.
        self.work_of = ""
        self.service = self.another(settings)
        self.configure()

    def another(self, settings: DeployerSettings = SETTINGS, **other: Any) -> Service:
        """A further instance of the service, perhaps at another Vertex AI."""
        clients = {"vertex": self.vertex, "monitoring": self.monitoring} | other
        return compose(
            ledger=self.ledger,
            config=self.config,
            models=self.models,
            publisher=self.publisher,
            settings=settings,
            **clients,
        )

    def continued(self) -> Deployer:
        """Another project in the same state, so that a hundred tests need not bring it there a hundred times."""
        other = Deployer()
        pairs = [(self.vertex, other.vertex), (self.publisher, other.publisher), (self.monitoring, other.monitoring)]
        pairs += [(getattr(self, store), getattr(other, store)) for store in ("ledger_store", "config", "models")]
        for mine, theirs in pairs:
            for name, value in vars(mine).items():
                if isinstance(value, dict | list | itertools.count):
                    setattr(theirs, name, copy.copy(value))
        other.vertex.models = copy.deepcopy(self.vertex.models)
        other.clock.now = self.clock.now
        return other

    # The world -------------------------------------------------------------------------------------------------

    def configure(self, dataset: str = "flowers", **sections: Any) -> None:
        """Install or replace a data set's configuration (JSON is YAML)."""
        serving = {**QUICK, **sections.pop("serving", {})}
        document = {"dataset": dataset, "labels": list(LABELS), "serving": serving, **sections}
        self.write_config(dataset, json.dumps(document).encode())

    def write_config(self, dataset: str, text: bytes) -> None:
        overwrite(self.config, object_name(dataset), text)

    def forget(self, dataset: str = "flowers") -> bytes:
        """Delete a data set's configuration; what it was."""
        stored = self.config.read(object_name(dataset))
        self.config.delete(object_name(dataset), expect=stored.generation)
        return stored.data

    def train(
        self,
        edition: int = 1,
        *,
        dataset: str = "flowers",
        accuracy: float = 0.95,
        announce: bool = True,
        repeat: int = 1,
        managed: bool = False,
    ) -> str:
        """A run of its own data whose cloud model was trained; its release begins with the message.

        `repeat` counts the trainings of the same data; `managed`: AutoML trained it.
        """
        name = f"{dataset}/train-{edition}.tfrecord"
        snapshot = Snapshot(
            bucket="data", prefix=f"{dataset}/", shards=(Shard(name=name, generation=1, size=1, crc32c=str(edition)),)
        )
        run_id, at = run_id_of(dataset, snapshot.digest(), repeat=repeat), clocks.to_text(self.clock())
        run = Run(
            run_id=run_id,
            dataset=dataset,
            created_at=at,
            reason="data arrived",
            snapshot=snapshot,
            config={},
            claim=run_id,
        )
        self.ledger.claim(run)
        launch = Launch(
            run_id=run_id, dataset=dataset, target="cloud", state=State.TRAINED, since=at, attempt=1, job="job-1"
        )
        self.ledger.create(names.launch(run_id, "cloud"), launch)
        ended = Ended(run_id=run_id, dataset=dataset, target="cloud", attempt=1, at=at, outcome="succeeded")
        self.ledger.create(names.ended(run_id, "cloud", 1), ended)
        if managed:
            self.write_managed_result(run_id, accuracy=accuracy)
        else:
            self.write_result(run_id, accuracy=accuracy)
        if announce:
            self.announce(run_id)
        return run_id

    def write_result(self, run_id: str, *, accuracy: float = 0.95, **more: Any) -> None:
        """What the trainer leaves behind."""
        write_result(self.models, run_id, "cloud", clock=self.clock, accuracy=accuracy, **more)

    def write_managed_result(self, run_id: str, *, accuracy: float = 0.95, **more: Any) -> None:
        """What AutoML leaves behind: a version in the Model Registry, and the document about it."""
        dataset = run_id.rsplit("-", 1)[0]
        labels = {DATASET_LABEL: dataset, RUN_LABEL: run_id}
        version = self.vertex.add_managed(automl.model_id(dataset, "cloud"), run_id, labels)
        write_managed_result(self.models, run_id, "cloud", clock=self.clock, version=version, accuracy=accuracy, **more)

    # Driving ---------------------------------------------------------------------------------------------------

    def announce(self, run_id: str, *, service: Service | None = None) -> None:
        """The message that a run was trained; it is delivered again when its instance dies."""
        dataset = run_id.rsplit("-", 1)[0]
        event = TrainingCompleted(run_id=run_id, dataset=dataset, target="cloud", outcome="succeeded")
        at = service or self.service
        while not self._work(lambda: at.worker.on_training_completed(event, at.ticks)):
            pass

    def begin(self, run_id: str) -> None:
        """Have the run's first release begin, unless it has."""
        if not self.ledger.newest_release_number(run_id, "cloud"):
            self.announce(run_id)

    def tick(self, seconds: float = 60.0, *, service: Service | None = None) -> None:
        """Time passes, and everything that is due is looked at."""
        self.clock.advance(seconds)
        at = service or self.service
        seen = len(self.publisher.sent)
        self._work(at.ticks.on_tick)
        for message in self.publisher.sent[seen:]:
            if message.topic == ADVANCE_TOPIC:
                advance = parse_advance(Envelope("", message.data))
                self.work_of = advance.entry.key
                self._work(lambda advance=advance: at.ticks.on_advance(advance))  # type: ignore[misc]

    def settle(self, *, ticks: int = 60, seconds: float = 60.0) -> None:
        """Let time pass, and operations end, until nothing is under way or waits."""
        for _ in range(ticks):
            self.tick(seconds)
            self.vertex.finish_operations()
            if not self.under_way():
                return

    def pass_time(self, minutes: float, *, seconds: float = 60.0) -> None:
        for _ in range(int(minutes * 60 / seconds)):
            self.tick(seconds)
            self.vertex.finish_operations()

    def go_through(self, run_id: str, *, n: int = 0, ticks: int = 90) -> CloudRelease:
        """The release (the run's last one) at its end."""
        self.begin(run_id)
        for _ in range(ticks):
            self.tick()
            self.vertex.finish_operations()
            if (found := self.release(run_id, n)).announced:
                return found
        raise AssertionError(self.release(run_id, n))

    def go_to(self, run_id: str, step: str, *, begun: bool = False, ticks: int = 60) -> CloudRelease:
        """The release at a step; `begun`: with the operation of that step under way."""
        self.begin(run_id)
        for _ in range(ticks):
            release = self.release(run_id)
            if release.step == step and (release.operation or not begun):
                return release
            self.vertex.finish_operations()
            self.tick()
        raise AssertionError(self.release(run_id))

    def bring_out(self, edition: int = 1, **more: Any) -> str:
        """A run that goes live, an hour ago."""
        run_id = self.train(edition, **more)
        release = self.go_through(run_id)
        assert release.state == State.LIVE, release.reason
        self.clock.advance(3600)
        return run_id

    def http(self) -> FlaskClient:
        app = flask.Flask("cloud_deployer")
        app.register_blueprint(self.service.routes(cloud_run_callers()))
        return app.test_client()

    def post(self, command: str, *, key: str = "", **body: Any) -> TestResponse:
        headers = {"Idempotency-Key": key} if key else {}
        return self.http().post(f"/{command}", json=body, headers=headers)

    def die(self) -> NoReturn:
        """Kill the process that is at work."""
        self._dead = True
        raise ProcessDied

    def _work(self, call: Callable[[], Any]) -> bool:
        """Whether it was done; not, if the process died at it."""
        self._at_work, self._dead = True, False
        try:
            call()
        except ProcessDied:
            return False
        finally:
            self._at_work = False
        return True

    # What came of it -------------------------------------------------------------------------------------------

    def release(self, run_id: str, n: int = 0) -> CloudRelease:
        number = n or self.ledger.newest_release_number(run_id, "cloud")
        found = self.ledger.find_release(CloudRelease, run_id, "cloud", number)
        assert found is not None
        return found.document

    def serving(self, dataset: str = "flowers") -> CloudServing:
        found = self.ledger.find_serving(CloudServing, "cloud", dataset)
        assert found is not None
        return found.document

    def standing(self, run_id: str) -> Standing:
        return standing(self.ledger, run_id, "cloud")

    def live_run(self, dataset: str = "flowers") -> str:
        current = self.serving(dataset).current
        return current.run_id if current else ""

    def under_way(self) -> list[str]:
        prefix = "serving/cloud/"
        found = (self.serving(name.removeprefix(prefix).removesuffix(".json")) for name in self.ledger.names(prefix))
        return [turn.name for each in found for turn in (*each.waiting, *([each.under_way] if each.under_way else []))]

    def shares(self, endpoint_id: str = "flowers") -> dict[str, int]:
        """Percent of the traffic, by the run of what is deployed."""
        endpoint = self.vertex.endpoints[endpoint_id]
        return {deployed.display_name: endpoint.traffic.get(deployed.id, 0) for deployed in endpoint.deployed}

    def set_traffic(self, traffic: Mapping[str, int], endpoint_id: str = "flowers") -> None:
        """By hand, in the console; by run."""
        endpoint = self.vertex.endpoints[endpoint_id]
        split = {one.id: traffic.get(one.display_name, 0) for one in endpoint.deployed}
        self.vertex.endpoints[endpoint_id] = dataclasses.replace(endpoint, traffic=split)

    def messages(self, **attributes: str) -> list[dict[str, Any]]:
        return [
            message.json()
            for message in self.publisher.sent
            if message.topic == "deployment-completed" and attributes.items() <= message.attributes.items()
        ]

    def check_promises(self, dataset: str = "flowers", *, endpoint_id: str = "flowers") -> None:
        """What the record says is what serves, nothing is left over or under way, and every end was announced once.

        Time passes first, so that the cleanup has done its work.
        """
        for _ in range(12):
            self.tick(1800)
            self.vertex.finish_operations()
        assert self.under_way() == []
        serving, endpoint = self.serving(dataset), self.vertex.endpoints.get(endpoint_id)
        assert serving.removing == ""
        deployed = endpoint.deployed_ids if endpoint else set()
        traffic = {key: share for key, share in endpoint.traffic.items() if share} if endpoint else {}
        if serving.current and not serving.undeployed_at:
            assert deployed == {serving.current.deployed_model}
            assert traffic == {serving.current.deployed_model: 100}
        else:
            assert (deployed, traffic) == (set(), {})
        for name in self.ledger.names("runs/"):
            if "/release-" in name:
                self._check_end(name)
        assert not [key for key in self.service.world.due.all_keys() if key.startswith("release/")]

    def _check_end(self, name: str) -> None:
        found = self.ledger.find(name, CloudRelease)
        assert found is not None
        release = found.document
        assert release.is_over, f"{release.name} is {release.state} at {release.step}"
        assert release.announced
        assert self.messages(run_id=release.run_id)

    def edit(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change a document of the ledger as another version, or someone's hand, would."""
        document = json.loads(self.ledger_store.read(name).data)
        change(document)
        overwrite(self.ledger_store, name, json.dumps(document).encode())

    # Operations ------------------------------------------------------------------------------------------------

    def _store(self, bucket: str) -> MemoryObjectStore:
        return MemoryObjectStore(bucket, faults=self._faults(bucket), clock=self.clock)

    def _faults(self, owner: str) -> Faults:
        return Faults.telling(self._operate, owner)

    def _operate(self, name: str, when: When) -> None:
        if not self._at_work:
            return
        if self._dead:
            # A dead process does nothing more: not even give its leases back.
            raise ProcessDied
        if when == "before":
            self.operations.append(name)
        # What a test does meanwhile is not the work of the instance that it freezes.
        at_work, self._at_work, work_of = self._at_work, False, self.work_of
        died = False
        try:
            self.interfere(len(self.operations) - 1, name, when)
        except ProcessDied:
            died = True
            raise
        finally:
            self._at_work, self._dead, self.work_of = at_work, died, work_of


def a_project(kind: Kind) -> Deployer:
    """One run serves; a second is trained and has not begun."""
    return _project(json.dumps(kind.serving), kind.automl_trains).continued()


@functools.cache
def _project(serving: str, automl_trains: tuple[int, ...]) -> Deployer:
    deployer = Deployer()
    deployer.configure(serving=json.loads(serving))
    deployer.bring_out(1, managed=1 in automl_trains)
    deployer.train(2, announce=False, managed=2 in automl_trains)
    return deployer


class Freeze:
    """One instance is frozen at the n-th operation that `is_here`, while `others` go on; then it wakes up."""

    def __init__(
        self, deployer: Deployer, is_here: Callable[[str, str], bool], others: Callable[[], Any], *, number: int = 1
    ) -> None:
        self._deployer = deployer
        self._is_here = is_here
        self._others = others
        self._left = number
        self.happened = False

    def __call__(self, _number: int, name: str, when: str) -> None:
        if self.happened or not self._is_here(name, when):
            return
        self._left -= 1
        if self._left == 0:
            self.happened = True
            self._others()


class Kill:
    """The process dies before or after one operation, once."""

    def __init__(self, number: int, when: str) -> None:
        self._at = (number, when)
        self.happened = False

    def __call__(self, number: int, _name: str, when: str) -> None:
        if (number, when) == self._at and not self.happened:
            self.happened = True
            raise ProcessDied


def kill_points(operations: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Where a process may die: before and after each operation that changes something; what is only read in between
    makes no difference."""
    for number, name in enumerate(operations):
        if not name.endswith((".read", ".list", ".operation", ".predict")) and ".find_" not in name:
            yield number, "before"
            yield number, "after"


@contextlib.contextmanager
def untouched(deployer: Deployer) -> Any:
    """No deployed model, split, version or endpoint changes meanwhile."""
    before = (
        dict(deployer.vertex.endpoints),
        {key: list(each.versions) for key, each in deployer.vertex.models.items()},
    )
    yield
    after = (
        dict(deployer.vertex.endpoints),
        {key: list(each.versions) for key, each in deployer.vertex.models.items()},
    )
    assert after == before
