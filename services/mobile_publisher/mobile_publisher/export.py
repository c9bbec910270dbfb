"""From a trained run to a described, checked .tflite file in the models bucket."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dualdeploy import training
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import UnusableResult
from dualdeploy.images import UnreadableImage
from dualdeploy.ledger import Run
from dualdeploy.object_store import ABSENT, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.training import TrainingResult
from mobile_publisher import conversion, held_out, on_device, tflite_metadata
from mobile_publisher.conversion import Variant
from mobile_publisher.settings import PublisherSettings

#: How often the file must name the same class as the model it was made from, on the golden pictures. Quantised weights
#: may cost a label here and there; a conversion that lost its weights agrees on one picture in `classes`.
MIN_AGREEMENT = 0.8


class ConversionDisagrees(UnusableResult):
    """The converted file does not answer what its source model answers."""


@dataclasses.dataclass(frozen=True)
class Export:
    """A file in the models bucket and what was measured of it."""

    uri: str
    sha256: str
    variant: Variant
    evaluation: on_device.Evaluation
    agreement: float

    def as_facts(self) -> dict[str, Any]:
        """For the ledger: figures only, no confusion matrix."""
        return {
            "tflite": self.uri,
            "tflite_sha256": self.sha256,
            "tflite_bytes": self.evaluation.tflite_bytes,
            "variant": self.variant,
            "accuracy": self.evaluation.accuracy,
            "eval_examples": self.evaluation.examples,
            "invoke_ms_p50": self.evaluation.invoke_ms_p50,
            "agreement_with_source": self.agreement,
        }


def export(
    run: Run,
    config: DatasetConfig,
    *,
    variant: Variant,
    models: ObjectStore,
    data: ObjectStore,
    settings: PublisherSettings,
    converter: Sequence[str] = conversion.CONVERTER,
) -> Export:
    """Convert, describe, check on the held-out pictures and store under a name made of the content.

    Repeating it writes the same object or another one, never over one that a phone may be downloading. `converter` is
    the program that converts (see `conversion.convert`). Raises CannotEverSucceed's children for everything that
    training again, or another variant, would have to mend.
    """
    result = read_result(run, models)
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        source = Path(folder, "pixels_model")
        download_tree(models, _object_name(result.artifacts.pixels_model, models), source)
        converted = conversion.convert(
            source,
            Path(folder, "model.tflite"),
            variant=variant,
            timeout=settings.conversion_timeout_seconds,
            memory_bytes=settings.conversion_memory_mb * 1_000_000 or None,
            converter=converter,
        )
        tflite = tflite_metadata.describe(
            converted.path.read_bytes(),
            name=config.publishing.name,
            description=f"{config.dataset} classifier of run {run.run_id}",
            labels=result.labels,
            image_size=result.image_size,
            version=run.run_id,
            extra={"run_id": run.run_id, "dataset": run.dataset, "variant": variant},
        )
    try:
        agreement = on_device.agreement(tflite, _golden(result, models), labels=result.labels)
    except UnreadableImage as exc:
        raise UnusableResult(f"{result.artifacts.golden} is no golden set: {exc}") from exc
    if agreement.same_label < MIN_AGREEMENT:
        raise ConversionDisagrees(
            f"the {variant} file agrees with its source model on {agreement.same_label:.0%} of"
            f" {agreement.examples} golden pictures; at least {MIN_AGREEMENT:.0%} are needed"
        )
    evaluation = on_device.evaluate(tflite, held_out.examples(run, data), labels=result.labels)
    digest = hashlib.sha256(tflite).hexdigest()
    name = f"mobile/{run.dataset}/{run.run_id}/{digest[:12]}/model.tflite"
    with contextlib.suppress(GenerationChanged):
        models.put(name, tflite, expect=ABSENT, content_type="application/octet-stream")
    return Export(models.uri(name), digest, variant, evaluation, agreement.same_label)


def read_result(run: Run, models: ObjectStore) -> TrainingResult:
    name = training.result_name(run.run_id, "mobile")
    try:
        return training.parse_result(models.read(name).data, source=models.uri(name))
    except ObjectMissing as exc:
        raise UnusableResult(f"{models.uri(name)} is gone; train again to bring this run out") from exc


def download_tree(store: ObjectStore, prefix: str, folder: Path) -> None:
    """Fetch every object under `prefix/` into `folder`. Raises UnusableResult when there is none."""
    count = 0
    for summary in store.list(f"{prefix.rstrip('/')}/"):
        relative = PurePosixPath(summary.name[len(prefix.rstrip("/")) + 1 :])
        if summary.name.endswith("/"):
            continue
        if relative.is_absolute() or ".." in relative.parts:
            raise UnusableResult(f"{store.uri(summary.name)} would lie outside its folder")
        path = folder.joinpath(*relative.parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(summary.name).data)
        count += 1
    if not count:
        raise UnusableResult(f"there is nothing under {store.uri(prefix)}")


def _golden(result: TrainingResult, models: ObjectStore) -> Iterable[tuple[bytes, Sequence[float]]]:
    name = _object_name(result.artifacts.golden, models)
    try:
        document = json.loads(models.read(name).data)
        return list(_pairs(document))
    except ObjectMissing as exc:
        raise UnusableResult(f"{models.uri(name)} is gone") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise UnusableResult(f"{models.uri(name)} is no golden set: {exc!r}") from exc


def _pairs(document: Any) -> Iterator[tuple[bytes, Sequence[float]]]:
    for example in document["examples"]:
        yield base64.b64decode(example["image_bytes"]["b64"]), [float(p) for p in example["probabilities"]]


def _object_name(uri: str, store: ObjectStore) -> str:
    """The name inside the models bucket; a result may not send us anywhere else."""
    bucket = store.uri("")
    if not uri.startswith(bucket):
        raise UnusableResult(f"{uri} is not in {bucket}")
    return uri.removeprefix(bucket)
