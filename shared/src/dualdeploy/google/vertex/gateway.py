"""Vertex AI as the services use it: jobs, the Model Registry, endpoints, long-running operations.

Google's GAPIC clients (`google.cloud.aiplatform_v1`) over REST, imported on first use: they cost about a second and
100 MB, which an event that needs no Vertex AI must not pay. The high-level `google.cloud.aiplatform` costs twice that.
No method waits for a long-running operation: `start_*` returns its name, `operation` looks at it later.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualdeploy import lazily
from dualdeploy.errors import (
    RejectedByGoogle,
    ResourceMissing,
)
from dualdeploy.google.vertex import messages
from dualdeploy.google.vertex.clients import Clients, oldest_first, with_labels
from dualdeploy.google.vertex.clients import asked as _call
from dualdeploy.google.vertex.types import (
    Answer,
    CustomJobSpec,
    Deployment,
    Endpoint,
    Evaluation,
    Job,
    JobOutcome,
    ModelSpec,
    ModelVersion,
    RequestLogging,
)

#: Clients of dedicated endpoints that one instance keeps, however many data sets it serves.
MOST_PREDICTION_CLIENTS = 32


class VertexGateway(Clients):
    """The real thing, or an emulator of it."""

    # Jobs ------------------------------------------------------------------------------------------------------

    def create_custom_job(self, spec: CustomJobSpec) -> Job:
        """Not repeated by itself: Vertex AI takes no id from us, so a lost answer is found again by its labels."""
        body = messages.custom_job(spec)
        created = _call(
            "create a custom job",
            lambda: self._jobs.create_custom_job(parent=self._parent, custom_job=body, **self._patience(repeat=False)),
        )
        return messages.job(created)

    def find_custom_jobs(self, labels: Mapping[str, str]) -> list[Job]:
        """Jobs with all these labels, oldest first."""
        wanted = with_labels(labels)
        found = _call(
            f"list custom jobs with {wanted}",
            lambda: list(
                self._jobs.list_custom_jobs(
                    request={"parent": self._parent, "filter": wanted}, **self._patience(repeat=True)
                )
            ),
        )
        return oldest_first(map(messages.job, found))

    def get_custom_job(self, name: str) -> Job:
        """`name` is the resource name, or the number alone as log entries carry it."""
        full = name if "/" in name else f"{self._parent}/customJobs/{name}"
        found = _call(
            f"get {full}",
            lambda: self._jobs.get_custom_job(name=full, **self._patience(repeat=True)),
        )
        return messages.job(found)

    def cancel_custom_job(self, name: str) -> None:
        """Ask for the end of a job; one that has ended meanwhile, or is gone, needs none."""
        try:
            _call(
                f"cancel {name}",
                lambda: self._jobs.cancel_custom_job(name=name, **self._patience(repeat=True)),
            )
        except ResourceMissing:
            return
        except RejectedByGoogle:
            # Vertex AI answers 400 FAILED_PRECONDITION for a job that is no longer running.
            if self.get_custom_job(name).outcome is JobOutcome.UNFINISHED:
                raise

    # Model Registry --------------------------------------------------------------------------------------------

    def find_model_version(self, model_id: str, alias: str) -> ModelVersion | None:
        """The version that carries `alias`, or None when the model or the alias does not exist."""
        name = f"{self._parent}/models/{model_id}@{alias}"
        try:
            model = _call(
                f"get {name}",
                lambda: self._models.get_model(name=name, **self._patience(repeat=True)),
            )
        except ResourceMissing:
            return None
        return messages.model_version(model)

    def find_model_versions(self, model_id: str) -> list[ModelVersion]:
        """Every version of a model, oldest first; none when there is no such model."""
        name = f"{self._parent}/models/{model_id}"
        try:
            found = _call(
                f"list the versions of {name}",
                lambda: list(self._models.list_model_versions(request={"name": name}, **self._patience(repeat=True))),
            )
        except ResourceMissing:
            return []
        return sorted((messages.model_version(model) for model in found), key=lambda version: int(version.version))

    def start_delete_version(self, version: ModelVersion) -> str:
        """Vertex AI refuses it for a version that is deployed, and for the one with the alias `default`."""
        operation = _call(
            f"delete {version.versioned_name}",
            lambda: self._models.delete_model_version(name=version.versioned_name, **self._patience(repeat=False)),
        )
        return str(operation.operation.name)

    def start_delete_model(self, model_id: str) -> str:
        """With all of its versions; Vertex AI refuses it while one is deployed."""
        name = f"{self._parent}/models/{model_id}"
        operation = _call(
            f"delete {name}", lambda: self._models.delete_model(name=name, **self._patience(repeat=False))
        )
        return str(operation.operation.name)

    def start_upload(self, spec: ModelSpec) -> str:
        """Upload as the first version of `spec.model_id`, or as a further version when the model exists."""
        parent_model = f"{self._parent}/models/{spec.model_id}"
        request: dict[str, Any] = {"parent": self._parent, "model": messages.model(spec)}
        try:
            _call(
                f"get {parent_model}",
                lambda: self._models.get_model(name=parent_model, **self._patience(repeat=True)),
            )
            request["parent_model"] = parent_model
        except ResourceMissing:
            request["model_id"] = spec.model_id
        operation = _call(
            f"upload a version of {spec.model_id}",
            lambda: self._models.upload_model(request=request, **self._patience(repeat=False)),
        )
        return str(operation.operation.name)

    def start_export(self, version: str, *, format_id: str, folder: str) -> str:
        """Have a version (`…/models/<id>@<version>`) written below `folder` (gs://…), in a folder of its own each time:
        `outputInfo.artifactOutputUri` of the operation's metadata tells which."""
        types = lazily.load("google.cloud.aiplatform_v1.types")

        output = types.ExportModelRequest.OutputConfig(
            export_format_id=format_id, artifact_destination=types.GcsDestination(output_uri_prefix=folder)
        )
        operation = _call(
            f"export {version}",
            lambda: self._models.export_model(name=version, output_config=output, **self._patience(repeat=False)),
        )
        return str(operation.operation.name)

    def change_aliases(self, version: ModelVersion, *, add: Sequence[str], remove: Sequence[str] = ()) -> None:
        """An alias that is added is taken from the version that had it; what the version does not have stays away."""
        changes = [*add, *(f"-{alias}" for alias in remove if alias in version.aliases)]
        if not changes:
            return
        _call(
            f"change the aliases of {version.versioned_name}",
            lambda: self._models.merge_version_aliases(
                name=version.versioned_name, version_aliases=changes, **self._patience(repeat=True)
            ),
        )

    def has_evaluation(self, version: ModelVersion, display_name: str) -> bool:
        """Whether the version has an evaluation of this name; Vertex AI takes no id of ours for one."""
        found = _call(
            f"list the evaluations of {version.versioned_name}",
            lambda: list(
                self._models.list_model_evaluations(parent=version.versioned_name, **self._patience(repeat=True))
            ),
        )
        return any(evaluation.display_name == display_name for evaluation in found)

    def import_evaluation(self, version: ModelVersion, evaluation: Evaluation) -> None:
        """Not repeated by itself: a second import is a second evaluation. Look with `has_evaluation` first."""
        types = lazily.load("google.cloud.aiplatform_v1.types")
        json_format = lazily.load("google.protobuf.json_format")
        struct_pb2 = lazily.load("google.protobuf.struct_pb2")

        imported = types.ModelEvaluation(
            display_name=evaluation.display_name,
            metrics_schema_uri=evaluation.schema_uri,
            metrics=json_format.ParseDict(dict(evaluation.metrics), struct_pb2.Value()),
        )
        _call(
            f"import an evaluation of {version.versioned_name}",
            lambda: self._models.import_model_evaluation(
                parent=version.versioned_name, model_evaluation=imported, **self._patience(repeat=False)
            ),
        )

    # Endpoints -------------------------------------------------------------------------------------------------

    def find_endpoint(self, endpoint_id: str) -> Endpoint | None:
        name = self._endpoint_name(endpoint_id)
        try:
            endpoint = _call(
                f"get {name}",
                lambda: self._endpoints.get_endpoint(name=name, **self._patience(repeat=True)),
            )
        except ResourceMissing:
            return None
        return messages.endpoint(endpoint)

    def find_endpoints(self, label: str, value: str = "") -> list[Endpoint]:
        """Every endpoint that has the label, with this value or, if it is empty, with any."""
        wanted = f'labels.{label}="{value}"' if value else f"labels.{label}:*"
        found = _call(
            f"list endpoints with {wanted}",
            lambda: list(
                self._endpoints.list_endpoints(
                    request={"parent": self._parent, "filter": wanted}, **self._patience(repeat=True)
                )
            ),
        )
        return [messages.endpoint(endpoint) for endpoint in found]

    def start_delete_endpoint(self, endpoint_id: str) -> str:
        """Vertex AI refuses it while anything is deployed there."""
        operation = _call(
            f"delete endpoint {endpoint_id}",
            lambda: self._endpoints.delete_endpoint(
                name=self._endpoint_name(endpoint_id), **self._patience(repeat=False)
            ),
        )
        return str(operation.operation.name)

    def start_create_endpoint(
        self, endpoint_id: str, *, display_name: str, labels: Mapping[str, str], dedicated: bool = True
    ) -> str:
        """Dedicated unless told otherwise: a shared one limits a request to 1.5 MB, less than a photo in base64."""
        types = lazily.load("google.cloud.aiplatform_v1.types")

        endpoint = types.Endpoint(display_name=display_name, labels=dict(labels), dedicated_endpoint_enabled=dedicated)
        operation = _call(
            f"create endpoint {endpoint_id}",
            lambda: self._endpoints.create_endpoint(
                request={"parent": self._parent, "endpoint": endpoint, "endpoint_id": endpoint_id},
                **self._patience(repeat=False),
            ),
        )
        return str(operation.operation.name)

    def start_deploy(self, endpoint_id: str, deployment: Deployment, *, traffic: Mapping[str, int]) -> str:
        """`traffic` is the split afterwards, by deployed model id; the new one goes by its id as the others do. With an
        empty one the split stays as it is then (DeployModelRequest.traffic_split)."""
        client, deployed = self._endpoints, messages.deployed_model(deployment)
        if deployment.scale_to_zero:
            client, deployed = self._beta_endpoints, messages.to_zero(deployed, deployment.scale_to_zero)
        # DeployModelRequest: "0" stands for the model that this very call deploys.
        split = {"0" if key == deployment.id else key: share for key, share in traffic.items()}
        operation = _call(
            f"deploy {deployment.model} to {endpoint_id}",
            lambda: client.deploy_model(
                request={
                    "endpoint": self._endpoint_name(endpoint_id),
                    "deployed_model": deployed,
                    "traffic_split": split,
                },
                **self._patience(repeat=False),
            ),
        )
        return str(operation.operation.name)

    def start_undeploy(self, endpoint_id: str, deployed_id: str, *, traffic: Mapping[str, int]) -> str:
        """`traffic` is the split afterwards; with an empty one it stays, and a model that has a share of it is refused
        (but for the last model of an endpoint, which may always go)."""
        operation = _call(
            f"undeploy {deployed_id} from {endpoint_id}",
            lambda: self._endpoints.undeploy_model(
                request={
                    "endpoint": self._endpoint_name(endpoint_id),
                    "deployed_model_id": deployed_id,
                    "traffic_split": dict(traffic),
                },
                **self._patience(repeat=False),
            ),
        )
        return str(operation.operation.name)

    def set_traffic(self, endpoint: Endpoint, traffic: Mapping[str, int]) -> None:
        """Give the endpoint this split, unless it was changed since it was read (ResourceConflict): no operation."""
        types = lazily.load("google.cloud.aiplatform_v1.types")
        field_mask_pb2 = lazily.load("google.protobuf.field_mask_pb2")

        changed = types.Endpoint(name=endpoint.name, etag=endpoint.etag, traffic_split=dict(traffic))
        _call(
            f"split the traffic of {endpoint.id}",
            lambda: self._endpoints.update_endpoint(
                endpoint=changed,
                update_mask=field_mask_pb2.FieldMask(paths=["traffic_split"]),
                **self._patience(repeat=False),
            ),
        )

    def set_request_logging(self, endpoint: Endpoint, logging: RequestLogging | None) -> None:
        """Have the endpoint write a share of its predictions to BigQuery, or stop it: no operation."""
        types = lazily.load("google.cloud.aiplatform_v1.types")
        field_mask_pb2 = lazily.load("google.protobuf.field_mask_pb2")

        config = types.PredictRequestResponseLoggingConfig(enabled=logging is not None)
        if logging:
            config.sampling_rate = logging.sampling
            config.bigquery_destination = types.BigQueryDestination(output_uri=logging.table)
        changed = types.Endpoint(name=endpoint.name, etag=endpoint.etag, predict_request_response_logging_config=config)
        _call(
            f"change the request log of {endpoint.id}",
            lambda: self._endpoints.update_endpoint(
                endpoint=changed,
                update_mask=field_mask_pb2.FieldMask(paths=["predict_request_response_logging_config"]),
                **self._patience(repeat=False),
            ),
        )

    def predict(self, endpoint: Endpoint, instance: Mapping[str, Any]) -> Answer:
        """One picture through the endpoint, as users send it; not repeated, because a failure is what is looked for."""
        json_format = lazily.load("google.protobuf.json_format")
        struct_pb2 = lazily.load("google.protobuf.struct_pb2")

        value = json_format.ParseDict(dict(instance), struct_pb2.Value())
        client = self._predictions(endpoint.dns)
        began = time.perf_counter()
        answer = _call(
            f"predict with {endpoint.id}",
            lambda: client.predict(endpoint=endpoint.name, instances=[value], **self._patience(repeat=False)),
        )
        seconds = time.perf_counter() - began
        predictions = json_format.MessageToDict(type(answer).pb(answer)).get("predictions") or [{}]
        first = predictions[0]
        return Answer(answer.deployed_model_id, first if isinstance(first, Mapping) else {}, seconds)

    # Inside ----------------------------------------------------------------------------------------------------

    def _endpoint_name(self, endpoint_id: str) -> str:
        return f"{self._parent}/endpoints/{endpoint_id}"

    @functools.cached_property
    def _jobs(self) -> Any:
        return lazily.load("google.cloud.aiplatform_v1").JobServiceClient(**self._client_arguments())

    @functools.cached_property
    def _predictions(self) -> Callable[[str], Any]:
        """A dedicated endpoint answers at a host of its own only; the clients that were used last are kept."""
        return functools.lru_cache(maxsize=MOST_PREDICTION_CLIENTS)(self._new_predictions)

    def _new_predictions(self, dns: str) -> Any:
        return lazily.load("google.cloud.aiplatform_v1").PredictionServiceClient(**self._client_arguments(dns))
