"""One training job from its shards to its result document."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualdeploy import logs
from dualdeploy.training import DataUsed, Metrics, ShardReference, TrainingJob, TrainingResult, as_mapping
from trainer import artifacts, examples, locations, progress
from trainer.arguments import Order
from trainer.examples import DataSet, Examples
from trainer.failures import OutOfMemory, UnusableData, UnusableWeights
from trainer.locations import Patience
from trainer.progress import Reporter

log = logging.getLogger("trainer")

#: Held-out pictures that are looked at after every epoch; all of them are at the end.
WATCHED = 500


def run(order: Order, *, work: Path, reporter: Reporter) -> TrainingResult:
    """Carry out `order` with `work` as scratch space; returns the result that was written.

    Raises the errors of `trainer.failures` and ServiceUnavailable; the result document is only there on success.
    """
    job, patience, clock = order.job, Patience(order.patience), _Stopwatch()
    with logs.bind(run_id=job.run_id, target=job.target):
        with clock.lap("load"):
            data = _load(job, order.cache or work / "shards", work, patience)
            weights = _weights(job, work, patience)
        staging = artifacts.Staging(work / "output")
        # TensorFlow takes seconds and half a gigabyte to import: faults of the job and of the data come first.
        with clock.lap("import"), progress.native_banners_held_back():
            import keras  # noqa: F401, PLC0415
        with _memory_errors_named(job):
            fitted = _fit(job, data, weights, clock, reporter)
            _export(job, data, fitted, staging, clock)
        where = artifacts.places(job)
        with clock.lap("upload"):
            artifacts.publish(staging, job, where, patience)
        result = _result(job, data, fitted.metrics, clock, where)
        artifacts.publish_result(result, job.output.result, patience)
        _summary(result)
    return result


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """A trained network, its one traced function, and how it did."""

    network: Any
    predict: Any
    metrics: Metrics
    measured: dict[str, Any]


def _load(job: TrainingJob, cache: Path, work: Path, patience: Patience) -> DataSet:
    data = examples.load(
        locations.fetch_shards(job.shards.train, cache, patience),
        locations.fetch_shards(job.shards.eval, cache, patience),
        labels=job.labels,
        features=job.features,
        image_size=job.training.image_size,
        max_bad_records=job.training.max_bad_records,
        folder=work,
    )
    for record in data.bad_records:
        log.warning("skipped %s", record)
    log.info(
        "%d pictures to learn from, %d held out (%s split), %d records skipped",
        len(data.train),
        len(data.held_out),
        data.split,
        data.skipped,
    )
    return data


def _weights(job: TrainingJob, work: Path, patience: Patience) -> str | Path:
    if job.training.weights in {"none", "imagenet"}:
        return job.training.weights
    folder = work / "weights"
    folder.mkdir(exist_ok=True)
    try:
        return locations.fetch(ShardReference(uri=job.training.weights), folder, patience)
    except UnusableData as exc:
        raise UnusableWeights(f"weights to start from: {exc}") from exc


def _fit(job: TrainingJob, data: DataSet, weights: str | Path, clock: _Stopwatch, reporter: Reporter) -> _Fitted:
    import keras  # noqa: PLC0415  # here and below: imported by `run`, once everything that needs no TensorFlow is done

    from trainer import architectures, evaluation, recipe  # noqa: PLC0415

    training = job.training
    history: list[dict[str, Any]] = []
    with clock.lap("train"):
        keras.utils.set_random_seed(training.seed)
        network = architectures.build(
            training.architecture, classes=len(job.labels), image_size=training.image_size, weights=weights
        )
        reporter.expect(training.epochs * (len(data.train) // min(training.batch_size, len(data.train))))
        predict = recipe.inference(network.model, training.image_size)
        some = _some(data.held_out)

        def after_epoch(report: recipe.EpochReport) -> None:
            held_out = evaluation.evaluate(predict, some, job.labels).metrics.accuracy
            history.append(dataclasses.asdict(report) | {"held_out_accuracy": held_out})
            log.info(
                "epoch %d of %d: loss %.3f, accuracy %.3f, held out %.3f, %.0f pictures/s",
                report.epoch,
                report.epochs,
                report.loss,
                report.accuracy,
                held_out,
                report.images_per_second,
                extra=history[-1],
            )

        recipe.train(
            network,
            data.train.pixels,
            data.train.labels,
            plan=recipe.phases(network, epochs=training.epochs, learning_rate=training.learning_rate),
            image_size=training.image_size,
            batch_size=training.batch_size,
            seed=training.seed,
            after_step=reporter.advance,
            after_epoch=after_epoch,
        )
    with clock.lap("evaluate"):
        measured = evaluation.evaluate(predict, data.held_out, job.labels)
    speeds = {"evaluation_images_per_second": measured.images_per_second, "epochs": history}
    return _Fitted(network, predict, measured.metrics, speeds)


def _some(examples: Examples) -> Examples:
    """At most about `WATCHED` held-out pictures, evenly spread: enough to see after each epoch where it goes."""
    stride = -(-len(examples) // WATCHED)
    return Examples(examples.pixels[::stride], examples.labels[::stride])


def _export(job: TrainingJob, data: DataSet, fitted: _Fitted, staging: artifacts.Staging, clock: _Stopwatch) -> None:
    from trainer import export  # noqa: PLC0415

    with clock.lap("export"):
        export.write_models(
            fitted.network,
            fitted.predict,
            labels=job.labels,
            image_size=job.training.image_size,
            model=staging.model,
            pixels_model=staging.pixels_model,
        )
        fitted.network.model.save(staging.keras)
        staging.write("labels.txt", "".join(f"{label}\n" for label in job.labels).encode())
        staging.write("golden.json", export.golden(staging.model, data.golden, job.labels))
        metrics = {
            "v": 1,
            **as_mapping(fitted.metrics),
            **fitted.measured,
            "bad_records": [dataclasses.asdict(record) for record in data.bad_records],
            "skipped_records": data.skipped,
            "training": as_mapping(job.training),
        }
        staging.write("metrics.json", artifacts.as_json(metrics))


def _result(job: TrainingJob, data: DataSet, metrics: Metrics, clock: _Stopwatch, where: Any) -> TrainingResult:
    return TrainingResult(
        run_id=job.run_id,
        dataset=job.dataset,
        target=job.target,
        finished_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        architecture=job.training.architecture,
        weights=job.training.weights,
        image_size=job.training.image_size,
        labels=job.labels,
        artifacts=where,
        metrics=metrics,
        data=DataUsed(
            train_examples=len(data.train),
            eval_examples=len(data.held_out),
            split=data.split,
            skipped_records=data.skipped,
        ),
        seconds=clock.seconds(),
    )


def _summary(result: TrainingResult) -> None:
    worst = min(result.metrics.per_class.items(), key=lambda item: item[1].f1)
    seconds = result.seconds
    log.info(
        "%s, %d px: accuracy %.3f on %d held-out pictures (weakest: %s, F1 %.2f); %.0f s, of which training %.0f s; "
        "artifacts in %s",
        result.architecture,
        result.image_size,
        result.metrics.accuracy,
        result.metrics.examples,
        worst[0],
        worst[1].f1,
        seconds["total"],
        seconds["train"],
        result.artifacts.metrics.rsplit("/", 1)[0],
        extra={"accuracy": result.metrics.accuracy, "durations": dict(seconds)},
    )


class _Stopwatch:
    """Seconds spent in each stage since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._laps: dict[str, float] = {}

    @contextlib.contextmanager
    def lap(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._laps[name] = time.monotonic() - began

    def seconds(self) -> dict[str, float]:
        laps = {"total": time.monotonic() - self._began, **self._laps}
        return {name: round(seconds, 2) for name, seconds in laps.items()}


@contextlib.contextmanager
def _memory_errors_named(job: TrainingJob) -> Iterator[None]:
    import tensorflow as tf  # noqa: PLC0415

    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as exc:
        raise OutOfMemory(
            f"{job.training.architecture} at {job.training.image_size} px and {job.training.batch_size} pictures in "
            "a batch does not fit into memory: use a smaller batch_size or image_size, or a larger machine"
        ) from exc
