"""What each service imports, and when: a cold start is paid by every event that finds no instance."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualdeploy.testing.callers import CALLER_ENVIRONMENT

REPOSITORY = Path(__file__).parents[2]
EVENT_SERVICES = ("training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher")
SERVICES = (*EVENT_SERVICES, "trainer", "predictor")

#: What an event that leads to nothing must not pay for (seconds and tens of megabytes each).
HEAVY = (
    "google.cloud.aiplatform_v1",
    "google.cloud.aiplatform_v1beta1",
    "google.cloud.pubsub_v1",
    "google.cloud.storage",
    "google.cloud.monitoring_v3",
    "firebase_admin",
    "tensorflow",
    "numpy",
    "PIL",
    "ai_edge_litert",
)
#: What no service may import at all.
NEVER = ("google.cloud.aiplatform", "local_cloud", "pytest")

ENVIRONMENT = {
    "GOOGLE_CLOUD_PROJECT": "demo-project",
    "GOOGLE_CLOUD_REGION": "us-central1",
    "DATA_BUCKET": "data",
    "CONFIG_BUCKET": "config",
    "LEDGER_BUCKET": "ledger",
    "MODELS_BUCKET": "models",
    "TRAINER_IMAGE": "trainer@sha256:1",
    "PREDICTOR_IMAGE": "predictor@sha256:2",
    "LOG_LEVEL": "CRITICAL",
    **CALLER_ENVIRONMENT,
}

#: Run in a process of its own: ignored events through the service's own main.py, then duplicates through its handlers
#: with the real gateways (which must not be built) and a ledger in memory.
PROGRAM = """
import base64, json, sys
import flask
import main
from dualdeploy.testing.callers import from_sender

def loaded():
    return sorted(sys.modules)

def push(name, document, **attributes):
    message = {"messageId": "1", "data": base64.b64encode(json.dumps(document).encode()).decode()}
    body = json.dumps({"message": {**message, "attributes": attributes}, "subscription": "s"})
    app = getattr(main, "create_app", None)
    if app:
        response = app().test_client().post(
            f"/events/{name}", data=body, content_type="application/json", headers=from_sender()
        )
    else:
        with flask.Flask("test").test_request_context(
            f"/events/{name}", method="POST", data=body, content_type="application/json", headers=from_sender()
        ):
            response = main.on_event(flask.request)
    assert response.status_code == 204, response.get_data()

resource = {"bucket": "data", "name": "flowers/", "generation": "1", "size": "1"}
completed = {"run_id": "flowers-0123456789ab", "dataset": "flowers", "outcome": "succeeded"}
ignored = {
    "training_launcher": ("object-finalized", resource),
    "job_notifier": ("training-result", resource),
    "cloud_deployer": ("training-completed", {**completed, "target": "mobile"}),
    "mobile_publisher": ("training-completed", {**completed, "target": "cloud"}),
}
service = sys.argv[1]
push(*ignored[service])
report = {"ignored": loaded()}

import os
from dualdeploy import settings
from dualdeploy.branches import BranchWorker
from dualdeploy.clock import utc_now
from dualdeploy.events import ObjectFinalized, TrainingCompleted
from dualdeploy.firebase import FirebaseMlGateway
from dualdeploy.ledger import Ledger, Run, Shard, Snapshot, State, run_id_of
from dualdeploy.object_store import ABSENT
from dualdeploy.pubsub import PubSubPublisher
from dualdeploy.remote_config import RemoteConfigGateway
from dualdeploy.testing import MemoryObjectStore
from dualdeploy.vertex import VertexGateway

data, config, models, store = (MemoryObjectStore(name) for name in ("data", "config", "models", "ledger"))
ledger = Ledger(store)
vertex = VertexGateway(project="demo-project", region="us-central1")
publisher = PubSubPublisher("demo-project")
config.put("datasets/flowers.yaml", b"{dataset: flowers, labels: [a, b]}", expect=ABSENT)
shards = []
for name in ("flowers/eval-00000-of-00001.tfrecord", "flowers/train-00000-of-00001.tfrecord"):
    data.put(name, b"", expect=ABSENT)
for summary in data.list("flowers/"):
    shards.append(
        Shard(name=summary.name, generation=summary.generation, size=summary.size, crc32c=summary.crc32c)
    )
data.put("flowers/_SUCCESS", b"", expect=ABSENT)
snapshot = Snapshot(bucket="data", prefix="flowers/", shards=tuple(shards))
run_id = run_id_of("flowers", snapshot)
run = Run(
    run_id=run_id, dataset="flowers", created_at="2026-11-23T12:00:00.000Z", reason="", snapshot=snapshot, config={},
    claim="",
)
ledger.claim(run)
ledger.open_branches(run)
path = (State.LAUNCHING, State.TRAINING, State.TRAINED, State.GATING, State.DEPLOYING, State.LIVE)
for target in ("cloud", "mobile"):
    versioned = ledger.read_branch(run_id, target)
    for state in path:
        branch = versioned.document.moved(state, at=utc_now())
        versioned = ledger.write_branch(branch, expect=versioned.generation)
    ledger.write_branch(
        branch.changed(deployment_announced=True, training_announced=True), expect=versioned.generation
    )
    ledger.unmark_active(run_id, target)

