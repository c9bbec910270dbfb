"""One training job from its shards to its result document."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualdeploy import logs
from dualdeploy.contracts import answers, architectures
from dualdeploy.contracts.training import (
    Artifacts,
    DataUsed,
    LiveMetrics,
    Metrics,
    ModuleReference,
    ShardReference,
    TrainingJob,
    TrainingResult,
    as_mapping,
)
from dualdeploy.errors import DualDeployError
from dualdeploy.google.object_store import GenerationChanged
from trainer.data import examples
from trainer.data.examples import DataSet, Shard
from trainer.outputs import artifacts
from trainer.process import checkpoints, progress, workers
from trainer.process import storage as locations
from trainer.process.arguments import Order
from trainer.process.checkpoint_writer import BackgroundWriter
from trainer.process.failures import OutOfMemory, UnusableData, UnusableJob, UnusableModule, UnusableWeights, WorkerLost
from trainer.process.free_memory import available
from trainer.process.progress import Reporter
from trainer.process.shutdown import Departure
from trainer.process.storage import Patience
from trainer.process.workers import Place

if TYPE_CHECKING:
    from trainer.loop.fitting import Fitted, Memory
    from trainer.loop.replicas import Team

log = logging.getLogger("trainer")

#: Seconds that the last checkpoint may take to be written when the machine is taken away. Vertex AI gives half a
#: minute, and removing the scratch folder takes some of it.
LAST_WRITE = 20.0


def run(order: Order, where: Place, *, work: Path, reporter: Reporter, departure: Departure) -> TrainingResult | None:
    """Carry out `order` with `work` as scratch space; returns the result that was written, None if this is no chief.

    An attempt that was interrupted after an epoch is gone on with. Raises the errors of `trainer.process.failures` and
    ServiceUnavailable; the result document is only there on success.
    """
    job, patience, clock = order.job, Patience(order.patience), _Stopwatch()
    with logs.bind(run_id=job.run_id, target=job.target):
        if where.is_chief:
            artifacts.publish_labels(job, artifacts.places(job), patience)
        with clock.lap("fetch"):
            shards = _fetch(job, where, order.cache or work / "shards", patience)
            weights, module = _weights(job, work, patience), _module(job, work, patience)
        # TensorFlow takes seconds and half a gigabyte to import: what is not there is told first.
        with clock.lap("import"), progress.native_banners_held_back():
            import keras  # noqa: F401, PLC0415
        with _errors_named(job, where, module):
            team = _team(where)
            departure.keep_listening()
            with clock.lap("load"):
                data = _load(job, where, shards, work)
            memory = _memory(job, artifacts.places(job), patience, departure, where)
            with clock.lap("train"):
                fitted = _fit(job, data, weights, module, memory, reporter=reporter, team=team)
            result = _finish(_Job(job, data, work, patience, module), fitted, memory, clock) if where.is_chief else None
            # A worker that left earlier would be missed: the others wait for it, or take it for lost.
            team.total([1.0])
    return result


@dataclasses.dataclass(frozen=True)
class _Job:
    """A job under way on this machine."""

    job: TrainingJob
    data: DataSet
    work: Path
    patience: Patience
    module: Path | None = None


def _finish(under_way: _Job, fitted: Fitted, memory: Memory, clock: _Stopwatch) -> TrainingResult:
    """From the trained network to the result document, which is written last."""
    job, data, patience = under_way.job, under_way.data, under_way.patience
    staging, where = artifacts.Staging(under_way.work / "output"), artifacts.places(job)
    with clock.lap("evaluate"):
        live = _live(job, data, under_way.work, patience)
        outcome = _Outcome(job, data, fitted, _evaluate(job, data, fitted, staging), live)
    with clock.lap("export"):
        outcome = _export(outcome, staging)
        if under_way.module:  # the weights are of what it builds
            staging.write("module.py", under_way.module.read_bytes())
        outcome = _timed(outcome, staging, under_way.work)
        where = _report(outcome, staging, where)
    with clock.lap("upload"):
        # So that an older log cannot arrive after the complete one.
        memory.writer.flush(LAST_WRITE)
        artifacts.publish(staging, job, where, patience)
    result = _result(outcome, clock, where)
    result = artifacts.publish_result(result, job.output.result, patience)
    _forget(memory, patience)
    _summary(result)
    return result


def evaluate_live(order: Order, *, work: Path) -> LiveMetrics:
    """Train nothing: measure the job's live model on its held-out pictures, and write that as its result."""
    job, patience = order.job, Patience(order.patience)
    if job.live is None:
        raise UnusableJob("--evaluate-live needs a job description with `live`: which model is to be measured")
    with logs.bind(run_id=job.run_id, target=job.target):
        where = Place()
        data = _load(job, where, _fetch(job, where, order.cache or work / "shards", patience), work)
        found = _live(job, data, work, patience)
        measured = found or LiveMetrics(run_id=job.live.run_id, saved_model=job.live.saved_model, problem="no pictures")
        locations.write(job.output.result, measured.to_json, patience)
    return measured


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """A trained model, and how it and the one that is live do on the same pictures."""

    job: TrainingJob
    data: DataSet
    fitted: Fitted
    metrics: Metrics
    live: LiveMetrics | None


