"""A model server whose answers a test chooses: the folder in the first argument has a file for each model version.

A picture is the bytes of its label. The file says `good`, `wrong-order`, `error`, `slow`
or `error-for-users`, who send pictures that the golden set does not have; none is good.
"""

import base64
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BEHAVIOUR = Path(sys.argv[1]) / os.environ["MODEL_VERSION"]
OTHER = {"red": "blue", "blue": "red"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for an ACK

    def do_GET(self) -> None:
        self._answer(200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behaviour = BEHAVIOUR.read_text() if BEHAVIOUR.exists() else "good"
        labels = [base64.b64decode(instance["b64"]).decode() for instance in body["instances"]]
        if behaviour == "error":
            self._answer(500, {"error": "the model fell over"})
            return
        if behaviour == "error-for-users" and any(label not in OTHER for label in labels):
            self._answer(500, {"error": "only the golden pictures work"})
            return
        if behaviour == "slow":
            time.sleep(0.4)
        if behaviour == "wrong-order":
            labels = [OTHER[label] for label in labels]
        self._answer(200, {"predictions": [{"label": label, "confidence": 0.9} for label in labels]})

    def log_message(self, *arguments: object) -> None:
        """Quiet."""

    def _answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(os.environ["AIP_HTTP_PORT"])), Handler).serve_forever()
