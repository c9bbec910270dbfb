"""The one end-to-end run with real training: the stack as `make up` starts it, Google's own clients, no fakes.

The tests run in the order in which they stand and share one stack, as a day in the life of a project would.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import functools
import hashlib
import io
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from dualdeploy.errors import UnknownRun
from dualdeploy.google.object_store import GcsObjectStore
from dualdeploy.ledger import Ledger, Release, Serving, State
from dualdeploy.ledger.standing import standing
from dualdeploy_demo import answers, flowers
from dualdeploy_demo.source import Picture
from dualdeploy_demo.supervisor import running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]

#: As small as still learns something: what is tested is the loop, not the models.
CONFIG: dict[str, Any] = {
    "dataset": "flowers",
    "labels": list(flowers.LABELS),
    "data": {"quiet_period": "5s"},
    # How fast a model answers says nothing on a machine that trains and tests beside it.
    "serving": {"canary": {"steps": [50, 100], "bake": "0s", "latency_slack": "10s"}},
    "publishing": {"channels": ["firebase-ml", "firebase-storage"]},
    "training": {
        target: {
            "architecture": architecture,
            "weights": "none",
            "image_size": 32,
            "epochs": epochs,
            "batch_size": 16,
            "learning_rate": rate,
            "accelerator": None,
            "capacity": [{"strategy": "standard"}],
            "timeout": "15m",
        }
        for target, architecture, epochs, rate in (
            ("cloud", "densenet121", 1, 0.001),
            ("mobile", "mobilenet_v3_small", 6, 0.006),
        )
    },
}


class Stack:
    """A running stack seen from outside: buckets, the ledger, the services' addresses."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.client = storage.Client(project=environment["GOOGLE_CLOUD_PROJECT"], credentials=AnonymousCredentials())
        self.ledger_store = GcsObjectStore(environment["LEDGER_BUCKET"], client=lambda: self.client)
        self.ledger = Ledger(self.ledger_store)

    def configure(self, config: Mapping[str, Any]) -> None:
        bucket = self.client.bucket(self.environment["CONFIG_BUCKET"])
        bucket.blob(f"datasets/{config['dataset']}.yaml").upload_from_string(yaml.safe_dump(dict(config)))

    def drop(self, name: str, data: bytes) -> None:
        self.client.bucket(self.environment["DATA_BUCKET"]).blob(name).upload_from_string(data)

    def served(self, target: str, dataset: str = "flowers") -> dict[str, Any]:
        """What serves for a data set, as its service recorded it."""
        found = self.ledger.find_serving(Serving, target, dataset)
        assert found is not None
        assert found.document.current is not None
        return found.document.current.model_dump()

    def jobs(self) -> list[Any]:
        host, project = self.environment["VERTEX_EMULATOR_HOST"], self.environment["GOOGLE_CLOUD_PROJECT"]
        url = f"http://{host}/v1/projects/{project}/locations/{self.environment['GOOGLE_CLOUD_REGION']}/customJobs"
        answer = requests.get(url, timeout=10)
        answer.raise_for_status()
        found: list[Any] = answer.json().get("customJobs", [])
        return found

    def rejections(self) -> list[dict[str, Any]]:
        names = [summary.name for summary in self.ledger_store.list("rejected/")]
        return [json.loads(self.ledger_store.read(name).data) for name in names]

    def plan_faults(self, plan: Mapping[str, list[str]]) -> None:
        url = f"http://{self.environment['LOCAL_CLOUD_ADDRESS']}/faults"
        requests.post(url, json=dict(plan), timeout=10).raise_for_status()

    def pending_faults(self) -> dict[str, list[str]]:
        url = f"http://{self.environment['LOCAL_CLOUD_ADDRESS']}/faults"
        pending: dict[str, list[str]] = requests.get(url, timeout=10).json()["pending"]
        return pending

    def post(self, service: str, path: str, **arguments: Any) -> requests.Response:
        """As Pub/Sub does, with a token that names the account of the service's events."""
        address = self.environment[f"{service}_URL"]
        caller = f"{service.lower().replace('_', '-')}-caller@{self.environment['GOOGLE_CLOUD_PROJECT']}"
        control = f"http://{self.environment['LOCAL_CLOUD_ADDRESS']}/tokens"
        wanted = {"email": f"{caller}.iam.gserviceaccount.com", "audience": address}
        token = requests.post(control, json=wanted, timeout=30).json()["token"]
        return requests.post(address + path, timeout=30, headers={"Authorization": f"Bearer {token}"}, **arguments)

    def retrain(self, dataset: str, **more: Any) -> None:
        """Ask for a training, in a message of its own as Pub/Sub delivers it."""
        request = base64.b64encode(json.dumps({"dataset": dataset, **more}).encode()).decode()
        envelope = {"message": {"data": request, "messageId": uuid.uuid4().hex}, "subscription": "s"}
        assert self.post("TRAINING_LAUNCHER", "/events/retrain-requested", json=envelope).status_code == 204

    def announced(self, run_id: str, target: str) -> bool:
        found = self.ledger.find_release(Release, run_id, target, 1)
        return found is not None and found.document.announced

    def wait_for_state(self, run_id: str, target: str, state: State, *, release: int = 0, seconds: float = 600) -> Any:
        def reached() -> Any:
            try:
                found = standing(self.ledger, run_id, target)
            except UnknownRun:
                return None  # claimed, and its training is recorded in a moment
            assert found.state is state or not found.is_over or found.release < release, found.reason
            return found if found.state is state and found.release >= release else None

        return wait_for(reached, seconds=seconds, what=f"{target} to be {state}")


