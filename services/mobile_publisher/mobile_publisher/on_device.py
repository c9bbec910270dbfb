"""The model as a phone runs it: a .tflite file in the LiteRT interpreter, and how good its answers are.

No TensorFlow: pictures are decoded and resized by `dualdeploy.images.pixels`, the one definition that the phones
follow too. First answer in 0.2 s and 50 to 110 MB, against 5 to 9 s and 500 MB and more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualdeploy import lazily
from dualdeploy.contracts import prediction
from dualdeploy.contracts.answers import Answer, fingerprint
from dualdeploy.contracts.training import MOST_CLASSES_IN_A_MATRIX, ClassMetrics
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.images.pixels import UnreadableImage, decode_rgb, resize_bilinear
from mobile_publisher import conversion, tflite_metadata, tflite_operators
from mobile_publisher.tflite_operators import RefusedOperator

_WARM_UP_RUNS = 2
_MEMORY_SECONDS = 60


class UnusableModel(CannotEverSucceed):
    """No phone could use this file: it does not load, does not fit its labels, or answers NaN."""


class UnusableExamples(CannotEverSucceed, ValueError):
    """There is nothing to judge the file by: no readable example, or examples of other labels."""


@dataclasses.dataclass(frozen=True)
class Classification:
    """One answer: the best label, its probability, and the probability of every label."""

    label: str
    confidence: float
    probabilities: Mapping[str, float]
    invoke_ms: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How the file did on labelled pictures.

    `confusion[i][j]` counts pictures of label i that were called j, and is empty with more labels than
    `MOST_CLASSES_IN_A_MATRIX`; `per_class` holds precision, recall, f1 and examples by label; `skipped` pictures
    could not be decoded and count nowhere else; times are of the interpreter alone, without decoding, on this machine.
    `answers` are what the file said to each picture.
    """

    accuracy: float
    per_class: Mapping[str, Mapping[str, float]]
    confusion: tuple[tuple[int, ...], ...]
    examples: int
    skipped: int
    invoke_ms_p50: float
    invoke_ms_p95: float
    tflite_bytes: int
    answers: tuple[Answer, ...] = dataclasses.field(default=(), repr=False)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far the file's answers are from its source model's on the same pictures."""

    examples: int
    same_label: float
    max_difference: float


class Classifier:
    """A .tflite image classifier, loaded; `classify` is what the app on the phone does.

    `labels` are in the order of the file's output: as the file names them, else as they are given. Given ones must be
    the file's own, in any order. The input is [1, px, px, 3] of float32, uint8 or int8, made of a picture as the file
    says itself (see `_to_input`). Not thread-safe, as LiteRT's interpreter is not. Raises UnusableModel.
    """

    def __init__(self, tflite: bytes | Path, *, labels: Sequence[str] | None = None, threads: int = 1) -> None:
        data = tflite.read_bytes() if isinstance(tflite, Path) else tflite
        self.tflite_bytes = len(data)
        self._interpreter = _load(data, threads)
        self._input = _only(self._interpreter.get_input_details(), "input")
        self._output = _only(self._interpreter.get_output_details(), "output")
        description = _description(data)
        self._normalization = _normalization(description)
        _check_types(self._input, self._output, self._normalization)
        self.image_size = _image_size(self._input)
        self.labels = _labels(description, labels)
        classes = [int(length) for length in self._output["shape"]]
        if classes != [1, len(self.labels)]:
            raise UnusableModel(f"the model answers {classes}, which does not fit {len(self.labels)} labels")

    def classify(self, image: bytes) -> Classification:
        """Name a picture in a JPEG or PNG; raises UnreadableImage (`dualdeploy.images.pixels`) or UnusableModel."""
        probabilities, milliseconds = self.timed(image)
        best = int(np.argmax(probabilities))
        return Classification(
            label=self.labels[best],
            confidence=float(probabilities[best]),
            probabilities=dict(zip(self.labels, map(float, probabilities), strict=True)),
            invoke_ms=milliseconds,
        )

    @property
    def input_type(self) -> str:
        """`float32`, `uint8` or `int8`."""
        return str(np.dtype(self._input["dtype"]).name)

    @property
    def output_type(self) -> str:
        """`float32`, `uint8` or `int8`."""
        return str(np.dtype(self._output["dtype"]).name)

    @property
    def output_scale(self) -> tuple[float, int]:
        """Scale and zero point of an output of integers: probability = scale * (value - zero point)."""
        scale, zero = self._output["quantization"]
        return float(scale), int(zero)

    @property
    def takes_pixels(self) -> bool:
        """Whether the input is the pixels from 0 to 255 themselves, in whatever type, to one step."""
        if self._input["dtype"] == np.int8:
            return False
        pixels = np.arange(256, dtype=np.float32).repeat(3).reshape(1, 16, 16, 3)
        given = _to_input(pixels, self._input, self._normalization).astype(np.float32)
        return bool(np.abs(given - pixels).max() <= 1)

    def places(self, labels: Sequence[str]) -> list[int]:
        """Where in the output each of `labels`, the file's own in any order, stands."""
        return [self.labels.index(label) for label in labels]

    def probabilities(self, image: bytes) -> npt.NDArray[np.float32]:
        """Answer float32 [classes] in the order of `labels`; raises as `classify` does."""
        return self.timed(image)[0]

    def timed(self, image: bytes) -> tuple[npt.NDArray[np.float32], float]:
        """The probabilities, and the milliseconds that the interpreter took for them."""
        pixels = resize_bilinear(decode_rgb(image), self.image_size)[None]
        self._interpreter.set_tensor(self._input["index"], _to_input(pixels, self._input, self._normalization))
        started = time.perf_counter()
        self._interpreter.invoke()
        milliseconds = (time.perf_counter() - started) * 1000
        answer = _from_output(self._interpreter.get_tensor(self._output["index"]), self._output)[0]
        if not np.isfinite(answer).all():
            # What a conversion that lost its weights looks like; argmax would quietly call it class 0.
            raise UnusableModel("the model answers NaN or infinity: its conversion lost the weights")
        return answer, milliseconds


