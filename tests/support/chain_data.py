"""What goes through the chain of the tests: shards, configurations, results of trainings, stubs of exported files."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from dualdeploy.clock import Clock, to_text
from dualdeploy.contracts import golden, saved_model, training
from dualdeploy.contracts.answers import FILE_NAME, Answer, encode
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.golden import Picture
from dualdeploy.google.object_store import ABSENT, Generation
from dualdeploy.google.vertex import ModelVersion
from dualdeploy.images import tfrecord
from dualdeploy.ledger import Run
from mobile_publisher.on_device_gate import Figures
from mobile_publisher.release import File
from support.fakes import MemoryObjectStore
from support.graphs import EMPTY_GRAPH

LABELS = ("blue", "red")
QUIET_SECONDS = 60.0

#: Names of a batch that is whole by its names alone.
NUMBERED = ("flowers/train-00000-of-00002.tfrecord", "flowers/train-00001-of-00002.tfrecord")
HELD_OUT = ("flowers/eval-00000-of-00001.tfrecord",)
WHOLE = (*NUMBERED, *HELD_OUT)


@functools.cache
def shard_bytes(name: str, edition: int = 1, examples: int = 4) -> bytes:
    """A small, sound TFRecord shard; another `edition` has other images."""
    seed = random.Random(f"{name} {edition}")
    out = io.BytesIO()
    records = []
    for number in range(examples):
        encoded = io.BytesIO()
        label = number % len(LABELS)
        strong, weak = seed.randrange(128, 256), (seed.randrange(256), seed.randrange(64))
        colour = (weak[1], weak[0], strong) if label == 0 else (strong, weak[0], weak[1])
        image = Image.new("RGB", (8, 8), colour)
        image.putpixel((number % 8, number // 8), (seed.randrange(256), seed.randrange(256), seed.randrange(256)))
        image.save(encoded, "PNG")
        records.append(tfrecord.encode_example({"image": [encoded.getvalue()], "class": [label]}))
    tfrecord.write_records(out, records)
    return out.getvalue()


def config_document(dataset: str = "flowers", **sections: Any) -> dict[str, Any]:
    """A configuration with a short quiet period; `sections` replace whole sections.

    Without a cool-down, so that a release leaves nothing behind, unless a test asks for one. Both channels, because
    Firebase ML is what locks and refuses.
    """
    serving = sections.pop("serving", {"canary": {"steps": [50, 100], "bake": 0, "answers": 2}})
    publishing = sections.pop("publishing", {})
    return {
        "dataset": dataset,
        "labels": list(LABELS),
        "data": {"quiet_period": QUIET_SECONDS},
        "serving": {"cool_down": 0, **serving},
        "publishing": {"channels": ["firebase-ml", "firebase-storage"], **publishing},
        **sections,
    }


def write_result(
    models: MemoryObjectStore,
    run_id: str,
    target: str,
    *,
    clock: Clock,
    accuracy: float = 0.95,
    name: str = "",
    **more: Any,
) -> None:
    """What services/trainer writes last, and the golden set beside it; `more` takes the place of what it says."""
    directory = models.uri(training.artifact_directory(run_id, target))
    artifacts = {
        "saved_model": "model",
        "pixels_model": "pixels_model",
        "keras": "model.keras",
        "metrics": "metrics.json",
        "golden": "golden.json",
        "labels": "labels.txt",
        "answers": FILE_NAME,
    }
    result = {
        "v": 1,
        "run_id": run_id,
        "dataset": run_id.rsplit("-", 1)[0],
        "target": target,
        "finished_at": to_text(clock()),
        "architecture": "densenet121",
        "image_size": 224,
        "labels": LABELS,
        "artifacts": {key: f"{directory}/{value}" for key, value in artifacts.items()},
        "metrics": {"accuracy": accuracy, "loss": 0.1, "examples": 40},
        "data": {"train_examples": 160, "eval_examples": 40},
        **more,
    }
    # An image is the bytes of its label: see `support.fakes.vertex.label_in_picture`.
    images = [(label.encode(), [float(label == other) for other in LABELS]) for label in LABELS]
    overwrite(models, f"{training.artifact_directory(run_id, target)}/golden.json", golden_set(images))
    overwrite(models, f"{training.artifact_directory(run_id, target)}/model/{saved_model.FILE}", EMPTY_GRAPH)
    if target == "cloud":
        overwrite(models, f"{training.artifact_directory(run_id, target)}/{FILE_NAME}", said(0.9))
    overwrite(models, name or training.result_name(run_id, target), json.dumps(result).encode())


def write_managed_result(
    models: MemoryObjectStore,
    run_id: str,
    target: str,
    *,
    clock: Clock,
    version: ModelVersion,
    accuracy: float = 0.95,
    **more: Any,
) -> None:
    """What is known of a model that AutoML trained: no files but golden pictures, with their true labels."""
    directory = training.artifact_directory(run_id, target)
    kind = {"cloud": "CLOUD", "mobile": "MOBILE_TF_VERSATILE_1"}[target]
    artifacts = {key: models.uri(f"{directory}/{name}") for key, name in (("golden", "golden.json"), ("labels", "l"))}
    result = {
        "run_id": run_id,
        "dataset": run_id.rsplit("-", 1)[0],
        "target": target,
        "finished_at": to_text(clock()),
        "architecture": f"automl:{kind}",
        "image_size": 0,
        "labels": LABELS,
        "artifacts": artifacts,
        "metrics": {"accuracy": accuracy, "loss": 0.1, "examples": 40},
        "data": {"train_examples": 160, "eval_examples": 40},
        "managed": {"name": version.name, "version": version.version, "type": kind},
        **more,
    }
    pictures = [Picture(image=label.encode(), label=label) for label in LABELS]
    overwrite(models, f"{directory}/golden.json", golden.encode(pictures))
    overwrite(models, training.result_name(run_id, target), json.dumps(result).encode())


def golden_set(images: Iterable[tuple[bytes, Sequence[float]]]) -> bytes:
    """The document `golden.json` that the trainer writes."""
    examples = [
        {"image_bytes": {"b64": base64.b64encode(image).decode()}, "probabilities": list(probabilities)}
        for image, probabilities in images
    ]
    return json.dumps({"v": 1, "examples": examples}).encode()


def stub_file(models: MemoryObjectStore, run: Run, config: DatasetConfig, *, accuracy: float, variant: str) -> File:
    """What mobile_publisher makes of a run, without a converter."""
    asked = config.publishing.quantization
    tflite = ("" if asked == "auto" else f"{asked} ").encode() + f"file of {run.run_id}".encode()
    digest = hashlib.sha256(tflite).hexdigest()
    name = f"mobile/{run.dataset}/{run.run_id}/{digest[:12]}/model.tflite"
    models.put(name, tflite, expect=ABSENT)
    version = f"{run.run_id.removeprefix(f'{run.dataset}-')}-{digest[:12]}"
    manifest = {"version": version, "sha256": digest, "size": len(tflite)}
    described = name.replace("model.tflite", "manifest.json")
    models.put(described, json.dumps(manifest).encode(), expect=ABSENT)
    answers = name.replace("model.tflite", FILE_NAME)
    models.put(answers, said(0.8), expect=ABSENT)
    return File(
        uri=models.uri(name),
        sha256=digest,
        version=version,
        manifest=models.uri(described),
        variant=variant if asked == "auto" else asked,
        quantization=asked,
        named=config.publishing.name,
        figures=Figures(accuracy=accuracy, size_bytes=2_000_000),
        answers=models.uri(answers),
    )


@functools.cache
def said(accuracy: float) -> bytes:
    """Answers to 400 pictures: a model is right where it is surest, and where a less accurate one is."""
    labels = ("blue", "red")
    rows = ((f"{number:016x}", labels[number % 2], number >= 400 * (1 - accuracy)) for number in range(400))
    return encode(
        Answer(picture, label, label if right else labels[label == "blue"], 0.5 + int(picture, 16) / 800)
        for picture, label, right in rows
    )


def overwrite(store: MemoryObjectStore, name: str, data: bytes) -> Generation:
    """Write as people and pipelines do: whatever is there is replaced, and the generation is a new one."""
    current = next((summary.generation for summary in store.list(name) if summary.name == name), ABSENT)
    return store.put(name, data, expect=current)
