"""AutoML's training pipelines, one for each target of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dualdeploy.contracts import automl, dataset_config
from dualdeploy.errors import LeaseHeld, ResourceConflict
from dualdeploy.google.automl import AutoML, PipelineSpec
from dualdeploy.google.vertex import ATTEMPT_LABEL, DATASET_LABEL, RUN_LABEL, TARGET_LABEL, Job, JobOutcome
from dualdeploy.ledger import Launch, Ledger, Placement, Run, lease
from training_launcher import job_spec
from training_launcher.managed_data import ManagedDatas
from training_launcher.settings import LauncherSettings


class Pipelines:
    """Implements `jobs.Kind`."""

    def __init__(self, *, ledger: Ledger, automl: AutoML, data: ManagedDatas, settings: LauncherSettings) -> None:
        self._ledger = ledger
        self._automl = automl
        self._data = data
        self._settings = settings

    def labels(self, run: Run, target: str) -> Mapping[str, str]:
        return job_spec.job_labels(run, target)

    def find(self, labels: Mapping[str, str]) -> Sequence[Job]:
        return self._automl.find_pipelines(labels)

    def get(self, name: str) -> Job:
        return self._automl.get_pipeline(name)

    def cancel(self, name: str) -> None:
        self._automl.cancel_pipeline(name)

    def create(self, run: Run, launch: Launch, *, placement: Placement, timeout: float) -> Job:
        """`timeout` means nothing here: a pipeline ends when its node hours are used, or before."""
        del placement, timeout
        wish = dataset_config.stored(run.config).training.automl.of(launch.target)
        model_id = automl.model_id(run.dataset, launch.target)
        spec = PipelineSpec(
            display_name=f"{run.run_id}-{launch.target}",
            labels={**self.labels(run, launch.target), ATTEMPT_LABEL: str(launch.attempt + 1)},
            dataset=self._data.managed(run),
            model_type=wish.model_type,
            node_hours=wish.budget_node_hours,
            model_id=model_id,
            alias=run.run_id,
            description=f"{run.run_id}, trained by AutoML ({wish.model_type})",
        )
        try:
            # Runs of the same pictures find them ready in the same minute.
            with lease(self._ledger, f"pipeline/{model_id}", seconds=self._settings.lease_seconds):
                self._wait_for_the_first_version(run, launch.target)
                return self._automl.create_pipeline(spec)
        except LeaseHeld as exc:
            raise ResourceConflict(f"another run's pipeline for {model_id} is asked for at this moment") from exc

    def _wait_for_the_first_version(self, run: Run, target: str) -> None:
        """Of two pipelines that both shall make one model, the second would fail after it was paid for."""
        found = self._automl.find_pipelines({DATASET_LABEL: run.dataset, TARGET_LABEL: target})
        others = [each for each in found if each.labels.get(RUN_LABEL) != run.run_id]
        first = next((each for each in others if each.outcome is JobOutcome.UNFINISHED), None)
        if first and not any(each.outcome is JobOutcome.SUCCEEDED for each in found):
            raise ResourceConflict(
                f"{first.name} trains the first version of {automl.model_id(run.dataset, target)}, and this run's"
                " version comes after it"
            )
