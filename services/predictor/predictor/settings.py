"""What the server reads from its environment, once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from pathlib import Path

from dualdeploy.settings import WrongSettings, setting


@dataclasses.dataclass(frozen=True)
class PredictorSettings:
    """The AIP_ names are Vertex AI's, set by it in every prediction container.

    Source: https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
    """

    storage_uri: str = setting("AIP_STORAGE_URI", "folder that holds saved_model.pb: gs://bucket/… or a local path")
    port: int = setting("AIP_HTTP_PORT", "port to listen on", default=8080, minimum=1)
    health_route: str = setting("AIP_HEALTH_ROUTE", "path that answers 200 once predictions work", default="/health")
    predict_route: str = setting("AIP_PREDICT_ROUTE", "path that takes predictions", default="/predict")
    # Vertex AI reaches the container from outside; on a laptop 127.0.0.1 keeps it there.
    address: str = setting("PREDICTOR_ADDRESS", "address to listen on", default="0.0.0.0")  # noqa: S104
    project: str = setting("GOOGLE_CLOUD_PROJECT", "ties log lines to traces; on Vertex AI its number", default="")
    project_number: str = setting("AIP_PROJECT_NUMBER", "the same, as Vertex AI sets it", default="")
    model_version: str = setting(
        "MODEL_VERSION", "the model's run: `run` in each answer, and X-Model-Version; empty for none", default=""
    )
    max_instances: int = setting("PREDICTOR_MAX_INSTANCES", "pictures that one request may hold", default=64, minimum=1)
    # A dedicated endpoint passes on 10 MB (a shared one 1.5 MB): more can only come from elsewhere.
    max_request_bytes: int = setting(
        "PREDICTOR_MAX_REQUEST_BYTES", "size of one request", default=10 * 1024 * 1024, minimum=1
    )
    max_batch: int = setting("PREDICTOR_MAX_BATCH", "pictures that the model gets at once", default=16, minimum=1)
    # Only ever waited while another batch runs. Longer, and a core idles: one small network takes 5 ms for a picture.
    max_wait: float = setting(
        "PREDICTOR_MAX_WAIT", "seconds that a batch may wait to fill up", default=0.003, minimum=0
    )
    max_queue: int = setting("PREDICTOR_MAX_QUEUE", "pictures that may wait for the model", default=128, minimum=1)
    max_in_flight: int = setting(
        "PREDICTOR_MAX_IN_FLIGHT", "requests accepted at once; 0: by the cores", default=0, minimum=0
    )
    load_timeout: float = setting("PREDICTOR_LOAD_TIMEOUT", "seconds that loading may take", default=900.0, minimum=0.1)

    def __post_init__(self) -> None:
        routes = {"AIP_HEALTH_ROUTE": self.health_route, "AIP_PREDICT_ROUTE": self.predict_route}
        if wrong := [f"{name}={route!r}" for name, route in routes.items() if not route.startswith("/")]:
            raise WrongSettings(f"{', '.join(wrong)} must begin with a slash")

    @functools.cached_property
    def cores(self) -> int:
        """Cores that this process may use: the machine's, or as many as its container has time on."""
        here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, math.ceil(min(here, quota())))

    @property
    def in_flight(self) -> int:
        """Requests accepted at once; the ones above are told to come back."""
        return self.max_in_flight or 16 * self.cores

    @property
    def threads(self) -> int:
        """Two more than predictions can ever hold, so that health checks are answered under any load."""
        return self.in_flight + 2


def quota(groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores' worth of time that the container may use; infinity without a limit.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max: microseconds, of a period of microseconds)
    """
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        time, period = (groups / "cpu.max").read_text().split()
        return int(time) / int(period)
    return math.inf
