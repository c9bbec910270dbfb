"""The four event services wired together in memory, with a world around them that a test can drive and break.

Everything that a service does outside its own process is one operation with a name (`ledger.put`,
`vertex.start_deploy`, …). `Chain.operations` lists them in order; `Chain.interfere` is called before and after each
of them and may raise. The world itself (uploads, the trainer, phones) is not counted and never fails.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NoReturn

import flask
from flask.testing import FlaskClient
from PIL import Image

from cloud_deployer import hygiene
from cloud_deployer import janitor as janitors
from cloud_deployer.handler import CloudDeployer
from cloud_deployer.settings import DeployerSettings
from dualdeploy import events, release_api, tfrecord, training
from dualdeploy.branches import BranchWorker
from dualdeploy.clock import to_text
from dualdeploy.dataset_config import DatasetConfig, object_name
from dualdeploy.errors import CannotEverSucceed, LeaseHeld, RetryLater
from dualdeploy.events import Envelope, ObjectFinalized, RetrainRequested, TrainingJobLogged
from dualdeploy.ledger import TRANSITIONS, Branch, Ledger, Live, Run, State
from dualdeploy.monitoring import Monitoring
from dualdeploy.object_store import ABSENT, Generation
from dualdeploy.outcome import Outcome
from dualdeploy.testing import (
    FakeFirebaseMl,
    FakeMonitoring,
    FakePublisher,
    FakeRemoteConfig,
    FakeVertex,
    Faults,
    ManualClock,
    MemoryObjectStore,
)
from dualdeploy.testing.callers import cloud_run_callers
from dualdeploy.testing.failing import ProcessDied
from dualdeploy.training import TARGETS, TrainingJob
from dualdeploy.vertex import RUN_LABEL, TARGET_LABEL, JobOutcome, Vertex
from job_notifier.handler import JobNotifier
from job_notifier.settings import NotifierSettings
from mobile_publisher.handler import MobilePublisher
from mobile_publisher.settings import PublisherSettings
from mobile_publisher.storage_channel import StorageChannel
from training_launcher.handler import Launcher
from training_launcher.settings import LauncherSettings

LABELS = ("blue", "red")
LEASE_SECONDS = 90.0
QUIET_SECONDS = 60.0

#: Names of a batch that is whole by its names alone.
NUMBERED = ("flowers/train-00000-of-00002.tfrecord", "flowers/train-00001-of-00002.tfrecord")
HELD_OUT = ("flowers/eval-00000-of-00001.tfrecord",)
WHOLE = (*NUMBERED, *HELD_OUT)

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

When = Literal["before", "after"]

#: Called before and after every operation with its number, name and the time; raises to break it.
Interfere = Callable[[int, str, When], None]


@functools.cache
def shard_bytes(name: str, edition: int = 1, examples: int = 4) -> bytes:
    """A small, sound TFRecord shard; another `edition` has other pictures."""
    seed = random.Random(f"{name} {edition}")
    out = io.BytesIO()
    records = []
    for number in range(examples):
        picture = io.BytesIO()
        label = number % len(LABELS)
        strong, weak = seed.randrange(128, 256), (seed.randrange(256), seed.randrange(64))
        colour = (weak[1], weak[0], strong) if label == 0 else (strong, weak[0], weak[1])
        image = Image.new("RGB", (8, 8), colour)
        image.putpixel((number, number), (seed.randrange(256), seed.randrange(256), seed.randrange(256)))
        image.save(picture, "PNG")
        records.append(tfrecord.encode_example({"image": [picture.getvalue()], "class": [label]}))
    tfrecord.write_records(out, records)
    return out.getvalue()


def config_document(dataset: str = "flowers", **sections: Any) -> dict[str, Any]:
    """A configuration with a short quiet period; `sections` replace whole sections.

    Without a cool-down, so that a release leaves nothing behind, and through both channels, unless a test wants less.
    """
    publishing = {"channels": ["firebase-ml", "firebase-storage"], **sections.pop("publishing", {})}
    serving = sections.pop("serving", {"canary": {"steps": [50, 100], "bake": 0, "answers": 2}})
    return {
        "dataset": dataset,
        "labels": list(LABELS),
        "data": {"quiet_period": QUIET_SECONDS},
        "publishing": publishing,
        "serving": {"cool_down": 0, **serving},
        **sections,
    }


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


@dataclasses.dataclass(frozen=True)
class StubExport:
    """What the publisher makes of a run, without a converter."""

    facts: dict[str, Any]

    def as_facts(self) -> dict[str, Any]:
        return self.facts


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
        self.monitoring = FakeMonitoring(faults=self._faults("monitoring"))
        self.firebase = FakeFirebaseMl(faults=self._faults("firebase"), looks_locked=looks_locked)
        self.remote_config = FakeRemoteConfig(faults=self._faults("remote_config"))
        self.publisher = FakePublisher(faults=self._faults("pubsub"))
        self.ledger = Ledger(self.ledger_store, clock=self.clock)
        self._build_services()
        self.configure()

    def _build_services(self) -> None:
        self.launcher = self._new_launcher()
        self.notifier = JobNotifier(
            ledger=self.ledger,
            models=self.models,
            vertex=self.vertex,
            publisher=self.publisher,
            settings=NOTIFIER_SETTINGS,
            clock=self.clock,
        )
        self.janitor = self.new_janitor()
        publisher = MobilePublisher(
            ledger=self.ledger,
            config=self.config,
            firebase=self.firebase,
            remote_config=self.remote_config,
            export=self._export,  # type: ignore[arg-type]  # a stub needs only `as_facts`
            settings=PUBLISHER_SETTINGS,
            storage=StorageChannel(models=self.models, bucket=self.phones),
            clock=self.clock,
        )
        self.workers = {"mobile": self._worker("mobile", publisher.advance)}
        self.use_deployer()

    def use_deployer(
        self,
        *,
        settings: DeployerSettings = DEPLOYER_SETTINGS,
        vertex: Vertex | None = None,
        monitoring: Monitoring | None = None,
    ) -> None:
        """From now on a deployer with these settings, or at another Vertex AI, brings out the cloud model."""
        deployer = CloudDeployer(
            ledger=self.ledger,
            config=self.config,
            models=self.models,
            vertex=vertex or self.vertex,
            monitoring=monitoring or self.monitoring,
            settings=settings,
            clock=self.clock,
        )
        self.workers["cloud"] = self._worker("cloud", deployer.advance, on_end=deployer.on_end)

    def new_janitor(self, *, settings: DeployerSettings = DEPLOYER_SETTINGS) -> janitors.Janitor:
        """The janitor of another instance."""
        return janitors.Janitor(
            ledger=self.ledger,
            config=self.config,
            vertex=self.vertex,
            monitoring=self.monitoring,
            settings=settings,
            clock=self.clock,
        )

    def _new_launcher(self) -> Launcher:
        return Launcher(
            ledger=self.ledger,
            data=self.data,
            config=self.config,
            models=self.models,
            vertex=self.vertex,
            settings=LAUNCHER_SETTINGS,
            clock=self.clock,
        )

    def _worker(self, target: str, advance: Any, *, on_end: Any = None) -> BranchWorker:
        return BranchWorker(
            target,
            advance,
            ledger=self.ledger,
            publisher=self.publisher,
            lease_seconds=LEASE_SECONDS,
            clock=self.clock,
            on_end=on_end,
            overtakes_rollouts=target == "mobile",
        )

    @functools.cache  # noqa: B019  # a chain lives as long as its test
    def http(self, target: str) -> FlaskClient:
        """The HTTP interface of the target's service."""
        app = flask.Flask(target)
        routes = release_api.blueprint(
            target,
            target,
            ledger=self.ledger,
            lease_seconds=LEASE_SECONDS,
            clock=self.clock,
            callers=cloud_run_callers(),
            about=(lambda dataset: hygiene.status(self.ledger, dataset)) if target == "cloud" else (lambda _: {}),
        )
        app.register_blueprint(routes)
        return app.test_client()

    def continued(self) -> Chain:
        """Another project in the same state, so that a thousand tests need not bring it there a thousand times."""
        other = Chain(looks_locked=self._looks_locked)
        pairs = [(self.vertex, other.vertex), (self.firebase, other.firebase), (self.publisher, other.publisher)]
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
        faults = Faults()
        faults.before = lambda name: self._operate(f"{owner}.{name}", "before")
        faults.after = lambda name: self._operate(f"{owner}.{name}", "after")
        return faults

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
            self.launcher = self._new_launcher()
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
        _overwrite(self.config, object_name(dataset), text)

    def upload(self, *names: str, edition: int = 1) -> list[Delivery]:
        """Write shards (or empty markers) to the data bucket and queue their events, which are returned too."""
        deliveries = []
        for name in names or WHOLE:
            data = shard_bytes(name, edition) if ".tfrec" in name else b""
            generation = _overwrite(self.data, name, data)
            deliveries.append(self.finalized(name, generation=generation))
        self.queue.extend(deliveries)
        return deliveries

    def finalized(self, name: str, *, bucket: str = "data", generation: int = 1) -> Delivery:
        """The event of an object in the data bucket."""
        event = ObjectFinalized(bucket, name, generation, 1)
        return Delivery("training_launcher/object-finalized", lambda: self.launcher.on_object_finalized(event))

    def retrain(self, *, dataset: str = "flowers", force: bool = False, event_id: str = "") -> Delivery:
        """A retrain request; not queued."""
        self._messages += 1
        message_id = event_id or f"message-{self._messages}"
        event = RetrainRequested(dataset, "because", force)
        return Delivery(
            "training_launcher/retrain-requested",
            lambda: self.launcher.on_retrain_requested(event, event_id=message_id),
        )

    def redeploy(self, target: str, **body: Any) -> Delivery:
        """`POST /redeploy` of the target's service, by somebody who tries again when told to; not queued."""
        return self.post(target, "redeploy", **body)

    def post(self, target: str, command: str, *, key: str = "", **body: Any) -> Delivery:
        """A command to the target's service, by somebody who tries again when told to; not queued."""
        headers = {"Idempotency-Key": key} if key else {}

        def post() -> Outcome:
            response = self.http(target).post(f"/{command}", json=body, headers=headers)
            if response.status_code == 503:
                raise LeaseHeld(response.json["error"])
            return Outcome("done", f"{response.status_code}: {response.json}")

        return Delivery(f"{target}/{command}", post)

    def result_hint(self, run_id: str, target: str) -> Delivery:
        event = ObjectFinalized("models", training.result_name(run_id, target), 1, 1)
        return Delivery("job_notifier/training-result", lambda: self.notifier.on_training_result(event))

    def log_hint(self, job: str) -> Delivery:
        event = TrainingJobLogged(job.rsplit("/", 1)[-1])
        return Delivery("job_notifier/training-job-log", lambda: self.notifier.on_training_job_log(event))

    def clock_deliveries(self) -> list[Delivery]:
        """One tick as each of the services gets it."""
        return [
            Delivery("training_launcher/clock", self.launcher.on_clock),
            Delivery("job_notifier/clock", self.notifier.on_clock),
            Delivery("cloud_deployer/clock", lambda: janitors.tick(self.workers["cloud"], self.janitor)),
            Delivery("mobile_publisher/clock", self.workers["mobile"].on_clock),
        ]

    def tick(self, seconds: float = 60.0) -> None:
        """Time passes, and everybody is told; an unanswered tick is not sent again, the next one is soon there."""
        self.clock.advance(seconds)
        for delivery in self.clock_deliveries():
            self.handle(delivery)

    def _route_messages(self) -> None:
        """What was published reaches those who subscribed to it."""
        with self._lock:
            fresh, self._routed = self.publisher.sent[self._routed :], len(self.publisher.sent)
            for message in fresh:
                if message.topic == "training-completed":
                    self.queue.append(self._training_completed(message.data, message.attributes["target"]))

    def _training_completed(self, data: bytes, target: str) -> Delivery:
        service = {"cloud": "cloud_deployer", "mobile": "mobile_publisher"}[target]
        event = events.parse_training_completed(Envelope("", data))
        return Delivery(f"{service}/training-completed", lambda: self.workers[target].on_training_completed(event))

    # The world -------------------------------------------------------------------------------------------------

    def unfinished_jobs(self) -> list[str]:
        return [name for name, job in list(self.vertex.jobs.items()) if job.outcome is JobOutcome.UNFINISHED]

    def train(self, job_name: str, *, accuracy: float = 0.95, hints: bool = True) -> None:
        """Do what services/trainer does on Vertex AI: read the job, write the result last, end, be logged."""
        job = self.vertex.jobs[job_name]
        run_id, target = job.labels[RUN_LABEL], job.labels[TARGET_LABEL]
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

    def write_result(self, run_id: str, target: str, *, accuracy: float = 0.95, name: str = "") -> None:
        directory = self.models.uri(training.artifact_directory(run_id, target))
        artifacts = {
            "saved_model": "model",
            "pixels_model": "pixels_model",
            "keras": "model.keras",
            "metrics": "metrics.json",
            "golden": "golden.json",
            "labels": "labels.txt",
        }
        result = {
            "v": 1,
            "run_id": run_id,
            "dataset": run_id.rsplit("-", 1)[0],
            "target": target,
            "finished_at": to_text(self.clock()),
            "architecture": "densenet121",
            "image_size": 224,
            "labels": LABELS,
            "artifacts": {key: f"{directory}/{value}" for key, value in artifacts.items()},
            "metrics": {"accuracy": accuracy, "loss": 0.1, "examples": 40},
            "data": {"train_examples": 160, "eval_examples": 40},
        }
        # A picture is the bytes of its label: see `dualdeploy.testing.vertex.label_in_picture`.
        pictures = [(label.encode(), [float(label == other) for other in LABELS]) for label in LABELS]
        _overwrite(self.models, f"{training.artifact_directory(run_id, target)}/golden.json", golden_set(pictures))
        _overwrite(self.models, name or training.result_name(run_id, target), json.dumps(result).encode())

    def _export(self, run: Run, config: DatasetConfig) -> StubExport:
        asked = config.publishing.quantization
        tflite = ("" if asked == "auto" else f"{asked} ").encode() + f"file of {run.run_id}".encode()
        digest = hashlib.sha256(tflite).hexdigest()
        name = f"mobile/{run.dataset}/{run.run_id}/{digest[:12]}/model.tflite"
        self.models.put(name, tflite, expect=ABSENT)
        version = f"{run.run_id.removeprefix(f'{run.dataset}-')}-{digest[:12]}"
        manifest = {"version": version, "sha256": digest, "size": len(tflite)}
        described = name.replace("model.tflite", "manifest.json")
        self.models.put(described, json.dumps(manifest).encode(), expect=ABSENT)
        return StubExport(
            {
                "manifest": self.models.uri(described),
                "tflite": self.models.uri(name),
                "tflite_sha256": digest,
                "tflite_bytes": 2_000_000,
                "quantization": asked,
                "named": config.publishing.name,
                "variant": self._variant if asked == "auto" else asked,
                "accuracy": self.mobile_accuracy,
            }
        )

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
            self.drain(redeliver=redeliver)
            self.vertex.finish_operations()
            self.tick()
            if self.is_quiet():
                return

    def is_quiet(self) -> bool:
        """Whether no message, job, operation, branch or arrival waits for anything."""
        return (
            not self.queue
            and not self.unfinished_jobs()
            and not self.active()
            and all(operation.done for operation in self.vertex.operations.values())
            and not self.ledger.arrivals()
        )

    # What came of it -------------------------------------------------------------------------------------------

    def run_ids(self, dataset: str = "flowers") -> list[str]:
        return self.ledger.run_ids(dataset)

    def branch(self, run_id: str, target: str) -> Branch:
        return self.ledger.read_branch(run_id, target).document

    def live(self, target: str, dataset: str = "flowers") -> Live | None:
        found = self.ledger.read_live(dataset, target)
        return found.document if found else None

    def active(self) -> list[str]:
        return [f"{target}/{run_id}" for target in TARGETS for run_id in self.ledger.active(target)]

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
            branch = self.branch(run_id, target)
            assert branch.state is State.LIVE, (target, branch.state, branch.step, branch.reason)
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
        assert hashlib.sha256(published).hexdigest() == pointer["sha256"]

    def check_is_tidy(self) -> None:
        """Nothing is left over, nothing happened twice that must not, no branch took a forbidden way."""
        assert self.active() == []
        assert self.queue == []
        assert self.rejected == []
        assert self.ledger.arrivals() == {}
        assert not [name for name in self.ledger_store.names() if name.startswith("rejected/")]
        for run_id in self.run_ids():
            for target in TARGETS:
                assert len(self.jobs_of(run_id, target)) == 1, (run_id, target)
                check_history(self.branch(run_id, target))


def check_history(branch: Branch) -> None:
    """Every step of a branch's history is one that the transition table has."""
    states = [moment.state for moment in branch.history]
    assert states[0] is State.PENDING
    for before, after in itertools.pairwise(states):
        assert after in TRANSITIONS[before], states
    assert states[-1] is branch.state


def _overwrite(store: MemoryObjectStore, name: str, data: bytes) -> Generation:
    """Write as people and pipelines do: whatever is there is replaced, and the generation is a new one."""
    current = next((summary.generation for summary in store.list(name) if summary.name == name), ABSENT)
    return store.put(name, data, expect=current)


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


def golden_set(pictures: Iterable[tuple[bytes, Sequence[float]]]) -> bytes:
    """The document `golden.json` that the trainer writes."""
    examples = [
        {"image_bytes": {"b64": base64.b64encode(picture).decode()}, "probabilities": list(probabilities)}
        for picture, probabilities in pictures
    ]
    return json.dumps({"v": 1, "examples": examples}).encode()
