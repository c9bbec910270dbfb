"""What each service imports, and when: a cold start is paid by every event that finds no instance."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fakes.callers import CALLER_ENVIRONMENT

REPOSITORY = Path(__file__).parents[2]
EVENT_SERVICES = ("training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher")
SERVICES = (*EVENT_SERVICES, "console", "gateway", "trainer", "predictor")

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

#: What each service reads, by the name of the class.
SETTINGS = {
    "training_launcher": "LauncherSettings",
    "job_notifier": "NotifierSettings",
    "cloud_deployer": "DeployerSettings",
    "mobile_publisher": "PublisherSettings",
}

#: Run in a process of its own: ignored events through the service's own main.py, then duplicates through its handlers
#: with the real gateways (which must not be built) and a ledger in memory.
PROGRAM = """
import base64, json, sys
import flask
import main
from support.fakes.callers import from_sender

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

import importlib, os
from dualdeploy import settings
from dualdeploy.clock import to_text, utc_now
from dualdeploy.contracts.events import Envelope
from dualdeploy.google.firebase_ml import FirebaseMlGateway
from dualdeploy.ledger import Ended, Launch, Ledger, Release, Run, Shard, Snapshot, State, names, run_id_of
from dualdeploy.google.monitoring import MonitoringGateway
from dualdeploy.google.object_store import ABSENT
from dualdeploy.google.remote_config import RemoteConfigGateway
from support.fakes import FakePublisher, MemoryObjectStore
from dualdeploy.google.automl import AutoMLGateway
from dualdeploy.google.vertex import VertexGateway

data, config, models, store = (MemoryObjectStore(name) for name in ("data", "config", "models", "ledger"))
ledger = Ledger(store)
config.put("datasets/flowers.yaml", b"{dataset: flowers, labels: [a, b]}", expect=ABSENT)
shards = []
for name in ("flowers/eval-00000-of-00001.tfrecord", "flowers/train-00000-of-00001.tfrecord"):
    data.put(name, b"", expect=ABSENT)
for summary in data.list("flowers/"):
    shards.append(
        Shard(name=summary.name, generation=summary.generation, size=summary.size, crc32c=summary.crc32c)
    )
generation = data.put("flowers/_SUCCESS", b"", expect=ABSENT)
snapshot = Snapshot(bucket="data", prefix="flowers/", shards=tuple(shards))
run_id, at = run_id_of("flowers", snapshot.digest()), "2026-11-23T12:00:00.000Z"
ledger.claim(
    Run(run_id=run_id, dataset="flowers", created_at=at, reason="", snapshot=snapshot, config={}, claim="")
)
for target in ("cloud", "mobile"):
    common = dict(run_id=run_id, dataset="flowers", target=target)
    launch = Launch(**common, state=State.TRAINED, since=at, attempt=1, job="j")
    ledger.create(names.launch(run_id, target), launch)
    ended = Ended(**common, attempt=1, at=at, outcome="succeeded", job="j", announced=True)
    ledger.create(names.ended(run_id, target, 1), ended)
    release = Release(**common, n=1, run_created_at=at, state=State.LIVE, since=at, announced=True)
    ledger.create(names.release(run_id, target, 1), release)

read = settings.load(getattr(importlib.import_module(f"{service}.settings"), sys.argv[2]), os.environ)
vertex = VertexGateway(project="demo-project", region="us-central1")
automl = AutoMLGateway(project="demo-project", region="us-central1")
given = dict(ledger=ledger, publisher=FakePublisher(), settings=read)
compose = importlib.import_module(f"{service}.service").compose
if service == "training_launcher":
    service_ = compose(**given, data=data, config=config, models=models, vertex=vertex, automl=automl)
elif service == "job_notifier":
    service_ = compose(**given, models=models, vertex=vertex, automl=automl)
elif service == "cloud_deployer":
    monitoring = MonitoringGateway(project="demo-project")
    service_ = compose(**given, config=config, models=models, vertex=vertex, monitoring=monitoring)
else:
    from dualdeploy.ledger.due import Due
    from mobile_publisher.world import World
    world = World(
        ledger=ledger, due=Due("mobile_publisher", ledger), models=models, config=config, vertex=vertex,
        firebase=FirebaseMlGateway(project="demo-project"),
        remote_config=RemoteConfigGateway(project="demo-project"), export=None, firebase_ml_ends=read.firebase_ml_ends,
        storage=None,
    )
    service_ = compose(world, publisher=given["publisher"], settings=read)

def handle(name, document):
    return service_.handlers[name](Envelope("1", json.dumps(document).encode()))

resource = {"bucket": "data", "size": "1"}
duplicates = {
    "training_launcher": [
        ("object-finalized", {**resource, "name": "flowers/train-00000-of-00001.tfrecord", "generation": "1"}),
        (
            "object-finalized",
            {**resource, "name": "flowers/_SUCCESS", "generation": str(generation), "timeCreated": to_text(utc_now())},
        ),
    ],
    "job_notifier": [
        ("training-result", {"bucket": "models", "name": f"results/{run_id}/cloud.json", "generation": "1"})
    ],
    "cloud_deployer": [
        ("training-completed", {"run_id": run_id, "dataset": "flowers", "target": "cloud", "outcome": "succeeded"})
    ],
    "mobile_publisher": [
        ("training-completed", {"run_id": run_id, "dataset": "flowers", "target": "mobile", "outcome": "succeeded"}),
        ("deployment-completed", {"run_id": run_id, "dataset": "flowers", "target": "cloud", "outcome": "live"}),
    ],
}
for name, document in duplicates[service]:
    handle(name, document)
