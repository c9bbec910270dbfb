"""The whole local cloud, from the committed topology, in a folder of its own."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_cloud import cloud as clouds
from local_cloud.cloud import LocalCloud

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One running cloud for a module; its clock beats every 0.2 s."""
    with clouds.load(
        REPOSITORY / "infra" / "topology.json", state_dir=tmp_path_factory.mktemp("cloud"), clock_seconds=0.2
    ) as cloud:
        yield cloud


class Service:
    """An HTTP service that remembers every event it was sent and answers 204."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self._changed = threading.Condition()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with service._changed:
                    service.requests.append((self.path.partition("?")[0], dict(self.headers), body))
                    service._changed.notify_all()
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def wait_for(self, path: str, matches: Callable[[bytes], bool] = lambda _body: True) -> Any:
        """The first request to `path` whose body matches: (headers, body)."""

        def found() -> list[tuple[dict[str, str], bytes]]:
            return [(headers, body) for at, headers, body in self.requests if at == path and matches(body)]

        with self._changed:
            self._changed.wait_for(lambda: bool(found()), 8)
            assert found(), f"nothing for {path}; there came {[at for at, _, _ in self.requests]}"
            return found()[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()
