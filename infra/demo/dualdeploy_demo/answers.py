"""Asking both live models the same pictures, each in the way its users would."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import statistics
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials

from dualdeploy.contracts import prediction
from dualdeploy.contracts.routing import Routing
from dualdeploy.images import pixels as images
from dualdeploy_demo.source import Picture


@dataclasses.dataclass(frozen=True)
class Answer:
    label: str
    confidence: float


def share_right(answers: Sequence[Answer], pictures: Sequence[Picture]) -> float:
    """Of the pictures, those whose answer is their label."""
    return sum(a.label == p.label for a, p in zip(answers, pictures, strict=True)) / len(pictures)


@dataclasses.dataclass(frozen=True)
class Answers:
    """One answer for each picture, and the median time of one call in milliseconds."""

    answers: Sequence[Answer]
    median_ms: float

    def share_right(self, pictures: Sequence[Picture]) -> float:
        return share_right(self.answers, pictures)


def together(phone: Answers, cloud: Answers, routing: Routing) -> tuple[Sequence[Answer], int]:
    """The answers of an app that follows the routing, and how many pictures it asks the cloud about."""
    asks = [each.confidence < routing.threshold or each.label in routing.ask_about for each in phone.answers]
    both = zip(asks, phone.answers, cloud.answers, strict=True)
    return [theirs if asked else own for asked, own, theirs in both], sum(asks)


class NoAnswer(RuntimeError):
    """The endpoint does not answer, or what was published cannot be downloaded as a phone would."""


def ask_cloud(endpoint: str, pictures: Sequence[Picture], *, environment: Mapping[str, str]) -> Answers:
    """Through Google's own `PredictionServiceClient`, one picture a call."""
    from google.cloud.aiplatform_v1.services.prediction_service import PredictionServiceClient  # noqa: PLC0415

    client = PredictionServiceClient(
        transport="rest",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": f"http://{environment['VERTEX_EMULATOR_HOST']}"},
    )
    answers, times = [], []
    for picture in pictures:
        instance = prediction.instance(picture.data, "content")
        started = time.perf_counter()
        try:
            response = client.predict(endpoint=endpoint, instances=[instance], timeout=60)
        except GoogleAPICallError as exc:
            raise NoAnswer(f"the endpoint {endpoint} did not answer: {exc}") from exc
        times.append((time.perf_counter() - started) * 1000)
        said = prediction.said(response.predictions[0])
        answers.append(Answer(said.label, said.confidence))
    return Answers(answers, statistics.median(times))


def download_to_phone(model_id: str, *, environment: Mapping[str, str]) -> bytes:
    """The published file, by the calls that Firebase's SDK makes on a phone. Raises NoAnswer."""
    host, project = environment["FIREBASE_ML_EMULATOR_HOST"], environment["GOOGLE_CLOUD_PROJECT"]
    url = f"http://{host}/v1beta2/projects/{project}/models/{model_id}:download"
    response = requests.get(url, timeout=30)
    if not response.ok:
        raise NoAnswer(f"{url} answers {response.status_code}: {response.text[:300]}")
    with urllib.request.urlopen(response.json()["downloadUri"], timeout=60) as stream:  # noqa: S310  # loopback
        data: bytes = stream.read()
    return data


def ask_phone(tflite: bytes, pictures: Sequence[Picture]) -> Answers:
    """In the LiteRT interpreter, with the labels that the file itself carries: all that an app would have."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  # only the last step of the demo needs it

    with zipfile.ZipFile(io.BytesIO(tflite)) as attached:
        # AutoML's files call it dict.txt, in an order of their own.
        name = next(each for each in ("labels.txt", "dict.txt") if each in attached.namelist())
        labels = attached.read(name).decode().splitlines()
    with _without_native_chatter():
        interpreter = Interpreter(model_content=tflite, num_threads=1)
        interpreter.allocate_tensors()
    (pixels,), (probabilities,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers, times = [], []
    for picture in pictures:
        image = images.resize_bilinear(images.decode_rgb(picture.data), int(pixels["shape"][1]))
        # The manifest says which: AutoML's files take the pixels as they are.
        given = np.round(image).astype(np.uint8) if pixels["dtype"] is np.uint8 else image
        interpreter.set_tensor(pixels["index"], given[None])
        started = time.perf_counter()
        interpreter.invoke()
        times.append((time.perf_counter() - started) * 1000)
        scores = interpreter.get_tensor(probabilities["index"])[0].astype(np.float32)
        if probabilities["dtype"] is np.uint8:
            scale, zero_point = probabilities["quantization"]
            scores = (scores - zero_point) * scale
        best = int(scores.argmax())
        answers.append(Answer(labels[best], float(scores[best])))
    return Answers(answers, statistics.median(times))


@contextlib.contextmanager
def _without_native_chatter() -> Iterator[None]:
    """LiteRT tells on file descriptor 2 which delegate it made; nobody asked."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
