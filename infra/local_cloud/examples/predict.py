"""The serving container: answers with the line that was learned, on the port and the paths that Vertex AI names."""

from __future__ import annotations

import http.server
import json
import os

from google.cloud import storage

FILE = storage.Blob.from_uri(os.environ["AIP_STORAGE_URI"] + "/model.json", client=storage.Client())
MODEL = json.loads(FILE.download_as_bytes())


class Predictor(http.server.BaseHTTPRequestHandler):
    """`{"instances": [1.0, 2.0]}` → `{"predictions": […]}`."""

    def do_GET(self) -> None:  # http.server's name
        self.answer({"status": "ok"})

    def do_POST(self) -> None:  # http.server's name
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer({"predictions": [MODEL["slope"] * x + MODEL["intercept"] for x in asked["instances"]]})

    def answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["AIP_HTTP_PORT"])), Predictor).serve_forever()
