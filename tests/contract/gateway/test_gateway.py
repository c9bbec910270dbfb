"""gateway as its own process and account at the local cloud: from a debug token to the answer of a deployed model."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import firebase_admin
import pytest
import requests
from firebase_admin import app_check, credentials
from google.auth.credentials import AnonymousCredentials

from dualdeploy.google.vertex import Deployment, ModelSpec, VertexGateway
from dualdeploy_demo.stack import Stack
from local_cloud import topology as topologies
from local_cloud.cloud import LocalCloud
from support.accounts import PROJECT, REGION
from support.pictures import picture

REPOSITORY = Path(__file__).resolve().parents[3]
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
            time.sleep(8)
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
        image = f"us-docker.pkg.dev/{PROJECT}/images/predictor:1"
        spec = ModelSpec(
            "m",
            "m",
            f"gs://{PROJECT}-models/m",
            image,
            "/predict",
            "/",
            8080,
            {"MODEL_VERSION": RUN},
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
        version = self.vertex.find_model_version("m", "alias")
        assert version
        deployment = Deployment("1", version.versioned_name, "d", "n1-standard-4", 1, 1)
        self.finish(self.vertex.start_deploy("flowers", deployment, traffic={"1": 100}))
        found = self.vertex.find_endpoint("flowers")
        assert found
        return found.name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("gateway")
    described = topologies.load(REPOSITORY / "infra" / "topology.json", project=PROJECT, region=REGION)
    stub = topologies.Image("predictor", str(folder), ("python", "-c", PREDICTOR))
    described = dataclasses.replace(described, images={**described.images, "predictor": stub})
    with LocalCloud(described, state_dir=folder / "cloud", clock_seconds=3600) as cloud:
        stack = Stack(cloud, repository=REPOSITORY, log_folder=folder)
        try:
            # One user of one address asks as often as this file likes.
            stack.deploy("gateway", USER_BURST="500", ALLOWED_ORIGINS="https://app.example.com")
            yield World(cloud, stack)
        finally:
            stack.close()


def test_an_app_with_only_a_token_is_answered_once_a_model_serves(world: World) -> None:
    began = time.monotonic()
    waits = world.ask(picture("red"))
    assert (waits.status_code, waits.json()["reason"]) == (503, "nothing_serves")
    assert int(waits.headers["Retry-After"]) > 0
    assert time.monotonic() - began < 6
    world.record(world.deploy())
    # It looks again after a minute; a new instance at once.
    world.stack.deploy("gateway", USER_BURST="500", ALLOWED_ORIGINS="https://app.example.com")
    answer = world.ask(picture("red"), **{"X-Phone-Label": "red"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] == "red"
    assert (answer.json()["run"], answer.json()["modelVersion"]) == (RUN, "1")
    # With its own account it needed two grants, and nothing was refused.
    assert [each for each in world.cloud.iam.refusals() if "gateway" in each.member] == []
    needed = {(each.role, each.resource) for each in world.cloud.iam.needed() if "gateway" in each.member}
    assert {role.rsplit("/", 1)[-1] for role, _ in needed} == {"dualdeploy_gateway", "storage.objectViewer"}


def test_an_endpoint_that_is_slow_or_refuses_is_told_within_six_seconds(world: World) -> None:
    began = time.monotonic()
    slow = world.ask(picture("lime"))
    assert (slow.status_code, slow.json()["reason"]) == (504, "slow")
    assert time.monotonic() - began < 6
    for fault in ("return-503", "return-429", "reset-connection"):
        with world.cloud.faults.plan({"aiplatform.endpoints.predict": [fault]}):
            down = world.ask(picture("red"))
        assert (down.status_code, down.json()["reason"]) == (503, "endpoint")
        assert int(down.headers["Retry-After"]) > 0
    assert world.ask(picture("red")).status_code == 200


def test_another_debug_token_attests_nothing(world: World) -> None:
    refused = world.token("11111111-0000-4000-8000-000000000000")
    assert (refused.status_code, refused.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


def test_firebase_itself_takes_the_tokens_that_the_local_cloud_gives_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google's own check, at the address of the keys, for which it has no setting."""

    class Nobody(credentials.Base):  # type: ignore[misc]  # it has no types
        def get_credential(self) -> AnonymousCredentials:
            return AnonymousCredentials()

    given = world.cloud.environment()
    monkeypatch.setattr(app_check._AppCheckService, "_JWKS_URL", given["APP_CHECK_KEYS_URL"])
    app = firebase_admin.initialize_app(Nobody(), {"projectId": PROJECT}, name="judge")
    try:
        claims = app_check.verify_token(world.token().json()["token"], app)
    finally:
        firebase_admin.delete_app(app)
    assert claims["app_id"] == given["APP_CHECK_APP"]


def test_a_page_of_a_listed_origin_may_ask(world: World) -> None:
    answer = requests.options(
        f"{world.url}/predict/flowers",
        headers={"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"},
        timeout=5,
    )
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (204, "https://app.example.com")
