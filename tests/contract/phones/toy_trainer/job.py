"""A training job without training: the mobile model was made before, the cloud model never comes about.

python job.py SAVED_MODEL --target TARGET --job gs://…      as Vertex AI starts services/trainer
"""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

from PIL import Image

from dualdeploy.contracts.training import TrainingJob
from dualdeploy.google.object_store import ABSENT, GcsObjectStore

SIZE = 8
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def main(saved_model: Path, target: str, uri: str) -> int:
    """Leave behind what the trainer leaves behind, the result last."""
    if target == "cloud":
        print("this toy has no cloud model", file=sys.stderr)
        return 1
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    models = GcsObjectStore(bucket)
    job = TrainingJob.model_validate_json(models.read(name).data)
    folder = job.output.directory
    for path in (path for path in saved_model.rglob("*") if path.is_file()):
        put(models, f"{folder}/pixels_model/{path.relative_to(saved_model).as_posix()}", path.read_bytes())
    put(models, f"{folder}/golden.json", json.dumps(golden(job.labels)).encode())
    put(models, job.output.result, json.dumps(result(job)).encode())
    return 0


def put(models: GcsObjectStore, uri: str, data: bytes) -> None:
    models.put(uri.removeprefix(models.uri("")), data, expect=ABSENT)


def golden(labels: tuple[str, ...]) -> dict[str, object]:
    """Every label's own colour, and the answer to it."""
    examples = [
        {"image_bytes": {"b64": picture(COLOURS[label])}, "probabilities": [float(other == label) for other in labels]}
        for label in labels
    ]
    return {"v": 1, "examples": examples}


def picture(colour: tuple[int, int, int]) -> str:
    out = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def result(job: TrainingJob) -> dict[str, object]:
    names = ("saved_model", "pixels_model", "keras", "metrics", "golden", "labels")
    files = {name: f"{job.output.directory}/{name}" for name in names}
    return {
        "run_id": job.run_id,
        "dataset": job.dataset,
        "target": job.target,
        "finished_at": "2026-01-01T00:00:00.000Z",
        "architecture": "colours",
        "image_size": SIZE,
        "labels": job.labels,
        "artifacts": {**files, "golden": f"{job.output.directory}/golden.json"},
        "metrics": {"accuracy": 1.0, "loss": 0.1, "examples": 12},
        "data": {"train_examples": 12, "eval_examples": 12},
    }


sys.exit(main(Path(sys.argv[1]), sys.argv[sys.argv.index("--target") + 1], sys.argv[sys.argv.index("--job") + 1]))
