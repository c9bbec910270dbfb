"""A training step of both networks on an accelerator: its time in each number format, and how busy it keeps the device.

The networks are the trainer's own (`trainer.architectures`); Keras runs them on JAX, which an accelerator at hand may
offer where TensorFlow cannot be had. A step is forward, backward and AdamW, compiled by XLA, on pictures that lie on
the device already: what feeds it is measured by benchmarks.trainer_input. Augmentation is left out.

Two figures say how busy the device is. The share of its arithmetic: operations of a step, counted from the shapes of
convolutions and dense layers, over the time of the step, against a product of two bfloat16 matrices timed in the same
process. And the share of time in which any kernel ran, which nvidia-smi samples while the steps run.

    python -m benchmarks.accelerator [--image-size 224] [--batch-size 32 256] [--precision float32 mixed_bfloat16]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
for source in ("shared/src", "services/trainer"):
    sys.path.insert(0, str(ROOT / source))

NETWORKS = ("densenet121", "mobilenet_v3_small")
CLASSES = 5
#: Batches that differ, so that no step finds its pictures in a cache.
BATCHES = 8


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every network in every number format, each in a process of its own, and write the rows of the report."""
    options = _options(arguments)
    if options.network:
        print(json.dumps(_measured(options)))
        return
    if importlib.util.find_spec("jax") is None:
        print("skipped: Keras needs JAX here; on a machine with an NVIDIA GPU: pip install 'jax[cuda13]'")
        return
    for batch_size in options.batch_size:
        for network in NETWORKS:
            results = {precision: _run(network, precision, batch_size, options) for precision in options.precision}
            _report(f"{network}.batch_{batch_size}", results)


def _report(name: str, results: dict[str, dict[str, Any]]) -> None:
    baseline, *others = results
    rows = []
    for precision, result in results.items():
        how = (
            f"{result['device']}, Keras {result['keras']} on JAX {result['jax']}, {result['image_size']} px, batch "
            f"{result['batch_size']}, {precision}; median of {result['rounds']} rounds of {result['steps']} steps; "
            f"first step after {result['compile_seconds']:.0f} s"
        )
        against = results[baseline]["step_ms"] if precision in others else None
        rows += [
            Row(f"accelerator.{name}.{precision}.step", result["step_ms"], "ms", against, None, how),
            Row(f"accelerator.{name}.{precision}.images", result["images_per_second"], "images/s", None, None, how),
            Row(
                f"accelerator.{name}.{precision}.arithmetic",
                result["teraflops"],
                "TFLOP/s",
                result["teraflops_of_a_product"],
                None,
                f"{result['gigaflop']:.0f} GFLOP a step, against a product of bfloat16 matrices; {how}",
            ),
        ]
        if result["busy_percent"] is not None:
            busy = result["busy_percent"]
            rows.append(
                Row(f"accelerator.{name}.{precision}.busy", busy, "% of time", None, None, f"nvidia-smi; {how}")
            )
    append_rows(rows)


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    import jax  # noqa: PLC0415 (only the measuring process has chosen Keras' backend)
    import keras  # noqa: PLC0415

    (precision,), (batch_size,) = options.precision, options.batch_size
    began = time.perf_counter()
    step, state, batches, operations = _training(options.network, precision, options.image_size, batch_size)
    state, loss = step(state, *batches[0])
    first = float(loss)
    compile_seconds = time.perf_counter() - began

    seconds = []
    with _sampled() as samples:
        for _ in range(options.rounds):
            started = time.perf_counter()
            for number in range(options.steps):
                state, loss = step(state, *batches[number % BATCHES])
            last = float(loss)
            seconds.append((time.perf_counter() - started) / options.steps)
    # A step that computes nothing would be the fastest: the loss must be a number, and training must have moved it.
    assert math.isfinite(first)
    assert math.isfinite(last)
    assert first != last, first
    second = statistics.median(seconds)
    return {
        "device": jax.devices()[0].device_kind,
        "keras": keras.__version__,
        "jax": jax.__version__,
        "image_size": options.image_size,
        "batch_size": batch_size,
        "rounds": options.rounds,
        "steps": options.steps,
        "compile_seconds": compile_seconds,
        "step_ms": round(second * 1000, 2),
        "images_per_second": round(batch_size / second),
        "gigaflop": operations / 1e9,
        "teraflops": round(operations / second / 1e12, 2),
        "teraflops_of_a_product": _product(4096 if jax.default_backend() == "cpu" else 8192),
        "busy_percent": round(statistics.median(samples)) if samples else None,
    }


