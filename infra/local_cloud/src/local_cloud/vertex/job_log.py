"""What Cloud Logging holds about training: LogEntries of the `ml_job` resource, handed to the log sink."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from local_cloud.vertex.names import last_segment, now

#: The lines with which the training service ends a job. Seen in real `gcloud ai custom-jobs stream-logs`
#: output; no page documents them, so they are hints and never the truth.
COMPLETED = "Job completed successfully."
FAILED = "Job failed."
CANCELLED = "Job cancelled."

#: task_name of the service's own lines; a replica's output carries the replica's name instead.
SERVICE = "service"

_LINES = {
    "JOB_STATE_SUCCEEDED": (COMPLETED, "INFO"),
    "JOB_STATE_FAILED": (FAILED, "ERROR"),
    "JOB_STATE_CANCELLED": (CANCELLED, "WARNING"),
}
_SEVERITIES = {"stdout": "INFO", "stderr": "ERROR"}
_PAUSES = (0.1, 0.5, 2.0)
_LOG = logging.getLogger(__name__)

LogEntry = dict[str, Any]


class JobLog:
    """Turns what happens to jobs into LogEntries and gives them to `publish`."""

    def __init__(self, *, project: str, region: str, publish: Callable[[LogEntry], None], stream_output: bool) -> None:
        self._project = project
        self._region = region
        self._publish = publish
        self._stream_output = stream_output

    def ended(self, job: Mapping[str, Any]) -> None:
        """Tell the sink that `job` has reached a terminal state."""
        text, severity = _LINES[job["state"]]
        self._send(self._entry(job, SERVICE, text, severity))

    def printed(self, job: Mapping[str, Any], replica: str, stream: str, line: str) -> None:
        """Tell the sink what a replica printed, if asked to: real sinks without a filter get all of it."""
        if self._stream_output:
            self._send(self._entry(job, replica, line, _SEVERITIES[stream]))

    def _entry(self, job: Mapping[str, Any], task_name: str, text: str, severity: str) -> LogEntry:
        timestamp = now()
        job_id = last_segment(job["name"])
        log = f"ml.googleapis.com%2F{job_id}" if task_name == SERVICE else task_name
        labels = {"job_id": job_id, "project_id": self._project, "task_name": task_name}
        return {
            "insertId": secrets.token_hex(8),
            "logName": f"projects/{self._project}/logs/{log}",
            "resource": {"type": "ml_job", "labels": labels},
            "labels": {"ml.googleapis.com/endpoint": f"{self._region}-aiplatform.googleapis.com"},
            "severity": severity,
            "textPayload": text,
            "timestamp": timestamp,
            "receiveTimestamp": timestamp,
        }

    def _send(self, entry: LogEntry) -> None:
        for pause in (*_PAUSES, None):
            try:
                self._publish(entry)
            except Exception:  # noqa: BLE001  # the sink's failure must not change how the job ended
                if pause is None:
                    _LOG.exception("log entry lost: %s", entry)
                else:
                    time.sleep(pause)
            else:
                return
