"""The service: it accepts events on two paths, and tells on a third what came."""

from __future__ import annotations

import base64
import http.server
import json
import os

seen: dict[str, list[str]] = {"data": [], "orders": []}


class Shop(http.server.BaseHTTPRequestHandler):
    """A CloudEvent of Cloud Storage, a push of Pub/Sub, or a question."""

    def do_POST(self) -> None:  # http.server's name
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/events/data"):
            seen["data"].append(body["name"])
        else:
            seen["orders"].append(base64.b64decode(body["message"]["data"]).decode())
        self.answer(204, b"")

    def do_GET(self) -> None:  # http.server's name
        self.answer(200 if self.path == "/" else 404, json.dumps(seen).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Shop).serve_forever()
