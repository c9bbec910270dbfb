"""A network that somebody wrote: `build(classes, image_size)` of a file, run here, inside the training job alone.

What it gets and must answer is in docs/networks.md. What is wrong is said in one sentence that names what to write,
with the line of the file where there is one; `python -m model_check` says the same on a laptop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import tensorflow as tf

from dualdeploy.contracts.architectures import Scaling
from trainer.process.failures import UnusableModule

#: What `PIXELS` in a module may say; without it the network gets 0..255.
PIXELS: tuple[Scaling, ...] = get_args(Scaling)

#: By how much the probabilities of one picture may miss 1.
_SUM_TOLERANCE = 1e-3

#: Seconds that the file may take to be imported, or its network to be built. What waits for an answer that never
#: comes would be paid for until the job's time-out.
LIMIT_SECONDS = 600.0

#: What holds for the whole process, and how it is read and set. A file that changed it would change the job.
_SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "keras.config.dtype_policy": (lambda: keras.config.dtype_policy().name, keras.config.set_dtype_policy),
    "keras.config.floatx": (keras.config.floatx, keras.config.set_floatx),
    "keras.config.image_data_format": (keras.config.image_data_format, keras.config.set_image_data_format),
    "tf.config.functions_run_eagerly": (tf.config.functions_run_eagerly, tf.config.run_functions_eagerly),
}

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclasses.dataclass(frozen=True)
class Module:
    """A file that was run: its function, and the two names that it may define. `base` is the name of a layer."""

    name: str
    path: Path
    build: Any
    base: str = ""
    pixels: Scaling = "inside"


def load(path: Path, name: str, *, limit: float = LIMIT_SECONDS) -> Module:
    """Run the file, for at most `limit` seconds. Raises UnusableModule."""
    module = types.ModuleType("module_of_the_user")
    module.__file__ = str(path)
    with blamed(name, path, "importing it", limit=limit):
        # The whole point of this file, and of running it nowhere else.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    build = getattr(module, "build", None)
    if not callable(build):
        raise UnusableModule(f"{name} has no function build(classes, image_size): write one that returns a keras.Model")
    base, pixels = getattr(module, "BASE", ""), getattr(module, "PIXELS", "inside")
    if not isinstance(base, str):
        raise UnusableModule(f"{name} has BASE = {base!r}: write the name of a layer of the network, as text")
    if not isinstance(pixels, str) or pixels not in PIXELS:
        raise UnusableModule(f"{name} has PIXELS = {pixels!r}: write one of {', '.join(map(repr, PIXELS))}")
    return Module(name, path, build, base, pixels)


def built(module: Module, *, classes: int, image_size: int) -> keras.Model:
    """What the module's `build` returns, if it is a network. Raises UnusableModule."""
    with blamed(module.name, module.path, f"build({classes}, {image_size})"):
        model = module.build(classes, image_size)
    if not isinstance(model, keras.Model):
        raise UnusableModule(
            f"{module.name}: build({classes}, {image_size}) returns {type(model).__name__}: return a keras.Model"
        )
    if len(inputs := getattr(model, "inputs", None) or [None]) != 1:
        raise UnusableModule(
            f"{module.name}: the network takes {len(inputs)} inputs: give keras.Model one, the pixels of a picture"
        )
    return model


def answered(module: Module, model: keras.Model, pixels: keras.KerasTensor, *, classes: int) -> keras.KerasTensor:
    """The network's answer to pixels, of the right shape. Raises UnusableModule."""
    with blamed(module.name, module.path, "giving it pixels"):
        answer = model(pixels)
    if not isinstance(answer, keras.KerasTensor):
        raise UnusableModule(
            f"{module.name}: the network answers a {type(answer).__name__}: give keras.Model the probabilities alone"
        )
    if tuple(answer.shape) != (None, classes):
        shape = ["batch", *answer.shape[1:]] if answer.shape and answer.shape[0] is None else list(answer.shape)
        raise UnusableModule(
            f"{module.name}: the network answers {shape} where [batch, {classes}] is wanted: end it with "
            "keras.layers.Dense(classes, activation='softmax')"
        )
    return answer


def check_weights(module: Module, network: keras.Model) -> None:
    """Something must learn, in the number format of the optimizer. Raises UnusableModule."""
    learn = network.trainable_variables
    if not learn:
        raise UnusableModule(
            f"{module.name}: nothing in the network learns: give it layers with weights, and leave them trainable"
        )
    odd = next((variable for variable in learn if str(variable.dtype) != "float32"), None)
    if odd is not None:
        raise UnusableModule(
            f"{module.name}: {odd.path} is {odd.dtype}, and what learns is float32: leave `dtype` away; "
            "training.<target>.precision says in what the job computes"
        )


