"""Google's messages made from our values, and the other way round."""

from __future__ import annotations

import datetime
from typing import Any

from dualdeploy import lazily
from dualdeploy.errors import (
    RejectedByGoogle,
)
from dualdeploy.google.vertex.types import (
    CustomJobSpec,
    DeployedModel,
    Deployment,
    Endpoint,
    Job,
    ModelSpec,
    ModelVersion,
    RequestLogging,
    ScaleToZero,
)


def custom_job(spec: CustomJobSpec) -> Any:
    types = lazily.load("google.cloud.aiplatform_v1.types")
    duration_pb2 = lazily.load("google.protobuf.duration_pb2")

    machine = machine_spec(spec.machine, spec.accelerator_type, spec.accelerator_count)
    scheduling = types.Scheduling(timeout=duration_pb2.Duration(seconds=int(spec.timeout)))
    if spec.strategy == "spot":
        scheduling.strategy = types.Scheduling.Strategy.SPOT
    elif spec.strategy == "flex_start":
        scheduling.strategy = types.Scheduling.Strategy.FLEX_START
        scheduling.max_wait_duration = duration_pb2.Duration(seconds=int(spec.wait))
    if spec.replicas > 1:
        # Workers that learn together cannot go on without one of them: all start again, from the last checkpoint.
        scheduling.restart_job_on_worker_restart = True

    def pool(replicas: int) -> Any:
        return types.WorkerPoolSpec(
            machine_spec=machine,
            replica_count=replicas,
            disk_spec=types.DiskSpec(boot_disk_type="pd-ssd", boot_disk_size_gb=spec.disk_gb),
            container_spec=types.ContainerSpec(
                image_uri=spec.image,
                args=list(spec.arguments),
                env=[types.EnvVar(name=name, value=value) for name, value in spec.environment.items()],
            ),
        )

    return types.CustomJob(
        display_name=spec.display_name,
        labels=dict(spec.labels),
        job_spec=types.CustomJobSpec(
            # The first pool is the chief and has one machine; Vertex AI names both pools in TF_CONFIG.
            worker_pool_specs=[pool(1), pool(spec.replicas - 1)] if spec.replicas > 1 else [pool(1)],
            scheduling=scheduling,
            service_account=spec.service_account,
            base_output_directory=types.GcsDestination(output_uri_prefix=spec.output_directory),
        ),
    )


def deployed_model(deployment: Deployment) -> Any:
    types = lazily.load("google.cloud.aiplatform_v1.types")

    if deployment.automatic:
        # Neither an account nor the logs of a container: there is no container of ours.
        return types.DeployedModel(
            id=deployment.id,
            model=deployment.model,
            display_name=deployment.display_name,
            automatic_resources=types.AutomaticResources(
                min_replica_count=deployment.min_replicas, max_replica_count=deployment.max_replicas
            ),
        )
    return types.DeployedModel(
        id=deployment.id,
        model=deployment.model,
        display_name=deployment.display_name,
        service_account=deployment.service_account,
        disable_container_logging=not deployment.container_log,
        enable_access_logging=deployment.access_log,
        dedicated_resources=types.DedicatedResources(
            machine_spec=machine_spec(deployment.machine, deployment.accelerator_type, deployment.accelerator_count),
            min_replica_count=deployment.min_replicas,
            max_replica_count=deployment.max_replicas,
            autoscaling_metric_specs=[
                types.AutoscalingMetricSpec(metric_name=name, target=target)
                for name, target in sorted(deployment.targets.items())
            ],
            spot=deployment.spot,
        ),
    )


def to_zero(usual: Any, to_zero: ScaleToZero) -> Any:
    """A `DeployedModel` of v1 as one of v1beta1, which has the same fields with the same numbers, and what v1 lacks."""
    types = lazily.load("google.cloud.aiplatform_v1beta1.types")
    duration_pb2 = lazily.load("google.protobuf.duration_pb2")

    deployed = types.DeployedModel.deserialize(type(usual).serialize(usual))
    resources = deployed.dedicated_resources
    resources.initial_replica_count, resources.min_replica_count = resources.min_replica_count, 0
    resources.scale_to_zero_spec = types.DedicatedResources.ScaleToZeroSpec(
        idle_scaledown_period=duration_pb2.Duration(seconds=int(to_zero.idle)),
        min_scaleup_period=duration_pb2.Duration(seconds=int(to_zero.warm)),
    )
    return deployed


def machine_spec(machine: str, accelerator: str, count: int) -> Any:
    """A `MachineSpec`. Raises RejectedByGoogle for an accelerator that Vertex AI does not have."""
    types = lazily.load("google.cloud.aiplatform_v1.types")

    spec = types.MachineSpec(machine_type=machine)
    if count:
        if accelerator not in types.AcceleratorType.__members__:
            known = ", ".join(sorted(types.AcceleratorType.__members__))
            raise RejectedByGoogle(f"Vertex AI has no accelerator {accelerator!r}; it has {known}")
        spec.accelerator_type = types.AcceleratorType[accelerator]
        spec.accelerator_count = count
    return spec


def model(spec: ModelSpec) -> Any:
    types = lazily.load("google.cloud.aiplatform_v1.types")

    return types.Model(
        display_name=spec.display_name,
        description=spec.description,
        artifact_uri=spec.artifact_uri,
        labels=dict(spec.labels),
        version_aliases=list(spec.aliases),
        version_description=spec.description,
        container_spec=types.ModelContainerSpec(
            image_uri=spec.image,
            env=[types.EnvVar(name=name, value=value) for name, value in spec.environment.items()],
            ports=[types.Port(container_port=spec.port)],
            predict_route=spec.predict_route,
            health_route=spec.health_route,
        ),
    )


def model_version(model: Any) -> ModelVersion:
    return ModelVersion(
        name=model.name.split("@", 1)[0],
        version=model.version_id,
        aliases=tuple(model.version_aliases),
        artifact_uri=model.artifact_uri,
        labels=dict(model.labels),
        resources=tuple(each.name for each in model.supported_deployment_resources_types),
    )


def endpoint(endpoint: Any) -> Endpoint:
    return Endpoint(
        name=endpoint.name,
        deployed=tuple(
            DeployedModel(deployed.id, deployed.model, deployed.model_version_id, deployed.display_name)
            for deployed in endpoint.deployed_models
        ),
        traffic=dict(endpoint.traffic_split),
        dns=endpoint.dedicated_endpoint_dns,
        labels=dict(endpoint.labels),
        etag=endpoint.etag,
        request_logging=request_logging(endpoint.predict_request_response_logging_config),
        dedicated=endpoint.dedicated_endpoint_enabled,
    )


def request_logging(config: Any) -> RequestLogging | None:
    # A double of the wire, a share as people write it: 0.1 must equal 0.1.
    return (
        RequestLogging(config.bigquery_destination.output_uri, round(config.sampling_rate, 6))
        if config.enabled
        else None
    )


def job(job: Any) -> Job:
    return Job(
        name=job.name,
        # A state that this client library does not know yet arrives as a bare number.
        state=getattr(job.state, "name", str(job.state)),
        labels=dict(job.labels),
        error=job.error.message if job.error else "",
        error_code=int(job.error.code) if job.error else 0,
        created=moment(job.create_time),
        started=moment(job.start_time),
        ended=moment(job.end_time),
    )


def moment(value: Any) -> datetime.datetime | None:
    return datetime.datetime.fromtimestamp(value.timestamp(), datetime.UTC) if value else None
