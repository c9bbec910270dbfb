"""One run of a custom job: its replicas as processes, until they end, are cancelled, or take too long."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from local_cloud.api import ApiError
from local_cloud.faults import Faults
from local_cloud.http import LOOPBACK, free_ports
from local_cloud.iam import CUSTOM_CODE
from local_cloud.vertex import job_spec
from local_cloud.vertex.errors import CODES
from local_cloud.vertex.gcs_mount import MOUNT_ROOT_VARIABLE, GcsMount, MountFailed
from local_cloud.vertex.images import Image, command_line, resolve
from local_cloud.vertex.job_spec import Replica
from local_cloud.vertex.objects import StorageFailed
from local_cloud.vertex.processes import Process, container_environment

#: Faults planned for this name hit the next job that starts: `crash` kills it, `stall` freezes it.
RUN = "aiplatform.jobs.run"

#: One planned for this name hits a job that is running: `preempt` takes the machine of its last replica away, as
#: happens to spot machines, and gives it another one.
MACHINE = "aiplatform.jobs.machine"

#: Exit codes that Vertex AI takes for transient (SIGABRT, SIGSEGV); it restarts the job up to three times. Every other
#: one that is not 0 ends the job, whichever replica it comes from.
#: Source: https://cloud.google.com/vertex-ai/docs/training/understanding-training-service
_TRANSIENT_EXIT_CODES = frozenset({134, 139})
_RESTARTS = 3

_PRIMARY = "workerpool0-0"
_CRASH_AFTER_SECONDS = 0.1
_KILLED = 137
_SIGNALLED = 128
_UPLOAD_INTERVAL_SECONDS = 0.5
_LOOK_INTERVAL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended: a terminal JobState and, unless it succeeded, a google.rpc.Status."""

    state: str
    error: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class _Ending:
    """How one attempt ended; `transient`: another attempt may go better. Without an outcome it was abandoned."""

    outcome: Outcome | None
    transient: bool = False


@dataclasses.dataclass(frozen=True)
class _Container:
    """What one replica runs."""

    image: Image
    command: list[str]
    environment: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Machine:
    """What every job of the location runs on: images, interpreter, variables, Cloud Storage."""

    images: Mapping[str, Image]
    python: str
    environment: Callable[[str], Mapping[str, str]]
    storage_address: str
    project: str
    grace_seconds: float


