"""The folder that a search gets and fills: see `local_cloud.vertex.searches`, which is its other side."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

#: The side of the pictures that AutoML's phone files take.
IMAGE_SIZE = 224


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of the listing: its file, its place in the labels, and its set."""

    file: str
    label: int
    set: str


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be learned; `labels` are in the order that the model shall have them."""

    folder: Path
    model_type: str
    labels: Sequence[str]
    pictures: Sequence[Picture]

    @property
    def is_for_phones(self) -> bool:
        return self.model_type.startswith("MOBILE_")

    def of_set(self, name: str) -> list[Picture]:
        return [picture for picture in self.pictures if picture.set == name]

    def read(self, picture: Picture) -> bytes:
        return (self.folder / picture.file).read_bytes()


def read_task(folder: Path) -> Task:
    document = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    labels = document["labels"]
    pictures = [Picture(each["file"], labels.index(each["label"]), each["set"]) for each in document["pictures"]]
    return Task(folder, document["model_type"], labels, pictures)


def served_folder() -> Path:
    """Where the model is that this process serves."""
    return Path(os.environ["AUTOML_MODEL"])


def write_scores(task: Task, scores: Mapping[str, Sequence[float]]) -> None:
    """Say what the model answers for each picture of the test set."""
    (task.folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")


def write_edge_file(task: Task, tflite: bytes) -> None:
    """Leave the file that an export copies."""
    folder = task.folder / "exports" / "tflite"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(tflite)