@dataclasses.dataclass(frozen=True)
class _Shards:
    """Shards on this machine: those it learns from, those held out by name, and those that others learn from."""

    mine: Sequence[Shard]
    held_out: Sequence[Shard]
    others: Sequence[Shard]


def _fetch(job: TrainingJob, where: Place, cache: Path, patience: Patience) -> _Shards:
    """This worker's share of the shards; the chief's has all in which pictures are held out, too."""
    mine, others = workers.share(job.shards.train, where)
    # Without named shards, what is held out lies among everybody's.
    others = [] if job.shards.eval or not where.is_chief else others
    held_out = job.shards.eval if where.is_chief else ()
    return _Shards(*(locations.fetch_shards(part, cache, patience) for part in (mine, held_out, others)))


def _load(job: TrainingJob, where: Place, shards: _Shards, work: Path) -> DataSet:
    from trainer.data.decoding import ImageDecoder  # noqa: PLC0415

    data = examples.load(
        shards.mine,
        shards.held_out,
        elsewhere=shards.others,
        decoders=ImageDecoder,
        # The network and its gradients need the other half.
        memory=available() // 2,
        by_hash=not job.shards.eval,
        evaluates=where.is_chief,
        labels=job.labels,
        features=job.features,
        image_size=job.training.image_size,
        max_bad_records=job.training.max_bad_records,
        folder=work,
        augmentation=job.training.augmentation,
        # The rest is for what is written at the end.
        disk=int(0.6 * shutil.disk_usage(work).free),
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


def _module(job: TrainingJob, work: Path, patience: Patience) -> Path | None:
    """The file that builds the network, at the version that the run names; None for a network of Keras."""
    location = architectures.module_of(job.training.architecture)
    if not location:
        return None
    folder = work / "module"
    folder.mkdir(exist_ok=True)
    pinned = job.module or ModuleReference(uri=location, sha256="")
    try:
        path = locations.fetch(ShardReference(uri=location, generation=pinned.generation), folder, patience)
    except UnusableData as exc:
        raise UnusableModule(f"the network of this job: {exc}") from exc
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    # On a laptop nobody names a digest: there it is the file as it is.
    if pinned.sha256 not in {"", found}:
        raise UnusableModule(
            f"{location} has SHA-256 {found[:12]}…, and the run was made with {pinned.sha256[:12]}…: ask for a new run"
        )
    return path


def _team(where: Place) -> Team:
    from trainer.loop.replicas import Team  # noqa: PLC0415  # here and below: TensorFlow is imported by `run`, late

    return Team(where)


def _memory(job: TrainingJob, where: Artifacts, patience: Patience, departure: Departure, place: Place) -> Memory:
    """What an earlier attempt left, and a writer whose last write is waited for when the machine is taken away."""
    from trainer.loop.fitting import Memory  # noqa: PLC0415

    location = checkpoints.place(job)
    found = locations.read_if_present(location, patience)
    earlier = checkpoints.parse(found, checkpoints.fingerprint(job), source=location) if found else None
    writer = BackgroundWriter(lambda place, content: locations.write(place, content, patience))

    def finish_writing() -> str:
        if not writer.flush(LAST_WRITE):
            return f"the newest checkpoint was not written within {LAST_WRITE:.0f} s, an older one may be in {location}"
        return f"nothing was published as finished, the finished epochs are in {location}"

    departure.before(finish_writing if place.is_chief else lambda: "the chief has written down the finished epochs")
    return Memory(writer, location, where.logs or "", earlier)


def _fit(
    job: TrainingJob,
    data: DataSet,
    weights: str | Path,
    module: Path | None,
    memory: Memory,
    *,
    reporter: Reporter,
    team: Team,
) -> Fitted:
    from trainer.loop import fitting  # noqa: PLC0415

    return fitting.fit(job, data, fitting.Start(weights, module), memory, reporter=reporter, team=team)


def _evaluate(job: TrainingJob, data: DataSet, fitted: Fitted, staging: artifacts.Staging) -> Metrics:
    """Measure the model, and keep what it says to each picture: phones ask it where their own model is less sure."""
    from trainer.loop import evaluation  # noqa: PLC0415

    found = evaluation.evaluate(fitted.predict, data.held_out, job.labels)
    columns = (data.held_out.labels.tolist(), found.predicted.tolist(), found.confidence.tolist())
    rows = zip(map(answers.fingerprint, data.encoded), *columns, strict=True)
    said = (answers.Answer(picture, job.labels[true], job.labels[best], sure) for picture, true, best, sure in rows)
    staging.write(answers.FILE_NAME, answers.encode(said))
    return found.metrics


def _live(job: TrainingJob, data: DataSet, work: Path, patience: Patience) -> LiveMetrics | None:
    """How the live model does on the same pictures. That it cannot be asked must not cost the new one."""
    from trainer.outputs import live  # noqa: PLC0415

    if job.live is None:
        return None
    answer = LiveMetrics(run_id=job.live.run_id, saved_model=job.live.saved_model)
    try:
        folder = locations.fetch_folder(job.live.saved_model, work / "live", patience)
        metrics = live.measure(folder, data.encoded, data.held_out.labels, job.labels)
    except (live.UnusableModel, UnusableData, UnusableJob) as exc:
        log.warning("the live model of %s cannot be compared with: %s", job.live.run_id, exc)
        return answer.model_copy(update={"problem": str(exc)})
    log.info("the live model of %s has accuracy %.3f on the same pictures", job.live.run_id, metrics.accuracy)
    return answer.model_copy(update={"metrics": metrics})


def _forget(memory: Memory, patience: Patience) -> None:
    """The result is out: a checkpoint of up to a hundred megabytes has nothing left to say."""
    try:
        locations.remove(memory.checkpoint, patience)
    except (DualDeployError, GenerationChanged, OSError) as exc:
        log.warning("%s was not removed: %s", memory.checkpoint, exc)


def _export(outcome: _Outcome, staging: artifacts.Staging) -> _Outcome:
    """Write the models and the golden set; the outcome's golden pictures are then those that were written."""
    from trainer.outputs import export  # noqa: PLC0415

    job, fitted = outcome.job, outcome.fitted
    export.write_models(
        fitted.network,
        fitted.predict,
        labels=job.labels,
        image_size=job.training.image_size,
        model=staging.model,
        pixels_model=staging.pixels_model,
    )
    export.write_weights(fitted.network, staging.rest, own=bool(architectures.module_of(job.training.architecture)))
    pictures = export.readable(staging.model, outcome.data.golden)
    staging.write("golden.json", export.golden(staging.model, pictures, job.labels))
    return dataclasses.replace(outcome, data=dataclasses.replace(outcome.data, golden=pictures))


def _timed(outcome: _Outcome, staging: artifacts.Staging, work: Path) -> _Outcome:
    """How long each of the two models takes for one picture, with the same pictures on the same machine."""
    pictures = [picture.data for picture in outcome.data.golden]
    own = outcome.metrics.model_copy(update={"latency_seconds": _latency(staging.model, pictures)})
    other = outcome.live
    if other and other.metrics:
        seconds = _latency(work / "live", pictures)
        other = other.model_copy(update={"metrics": other.metrics.model_copy(update={"latency_seconds": seconds})})
    return dataclasses.replace(outcome, metrics=own, live=other)


def _latency(model: Path, pictures: Sequence[bytes]) -> float | None:
    """None when the model cannot be asked about one of the pictures: that costs a figure, not the training."""
    from trainer.outputs import live  # noqa: PLC0415

    try:
        return live.latency(model, pictures)
    except live.UnusableModel as exc:
        log.warning("no latency of %s: %s", model.name, exc)
        return None


def _report(outcome: _Outcome, staging: artifacts.Staging, where: Artifacts) -> Artifacts:
    """What people look at: everything measured as JSON, two charts, and TensorBoard's logs; returns what there is."""
    from trainer.outputs import charts, event_log  # noqa: PLC0415

    job, fitted = outcome.job, outcome.fitted
    document = {
        "v": 1,
        **as_mapping(outcome.metrics),
        "epochs": fitted.history,
        "course": as_mapping(fitted.course),
        "live": as_mapping(outcome.live) if outcome.live else None,
        "bad_records": [dataclasses.asdict(record) for record in outcome.data.bad_records],
        "skipped_records": fitted.skipped,
        "training": as_mapping(job.training),
    }
    staging.write("metrics.json", artifacts.as_json(document))
    title = f"{job.training.architecture}, {job.run_id}"
    drawn: dict[str, Callable[[], bytes]] = {
        "confusion_chart": lambda: charts.confusion(outcome.metrics, job.labels, title=title),
        "curves_chart": lambda: charts.curves(fitted.history, best_epoch=fitted.course.best_epoch, title=title),
    }
    for artifact, draw in drawn.items():
        try:
            staging.write(str(getattr(where, artifact)).rsplit("/", 1)[1], draw())
        except Exception:  # a picture for people, of a training that was paid for
            log.exception("there is no %s", artifact.replace("_", " "))
            where = where.model_copy(update={artifact: None})
    for name, content in event_log.encode(fitted.history).items():
        path = staging.logs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return where


def _result(outcome: _Outcome, clock: _Stopwatch, where: Artifacts) -> TrainingResult:
    job, data = outcome.job, outcome.data
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
        metrics=outcome.metrics,
        live=outcome.live,
        course=outcome.fitted.course,
        data=DataUsed(
            train_examples=outcome.fitted.pictures,
            eval_examples=len(data.held_out),
            split=data.split,
            skipped_records=outcome.fitted.skipped,
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
        result.artifacts.golden.rsplit("/", 1)[0],
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
def _errors_named(job: TrainingJob, where: Place, module: Path | None) -> Iterator[None]:
    import tensorflow as tf  # noqa: PLC0415

    from trainer import modules  # noqa: PLC0415

    # What TensorFlow's collectives raise when a peer is gone, or was told so by another.
    lost = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    )
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as exc:
        raise OutOfMemory(
            f"{job.training.architecture} at {job.training.image_size} px and {job.training.batch_size} pictures in "
            "a batch does not fit into memory: use a smaller batch_size or image_size, or a larger machine"
        ) from exc
    except lost as exc:
        if where.workers == 1:
            raise
        raise WorkerLost(f"another of the {where.workers} workers went away: {exc.message.splitlines()[0]}") from exc
    except DualDeployError:
        raise
    except Exception as exc:
        name = architectures.module_of(job.training.architecture)
        if module and (said := modules.fault(exc, name, module, "training it")):
            raise UnusableModule(said) from exc
        raise
