"""From a trained run to a described, checked .tflite file in the models bucket."""

from __future__ import annotations

import base64
import contextlib
import datetime
import errno
import functools
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy import local_paths
from dualdeploy.clock import Clock
from dualdeploy.contracts import answers, saved_model, training
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.training import TrainingResult
from dualdeploy.errors import CannotEverSucceed, UnusableResult
from dualdeploy.google.object_store import ABSENT, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.images.pixels import UnreadableImage
from dualdeploy.ledger import Run
from mobile_publisher import candidates, conversion, gate_table, held_out, manifest, on_device, tflite_metadata
from mobile_publisher.candidates import Candidate, Conversions, Golden, Reference
from mobile_publisher.conversion import Variant
from mobile_publisher.release import File
from mobile_publisher.settings import PublisherSettings

log = logging.getLogger(__name__)


class NoRoom(CannotEverSucceed):
    """The model and its variants do not fit into the service's temporary folder."""


def export(
    run: Run,
    config: DatasetConfig,
    *,
    models: ObjectStore,
    data: ObjectStore,
    settings: PublisherSettings,
    live: str = "",
    converter: Sequence[str] = conversion.CONVERTER,
    clock: Clock = clocks.utc_now,
) -> File:
    """Convert as `publishing.quantization` says, measure every variant, and store the one that goes out.

    It is stored under a name made of its content, with its manifest and the gate's table beside it: repeating this
    writes the same objects or others, never over one that a phone may be downloading. `live` is the URI of the file
    that is live, `converter` the program that converts (see `conversion.convert`). Raises CannotEverSucceed's children
    for everything that training again, or another variant, would have to mend.
    """
    result = read_result(run, models)
    quantization = config.publishing.quantization
    with _scratch() as folder:
        source = folder / "pixels_model"
        download_tree(models, _object_name(result.artifacts.pixels_model, models), source)
        saved_model.check_folder(source)
        conversions = Conversions(
            source=source,
            folder=folder,
            image_size=result.image_size,
            describe=functools.partial(_describe, run=run, config=config, result=result),
            representative=lambda: _training_pictures(run, result, data),
            seconds=settings.conversion_timeout_seconds,
            memory_bytes=settings.conversion_memory_mb * 1_000_000 or None,
            converter=converter,
        )
        reference = _reference(run, result, models=models, data=data, live=live)
        try:
            made = candidates.make(quantization, conversions, reference, config.gates.mobile)
        except UnreadableImage as exc:
            raise UnusableResult(f"{result.artifacts.golden} is not a golden set: {exc}") from exc
    chosen = candidates.choose(made)
    return _store(chosen, made, run, config, result, models=models, created=clock())


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix="export-") as folder:
            yield Path(folder)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        # Not to be tried again every minute, at the price of a conversion each time: it would be full again.
        where = tempfile.gettempdir()
        raise NoRoom(f"no room is left in {where}, which on Cloud Run is memory: give the service more") from exc


def _store(
    chosen: Candidate,
    made: Sequence[Candidate],
    run: Run,
    config: DatasetConfig,
    result: TrainingResult,
    *,
    models: ObjectStore,
    created: datetime.datetime,
) -> File:
    assert chosen.evaluation is not None  # noqa: S101  # `choose` gives nothing that was not measured
    assert chosen.figures is not None  # noqa: S101
    digest = hashlib.sha256(chosen.tflite).hexdigest()
    folder = f"mobile/{run.dataset}/{run.run_id}/{digest[:12]}"
    described = manifest.document(
        name=config.publishing.name,
        run=run,
        result=result,
        variant=chosen.variant,
        sha256=digest,
        size_bytes=len(chosen.tflite),
        accuracy=chosen.evaluation.accuracy,
        min_app_version=config.publishing.min_app_version,
        created=created,
    )
    rows = gate_table.rows(made, chosen)
    table = gate_table.to_json(run.run_id, rows)
    # The same file can be measured again, against another live file or other limits: each table has its own name.
    stem = f"gate-{hashlib.sha256(table).hexdigest()[:8]}"
    files = {
        f"{stem}.json": (table, "application/json"),
        f"{stem}.md": (gate_table.to_markdown(run.run_id, rows).encode(), "text/markdown; charset=utf-8"),
        f"{stem}.png": (gate_table.to_png(rows), "image/png"),
        answers.FILE_NAME: (answers.encode(chosen.evaluation.answers), "application/gzip"),
        "manifest.json": (manifest.encode(described), "application/json"),
        "model.tflite": (chosen.tflite, "application/octet-stream"),
    }
    _put_new(models, folder, files)
    return File(
        uri=models.uri(f"{folder}/model.tflite"),
        sha256=digest,
        version=manifest.version(run, digest),
        manifest=models.uri(f"{folder}/manifest.json"),
        variant=chosen.variant,
        quantization=config.publishing.quantization,
        named=config.publishing.name,
        figures=chosen.figures,
        gate_table=models.uri(f"{folder}/{stem}.md"),
        answers=models.uri(f"{folder}/{answers.FILE_NAME}"),
    )


