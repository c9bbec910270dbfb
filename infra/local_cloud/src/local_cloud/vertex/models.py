"""projects.locations.models: the Model Registry, with versions, aliases and evaluations."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from local_cloud.api import ApiError
from local_cloud.iam import Iam, Refused, agent
from local_cloud.vertex import automl, evaluation, pages
from local_cloud.vertex.bodies import update_mask, whole_number
from local_cloud.vertex.errors import already_exists, failed_precondition, invalid_argument, invalid_field, not_found
from local_cloud.vertex.evaluation import Answers
from local_cloud.vertex.filters import id_field, labels_field, text_field
from local_cloud.vertex.images import Image, resolve
from local_cloud.vertex.names import (
    Location,
    check_display_name,
    check_labels,
    last_segment,
    new_etag,
    new_id,
    now,
)
from local_cloud.vertex.operations import Kind, Operations, Work
from local_cloud.vertex.records import Records
from local_cloud.vertex.wire import Wire, body

MODELS = "models"
DEFAULT_ALIAS = "default"

_EVALUATIONS = "evaluations"
_UPLOAD = "aiplatform.models.upload"
_DELETE = "aiplatform.models.delete"
_DELETE_VERSION = "aiplatform.models.deleteVersion"
_MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
_IN_BUCKET = re.compile(r"gs://[^/]+(/.*)?")
_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9-]")
_ORDERS = {
    "create_time": "versionCreateTime",
    "createTime": "versionCreateTime",
    "update_time": "versionUpdateTime",
    "updateTime": "versionUpdateTime",
}
_LISTING = pages.Listing(
    key="models",
    fields={"model": id_field(), "display_name": text_field("displayName"), "labels": labels_field()},
    orders={**_ORDERS, "display_name": "displayName", "displayName": "displayName"},
    newest_first=True,
)
_VERSIONS_LISTING = pages.Listing(key="models", fields={"labels": labels_field()}, orders=_ORDERS)
_EVALUATIONS_LISTING = pages.Listing(key="modelEvaluations", fields={})
_SLICES_LISTING = pages.Listing(key="modelEvaluationSlices", fields={})

#: What a version takes from the uploaded Model; everything else there is the model's or output only.
_VERSION_FIELDS = (
    "artifactUri",
    "containerSpec",
    "explanationSpec",
    "metadata",
    "metadataSchemaUri",
    "predictSchemata",
    "versionDescription",
)

#: What AutoML's models of images are asked and answer. Source: aiplatform.v1.schema.predict.
_PREDICT = "gs://google-cloud-aiplatform/schema/predict"
_AUTOML_METADATA = "gs://google-cloud-aiplatform/schema/model/metadata/automl_image_classification_1.0.0.yaml"
_AUTOML_SCHEMATA = {
    "instanceSchemaUri": f"{_PREDICT}/instance/image_classification_1.0.0.yaml",
    "parametersSchemaUri": f"{_PREDICT}/params/image_classification_1.0.0.yaml",
    "predictionSchemaUri": f"{_PREDICT}/prediction/classification_1.0.0.yaml",
}

#: What every model with a container of its own can do, as Vertex AI writes it on the model.
_SUPPORTED: Mapping[str, Any] = {
    "supportedDeploymentResourcesTypes": ["DEDICATED_RESOURCES"],
    "supportedInputStorageFormats": ["jsonl", "bigquery", "csv", "tf-record", "tf-record-gzip", "file-list"],
    "supportedOutputStorageFormats": ["jsonl", "bigquery"],
    "supportedExportFormats": [{"id": "custom-trained", "exportableContents": ["ARTIFACT"]}],
}

Document = dict[str, Any]


class Models:
    """The models of one location; a record holds a model with all its versions, so that they change as one."""

    def __init__(
        self,
        *,
        records: Records,
        location: Location,
        operations: Operations,
        images: Mapping[str, Image],
        iam: Iam,
        has_artifact: Callable[[str], bool],
    ) -> None:
        self._iam = iam
        self._has_artifact = has_artifact
        self._records = records
        self._location = location
        self._operations = operations
        self._images = images
        operations.define(_UPLOAD, Kind(self._prepare_upload, "UploadModelOperationMetadata", "UploadModelResponse"))
        operations.define_deletion(_DELETE, self._remove)
        operations.define_deletion(_DELETE_VERSION, self._remove_version)

    def register(self, wire: Wire) -> None:
        path = "/models/<model>"
        wire.operation(
            _UPLOAD,
            "POST",
            "/models:upload",
            self._upload,
            body="UploadModelRequest",
            answer="Operation",
            differs="artifacts are not copied: they stay where they are",
        )
        wire.operation(
            "aiplatform.models.list",
            "GET",
            "/models",
            self._list,
            answer="ListModelsResponse",
            differs="read_mask is ignored",
        )
        wire.operation("aiplatform.models.get", "GET", path, self._get, answer="Model")
        wire.operation(
            "aiplatform.models.patch", "PATCH", path, self._patch, body="Model", field="model", answer="Model"
        )
        wire.operation(_DELETE, "DELETE", path, self._delete, answer="Operation")
        versions = "ListModelVersionsResponse"
        wire.operation(
            "aiplatform.models.listVersions", "GET", f"{path}:listVersions", self._list_versions, answer=versions
        )
        wire.operation(
            "aiplatform.models.mergeVersionAliases",
            "POST",
            f"{path}:mergeVersionAliases",
            self._merge_aliases,
            body="MergeVersionAliasesRequest",
            answer="Model",
        )
        wire.operation(_DELETE_VERSION, "DELETE", f"{path}:deleteVersion", self._delete_version, answer="Operation")
        self._register_evaluations(wire, f"{path}/evaluations")

    def _register_evaluations(self, wire: Wire, path: str) -> None:
        wire.operation(
            "aiplatform.models.evaluations.import",
            "POST",
            f"{path}:import",
            self._import_evaluation,
            body="ImportModelEvaluationRequest",
            answer="ModelEvaluation",
        )
        wire.operation(
            "aiplatform.models.evaluations.list",
            "GET",
            path,
            self._list_evaluations,
            answer="ListModelEvaluationsResponse",
        )
        wire.operation(
            "aiplatform.models.evaluations.get",
            "GET",
            f"{path}/<evaluation>",
            self._get_evaluation,
            answer="ModelEvaluation",
        )
        slices = f"{path}/<evaluation>/slices"
        wire.operation(
            "aiplatform.models.evaluations.slices.list",
            "GET",
            slices,
            self._list_slices,
            answer="ListModelEvaluationSlicesResponse",
            differs="of AutoML's models only, one for each label",
        )
        wire.operation(
            "aiplatform.models.evaluations.slices.get",
            "GET",
            f"{slices}/<part>",
            self._get_slice,
            answer="ModelEvaluationSlice",
        )

    def resolve(self, reference: str) -> Document:
        """The Model, at the version meant by a full name such as …/models/flowers@2, …@golden or …/flowers.

        Raises:
            ApiError: 404 when there is no such model, version or alias.
        """
        name, _, version = self._location.canonical(reference).partition("@")
        record = self._existing(name)
        return self._view(record, _version_id(record, version or DEFAULT_ALIAS))

    # Upload

    def _upload(self, project: str, location: str) -> Document:
        parent = self._location.check(project, location)
        request = body()
        model = request.get("model") or {}
        check_display_name(model)
        check_labels(model.get("labels"))
        _check_container(model.get("containerSpec") or {})
        artifact = model.get("artifactUri") or ""
        if artifact and not _IN_BUCKET.fullmatch(artifact):
            raise invalid_field("model.artifact_uri", f"{artifact!r} is not a folder of Cloud Storage (gs://…).")
        aliases = self.check_aliases(model)
        with self._records.transaction():
            name = self._upload_target(parent, request)
            arguments = {
                "name": name,
                "model": model,
                "new": not request.get("parentModel"),
                "aliases": aliases,
                "created": now(),
            }
            return self._operations.start(_UPLOAD, name, arguments)

    def check_aliases(self, model: Mapping[str, Any]) -> list[str]:
        """The aliases that a new version shall have. Raises ApiError 400 for one that is malformed."""
        aliases = list(model.get("versionAliases") or ())
        for alias in aliases:
            _check_alias(alias)
        return aliases

    def _upload_target(self, parent: str, request: Mapping[str, Any]) -> str:
        """The name of the model to create or to extend; refuses an id that is malformed or taken."""
        model_id, parent_model = request.get("modelId"), request.get("parentModel")
        if parent_model:
            if model_id:
                raise invalid_argument("model_id and parent_model exclude one another.")
            given = self._location.canonical(str(parent_model).partition("@")[0])
            name = given if "/" in given else f"{parent}/models/{given}"
            self._existing(name)
            return name
        if model_id is not None and not _MODEL_ID.fullmatch(str(model_id)):
            raise invalid_argument(
                f"model_id {model_id!r} is invalid: up to 63 characters of [a-z0-9_-], not starting with a number"
                " or a hyphen."
            )
        name = f"{parent}/models/{model_id or new_id()}"
        in_flight = any(pending["kind"] == _UPLOAD for pending in self._operations.pending_on(name))
        if in_flight or self._records.get(MODELS, name):
            raise already_exists(f"Model {name} already exists; upload a version of it with parent_model.")
        return name

    def _prepare_upload(self, arguments: Document, stop: threading.Event) -> Work:
        del stop
        model = arguments["model"]
        image = (model.get("containerSpec") or {}).get("imageUri")
        if image:
            # "The container image is ingested upon UploadModel": an image that is not there is found here.
            resolve(image, self._images)
        artifact = str(model.get("artifactUri") or "")
        self._require_readable(artifact)
        if artifact and not self._has_artifact(artifact):
            raise failed_precondition(f'There are no files under "{artifact}" to copy.')
        return Work(lambda: self._add_version(arguments))

    def _require_readable(self, artifact: str) -> None:
        """Vertex AI's own account copies the artifact; how its refusal is worded was never seen."""
        bucket = artifact.removeprefix("gs://").partition("/")[0]
        if not bucket:
            return
        reader = agent("gcp-sa-aiplatform")
        try:
            self._iam.require(reader, "storage.objects.list", f"projects/_/buckets/{bucket}")
        except Refused as refused:
            raise ApiError(
                403,
                "PERMISSION_DENIED",
                f"{refused.email} does not have {refused.permission} access to {artifact}: grant it"
                " roles/storage.objectViewer.",
            ) from refused

    def _add_version(self, arguments: Document) -> Document:
        name, model, moment = arguments["name"], arguments["model"], arguments["created"]
        record = self._records.get(MODELS, name)
        if record is None and not arguments["new"]:
            raise not_found(f"The Model does not exist: {name}.")
        record = record or _new_record(name, model, moment)
        version_id = str(record["nextVersion"])
        record["nextVersion"] += 1
        record["versions"][version_id] = {
            **{key: model[key] for key in _VERSION_FIELDS if key in model},
            "labels": {} if arguments["new"] else model.get("labels") or {},
            "versionAliases": [],
            "versionCreateTime": moment,
            "versionUpdateTime": now(),
        }
        _add_aliases(record, version_id, arguments["aliases"])
        if len(record["versions"]) == 1:
            _add_aliases(record, version_id, [DEFAULT_ALIAS])
        self._records.put(MODELS, name, record)
        return {"model": name, "modelVersionId": version_id}

    # What AutoML trained

    def trained_target(self, parent: str, wanted: Mapping[str, Any]) -> str:
        """The name of the model that a training is to make or to extend.

        Raises:
            ApiError: as an upload, and for a parent that names a version or that AutoML did not train. Whether Google
                takes a parent of custom models is not known [U].
        """
        parent_model = str(wanted.get("parentModel") or "")
        if "@" in parent_model:
            # "Vertex AI is not able to find a resource if it contains this suffix":
            # https://github.com/apache/airflow/pull/39640
            raise not_found(f"The Model does not exist: {parent_model}.")
        name = self._upload_target(parent, wanted)
        if parent_model and any("automl" not in version for version in self._existing(name)["versions"].values()):
            raise failed_precondition(f"The Model {name} was not trained by AutoML: it cannot be the parent.")
        return name

    def reserve(self, parent: str, pipeline: Mapping[str, Any]) -> tuple[str, str]:
        """Name and version of the model of a training that succeeds; it is there after `add_trained`.

        Raises:
            ApiError: when meanwhile the name was taken or the parent deleted.
        """
        name = self.trained_target(parent, pipeline)
        record = self._records.get(MODELS, name)
        if record is None:
            return name, "1"
        version_id = str(record["nextVersion"])
        record["nextVersion"] += 1
        self._records.put(MODELS, name, record)
        return name, version_id

    def add_trained(self, pipeline: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
        """Add the version that a pipeline's `modelToUpload` names, with its evaluation; call in a transaction.

        A parent that was deleted meanwhile stays deleted.
        """
        model, moment = pipeline["modelToUpload"], now()
        name, version_id = model["name"], model["versionId"]
        record = self._records.get(MODELS, name)
        if record is None and pipeline.get("parentModel"):
            return
        record = record or {**_new_record(name, model, moment), "nextVersion": 2}
        counts = trained["counts"]
        record["versions"][version_id] = {
            **{key: model[key] for key in ("versionDescription",) if key in model},
            "labels": model.get("labels") or {} if pipeline.get("parentModel") else {},
            "versionAliases": [],
            "versionCreateTime": moment,
            "versionUpdateTime": moment,
            "metadataSchemaUri": _AUTOML_METADATA,
            "metadata": {
                "modelType": trained["modelType"],
                "trainingDataItemsCount": str(counts["training"]),
                "validationDataItemsCount": str(counts["validation"]),
                "eligibleAsBaseModel": True,
            },
            "predictSchemata": _AUTOML_SCHEMATA,
            "trainingPipeline": pipeline["name"],
            "modelSourceInfo": {"sourceType": "AUTOML"},
            "automl": {key: trained[key] for key in ("folder", "modelType", "labels", "ids")},
        }
        _add_aliases(record, version_id, model.get("versionAliases") or ())
        if len(record["versions"]) == 1:
            _add_aliases(record, version_id, [DEFAULT_ALIAS])
        self._records.put(MODELS, name, record)
        self._evaluate(f"{name}@{version_id}", Answers(**trained["tested"]))

    def _evaluate(self, version: str, tested: Answers) -> None:
        """Add what AutoML says of a version: an evaluation, with a slice for each label."""
        name, moment = f"{version}/evaluations/{new_id()}", now()
        slices = [
            {
                "name": f"{name}/slices/{new_id()}",
                "slice": {"dimension": "annotationSpec", "value": label},
                "metricsSchemaUri": automl.METRICS_SCHEMA,
                "metrics": evaluation.metrics_of_label(tested, place),
                "createTime": moment,
            }
            for place, label in enumerate(tested.labels)
        ]
        document = {
            "name": name,
            "metricsSchemaUri": automl.METRICS_SCHEMA,
            "metrics": evaluation.metrics(tested),
            "createTime": moment,
            "sliceDimensions": ["annotationSpec"],
            "slices": slices,
        }
        self._records.put(_EVALUATIONS, name, document)

    # Reading

    def _get(self, project: str, location: str, model: str) -> Document:
        return self.resolve(f"{self._location.check(project, location)}/models/{model}")

    def _list(self, project: str, location: str) -> Document:
        self._location.check(project, location)
        found = self._records.all(MODELS)
        return pages.answer(
            _LISTING, [(sequence, self._view(record, _version_id(record, DEFAULT_ALIAS))) for sequence, record in found]
        )

    def _list_versions(self, project: str, location: str, model: str) -> Document:
        record = self._existing(f"{self._location.check(project, location)}/models/{model.partition('@')[0]}")
        views = []
        for version_id in record["versions"]:
            # Google: "In the returned Model name field, version ID … will be included."
            view = self._view(record, version_id)
            views.append((int(version_id), {**view, "name": f"{record['name']}@{version_id}"}))
        return pages.answer(_VERSIONS_LISTING, views)

    def _existing(self, name: str) -> Document:
        record = self._records.get(MODELS, name)
        if record is None:
            raise not_found(f"The Model does not exist: {name}.")
        return record

    def _view(self, record: Document, version_id: str) -> Document:
        """The Model resource as Google shows it: the model's own fields and those of one version."""
        version = record["versions"][version_id]
        # Google: "Both the model labels and the version labels are merged when a model is returned."
        labels = {**record["model"].get("labels", {}), **version["labels"]}
        deployed = [
            {"endpoint": endpoint, "deployedModelId": deployed_id}
            for endpoint, deployed_id, deployed_version in self._deployments(record["name"])
            if deployed_version == version_id
        ]
        return {
            "name": record["name"],
            **record["model"],
            **version,
            "versionId": version_id,
            "labels": labels,
            "deployedModels": deployed,
            **(automl.supported(version["automl"]["modelType"]) if "automl" in version else _SUPPORTED),
        }

    def _deployments(self, name: str) -> Iterable[tuple[str, str, str]]:
        """(endpoint, deployed model id, version id) of each deployment of the model."""
        for _, endpoint in self._records.all("endpoints"):
            for deployed in endpoint["deployedModels"]:
                if deployed["model"].partition("@")[0] == name:
                    yield endpoint["name"], deployed["id"], deployed["modelVersionId"]

    # Changing

    def _patch(self, project: str, location: str, model: str) -> Document:
        name = f"{self._location.check(project, location)}/models/{model.partition('@')[0]}"
        version = model.partition("@")[2].removeprefix("-")
        # Google: the model's fields and a version's fields cannot be updated in one request.
        paths = ("labels", "versionDescription") if version else ("labels", "displayName", "description")
        keys = update_mask({path: path for path in paths})
        wanted = body()
        check_labels(wanted.get("labels"))
        with self._records.transaction():
            record = self._existing(name)
            target = record["versions"][_version_id(record, version)] if version else record["model"]
            for key in keys:
                target[key] = wanted.get(key, {} if key == "labels" else "")
            target["versionUpdateTime" if version else "updateTime"] = now()
            check_display_name(record["model"])
            self._records.put(MODELS, name, record)
            return self._view(record, _version_id(record, version or DEFAULT_ALIAS))

    def _merge_aliases(self, project: str, location: str, model: str) -> Document:
        name, _, version_id = f"{self._location.check(project, location)}/models/{model}".partition("@")
        aliases = body().get("versionAliases") or []
        if not version_id.isdigit():
            raise invalid_argument("name must include a version id, such as models/flowers@1.")
        if not aliases:
            raise invalid_argument("version_aliases is required.")
        for alias in aliases:
            _check_alias(str(alias).removeprefix("-"))
        # Google: adding and deleting the same alias in one request cancel each other out.
        added = [alias for alias in aliases if not alias.startswith("-") and f"-{alias}" not in aliases]
        removed = [alias[1:] for alias in aliases if alias.startswith("-") and alias[1:] not in aliases]
        if DEFAULT_ALIAS in removed:
            raise invalid_argument("The default alias cannot be removed, only given to another version.")
        with self._records.transaction():
            record = self._existing(name)
            version = record["versions"][_version_id(record, version_id)]
            version["versionAliases"] = [alias for alias in version["versionAliases"] if alias not in removed]
            _add_aliases(record, version_id, added)
            self._records.put(MODELS, name, record)
            return self._view(record, version_id)

    # Deleting

    def _delete(self, project: str, location: str, model: str) -> Document:
        name = f"{self._location.check(project, location)}/models/{model}"
        with self._records.transaction():
            self._existing(name)
            self._refuse_deployed(name, None)
            return self._operations.start(_DELETE, name, {"name": name})

    def _remove(self, arguments: Document) -> None:
        self._refuse_deployed(arguments["name"], None)
        self._records.remove(MODELS, arguments["name"])
        for _, evaluated in self._records.all(_EVALUATIONS):
            if evaluated["name"].startswith(arguments["name"] + "/"):
                self._records.remove(_EVALUATIONS, evaluated["name"])

    def _delete_version(self, project: str, location: str, model: str) -> Document:
        name, _, version_id = f"{self._location.check(project, location)}/models/{model}".partition("@")
        if not version_id.isdigit():
            raise invalid_argument("name must include a version id, such as models/flowers@1.")
        with self._records.transaction():
            self._refuse_version(name, version_id)
            return self._operations.start(_DELETE_VERSION, name, {"name": name, "version": version_id})

    def _remove_version(self, arguments: Document) -> None:
        record = self._refuse_version(arguments["name"], arguments["version"])
        del record["versions"][arguments["version"]]
        self._records.put(MODELS, arguments["name"], record)

    def _refuse_version(self, name: str, version_id: str) -> Document:
        """The model's record, unless this version of it must stay."""
        record = self._existing(name)
        version = record["versions"][_version_id(record, version_id)]
        if DEFAULT_ALIAS in version["versionAliases"]:
            raise failed_precondition(
                f"Version {version_id} of {name} is the default version: give the default alias to another version"
                " first, or delete the model."
            )
        self._refuse_deployed(name, version_id)
        return record

    def _refuse_deployed(self, name: str, version_id: str | None) -> None:
        for endpoint, deployed_id, deployed_version in self._deployments(name):
            if version_id in {None, deployed_version}:
                raise failed_precondition(
                    f"The Model {name} is deployed at {endpoint} as {deployed_id}: undeploy it before deleting it."
                )

    # Evaluations

    def _import_evaluation(self, project: str, location: str, model: str) -> Document:
        evaluated = self._get(project, location, model)
        given = body().get("modelEvaluation") or {}
        if not given.get("metricsSchemaUri") or "metrics" not in given:
            raise invalid_argument("model_evaluation.metrics_schema_uri and model_evaluation.metrics are required.")
        stored = {
            **given,
            "name": f"{evaluated['name']}@{evaluated['versionId']}/evaluations/{new_id()}",
            "createTime": now(),
        }
        self._records.put(_EVALUATIONS, stored["name"], stored)
        return stored

    def _list_evaluations(self, project: str, location: str, model: str) -> Document:
        evaluated = self._get(project, location, model)
        prefix = f"{evaluated['name']}@{evaluated['versionId']}/evaluations/"
        found = self._records.all(_EVALUATIONS)
        return pages.answer(_EVALUATIONS_LISTING, [pair for pair in found if pair[1]["name"].startswith(prefix)])

    def _list_slices(self, project: str, location: str, model: str, evaluation: str) -> Document:
        found = self._get_evaluation(project, location, model, evaluation)
        return pages.answer(_SLICES_LISTING, enumerate(found.get("slices", ())))

    def _get_slice(self, project: str, location: str, model: str, evaluation: str, part: str) -> Document:
        for found in self._get_evaluation(project, location, model, evaluation).get("slices", ()):
            if last_segment(found["name"]) == part:
                each: Document = found
                return each
        raise not_found(f"The ModelEvaluationSlice does not exist: {model}/evaluations/{evaluation}/slices/{part}.")

    def _get_evaluation(self, project: str, location: str, model: str, evaluation: str) -> Document:
        name = f"{self._location.check(project, location)}/models/{model.partition('@')[0]}"
        for _, found in self._records.all(_EVALUATIONS):
            if found["name"].startswith(name + "@") and last_segment(found["name"]) == evaluation:
                return found
        raise not_found(f"The ModelEvaluation does not exist: {name}/evaluations/{evaluation}.")


def _new_record(name: str, model: Mapping[str, Any], moment: str) -> Document:
    own = {key: model[key] for key in ("displayName", "description", "labels") if key in model}
    return {
        "name": name,
        "model": {**own, "createTime": moment, "updateTime": now(), "etag": new_etag()},
        "versions": {},
        "nextVersion": 1,
    }


def _version_id(record: Mapping[str, Any], reference: str) -> str:
    """The version that a version id or an alias means."""
    for version_id, version in record["versions"].items():
        if reference == version_id or reference in version["versionAliases"]:
            return str(version_id)
    raise not_found(f"The Model version does not exist: {record['name']}@{reference}.")


def _add_aliases(record: Document, version_id: str, aliases: Iterable[str]) -> None:
    """Give `aliases` to a version; an alias belongs to one version, so another one loses it."""
    for alias in aliases:
        for other in record["versions"].values():
            other["versionAliases"] = [held for held in other["versionAliases"] if held != alias]
        record["versions"][version_id]["versionAliases"].append(alias)


def _check_container(container: Mapping[str, Any]) -> None:
    """Refuse what Vertex AI refuses of a ModelContainerSpec. Raises ApiError 400.

    Source: ModelContainerSpec, and "Custom container requirements": variables that begin with AIP_ are Vertex AI's own.
    """
    field = "model.container_spec"
    if container and not container.get("imageUri"):
        raise invalid_field(f"{field}.image_uri", "image_uri is required.")
    for variable in container.get("env") or ():
        if str(variable.get("name", "")).startswith("AIP_"):
            raise invalid_field(f"{field}.env", f"{variable['name']}: names that begin with AIP_ are reserved.")
    for port in container.get("ports") or ():
        if not 1 <= whole_number(port.get("containerPort"), f"{field}.ports") <= 65535:
            raise invalid_field(f"{field}.ports", "container_port must be from 1 to 65535.")
    for route in ("predictRoute", "healthRoute"):
        if container.get(route) and not container[route].startswith("/"):
            raise invalid_field(f"{field}.{route}", f"{container[route]!r} must begin with a slash.")


def _check_alias(alias: object) -> None:
    if not isinstance(alias, str) or not _ALIAS.fullmatch(alias):
        raise invalid_argument(f"Version alias {alias!r} is invalid: it must match {_ALIAS.pattern}.")
