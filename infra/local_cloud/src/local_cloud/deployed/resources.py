"""Deployed resources as their APIs write them, with what Google fills in. Sources: recorded answers of each API."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from local_cloud.cloud_logging.sinks import Sink
from local_cloud.deployed.state import Revision
from local_cloud.eventarc import transport
from local_cloud.iam import PROJECT_NUMBER, agent
from local_cloud.scheduler import Job
from local_cloud.topology import Trigger

_PORT = 8080


def service(path: str, revision: Revision, *, account: str, image: str, created: datetime.datetime) -> dict[str, Any]:
    """A google.cloud.run.v2.Service; `path` is its full name."""
    name = path.rpartition("/")[2]
    newest = revision.number + 1 if revision.failed else revision.number
    moment = time_of(created)
    return {
        "name": path,
        "uid": _uid(path),
        "generation": str(newest),
        "createTime": moment,
        "updateTime": moment,
        "ingress": "INGRESS_TRAFFIC_ALL",
        "launchStage": "GA",
        "template": {
            "serviceAccount": account,
            "timeout": "300s",
            "maxInstanceRequestConcurrency": 80,
            "containers": [_container(image, revision.environment)],
        },
        "traffic": [_latest()],
        "observedGeneration": str(newest),
        "terminalCondition": {**_condition("Ready", revision.problem or revision.failed), "lastTransitionTime": moment},
        "conditions": [
            {**_condition("RoutesReady", revision.problem), "lastTransitionTime": moment},
            {**_condition("ConfigurationsReady", revision.failed), "lastTransitionTime": moment},
        ],
        "latestReadyRevision": f"{path}/revisions/{_revision_name(name, revision.number)}",
        "latestCreatedRevision": f"{path}/revisions/{_revision_name(name, newest)}",
        "trafficStatuses": [_latest()],
        "uri": revision.uri,
        "urls": [revision.uri],
        "etag": f'"{_etag(path, newest)}"',
    }


def _container(image: str, environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        "image": image,
        "env": [{"name": key, "value": value} for key, value in sorted(environment.items())],
        "resources": {"limits": {"cpu": "1000m", "memory": "512Mi"}, "cpuIdle": True},
        "ports": [{"name": "http1", "containerPort": _PORT}],
        "startupProbe": {
            "timeoutSeconds": 240,
            "periodSeconds": 240,
            "failureThreshold": 1,
            "tcpSocket": {"port": _PORT},
        },
    }


def _latest() -> dict[str, Any]:
    return {"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}


def _condition(kind: str, problem: str) -> dict[str, Any]:
    if problem:
        return {"type": kind, "state": "CONDITION_FAILED", "message": problem}
    return {"type": kind, "state": "CONDITION_SUCCEEDED"}


def _revision_name(service_name: str, number: int) -> str:
    """Numbered, with three letters that nobody can foresee."""
    digest = hashlib.sha256(f"{service_name}/{number}".encode()).digest()
    return f"{service_name}-{number:05d}-{''.join(chr(ord('a') + byte % 26) for byte in digest[:3])}"


def trigger(path: str, found: Trigger, *, account: str, created: datetime.datetime) -> dict[str, Any]:
    """A google.cloud.eventarc.v1.Trigger; `path` is its full name."""
    _, project, _, location, _, name = path.split("/")
    topic, subscription = transport(project, location, name)
    return {
        "name": path,
        "uid": _uid(path),
        "createTime": time_of(created, nanoseconds=True),
        "updateTime": time_of(created, nanoseconds=True),
        "eventFilters": [
            {"attribute": "type", "value": found.event},
            {"attribute": "bucket", "value": found.bucket},
        ],
        "serviceAccount": account,
        "destination": {
            "cloudRun": {"service": found.service.replace("_", "-"), "region": location, "path": found.path}
        },
        "transport": {"pubsub": {"topic": topic, "subscription": subscription}},
        "etag": _etag(path, 1),
    }


def job(path: str, found: Job, *, topic: str, created: datetime.datetime) -> dict[str, Any]:
    """A google.cloud.scheduler.v1.Job; `path` and `topic` are full names."""
    # Cloud Scheduler leaves out a status that is OK.
    status = {"status": {"code": 13, "message": found.problem}} if found.problem else {}
    attempted = {"lastAttemptTime": time_of(found.last_attempt)} if found.last_attempt else {}
    return {
        "name": path,
        "userUpdateTime": time_of(created),
        "state": "PAUSED" if found.is_paused else "ENABLED",
        "schedule": found.schedule.cron,
        "timeZone": "Etc/UTC",
        "pubsubTarget": {
            "topicName": topic,
            "data": base64.b64encode(json.dumps(found.schedule.data).encode()).decode(),
        },
        **attempted,
        **status,
    }


def sink(found: Sink, *, project: str, created: datetime.datetime) -> dict[str, Any]:
    """A google.logging.v2.LogSink; one that is not disabled does not say so."""
    return {
        "name": found.name,
        "destination": f"pubsub.googleapis.com/projects/{project}/topics/{found.topic}",
        "filter": found.filter,
        **({"disabled": True} if found.is_disabled else {}),
        "writerIdentity": agent("Cloud Logging"),
        "createTime": time_of(created),
        "updateTime": time_of(created),
    }


def account(email: str, *, project: str, is_disabled: bool) -> dict[str, Any]:
    """A google.iam.admin.v1.ServiceAccount; one that is not disabled does not say so."""
    unique = str(10**20 + int(hashlib.sha256(email.encode()).hexdigest(), 16) % 10**20)
    return {
        "name": f"projects/{project}/serviceAccounts/{email}",
        "projectId": project,
        "uniqueId": unique,
        "email": email,
        "etag": "MDEwMjE5MjA=",
        "oauth2ClientId": unique,
        **({"disabled": True} if is_disabled else {}),
    }


def project(identifier: str, *, created: datetime.datetime) -> dict[str, Any]:
    """A project as the first version of Resource Manager has it."""
    return {
        "projectId": identifier,
        "projectNumber": PROJECT_NUMBER,
        "name": identifier,
        "lifecycleState": "ACTIVE",
        "createTime": time_of(created),
    }


def time_of(moment: datetime.datetime, *, nanoseconds: bool = False) -> str:
    """A timestamp as protocol buffers write it in JSON."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + ("000Z" if nanoseconds else "Z")


def _uid(path: str) -> str:
    digest = hashlib.sha256(path.encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def _etag(path: str, generation: int) -> str:
    return base64.b64encode(hashlib.sha256(f"{path}/{generation}".encode()).digest()[:12]).decode()
