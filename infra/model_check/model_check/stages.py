"""From a network to the answers of both its copies, stage by stage, each by the product's own code.

build ─► learn ─► operators ─► export ─► serve ─► convert ─► phone
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from PIL import Image

from dualdeploy.contracts.training import Metrics
from dualdeploy.errors import DualDeployError
from dualdeploy.images.pixels import decode_rgb, resize_bilinear
from mobile_publisher import conversion, on_device, tflite_metadata
from mobile_publisher.conversion import Variant
from predictor.answers import Fault
from predictor.model import ImageModel, UnusableModel
from trainer import architectures, modules
from trainer.architectures import Network
from trainer.data.examples import training_side
from trainer.loop import fitting, recipe
from trainer.outputs import export

#: Of one probability: how far two copies of a model with the same weights may be apart.
MOST_DIFFERENCE = 1e-3

_PICTURES, _TIMED = 8, 9


class StageFailed(Exception):
    """`stage` is where the network came to its end; the message says why and what to do."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be taken the whole way. `trains`: false leaves out everything after the export, for large networks.

    `module` is the file of a network of one's own, and `max_mb` what its file for phones may have.
    """

    architecture: str
    module: Path | None = None
    max_mb: float = math.inf
    classes: int = 5
    image_size: int = 224
    variants: Sequence[Variant] = ("float32",)
    trains: bool = True


@dataclasses.dataclass
class Found:
    """What was measured: millions of parameters, and by variant megabytes and milliseconds of one picture."""

    millions: float = 0.0
    layers: int = 0
    export_seconds: float = 0.0
    graph_mb: float = 0.0
    megabytes: dict[str, float] = dataclasses.field(default_factory=dict)
    milliseconds: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


Say = Callable[[str, float, str], None]


def take(asked: Asked, say: Say) -> Found:
    """Take the network through all stages; `say` hears of each that passed: its name, seconds, what was found.

    Raises StageFailed.
    """
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        return _Way(asked, say, Path(folder)).walk()


def _build(asked: Asked) -> Network:
    keras.utils.set_random_seed(0)
    return architectures.build(
        asked.architecture,
        classes=asked.classes,
        image_size=asked.image_size,
        weights="none",
        module=asked.module,
    )


class _Way:
    def __init__(self, asked: Asked, say: Say, folder: Path) -> None:
        self._asked, self._say, self._folder = asked, say, folder
        self.found = Found()
        self._labels = [f"class {number}" for number in range(asked.classes)]
        self._files = [_picture(number) for number in range(_PICTURES)]
        self._pixels = np.stack([self._as_seen(file) for file in self._files])

    def _as_seen(self, file: bytes) -> npt.NDArray[np.float32]:
        return resize_bilinear(decode_rgb(file), self._asked.image_size)

    def walk(self) -> Found:
        with self._stage("build") as told:
            network = _build(self._asked)
            if self._asked.module:
                _same_again(network, _build(self._asked))
            self.found.millions = network.model.count_params() / 1e6
            self.found.layers = len(network.layers)
            told(f"{self.found.millions:.2f} million parameters in {self.found.layers} layers")
        if self._asked.trains:
            with self._stage("learn") as told:
                told(f"one step, loss {self._learn(network):.3f}")
        began = time.process_time()
        with self._stage("operators") as told:
            predict = fitting.inference(network, self._asked.image_size)
            told("every operator of its graph may run where it is served")
        with self._stage("export") as told:
            size = self._export(network, predict)
            self.found.export_seconds = time.process_time() - began
            told(f"{size / 1e6:.1f} MB")
        if self._asked.trains:
            expected = predict(self._pixels).numpy()
            with self._stage("serve") as told:
                told(f"the predictor gives the same answers, to {self._serve(expected):.1g}")
            for variant in self._asked.variants:
                self._on_phone(variant, expected)
        return self.found

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[Callable[[str], None]]:
        told: list[str] = []
        began, cpu = time.monotonic(), time.process_time()
        try:
            yield told.append
        except StageFailed:
            raise
        except (DualDeployError, UnusableModel) as exc:
            raise StageFailed(name, str(exc)) from exc
        except Exception as exc:
            module = self._asked.module
            if module and (said := modules.fault(exc, module.name, module, f"the stage {name!r}")):
                raise StageFailed(name, said) from exc
            raise
        self.found.seconds[name] = time.process_time() - cpu
        self._say(name, time.monotonic() - began, "; ".join(told))

    def _learn(self, network: Network) -> float:
        """One step of the real recipe on drawn pictures; the loss."""
        reports: list[recipe.EpochReport] = []
        settings = recipe.Settings(image_size=self._asked.image_size, batch_size=_PICTURES)
        side = training_side(self._asked.image_size, settings.augmentation)
        images = np.stack([resize_bilinear(decode_rgb(file), side) for file in self._files]).astype(np.uint8)
        lesson = recipe.Lesson(
            network=network,
            images=images,
            labels=(np.arange(_PICTURES) % self._asked.classes).astype(np.int32),
            settings=settings,
            watch=lambda: Metrics(accuracy=0.0, loss=1.0, examples=1),
            listener=recipe.Listener(lambda _: None, lambda report, _: reports.append(report)),
        )
        plan = recipe.phases(network, epochs=1, learning_rate=1e-4, recipe=settings.recipe)
        recipe.train(lesson, plan)
        return reports[-1].loss

    def _export(self, network: Network, predict: Any) -> int:
        export.write_models(
            network,
            predict,
            labels=self._labels,
            image_size=self._asked.image_size,
            model=self._folder / "model",
            pixels_model=self._folder / "pixels_model",
        )
        export.write_weights(network, self._folder, own=self._asked.module is not None)
        self.found.graph_mb = (self._folder / "model" / "saved_model.pb").stat().st_size / 1e6
        return sum(path.stat().st_size for path in (self._folder / "model").rglob("*") if path.is_file())

    def _serve(self, expected: npt.NDArray[Any]) -> float:
        """The greatest difference between the predictor's answers and the network's own."""
        served = ImageModel(self._folder / "model", largest_batch=1)
        served.warm_up()
        # Each alone, as on a phone: what it answers must not depend on which others are asked about with it.
        answers = [answer for file in self._files for answer in served.predict([file])]
        wrong = [answer.reason for answer in answers if isinstance(answer, Fault)]
        if wrong:
            raise StageFailed("serve", f"the predictor cannot answer: {wrong[0]}")
        rows = [list(answer.probabilities.values()) for answer in answers if not isinstance(answer, Fault)]
        return _difference("serve", np.array(rows), expected)

    def _on_phone(self, variant: Variant, expected: npt.NDArray[Any]) -> None:
        path = self._folder / f"{variant}.tflite"
        with self._stage(f"convert to {variant}") as told:
            done = conversion.convert(
                self._folder / "pixels_model", path, variant=variant, representative=list(self._pixels)
            )
            self.found.megabytes[variant] = done.bytes / 1e6
            self.found.seconds[f"convert to {variant} in all"] = done.seconds
            if done.bytes / 1e6 > self._asked.max_mb:
                raise StageFailed(
                    f"convert to {variant}",
                    f"the file for phones has {done.bytes / 1e6:.1f} MB, and gates.mobile.max_size_mb is "
                    f"{self._asked.max_mb:g}: write a smaller network, or raise the limit",
                )
            told(f"{done.bytes / 1e6:.1f} MB")
        with self._stage(f"{variant} on a phone") as told:
            tflite = tflite_metadata.describe(
                path.read_bytes(),
                name="check",
                description="",
                labels=self._labels,
                image_size=self._asked.image_size,
                version="check",
                extra={},
            )
            classifier = on_device.Classifier(tflite)
            timed = [classifier.timed(file) for file in self._files]
            # Of this thread alone: what else the machine does is not the network's.
            spent = [
                _cpu_ms(lambda: classifier.timed(self._files[0])) - _cpu_ms(lambda: self._as_seen(self._files[0]))
                for _ in range(_TIMED)
            ]
            self.found.milliseconds[variant] = statistics.median(spent)
            answers = f"{self.found.milliseconds[variant]:.1f} ms of a core for a picture"
            if variant in {"float32", "float16"}:
                most = _difference(f"{variant} on a phone", np.stack([row for row, _ in timed]), expected)
                answers += f"; the same answers, to {most:.1g}"
            told(answers)


def _same_again(network: Network, other: Network) -> None:
    """A twin for several devices, or for an attempt that goes on, is built anew: it must be the same network."""
    first, second = recipe.weights_of(network.model), recipe.weights_of(other.model)
    if [each.shape for each in first] != [each.shape for each in second]:
        raise StageFailed(
            "build", "build() returns another network when it is called again: let it depend on nothing else"
        )
    if not all(np.array_equal(one, two) for one, two in zip(first, second, strict=True)):
        raise StageFailed(
            "build",
            "build() gives other first weights when it is called again with the same seed: draw random numbers with "
            "keras.random and keras.initializers only",
        )


def _difference(stage: str, rows: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    most = float(np.abs(rows - expected).max())
    # float16 keeps three digits.
    if not most <= MOST_DIFFERENCE * (20 if "16" in stage else 1):
        raise StageFailed(
            stage,
            f"its answers differ from the network's own by {most:.3g}: some layer does otherwise once it is saved "
            "(one that draws random numbers, or depends on the batch)",
        )
    return most


def _cpu_ms(call: Callable[[], object]) -> float:
    began = time.thread_time()
    call()
    return (time.thread_time() - began) * 1000


def _picture(number: int) -> bytes:
    """A PNG of coloured noise, the same for the same number."""
    noise = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    return out.getvalue()