def wait_for(look: Callable[[], Any], *, seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.3)
    raise AssertionError(f"waited {seconds} s for {what}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    before = dict(os.environ)
    with running(REPOSITORY, state=folder / "state", environment_file=folder / "local_cloud.env") as environment:
        os.environ.update(environment)
        try:
            yield Stack(environment)
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flowers")
    flowers.generate(folder, train=160, held_out=60, shards=2, unseen=10, compressed=True)
    return folder


@pytest.fixture(scope="module")
def run_id(stack: Stack, data: Path) -> str:
    """The run that the dropped shards lead to, every event on its way doubled, ticks excepted."""
    stack.plan_faults(
        {
            "delivery.data-object-finalized": ["duplicate"] * 4,
            "delivery.notifier-training-results": ["duplicate"] * 2,
            "delivery.notifier-training-job-logs": ["duplicate"] * 2,
            "delivery.deployer-training-completed": ["duplicate"],
            "delivery.publisher-training-completed": ["duplicate"],
        }
    )
    stack.configure(CONFIG)
    upload(stack, data)
    return str(wait_for(lambda: stack.ledger.run_ids("flowers"), seconds=60, what="a run to be claimed")[0])


def upload(stack: Stack, data: Path, dataset: str = "flowers") -> None:
    for path in sorted(data.glob("*.tfrecord*")):
        stack.drop(f"{dataset}/{path.name}", path.read_bytes())
    stack.drop(f"{dataset}/_SUCCESS", b"")


def unseen(data: Path) -> list[Picture]:
    labels = json.loads((data / "unseen" / "labels.json").read_text())
    return [Picture((data / "unseen" / name).read_bytes(), label) for name, label in sorted(labels.items())]


def test_dropped_shards_become_two_live_models_although_every_event_comes_twice(stack: Stack, run_id: str) -> None:
    cloud = stack.wait_for_state(run_id, "cloud", State.LIVE)
    mobile = stack.wait_for_state(run_id, "mobile", State.LIVE)

    assert stack.ledger.run_ids("flowers") == [run_id]
    assert sorted(job["labels"]["dualdeploy_target"] for job in stack.jobs()) == ["cloud", "mobile"]
    assert cloud.facts["eval_examples"] == mobile.facts["eval_examples"] == 60
    assert stack.pending_faults() == {}, "a duplicate that was planned was never delivered"


def test_the_endpoint_and_the_published_file_answer_the_same_pictures(stack: Stack, run_id: str, data: Path) -> None:
    pictures = unseen(data)

    of_cloud = answers.ask_cloud(stack.served("cloud")["endpoint"], pictures, environment=stack.environment)
    tflite = answers.download_to_phone(stack.served("mobile")["firebase_model"], environment=stack.environment)
    of_phone = answers.ask_phone(tflite, pictures)

    for answer in (*of_cloud.answers, *of_phone.answers):
        assert answer.label in flowers.LABELS
        assert 1 / len(flowers.LABELS) <= answer.confidence <= 1.0001


def test_the_ledger_forgets_nothing(stack: Stack, run_id: str) -> None:
    for target in ("cloud", "mobile"):
        states = [moment.state for moment in standing(stack.ledger, run_id, target).history]
        for state in ("pending", "launching", "training", "trained", "gating", "deploying", "live"):
            assert state in states, states
        # A release serves first, tidies up next, and is announced last.
        wait_for(functools.partial(stack.announced, run_id, target), seconds=60, what=f"{target} to be announced")


def test_uploading_the_same_shards_again_launches_nothing(stack: Stack, run_id: str, data: Path) -> None:
    upload(stack, data)
    # The quiet period is over too, so every way to start a run has had its chance.
    time.sleep(9)
    assert stack.ledger.run_ids("flowers") == [run_id]
    assert len(stack.jobs()) == 2


@pytest.mark.parametrize(("service", "target"), [("CLOUD_DEPLOYER", "cloud"), ("MOBILE_PUBLISHER", "mobile")])
def test_a_redeploy_brings_the_recorded_run_out_again_without_training(
    stack: Stack, run_id: str, service: str, target: str
) -> None:
    answer = stack.post(service, "/redeploy", json={"dataset": "flowers", "reason": "a test asks for it"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["run_id"] == run_id

    stack.wait_for_state(run_id, target, State.LIVE, release=2, seconds=180)

    assert len(stack.jobs()) == 2
    status = requests.get(stack.environment[f"{service}_URL"] + "/status/flowers", timeout=30).json()
    assert status["live"]["current"]["release"] == 2


def test_after_a_redeploy_one_model_is_deployed_and_serves(stack: Stack, data: Path) -> None:
    served = stack.served("cloud")
    host = stack.environment["VERTEX_EMULATOR_HOST"]
    endpoint = requests.get(f"http://{host}/v1/{served['endpoint']}", timeout=10).json()
    assert [deployed["id"] for deployed in endpoint["deployedModels"]] == [served["deployed_model"]]
    assert endpoint["trafficSplit"] == {served["deployed_model"]: 100}

    of_cloud = answers.ask_cloud(served["endpoint"], unseen(data)[:2], environment=stack.environment)
    assert len(of_cloud.answers) == 2


def test_a_garbage_shard_is_rejected_with_a_reason_before_any_job(stack: Stack) -> None:
    stack.configure({**CONFIG, "dataset": "garbage"})
    stack.drop("garbage/train-00000-of-00001.tfrecord", b"this is no TFRecord" * 100)
    stack.drop("garbage/_SUCCESS", b"")

    claimed = wait_for(lambda: stack.ledger.run_ids("garbage"), seconds=30, what="the run to be claimed")
    for target in ("cloud", "mobile"):
        found = stack.wait_for_state(claimed[0], target, State.REJECTED, seconds=30)
        assert "train-00000-of-00001.tfrecord" in found.reason
    assert len(stack.jobs()) == 2


def test_a_truncated_shard_is_rejected_with_its_record_and_byte(stack: Stack, data: Path) -> None:
    import gzip

    whole = gzip.decompress((data / "train-00000-of-00002.tfrecord.gz").read_bytes())
    stack.configure({**CONFIG, "dataset": "truncated"})
    stack.drop("truncated/train-00000-of-00001.tfrecord", whole[: len(whole) // 2])
    stack.drop("truncated/_SUCCESS", b"")

    claimed = wait_for(lambda: stack.ledger.run_ids("truncated"), seconds=30, what="the run to be claimed")
    found = stack.wait_for_state(claimed[0], "cloud", State.REJECTED, seconds=30)
    assert "record" in found.reason
    assert "byte" in found.reason
    assert len(stack.jobs()) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unheard-of/train-00000-of-00001.tfrecord", "no data set 'unheard-of'"),
        ("flat.tfrecord", "is not in the folder of a data set"),
    ],
)
def test_data_that_belongs_to_no_data_set_is_recorded_and_launches_nothing(
    stack: Stack, name: str, expected: str
) -> None:
    stack.drop(name, b"anything")
    wait_for(
        lambda: [rejection for rejection in stack.rejections() if expected in rejection["reason"]],
        seconds=20,
        what=f"a rejection that says {expected!r}",
    )
    assert len(stack.jobs()) == 2


def test_a_wrong_configuration_is_recorded_with_every_fault(stack: Stack) -> None:
    stack.configure({"dataset": "wrong", "labels": ["only"], "gates": {"cloud": {"min_acuracy": 0.5}}})
    stack.drop("wrong/_SUCCESS", b"")

    def look() -> list[str]:
        return [each["reason"] for each in stack.rejections() if "wrong.yaml" in each["reason"]]

    reason = wait_for(look, seconds=20, what="the rejection")[0]
    assert "labels" in reason
    assert "gates.cloud.min_acuracy: unknown key" in reason


@pytest.mark.parametrize("body", [b"no json", b"[1, 2]", b'{"message": {"data": "not base64!"}}'])
def test_a_malformed_event_is_acknowledged_and_recorded(stack: Stack, body: bytes) -> None:
    before = len(stack.rejections())
    answer = stack.post("TRAINING_LAUNCHER", "/events/retrain-requested", data=io.BytesIO(body))
    assert answer.status_code == 204, answer.text
    assert len(stack.rejections()) == before + 1


def test_asking_to_retrain_on_unchanged_data_launches_nothing(stack: Stack, run_id: str) -> None:
    stack.retrain("flowers")
    assert stack.ledger.run_ids("flowers") == [run_id]


# From our trainer to AutoML and back

SWITCHED: dict[str, Any] = {
    **CONFIG,
    "dataset": "switched",
    # AutoML's models serve on a shared endpoint alone, and a dedicated one never becomes a shared one.
    "serving": {"dedicated": False, "canary": {**CONFIG["serving"]["canary"], "latency_slack": "60s"}},
    # What learns for seconds may be worse than what serves.
    "gates": {"cloud": {"max_regression": None, "max_class_regression": None}},
    "publishing": {"channels": ["firebase-storage"]},
    "training": {
        target: {**CONFIG["training"][target], "architecture": "mobilenet_v3_small", "epochs": 2}
        for target in ("cloud", "mobile")
    },
}


class Phone:
    """An app of one version: takes what the pointer names if it may, and classifies with what it has."""

    def __init__(self, stack: Stack, version: str, *, feeds: Sequence[str]) -> None:
        host, bucket = (stack.environment[name] for name in ("STORAGE_EMULATOR_HOST", "FIREBASE_STORAGE_BUCKET"))
        self._objects = f"{host}/v0/b/{bucket}/o/"
        self._version, self._feeds = version, feeds
        self.seen: list[str] = []
        self._file = b""

    def classify(self, picture: Picture) -> answers.Answer:
        pointer = json.loads(self._get("models/switched/latest.json"))
        if float(pointer["min_app_version"]) <= float(self._version) and pointer["version"] not in self.seen:
            manifest = json.loads(self._get(pointer["manifest"]))
            assert manifest["input"]["type"] in self._feeds, manifest
            self._file = self._get(pointer["model"])
            assert hashlib.sha256(self._file).hexdigest() == pointer["sha256"]
            self.seen.append(pointer["version"])
        (answer,) = answers.ask_phone(self._file, [picture]).answers
        return answer

    def _get(self, name: str) -> bytes:
        answer = requests.get(f"{self._objects}{quote(name, safe='')}?alt=media", timeout=30)
        answer.raise_for_status()
        return answer.content


@contextlib.contextmanager
def asking(*apps: Callable[[], Sequence[answers.Answer]]) -> Iterator[list[answers.Answer]]:
    """Each app asks again and again while the body runs; what one of them raises is raised at its end."""
    over = threading.Event()
    said: list[answers.Answer] = []

    def ask(app: Callable[[], Sequence[answers.Answer]]) -> None:
        while not over.is_set():
            said.extend(app())
            over.wait(0.3)

    with concurrent.futures.ThreadPoolExecutor(len(apps)) as pool:
        asked = [pool.submit(ask, app) for app in apps]
        try:
            yield said
        finally:
            over.set()
            for each in asked:
                each.result()


def test_apps_are_answered_while_a_data_set_goes_to_automl_and_back(stack: Stack, tmp_path: Path) -> None:
    flowers.generate(tmp_path, train=60, held_out=30, shards=1, unseen=1)

    def trained_by(method: str, *, min_app_version: str) -> str:
        """Train the data set's two models in this way; returns the run once both are live."""
        known = set(stack.ledger.run_ids("switched"))
        training = {**SWITCHED["training"], "method": method}
        publishing = {**SWITCHED["publishing"], "min_app_version": min_app_version}
        if method == "custom":
            publishing["quantization"] = "float32"  # AutoML makes one file
        stack.configure({**SWITCHED, "training": training, "publishing": publishing})
        if known:
            stack.retrain("switched", force=True)
        else:
            upload(stack, tmp_path, "switched")
        (run,) = wait_for(lambda: set(stack.ledger.run_ids("switched")) - known, seconds=60, what=f"a run by {method}")
        for target in ("cloud", "mobile"):
            stack.wait_for_state(run, target, State.LIVE)
        return str(run)

    first = trained_by("custom", min_app_version="1.0")
    picture = unseen(tmp_path)[0]
    endpoint = stack.served("cloud", "switched")["endpoint"]
    old, new = Phone(stack, "1.0", feeds=["float32"]), Phone(stack, "2.0", feeds=["float32", "uint8"])

    def ask_cloud() -> Sequence[answers.Answer]:
        return answers.ask_cloud(endpoint, [picture], environment=stack.environment).answers

    def ask_phones() -> Sequence[answers.Answer]:
        return [phone.classify(picture) for phone in (old, new)]

    with asking(ask_cloud, ask_phones) as said:
        second = trained_by("automl", min_app_version="2.0")
        wait_for(lambda: len(new.seen) == 2, seconds=30, what="the new app to have AutoML's file")
        third = trained_by("custom", min_app_version="1.0")
        wait_for(lambda: len(new.seen) == 3 and len(old.seen) == 2, seconds=30, what="both apps to have the last file")

    assert {answer.label for answer in said} <= set(flowers.LABELS)
    assert stack.served("cloud", "switched")["endpoint"] == endpoint
    assert [version.rpartition("-")[0] for version in new.seen] == [
        each.removeprefix("switched-") for each in (first, second, third)
    ]
    assert [version.rpartition("-")[0] for version in old.seen] == [
        each.removeprefix("switched-") for each in (first, third)
    ]
