"""A staged rollout through everything that `make up` starts, from shards to phones; only the training is a toy.

At Google's pace: one write of an object a second, ten seconds for an answer and between deliveries.
The tests run in the order in which they stand and share one stack. Phones know HTTP, addresses and a name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from PIL import Image

from dualdeploy.errors import UnknownRun
from dualdeploy.google.object_store import GcsObjectStore
from dualdeploy.images import tfrecord
from dualdeploy.ledger import Ledger, State
from dualdeploy.ledger.standing import Standing, standing
from dualdeploy_demo.stack import Stack
from local_cloud import topology as topologies
from local_cloud.cloud import LocalCloud
from local_cloud.iam.bindings import Bindings, grants
from support import on_phone
from support.accounts import PROJECT, REGION

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

REPOSITORY = Path(__file__).parents[3]
TOY_TRAINER = Path(__file__).parent / "toy_trainer"
LABELS = ("red", "green", "blue")
KEY = "dualdeploy_flowers_version"
INSTALLATIONS = [f"installation-{number}" for number in range(300)]
#: Longer than it takes to look at every phone; the next share must not come in the middle of a look.
BAKE_SECONDS = 8
CONFIG = {
    "dataset": "flowers",
    "labels": list(LABELS),
    "data": {"quiet_period": "1s"},
    "publishing": {"quantization": "float32", "rollout": {"steps": [10, 50, 100], "bake": f"{BAKE_SECONDS}s"}},
}


class Project:
    """The running stack, and what one can do to it and see of it from outside."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.environment = stack.environment()
        self._client = storage.Client(project=PROJECT, credentials=AnonymousCredentials())
        self.ledger = Ledger(GcsObjectStore(self.environment["LEDGER_BUCKET"], client=lambda: self._client))
        self._phones = requests.Session()

    def close(self) -> None:
        self._phones.close()

    def upload(self, bucket: str, name: str, data: bytes) -> None:
        self._client.bucket(self.environment[bucket]).blob(name).upload_from_string(data)

    def train(self, edition: int) -> str:
        """Drop shards that nobody has seen; returns the run that comes of them."""
        known = set(self.ledger.run_ids("flowers"))
        for split in ("train", "eval"):
            self.upload("DATA_BUCKET", f"flowers/{split}-00000-of-00001.tfrecord", shard(edition, split == "eval"))
        (run_id,) = wait_for(lambda: set(self.ledger.run_ids("flowers")) - known, what="a new run")
        return str(run_id)

    def standing(self, run_id: str, target: str = "mobile") -> Standing | None:
        with contextlib.suppress(UnknownRun):
            return standing(self.ledger, run_id, target)
        return None

    def wait(self, run_id: str, state: State, *, release: int = 1) -> Standing:
        def reached() -> Standing | None:
            found = self.standing(run_id)
            if found is None or found.release < release:
                return None
            assert found.state == state or not found.is_over, found.reason
            return found if found.state == state else None

        found: Standing = wait_for(reached, what=f"{run_id} to be {state}")
        return found

    def post(self, command: str, **body: str) -> None:
        address = self.environment["MOBILE_PUBLISHER_URL"]
        requests.post(f"{address}/{command}", json=body, timeout=30).raise_for_status()

    # What phones do

    def get(self, name: str) -> bytes:
        address, bucket = self.environment["STORAGE_EMULATOR_HOST"], self.environment["FIREBASE_STORAGE_BUCKET"]
        answer = self._phones.get(f"{address}/v0/b/{bucket}/o/{quote(name, safe='')}?alt=media", timeout=10)
        answer.raise_for_status()
        return answer.content

    def told(self, installation: str) -> str:
        """The version that Remote Config gives an installation; empty for "as the pointer says"."""
        host = self.environment["REMOTE_CONFIG_EMULATOR_HOST"]
        url = f"http://{host}/v1/projects/{PROJECT}/namespaces/firebase:fetch"
        answer = self._phones.post(url, json={"appInstanceId": installation}, timeout=10)
        answer.raise_for_status()
        return str(answer.json().get("entries", {}).get(KEY, ""))

    def expression(self) -> str:
        """The condition of the rollout under way, as the app team sees it in the template; empty without one."""
        host = self.environment["REMOTE_CONFIG_EMULATOR_HOST"]
        template = self._phones.get(f"http://{host}/v1/projects/{PROJECT}/remoteConfig", timeout=10).json()
        return "".join(condition["expression"] for condition in template.get("conditions", []))

    def look_at(self, share: int) -> dict[str, str]:
        """What phones have while the rollout is at `share` percent."""
        wait_for(lambda: self.expression().endswith(f"<= {share}"), what=f"{share} % of the installations")
        seen = self.look()
        assert self.expression().endswith(f"<= {share}"), "the next share came in the middle of the look"
        return seen

    def look(self) -> dict[str, str]:
        """Which version each installation has now; every version that is seen is a whole file that classifies."""
        pointer = str(json.loads(self.get("models/flowers/latest.json"))["version"])
        seen = {each: self.told(each) or pointer for each in INSTALLATIONS}
        for version in set(seen.values()):
            manifest = json.loads(self.get(f"models/flowers/{version}/manifest.json"))
            model = self.get(f"models/flowers/{version}/model.tflite")
            assert hashlib.sha256(model).hexdigest() == manifest["sha256"]
            assert on_phone.classify(model, (0, 0, 255)) == "blue"
        return seen


