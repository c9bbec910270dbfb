"""The Remote Config of the local cloud: its routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask

from local_cloud.api import Api
from local_cloud.faults import Faults
from local_cloud.http import HttpServer
from local_cloud.iam import Iam, refusals
from local_cloud.iam.gate import of_project
from local_cloud.remote_config import templates
from local_cloud.remote_config.templates import Templates
from local_cloud.vertex.bodies import json_body
from local_cloud.vertex.errors import invalid_argument
from local_cloud.vertex.records import Records

_TEMPLATE = "/v1/projects/<project>/remoteConfig"

Document = dict[str, Any]


class RemoteConfig:
    """firebaseremoteconfig.googleapis.com on loopback; `state_dir` holds the records (`remote_config.sqlite`).

    `iam` judges callers (default: there is the owner alone).
    """

    def __init__(self, *, faults: Faults, state_dir: Path | str, port: int = 0, iam: Iam | None = None) -> None:
        iam = iam or Iam.of_one_owner()
        self.api = Api("remote_config", faults=faults, gate=of_project(iam), refuse=refusals.of_firebase)
        self._server = HttpServer(self.api.app, name="remote-config", port=port, callers=iam.callers)
        self.address, self.addresses = self._server.address, self._server.addresses
        self._records = Records(Path(state_dir).resolve() / "remote_config.sqlite")
        self._templates = Templates(self._records)
        self._closed = False
        self._register()

    def start(self) -> RemoteConfig:
        self._server.start()
        return self

    def template(self, project: str) -> Document:
        """The project's newest template."""
        return self._templates.read(project)

    def close(self) -> None:
        """Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._server.close()
        self._records.close()

    def _register(self) -> None:
        expressions = "only `percent`, `true` and `false` are evaluated; unknown fields are kept, not refused"
        self.api.operation("remoteconfig.get", "GET", _TEMPLATE)(self._get)
        self.api.operation("remoteconfig.update", "PUT", _TEMPLATE, differs=expressions)(self._put)
        self.api.operation(
            "remoteconfig.listVersions", "GET", f"{_TEMPLATE}:listVersions", differs="one page, no time filters"
        )(self._versions)
        self.api.operation("remoteconfig.rollback", "POST", f"{_TEMPLATE}:rollback")(self._rollback)
        self.api.operation(
            "remoteconfig.fetch",
            "POST",
            "/v1/projects/<project>/namespaces/firebase:fetch",
            differs="what apps send; the hash behind `percent` is firebase-admin's",
        )(self._fetch)

    def _get(self, project: str) -> flask.Response:
        return _answer(project, self._templates.read(project, flask.request.args.get("versionNumber", "")))

    def _put(self, project: str) -> flask.Response:
        body = json_body()
        if flask.request.args.get("validateOnly", "").lower() == "true":
            templates.check(body)
            return _answer(project, body, validated=True)
        return _answer(
            project, self._templates.write(project, body, if_match=flask.request.headers.get("If-Match", ""))
        )

    def _versions(self, project: str) -> Document:
        return {"versions": [each["version"] for each in self._templates.versions(project)]}

    def _rollback(self, project: str) -> flask.Response:
        number = str(json_body().get("versionNumber", ""))
        if not number.isdigit():
            raise invalid_argument("versionNumber is needed.")
        earlier = self._templates.read(project, number)
        return _answer(project, self._templates.write(project, earlier, if_match="*", rollback_of=number))

    def _fetch(self, project: str) -> Document:
        installation = str(json_body().get("appInstanceId", ""))
        if not installation:
            raise invalid_argument("appInstanceId is needed.")
        entries = self._templates.values(project, installation)
        version = self._templates.read(project)["version"]["versionNumber"]
        return {"entries": entries, "state": "UPDATE" if entries else "EMPTY_CONFIG", "templateVersion": version}


def _answer(project: str, template: Document, *, validated: bool = False) -> flask.Response:
    response = flask.jsonify(template)
    response.headers["ETag"] = templates.etag(project, template, validated=validated)
    return response
