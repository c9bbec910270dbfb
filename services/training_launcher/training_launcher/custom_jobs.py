"""Our own trainer, as custom jobs of Vertex AI."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from dualdeploy.contracts import training
from dualdeploy.contracts.training import Target
from dualdeploy.google.object_store import ABSENT, GenerationChanged, ObjectStore
from dualdeploy.google.vertex import Job, Vertex
from dualdeploy.ledger import Launch, Ledger, Placement, Run
from training_launcher import job_spec
from training_launcher.live_model import live_model
from training_launcher.settings import LauncherSettings


class CustomJobs:
    """Implements `jobs.Kind`."""

    def __init__(self, *, ledger: Ledger, models: ObjectStore, vertex: Vertex, settings: LauncherSettings) -> None:
        self._ledger = ledger
        self._models = models
        self._vertex = vertex
        self._settings = settings

    def labels(self, run: Run, target: str) -> Mapping[str, str]:
        return job_spec.job_labels(run, target)

    def find(self, labels: Mapping[str, str]) -> Sequence[Job]:
        return self._vertex.find_custom_jobs(labels)

    def get(self, name: str) -> Job:
        return self._vertex.get_custom_job(name)

    def cancel(self, name: str) -> None:
        self._vertex.cancel_custom_job(name)

    def create(self, run: Run, launch: Launch, *, placement: Placement, timeout: float) -> Job:
        target: Target = "cloud" if launch.target == "cloud" else "mobile"
        live = live_model(run.dataset, target, ledger=self._ledger, models=self._models)
        document = job_spec.training_job(run, target, models_bucket=self._settings.models_bucket, live=live)
        with contextlib.suppress(GenerationChanged):
            # An earlier copy stays: a run is frozen, and what was live at the first attempt is as good to compare with.
            self._models.put(training.job_name(run.run_id, target), document.to_json(), expect=ABSENT)
        spec = job_spec.custom_job(
            run, target, self._settings, placement=placement, timeout=timeout, attempt=launch.attempt + 1
        )
        return self._vertex.create_custom_job(spec)
