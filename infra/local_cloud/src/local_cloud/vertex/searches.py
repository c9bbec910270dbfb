"""What stands for AutoML's search: a command that learns from a folder of pictures and leaves a model there.

The folder is all that both sides know of each other. Before the command runs, it holds

* `task.json`: `model_type` (as `modelType` of AutoML), `labels` in the order that the model shall have them, and
  `pictures`, each with `file` (a path in the folder), `label` and `set` (`training`, `validation` or `test`).

The command gets the folder as its last argument, and leaves there

* `scores.json`: for each file of the test set one number for each label, in that order, which add up to 1;
* `exports/<format>/`: the files of each format that it can export;
* whatever the command that serves needs. That one finds the folder in AUTOML_MODEL, keeps Vertex AI's contract of
  custom containers (AIP_HTTP_PORT, AIP_HEALTH_ROUTE, AIP_PREDICT_ROUTE), is sent `{"instances": [{"content":
  "<base64>"}]}` and answers `{"predictions": [[one number for each label]]}`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_cloud.vertex.images import Image, command_line
from local_cloud.vertex.processes import Process, container_environment

MODEL_VARIABLE = "AUTOML_MODEL"
EXPORTS = "exports"

_TASK = "task.json"
_SCORES = "scores.json"
_LOOK_SECONDS = 0.2


class SearchFailed(RuntimeError):
    """The command that stands for the search did not leave a model."""


def write_task(folder: Path, *, model_type: str, labels: Sequence[str], pictures: Sequence[Mapping[str, str]]) -> None:
    """Say what is to be learned; the pictures lie in the folder already."""
    task = {"model_type": model_type, "labels": labels, "pictures": pictures}
    (folder / _TASK).write_text(json.dumps(task), encoding="utf-8")


def run(command: Image, folder: Path, *, python: str, environment: Mapping[str, str], stop: threading.Event) -> bool:
    """Run the search to its end; False when `stop` came first. Raises SearchFailed."""
    try:
        process = Process(
            command_line(command, python=python, command=[], arguments=[str(folder)]),
            folder=command.folder,
            environment=search_environment(command, environment),
            log=folder / "log",
        )
    except OSError as error:
        raise SearchFailed(f"it could not be started: {error}") from error
    while process.wait(_LOOK_SECONDS) is None:
        if stop.is_set():
            process.end(0)
            return False
    if process.exit_code:
        raise SearchFailed(f"exit code {process.exit_code}; see {folder / 'log'}\n{process.tail}")
    return True


def search_environment(command: Image, *layers: Mapping[str, str]) -> dict[str, str]:
    """A container's environment, with what the image has on its path first."""
    environment = container_environment(*layers)
    path = [*map(str, command.path), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(each for each in path if each)}


def read_scores(folder: Path, files: Sequence[str], size: int) -> list[list[float]]:
    """The scores of the files, each a list of `size`. Raises SearchFailed for anything else."""
    try:
        scores: dict[str, Any] = json.loads((folder / _SCORES).read_text(encoding="utf-8"))
        found = [[float(score) for score in scores[file]] for file in files]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SearchFailed(f"{_SCORES}: {type(error).__name__}: {error}") from error
    if any(len(row) != size for row in found):
        raise SearchFailed(f"{_SCORES}: there must be {size} numbers for each picture")
    return found
