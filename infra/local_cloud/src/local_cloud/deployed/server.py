"""The APIs that tell what is deployed, on one address.

Cloud Run, Eventarc, Cloud Scheduler, Cloud Logging, IAM, Resource Manager, Service Usage and Cloud Quotas: their paths
do not meet, so one server stands for all of their hosts.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flask

from local_cloud.api import Api, ApiError
from local_cloud.cloud_logging import LogSinks
from local_cloud.deployed import resources
from local_cloud.deployed.state import Project, Revision
from local_cloud.eventarc import Eventarc
from local_cloud.faults import Faults
from local_cloud.http import HttpServer
from local_cloud.iam import PROJECT_NUMBER, Gate, Iam, refusals
from local_cloud.scheduler import Scheduler
from local_cloud.topology import Topology

_LOCATION = "/projects/<project>/locations/<location>"
_SHOWN = "always in version 3"


class Deployed:
    """Answers for GOOGLE_APIS_EMULATOR_HOST. `revision(name)` is what runs behind a service, or None."""

    def __init__(
        self,
        *,
        faults: Faults,
        topology: Topology,
        project: Project,
        iam: Iam,
        eventarc: Eventarc,
        scheduler: Scheduler,
        sinks: LogSinks,
        revision: Callable[[str], Revision | None],
        port: int = 0,
    ) -> None:
        self._topology = topology
        self._project = project
        self._iam = iam
        self._eventarc = eventarc
        self._scheduler = scheduler
        self._sinks = sinks
        self._revision = revision
        self._created = datetime.datetime.now(datetime.UTC)
        self.api = Api("deployed", faults=faults, gate=Gate(iam, self._resources_of), refuse=refusals.of_named_resource)
        self._add_routes()
        self._server = HttpServer(self.api.app, name="deployed", port=port, threads=8, callers=iam.callers)
        self.address, self.addresses = self._server.address, self._server.addresses

    def start(self) -> Deployed:
        self._server.start()
        return self

    def close(self) -> None:
        self._server.close()

    def _add_routes(self) -> None:
        operation = self.api.operation
        service = f"/v2{_LOCATION}/services/<service>"
        operation(
            "run.services.get",
            "GET",
            service,
            differs="a revision is a process; what no stack started has no variables",
        )(self.service)
        operation("run.services.getIamPolicy", "GET", f"{service}:getIamPolicy", differs=_SHOWN)(self.service_policy)
        operation("eventarc.triggers.get", "GET", f"/v1{_LOCATION}/triggers/<trigger>")(self.trigger)
        operation(
            "cloudscheduler.jobs.get", "GET", f"/v1{_LOCATION}/jobs/<job>", differs="its beat is the local cloud's own"
        )(self.job)
        operation("logging.sinks.get", "GET", "/v2/projects/<project>/sinks/<sink>")(self.sink)
        account = "/v1/projects/<project>/serviceAccounts/<account>"
        operation("iam.serviceAccounts.get", "GET", account)(self.account)
        operation("iam.serviceAccounts.getIamPolicy", "POST", f"{account}:getIamPolicy", differs=_SHOWN)(
            self.account_policy
        )
        operation("resourcemanager.projects.get", "GET", "/v1/projects/<project>")(self.project)
        operation(
            "resourcemanager.projects.getIamPolicy", "POST", "/v1/projects/<project>:getIamPolicy", differs=_SHOWN
        )(self.project_policy)
        operation("firebase.projects.get", "GET", "/v1beta1/projects/<project>")(self.firebase)
        operation(
            "serviceusage.services.batchGet",
            "GET",
            "/v1/projects/<project>/services:batchGet",
            differs="every API is on that the control API has not turned off; one that is off answers all the same",
        )(self.apis)
        operation(
            "cloudquotas.quotaInfos.list",
            "GET",
            f"/v1{_LOCATION}/services/<service>/quotaInfos",
            differs="what the control API says, of the metrics that jobs take from",
        )(self.quotas)

    def _resources_of(self, kind: str, request: flask.Request) -> Iterator[str]:
        """The resource that a request names by its path: a service, an account, or the project."""
        names, project = request.view_args or {}, f"projects/{self._iam.project}"
        if kind == "service":
            yield f"{project}/locations/{names['location']}/services/{names['service']}"
        elif kind == "account":
            yield f"{project}/serviceAccounts/{names['account']}"
        else:
            yield project

    def service(self, project: str, location: str, service: str) -> Any:
        name = self._own(project, location, service)
        revision = self._revision(name)
        if revision is None:
            raise _not_found(f"Resource '{service}' of kind 'SERVICE' in region '{location}'")
        account = self._project.runs_as.get(name) or f"{service}@{project}.iam.gserviceaccount.com"
        image = self._topology.image_uri(service)
        path = f"projects/{project}/locations/{location}/services/{service}"
        return resources.service(path, revision, account=account, image=image, created=self._created)

    def service_policy(self, project: str, location: str, service: str) -> Any:
        self._own(project, location, service)
        return self._iam.policy(f"projects/{project}/locations/{location}/services/{service}")

    def trigger(self, project: str, location: str, trigger: str) -> Any:
        path = f"projects/{project}/locations/{location}/triggers/{trigger}"
        for each in self._eventarc.triggers:
            if each.name == trigger:
                caller = self._topology.caller_of(each.service)
                return resources.trigger(path, each, account=caller, created=self._created)
        raise _not_found(f"Resource '{path}'")

    def job(self, project: str, location: str, job: str) -> Any:
        found = self._scheduler.jobs.get(job)
        if found is None:
            raise _not_found(f"Job 'projects/{project}/locations/{location}/jobs/{job}'")
        path = f"projects/{project}/locations/{location}/jobs/{job}"
        topic = self._topology.topic_path(found.schedule.topic)
        return resources.job(path, found, topic=topic, created=self._created)

    def sink(self, project: str, sink: str) -> Any:
        found = self._sinks.find(sink)
        if found is None:
            raise ApiError(404, "NOT_FOUND", f"Sink {sink} does not exist")
        return resources.sink(found, project=project, created=self._created)

    def account(self, project: str, account: str) -> Any:
        if account not in self._iam.accounts:
            raise _not_found(f"Service account projects/{project}/serviceAccounts/{account}")
        return resources.account(account, project=project, is_disabled=self._iam.accounts[account])

    def account_policy(self, project: str, account: str) -> Any:
        return self._iam.policy(f"projects/{project}/serviceAccounts/{account}")

    def project(self, project: str) -> Any:
        self._require_project(project)
        return resources.project(project, created=self._created)

    def firebase(self, project: str) -> Any:
        self._require_project(project)
        if not self._project.is_firebase:
            raise ApiError(404, "NOT_FOUND", "Requested entity was not found.")
        return {
            "projectId": project,
            "projectNumber": PROJECT_NUMBER,
            "displayName": project,
            "name": f"projects/{project}",
            "resources": {"storageBucket": f"{project}.firebasestorage.app"},
            "state": "ACTIVE",
        }

    def project_policy(self, project: str) -> Any:
        self._require_project(project)
        return self._iam.policy(f"projects/{project}")

    def apis(self, project: str) -> Any:
        self._require_project(project)
        names = flask.request.args.getlist("names")
        if len(names) > 30:
            raise ApiError(400, "INVALID_ARGUMENT", f"{len(names)} names: at most 30 services in one call.")
        return {"services": [self._api(name) for name in names]}

    def _api(self, name: str) -> Mapping[str, Any]:
        api = name.rsplit("/", 1)[-1]
        state = "DISABLED" if api in self._iam.apis_off else "ENABLED"
        return {"name": f"projects/{PROJECT_NUMBER}/services/{api}", "config": {"name": api}, "state": state}

    def quotas(self, project: str, location: str, service: str) -> Any:
        prefix = f"projects/{project}/locations/{location}/services/{service}/quotaInfos"
        region = self._topology.region
        return {
            "quotaInfos": [
                {
                    "name": f"{prefix}/{metric.rsplit('/', 1)[-1]}",
                    "quotaId": quota_id(metric),
                    "metric": metric,
                    "service": service,
                    "dimensions": ["region"],
                    "dimensionsInfos": [
                        {
                            "dimensions": {"region": region},
                            "details": {"value": str(limit)},
                            "applicableLocations": [region],
                        }
                    ],
                }
                for metric, limit in self._project.quotas.items()
            ]
        }

    def _own(self, project: str, location: str, service: str) -> str:
        """The topology's name of a service; its name on Google Cloud has hyphens."""
        self._require_project(project)
        name = service.replace("-", "_")
        if name not in self._topology.deployed or location != self._topology.region:
            raise _not_found(f"Resource '{service}' of kind 'SERVICE' in region '{location}'")
        return name

    def _require_project(self, project: str) -> None:
        if project != self._topology.project:
            raise ApiError(403, "PERMISSION_DENIED", f"Project '{project}' not found or deleted.")


def quota_id(metric: str) -> str:
    """CustomModelTrainingPreemptibleT4GPUsPerProjectPerRegion of …/custom_model_training_preemptible_nvidia_t4_gpus."""
    *words, what = metric.rsplit("/", 1)[-1].replace("nvidia_", "").split("_")
    kind = {"gpus": "GPUs", "cpus": "CPUs"}.get(what, what.capitalize())
    return "".join(word.capitalize() for word in words) + f"{kind}PerProjectPerRegion"


def _not_found(what: str) -> ApiError:
    return ApiError(404, "NOT_FOUND", f"{what} was not found.")
