"""projects.locations.customJobs: training jobs that really run, as processes, a few at a time."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from local_cloud.faults import JOB, JOB_MACHINE, JOB_PLACEMENT, Faults
from local_cloud.iam import Iam, Refused, agent
from local_cloud.vertex import job_spec, machines, pages
from local_cloud.vertex.errors import CODES, failed_precondition, invalid_field, not_found
from local_cloud.vertex.filters import enum_field, labels_field, text_field, time_field
from local_cloud.vertex.job_log import JobLog
from local_cloud.vertex.job_run import MACHINE, RUN, JobRun, Machine, Outcome
from local_cloud.vertex.names import Location, new_id, now
from local_cloud.vertex.operations import Operations
from local_cloud.vertex.records import Records
from local_cloud.vertex.wire import Wire, body

#: The values of google.cloud.aiplatform.v1.JobState.
STATES = frozenset(
    {
        "JOB_STATE_UNSPECIFIED",
        "JOB_STATE_QUEUED",
        "JOB_STATE_PENDING",
        "JOB_STATE_RUNNING",
        "JOB_STATE_SUCCEEDED",
        "JOB_STATE_FAILED",
        "JOB_STATE_CANCELLING",
        "JOB_STATE_CANCELLED",
        "JOB_STATE_PAUSED",
        "JOB_STATE_EXPIRED",
        "JOB_STATE_UPDATING",
        "JOB_STATE_PARTIALLY_SUCCEEDED",
    }
)
TERMINAL_STATES = frozenset({"JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED"})

#: A fault planned for this name hits the next job that was accepted and looks for its machines.
PLACE = "aiplatform.jobs.place"

_COLLECTION = "customJobs"
_DELETE = "aiplatform.customJobs.delete"
_LISTING = pages.Listing(
    key="customJobs",
    fields={
        "display_name": text_field("displayName", "= != :"),
        "state": enum_field("state", STATES),
        "create_time": time_field("createTime"),
        "labels": labels_field(),
    },
    newest_first=True,
)
_LOST = Outcome(
    "JOB_STATE_FAILED",
    {
        "code": CODES["INTERNAL"],
        "message": "Internal error occurred for the current attempt. The replica workerpool0-0 was lost: "
        "the local cloud stopped while the job was running.",
    },
)
_LOG = logging.getLogger(__name__)

Document = dict[str, Any]


class CustomJobs:
    """The jobs of one location: records, a queue with a limit, and a thread for each job that has not ended."""

    def __init__(
        self,
        *,
        records: Records,
        location: Location,
        operations: Operations,
        faults: Faults,
        machine: Machine,
        quotas: Callable[[], Mapping[str, int]],
        iam: Iam,
        log: JobLog,
        folder: Path,
        provisioning_seconds: float,
        max_running: int,
    ) -> None:
        faults.register(RUN, JOB)
        faults.register(MACHINE, JOB_MACHINE)
        faults.register(PLACE, JOB_PLACEMENT)
        self._records = records
        self._location = location
        self._operations = operations
        self._faults = faults
        self._machine = machine
        self._quotas = quotas
        self._iam = iam
        self._log = log
        self._folder = folder
        self._provisioning_seconds = provisioning_seconds
        self._max_running = max_running
        self._turn = threading.Condition()
        self._queue: collections.deque[str] = collections.deque()
        self._running: dict[str, JobRun | None] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._closing = threading.Event()
        operations.define_deletion(_DELETE, self._remove)

    # The API

    def register(self, wire: Wire) -> None:
        job = "/customJobs/<job>"
        wire.operation(
            "aiplatform.customJobs.create",
            "POST",
            "/customJobs",
            self._create,
            body="CustomJob",
            field="custom_job",
            answer="CustomJob",
            differs="container_spec only; machine and accelerator are checked and recorded, not simulated",
        )
        wire.operation(
            "aiplatform.customJobs.list",
            "GET",
            "/customJobs",
            self._list,
            answer="ListCustomJobsResponse",
            differs="read_mask is ignored",
        )
        wire.operation("aiplatform.customJobs.get", "GET", job, self._get, answer="CustomJob")
        wire.operation(
            "aiplatform.customJobs.cancel", "POST", f"{job}:cancel", self._cancel, body="CancelCustomJobRequest"
        )
        wire.operation("aiplatform.customJobs.delete", "DELETE", job, self._delete, answer="Operation")

    def _create(self, project: str, location: str) -> Document:
        parent = self._location.check(project, location)
        wanted = body()
        job_spec.check(wanted)
        self._require_quota(wanted["jobSpec"])
        created = now()
        given: Document = {
            key: wanted[key] for key in ("displayName", "jobSpec", "labels", "encryptionSpec") if key in wanted
        }
        job_spec.fill(given["jobSpec"])
        job: Document = {
            "name": f"{parent}/customJobs/{new_id()}",
            **given,
            "state": "JOB_STATE_PENDING",
            "createTime": created,
            "updateTime": created,
        }
        self._records.put(_COLLECTION, job["name"], job)
        self._enqueue(job["name"])
        return job

    def _require_quota(self, spec: Document) -> None:
        """Refuse a job that, with those that have not ended, needs more than a quota has. Raises ApiError 429."""
        jobs = (job for _, job in self._records.all(_COLLECTION) if job["state"] not in TERMINAL_STATES)
        others = (machines.demand(job["jobSpec"]) for job in jobs)
        machines.require_quota(machines.demand(spec), others, self._quotas())

    def _get(self, project: str, location: str, job: str) -> Document:
        name = f"{self._location.check(project, location)}/customJobs/{job}"
        if not job.isdigit():
            raise invalid_field("custom_job", f"Invalid CustomJob resource name: {name}.")
        record = self._records.get(_COLLECTION, name)
        if record is None:
            raise not_found(f"The CustomJob does not exist: {name}.")
        return record

    def _list(self, project: str, location: str) -> Document:
        self._location.check(project, location)
        return pages.answer(_LISTING, self._records.all(_COLLECTION))

    def _cancel(self, project: str, location: str, job: str) -> Document:
        with self._records.transaction():
            record = self._get(project, location, job)
            if record["state"] == "JOB_STATE_CANCELLED":
                return {}
            if record["state"] in TERMINAL_STATES:
                raise failed_precondition(f"The job is in state {record['state']} and cannot be cancelled.")
            self._change(record["name"], state="JOB_STATE_CANCELLING")
        with self._turn:
            run = self._running.get(record["name"])
            self._turn.notify_all()
        if run is not None:
            run.cancel()
        return {}

    def _delete(self, project: str, location: str, job: str) -> Document:
        with self._records.transaction():
            record = self._get(project, location, job)
            if record["state"] not in TERMINAL_STATES:
                raise failed_precondition(f"The job is in state {record['state']}: cancel it before deleting it.")
            return self._operations.start(_DELETE, record["name"], {"name": record["name"]})

    def _remove(self, arguments: Document) -> None:
        self._records.remove(_COLLECTION, arguments["name"])

    # The queue

    def resume(self) -> None:
        """After a restart: jobs that were running are lost, jobs that were waiting wait again."""
        for _, job in self._records.all(_COLLECTION):
            if job["state"] == "JOB_STATE_PENDING":
                self._enqueue(job["name"])
            elif job["state"] == "JOB_STATE_CANCELLING":
                self._end(job["name"], _cancelled())
            elif job["state"] not in TERMINAL_STATES:
                self._end(job["name"], _LOST)

    def close(self) -> None:
        """End the processes; their jobs are found lost by the next process, as after a crash."""
        self._closing.set()
        with self._turn:
            runs = [run for run in self._running.values() if run]
            threads = list(self._threads.values())
            self._turn.notify_all()
        for run in runs:
            run.abandon()
        for thread in threads:
            thread.join(timeout=10)

    def _enqueue(self, name: str) -> None:
        thread = threading.Thread(target=self._live, args=(name,), name=f"job-{name[-6:]}", daemon=True)
        with self._turn:
            self._queue.append(name)
            self._threads[name] = thread
        thread.start()

    def _live(self, name: str) -> None:
        """The life of one job, from the queue to its end."""
        try:
            if self._wait_for_turn(name):
                # Provisioning: without it PENDING would never be seen, and with it every race that hides there.
                self._closing.wait(self._provisioning_seconds)
                outcome = (
                    self._no_capacity() if self._faults.take(PLACE) else self._not_allowed(name) or self._run(name)
                )
            else:
                outcome = None if self._closing.is_set() else _cancelled()
            if outcome is not None:
                self._end(name, outcome)
        except Exception as error:  # noqa: BLE001  # a job must reach an end whatever breaks here
            _LOG.exception("job %s", name)
            message = f"Internal error occurred for the current attempt: {error}"
            self._end(name, Outcome("JOB_STATE_FAILED", {"code": CODES["INTERNAL"], "message": message}))
        finally:
            with self._turn:
                self._running.pop(name, None)
                self._threads.pop(name, None)
                self._turn.notify_all()

    def _not_allowed(self, name: str) -> Outcome | None:
        """How a job ends whose account Vertex AI's own agent may not act as, or that is gone. The words are ours."""
        job = self._records.get(_COLLECTION, name) or {}
        account = job.get("jobSpec", {}).get("serviceAccount")
        if not account:
            return None
        resource = f"projects/{self._iam.project}/serviceAccounts/{account}"
        try:
            self._iam.require(agent("gcp-sa-aiplatform"), "iam.serviceAccounts.actAs", resource)
        except Refused as refused:
            message = f"Permission '{refused.permission}' denied on service account {account} for {refused.email}."
            return Outcome("JOB_STATE_FAILED", {"code": CODES["PERMISSION_DENIED"], "message": message})
        return None

    def _no_capacity(self) -> Outcome:
        """How a job ends that no machine was found for: it never starts.

        Source: https://docs.cloud.google.com/vertex-ai/docs/general/troubleshooting; the code was never recorded.
        """
        message = (
            f"Resources are insufficient in region: {self._location.region}. Please try a different region or use a"
            " different accelerator."
        )
        return Outcome("JOB_STATE_FAILED", {"code": CODES["RESOURCE_EXHAUSTED"], "message": message})

    def _wait_for_turn(self, name: str) -> bool:
        """Wait in order of creation for a free place; False when cancelled or closing meanwhile."""
        with self._turn:
            while not self._closing.is_set() and not self._is_cancelling(name):
                if self._queue[0] == name and len(self._running) < self._max_running:
                    self._queue.popleft()
                    self._running[name] = None
                    self._turn.notify_all()
                    return True
                self._turn.wait()
            self._queue.remove(name)
            self._turn.notify_all()
            return False

    def _is_cancelling(self, name: str) -> bool:
        job = self._records.get(_COLLECTION, name)
        return job is None or job["state"] == "JOB_STATE_CANCELLING"

    def _run(self, name: str) -> Outcome | None:
        job = self._records.get(_COLLECTION, name)
        if job is None or self._closing.is_set():
            return None
        run = JobRun(
            job,
            machine=self._machine,
            folder=self._folder / name.rsplit("/", 1)[-1],
            faults=self._faults,
            on_line=lambda replica, stream, line: self._log.printed(job, replica, stream, line),
        )
        with self._turn:
            self._running[name] = run
        # The state is read after the run can be reached: a cancellation sees the run, or is seen here.
        with self._records.transaction():
            if self._is_cancelling(name):
                return _cancelled()
            self._change(name, state="JOB_STATE_RUNNING", startTime=now())
        if self._closing.is_set():
            return None
        return run.run()

    def _end(self, name: str, outcome: Outcome) -> None:
        with self._records.transaction():
            if self._closing.is_set() or self._records.get(_COLLECTION, name) is None:
                return
            error = {"error": outcome.error} if outcome.error else {}
            job = self._change(name, state=outcome.state, endTime=now(), **error)
        # Told after the record is written, and lost when the process dies in between: the log is a hint.
        self._log.ended(job)

    def _change(self, name: str, **fields: Any) -> Document:
        with self._records.transaction():
            job = self._records.get(_COLLECTION, name)
            if job is None:
                raise not_found(f"The CustomJob does not exist: {name}.")
            job |= {**fields, "updateTime": now()}
            self._records.put(_COLLECTION, name, job)
            return job


def _cancelled() -> Outcome:
    return Outcome("JOB_STATE_CANCELLED", {"code": CODES["CANCELLED"], "message": "The CustomJob was cancelled."})
