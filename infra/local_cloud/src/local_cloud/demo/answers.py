"""Asking both live models the same pictures, each in the way its users would."""

from __future__ import annotations

import base64
import dataclasses
import statistics
import time
import urllib.request
from collections.abc import Mapping, Sequence

import requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials

from local_cloud.demo.source import Picture


@dataclasses.dataclass(frozen=True)
class Answer:
    label: str
    confidence: float


@dataclasses.dataclass(frozen=True)
class Answers:
    """One answer for each picture, and the median time of one call in milliseconds."""

    answers: Sequence[Answer]
    median_ms: float

    def share_right(self, pictures: Sequence[Picture]) -> float:
        right = sum(a.label == p.label for a, p in zip(self.answers, pictures, strict=True))
        return right / len(pictures)


class PhoneDownloadFailed(RuntimeError):
    """What was published cannot be downloaded as a phone would."""


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
        instance = {"b64": base64.b64encode(picture.data).decode()}
        started = time.perf_counter()
        try:
            response = client.predict(endpoint=endpoint, instances=[instance], timeout=60)
        except GoogleAPICallError as exc:
            raise RuntimeError(f"the endpoint {endpoint} did not answer: {exc}") from exc
        times.append((time.perf_counter() - started) * 1000)
        prediction = response.predictions[0]
        answers.append(Answer(str(prediction["label"]), float(prediction["confidence"])))
    return Answers(answers, statistics.median(times))


def download_to_phone(model_id: str, *, environment: Mapping[str, str]) -> bytes:
    """The published file, by the calls that Firebase's SDK makes on a phone. Raises PhoneDownloadFailed."""
    host, project = environment["FIREBASE_ML_EMULATOR_HOST"], environment["GOOGLE_CLOUD_PROJECT"]
    url = f"http://{host}/v1beta2/projects/{project}/models/{model_id}:download"
    response = requests.get(url, timeout=30)
    if not response.ok:
        raise PhoneDownloadFailed(f"{url} answers {response.status_code}: {response.text[:300]}")
    with urllib.request.urlopen(response.json()["downloadUri"], timeout=60) as stream:  # noqa: S310  # loopback
        data: bytes = stream.read()
    return data


def ask_phone(tflite: bytes, pictures: Sequence[Picture]) -> Answers:
    """In the LiteRT interpreter, with the labels that the file itself carries."""
    from mobile_publisher.on_device import Classifier  # noqa: PLC0415

    classifier = Classifier(tflite)
    found = [classifier.classify(picture.data) for picture in pictures]
    answers = [Answer(each.label, each.confidence) for each in found]
    return Answers(answers, statistics.median(each.invoke_ms for each in found))
