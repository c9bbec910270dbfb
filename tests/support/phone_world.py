"""Where an app goes, on one port of this machine: what phones download, App Check, and a gateway with a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flask

from dualdeploy.google.object_store import ABSENT
from support.console_world import NEW, World
from support.fakes import MemoryObjectStore
from support.pictures import b64, picture

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
LABELS = ("red", "green", "blue")
APP, DEBUG_TOKEN = "1:123:web:abc", "a-debug-token"
#: The two files: what the second one is sure of, a grey picture, the first one cannot tell.
FILES = {"first": "tiny_float32.tflite", "second": "tiny_channels_float32.tflite"}
PX = 8


@dataclasses.dataclass
class Outside:
    """What an app reaches; `answer` is what the cloud model says, and may be replaced. Remembers what was asked."""

    bucket: str = "mobile"
    answer: Callable[[], Any] = lambda: {"label": "green", "confidence": 0.9, "run": NEW, "modelVersion": "3"}
    asked: list[tuple[bytes, Mapping[str, str]]] = dataclasses.field(default_factory=list)
    tokens: int = 0
    phones: MemoryObjectStore = dataclasses.field(default_factory=MemoryObjectStore)
    #: For as long as it is not set, the cloud model does not answer.
    may_answer: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    @property
    def app(self) -> flask.Flask:
        app = flask.Flask("outside")
        app.add_url_rule("/v0/b/<bucket>/o/<path:name>", view_func=self._download)
        app.add_url_rule(
            "/v1/projects/<project>/apps/<app>:exchangeDebugToken", view_func=self._exchange, methods=["POST"]
        )
        app.add_url_rule("/predict/<dataset>", view_func=self._predict, methods=["POST"])
        return app

    def _download(self, bucket: str, name: str) -> Any:
        if bucket != self.bucket or name not in self.phones.names():
            return {"error": {"code": 404, "message": "Not Found."}}, 404
        return flask.Response(self.phones.read(name).data, mimetype="application/octet-stream")

    def _exchange(self, project: str, app: str) -> Any:
        if app != APP or flask.request.get_json()["debugToken"] != DEBUG_TOKEN:
            return {"error": {"code": 403, "status": "PERMISSION_DENIED"}}, 403
        self.tokens += 1
        return {"token": f"token-{self.tokens}", "ttl": "3600s"}

    def _predict(self, dataset: str) -> Any:
        self.asked.append((flask.request.get_data(), dict(flask.request.headers)))
        self.may_answer.wait(10)
        return self.answer()

    def publish(self, version: str, *, threshold: float = 0.5, damaged: bool = False) -> None:
        """Point phones at one of `FILES`, with a threshold for it."""
        data = (FIXTURES / FILES[version]).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        folder = f"models/flowers/{version}"
        manifest = {"version": version, "sha256": digest, "labels": LABELS, "variant": "float32", "accuracy": 0.76}
        self._put(f"{folder}/model.tflite", data[:-1] if damaged else data)
        self._put(f"{folder}/manifest.json", manifest)
        self._put(f"models/flowers/routing/{version}.json", routing(version, digest, threshold))
        self._put("models/flowers/latest.json", {"version": version, "sha256": digest, "size": len(data)})

    def _put(self, name: str, document: Any) -> None:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        there = name in self.phones.names()
        self.phones.put(name, data, expect=self.phones.read(name).generation if there else ABSENT)


def routing(version: str, digest: str, threshold: float) -> dict[str, Any]:
    """The published object: see dualdeploy.contracts.routing."""
    return {
        "phone": {"run_id": NEW, "version": version, "sha256": digest},
        "cloud": {"run_id": NEW, "input": {"px": PX}},
        "mode": "prefer_on_device",
        "threshold": threshold,
        "ask_about": [],
        "share": 0.41,
        "accuracy": 0.815,
    }


def connected(world: World, outside: Outside, address: str) -> None:
    """The console's settings for what is reached at this address, and held-out pictures of the phones' run."""
    world.settings = dataclasses.replace(
        world.settings,
        firebase_storage_url=address,
        firebase_storage_bucket=outside.bucket,
        gateway_url=address,
        app_check_app=APP,
        app_check_debug_token=DEBUG_TOKEN,
        app_check_emulator_host=address.removeprefix("http://"),
    )
    with_held_out_pictures(world)


def with_held_out_pictures(world: World) -> None:
    """What a trainer leaves: two red pictures, one of each other colour."""
    golden = f"runs/{NEW}/mobile/golden.json"
    examples = [{"image_bytes": b64(picture(each)), "label": each} for each in ("red", "red", "lime", "blue")]
    for each in examples:
        each["label"] = "green" if each["label"] == "lime" else each["label"]
    artifacts = {"saved_model": "s", "pixels_model": "p", "golden": world.models.uri(golden), "labels": "l"}
    result = {
        "run_id": NEW,
        "dataset": "flowers",
        "target": "mobile",
        "finished_at": "2026-11-27T10:00:00Z",
        "architecture": "a",
        "image_size": PX,
        "labels": LABELS,
        "artifacts": artifacts,
        "metrics": {"accuracy": 0.76, "loss": 1.0, "examples": 4},
        "data": {"train_examples": 1, "eval_examples": 4},
    }
    for name, document in ((golden, {"v": 1, "examples": examples}), (f"results/{NEW}/mobile.json", result)):
        world.models.put(name, json.dumps(document).encode(), expect=ABSENT)
