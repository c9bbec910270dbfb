"""From a trained run to a described, checked .tflite file in the models bucket."""

from __future__ import annotations

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
from dualdeploy.contracts import answers, golden, saved_model, training
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.training import ManagedModel, TrainingResult
from dualdeploy.errors import CannotEverSucceed, UnusableResult
from dualdeploy.google.object_store import ABSENT, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.images.pixels import UnreadableImage
from dualdeploy.ledger import Run
from mobile_publisher import candidates, conversion, gate_table, held_out, manifest, on_device, tflite_metadata
from mobile_publisher.candidates import Candidate, Conversions, Golden, Reference
from mobile_publisher.conversion import Variant
from mobile_publisher.manifest import Shape
from mobile_publisher.release import FIREBASE_ML, File
from mobile_publisher.settings import PublisherSettings
from mobile_publisher.world import Around

log = logging.getLogger(__name__)


#: Phones have nothing yet, and Google was asked for nothing.
_ALONE = Around()

#: What Vertex AI calls the file in an export's folder.
_EXPORTED = "model.tflite"


class InputChanges(CannotEverSucceed):
    """Apps that follow the name of the data set could not feed the new file."""


class NoRoom(CannotEverSucceed):
    """The model and its variants do not fit into the service's temporary folder."""


def export(
    run: Run,
    config: DatasetConfig,
    *,
    models: ObjectStore,
    data: ObjectStore,
    settings: PublisherSettings,
    around: Around = _ALONE,
    converter: Sequence[str] = conversion.CONVERTER,
    clock: Clock = clocks.utc_now,
) -> File | ManagedModel:
    """Convert as `publishing.quantization` says, measure every variant, and store the one that goes out.

    It is stored under a name made of its content, with its manifest and the gate's table beside it: repeating this
    writes the same objects or others, never over one that a phone may be downloading. `around` says what it goes out
    into, `converter` is the program that converts (see `conversion.convert`). What AutoML trained is not converted but
    taken as Google exported it; until it has, the model is returned, for the caller to ask Google. Raises
    CannotEverSucceed's children for everything that training again, or another variant, would have to mend.
    """
    result = read_result(run, models)
    if result.managed and not around.exported:
        return result.managed
    reference = _reference(run, result, models=models, data=data, live=around.live)
    if result.managed:
        made = [candidates.of_google(_exported(around.exported, models), reference, config.gates.mobile)]
    else:
        made = _converted(
            run, config, result, reference, models=models, data=data, settings=settings, converter=converter
        )
    chosen = candidates.choose(made)
    shape = _shape(chosen.tflite)
    _check_apps(shape, config, around, models)
    return _store(chosen, made, run, config, result, shape=shape, models=models, created=clock())


def _converted(
    run: Run,
    config: DatasetConfig,
    result: TrainingResult,
    reference: Reference,
    *,
    models: ObjectStore,
    data: ObjectStore,
    settings: PublisherSettings,
    converter: Sequence[str],
) -> list[Candidate]:
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
        try:
            return candidates.make(quantization, conversions, reference, config.gates.mobile)
        except UnreadableImage as exc:
            raise UnusableResult(f"{result.artifacts.golden} is not a golden set: {exc}") from exc


def _exported(folder: str, models: ObjectStore) -> bytes:
    """The one file that Google wrote into the folder. Raises UnusableResult."""
    root = _object_name(folder, models).rstrip("/")
    found = [each.name.removeprefix(f"{root}/") for each in models.list(f"{root}/")]
    if _EXPORTED not in found:
        raise UnusableResult(
            f"{folder} holds no {_EXPORTED}, but {', '.join(sorted(found)) or 'nothing'}: export it again"
        )
    return models.read(f"{root}/{_EXPORTED}").data


def _shape(tflite: bytes) -> Shape:
    """What an app has to know to use the file. Raises UnusableModel for one that no app of ours can."""
    # The order of AutoML's labels is its own, and stands in the file alone: without it, no label would be known.
    classifier = on_device.Classifier(tflite)
    if not classifier.takes_pixels:
        raise on_device.UnusableModel(
            f"the file's input is {classifier.input_type} that is not the pixels from 0 to 255 themselves, which is all"
            " that apps are promised"
        )
    scale, zero = classifier.output_scale
    return Shape(
        image_size=classifier.image_size,
        labels=classifier.labels,
        input_type=classifier.input_type,
        output_type=classifier.output_type,
        scale=scale,
        zero_point=zero,
    )


