"""`make rollback` and `make redeploy` send what people typed, whatever quotes are in it."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
Received = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def service() -> Iterator[tuple[str, Received]]:
    """The address of a service, and the path and the body of each request that it gets."""
    received: Received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, json.loads(body)))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


@pytest.mark.parametrize("command", ["rollback", "redeploy"])
@pytest.mark.parametrize("reason", ["it sees cats", "it's broken", 'it says "cat"', r"C:\new", "a, b: {c}"])
def test_a_reason_arrives_as_it_was_typed(service: tuple[str, Received], command: str, reason: str) -> None:
    url, received = service
    told = ["make", command, "DATASET=flowers", f"URL={url}", f"REASON={reason}"]
    subprocess.run(told, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    assert received == [(f"/{command}", {"dataset": "flowers", "reason": reason})]


def test_a_run_can_be_named_and_the_data_set_must_be(
    service: tuple[str, Received],
) -> None:
    url, received = service
    told = ["make", "rollback", f"URL={url}", "TO_RUN=flowers-0123456789ab"]
    subprocess.run([*told, "DATASET=flowers"], cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    assert received[0][1] == {"dataset": "flowers", "to_run": "flowers-0123456789ab"}
    refused = subprocess.run(told, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0
    assert "Missing argument 'DATASET'" in refused.stderr
