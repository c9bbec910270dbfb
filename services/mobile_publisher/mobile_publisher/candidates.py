"""The variants of one run's model: converted, described and measured one after another, and the one that goes out."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dualdeploy.contracts.dataset_config import MobileGate
from dualdeploy.errors import CannotEverSucceed, UnusableResult
from dualdeploy.images.pixels import UnreadableImage, decode_rgb, resize_bilinear
from dualdeploy.release.gate import Verdict
from mobile_publisher import conversion, on_device, on_device_gate
from mobile_publisher.conversion import ConversionFailed, ConversionTimedOut, Variant
from mobile_publisher.on_device import Evaluation, UnusableExamples, UnusableModel
from mobile_publisher.on_device_gate import Figures

log = logging.getLogger(__name__)

#: float32 first: the others are compared with it.
ORDER: tuple[Variant, ...] = ("float32", "float16", "dynamic", "int8")

#: How often the file must name the same class as the model it was made from, on the golden pictures. Quantised weights
#: may cost a label here and there; a conversion that lost its weights agrees on one picture in `classes`.
MIN_AGREEMENT = 0.8

#: Pictures that int8 is calibrated with; TensorFlow's guide asks for about a hundred.
REPRESENTATIVE_PICTURES = 96

_LATENCY_PICTURES = 12

Example = tuple[bytes, int]
Golden = Sequence[tuple[bytes, Sequence[float]]]


class ConversionDisagrees(UnusableResult):
    """The converted file does not answer what its source model answers."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One variant with its figures and the gate's verdict, or the reason why it cannot be used at all."""

    variant: Variant | Literal["automl"]
    tflite: bytes = b""
    evaluation: Evaluation | None = None
    figures: Figures | None = None
    verdict: Verdict | None = None
    refused: CannotEverSucceed | None = None


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the files are held against; the pictures are read anew for each of them, so that none stay in memory.

    `golden` are the source model's answers, `cloud_golden` those of the cloud model of the same run; `recall` by label
    and `accuracy` are the float model's as the trainer measured them; `live_accuracy` is that of the live file here.
    """

    labels: Sequence[str]
    examples: Callable[[], Iterable[Example]]
    golden: Golden
    accuracy: float
    recall: Mapping[str, float]
    cloud_golden: Golden = ()
    live_accuracy: float | None = None


@dataclasses.dataclass(frozen=True)
class Conversions:
    """How variants are made of the SavedModel in `source`; `seconds` is for all of them together.

    `describe` puts labels and the rest into a converted file; `representative` gives JPEGs or PNGs for int8.
    """

    source: Path
    folder: Path
    image_size: int
    describe: Callable[[bytes, Variant], bytes]
    representative: Callable[[], Iterable[bytes]]
    seconds: float
    memory_bytes: int | None
    converter: Sequence[str]


def make(
    quantization: Variant | Literal["auto"], conversions: Conversions, reference: Reference, limits: MobileGate
) -> list[Candidate]:
    """Make and measure the variant asked for, or all four; one that fails does not keep the others."""
    deadline = time.monotonic() + conversions.seconds
    made: list[Candidate] = []
    for variant in ORDER if quantization == "auto" else (quantization,):
        started = time.monotonic()
        try:
            tflite = _convert(variant, conversions, deadline)
            made.append(_measure(variant, tflite, reference, limits))
        except (ConversionFailed, ConversionDisagrees, UnusableModel) as exc:
            log.warning("the %s file cannot be used: %s", variant, exc)
            made.append(Candidate(variant, refused=exc))
            continue
        if variant == "float32" and (evaluation := made[-1].evaluation):
            reference = dataclasses.replace(reference, accuracy=evaluation.accuracy, recall=_recall(evaluation))
        log.info("%s: %d bytes, made and measured in %.1f s", variant, len(tflite), time.monotonic() - started)
    return made


def choose(made: Sequence[Candidate]) -> Candidate:
    """The smallest file that passes the gate; else the most accurate one, for the gate to reject with its figures.

    Raises what the first variant was refused with when none can be used at all.
    """
    usable = [candidate for candidate in made if candidate.evaluation]
    if not usable:
        raise next(candidate.refused for candidate in made if candidate.refused)
    passed = [candidate for candidate in usable if candidate.verdict and candidate.verdict.passed]
    if passed:
        return min(passed, key=lambda each: len(each.tflite))
    return max(usable, key=lambda each: (each.evaluation.accuracy if each.evaluation else 0.0, -len(each.tflite)))


def _convert(variant: Variant, conversions: Conversions, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise ConversionTimedOut(
            f"no time was left for the {variant} conversion: all together may take {conversions.seconds:g} s"
            " (CONVERSION_TIMEOUT_SECONDS)"
        )
    samples = None
    if variant == "int8":
        samples = _samples(conversions.representative(), conversions.image_size)
        if not samples:
            raise ConversionFailed("int8 needs pictures to calibrate with, and no training picture can be read")
    converted = conversion.convert(
        conversions.source,
        conversions.folder / f"{variant}.tflite",
        variant=variant,
        timeout=left,
        memory_bytes=conversions.memory_bytes,
        representative=samples,
        converter=conversions.converter,
    )
    return conversions.describe(converted.path.read_bytes(), variant)


def _samples(pictures: Iterable[bytes], image_size: int) -> list[npt.NDArray[np.float32]]:
    samples = []
    for picture in pictures:
        try:
            samples.append(resize_bilinear(decode_rgb(picture), image_size))
        except UnreadableImage:
            continue
    return samples


#: What is not known of a file that Google made, by rule of the gate.
_NOT_MEASURED = {
    "conversion_loss": "AutoML does not give out the float model that its file was made from",
    "worst_class_loss": "AutoML does not give out the float model that its file was made from",
    "cloud_agreement": "AutoML's models answer for single pictures only once they are deployed",
}


def of_google(tflite: bytes, reference: Reference, limits: MobileGate) -> Candidate:
    """The one file that Google made of what AutoML trained, measured as far as there is something to compare with.

    Raises UnusableModel.
    """
    evaluation = on_device.evaluate(tflite, reference.examples(), labels=reference.labels)
    figures = _figures(tflite, evaluation, reference).changed(agreement_with_source=None, not_measured=_NOT_MEASURED)
    return Candidate("automl", tflite, evaluation, figures, on_device_gate.judge(figures, limits))


def _measure(variant: Variant, tflite: bytes, reference: Reference, limits: MobileGate) -> Candidate:
    agreement = on_device.agreement(tflite, reference.golden, labels=reference.labels)
    if agreement.same_label < MIN_AGREEMENT:
        raise ConversionDisagrees(
            f"the {variant} file agrees with its source model on {agreement.same_label:.0%} of"
            f" {agreement.examples} golden pictures; at least {MIN_AGREEMENT:.0%} are needed"
        )
    evaluation = on_device.evaluate(tflite, reference.examples(), labels=reference.labels)
    recall = _recall(evaluation)
    losses = [before - recall[label] for label, before in reference.recall.items() if label in recall]
    figures = _figures(tflite, evaluation, reference).changed(
        agreement_with_source=agreement.same_label,
        float_accuracy=reference.accuracy if variant != "float32" else None,
        worst_class_loss=max(losses) if losses and variant != "float32" else None,
    )
    return Candidate(variant, tflite, evaluation, figures, on_device_gate.judge(figures, limits))


def _figures(tflite: bytes, evaluation: Evaluation, reference: Reference) -> Figures:
    """What can be measured of any file."""
    memory = on_device.peak_memory(tflite)
    pictures = [image for image, _ in itertools.islice(reference.examples(), _LATENCY_PICTURES)]
    return Figures(
        accuracy=evaluation.accuracy,
        size_bytes=len(tflite),
        examples=evaluation.examples,
        live_accuracy=reference.live_accuracy,
        cloud_agreement=_cloud_agreement(tflite, reference),
        latency_ms=evaluation.invoke_ms_p50,
        latency_two_threads_ms=on_device.median_latency(tflite, pictures, labels=reference.labels, threads=2),
        peak_memory_mb=None if memory is None else memory / 1e6,
    )


def _cloud_agreement(tflite: bytes, reference: Reference) -> float | None:
    if not reference.cloud_golden:
        return None
    try:
        return on_device.agreement(tflite, reference.cloud_golden, labels=reference.labels).same_label
    except (UnreadableImage, UnusableExamples) as exc:
        # The cloud model's golden set is not this model's fault.
        log.warning("no comparison with the cloud model: %s", exc)
        return None


def _recall(evaluation: Evaluation) -> dict[str, float]:
    return {label: row["recall"] for label, row in evaluation.per_class.items() if row["examples"]}
