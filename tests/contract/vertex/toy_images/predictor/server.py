"""A model server that keeps Vertex AI's custom container contract and answers what it is told to."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for an ACK

    def do_GET(self) -> None:
        is_health = self.path == os.environ["AIP_HEALTH_ROUTE"]
        self._answer(200 if is_health and os.environ.get("HEALTH") != "never" else 503, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        instances = body.get("instances", [])
        if self.path != os.environ["AIP_PREDICT_ROUTE"]:
            self._answer(404, {"error": "no such route"})
        elif instances == ["die"]:
            os._exit(3)
        elif instances and isinstance(instances[0], dict) and "status" in instances[0]:
            self._answer(int(instances[0]["status"]), {"error": "as told"})
        else:
            names = ("MODEL_LABEL", "AIP_STORAGE_URI", "AIP_DEPLOYED_MODEL_ID", "AIP_ENDPOINT_ID")
            told = {name: os.environ.get(name, "") for name in names}
            self._answer(200, {"predictions": [{**told, "instance": instance} for instance in instances]})

    def log_message(self, *arguments: object) -> None:
        """Quiet."""

    def _answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if os.environ.get("HEALTH") == "crash":
    print("no weights found", file=sys.stderr)
    sys.exit(4)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["AIP_HTTP_PORT"])), Handler).serve_forever()
