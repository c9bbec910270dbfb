"""A model server by Vertex AI's contract of custom containers, for a function from a picture to numbers."""

from __future__ import annotations

import base64
import http.server
import json
import os
from collections.abc import Callable, Sequence


def serve(classify: Callable[[bytes], Sequence[float]]) -> None:
    """Answer predictions until the process ends; what `classify` raises is the picture's fault."""
    health, predict = os.environ["AIP_HEALTH_ROUTE"], os.environ["AIP_PREDICT_ROUTE"]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for an ACK

        def do_GET(self) -> None:
            self._answer(200 if self.path == health else 404, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != predict:
                self._answer(404, {"error": "no such route"})
                return
            try:
                pictures = [base64.b64decode(each["content"]) for each in body["instances"]]
                self._answer(200, {"predictions": [list(classify(picture)) for picture in pictures]})
            except Exception as error:  # noqa: BLE001  # whatever a decoder raises
                self._answer(400, {"error": f"{type(error).__name__}: {error}"})

        def log_message(self, *_arguments: object) -> None:
            """Quiet."""

        def _answer(self, status: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["AIP_HTTP_PORT"])), Handler).serve_forever()