def evaluate(
    tflite: bytes | Path, examples: Iterable[tuple[bytes, int]], *, labels: Sequence[str], threads: int = 1
) -> Evaluation:
    """Score the file on `examples`, pairs of a JPEG or PNG and the index of its label in `labels`.

    Pictures that cannot be decoded are skipped and counted, as in training. Raises UnusableModel, and
    UnusableExamples when no example is left or an index has no label.
    """
    classifier = Classifier(tflite, labels=labels, threads=threads)
    place_of = {label: place for place, label in enumerate(labels)}
    actually, called = array("l"), array("l")
    times: list[float] = []
    said: list[Answer] = []
    skipped = 0
    for image, actual in examples:
        if not 0 <= actual < len(labels):
            raise UnusableExamples(f"example {len(times)} has label {actual}, but there are {len(labels)} labels")
        try:
            probabilities, milliseconds = classifier.timed(image)
        except UnreadableImage:
            skipped += 1
            continue
        best = int(np.argmax(probabilities))
        actually.append(actual)
        called.append(place_of[classifier.labels[best]])
        said.append(Answer(fingerprint(image), labels[actual], classifier.labels[best], float(probabilities[best])))
        times.append(milliseconds)
    if not times:
        raise UnusableExamples(f"there are no examples to evaluate on ({skipped} unreadable): no gate can be passed")
    # The first runs allocate and fill caches; a phone pays that once.
    steady = times[_WARM_UP_RUNS:] or times
    return Evaluation(
        accuracy=sum(map(operator.eq, actually, called)) / len(called),
        per_class=_per_class(np.array(actually), np.array(called), labels),
        confusion=_confusion(np.array(actually), np.array(called), len(labels)),
        examples=len(times),
        skipped=skipped,
        invoke_ms_p50=float(np.percentile(steady, 50)),
        invoke_ms_p95=float(np.percentile(steady, 95)),
        tflite_bytes=classifier.tflite_bytes,
        answers=tuple(said),
    )