def _training(
    name: str, precision: Any, image_size: int, batch_size: int
) -> tuple[Callable[..., Any], Any, list[tuple[Any, Any]], float]:
    """A compiled step, the state that it starts from, batches on the device, and the operations of a step."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import keras  # noqa: PLC0415

    from trainer import architectures  # noqa: PLC0415

    keras.utils.set_random_seed(0)
    network = architectures.build(
        name, classes=CLASSES, image_size=image_size, weights="none", precision=precision
    ).model
    optimizer = keras.optimizers.AdamW(0.001, weight_decay=1e-4)
    optimizer.build(network.trainable_variables)

    def loss_of(trained: Any, others: Any, images: Any, labels: Any) -> Any:
        pixels = images.astype(jnp.float32)
        probabilities, others = network.stateless_call(trained, others, pixels, training=True)
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities)), others

    def step(state: Any, images: Any, labels: Any) -> Any:
        trained, others, optimizing = state
        differentiate = jax.value_and_grad(loss_of, has_aux=True)
        (loss, others), gradients = differentiate(trained, others, images, labels)
        trained, optimizing = optimizer.stateless_apply(optimizing, gradients, trained)
        return (trained, others, optimizing), loss

    def values(variables: Any) -> list[Any]:
        return [variable.value for variable in variables]

    state = (
        values(network.trainable_variables),
        values(network.non_trainable_variables),
        values(optimizer.variables),
    )
    keys = jax.random.split(jax.random.key(0), BATCHES)
    batches = [
        (
            jax.random.randint(key, (batch_size, image_size, image_size, 3), 0, 256, jnp.uint8),
            jax.random.randint(key, (batch_size,), 0, CLASSES),
        )
        for key in keys
    ]
    return jax.jit(step, donate_argnums=0), state, batches, batch_size * _operations(network)


def _operations(model: Any) -> float:
    """Additions and multiplications that a training step does for one picture; normalisation and the like left out.

    The backward pass does twice what the forward pass does: gradients of the input and of the kernel.
    """
    import keras  # noqa: PLC0415

    forward = 0.0
    for layer in model._flatten_layers():  # Keras has no public way into nested models
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)):
            places = math.prod(layer.output.shape[1:-1])
            forward += 2 * places * math.prod(layer.kernel.shape)
    return 3 * forward


def _product(side: int) -> float:
    """TFLOP/s of a product of two random bfloat16 matrices: what the accelerator can do at best."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    left, right = (jax.random.normal(jax.random.key(seed), (side, side), jnp.bfloat16) for seed in (0, 1))
    multiply = jax.jit(jnp.matmul)
    multiply(left, right).block_until_ready()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        products = [multiply(left, right) for _ in range(5)]
        products[-1].block_until_ready()
        seconds.append((time.perf_counter() - started) / len(products))
    return round(2 * side**3 / statistics.median(seconds) / 1e12, 2)


@contextlib.contextmanager
def _sampled() -> Iterator[list[float]]:
    """Collect, five times a second, for how much of the time a kernel ran; nothing where there is no nvidia-smi."""
    samples: list[float] = []
    if shutil.which("nvidia-smi") is None:
        yield samples
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield samples
        finally:
            process.terminate()
            output, _ = process.communicate()
            samples += [float(line) for line in output.split()]


def _run(network: str, precision: str, batch_size: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.accelerator", "--network", network, "--precision", precision]
    command += ["--batch-size", str(batch_size), "--image-size", str(options.image_size)]
    command += ["--steps", str(options.steps), "--rounds", str(options.rounds)]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--precision", nargs="+", default=["float32", "mixed_bfloat16"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
