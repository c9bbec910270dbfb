"""Pictures for AutoML in the local cloud: data sets of plain colours, and the search that learns those in a second."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pictures

from local_cloud import topology
from local_cloud.vertex import AutoMl, Image

_SEARCH = Path(__file__).parents[2] / "infra" / "automl_search"
_COMMAND = ("python", "-m", "automl_search.colours")

#: What stands for AutoML in tests: no TensorFlow, and a node hour is over at once.
QUICK_AUTOML = AutoMl(Image(_SEARCH, (*_COMMAND, "train")), Image(_SEARCH, (*_COMMAND, "serve")), 0.001)
#: The same for a whole local cloud: `dataclasses.replace(topology, automl=QUICK_IN_TOPOLOGY)`.
QUICK_IN_TOPOLOGY = topology.AutoMl(
    topology.Image("search", str(_SEARCH), QUICK_AUTOML.search.command),
    topology.Image("server", str(_SEARCH), QUICK_AUTOML.server.command),
    QUICK_AUTOML.seconds_per_node_hour,
)

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "daisy": (235, 235, 235),
    "roses": (200, 40, 60),
    "tulips": (60, 60, 220),
}
ML_USE = "aiplatform.googleapis.com/ml_use"
#: So many pictures of each label in each set.
COUNTS: Mapping[str, int] = {"training": 8, "validation": 2, "test": 3}


def picture(colour: tuple[int, int, int], seed: int) -> bytes:
    """A PNG of 8 x 8 pixels about a colour; another seed gives other bytes."""
    noise = np.random.default_rng(seed).integers(-15, 16, (8, 8, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Pictures.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def line(uri: str, label: str = "", ml_use: str = "") -> dict[str, Any]:
    """A line of an import file."""
    return {
        "imageGcsUri": uri,
        **({"classificationAnnotation": {"displayName": label}} if label else {}),
        **({"dataItemResourceLabels": {ML_USE: ml_use}} if ml_use else {}),
    }


def pictures(
    colours: Mapping[str, tuple[int, int, int]] = COLOURS, counts: Mapping[str, int] = COUNTS
) -> Iterator[tuple[str, str, bytes]]:
    """Label, set and bytes of each picture of a data set."""
    seed = 0
    for label, colour in colours.items():
        for ml_use, count in counts.items():
            for _ in range(count):
                seed += 1
                yield label, ml_use, picture(colour, seed)


def listed(folder: Path, made: Iterable[tuple[str, str, bytes]]) -> list[dict[str, str]]:
    """Write pictures into the folder of a search; how its task lists them."""
    (folder / "pictures").mkdir()
    listing = []
    for number, (label, ml_use, data) in enumerate(made):
        file = f"pictures/{number}"
        (folder / file).write_bytes(data)
        listing.append({"file": file, "label": label, "set": ml_use})
    return listing


def upload(bucket: Any, folder: str, made: Sequence[tuple[str, str, bytes]]) -> list[dict[str, Any]]:
    """Store pictures in a bucket of Google's client; the lines that import them."""
    lines = []
    for number, (label, ml_use, data) in enumerate(made):
        name = f"{folder}/{label}-{ml_use}-{number}.png"
        bucket.blob(name).upload_from_string(data)
        lines.append(line(f"gs://{bucket.name}/{name}", label, ml_use))
    return lines


def upload_lines(bucket: Any, name: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """Store an import file; its URI."""
    bucket.blob(name).upload_from_string("".join(f"{json.dumps(each)}\n" for each in lines))
    return f"gs://{bucket.name}/{name}"