def base_of(module: Module, model: keras.Model) -> keras.Model | None:
    """The part that is fine-tuned after the head, as `BASE` names it. Raises UnusableModule."""
    if not module.base:
        return None
    found = next((layer for layer in model.layers if layer.name == module.base), None)
    if not isinstance(found, keras.Model):
        networks = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        raise UnusableModule(
            f"{module.name}: BASE = {module.base!r} names no network inside the network: "
            + (f"write one of {', '.join(networks)}" if networks else "leave BASE out, there is none")
        )
    return found


def check_probabilities(module: Module, model: keras.Model, image_size: int) -> None:
    """Ask about two pictures of noise and a black one: the rows must be probabilities. Raises UnusableModule."""
    drawn = np.random.default_rng(0).uniform(0, 255, (3, image_size, image_size, 3)).astype(np.float32)
    drawn[2] = 0  # sigmoids that the others drive to 0 and 1 are a half each here
    rows = np.asarray(keras.ops.convert_to_numpy(model(drawn, training=False)), np.float64)
    if not np.isfinite(rows).all():
        raise UnusableModule(
            f"{module.name}: the network answers NaN or infinity before it has learned anything: look for a division "
            "by zero or a logarithm, or scale its pixels (PIXELS = 'unit')"
        )
    sums = rows.sum(axis=1)
    furthest = sums[np.abs(sums - 1).argmax()]
    if rows.min() < 0 or abs(furthest - 1) > _SUM_TOLERANCE:
        raise UnusableModule(
            f"{module.name}: the network answers logits or scores (a row sums to {furthest:.3g}) where probabilities "
            "are wanted: end it with activation='softmax', or with keras.layers.Softmax()"
        )


@contextlib.contextmanager
def blamed(name: str, path: Path, doing: str, *, limit: float = LIMIT_SECONDS) -> Iterator[None]:
    """Whatever the user's code raises or leaves changed in this block, and that it does not end. Raises UnusableModule.

    A process that it forks ends with the block: it would train, too.
    """
    try:
        with _settings_kept(f"{name}: {doing}"), _limited(limit, f"{name}: {doing}"), _one_process():
            yield
    except (UnusableModule, KeyboardInterrupt):
        raise
    except BaseException as exc:
        raise UnusableModule(f"{name}: {doing} failed{_told(exc, path)}") from exc


def fault(exc: BaseException, name: str, path: Path, doing: str) -> str:
    """What to say of an error that passed through the user's code; empty for one that is not from there."""
    return f"{name}: {doing} failed{_told(exc, path)}" if any(_line(each, path) for each in _causes(exc)) else ""


@contextlib.contextmanager
def _one_process() -> Iterator[None]:
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != process:  # before anything of TensorFlow is touched: its threads are not here
            os._exit(0)


@contextlib.contextmanager
def _settings_kept(doing: str) -> Iterator[None]:
    before = {setting: read() for setting, (read, _) in _SETTINGS.items()}
    changed: dict[str, Any] = {}
    try:
        yield
        changed = {setting: read() for setting, (read, _) in _SETTINGS.items() if read() != before[setting]}
    finally:
        for setting, (_, put) in _SETTINGS.items():
            put(before[setting])
    for setting, value in changed.items():
        raise UnusableModule(
            f"{doing} sets {setting} to {value!r} for the whole job: take that line out of the file; layers have "
            "`dtype` and `data_format` of their own"
        )


@contextlib.contextmanager
def _limited(seconds: float, doing: str) -> Iterator[None]:
    """End what waits in Python. Only the main thread can be interrupted, and the job runs there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(*_: object) -> None:
        raise UnusableModule(
            f"{doing} did not end within {seconds:g} s: let it wait for nothing, and download nothing; weights of your "
            "own are training.<target>.weights"
        )

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """The error, the one that led to it, and so on."""
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _line(exc: BaseException, path: Path) -> int | None:
    """The last line of the user's file that the error passed through."""
    if isinstance(exc, SyntaxError):
        return exc.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def _told(exc: BaseException, path: Path) -> str:
    """Line and words of the first error that came from the file: what Keras makes of it says less."""
    first = [each for each in _causes(exc) if _line(each, path)]
    line = f" in line {_line(first[-1], path)}" if first else ""
    return f"{line}: {_said(first[-1] if first else exc)}"


def _said(exc: BaseException) -> str:
    if isinstance(exc, MemoryError | tf.errors.ResourceExhaustedError):
        return "it needs more memory than this machine has: write a smaller network, or ask for a larger machine"
    lines = [line.strip() for line in _COLOURS.sub("", str(exc)).splitlines() if line.strip()]
    if lines and lines[0] == "in user code:":  # a function that TensorFlow rewrote; its own error comes last
        return lines[-1]
    # Keras names the layer first, and what went wrong after it.
    while len(lines) > 1 and (lines[0].startswith("Exception encountered") or lines[0].endswith("encountered:")):
        lines = lines[1:]
    said = ": ".join([type(exc).__name__, *lines[:1]])
    if isinstance(exc, ImportError):
        return (
            f"{said}; a job has the packages of services/trainer/requirements.txt alone: write it with keras, "
            "tensorflow and numpy, or bring an image of your own (docs/own-container.md)"
        )
    return said
