"""Everything a job leaves behind, and where: written locally first, then copied, the result document last."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualdeploy.contracts import answers, architectures
from dualdeploy.contracts.training import Artifacts, TrainingJob, TrainingResult
from trainer.process import storage as locations
from trainer.process.failures import JOB_ID
from trainer.process.storage import Patience


@dataclasses.dataclass(frozen=True)
class Staging:
    """A local folder laid out like the output; nothing of it is visible to anybody until `publish`."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def pixels_model(self) -> Path:
        return self.folder / "pixels_model"

    @property
    def rest(self) -> Path:
        folder = self.folder / "rest"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def write(self, name: str, data: bytes) -> None:
        (self.rest / name).write_bytes(data)


def places(job: TrainingJob, environ: Mapping[str, str] = os.environ) -> Artifacts:
    """Where each artifact goes. Vertex AI names two folders itself, in AIP_MODEL_DIR and AIP_TENSORBOARD_LOG_DIR.

    Source: https://cloud.google.com/vertex-ai/docs/training/code-requirements#environment-variables
    """
    directory = job.output.directory.rstrip("/")
    return Artifacts(
        saved_model=environ.get("AIP_MODEL_DIR", "").rstrip("/") or f"{directory}/model",
        pixels_model=f"{directory}/pixels_model",
        keras=None if architectures.module_of(job.training.architecture) else f"{directory}/model.keras",
        metrics=f"{directory}/metrics.json",
        golden=f"{directory}/golden.json",
        labels=f"{directory}/labels.txt",
        answers=f"{directory}/{answers.FILE_NAME}",
        confusion_chart=f"{directory}/confusion.png",
        curves_chart=f"{directory}/curves.png",
        logs=environ.get("AIP_TENSORBOARD_LOG_DIR", "").rstrip("/") or f"{directory}/logs",
    )


def publish_labels(job: TrainingJob, where: Artifacts, patience: Patience) -> None:
    """The first act: a place that cannot be written shall not cost a training. Raises UnwritableOutput."""
    locations.write(str(where.labels), "".join(f"{label}\n" for label in job.labels).encode, patience)


def publish(staging: Staging, job: TrainingJob, where: Artifacts, patience: Patience) -> None:
    """Copy the artifacts to their places; an earlier attempt's files are replaced."""
    folders = {
        staging.model: where.saved_model,
        staging.pixels_model: where.pixels_model,
        staging.logs: where.logs or "",
        staging.rest: job.output.directory.rstrip("/"),
    }
    locations.publish_folders(folders, patience)


def publish_result(
    result: TrainingResult, location: str, patience: Patience, environ: Mapping[str, str] = os.environ
) -> TrainingResult:
    """The very last act: the existence of this object means that all others are there and whole.

    It says which job wrote it: Vertex AI may create a job later than its client waits, and then two jobs of one
    training write to one place.
    """
    signed = result.model_copy(update={"job": environ.get(JOB_ID, "")})
    locations.write(location, signed.to_json, patience)
    return signed


def as_json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode()
