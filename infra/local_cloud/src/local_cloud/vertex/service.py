"""The Vertex AI of the local cloud: composes its resources into one server."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from local_cloud.api import Api
from local_cloud.faults import Faults
from local_cloud.http import HttpServer
from local_cloud.iam import PREDICTOR, VERTEX, Gate, Iam, refusals
from local_cloud.vertex.automl import AutoMl
from local_cloud.vertex.custom_jobs import CustomJobs
from local_cloud.vertex.datasets import Datasets
from local_cloud.vertex.deployments import Host
from local_cloud.vertex.endpoints import Endpoints
from local_cloud.vertex.exports import Exports
from local_cloud.vertex.images import Image
from local_cloud.vertex.imports import READERS
from local_cloud.vertex.job_log import JobLog
from local_cloud.vertex.job_run import Machine
from local_cloud.vertex.models import Models
from local_cloud.vertex.names import Location
from local_cloud.vertex.objects import Objects
from local_cloud.vertex.operations import Operations
from local_cloud.vertex.permissions import resources_of
from local_cloud.vertex.predictions import Predictions, Served, nobody_counts
from local_cloud.vertex.records import Records
from local_cloud.vertex.servers import ModelServers
from local_cloud.vertex.sleep import Sleepers
from local_cloud.vertex.traffic import Draw
from local_cloud.vertex.training_pipelines import TrainingPipelines
from local_cloud.vertex.wire import Wire


def _register_what_nobody_makes(wire: Wire) -> None:
    """A list of resources that this API cannot create: clients look at it all the same, and find nothing."""
    wire.operation(
        "aiplatform.deploymentResourcePools.list",
        "GET",
        "/deploymentResourcePools",
        _nothing,
        answer="ListDeploymentResourcePoolsResponse",
        differs="none can be made, so none is there",
    )


def _nothing(project: str, location: str) -> dict[str, Any]:
    del project, location
    return {}


class Vertex:
    """aiplatform.googleapis.com on loopback: custom jobs, AutoML, Model Registry, endpoints, operations.

    Args:
        state_dir: holds the records (`vertex.sqlite`), `jobs/<id>/log` and `endpoints/<id>/<id>/log`; what was
            answered before a restart is still there after it.
        storage_address: host:port of the Cloud Storage that `/gcs/<bucket>` paths are read from and written to.
        environment: variables that a child process gets on top, asked for at each start with the account that it
            runs as (`serviceAccount:…`).
        iam: judges callers (default: there is the owner alone).
        images: what stands for a container image, by the base name of its repository.
        automl: what stands for AutoML; without it nothing is trained.
        publish_log: receives the LogEntry of each job that ends; called from the job's thread.
        python: replaces a leading "python" of an image's command.
        operation_seconds: how long an operation takes at least, and a job to be provisioned.
        max_running_jobs: further jobs wait as JOB_STATE_PENDING.
        grace_seconds: between SIGTERM and SIGKILL when a job is cancelled or takes too long.
        server_start_seconds: after which a model server that never became healthy fails its deployment.
        seed: makes the draws of the traffic split repeatable.
        has_artifact: whether there is an object under a gs:// folder; a model without its artifact is not uploaded.
        quotas: limits of the region by metric, which unfinished jobs and deployed models take from; none where it is
            -1, or not named.
        on_served: told of each answer of a model server; Cloud Monitoring counts them.
        idle_clock: seconds by which a model that scales to zero falls asleep; a test need not wait for five minutes.
        stream_output: `publish_log` also receives each line that a job prints, as an unfiltered sink would.
    """

    def __init__(
        self,
        *,
        faults: Faults,
        state_dir: Path | str,
        project: str,
        region: str,
        storage_address: str,
        environment: Callable[[str], Mapping[str, str]],
        images: Mapping[str, Image],
        automl: AutoMl | None = None,
        publish_log: Callable[[dict[str, Any]], None],
        python: str = sys.executable,
        port: int = 0,
        operation_seconds: float = 0.5,
        max_running_jobs: int = 2,
        grace_seconds: float = 5.0,
        server_start_seconds: float = 180.0,
        seed: int | None = None,
        stream_output: bool = False,
        on_served: Served = nobody_counts,
        quotas: Callable[[], Mapping[str, int]] = dict,
        has_artifact: Callable[[str], bool] = lambda _uri: True,
        idle_clock: Callable[[], float] = time.monotonic,
        iam: Iam | None = None,
    ) -> None:
        self._closed = False
        state_dir = Path(state_dir).resolve()
        location = Location(project, region)
        iam = iam or Iam.of_one_owner()
        self.api = Api(
            "vertex",
            faults=faults,
            gate=Gate(iam, functools.partial(resources_of, project=iam.project)),
            refuse=refusals.in_location(f"projects/{project}/locations/{region}"),
        )
        self._server = HttpServer(self.api.app, name="vertex", port=port, callers=iam.callers)
        self.address, self.addresses = self._server.address, self._server.addresses
        self._records = Records(state_dir / "vertex.sqlite")
        self._operations = Operations(
            records=self._records, location=location, faults=faults, operation_seconds=operation_seconds
        )
        self._servers = ModelServers()
        self._jobs = CustomJobs(
            records=self._records,
            location=location,
            operations=self._operations,
            faults=faults,
            machine=Machine(images, python, environment, storage_address, project, grace_seconds),
            quotas=quotas,
            iam=iam,
            log=JobLog(project=project, region=region, publish=publish_log, stream_output=stream_output),
            folder=state_dir / "jobs",
            provisioning_seconds=operation_seconds,
            max_running=max_running_jobs,
        )
        models = Models(
            records=self._records,
            location=location,
            operations=self._operations,
            images=images,
            iam=iam,
            has_artifact=has_artifact,
        )
        sleepers = Sleepers(wake_seconds=operation_seconds, clock=idle_clock)
        self._endpoints = Endpoints(
            records=self._records,
            location=location,
            operations=self._operations,
            models=models,
            servers=self._servers,
            host=Host(
                images, automl.server if automl else None, python, lambda: environment(PREDICTOR), location.number
            ),
            folder=state_dir / "endpoints",
            sleepers=sleepers,
            quotas=quotas,
            server_start_seconds=server_start_seconds,
        )
        predictions = Predictions(
            location=location,
            endpoints=self._endpoints,
            models=models,
            servers=self._servers,
            draw=Draw(seed),
            sleepers=sleepers,
            on_served=on_served,
        )

        def storage_of_vertex() -> str:
            return environment(VERTEX).get("STORAGE_EMULATOR_HOST", "").removeprefix("http://") or storage_address

        objects = Objects(storage_of_vertex, connections=READERS)
        datasets = Datasets(records=self._records, location=location, operations=self._operations, objects=objects)
        self._pipelines = TrainingPipelines(
            records=self._records,
            location=location,
            operations=self._operations,
            faults=faults,
            datasets=datasets,
            models=models,
            objects=objects,
            means=automl,
            python=python,
            environment=lambda: environment(VERTEX),
            folder=state_dir / "automl",
            provisioning_seconds=operation_seconds,
        )
        exports = Exports(location=location, operations=self._operations, models=models, objects=objects)
        # The specific paths (endpoints/ID:predict) before the general ones (endpoints/ID).
        wire = Wire(self.api)
        for resource in (
            predictions,
            exports,
            self._operations,
            self._jobs,
            models,
            self._endpoints,
            datasets,
            self._pipelines,
        ):
            resource.register(wire)
        _register_what_nobody_makes(wire)

    def start(self) -> Vertex:
        """Serve, and take up what the last process left: servers, operations, waiting jobs."""
        self._endpoints.resume()
        self._operations.resume()
        self._jobs.resume()
        self._pipelines.resume()
        self._server.start()
        return self

    def resources(self, collection: str) -> list[dict[str, Any]]:
        """Every resource of `customJobs`, `models`, `endpoints`, `trainingPipelines` or `datasets`, newest first."""
        return [resource for _, resource in reversed(self._records.all(collection))]

    def close(self) -> None:
        """Stop serving and end every child process; running jobs will be found lost, as after a crash.

        Closing twice is harmless.
        """
        if self._closed:
            return
        self._closed = True
        self._server.close()
        self._jobs.close()
        self._pipelines.close()
        self._operations.close()
        self._servers.close()
        self._records.close()
