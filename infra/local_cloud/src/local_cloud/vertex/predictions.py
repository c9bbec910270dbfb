"""projects.locations.endpoints.predict and rawPredict: forwarded to the model server that the split draws."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Protocol

import flask
import urllib3

from local_cloud.api import ApiError
from local_cloud.vertex import automl
from local_cloud.vertex.endpoints import Endpoints
from local_cloud.vertex.errors import failed_precondition, invalid_argument
from local_cloud.vertex.models import Models
from local_cloud.vertex.names import Location, last_segment, seconds
from local_cloud.vertex.servers import ModelServer, ModelServers
from local_cloud.vertex.sleep import Sleepers
from local_cloud.vertex.traffic import Draw
from local_cloud.vertex.wire import Wire, body

#: The largest request in megabytes; "1.5 MB or smaller" on a shared endpoint, 10 MB on a dedicated one.
_SHARED_MEGABYTES = 1.5
_DEDICATED_MEGABYTES = 10.0

#: A shared endpoint waits a minute for its model server; a dedicated one can be told to wait up to an hour.
_SHARED_TIMEOUT_SECONDS = 60.0
_DEDICATED_TIMEOUT_SECONDS = 600.0

Document = dict[str, Any]


class Served(Protocol):
    """What is told of each request that reached a deployed model: ids, duration, and whether it failed."""

    def __call__(self, endpoint: str, deployed: str, *, seconds: float, is_error: bool) -> None: ...


def nobody_counts(endpoint: str, deployed: str, *, seconds: float, is_error: bool) -> None:
    """Without Cloud Monitoring."""


class Predictions:
    """Online prediction on the endpoints of one location."""

    def __init__(
        self,
        *,
        location: Location,
        endpoints: Endpoints,
        models: Models,
        servers: ModelServers,
        draw: Draw,
        sleepers: Sleepers,
        on_served: Served,
    ) -> None:
        self._sleepers = sleepers
        self._on_served = on_served
        self._location = location
        self._endpoints = endpoints
        self._models = models
        self._servers = servers
        self._draw = draw

    def register(self, wire: Wire) -> None:
        path = "/endpoints/<endpoint>"
        wire.operation(
            "aiplatform.endpoints.predict",
            "POST",
            f"{path}:predict",
            self._predict,
            body="PredictRequest",
            verbatim=True,
        )
        wire.operation(
            "aiplatform.endpoints.rawPredict",
            "POST",
            f"{path}:rawPredict",
            self._raw_predict,
            differs="refused for models of AutoML (unverified)",
        )

    def _predict(self, project: str, location: str, endpoint: str) -> Document:
        record = self._addressed(project, location, endpoint)
        if not isinstance(body().get("instances"), list):
            raise invalid_argument("instances is required and must be a list.")
        deployed = self._drawn(record)
        model = self._models.resolve(deployed["model"])
        if "automl" in model:
            predictions = self._predict_with_automl(record, deployed, model["automl"])
        else:
            predictions = self._ask(record, deployed, flask.request.get_data())
        return {
            **predictions,
            "deployedModelId": deployed["id"],
            "model": model["name"],
            "modelDisplayName": model["displayName"],
            "modelVersionId": model["versionId"],
        }

    def _ask(self, record: Mapping[str, Any], deployed: Mapping[str, Any], question: bytes) -> Document:
        """What the model server answers to a PredictRequest."""
        answer = self._forward(record, deployed, "application/json", question)
        try:
            predictions = json.loads(answer.data)
        except ValueError:
            predictions = None
        if not isinstance(predictions, dict) or "predictions" not in predictions:
            raise ApiError(
                500, "INTERNAL", 'The model server must answer a JSON object with "predictions"; use rawPredict else.'
            )
        return predictions

    def _predict_with_automl(
        self, record: Mapping[str, Any], deployed: Mapping[str, Any], trained: Mapping[str, Any]
    ) -> Document:
        """The model's numbers, in the form that AutoML gives them."""
        asked = automl.question(body())
        request = json.dumps({"instances": [{"content": asked.content}]}).encode()
        scores = self._ask(record, deployed, request)["predictions"][0]
        return {"predictions": [automl.answer(asked, trained["labels"], trained["ids"], scores)]}

    def _raw_predict(self, project: str, location: str, endpoint: str) -> flask.Response:
        record = self._addressed(project, location, endpoint)
        deployed = self._drawn(record)
        if "automl" in self._models.resolve(deployed["model"]):
            raise failed_precondition("rawPredict is not supported for models of AutoML.")
        content_type = flask.request.content_type or "application/json"
        answer = self._forward(record, deployed, content_type, flask.request.get_data())
        headers = {
            "Content-Type": answer.headers.get("Content-Type", "application/json"),
            "X-Vertex-AI-Endpoint-Id": last_segment(record["name"]),
            "X-Vertex-AI-Deployed-Model-Id": deployed["id"],
        }
        return flask.Response(answer.data, headers=headers)

    def _addressed(self, project: str, location: str, endpoint: str) -> Document:
        """The endpoint of the request, unless the request is too large for it."""
        record = self._endpoints.existing(f"{self._location.check(project, location)}/endpoints/{endpoint}")
        limit = _DEDICATED_MEGABYTES if record.get("dedicatedEndpointEnabled") else _SHARED_MEGABYTES
        size = flask.request.content_length or 0
        if size > limit * 1e6:
            raise failed_precondition(f"The request size ({size} bytes) exceeds {limit:.3f}MB limit.")
        return record

    def _drawn(self, record: Mapping[str, Any]) -> Document:
        chosen = self._draw.choose(record["trafficSplit"])
        for deployed in record["deployedModels"]:
            if deployed["id"] == chosen:
                found: Document = deployed
                return found
        raise failed_precondition(f"Endpoint {record['name']} doesn't have traffic_split.")

    def _forward(
        self, record: Mapping[str, Any], deployed: Mapping[str, Any], content_type: str, question: bytes
    ) -> urllib3.BaseHTTPResponse:
        self._sleepers.ask(record, deployed)
        server = self._servers.get((record["name"], deployed["id"]))
        address = server.address if server else None
        if server is None or address is None:
            self._on_served(last_segment(record["name"]), deployed["id"], seconds=0.0, is_error=True)
            raise ApiError(503, "UNAVAILABLE", f"DeployedModel {deployed['id']} has no healthy model server.")
        began, is_error = time.perf_counter(), True
        try:
            answer = self._answer_of(server, address, content_type, question, _timeout(record))
            is_error = answer.status >= 300
        finally:
            seconds = time.perf_counter() - began
            self._on_served(last_segment(record["name"]), deployed["id"], seconds=seconds, is_error=is_error)
        if is_error:
            raise _mapped(answer)
        return answer

    def _answer_of(
        self, server: ModelServer, address: str, content_type: str, question: bytes, timeout: float
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self._servers.pool.request(
                "POST",
                f"http://{address}{server.spec.predict_route}",
                body=question,
                headers={"Content-Type": content_type},
                timeout=urllib3.Timeout(connect=5, read=timeout),
                retries=False,
            )
        except urllib3.exceptions.ReadTimeoutError:
            raise ApiError(504, "DEADLINE_EXCEEDED", f"The model server did not answer within {timeout:g} s.") from None
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(503, "UNAVAILABLE", f"The model server is not available: {error}") from error


def _timeout(record: Mapping[str, Any]) -> float:
    given = (record.get("clientConnectionConfig") or {}).get("inferenceTimeout")
    if given:
        return seconds(given, "client_connection_config.inference_timeout")
    return _DEDICATED_TIMEOUT_SECONDS if record.get("dedicatedEndpointEnabled") else _SHARED_TIMEOUT_SECONDS


def _mapped(answer: urllib3.BaseHTTPResponse) -> ApiError:
    """A model server's error as Vertex AI passes it on: its status by kind, its body as the message.

    Users report 400 FAILED_PRECONDITION for a 4xx of the container and the same code for a 5xx, with the
    container's body as message; 429 is kept, since callers must be able to back off.
    """
    text = answer.data.decode("utf-8", errors="replace")
    if answer.status == 429:
        return ApiError(429, "RESOURCE_EXHAUSTED", text)
    if answer.status < 500:
        return failed_precondition(text)
    if answer.status in {502, 503}:
        return ApiError(503, "UNAVAILABLE", text)
    return ApiError(500, "INTERNAL", text)
