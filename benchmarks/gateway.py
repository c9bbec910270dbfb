"""What the gateway adds to a prediction, beside a direct call of the same endpoint; and ten times a user's quota.

The local cloud serves a stub that answers at once, so that nothing but the ways differs. The ways take turns: one
request through the gateway, one directly to the endpoint, over kept-alive connections. Then one user asks ten times as
fast as the quota allows: how much is let through, and how long a refusal takes.

    python -m benchmarks.gateway [--requests 400]
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from benchmarks.report import Row, append_rows
from benchmarks.validator import jpeg
from dualdeploy.google.vertex import Deployment, ModelSpec, VertexGateway
from dualdeploy_demo.stack import Stack
from local_cloud import topology as topologies
from local_cloud.cloud import LocalCloud

ROOT = Path(__file__).resolve().parent.parent
PROJECT, REGION = "demo-dualdeploy", "us-central1"
#: On an idle machine; the figure of a busy one says more about it.
GOAL_MORE_MS = 15.0
PER_SECOND, BURST, TIMES, SECONDS = 5.0, 20, 10, 6.0

PREDICTOR = """
import http.server, json, os
ANSWER = json.dumps({"predictions": [{"label": "red", "confidence": 1.0, "run": "r"}]}).encode()
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["AIP_HTTP_PORT"])), Handler).serve_forever()
"""
#: As large as a picture that was resized for the model, twice over.
PICTURE = jpeg(random.Random(0), 20_000)


@dataclasses.dataclass
class Way:
    """A kept connection, and what is sent over it."""

    url: str
    body: bytes
    headers: dict[str, str]
    session: requests.Session = dataclasses.field(default_factory=requests.Session)

    def ask(self) -> tuple[float, requests.Response]:
        began = time.perf_counter()
        answer = self.session.post(self.url, data=self.body, headers=self.headers, timeout=20)
        return time.perf_counter() - began, answer


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both, print them, and write the rows of the report."""
    parser = argparse.ArgumentParser(prog="benchmarks.gateway")
    parser.add_argument("--requests", type=int, default=400)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        described = topologies.load(ROOT / "infra" / "topology.json", project=PROJECT, region=REGION)
        stub = topologies.Image("predictor", scratch, (sys.executable, "-c", PREDICTOR))
        described = dataclasses.replace(described, images={**described.images, "predictor": stub})
        with LocalCloud(described, state_dir=folder / "cloud", clock_seconds=3600) as cloud:
            stack = Stack(cloud, repository=ROOT, log_folder=folder)
            try:
                endpoint = _deploy(cloud)
                wide = {"USER_PER_SECOND": "1000", "USER_BURST": "100000", "USER_PER_DAY": "1000000"}
                stack.deploy("gateway", **wide, APP_PER_SECOND="1000")
                rows = _beside_a_direct_call(cloud, stack, endpoint, options.requests)
                stack.deploy("gateway", USER_PER_SECOND=str(PER_SECOND), USER_BURST=str(BURST))
                rows += _ten_times_the_quota(cloud, stack)
            finally:
                stack.close()
    append_rows(rows)


def _through(cloud: LocalCloud, stack: Stack) -> Way:
    headers = {"X-Firebase-AppCheck": cloud.app_tokens.app_check(), "Content-Type": "image/jpeg"}
    return Way(f"http://{stack.services['gateway'].address}/predict/flowers", PICTURE, headers)


def _beside_a_direct_call(cloud: LocalCloud, stack: Stack, endpoint: str, count: int) -> list[Row]:
    body = json.dumps({"instances": [{"b64": base64.b64encode(PICTURE).decode()}]}).encode()
    url = f"http://{cloud.environment()['VERTEX_EMULATOR_HOST']}/v1/{endpoint}:predict"
    ways = [_through(cloud, stack), Way(url, body, {"Content-Type": "application/json"})]
    seconds: list[list[float]] = [[], []]
    for number in range(count + 20):
        for way, taken in zip(ways, seconds, strict=True):
            took, answer = way.ask()
            assert answer.status_code == 200, answer.text
            if number >= 20:  # the first ones build connections
                taken.append(took)
    through, direct = (statistics.median(each) * 1000 for each in seconds)
    how = f"{count} requests each way, in turns, one at a time; the endpoint is a stub of the local cloud"
    return [
        Row("gateway: p50 of a prediction through it", through, "ms", direct, None, how),
        Row("gateway: what it adds to a direct call, p50", through - direct, "ms", None, GOAL_MORE_MS, how),
    ]


def _ten_times_the_quota(cloud: LocalCloud, stack: Stack) -> list[Row]:
    way = _through(cloud, stack)
    began, statuses, refused = time.perf_counter(), [], []
    while (elapsed := time.perf_counter() - began) < SECONDS:
        took, answer = way.ask()
        statuses.append(answer.status_code)
        if answer.status_code == 429:
            refused.append(took)
            assert int(answer.headers["Retry-After"]) >= 1
        time.sleep(max(0.0, len(statuses) / (PER_SECOND * TIMES) - elapsed))
    assert set(statuses) <= {200, 429}, statuses
    allowed = BURST + PER_SECOND * SECONDS
    how = f"one user asks {PER_SECOND * TIMES:g} times a second for {SECONDS:g} s: {len(statuses)} requests"
    answered = float(statuses.count(200))
    return [
        Row("gateway: answered at ten times a user's quota", answered, "requests", allowed, 1.1, how),
        Row("gateway: p50 of a refusal", statistics.median(refused) * 1000, "ms", None, None, how),
    ]


def _deploy(cloud: LocalCloud) -> str:
    given = cloud.environment()
    vertex = VertexGateway(project=PROJECT, region=REGION, emulator_host=given["VERTEX_EMULATOR_HOST"])

    def finish(operation: str) -> None:
        while not (found := vertex.operation(operation)) or not found.done:
            time.sleep(0.05)
        assert not found.error, found.error

    def put(bucket: str, name: str, data: bytes) -> None:
        address = f"{given['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/{PROJECT}-{bucket}/o"
        requests.post(address, params={"uploadType": "media", "name": name}, data=data, timeout=5).raise_for_status()

    put("models", "m/saved_model.pb", b"model")
    finish(vertex.start_create_endpoint("flowers", display_name="flowers", labels={}))
    image = f"us-docker.pkg.dev/{PROJECT}/images/predictor:1"
    spec = ModelSpec("m", "m", f"gs://{PROJECT}-models/m", image, "/predict", "/", 8080, {}, {}, ["alias"])
    finish(vertex.start_upload(spec))
    version = vertex.find_model_version("m", "alias")
    found: Any = vertex.find_endpoint("flowers")
    assert version
    deployment = Deployment("1", version.versioned_name, "d", "n1-standard-4", 1, 1)
    finish(vertex.start_deploy("flowers", deployment, traffic={"1": 100}))
    current = {"run_id": "r", "run_created_at": "", "since": "", "endpoint": found.name, "deployed_model": "1"}
    serving = {"dataset": "flowers", "target": "cloud", "current": current}
    put("ledger", "serving/cloud/flowers.json", json.dumps(serving).encode())
    return str(found.name)


if __name__ == "__main__":
    main()
