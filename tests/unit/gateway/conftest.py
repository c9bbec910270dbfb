"""gateway composed with a ledger in memory, an endpoint that answers as told, and keys of the local cloud's mint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import Ledger, names
from gateway.endpoint import Answer
from gateway.service import compose
from gateway.serving import Live
from gateway.settings import GatewaySettings
from local_cloud.app_tokens import APP, AppTokens
from local_cloud.faults import Faults
from local_cloud.identity import TokenMint
from support.fakes import MemoryObjectStore
from support.pictures import picture as picture_of

PROJECT = "demo-project"
ENDPOINT = f"projects/{PROJECT}/locations/us-central1/endpoints/flowers"
PREDICTION: Mapping[str, Any] = {
    "label": "roses",
    "confidence": 0.75,
    "probabilities": {"roses": 0.75, "tulips": 0.25},
    "run": "flowers-0123456789ab",
}


class FakeEndpoints:
    """Answers `answer`, or does what `act` does."""

    def __init__(self) -> None:
        self.asked: list[tuple[Live, bytes]] = []
        self.answer = Answer(PREDICTION, "1234567890", "3")
        self.act: Callable[[], object] = lambda: None

    def predict(self, live: Live, picture: bytes, *, seconds: float) -> Answer:
        assert 0 < seconds <= 6
        self.asked.append((live, picture))
        self.act()
        return self.answer


@dataclasses.dataclass
class World:
    store: MemoryObjectStore
    endpoints: FakeEndpoints
    tokens: AppTokens
    settings: GatewaySettings
    limit_seconds: float = 5.0

    @property
    def client(self) -> Any:
        """A new instance."""
        service = compose(
            ledger=Ledger(self.store),
            endpoints=self.endpoints,
            settings=self.settings,
            limit_seconds=self.limit_seconds,
        )
        return service.app().test_client()

    def headers(self, user: str = "", **more: str) -> dict[str, str]:
        bearer = {"Authorization": f"Bearer {self.tokens.user(user)}"} if user else {}
        return {"X-Firebase-AppCheck": self.tokens.app_check(), **bearer, **more}

    def serve(self, **changes: Any) -> None:
        current = {
            "run_id": "flowers-0123456789ab",
            "run_created_at": "2026-11-28T10:00:00Z",
            "since": "2026-11-28T11:00:00Z",
            "endpoint": ENDPOINT,
            "endpoint_dns": "1.us-central1-1.prediction.vertexai.goog",
            "deployed_model": "1234567890",
        }
        document = {"dataset": "flowers", "target": "cloud", "current": current, **changes}
        self.write(json.dumps(document).encode())

    def write(self, data: bytes) -> None:
        name = names.serving("cloud", "flowers")
        there = name in self.store.names()
        self.store.put(name, data, expect=self.store.read(name).generation if there else ABSENT)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppTokens]:
    mint = TokenMint(tmp_path_factory.mktemp("mint"))
    server = AppTokens(mint, project=PROJECT, faults=Faults()).start()
    yield server
    server.close()


@pytest.fixture
def world(tokens: AppTokens) -> World:
    settings = GatewaySettings(
        project=PROJECT,
        region="us-central1",
        ledger_bucket="ledger",
        apps=APP,
        origins="https://app.example.com",
        app_check_keys_url=tokens.variables["APP_CHECK_KEYS_URL"],
        auth_keys_url=tokens.variables["FIREBASE_AUTH_KEYS_URL"],
    )
    world = World(MemoryObjectStore(), FakeEndpoints(), tokens, settings)
    world.serve()
    return world


@pytest.fixture(scope="session")
def picture() -> bytes:
    return picture_of("red")