handle("tick", {})
report["duplicate"] = loaded()
print(json.dumps(report))
"""


@functools.cache
def modules_of(service: str) -> dict[str, list[str]]:
    """Every module that is loaded after an ignored event, and after a duplicate, in a process of the service."""
    paths = [REPOSITORY / "services" / service, REPOSITORY / "shared" / "src", REPOSITORY / "tests"]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, service, SETTINGS[service]],
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
    forbidden = ("local_cloud", "tests", "pytest", "support", "google.cloud.aiplatform")
    assert faults(REPOSITORY / "services" / service, forbidden) == []


def test_the_shared_library_imports_neither_a_service_nor_the_local_cloud_nor_tests() -> None:
    forbidden = (*SERVICES, "local_cloud", "support", "google.cloud.aiplatform")
    assert faults(REPOSITORY / "shared" / "src", forbidden) == []


#: The packages of the library and what stands beside them; each may import only what stands before it.
LAYERS = ("images", "contracts", "google", "ledger", "http", "release")
#: Belong to every layer: they know nothing of what the chain does.
BESIDE = ("clock", "errors", "health", "lazily", "local_paths", "logs", "outcome", "settings")
LIBRARY = REPOSITORY / "shared" / "src" / "dualdeploy"


def parts_of_the_library(place: Path) -> list[tuple[str, str]]:
    """File, and the package or module of the library that it imports."""
    imported = ((path.relative_to(LIBRARY).as_posix(), module.split(".")) for path, module in imports_of(place))
    return [(path, parts[1]) for path, parts in imported if parts[0] == "dualdeploy" and len(parts) > 1]


@pytest.mark.parametrize("layer", LAYERS)
def test_no_import_of_the_library_climbs(layer: str) -> None:
    allowed = (*BESIDE, *LAYERS[: LAYERS.index(layer) + 1])
    assert [(path, part) for path, part in parts_of_the_library(LIBRARY / layer) if part not in allowed] == []


def test_what_belongs_to_every_layer_imports_none() -> None:
    beside = {f"{module}.py" for module in BESIDE}
    found = parts_of_the_library(LIBRARY)
    assert [(path, part) for path, part in found if path in beside and part not in BESIDE] == []


def test_every_module_of_the_library_is_in_a_layer_or_beside_them() -> None:
    assert {path.stem for path in LIBRARY.iterdir() if not path.stem.startswith("_")} == {*LAYERS, *BESIDE}


def test_contracts_need_neither_a_client_nor_a_web_framework() -> None:
    assert faults(LIBRARY / "contracts", ("google", "flask", "firebase_admin", "requests", "numpy", "tensorflow")) == []


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_sources_to_be_looked_at(service: str) -> None:
    assert list(imports_of(REPOSITORY / "services" / service))


# What pyproject.toml files say ------------------------------------------------------------------------------------


@functools.cache
def members() -> dict[str, Path]:
    """The packages of the workspace by name, each with the folder that it is imported from."""
    workspace = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["workspace"]
    files = [path for member in workspace["members"] for path in REPOSITORY.glob(f"{member}/pyproject.toml")]
    folders = {project(path.parent)["name"]: path.parent for path in files}
    return {name: folder / "src" if (folder / "src").is_dir() else folder for name, folder in folders.items()}


def project(folder: Path) -> dict[str, Any]:
    file = folder / "pyproject.toml"
    return dict(
        tomllib.loads((file if file.exists() else folder.parent / "pyproject.toml").read_text("utf-8"))["project"]
    )


def named_by(name: str) -> set[str]:
    """The distributions that a package names, with those of its extras and of the extras that it asks for."""
    table = project(members()[name])
    requirements = [*table["dependencies"], *itertools.chain(*table.get("optional-dependencies", {}).values())]
    found = {re.match(r"[\w.-]+", each)[0] for each in requirements}  # type: ignore[index]
    with_extras = {each.partition("[")[0] for each in requirements if "[" in each} & members().keys()
    return found.union(*(named_by(each) for each in with_extras))


def modules_in(name: str) -> set[str]:
    return {path.parent.name for path in members()[name].glob("*/__init__.py")}


def test_the_local_cloud_imports_nothing_of_ours_and_installs_nothing_of_ours() -> None:
    ours = set().union(*(modules_in(name) for name in members() if name != "local-cloud"))
    assert {"dualdeploy", "dualdeploy_cli", "dualdeploy_demo", *SERVICES} <= ours
    assert faults(REPOSITORY / "infra" / "local_cloud", tuple(ours)) == []
    assert named_by("local-cloud") & members().keys() == set()


# The library deliberately names nothing: what a service calls of it, the service names.
@pytest.mark.parametrize("name", sorted(members().keys() - {"dualdeploy"}))
def test_a_package_names_every_package_that_it_imports(name: str) -> None:
    named = named_by(name)
    # A laptop has one build of it, whichever is named.
    builds = {"tensorflow", "tensorflow-cpu"}
    distributions = named | builds if named & builds else named
    installed: set[str] = set()
    for each in distributions - members().keys():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed |= {str(file) for file in importlib.metadata.files(each) or ()}
    # pytest is there wherever a plug-in is loaded; of a name that is not a module its module is in the list.
    own = set().union(*(modules_in(each) for each in (named & members().keys()) | {name}))
    known = {*sys.stdlib_module_names, "pytest", *own}
    missing = set()
    for module in {module for _, module in imports_of(members()[name])}:
        path = module.replace(".", "/")
        files = {f"{path}.py", f"{path}/__init__.py"}
        is_ours = any(module.partition(".")[0] in modules_in(each) for each in members())
        is_there = is_ours or any((Path(sysconfig.get_path("purelib")) / file).exists() for file in files)
        if module.partition(".")[0] not in known and is_there and not files & installed:
            missing.add(module)
    assert missing == set()
