"""The four event services wired together in memory, with a world around them that a test can drive and break.

Everything that a service does outside its own process is one operation with a name (`ledger.put`,
`vertex.start_deploy`, …). `Chain.operations` lists them in order; `Chain.interfere` is called before and after each
of them and may raise. The world itself (uploads, the trainer, phones) is not counted and never fails.

The services are composed by their own `service.compose`, and get what they publish by the subscriptions of
infra/topology.json. Several versions of a service can run side by side (`Chain.versions`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import random
import re
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import flask
from flask.testing import FlaskClient

import cloud_deployer.service
import job_notifier.service
import mobile_publisher.service
import training_launcher.service
from cloud_deployer.settings import DeployerSettings
from dualdeploy.clock import to_text
from dualdeploy.contracts import automl, training
from dualdeploy.contracts.dataset_config import object_name
from dualdeploy.contracts.events import Envelope
from dualdeploy.contracts.training import TARGETS, ManagedModel, TrainingJob
from dualdeploy.errors import CannotEverSucceed, LeaseHeld, RetryLater
from dualdeploy.google.automl import Pipeline
from dualdeploy.google.vertex import RUN_LABEL, TARGET_LABEL, JobOutcome, ModelVersion
from dualdeploy.ledger import Ledger, Serving, State, names
from dualdeploy.ledger.due import Due
from dualdeploy.ledger.standing import Standing, standing
from dualdeploy.ledger.states import RELEASE_MOVES, TRAINING_MOVES
from dualdeploy.outcome import Outcome
from job_notifier.settings import NotifierSettings
from mobile_publisher.settings import PublisherSettings
from mobile_publisher.storage_channel import StorageChannel
from mobile_publisher.world import World as PublisherWorld
from support import chain_data
from support.chain_data import HELD_OUT, LABELS, NUMBERED, QUIET_SECONDS, WHOLE, config_document, overwrite, shard_bytes
from support.fakes import (
    FakeAutoML,
    FakeFirebaseMl,
    FakeMonitoring,
    FakePublisher,
    FakeRemoteConfig,
    FakeVertex,
    Faults,
    ManualClock,
    MemoryObjectStore,
)
from support.fakes.callers import cloud_run_callers
from support.fakes.failing import ProcessDied, When
from support.fakes.vertex import AUTOMLS
from trainer import preparation
from trainer.process.failures import UnusableData
from trainer.process.storage import Patience
from training_launcher.settings import LauncherSettings

__all__ = ["HELD_OUT", "LABELS", "NUMBERED", "QUIET_SECONDS", "WHOLE", "Chain", "Delivery", "overwrite", "shard_bytes"]

LEASE_SECONDS = 90.0
SERVICES = ("training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher")
SERVICE_OF = {"cloud": "cloud_deployer", "mobile": "mobile_publisher"}

TOPOLOGY = json.loads((Path(__file__).parents[2] / "infra" / "topology.json").read_text(encoding="utf-8"))

#: Kinds of due work that a run waits for; all others come again and again.
OF_A_RUN = frozenset({"release", "launch", "job", "arrivals"})

_COMMON: dict[str, Any] = {
    "project": "demo-project",
    "region": "us-central1",
    "ledger_bucket": "ledger",
    "config_bucket": "config",
    "models_bucket": "models",
    "lease_seconds": LEASE_SECONDS,
}
LAUNCHER_SETTINGS = LauncherSettings(**_COMMON, data_bucket="data", trainer_image="trainer@sha256:1")
NOTIFIER_SETTINGS = NotifierSettings(**_COMMON)
DEPLOYER_SETTINGS = DeployerSettings(**_COMMON, predictor_image="predictor@sha256:2", git_revision="0123abc")
PUBLISHER_SETTINGS = PublisherSettings(**_COMMON, data_bucket="data")

#: Called before and after every operation with its number, name and the time; raises to break it.
Interfere = Callable[[int, str, When], None]


@dataclasses.dataclass
class Delivery:
    """One message or event on its way to a service; `name` is `<service>/<event>`."""

    name: str
    handle: Callable[[], Outcome]


class _Call(threading.local):
    """The handling that this thread is at: whether there is one, whether its process died, and how it is paused."""

    active = False
    dead = False
    pause: Callable[[], None] | None = None


class Chain:
    """One project: five buckets, Vertex AI, Firebase ML, Pub/Sub and the four services."""

    def __init__(self, *, looks_locked: int = 0, publisher_variant: str = "dynamic") -> None:
        self.clock = ManualClock()
        self.operations: list[str] = []
        #: The numbers of those that were answered with something else than an error.
        self.answered: list[int] = []
        self.outcomes: list[tuple[str, str, str]] = []
        self.rejected: list[tuple[str, CannotEverSucceed]] = []
        self.interfere: Interfere = lambda _number, _name, _when: None
        self.queue: list[Delivery] = []
        self.mobile_accuracy = 0.9
        #: How the jobs of a target end, if not with success.
        self.job_states: dict[str, str] = {}
        #: In which order the services hear a tick; a test may draw another one for each tick.
        self.order: Callable[[], Sequence[str]] = lambda: SERVICES
        self._call = _Call()
        self._lock = threading.RLock()
        self._routed = 0
        self._messages = 0
        self._variant = publisher_variant
        self._looks_locked = looks_locked
        self.data = self._store("data")
        self.config = self._store("config")
        self.ledger_store = self._store("ledger")
        self.models = self._store("models")
        self.phones = self._store("phones")
        self.vertex = FakeVertex(faults=self._faults("vertex"))
        self.automl = FakeAutoML(self.models, faults=self._faults("automl"), clock=self.clock)
        self.automl.trained = self._trained
        self.monitoring = FakeMonitoring(faults=self._faults("monitoring"))
        self.firebase = FakeFirebaseMl(faults=self._faults("firebase"), looks_locked=looks_locked)
        self.remote_config = FakeRemoteConfig(faults=self._faults("remote_config"))
        self.publisher = FakePublisher(faults=self._faults("pubsub"))
        self.ledger = Ledger(self.ledger_store, clock=self.clock)
        self.settings: dict[str, Any] = dict(
            zip(SERVICES, (LAUNCHER_SETTINGS, NOTIFIER_SETTINGS, DEPLOYER_SETTINGS, PUBLISHER_SETTINGS), strict=True)
        )
        #: Versions of each service that run side by side; which of them gets a delivery, `pick` says.
        self.versions: dict[str, list[Any]] = {service: [self.compose(service)] for service in SERVICES}
        self.pick: Callable[[str, list[Any]], Any] = lambda _service, versions: versions[0]
        self.configure()

    def compose(self, service: str, **instead: Any) -> Any:
        """A new instance of a service; `instead` replaces something of what it is given."""
        common = {"ledger": self.ledger, "models": self.models, "publisher": self.publisher}
        settings = self.settings[service]
        trains = {"vertex": self.vertex, "automl": self.automl}
        if service == "training_launcher":
            given = {**common, **trains, "data": self.data, "config": self.config, "settings": settings}
            return training_launcher.service.compose(**{**given, **instead})
        if service == "job_notifier":
            given = {**common, **trains, "settings": settings}
            return job_notifier.service.compose(**{**given, **instead})
        if service == "cloud_deployer":
            given = {**common, "config": self.config, "vertex": self.vertex, "monitoring": self.monitoring}
            return cloud_deployer.service.compose(**{**given, "settings": settings, **instead})
        ledger = instead.get("ledger", self.ledger)
        world = PublisherWorld(
            ledger=ledger,
            due=Due("mobile_publisher", ledger),
            models=self.models,
            vertex=self.vertex,
            config=self.config,
            firebase=self.firebase,
            remote_config=self.remote_config,
            export=self._export,
            firebase_ml_ends=settings.firebase_ml_ends,
            storage=StorageChannel(models=self.models, bucket=self.phones),
        )
        world = dataclasses.replace(world, **instead)
        return mobile_publisher.service.compose(world, publisher=self.publisher, settings=settings)

    def use(self, service: str, **instead: Any) -> None:
        """From now on another instance of the service runs, alone; see `compose`."""
        self.versions[service] = [self.compose(service, **instead)]

    def service(self, name: str) -> Any:
        return self.pick(name, self.versions[name])

    def http(self, target: str) -> FlaskClient:
        """The HTTP interface of the target's service."""
        app = flask.Flask(target)
        app.register_blueprint(self.service(SERVICE_OF[target]).routes(cloud_run_callers()))
        return app.test_client()

    def continued(self) -> Chain:
        """Another project in the same state, so that a thousand tests need not bring it there a thousand times."""
        other = Chain(looks_locked=self._looks_locked)
        pairs = [(self.vertex, other.vertex), (self.firebase, other.firebase), (self.publisher, other.publisher)]
        pairs += [(self.automl, other.automl)]
        pairs += [(self.data, other.data), (self.config, other.config), (self.models, other.models)]
        pairs += [(self.remote_config, other.remote_config), (self.monitoring, other.monitoring)]
        pairs += [(self.ledger_store, other.ledger_store), (self.phones, other.phones)]
        for mine, theirs in pairs:
            for name, value in vars(mine).items():
                if isinstance(value, dict | list | itertools.count):
                    setattr(theirs, name, copy.copy(value))
        other.vertex.models = copy.deepcopy(self.vertex.models)
        other.monitoring.otherwise = self.monitoring.otherwise
        other.clock.now = self.clock.now
        other._routed = self._routed
        other.job_states = dict(self.job_states)
        return other

    # Operations ------------------------------------------------------------------------------------------------

    def _store(self, bucket: str) -> MemoryObjectStore:
        return MemoryObjectStore(bucket, faults=self._faults(bucket), clock=self.clock)

    def _faults(self, owner: str) -> Faults:
        return Faults.telling(self._operate, owner)

    def _operate(self, name: str, when: When) -> None:
        if not self._call.active:
            return
        if self._call.dead:
            # A dead process does nothing more: not even give its leases back.
            raise ProcessDied
        if when == "before":
            if self._call.pause:
                self._call.pause()
            self.operations.append(name)
        else:
            self.answered.append(len(self.operations) - 1)
        try:
            self.interfere(len(self.operations) - 1, name, when)
        except ProcessDied:
            self._call.dead = True
            raise

    def die(self) -> NoReturn:
        """Kill the process that is at work on this thread."""
        self._call.dead = True
        raise ProcessDied

    def handle(self, delivery: Delivery, *, pause: Callable[[], None] | None = None) -> bool:
        """Let a service handle a delivery; whether it was acknowledged, as Pub/Sub and Eventarc would see it."""
        self._call.active, self._call.dead, self._call.pause = True, False, pause
        try:
            outcome = delivery.handle()
        except CannotEverSucceed as exc:
            self.rejected.append((delivery.name, exc))
            return True
        except RetryLater as exc:
            self.outcomes.append((delivery.name, "retry", f"{type(exc).__name__}: {exc}"))
            return False
        except ProcessDied:
            # What this service remembers between events died with it.
            service = delivery.name.partition("/")[0]
            if service in SERVICES and len(self.versions[service]) == 1:
                self.use(service)
            return False
        finally:
            self._call.active = False
            self._route_messages()
        self.outcomes.append((delivery.name, outcome.kind, outcome.message))
        return True

    # Events ----------------------------------------------------------------------------------------------------

    def configure(self, dataset: str = "flowers", **sections: Any) -> None:
        """Install or replace a data set's configuration (JSON is YAML)."""
        self.write_config(dataset, json.dumps(config_document(dataset, **sections)).encode())

    def write_config(self, dataset: str, text: bytes) -> None:
        overwrite(self.config, object_name(dataset), text)

    def forget_config(self, dataset: str = "flowers") -> None:
        (found,) = self.config.list(object_name(dataset))
        self.config.delete(found.name, expect=found.generation)

    def event(self, service: str, event: str, document: Any, *, event_id: str = "") -> Delivery:
        """An event on its way to whichever version of a service gets it; not queued."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        envelope = Envelope(event_id, data)
        return Delivery(f"{service}/{event}", lambda: self.service(service).handlers[event](envelope))

    def upload(self, *object_names: str, edition: int = 1) -> list[Delivery]:
        """Write shards (or empty markers) to the data bucket and queue their events, which are returned too."""
        deliveries = []
        for name in object_names or WHOLE:
            data = shard_bytes(name, edition) if ".tfrec" in name else b""
            generation = overwrite(self.data, name, data)
            deliveries.append(self.finalized(name, generation=generation))
        self.queue.extend(deliveries)
        return deliveries

    def finalized(self, name: str, *, bucket: str = "data", generation: int = 1) -> Delivery:
        """The event of an object that was written at this moment."""
        resource = {"bucket": bucket, "name": name, "generation": str(generation), "size": "1"}
        resource["timeCreated"] = to_text(self.clock())
        event = "config-finalized" if bucket == "config" else "object-finalized"
        return self.event("training_launcher", event, resource)

    def retrain(self, *, dataset: str = "flowers", force: bool = False, event_id: str = "") -> Delivery:
        """A retrain request; not queued."""
        self._messages += 1
        message = {"dataset": dataset, "reason": "because", "force": force}
        event_id = event_id or f"message-{self._messages}"
        return self.event("training_launcher", "retrain-requested", message, event_id=event_id)

    def redeploy(self, target: str, **body: Any) -> Delivery:
        """`POST /redeploy` of the target's service, by someone who tries again when told to; not queued."""
        return self.post(target, "redeploy", **body)

    def post(self, target: str, command: str, *, key: str = "", **body: Any) -> Delivery:
        """A command to the target's service, by someone who tries again when told to; not queued."""
        headers = {"Idempotency-Key": key} if key else {}

        def post() -> Outcome:
            response = self.http(target).post(f"/{command}", json=body, headers=headers)
            if response.status_code == 503:
                raise LeaseHeld(response.json["error"])
            return Outcome("done", f"{response.status_code}: {response.json}")

        return Delivery(f"{SERVICE_OF[target]}/{command}", post)

    def result_hint(self, run_id: str, target: str) -> Delivery:
        resource = {"bucket": "models", "name": training.result_name(run_id, target), "generation": "1", "size": "1"}
        return self.event("job_notifier", "training-result", {**resource, "timeCreated": to_text(self.clock())})

    def log_hint(self, job: str) -> Delivery:
        labels = {"job_id": job.rsplit("/", 1)[-1]}
        return self.event("job_notifier", "training-job-log", {"resource": {"type": "ml_job", "labels": labels}})

    # Ticks -----------------------------------------------------------------------------------------------------

    def tick(self, seconds: float = 60.0) -> None:
        """Time passes, and everyone is told; an unanswered tick is not sent again, the next one is soon there."""
        self.clock.advance(seconds)
        for service in self.order():
            self.tick_of(service)

    def tick_deliveries(self) -> list[Delivery]:
        """A tick as each of the services gets it; what they publish is queued."""
        return [self.event(service, "tick", {"v": 1}) for service in self.order()]

    def tick_of(self, service: str) -> list[str]:
        """A tick of one service and all that it makes it advance, at this time; what came of each."""
        before = len(self.outcomes)
        self.handle(self.event(service, "tick", {"v": 1}))
        name = f"{service}/advance"
        mine = [delivery for delivery in self.queue if delivery.name == name]
        self.queue = [delivery for delivery in self.queue if delivery.name != name]
        for delivery in mine:
            self.handle(delivery)
        return [message for _, _, message in self.outcomes[before:]]

    def _route_messages(self) -> None:
        """What was published reaches those who subscribed to it."""
        with self._lock:
            fresh, self._routed = self.publisher.sent[self._routed :], len(self.publisher.sent)
            for message in fresh:
                for service, event, asked in _subscribers(message.topic):
                    if asked.items() <= message.attributes.items():
                        self._messages += 1
                        event_id = f"message-{self._messages}"
                        self.queue.append(self.event(service, event, message.data, event_id=event_id))

    # The world -------------------------------------------------------------------------------------------------

    def unfinished_jobs(self) -> list[str]:
        return [name for name, job in list(self.vertex.jobs.items()) if job.outcome is JobOutcome.UNFINISHED]

    def unfinished_pipelines(self) -> list[str]:
        return [name for name, each in list(self.automl.pipelines.items()) if each.outcome is JobOutcome.UNFINISHED]

    def train(self, job_name: str, *, accuracy: float = 0.95, hints: bool = True) -> None:
        """Do what services/trainer does on Vertex AI: read the job, write the result last, end, be logged."""
        job = self.vertex.jobs[job_name]
        run_id, target = job.labels[RUN_LABEL], job.labels[TARGET_LABEL]
        if target == automl.DATA:
            self._prepare(job_name)
            return
        document = TrainingJob.model_validate_json(self.models.read(training.job_name(run_id, target)).data)
        assert document.output.result == self.models.uri(training.result_name(run_id, target))
        if target in self.job_states:
            self.vertex.end_job(job_name, self.job_states[target], error="out of memory")
            self.queue += [self.log_hint(job_name)] if hints else []
            return
        self.write_result(run_id, target, accuracy=accuracy)
        self.vertex.end_job(job_name)
        if hints:
            self.queue += [self.result_hint(run_id, target), self.log_hint(job_name)]

    def _prepare(self, job_name: str) -> None:
        """Do what `python -m trainer prepare-automl` does, by its own code."""
        document = self.models.read(self.vertex.job_specs[job_name].arguments[-1].removeprefix(self.models.uri("")))
        order = preparation.parse(document.data, source=job_name)
        with tempfile.TemporaryDirectory() as work, contextlib.suppress(UnusableData):
            buckets = {"data": self.data, "models": self.models}
            preparation.run(order, work=Path(work), patience=Patience(0.0), bucket_of=buckets.__getitem__)
            self.vertex.end_job(job_name)
            return
        self.vertex.end_job(job_name, "JOB_STATE_FAILED", error="exit status 64")

    def _trained(self, pipeline: Pipeline) -> None:
        """Where AutoML's models are."""
        spec = self.automl.specs[pipeline.name]
        version = ModelVersion(pipeline.model, pipeline.version, [spec.alias], "", dict(spec.labels), AUTOMLS)
        self.vertex.add_version(version)

    def write_result(self, run_id: str, target: str, *, accuracy: float = 0.95, name: str = "", **more: Any) -> None:
        chain_data.write_result(self.models, run_id, target, clock=self.clock, accuracy=accuracy, name=name, **more)

    def _export(self, run: Any, config: Any, around: Any) -> Any:
        found = json.loads(self.models.read(training.result_name(run.run_id, "mobile")).data)
        if found.get("managed") and not around.exported:
            return ManagedModel.model_validate(found["managed"])
        return chain_data.stub_file(self.models, run, config, accuracy=self.mobile_accuracy, variant=self._variant)

    # Driving ---------------------------------------------------------------------------------------------------

    def drain(self, *, rounds: int = 3, redeliver: bool = True) -> None:
        """Deliver what is queued; what was not acknowledged is delivered again in the next round."""
        for _ in range(rounds):
            waiting, self.queue = self.queue, []
            unanswered = [delivery for delivery in waiting if not self.handle(delivery)]
            if redeliver:
                self.queue += unanswered
            if not self.queue:
                return

    def settle(self, *, ticks: int = 15, redeliver: bool = True) -> None:
        """Let time pass until nothing is left to do, at most `ticks` minutes."""
        for _ in range(ticks):
            self.drain(redeliver=redeliver)
            for job in self.unfinished_jobs():
                self.train(job)
            for pipeline in self.unfinished_pipelines():
                self.automl.end_pipeline(pipeline)
            self.drain(redeliver=redeliver)
            self.vertex.finish_operations()
            self.automl.finish_operations()
            self.tick()
            if self.is_quiet():
                return

    def is_quiet(self) -> bool:
        """Whether no message, job, operation, run or arrival waits for anything."""
        return (
            not self.queue
            and not self.unfinished_jobs()
            and not self.unfinished_pipelines()
            and not self.active()
            and all(each.done for each in (*self.vertex.operations.values(), *self.automl.operations.values()))
        )

    # What came of it -------------------------------------------------------------------------------------------

    def run_ids(self, dataset: str = "flowers") -> list[str]:
        return self.ledger.run_ids(dataset)

    def standing(self, run_id: str, target: str) -> Standing:
        return standing(self.ledger, run_id, target)

    def serving(self, target: str, dataset: str = "flowers") -> Any:
        """What serves, as the service's own document; an empty one when nothing ever did."""
        kind: type[Serving] = self.service(SERVICE_OF[target]).worker._of.serving_kind
        found = self.ledger.find(names.serving(target, dataset), kind)
        return found.document if found else kind(dataset=dataset, target=target)

    def live(self, target: str, dataset: str = "flowers") -> Any:
        """The same, None when nothing is live."""
        found = self.serving(target, dataset)
        return found if found.current else None

    def active(self) -> list[str]:
        """What waits to be looked at because of a run: `<service>/<key>`."""
        return [
            f"{service}/{key}"
            for service in SERVICES
            for key in Due(service, self.ledger).all_keys()
            if key.partition("/")[0] in OF_A_RUN
        ]

    def messages(self, topic: str, **attributes: str) -> list[dict[str, Any]]:
        """What was published to `topic` with these attributes."""
        return [
            message.json()
            for message in self.publisher.sent
            if message.topic == topic and attributes.items() <= message.attributes.items()
        ]

    def jobs_of(self, run_id: str, target: str) -> list[str]:
        labels = {RUN_LABEL: run_id, TARGET_LABEL: target}
        return [name for name, job in self.vertex.jobs.items() if labels.items() <= job.labels.items()]

    def check_one_run_is_live(self, expected_runs: int = 1) -> None:
        """The promise of the whole chain: whatever went wrong, one snapshot is trained once and reaches its users."""
        assert len(self.run_ids()) == expected_runs, self.run_ids()
        self.check_is_live(self.run_ids()[0])
        self.check_is_tidy()

    def check_is_live(self, run_id: str) -> None:
        for target in TARGETS:
            found = self.standing(run_id, target)
            assert found.state is State.LIVE, (target, found.state, found.step, found.reason, found.waits_for)
            live = self.live(target)
            assert live is not None
            assert live.current.run_id == run_id, target
            outcomes = {"run_id": run_id, "target": target}
            assert self.messages("training-completed", outcome="succeeded", **outcomes), target
            assert self.messages("deployment-completed", outcome="live", **outcomes), target
        endpoint = self.vertex.endpoints["flowers"]
        assert [deployed.display_name for deployed in endpoint.deployed] == [run_id]
        assert dict(endpoint.traffic) == {endpoint.deployed[0].id: 100}
        (model,) = self.firebase.models.values()
        assert model.published
        assert f"run-{run_id.removeprefix('flowers-')}" in model.tags
        # A phone that knows only the bucket gets this run's file, whole.
        pointer = json.loads(self.phones.read("models/flowers/latest.json").data)
        published = self.phones.read(pointer["model"]).data
        assert published == f"file of {run_id}".encode()

    def check_is_tidy(self) -> None:
        """Nothing is left over, nothing happened twice that must not, nothing took a forbidden way."""
        assert self.active() == []
        assert self.queue == []
        assert self.rejected == []
        assert not [name for name in self.ledger_store.names() if name.startswith("rejected/")]
        for target in TARGETS:
            serving = self.serving(target)
            assert (serving.under_way, serving.waiting, serving.removing) == (None, (), ""), target
        for run_id in self.run_ids():
            for target in TARGETS:
                assert len(self.jobs_of(run_id, target)) == 1, (run_id, target)
                check_history(self.standing(run_id, target))