common = dict(ledger=ledger, config=config, models=models, vertex=vertex)
if service == "training_launcher":
    from training_launcher.handler import Launcher
    from training_launcher.settings import LauncherSettings
    read = settings.load(LauncherSettings, os.environ)
    launcher = Launcher(**common, data=data, settings=read)
    for name in ("flowers/train-00000-of-00001.tfrecord", "flowers/_SUCCESS"):
        outcome = launcher.on_object_finalized(ObjectFinalized("data", name, 1, 0))
        assert outcome.kind == "already_done", outcome
    launcher.on_clock()
if service == "job_notifier":
    from job_notifier.handler import JobNotifier
    from job_notifier.settings import NotifierSettings
    read = settings.load(NotifierSettings, os.environ)
    notifier = JobNotifier(ledger=ledger, models=models, vertex=vertex, publisher=publisher, settings=read)
    outcome = notifier.on_training_result(ObjectFinalized("models", f"results/{run_id}/cloud.json", 1, 1))
    assert outcome.kind == "already_done", outcome
    notifier.on_clock()
if service in ("cloud_deployer", "mobile_publisher"):
    if service == "cloud_deployer":
        from cloud_deployer.handler import CloudDeployer
        from cloud_deployer.settings import DeployerSettings
        from dualdeploy.monitoring import MonitoringGateway
        read = settings.load(DeployerSettings, os.environ)
        deployer = CloudDeployer(**common, monitoring=MonitoringGateway(project="demo-project"), settings=read)
    else:
        from mobile_publisher.handler import MobilePublisher
        from mobile_publisher.settings import PublisherSettings
        read = settings.load(PublisherSettings, os.environ)
        firebase = FirebaseMlGateway(project="demo-project")
        template = RemoteConfigGateway(project="demo-project")
        deployer = MobilePublisher(
            ledger=ledger, config=config, firebase=firebase, remote_config=template, export=None, settings=read
        )
    target = service.split("_")[0]
    worker = BranchWorker(target, deployer.advance, ledger=ledger, publisher=publisher, lease_seconds=60)
    outcome = worker.on_training_completed(TrainingCompleted(run_id, "flowers", target, "succeeded"))
    assert outcome.message == "is live", outcome
    worker.on_clock()
report["duplicate"] = loaded()
print(json.dumps(report))
"""


@functools.cache
def modules_of(service: str) -> dict[str, list[str]]:
    """Every module that is loaded after an ignored event, and after a duplicate, in a process of the service."""
    paths = [REPOSITORY / "services" / service, REPOSITORY / "shared" / "src"]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, service],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return report


def among(modules: list[str], names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in modules]


@pytest.mark.parametrize("service", EVENT_SERVICES)
def test_an_ignored_event_imports_none_of_googles_clients_nor_numpy(service: str) -> None:
    assert among(modules_of(service)["ignored"], HEAVY) == []


@pytest.mark.parametrize("service", EVENT_SERVICES)
def test_a_duplicate_a_marker_and_an_idle_tick_import_neither_vertex_nor_firebase_nor_numpy(service: str) -> None:
    assert among(modules_of(service)["duplicate"], HEAVY) == []


@pytest.mark.parametrize("service", EVENT_SERVICES)
def test_no_service_ever_loads_the_high_level_sdk_or_the_local_cloud(service: str) -> None:
    assert among(modules_of(service)["duplicate"], NEVER) == []


# What the sources say ------------------------------------------------------------------------------------------


def imports_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every module that a source file below `folder` imports, anywhere in it, in full."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path, node.module
                yield from ((path, f"{node.module}.{alias.name}") for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def faults(folder: Path, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path, module in imports_of(folder)
        if any(is_within(module, package) for package in forbidden)
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_sibling(service: str) -> None:
    siblings = tuple(other for other in SERVICES if other != service)
    assert faults(REPOSITORY / "services" / service, siblings) == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_neither_the_local_cloud_nor_tests_nor_fakes(service: str) -> None:
    forbidden = ("local_cloud", "tests", "pytest", "dualdeploy.testing", "google.cloud.aiplatform")
    assert faults(REPOSITORY / "services" / service, forbidden) == []


def test_the_shared_library_imports_no_service_and_not_the_local_cloud() -> None:
    assert faults(REPOSITORY / "shared" / "src", (*SERVICES, "local_cloud", "google.cloud.aiplatform")) == []


def test_the_fakes_are_imported_by_no_other_part_of_the_shared_library() -> None:
    library = [
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path, module in imports_of(REPOSITORY / "shared" / "src")
        if "testing" not in path.parts and is_within(module, "dualdeploy.testing")
    ]
    assert library == []


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_sources_to_be_looked_at(service: str) -> None:
    assert list(imports_of(REPOSITORY / "services" / service))