def agreement(
    tflite: bytes | Path, golden: Iterable[tuple[bytes, Sequence[float]]], *, labels: Sequence[str]
) -> Agreement:
    """Compare with the source model: `golden` pairs a picture with that model's probabilities (golden.json).

    A float32 conversion agrees on every label; one that does not was not converted from that model. Raises
    UnusableModel, UnusableExamples, and UnreadableImage (`dualdeploy.images.pixels`).
    """
    classifier = Classifier(tflite, labels=labels)
    places = classifier.places(labels)
    differences: list[float] = []
    same = 0
    for image, expected in golden:
        answer = classifier.probabilities(image)[places]
        if len(expected) != len(answer):
            raise UnusableExamples(
                f"golden example {len(differences)} has {len(expected)} probabilities for {len(answer)}"
            )
        # Softmax in int8 counts in steps of 1/256.
        if not prediction.are_probabilities(answer.tolist(), steps=1 / 256):
            raise UnusableModel(
                f"the file's answers sum to {answer.sum():.3g}, and probabilities to 1: end the network with a softmax"
            )
        same += int(np.argmax(answer) == int(np.argmax(expected)))
        differences.append(float(np.abs(answer - np.asarray(expected, np.float32)).max()))
    if not differences:
        raise UnusableExamples("there are no golden examples to compare on")
    return Agreement(examples=len(differences), same_label=same / len(differences), max_difference=max(differences))


def median_latency(tflite: bytes | Path, pictures: Iterable[bytes], *, labels: Sequence[str], threads: int) -> float:
    """Milliseconds that the interpreter takes for one picture, without decoding; unreadable pictures are passed over.

    Raises UnusableModel, and UnusableExamples when no picture is left.
    """
    classifier = Classifier(tflite, labels=labels, threads=threads)
    times = []
    for picture in pictures:
        with contextlib.suppress(UnreadableImage):
            times.append(classifier.timed(picture)[1])
    if not times:
        raise UnusableExamples("there is no readable picture to measure the latency with")
    return float(np.median(times[_WARM_UP_RUNS:] or times))


def tensors(tflite: bytes) -> dict[str, dict[str, Any]]:
    """`input` and `output` of any model, each with shape and type; one of which there are several is left out.

    Raises UnusableModel.
    """
    interpreter = _load(tflite, 1)
    both = {"input": interpreter.get_input_details(), "output": interpreter.get_output_details()}
    return {
        what: {"shape": [int(length) for length in details[0]["shape"]], "type": np.dtype(details[0]["dtype"]).name}
        for what, details in both.items()
        if len(details) == 1
    }