@functools.cache
def _subscribers(topic: str) -> list[tuple[str, str, Mapping[str, str]]]:
    """Service, event and the attributes that a message must have, of each push subscription to a topic."""
    return [
        (
            each["service"],
            each["path"].rsplit("/", 1)[-1],
            dict(re.findall(r'attributes\.(\w+) = "(.*?)"', asked)),
        )
        for each in TOPOLOGY["subscriptions"].values()
        for asked in [each.get("filter", "")]
        if each["topic"] == topic and not each.get("pull")
    ]


def check_history(found: Standing) -> None:
    """Every step of a history is one that the transition tables have."""
    states = [moment.state for moment in found.history]
    assert states[0] is State.PENDING
    for before, after in itertools.pairwise(states):
        begins = (before, after) == (State.TRAINED, State.WAITING)
        assert begins or after in {*TRAINING_MOVES.get(before, ()), *RELEASE_MOVES.get(before, ())}, states
    assert states[-1] is found.state


class Interleaving:
    """Runs handlings on threads, one operation at a time, in an order drawn from a seed: the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._turn_over = threading.Semaphore(0)

    def run(self, chain: Chain, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Handle all deliveries at once; returns those that were not acknowledged."""
        unanswered: list[Delivery] = []
        turns = [threading.Semaphore(0) for _ in deliveries]
        running = set(range(len(deliveries)))

        def work(number: int) -> None:
            def pause() -> None:
                self._turn_over.release()
                turns[number].acquire()

            turns[number].acquire()
            try:
                if not chain.handle(deliveries[number], pause=pause):
                    unanswered.append(deliveries[number])
            finally:
                running.discard(number)
                self._turn_over.release()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(deliveries))]
        for thread in threads:
            thread.start()
        while running:
            turns[self._random.choice(sorted(running))].release()
            self._turn_over.acquire()
        for thread in threads:
            thread.join()
        return unanswered
