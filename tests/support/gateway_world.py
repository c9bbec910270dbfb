"""gateway as its own process and account at the local cloud, which runs a stub where a model would be."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from dualdeploy.google.vertex import Deployment, ModelSpec, VertexGateway
from dualdeploy_demo.stack import Stack
from local_cloud import topology as topologies
from local_cloud.cloud import LocalCloud
from support.accounts import PROJECT, REGION

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = "flowers-0123456789ab"
#: A serving container that is healthy at once, and slow when it is shown green.
PREDICTOR = """
import base64, http.server, io, json, os, time
from PIL import Image
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        colour = Image.open(io.BytesIO(base64.b64decode(body["instances"][0]["b64"]))).getpixel((0, 0))
        if colour[1] > 200:
            time.sleep(30)
        run = os.environ["MODEL_VERSION"]
        prediction = {"label": "red", "confidence": 1.0, "probabilities": {"red": 1.0}, "run": run}
        answer = json.dumps({"predictions": [prediction]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["AIP_HTTP_PORT"])), Handler).serve_forever()
"""


@dataclasses.dataclass
class World:
    cloud: LocalCloud
    stack: Stack

    @property
    def url(self) -> str:
        return f"http://{self.stack.services['gateway'].address}"

    @property
    def vertex(self) -> VertexGateway:
        return VertexGateway(
            project=PROJECT,
            region=REGION,
            emulator_host=self.cloud.environment()["VERTEX_EMULATOR_HOST"],
        )

    def token(self, debug_token: str = "") -> requests.Response:
        given = self.cloud.environment()
        exchange = f"projects/{PROJECT}/apps/{given['APP_CHECK_APP']}:exchangeDebugToken"
        body = {"debugToken": debug_token or given["APP_CHECK_DEBUG_TOKEN"]}
        return requests.post(f"http://{given['APP_CHECK_EMULATOR_HOST']}/v1/{exchange}", json=body, timeout=5)

    def ask(self, data: bytes, **headers: str) -> requests.Response:
        token = {"X-Firebase-AppCheck": self.token().json()["token"]}
        return requests.post(f"{self.url}/predict/flowers", data=data, headers={**token, **headers}, timeout=20)

    def record(self, endpoint: str) -> None:
        """What cloud_deployer writes when a release is live."""
        current = {"run_id": RUN, "run_created_at": "", "since": "", "endpoint": endpoint, "deployed_model": "1"}
        self.write({"dataset": "flowers", "target": "cloud", "current": current})

    def write(self, document: dict[str, Any]) -> None:
        address = self.cloud.environment()["STORAGE_EMULATOR_HOST"]
        requests.post(
            f"{address}/upload/storage/v1/b/{PROJECT}-ledger/o",
            params={"uploadType": "media", "name": "serving/cloud/flowers.json"},
            data=json.dumps(document).encode(),
            timeout=5,
        ).raise_for_status()

    def finish(self, operation: str) -> None:
        deadline = time.monotonic() + 30
        while not (found := self.vertex.operation(operation)) or not found.done:
            assert time.monotonic() < deadline, operation
            time.sleep(0.05)
        assert not found.error

    def deploy(self) -> str:
        """A model behind an endpoint; returns the endpoint's name."""
        self.finish(self.vertex.start_create_endpoint("flowers", display_name="flowers", labels={}))
        self.add("1", RUN, {"1": 100})
        found = self.vertex.find_endpoint("flowers")
        assert found
        return found.name

    def add(self, deployed: str, run: str, traffic: Mapping[str, int]) -> None:
        """A model of this run, under this name on the endpoint, which from then on has this traffic."""
        image = f"us-docker.pkg.dev/{PROJECT}/images/predictor:1"
        model = f"m{deployed}"
        spec = ModelSpec(
            model,
            model,
            f"gs://{PROJECT}-models/m",
            image,
            "/predict",
            "/",
            8080,
            {"MODEL_VERSION": run},
            {},
            ["alias"],
        )
        requests.post(
            f"{self.cloud.environment()['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/{PROJECT}-models/o",
            params={"uploadType": "media", "name": "m/saved_model.pb"},
            data=b"model",
            timeout=5,
        ).raise_for_status()
        self.finish(self.vertex.start_upload(spec))
        version = self.vertex.find_model_version(model, "alias")
        assert version
        deployment = Deployment(deployed, version.versioned_name, "d", "n1-standard-4", 1, 1)
        self.finish(self.vertex.start_deploy("flowers", deployment, traffic=traffic))

    def shift(self, traffic: Mapping[str, int]) -> None:
        endpoint = self.vertex.find_endpoint("flowers")
        assert endpoint
        self.vertex.set_traffic(endpoint, traffic)


#: One address asks as often as a test likes.
PLENTY = {"USER_PER_SECOND": "1000", "USER_BURST": "10000", "APP_PER_SECOND": "1000"}
ORIGIN = "https://app.example.com"


@contextlib.contextmanager
def gateway_world(folder: Path) -> Iterator[World]:
    """A local cloud with a gateway, and nothing that serves."""
    described = topologies.load(REPOSITORY / "infra" / "topology.json", project=PROJECT, region=REGION)
    stub = topologies.Image("predictor", str(folder), ("python", "-c", PREDICTOR))
    described = dataclasses.replace(described, images={**described.images, "predictor": stub})
    with LocalCloud(described, state_dir=folder / "cloud", clock_seconds=3600) as cloud:
        stack = Stack(cloud, repository=REPOSITORY, log_folder=folder)
        try:
            stack.deploy("gateway", **PLENTY, ALLOWED_ORIGINS=ORIGIN)
            yield World(cloud, stack)
        finally:
            stack.close()