def _check_apps(shape: Shape, config: DatasetConfig, around: Around, models: ObjectStore) -> None:
    """Hold a file of another input type back from apps that were written for the one that is live.

    Who follows a name gets what is published under it; `min_app_version` is the one thing that keeps an app from a file
    that it cannot feed. Firebase ML knows no such thing. Raises InputChanges.
    """
    publishing = config.publishing
    described = _live_manifest(around.live, models) if around.live_name == publishing.name else around.pointed
    if around.forced or described is None:
        return
    live_type, live_least = _taken(described)
    if live_type == shape.input_type:
        return
    what = f"the file that phones have under {publishing.name} takes {live_type}, this one takes {shape.input_type}"
    if FIREBASE_ML in publishing.channels:
        raise InputChanges(
            f"{what}, and Firebase ML gives it to every app, also to those that cannot take it: give the data set"
            " another publishing.name, which the new apps ask for, or take firebase-ml out of publishing.channels"
        )
    if publishing.min_app_version in ("", live_least if shape.input_type != "float32" else ""):
        raise InputChanges(
            f"{what}: set publishing.min_app_version to the first version of your app that reads input.type of the"
            f" manifest{f' ({live_least} is that of the live file)' if live_least else ''}, so that older ones keep"
            " the file that they have, and send /redeploy (docs/phones.md)"
        )


def _live_manifest(uri: str, models: ObjectStore) -> Mapping[str, Any]:
    """What is known of the live file; nothing where its manifest is gone."""
    name = f"{_object_name(uri, models).rpartition('/')[0]}/manifest.json"
    try:
        described = json.loads(models.read(name).data)
    except (ObjectMissing, ValueError) as exc:
        log.warning("the input type of the live file is not known, so float32 is assumed: %s", exc)
        return {}
    return described if isinstance(described, Mapping) else {}


def _taken(described: Mapping[str, Any]) -> tuple[str, str]:
    """Input type and least version of the app, as a manifest says; float32 where it says none."""
    given = described.get("input")
    kind = given.get("type", "float32") if isinstance(given, Mapping) else "float32"
    return str(kind), str(described.get("min_app_version", ""))


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
    shape: Shape,
    models: ObjectStore,
    created: datetime.datetime,
) -> File:
    assert chosen.evaluation is not None  # noqa: S101  # `choose` gives nothing that was not measured
    assert chosen.figures is not None  # noqa: S101
    digest = hashlib.sha256(chosen.tflite).hexdigest()
    folder = f"mobile/{run.dataset}/{run.run_id}/{digest[:12]}"
    if result.managed:
        # A file of ours has its name inside, and so another checksum with another name.
        folder += f"-{config.publishing.name}"
    described = manifest.document(
        name=config.publishing.name,
        run=run,
        result=result,
        shape=shape,
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
        input_type=shape.input_type,
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
        raise UnusableResult(
            f"there is nothing under {store.uri(prefix)}: the job did not write it, or it was deleted; train again to "
            "release this run"
        )


def _golden(result: TrainingResult, models: ObjectStore) -> Golden:
    """What the model answers to the golden pictures; nothing where AutoML trained it and no one knows."""
    name = _object_name(result.artifacts.golden, models)
    try:
        pictures = golden.decode(models.read(name).data, labels=result.labels, source=models.uri(name))
    except ObjectMissing as exc:
        raise UnusableResult(
            f"there is no {models.uri(name)}: the job did not write it, or it was deleted; train again to release this "
            "run"
        ) from exc
    return [(each.image, each.probabilities) for each in pictures if each.probabilities is not None]


def _object_name(uri: str, store: ObjectStore) -> str:
    """The name inside the models bucket; a result may not send us anywhere else."""
    bucket = store.uri("")
    if not uri.startswith(bucket):
        raise UnusableResult(f"{uri} is not in {bucket}")
    return uri.removeprefix(bucket)