def shard(edition: int, is_held_out: bool) -> bytes:
    """Twelve pictures, each of about one colour; another edition has other shades."""
    out = io.BytesIO()
    records = []
    for number in range(12):
        label = number % len(LABELS)
        colour = [4 * edition + number] * 3
        colour[label] = 255 - number - 20 * is_held_out
        picture = io.BytesIO()
        Image.new("RGB", (8, 8), tuple(colour)).save(picture, "PNG")
        records.append(tfrecord.encode_example({"image": [picture.getvalue()], "class": [label]}))
    tfrecord.write_records(out, records)
    return out.getvalue()


def wait_for(look: Callable[[], Any], *, what: str, seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:g} s for {what}")


def has(seen: Mapping[str, str], run_id: str) -> set[str]:
    return {each for each, version in seen.items() if version.startswith(run_id.removeprefix("flowers-"))}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("stack")
    make_model = [sys.executable, "tests/fixtures/make_tiny_tflite.py", "saved-model", str(folder / "model")]
    subprocess.run(make_model, cwd=REPOSITORY, check=True, timeout=120)
    described = topologies.load(REPOSITORY / "infra" / "topology.json", project=PROJECT, region=REGION)
    trainer = topologies.Image("trainer", str(TOY_TRAINER), ("python", "job.py", str(folder / "model")))
    toys = dataclasses.replace(described, images={**described.images, "trainer": trainer})
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as opened:
        # A publisher that is killed while it holds the lease keeps nobody waiting for ten minutes.
        patch.setenv("LEASE_SECONDS", "60")
        cloud = LocalCloud(toys, state_dir=folder / "state", clock_seconds=0.5, realistic=True)
        stack = Stack(cloud, repository=REPOSITORY, log_folder=folder / "logs")
        opened.callback(stack.close)
        stack.start()
        patch.setenv("STORAGE_EMULATOR_HOST", stack.environment()["STORAGE_EMULATOR_HOST"])
        project = Project(stack)
        opened.callback(project.close)
        project.upload("CONFIG_BUCKET", "datasets/flowers.yaml", json.dumps(CONFIG).encode())
        yield project


@pytest.fixture(scope="module")
def first(project: Project) -> str:
    return project.train(1)


@pytest.fixture(scope="module")
def second(project: Project, first: str) -> str:
    project.wait(first, State.LIVE)
    return project.train(2)


def test_the_first_version_is_everyones_at_once(project: Project, first: str) -> None:
    project.wait(first, State.LIVE)
    assert has(project.look(), first) == set(INSTALLATIONS)
    # The cloud model failed meanwhile, which is no matter of the phones'.
    assert project.standing(first, "cloud").state == State.FAILED


def test_a_second_version_reaches_a_tenth_then_half_then_all_although_the_publisher_is_killed(
    project: Project, first: str, second: str
) -> None:
    everybody = set(INSTALLATIONS)
    begun = project.wait(second, State.CANARY)
    assert begun.facts["rollout"]["shares"] == [10, 50, 100]
    tenth = project.look_at(10)
    project.stack.services["mobile_publisher"].kill()
    assert has(tenth, first) == everybody - has(tenth, second)
    assert 3 <= len(has(tenth, second)) * 100 / len(everybody) <= 17
    half = project.look_at(50)
    assert has(half, first) == everybody - has(half, second)
    assert 42 <= len(has(half, second)) * 100 / len(everybody) <= 58
    assert has(tenth, second) < has(half, second)

    live = project.wait(second, State.LIVE)
    assert [step["share"] for step in live.facts["rollout"]["passed"]] == [10, 50]
    assert has(project.look(), second) == everybody


def test_one_call_brings_every_phone_back(project: Project, first: str, second: str) -> None:
    project.post("rollback", dataset="flowers", reason="worse in the field")
    project.wait(first, State.LIVE, release=2)
    assert has(project.look(), first) == set(INSTALLATIONS)
    assert project.standing(second).state == State.ROLLED_BACK


def test_nothing_was_lost_on_the_way(project: Project) -> None:
    names = [blob.name for blob in project._client.list_blobs(project.environment["LEDGER_BUCKET"], prefix="rejected/")]
    assert names == []


def test_no_service_was_refused_anything_or_has_what_it_did_not_need(project: Project) -> None:
    """Why tests/contract/permissions may tell its stories without services: these are the calls that services make."""
    iam, topology = project.stack.cloud.iam, project.stack.cloud.topology
    assert iam.refusals() == []
    needed = iam.needed()
    loaded = Bindings.load(REPOSITORY / "infra" / "bindings.json").bindings
    bindings = [each for each in loaded if each.variable != "automl"]
    idle = {each.name for each in bindings if needed.isdisjoint(grants(each, topology))}
    # The toy has no cloud model and nothing that AutoML trains, reads no data, leaves what an earlier attempt left.
    own = ("training-launcher", "job-notifier", "mobile-publisher")
    callers = {f"{service.replace('_', '-')}-caller" for service in topology.services}
    assert idle & {each.name for each in bindings if each.account in {*own, *callers}} == {
        # Firebase ML is not among the data set's channels.
        "mobile-publisher: roles/firebaseml.admin on project",
        "mobile-publisher: roles/iam.serviceAccountTokenCreator on account mobile-publisher",
    }
