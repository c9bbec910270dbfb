"""AutoML's training pipelines: no trainer writes their results, so this service does, from Google's evaluation."""

from __future__ import annotations

import contextlib
import datetime

from dualdeploy import clock as clocks
from dualdeploy.contracts import automl, confusion, training
from dualdeploy.contracts.automl import Prepared
from dualdeploy.contracts.training import Artifacts, DataUsed, ManagedModel, Metrics, TrainingResult
from dualdeploy.errors import UnusableResult
from dualdeploy.google.automl import APPEARS_SECONDS, AutoML, Evaluated, Pipeline
from dualdeploy.google.object_store import ABSENT, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.ledger import Launch, Ledger, Run


class Pipelines:
    """Asks AutoML, and writes the result that the trainer writes elsewhere."""

    def __init__(self, *, ledger: Ledger, models: ObjectStore, automl: AutoML) -> None:
        self._ledger = ledger
        self._models = models
        self._automl = automl

    def get(self, name: str) -> Pipeline:
        """Raises ResourceMissing."""
        return self._automl.get_pipeline(name)

    def write_result(self, launch: Launch, pipeline: Pipeline) -> bool:
        """Write the result of a pipeline that succeeded, once; False while Google does not show its model yet.

        Raises UnusableResult when that takes too long, or tells of another model than was asked for.
        """
        name = training.result_name(launch.run_id, launch.target)
        measured = self._automl.find_evaluation(pipeline)
        if measured is None:
            ended = pipeline.ended or clocks.from_text(launch.since)
            if self._ledger.clock() < ended + datetime.timedelta(seconds=APPEARS_SECONDS):
                return False
            minutes = APPEARS_SECONDS / 60
            raise UnusableResult(
                f"{pipeline.name} succeeded, and {minutes:.0f} minutes later AutoML shows no evaluation of"
                f" {pipeline.model or 'its model'}: look at the pipeline in the console"
            )
        result = self._result(launch, pipeline, measured)
        with contextlib.suppress(GenerationChanged):
            # Of two looks at the same time, what the first one wrote counts: both write what Google told.
            self._models.put(name, result.to_json(), expect=ABSENT)
        return True

    def _result(self, launch: Launch, pipeline: Pipeline, measured: Evaluated) -> TrainingResult:
        run = self._ledger.read_run(launch.run_id)
        labels, prepared = tuple(run.config["labels"]), self._prepared(run)
        target: training.Target = "cloud" if launch.target == "cloud" else "mobile"
        return TrainingResult(
            run_id=launch.run_id,
            dataset=launch.dataset,
            target=target,
            finished_at=clocks.to_text(pipeline.ended or self._ledger.clock()),
            architecture=f"AutoML {pipeline.model_type}",
            image_size=0,
            labels=labels,
            artifacts=Artifacts(golden=prepared.golden, labels=prepared.labels),
            metrics=_metrics(measured, labels, source=pipeline.name),
            data=DataUsed(
                train_examples=prepared.count(automl.TRAINING) + prepared.count(automl.VALIDATION),
                eval_examples=prepared.count(automl.TEST),
                split=prepared.split,
                skipped_records=prepared.skipped_records,
            ),
            seconds={"node": pipeline.billed_seconds},
            job=pipeline.name.rsplit("/", 1)[-1],
            managed=ManagedModel(name=pipeline.model, version=pipeline.version, type=pipeline.model_type),
        )

    def _prepared(self, run: Run) -> Prepared:
        name = automl.prepared_name(run.dataset, automl.content_key(run.snapshot.digest(), run.config))
        source = self._models.uri(name)
        try:
            return automl.parse_prepared(self._models.read(name).data, source=source)
        except ObjectMissing as exc:
            raise UnusableResult(f"{source} is gone: it says which pictures the model was tested with") from exc


def _metrics(measured: Evaluated, labels: tuple[str, ...], *, source: str) -> Metrics:
    """In the order of our labels: Google's is its own."""
    if sorted(measured.labels) != sorted(labels):
        raise UnusableResult(f"{source} was tested with the labels {list(measured.labels)}, the run has {list(labels)}")
    order = [measured.labels.index(label) for label in labels]
    try:
        rows = [[measured.rows[i][j] for j in order] for i in order]
        return confusion.metrics(labels, rows, loss=measured.log_loss)
    except (ValueError, IndexError) as exc:
        raise UnusableResult(f"what AutoML measured of {source} cannot be used: {exc}") from exc
