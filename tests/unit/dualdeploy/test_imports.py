"""An event that is a duplicate, a marker or not ours must not pay for Google's client libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "shared" / "src"
TESTS = Path(__file__).parents[2]

#: Heavy: 0.2 to 2 s each at import, and up to 190 MB.
HEAVY = ("google.cloud.aiplatform", "google.cloud.aiplatform_v1", "google.cloud.storage", "google.cloud.pubsub_v1")
ALSO_HEAVY = ("firebase_admin", "google.auth", "google.api_core", "grpc", "tensorflow", "numpy", "PIL")

COMPOSE = """
import json, sys
from support.fakes import callers
from dualdeploy import clock, errors, ledger, logs, outcome, settings
from dualdeploy.http import ticks
from dualdeploy.contracts import dataset_config, events, shards, training
from dualdeploy.google import firebase_ml, object_store, pubsub, vertex
from dualdeploy.http import entrypoint
from dualdeploy.ledger import due
from dualdeploy.release import api, commands, gate, operations, route, serving, worker

store = object_store.GcsObjectStore("ledger")
book = ledger.Ledger(store)
vertex.VertexGateway(project="demo", region="us-central1")
vertex.VertexGateway(project="demo", region="us-central1", emulator_host="127.0.0.1:1")
firebase_ml.FirebaseMlGateway(project="demo")
pubsub.PubSubPublisher("demo")
receiver = entrypoint.Receiver("tester", {"tick": lambda _: outcome.ignored("x")}, ledger=book, project="demo",
                               callers=callers.cloud_run_callers())

import flask
app = flask.Flask("tester")
with app.test_request_context("/events/tick", method="POST", json={"message": {"messageId": "1"}},
                              headers=callers.from_sender()):
    assert receiver(flask.request).status_code == 204

print(json.dumps([name for name in json.loads(sys.argv[1]) if name in sys.modules]))
"""


def test_composing_a_service_and_ignoring_an_event_imports_no_client_library() -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, (SOURCE, TESTS)))}
    command = [sys.executable, "-c", COMPOSE, json.dumps([*HEAVY, *ALSO_HEAVY])]

    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1]) == []
