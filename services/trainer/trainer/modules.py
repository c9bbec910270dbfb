"""A network that somebody wrote: `build(classes, image_size)` of a file, run here, inside the training job alone.

What it gets and must answer is in docs/networks.md. What is wrong is said in one sentence that names what to write,
with the line of the file where there is one; `python -m model_check` says the same on a laptop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np

from dualdeploy.contracts.architectures import Scaling
from trainer.process.failures import UnusableModule

#: What `PIXELS` in a module may say; without it the network gets 0..255.
PIXELS: tuple[Scaling, ...] = get_args(Scaling)

#: By how much the probabilities of one picture may miss 1.
_SUM_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Module:
    """A file that was run: its function, and the two names that it may define. `base` is the name of a layer."""

    name: str
    path: Path
    build: Any
    base: str = ""
    pixels: Scaling = "inside"


def load(path: Path, name: str) -> Module:
    """Run the file. Raises UnusableModule."""
    module = types.ModuleType("module_of_the_user")
    module.__file__ = str(path)
    with blamed(name, path, "importing it"):
        # The whole point of this file, and of running it nowhere else.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    build = getattr(module, "build", None)
    if not callable(build):
        raise UnusableModule(f"{name} has no function build(classes, image_size): write one that returns a keras.Model")
    base, pixels = getattr(module, "BASE", ""), getattr(module, "PIXELS", "inside")
    if not isinstance(base, str):
        raise UnusableModule(f"{name} has BASE = {base!r}: write the name of a layer of the network, as text")
    if pixels not in PIXELS:
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
    return model


def answered(module: Module, model: keras.Model, pixels: keras.KerasTensor, *, classes: int) -> keras.KerasTensor:
    """The network's answer to pixels, of the right shape. Raises UnusableModule."""
    with blamed(module.name, module.path, "giving it pixels"):
        answer = model(pixels)
    if not isinstance(answer, keras.KerasTensor):
        raise UnusableModule(f"{module.name}: the network has several outputs: return only the probabilities")
    if tuple(answer.shape) != (None, classes):
        shape = ["batch", *answer.shape[1:]] if answer.shape and answer.shape[0] is None else list(answer.shape)
        raise UnusableModule(
            f"{module.name}: the network answers {shape} where [batch, {classes}] is wanted: end it with "
            "keras.layers.Dense(classes, activation='softmax')"
        )
    return answer


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
def blamed(name: str, path: Path, doing: str) -> Iterator[None]:
    """Whatever the user's code raises, with the line of the file where it did."""
    try:
        yield
    except UnusableModule:
        raise
    except (Exception, SystemExit) as exc:
        if isinstance(exc, SyntaxError):
            where = f" in line {exc.lineno}"
        else:
            lines = [frame.lineno for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == str(path)]
            where = f" in line {lines[-1]}" if lines else ""
        said = next((line for line in str(exc).splitlines() if line.strip()), "")
        raise UnusableModule(f"{name}: {doing} failed{where}: {type(exc).__name__}: {said}") from exc
