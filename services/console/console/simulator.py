"""An app in a page: the file that phones get, run there, and the cloud model asked as an app asks it.

The page speaks to this service alone, so that its policy stays strict, and no bucket needs a rule for it: the same
requests are passed on to where an app sends them.
"""

from __future__ import annotations

from typing import Any

import flask

from console.board import Board
from console.cloud_model import CloudModel
from console.files import Files
from console.held_out import HeldOut
from console.published import Published
from dualdeploy.contracts.dataset_name import DATASET_NAME
from dualdeploy.http.entrypoint import read_body
from dualdeploy.ledger import names

#: As the gateway.
MAX_PICTURE_BYTES = 1_000_000
_LITERT = "litert/index.js"


class Simulator:
    """What the page needs, and what it asks for."""

    def __init__(self, published: Published, cloud: CloudModel, held_out: HeldOut, files: Files) -> None:
        self._published = published
        self._cloud = cloud
        self._held_out = held_out
        self._files = files

    def add_routes(self, app: flask.Flask) -> None:
        """At the paths of Cloud Storage for Firebase and of the gateway, so that the client is an app's."""
        app.add_url_rule("/v0/b/<bucket>/o/<path:name>", "published", self._object)
        app.add_url_rule("/predict/<dataset>", "predict", self._predict, methods=["POST"])
        app.add_url_rule("/runs/<run_id>/pictures/<int:number>", "picture", self._picture)

    def page(self, board: Board) -> dict[str, Any]:
        """What the page shows of a data set; `missing` is why it cannot run, and with which command it could."""
        phones = next((side for side in board.sides if side.target == "mobile"), None)
        run_id = phones.run_id if phones else ""
        missing, command = "", ""
        if not run_id or phones is None:
            missing = "Nothing is published for phones yet: the simulator runs the file that phones get."
        elif _LITERT not in self._files:
            missing = "LiteRT.js, which runs the phone's model in a page, was not fetched. That takes npm, of Node.js:"
            command = "make simulator\nmake down; make up                       # on a laptop\n"
            command += "make deploy PROJECT=… SERVICE=console    # on Google Cloud"
        return {
            "missing": missing,
            "command": command,
            "name": phones.published_as if phones else "",
            "bucket": self._published.bucket,
            "no_cloud": self._cloud.missing,
            "run_id": run_id,
            "pictures": [each.label for each in self._held_out.of(run_id)] if run_id else [],
        }

    def _object(self, bucket: str, name: str) -> flask.Response:
        if bucket != self._published.bucket or not name.startswith("models/"):
            flask.abort(404)
        return self._published.get(name)

    def _picture(self, run_id: str, number: int) -> flask.Response:
        names.checked_run_id(run_id)
        pictures = self._held_out.of(run_id)
        if number >= len(pictures):
            flask.abort(404)
        image = pictures[number].image
        response = flask.Response(image, mimetype="image/jpeg" if image.startswith(b"\xff\xd8") else "image/png")
        response.headers["Cache-Control"] = "private, max-age=86400"
        return response

    def _predict(self, dataset: str) -> flask.Response:
        if not DATASET_NAME.fullmatch(dataset):
            flask.abort(404)
        picture = read_body(flask.request, most=MAX_PICTURE_BYTES)
        if picture is None:
            flask.abort(413)
        told = {name: value for name, value in flask.request.headers.items() if name.lower().startswith("x-phone-")}
        kind = {"Content-Type": flask.request.content_type or "application/octet-stream"}
        answer = self._cloud.ask(dataset, picture, {**told, **kind})
        return flask.Response(answer.body, answer.status, headers=dict(answer.headers))
