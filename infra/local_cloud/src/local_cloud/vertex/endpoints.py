"""projects.locations.endpoints: where models are deployed, how traffic is split between them."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flask

from local_cloud.api import ApiError
from local_cloud.vertex import automl, deployments, machines, pages, sleep, traffic
from local_cloud.vertex.bodies import camel_case, update_mask
from local_cloud.vertex.deployments import Host
from local_cloud.vertex.errors import aborted, already_exists, failed_precondition, invalid_argument, not_found
from local_cloud.vertex.filters import id_field, labels_field, text_field
from local_cloud.vertex.models import Models
from local_cloud.vertex.names import (
    Location,
    check_display_name,
    check_labels,
    last_segment,
    new_etag,
    new_id,
    now,
    seconds,
)
from local_cloud.vertex.operations import Kind, Operations, Work
from local_cloud.vertex.records import Records
from local_cloud.vertex.servers import ModelServers
from local_cloud.vertex.wire import Wire, body, version

ENDPOINTS = "endpoints"

_CREATE = "aiplatform.endpoints.create"
_DELETE = "aiplatform.endpoints.delete"
_DEPLOY = "aiplatform.endpoints.deployModel"
_UNDEPLOY = "aiplatform.endpoints.undeployModel"
_MUTATE = "aiplatform.endpoints.mutateDeployedModel"
_CREATABLE = (
    "displayName",
    "description",
    "labels",
    "encryptionSpec",
    "network",
    "dedicatedEndpointEnabled",
    "predictRequestResponseLoggingConfig",
    "clientConnectionConfig",
)
_UPDATABLE = ("displayName", "description", "labels", "trafficSplit", "predictRequestResponseLoggingConfig")
#: A name that starts with a letter, or a number of at most nine digits without leading zeros.
_ENDPOINT_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,8}|0")
_DEPLOYED_MODEL_ID = re.compile(r"[1-9][0-9]{0,9}")
_ORDERS = {
    "display_name": "displayName",
    "displayName": "displayName",
    "create_time": "createTime",
    "createTime": "createTime",
    "update_time": "updateTime",
    "updateTime": "updateTime",
}
_LISTING = pages.Listing(
    key="endpoints",
    fields={"endpoint": id_field(), "display_name": text_field("displayName"), "labels": labels_field()},
    orders=_ORDERS,
    newest_first=True,
)
_LOG = logging.getLogger(__name__)

Document = dict[str, Any]


class Endpoints:
    """The endpoints of one location; one mutation of an endpoint at a time, as its operations are long."""

    def __init__(
        self,
        *,
        records: Records,
        location: Location,
        operations: Operations,
        models: Models,
        servers: ModelServers,
        host: Host,
        folder: Path,
        sleepers: sleep.Sleepers,
        quotas: Callable[[], Mapping[str, int]],
        server_start_seconds: float,
    ) -> None:
        self._records = records
        self._location = location
        self._operations = operations
        self._models = models
        self._servers = servers
        self._host = host
        self._folder = folder
        self._sleepers = sleepers
        self._quotas = quotas
        self._server_start_seconds = server_start_seconds
        operations.define_deletion(_DELETE, self._remove)
        for name, prepare, metadata, response in (
            (_CREATE, self._prepare_create, "CreateEndpointOperationMetadata", "Endpoint"),
            (_DEPLOY, self._prepare_deploy, "DeployModelOperationMetadata", "DeployModelResponse"),
            (_UNDEPLOY, self._prepare_undeploy, "UndeployModelOperationMetadata", "UndeployModelResponse"),
            (_MUTATE, self._prepare_mutate, "MutateDeployedModelOperationMetadata", "MutateDeployedModelResponse"),
        ):
            operations.define(name, Kind(prepare, metadata, response))

    def register(self, wire: Wire) -> None:
        path = "/endpoints/<endpoint>"
        wire.operation(
            _CREATE,
            "POST",
            "/endpoints",
            self._create,
            body="Endpoint",
            field="endpoint",
            answer="Operation",
            differs="dedicatedEndpointDns is this server's host:port, over http; the shared address stays open",
        )
        wire.operation(
            "aiplatform.endpoints.list",
            "GET",
            "/endpoints",
            self._list,
            answer="ListEndpointsResponse",
            differs="read_mask is ignored",
        )
        wire.operation("aiplatform.endpoints.get", "GET", path, self._get, answer="Endpoint")
        wire.operation(
            "aiplatform.endpoints.patch",
            "PATCH",
            path,
            self._patch,
            body="Endpoint",
            field="endpoint",
            answer="Endpoint",
        )
        wire.operation(_DELETE, "DELETE", path, self._delete, answer="Operation")
        one = "one process whatever the replica counts; one mutation of an endpoint at a time"
        asleep = "in v1beta1, a model without a replica answers 429 but keeps its process, and is never undeployed"
        for kind, view, differs in (
            (_DEPLOY, self._deploy, f"{one}; {asleep}"),
            (_UNDEPLOY, self._undeploy, ""),
            (_MUTATE, self._mutate, "recorded only"),
        ):
            verb = kind.rpartition(".")[2]
            message = f"{verb[0].upper()}{verb[1:]}Request"
            wire.operation(kind, "POST", f"{path}:{verb}", view, body=message, answer="Operation", differs=differs)

    def resume(self) -> None:
        """After a restart: start the servers of everything that is deployed."""
        for _, endpoint in self._records.all(ENDPOINTS):
            for deployed in endpoint["deployedModels"]:
                try:
                    model = self._models.resolve(deployed["model"])
                    spec = deployments.server_spec(endpoint, deployed, model, self._host, self._folder)
                except ApiError as error:
                    # An image that is no longer known: the model stays deployed and unavailable.
                    _LOG.warning("%s of %s is not served: %s", deployed["id"], endpoint["name"], error.message)
                    continue
                self._servers.start((endpoint["name"], deployed["id"]), spec, restarts_first_failure=True)

    # Create, read, change, delete

    def _create(self, project: str, location: str) -> Document:
        parent = self._location.check(project, location)
        wanted = body()
        check_display_name(wanted)
        check_labels(wanted.get("labels"))
        _check_request_log(wanted)
        given = flask.request.args.get("endpointId") or flask.request.args.get("endpoint_id")
        if given is not None and not _ENDPOINT_ID.fullmatch(given):
            raise invalid_argument(
                f"endpoint_id {given!r} is invalid: up to 63 of [a-z0-9-] starting with a letter and ending with a"
                " letter or number, or a number of up to 9 digits."
            )
        name = f"{parent}/endpoints/{given or new_id()}"
        with self._records.transaction():
            if self._records.get(ENDPOINTS, name) or self._operations.pending_on(name):
                raise already_exists(f"Endpoint {name} already exists.")
            endpoint = {key: wanted[key] for key in _CREATABLE if key in wanted}
            return self._operations.start(_CREATE, name, {"name": name, "endpoint": endpoint})

    def _prepare_create(self, arguments: Document, stop: threading.Event) -> Work:
        del stop

        def apply() -> Document:
            moment = now()
            endpoint = {
                "name": arguments["name"],
                **arguments["endpoint"],
                "deployedModels": [],
                "trafficSplit": {},
                "createTime": moment,
            }
            self._write(endpoint)
            # The answer of the operation says what was asked for, and no more.
            return {"name": arguments["name"], **arguments["endpoint"]}

        return Work(apply)

    def _get(self, project: str, location: str, endpoint: str) -> Document:
        return self._shown(self.existing(f"{self._location.check(project, location)}/endpoints/{endpoint}"))

    def _list(self, project: str, location: str) -> Document:
        self._location.check(project, location)
        found = self._records.all(ENDPOINTS)
        return pages.answer(_LISTING, [(sequence, self._shown(endpoint)) for sequence, endpoint in found])

    def existing(self, name: str) -> Document:
        """The endpoint's record.

        Raises:
            ApiError: 404 when there is none.
        """
        endpoint = self._records.get(ENDPOINTS, name)
        if endpoint is None:
            raise not_found(f"The Endpoint does not exist: {name}.")
        return endpoint

    def _shown(self, endpoint: Document) -> Document:
        """The Endpoint resource: the record, its deployed models' live status, and where to send predictions."""
        for deployed in endpoint["deployedModels"]:
            server = self._servers.get((endpoint["name"], deployed["id"]))
            is_available = server is not None and server.address is not None
            deployed["status"] = {"availableReplicaCount": int(is_available)}
        if endpoint.get("dedicatedEndpointEnabled") and flask.has_request_context():
            # The port may differ after a restart, and is each caller's own, so it is not part of the record.
            endpoint["dedicatedEndpointDns"] = flask.request.host
        return endpoint

    def _patch(self, project: str, location: str, endpoint: str) -> Document:
        name = f"{self._location.check(project, location)}/endpoints/{endpoint}"
        keys = update_mask({path: path for path in _UPDATABLE})
        wanted = body()
        with self._records.transaction():
            record = self.existing(name)
            if wanted.get("etag") and wanted["etag"] != record["etag"]:
                raise aborted(f"etag {wanted['etag']!r} is not the Endpoint's current one: read it again.")
            if "trafficSplit" in keys:
                deployed = [model["id"] for model in record["deployedModels"]]
                record["trafficSplit"] = traffic.check(wanted.get("trafficSplit") or {}, deployed=deployed)
            for key in keys:
                if key != "trafficSplit":
                    record[key] = wanted.get(key, "" if key in ("displayName", "description") else {})
            _check_request_log(record)
            check_display_name(record)
            check_labels(record.get("labels"))
            return self._shown(self._write(record))

    def _write(self, endpoint: Document) -> Document:
        endpoint |= {"updateTime": now(), "etag": new_etag()}
        self._records.put(ENDPOINTS, endpoint["name"], endpoint)
        return endpoint

    def _delete(self, project: str, location: str, endpoint: str) -> Document:
        name = f"{self._location.check(project, location)}/endpoints/{endpoint}"
        with self._records.transaction():
            self._refuse_deployed(name)
            return self._start(_DELETE, name, {"name": name})

    def _refuse_deployed(self, name: str) -> None:
        deployed = [model["id"] for model in self.existing(name)["deployedModels"]]
        if deployed:
            raise failed_precondition(
                f"Endpoint has deployed or being-deployed DeployedModel(s): {', '.join(deployed)}."
            )

    def _remove(self, arguments: Document) -> None:
        self._refuse_deployed(arguments["name"])
        self._records.remove(ENDPOINTS, arguments["name"])

    def _start(self, kind: str, name: str, arguments: Document) -> Document:
        """Begin an operation on an endpoint that has none running."""
        pending = [last_segment(record["operation"]["name"]) for record in self._operations.pending_on(name)]
        if pending:
            raise failed_precondition(
                f"There are other operations running on the Endpoint {name}. Operation IDs are: [{', '.join(pending)}]."
            )
        return self._operations.start(kind, name, arguments)

    # Deploying

    def _deploy(self, project: str, location: str, endpoint: str) -> Document:
        name = f"{self._location.check(project, location)}/endpoints/{endpoint}"
        request = body()
        deployed = sleep.written_out(request.get("deployedModel") or {})
        given = deployed.get("id")
        if given and not _DEPLOYED_MODEL_ID.fullmatch(given):
            raise invalid_argument(
                f"deployed_model.id {given!r} is invalid: it must have 1 to 10 digits, the first not 0."
            )
        with self._records.transaction():
            record = self.existing(name)
            self._refuse_taken(record, given)
            model = deployments.deployable(record, deployed, self._models, may_sleep=version() == "v1beta1")
            sleep.refuse_company(record, deployed)
            deployed = {
                **deployed,
                "id": given or new_id(),
                "model": f"{model['name']}@{model['versionId']}",
                "modelVersionId": model["versionId"],
                "displayName": deployed.get("displayName") or model["displayName"],
            }
            arguments = {"name": name, "deployedModel": deployed, "trafficSplit": request.get("trafficSplit")}
            self._split_with(record, arguments)
            self._require_quota(deployed)
            return self._start(_DEPLOY, name, arguments)

    def _require_quota(self, deployed: Document) -> None:
        """Refuse what, with all that is deployed or being deployed, may come to need more than a quota has."""
        there = [model for _, endpoint in self._records.all(ENDPOINTS) for model in endpoint["deployedModels"]]
        coming = [record["arguments"]["deployedModel"] for record in self._operations.pending_of(_DEPLOY)]
        others = (machines.served_demand(each) for each in [*there, *coming])
        machines.require_quota(machines.served_demand(deployed), others, self._quotas())

    def _refuse_taken(self, endpoint: Document, deployed_id: str | None) -> None:
        pending = [
            record["arguments"]["deployedModel"]["id"]
            for record in self._operations.pending_on(endpoint["name"])
            if record["kind"] == _DEPLOY
        ]
        if deployed_id in [*pending, *(model["id"] for model in endpoint["deployedModels"])]:
            raise already_exists(f"DeployedModel {deployed_id} already exists on Endpoint {endpoint['name']}.")

    def _split_with(self, endpoint: Document, arguments: Document) -> dict[str, int]:
        """The traffic split after the deployment: the given one, or, without one, the present one."""
        if not arguments["trafficSplit"]:
            return dict(endpoint["trafficSplit"])
        new = arguments["deployedModel"]["id"]
        deployed = [traffic.NEW, new, *(model["id"] for model in endpoint["deployedModels"])]
        shares = traffic.check(arguments["trafficSplit"], deployed=deployed)
        return {new if key == traffic.NEW else key: share for key, share in shares.items()}

    def _prepare_deploy(self, arguments: Document, stop: threading.Event) -> Work:
        deployed, key = arguments["deployedModel"], (arguments["name"], arguments["deployedModel"]["id"])
        model = self._models.resolve(deployed["model"])
        if "automl" in model:
            self._require_nodes()
        spec = deployments.server_spec(self.existing(arguments["name"]), deployed, model, self._host, self._folder)
        server = self._servers.start(key, spec, restarts_first_failure=False)
        try:
            server.wait_until_ready(self._start_limit(model), stop)
        except BaseException:
            self._servers.stop(key)
            raise

        def apply() -> Document:
            endpoint = self.existing(arguments["name"])
            endpoint["trafficSplit"] = self._split_with(endpoint, arguments)
            made = {**deployed, "createTime": now()}
            endpoint["deployedModels"].append(made)
            self._write(endpoint)
            self._sleepers.deployed(key)
            return {"deployedModel": made}

        return Work(apply, settle=lambda applied: None if applied else self._servers.stop(key))

    def _require_nodes(self) -> None:
        """Raises ApiError when AutoML serves as many models as it may.

        Source: https://github.com/GoogleCloudPlatform/vertex-ai-samples/issues/264
        """
        deployed = [model for _, endpoint in self._records.all(ENDPOINTS) for model in endpoint["deployedModels"]]
        if sum("automaticResources" in each for each in deployed) >= automl.DEPLOYED_MODELS:
            raise ApiError(
                429,
                "RESOURCE_EXHAUSTED",
                "The following quotas are exceeded: AutoMLImageClassificationDeployedModelNodes",
            )

    def _start_limit(self, model: Mapping[str, Any]) -> float:
        given = (model.get("containerSpec") or {}).get("deploymentTimeout")
        limit = seconds(given, "container_spec.deployment_timeout") if given else self._server_start_seconds
        return min(limit, self._server_start_seconds)

    def _undeploy(self, project: str, location: str, endpoint: str) -> Document:
        name = f"{self._location.check(project, location)}/endpoints/{endpoint}"
        request = body()
        arguments = {
            "name": name,
            "id": request.get("deployedModelId", ""),
            "trafficSplit": request.get("trafficSplit"),
        }
        with self._records.transaction():
            self._without(arguments)
            return self._start(_UNDEPLOY, name, arguments)

    def _without(self, arguments: Document) -> Document:
        """The endpoint without the deployed model; refuses when that would leave traffic without a target."""
        endpoint = self.existing(arguments["name"])
        staying = [model for model in endpoint["deployedModels"] if model["id"] != arguments["id"]]
        if len(staying) == len(endpoint["deployedModels"]):
            raise not_found(f"DeployedModel {arguments['id']!r} does not exist on Endpoint {arguments['name']}.")
        split = traffic.after_undeploy(
            endpoint["trafficSplit"],
            arguments["trafficSplit"],
            leaving=arguments["id"],
            staying=[model["id"] for model in staying],
        )
        return {**endpoint, "deployedModels": staying, "trafficSplit": split}

    def _prepare_undeploy(self, arguments: Document, stop: threading.Event) -> Work:
        del stop

        def apply() -> Document:
            self._write(self._without(arguments))
            return {}

        def settle(applied: bool) -> None:
            if applied:
                self._servers.stop((arguments["name"], arguments["id"]))

        return Work(apply, settle)

    def _mutate(self, project: str, location: str, endpoint: str) -> Document:
        name = f"{self._location.check(project, location)}/endpoints/{endpoint}"
        request = body()
        deployed = request.get("deployedModel") or {}
        # In a request body a field mask is one string: "dedicatedResources.minReplicaCount,…".
        mask = request.get("updateMask") or flask.request.args.get("updateMask") or ""
        paths = [camel_case(path.strip()) for path in mask.split(",") if path.strip()]
        deployments.check_mutation(deployed, paths)
        with self._records.transaction():
            self._deployed(self.existing(name), deployed.get("id", ""))
            return self._start(_MUTATE, name, {"name": name, "deployedModel": deployed, "paths": paths})

    def _prepare_mutate(self, arguments: Document, stop: threading.Event) -> Work:
        del stop

        def apply() -> Document:
            endpoint = self.existing(arguments["name"])
            deployed = self._deployed(endpoint, arguments["deployedModel"]["id"])
            for path in arguments["paths"]:
                deployments.copy_path(path, source=arguments["deployedModel"], target=deployed)
            self._write(endpoint)
            return {"deployedModel": deployed}

        return Work(apply)

    def _deployed(self, endpoint: Document, deployed_id: str) -> Document:
        for deployed in endpoint["deployedModels"]:
            if deployed["id"] == deployed_id:
                found: Document = deployed
                return found
        raise not_found(f"DeployedModel {deployed_id!r} does not exist on Endpoint {endpoint['name']}.")


def _check_request_log(endpoint: Mapping[str, Any]) -> None:
    """ "Percentage of requests to be logged, expressed as a fraction in range(0,1]"; the table as `bq://…`."""
    config = endpoint.get("predictRequestResponseLoggingConfig") or {}
    if not config.get("enabled"):
        return
    sampling = config.get("samplingRate", 0)
    if not 0 < sampling <= 1:
        raise invalid_argument(f"sampling_rate must be in (0, 1], got {sampling}.")
    table = (config.get("bigqueryDestination") or {}).get("outputUri", "")
    if not table.startswith("bq://"):
        raise invalid_argument(f"bigquery_destination.output_uri must begin with bq://, got {table!r}.")
