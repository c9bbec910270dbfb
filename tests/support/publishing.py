"""mobile_publisher alone, with buckets, Firebase and time around it that a test drives and breaks.

What the service does outside its own process is one operation with a name (`ledger.put`, `firebase.create`, …).
`operations` lists them; `interfere` is called before and after each and may raise.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import json
from collections.abc import Callable
from typing import Any

import flask
from flask.testing import FlaskClient

from dualdeploy import clock as clocks
from dualdeploy.contracts.dataset_config import DatasetConfig, object_name
from dualdeploy.contracts.events import Envelope, TrainingCompleted
from dualdeploy.contracts.training import ManagedModel
from dualdeploy.errors import RetryLater
from dualdeploy.http.ticks import ADVANCE_TOPIC, parse_advance
from dualdeploy.ledger import Ended, Launch, Ledger, Run, Snapshot, State, dataset_of, names
from dualdeploy.ledger.due import Due
from mobile_publisher.release import File, MobileRelease, MobileServing
from mobile_publisher.service import SERVICE, compose
from mobile_publisher.settings import PublisherSettings
from mobile_publisher.storage_channel import StorageChannel
from mobile_publisher.world import Around, World
from support.chain_data import overwrite, stub_file
from support.fakes import (
    FakeFirebaseMl,
    FakePublisher,
    FakeRemoteConfig,
    FakeVertex,
    Faults,
    ManualClock,
    MemoryObjectStore,
)
from support.fakes.callers import cloud_run_callers
from support.fakes.failing import ProcessDied, When

SETTINGS = PublisherSettings(
    project="demo-project",
    region="us-central1",
    ledger_bucket="ledger",
    config_bucket="config",
    models_bucket="models",
    data_bucket="data",
    lease_seconds=90.0,
)

#: Called before and after every operation with its name and the time.
Interfere = Callable[[str, str], None]


class Publishing:
    """A project with mobile_publisher; `bucket=False` leaves FIREBASE_STORAGE_BUCKET unset."""

    def __init__(self, *, looks_locked: int = 0, bucket: bool = True) -> None:
        self.clock = ManualClock()
        self.operations: list[str] = []
        self.interfere: Interfere = lambda _name, _when: None
        self.accuracy = 0.9
        #: What AutoML trained, by run, and the folder in which its file was looked for.
        self.managed: dict[str, ManagedModel] = {}
        self.exported: dict[str, str] = {}
        #: Into what the file of each run went out.
        self.around: dict[str, Around] = {}
        self._dead = False
        self._at_work = False
        self._announced: list[TrainingCompleted] = []
        self.config, self.models, self.phones = (self._store(each) for each in ("config", "models", "phones"))
        self.ledger_store = self._store("ledger")
        self.ledger = Ledger(self.ledger_store, clock=self.clock)
        self.firebase = FakeFirebaseMl(faults=self._faults("firebase"), looks_locked=looks_locked)
        self.remote_config = FakeRemoteConfig(faults=self._faults("remote_config"))
        self.vertex = FakeVertex(faults=self._faults("vertex"))
        self.publisher = FakePublisher(faults=self._faults("pubsub"))
        self.build(bucket=bucket)
        self.configure()

    def build(self, *, bucket: bool = True) -> None:
        """Another instance, perhaps with other settings, goes on with the service's work."""
        self.world = self.new_world(bucket=bucket)
        self.service = compose(self.world, publisher=self.publisher, settings=SETTINGS)
        self.worker, self.ticks = self.service.worker, self.service.ticks
        self.due = self.world.due

    def new_world(self, *, bucket: bool) -> World:
        """What the service is given."""
        return World(
            ledger=self.ledger,
            due=Due(SERVICE, self.ledger),
            models=self.models,
            vertex=self.vertex,
            config=self.config,
            firebase=self.firebase,
            remote_config=self.remote_config,
            export=self._export,
            firebase_ml_ends=SETTINGS.firebase_ml_ends,
            storage=StorageChannel(models=self.models, bucket=self.phones) if bucket else None,
        )

    def continued(self) -> Publishing:
        """Another project in the same state, so that a thousand tests need not bring it there a thousand times."""
        other = Publishing(looks_locked=self.firebase.looks_locked)
        pairs = [(self.config, other.config), (self.models, other.models), (self.phones, other.phones)]
        pairs.append((self.ledger_store, other.ledger_store))
        owners: list[tuple[object, object]] = [*pairs, (self.firebase, other.firebase)]
        owners += [(self.remote_config, other.remote_config), (self.publisher, other.publisher)]
        for mine, theirs in owners:
            for name, value in vars(mine).items():
                if isinstance(value, dict | list | itertools.count):
                    setattr(theirs, name, copy.copy(value))
        other.clock.now = self.clock.now
        return other

    @functools.cached_property
    def http(self) -> FlaskClient:
        app = flask.Flask(SERVICE)
        app.register_blueprint(self.service.routes(cloud_run_callers()))
        return app.test_client()

    # What the world does ---------------------------------------------------------------------------------------

    def configure(self, dataset: str = "flowers", **sections: Any) -> None:
        """Install or replace a configuration (JSON is YAML), with both channels unless it names others."""
        publishing = {"channels": ["firebase-ml", "firebase-storage"], **sections.pop("publishing", {})}
        document = {"dataset": dataset, "labels": ["blue", "red"], "publishing": publishing, **sections}
        self.write_config(json.dumps(document).encode(), dataset)

    def write_config(self, text: bytes, dataset: str = "flowers") -> None:
        overwrite(self.config, object_name(dataset), text)

    def delete_config(self, dataset: str = "flowers") -> None:
        (found,) = self.config.list(object_name(dataset))
        self.config.delete(found.name, expect=found.generation)

    def train(self, number: int = 1, *, dataset: str = "flowers") -> str:
        """A run whose mobile model is trained; the next tick begins with the message about it."""
        run_id, now = f"{dataset}-{number:012x}", clocks.to_text(self.clock())
        snapshot = Snapshot(bucket="data", prefix=f"{dataset}/", shards=())
        run = Run(run_id=run_id, dataset=dataset, created_at=now, reason="", snapshot=snapshot, config={}, claim=run_id)
        self.ledger.claim(run)
        about: dict[str, Any] = {"run_id": run_id, "dataset": dataset, "target": "mobile", "attempt": 1}
        launch = Launch(state=State.TRAINED, since=now, **about)
        self.ledger.create(names.launch(run_id, "mobile"), launch)
        self.ledger.create(names.ended(run_id, "mobile", 1), Ended(at=now, outcome="succeeded", **about))
        self._announced.append(TrainingCompleted(run_id=run_id, dataset=dataset, target="mobile", outcome="succeeded"))
        # Two runs are never claimed at one moment.
        self.clock.advance(1)
        return run_id

    def change(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change a document of the ledger behind the service's back, as another version of it would."""
        document = json.loads(self.ledger_store.read(name).data)
        change(document)
        overwrite(self.ledger_store, name, json.dumps(document).encode())

    def change_parameter(self, key: str, **parameter: Any) -> None:
        """What the team does to a parameter in the console."""
        document = self.remote_config.document
        document.setdefault("parameters", {}).setdefault(key, {}).update(parameter)
        self.remote_config.edit_by_hand(document)

    # What the service does -------------------------------------------------------------------------------------

    def tick(self, seconds: float = 60, *, times: int = 1) -> None:
        """Time passes; the service is told, and looks at everything that is due."""
        for _ in range(times):
            self.clock.advance(seconds)
            waiting, self._announced = self._announced, []
            for event in waiting:
                if not self.handle(functools.partial(self.worker.on_training_completed, event, self.ticks)):
                    self._announced.append(event)
            since = len(self.publisher.sent)
            self.handle(self.ticks.on_tick)
            for message in self.publisher.sent[since:]:
                if message.topic == ADVANCE_TOPIC:
                    self.handle(functools.partial(self.ticks.on_advance, parse_advance(Envelope("", message.data))))

    def handle(self, work: Callable[[], object]) -> bool:
        """Let the service handle something; whether it was acknowledged."""
        before, self._at_work, self._dead = self._at_work, True, False
        try:
            work()
        except (ProcessDied, RetryLater):
            return False
        finally:
            # While one handling is under way, another one may come and go.
            self._at_work, self._dead = before, False
        return True

    def post(self, command: str, *, key: str = "", **body: Any) -> dict[str, Any]:
        """A command that is accepted."""
        headers = {"Idempotency-Key": key} if key else {}
        response = self.http.post(f"/{command}", json={"dataset": "flowers", **body}, headers=headers)
        assert response.status_code in (200, 202), response.json
        answer: dict[str, Any] = response.json
        return answer

    def redeploy(self, run_id: str, **body: Any) -> dict[str, Any]:
        response = self.http.post("/redeploy", json={"run_id": run_id, **body})
        assert response.status_code == 202, response.json
        answer: dict[str, Any] = response.json
        return answer

    # What came of it -------------------------------------------------------------------------------------------

    def release(self, run_id: str, n: int = 0) -> MobileRelease:
        """The n-th release of a run, or its last one."""
        n = n or self.ledger.newest_release_number(run_id, "mobile")
        found = self.ledger.find_release(MobileRelease, run_id, "mobile", n)
        assert found is not None, f"{run_id} has no release {n}"
        return found.document

    def serving(self, dataset: str = "flowers") -> MobileServing:
        found = self.ledger.find_serving(MobileServing, "mobile", dataset)
        return found.document if found else MobileServing(dataset=dataset, target="mobile")

    def live(self, dataset: str = "flowers") -> str:
        """The run that serves, or nothing."""
        current = self.serving(dataset).current
        return current.run_id if current else ""

    def version(self, run_id: str, n: int = 0) -> str:
        return self.release(run_id, n).version

    def pointer(self, name: str = "flowers") -> str:
        """The version that latest.json names."""
        return str(json.loads(self.phones.read(f"models/{name}/latest.json").data)["version"])

    def seen(self, name: str = "flowers") -> set[str]:
        """Every version that a phone may be told now: Remote Config's values, or the pointer for those without."""
        return self.remote_config.values(f"dualdeploy_{name}_version") or {self.pointer(name)}

    def expression(self) -> str:
        """The condition of the rollout, or nothing."""
        found = [each["expression"] for each in self.remote_config.document.get("conditions", [])]
        return found[-1] if found else ""

    def firebase_holds(self, run_id: str) -> bool:
        (model,) = self.firebase.models.values()
        return f"run-{run_id.removeprefix(f'{dataset_of(run_id)}-')}" in model.tags and model.published

    def firebase_calls(self) -> list[str]:
        """The calls that changed something at Firebase, in order."""
        return [name for name in self.operations if name in ("firebase.create", "firebase.update", "firebase.publish")]

    def messages(self, **attributes: str) -> list[dict[str, Any]]:
        """The announced ends of releases."""
        return [
            message.json()
            for message in self.publisher.sent
            if message.topic == "deployment-completed" and attributes.items() <= message.attributes.items()
        ]

    def check_phones(self, name: str = "flowers") -> None:
        """Whatever a phone may be told now is a whole version."""
        for version in {self.pointer(name), *self.seen(name)}:
            manifest = json.loads(self.phones.read(f"models/{name}/{version}/manifest.json").data)
            model = self.phones.read(f"models/{name}/{version}/model.tflite").data
            assert hashlib.sha256(model).hexdigest() == manifest["sha256"], version

    # Inside ----------------------------------------------------------------------------------------------------

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
        # What the world does and sees meanwhile is no operation of the service.
        self._at_work = False
        try:
            self.interfere(name, when)
        except ProcessDied:
            self._dead = True
            raise
        finally:
            self._at_work = True

    def _export(self, run: Run, config: DatasetConfig, around: Around) -> File | ManagedModel:
        self.around[run.run_id] = around
        if (model := self.managed.get(run.run_id)) and not around.exported:
            return model
        if around.exported:
            self.exported[run.run_id] = around.exported
        return stub_file(self.models, run, config, accuracy=self.accuracy, variant="dynamic")