class JobRun:
    """Runs one job to its outcome; `cancel` and `abandon` may come from any thread at any time."""

    def __init__(
        self,
        job: Mapping[str, Any],
        *,
        machine: Machine,
        folder: Path,
        faults: Faults,
        on_line: Callable[[str, str, str], None],
    ) -> None:
        self._job_id = job["name"].rsplit("/", 1)[-1]
        self._spec = job["jobSpec"]
        self._machine = machine
        self._folder = folder
        self._faults = faults
        self._on_line = on_line
        self._wake = threading.Event()
        self._cancelled = False
        self._abandoned = False
        self._containers: dict[str, _Container] = {}
        self._processes: dict[str, Process] = {}
        account = self._spec.get("serviceAccount")
        #: Without an account of its own a job runs as one of Vertex AI's.
        self._given = machine.environment(f"serviceAccount:{account}" if account else CUSTOM_CODE)
        storage = self._given.get("STORAGE_EMULATOR_HOST", "").removeprefix("http://")
        self._mount = GcsMount(folder / "gcs", storage_address=storage or machine.storage_address)
        self._crashes_at: float | None = None
        self._crashed = False

    def cancel(self) -> None:
        self._cancelled = True
        self._wake.set()

    def abandon(self) -> None:
        """The local cloud stops: end the processes and report nothing, as if the machine were gone."""
        self._abandoned = True
        self._wake.set()

    def run(self) -> Outcome | None:
        """Run to the end.

        Returns:
            The outcome, or None when the run was abandoned.
        """
        deadline = time.monotonic() + job_spec.timeout(self._spec)
        restarts = _RESTARTS if job_spec.may_restart(self._spec) else 0
        try:
            while True:
                self._start()
                ending = self._watch(deadline)
                if not ending.transient or restarts == 0:
                    return ending.outcome
                restarts -= 1
        except ApiError as error:
            return _failed(error.message, error.status)
        except (MountFailed, StorageFailed) as error:
            return _failed(f"Cloud Storage FUSE: {error}", "INTERNAL")
        except OSError as error:
            return _failed(f"The container could not be started: {error}", "INTERNAL")
        finally:
            self._end_all()

    def _start(self) -> None:
        replicas = list(job_spec.replicas(self._spec))
        # Resolve and map all before starting one: a job with a wrong image must not half run.
        ports = free_ports(len(replicas))
        addresses = {replica.name: f"{LOOPBACK}:{port}" for replica, port in zip(replicas, ports, strict=True)}
        self._containers = {replica.name: self._container(replica, addresses) for replica in replicas}
        self._mount.root.mkdir(parents=True, exist_ok=True)
        self._mount.download()
        for name in self._containers:
            self._start_replica(name)
        self._misbehave_as_planned()

    def _start_replica(self, name: str) -> None:
        container = self._containers[name]
        self._processes[name] = Process(
            container.command,
            folder=container.image.folder,
            environment=container.environment,
            log=self._folder / "log",
            on_line=self._lines_of(name),
            on_exit=self._wake.set,
        )

    def _container(self, replica: Replica, addresses: Mapping[str, str]) -> _Container:
        machine = self._machine
        image = resolve(replica.container["imageUri"], machine.images)
        command, arguments = job_spec.arguments(replica.container)
        line = command_line(image, python=machine.python, command=list(command), arguments=list(arguments))
        own = job_spec.environment(
            self._spec, replica, job_id=self._job_id, project=machine.project, addresses=addresses
        )
        environment = container_environment(
            self._given,
            {MOUNT_ROOT_VARIABLE: str(self._mount.root)},
            {
                name: value if name in job_spec.CLUSTER_VARIABLES else self._mount.map(value)
                for name, value in own.items()
            },
        )
        return _Container(image, [line[0], *(self._mount.map(word) for word in line[1:])], environment)

    def _lines_of(self, replica: str) -> Callable[[str, str], None]:
        return lambda stream, line: self._on_line(replica, stream, line)

    def _misbehave_as_planned(self) -> None:
        fault = self._faults.take(RUN)
        if fault == "stall":
            for process in self._processes.values():
                process.stop()
        elif fault == "crash":
            self._crashes_at = time.monotonic() + _CRASH_AFTER_SECONDS

    def _watch(self, deadline: float) -> _Ending:
        while True:
            if self._abandoned:
                return _Ending(None)
            if self._cancelled:
                return _Ending(self._stopped("CANCELLED", "The CustomJob was cancelled."))
            self._crash_if_due()
            ended = self._ended()
            if ended is not None:
                return _Ending(self._outcome(*ended), transient=ended[1] in _TRANSIENT_EXIT_CODES)
            lost = self._preempt() if self._faults.take(MACHINE) else None
            if lost is not None:
                return lost
            if time.monotonic() >= deadline:
                # Vertex AI documents only "the maximum job running time"; its predecessor documents that
                # it cancels the job then, so this does.
                limit = (self._spec.get("scheduling") or {}).get("timeout")
                message = f"The CustomJob was cancelled: it ran longer than its timeout of {limit}."
                return _Ending(self._stopped("DEADLINE_EXCEEDED", message))
            if self._mount.is_used:
                self._mount.upload()
            self._wake.wait(self._patience(deadline))
            self._wake.clear()

    def _patience(self, deadline: float) -> float:
        moments = [deadline, time.monotonic() + _LOOK_INTERVAL_SECONDS]
        if self._crashes_at is not None:
            moments.append(self._crashes_at)
        if self._mount.is_used:
            moments.append(time.monotonic() + _UPLOAD_INTERVAL_SECONDS)
        return max(0.0, min(moments) - time.monotonic())

    def _crash_if_due(self) -> None:
        # A job that is quicker than its planned crash crashes all the same: its machine is lost before
        # it could report, which is the hard case, since its results are already written.
        if self._crashes_at is None:
            return
        primary = self._processes[_PRIMARY]
        if time.monotonic() >= self._crashes_at or primary.exit_code is not None:
            self._crashes_at = None
            self._crashed = True
            for process in self._processes.values():
                process.kill()
                process.wait(10)

    def _preempt(self) -> _Ending | None:
        """The machine of the last replica is taken away, and whoever it was starts again on another one.

        All start again if the job says so, because they cannot go on without each other.
        """
        victim = list(self._processes)[-1]
        if job_spec.may_restart(self._spec) and not job_spec.restarts_as_one(self._spec):
            self._processes[victim].end(self._machine.grace_seconds)
            self._start_replica(victim)
            return None
        self._end_all()
        if self._mount.is_used:
            self._mount.upload(settled_only=True)
        return _Ending(
            _failed(f"The replica {victim} was lost: its machine was taken away.", "INTERNAL"), transient=True
        )

    def _ended(self) -> tuple[str, int] | None:
        """The replica that decides, with its exit code.

        "A training job completes successfully when its primary replica exits with exit code 0", whatever the
        others do; before that, any replica that fails ends the job.
        """
        if self._crashed:
            self._crashed = False
            return _PRIMARY, _KILLED
        codes = {name: process.exit_code for name, process in self._processes.items()}
        if codes[_PRIMARY] == 0:
            return _PRIMARY, 0
        return next(((name, code) for name, code in codes.items() if code), None)

    def _outcome(self, replica: str, exit_code: int) -> Outcome:
        tail = self._processes[replica].tail
        self._end_all()
        if self._mount.is_used:
            # A killed process may have left half a file; FUSE would not have uploaded that one.
            self._mount.upload(settled_only=exit_code >= _SIGNALLED)
        if exit_code == 0:
            return Outcome("JOB_STATE_SUCCEEDED")
        return _failed(
            f"The replica {replica} exited with a non-zero status of {exit_code}. Termination reason: Error. \n"
            f"{tail}\nTo find out more about why your job exited please check the logs: {self._folder / 'log'}",
            "INVALID_ARGUMENT",
        )

    def _stopped(self, status: str, message: str) -> Outcome:
        self._end_all()
        return Outcome("JOB_STATE_CANCELLED", {"code": CODES[status], "message": message})

    def _end_all(self) -> None:
        running = [process for process in self._processes.values() if process.exit_code is None]
        threads = [
            threading.Thread(target=process.end, args=(0 if self._abandoned else self._machine.grace_seconds,))
            for process in running
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _failed(message: str, status: str) -> Outcome:
    return Outcome("JOB_STATE_FAILED", {"code": CODES.get(status, CODES["UNKNOWN"]), "message": message})