def _put_new(models: ObjectStore, folder: str, files: Mapping[str, tuple[bytes, str]]) -> None:
    for name, (content, content_type) in files.items():
        # What an earlier export of the same bytes wrote stays: its manifest may already be with phones.
        with contextlib.suppress(GenerationChanged):
            models.put(f"{folder}/{name}", content, expect=ABSENT, content_type=content_type)


def _describe(tflite: bytes, variant: Variant, *, run: Run, config: DatasetConfig, result: TrainingResult) -> bytes:
    return tflite_metadata.describe(
        tflite,
        name=config.publishing.name,
        description=f"{config.dataset} classifier of run {run.run_id}",
        labels=result.labels,
        image_size=result.image_size,
        version=run.run_id,
        extra={"run_id": run.run_id, "dataset": run.dataset, "variant": variant},
    )


def _training_pictures(run: Run, result: TrainingResult, data: ObjectStore) -> Iterator[bytes]:
    about, by_hash = candidates.REPRESENTATIVE_PICTURES, result.data.split == "hash"
    for image, _ in held_out.training_examples(run, data, about=about, by_hash=by_hash):
        yield image


def _reference(run: Run, result: TrainingResult, *, models: ObjectStore, data: ObjectStore, live: str) -> Reference:
    return Reference(
        labels=result.labels,
        examples=lambda: held_out.examples(run, data, by_hash=result.data.split == "hash"),
        golden=_golden(result, models),
        accuracy=result.metrics.accuracy,
        recall={label: row.recall for label, row in result.metrics.per_class.items() if row.examples},
        cloud_golden=_cloud_golden(run, result, models),
        live_accuracy=_live_accuracy(run, result, live, models=models, data=data),
    )


def _cloud_golden(run: Run, result: TrainingResult, models: ObjectStore) -> Golden:
    """The cloud model's answers; none while its training runs or when it failed: the two do not wait for each other."""
    name = training.result_name(run.run_id, "cloud")
    try:
        cloud = training.parse_result(models.read(name).data, source=models.uri(name))
        if tuple(cloud.labels) != tuple(result.labels):
            return ()
        return _golden(cloud, models)
    except ObjectMissing:
        return ()
    except CannotEverSucceed as exc:
        log.warning("no comparison with the cloud model of %s: %s", run.run_id, exc)
        return ()


def _live_accuracy(
    run: Run, result: TrainingResult, live: str, *, models: ObjectStore, data: ObjectStore
) -> float | None:
    """How the file that phones have now does on this run's pictures; None for a file that cannot be compared."""
    if not live:
        return None
    try:
        tflite = models.read(_object_name(live, models)).data
        if set(on_device.Classifier(tflite).labels) != set(result.labels):
            return None
        examples = held_out.examples(run, data, by_hash=result.data.split == "hash")
        return on_device.evaluate(tflite, examples, labels=result.labels).accuracy
    except (ObjectMissing, on_device.UnusableModel, UnusableResult) as exc:
        log.warning("no comparison with the live file %s: %s", live, exc)
        return None


def read_result(run: Run, models: ObjectStore) -> TrainingResult:
    name = training.result_name(run.run_id, "mobile")
    try:
        return training.parse_result(models.read(name).data, source=models.uri(name))
    except ObjectMissing as exc:
        raise UnusableResult(f"{models.uri(name)} is gone; train again to release this run") from exc


def download_tree(store: ObjectStore, prefix: str, folder: Path) -> None:
    """Fetch every object under `prefix/` into `folder`. Raises UnusableResult if there is none, or LeavesItsFolder."""
    count = 0
    for summary in store.list(f"{prefix.rstrip('/')}/"):
        if summary.name.endswith("/"):
            continue
        path = local_paths.inside(folder, summary.name[len(prefix.rstrip("/")) + 1 :])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(summary.name).data)
        count += 1
    if not count:
        raise UnusableResult(f"there is nothing under {store.uri(prefix)}")


def _golden(result: TrainingResult, models: ObjectStore) -> Golden:
    name = _object_name(result.artifacts.golden, models)
    try:
        document = json.loads(models.read(name).data)
        return list(_pairs(document))
    except ObjectMissing as exc:
        raise UnusableResult(f"{models.uri(name)} is gone") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise UnusableResult(f"{models.uri(name)} is not a golden set: {exc!r}") from exc


def _pairs(document: Any) -> Iterator[tuple[bytes, Sequence[float]]]:
    for example in document["examples"]:
        yield base64.b64decode(example["image_bytes"]["b64"]), [float(p) for p in example["probabilities"]]


def _object_name(uri: str, store: ObjectStore) -> str:
    """The name inside the models bucket; a result may not send us anywhere else."""
    bucket = store.uri("")
    if not uri.startswith(bucket):
        raise UnusableResult(f"{uri} is not in {bucket}")
    return uri.removeprefix(bucket)