def peak_memory(tflite: bytes) -> int | None:
    """Bytes that loading and running the file adds to an empty interpreter; None where the system does not tell.

    Weights, the copies of them that LiteRT packs for the processor, and the tensors in between. Raises UnusableModel.
    """
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(tflite)
        command = [sys.executable, "-m", "mobile_publisher.memory_child", str(path)]
        try:
            ended = subprocess.run(
                command,
                env=conversion.child_environment(),
                capture_output=True,
                text=True,
                timeout=_MEMORY_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise UnusableModel(f"three runs of the model take longer than {_MEMORY_SECONDS} s") from exc
    if ended.returncode:
        raise UnusableModel(f"LiteRT ended with code {ended.returncode} on the model: {ended.stderr.strip()[-500:]}")
    return int(ended.stdout) if ended.stdout.strip() else None


def _load(data: bytes, threads: int) -> Any:
    if data[4:8] != b"TFL3":
        # The interpreter may read past the end of bytes that are no model at all.
        raise UnusableModel(f"these {len(data)} bytes are not a TFLite model: the file identifier is {data[4:8]!r}")
    try:
        tflite_operators.check(data)
    except RefusedOperator as exc:
        raise UnusableModel(str(exc)) from exc
    # Late: events that publish nothing skip it.
    interpreter_module = lazily.load("ai_edge_litert.interpreter")
    try:
        interpreter = interpreter_module.Interpreter(model_content=data, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as exc:
        raise UnusableModel(f"LiteRT does not load the model: {exc}") from exc
    return interpreter


def _only(details: Sequence[Mapping[str, Any]], what: str) -> Mapping[str, Any]:
    if len(details) != 1:
        raise UnusableModel(f"the model has {len(details)} {what}s: an image classifier has one")
    return details[0]


def _image_size(details: Mapping[str, Any]) -> int:
    match [int(length) for length in details["shape"]]:
        case [1, height, width, 3] if height == width:
            return height
    raise UnusableModel(f"the model takes {list(details['shape'])}, not one square RGB picture [1, px, px, 3]")


def _check_types(taken: Mapping[str, Any], given: Mapping[str, Any], normalization: _Normalization | None) -> None:
    for details, needs_scale in ((taken, normalization is not None), (given, True)):
        kind, (scale, _) = details["dtype"], details["quantization"]
        if kind != np.float32 and (kind not in (np.uint8, np.int8) or (needs_scale and scale == 0)):
            raise UnusableModel(
                f"tensor {details['name']} is {np.dtype(kind)} with scale {scale}: nothing to convert with"
            )


def _labels(description: tflite_metadata.Description | None, given: Sequence[str] | None) -> tuple[str, ...]:
    """The labels in the order of the output; what was trained elsewhere has its own order, and says it in the file."""
    own = description.labels if description else ()
    if not own:
        if given is None:
            raise UnusableModel("the model does not say its labels, and none were given")
        own = tuple(given)
    if doubled := sorted({label for label in own if own.count(label) > 1}):
        raise UnusableModel(f"the model names more than one of its classes {', '.join(doubled)}")
    if given is not None and set(own) != set(given):
        missing, foreign = sorted(set(given) - set(own)), sorted(set(own) - set(given))
        raise UnusableModel(
            f"the model's labels are not the data set's: {', '.join(missing) or 'none'} missing,"
            f" {', '.join(foreign) or 'none'} too many"
        )
    return own


@dataclasses.dataclass(frozen=True)
class _Normalization:
    """Turns 0..255 into the real values of the input; one number for all channels, or one for each."""

    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]


def _normalization(description: tflite_metadata.Description | None) -> _Normalization | None:
    """What the file says (NormalizationOptions of TFLite metadata); None where it says nothing."""
    if description is None or not (description.mean or description.std):
        return None
    mean, std = np.asarray(description.mean, np.float32), np.asarray(description.std, np.float32)
    is_usable = {len(mean), len(std)} <= {1, 3} and np.isfinite(mean).all() and np.isfinite(std).all() and std.all()
    if not is_usable:
        raise UnusableModel(
            f"the model's normalization has mean {list(description.mean)} and std {list(description.std)}: it needs a"
            " finite number, or one for each of three channels, and a std that is not 0"
        )
    return _Normalization(mean, std)


def _description(data: bytes) -> tflite_metadata.Description | None:
    """What the file says of itself; None where it says nothing."""
    try:
        return tflite_metadata.read(data)
    except tflite_metadata.NotDescribed:
        return None
    except tflite_metadata.MetadataError as exc:
        raise UnusableModel(str(exc)) from exc


def _to_input(
    pixels: npt.NDArray[np.float32], details: Mapping[str, Any], normalization: _Normalization | None
) -> npt.NDArray[Any]:
    """Float 0..255 to the input: to its real values as the file says, and those to its type.

    Source: TFLite quantisation, real = scale * (stored - zero), and TFLite metadata, real = (pixel - mean) / std. A
    file that names no normalisation gets the pixels themselves; int8, which ends at 127, gets them less 128.
    """
    kind = details["dtype"]
    real = pixels if normalization is None else (pixels - normalization.mean) / normalization.std
    if kind == np.float32:
        return real.astype(np.float32)
    limits = np.iinfo(kind)
    if normalization is None:
        stored = pixels + limits.min
    else:
        scale, zero = details["quantization"]
        stored = real / scale + zero
    return np.clip(np.rint(stored), limits.min, limits.max).astype(kind)


def _from_output(stored: npt.NDArray[Any], details: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    if stored.dtype == np.float32:
        return stored
    scale, zero = details["quantization"]
    real: npt.NDArray[np.float32] = ((stored.astype(np.float32) - zero) * scale).astype(np.float32)
    return real


def _confusion(actually: npt.NDArray[Any], called: npt.NDArray[Any], classes: int) -> tuple[tuple[int, ...], ...]:
    if classes > MOST_CLASSES_IN_A_MATRIX:
        return ()
    counts = np.bincount(actually * classes + called, minlength=classes * classes).reshape(classes, classes)
    return tuple(tuple(row) for row in counts.tolist())


def _per_class(
    actually: npt.NDArray[Any], called: npt.NDArray[Any], labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    counted = (np.bincount(each, minlength=len(labels)) for each in (actually[actually == called], called, actually))
    return {
        label: ClassMetrics.of(*counts).model_dump()
        for label, *counts in zip(labels, *(each.tolist() for each in counted), strict=True)
    }
