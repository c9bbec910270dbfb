"""What the devices of this machine are good at: number format and compiler, from what they say of themselves."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dualdeploy.contracts.training import Precision, Xla
from trainer.process.failures import UnusableJob

log = logging.getLogger("trainer")

#: Volta and Turing (V100, T4) have tensor cores for float16, Ampere and later (A100, L4, H100) for bfloat16 as well,
#: which needs no loss scale. Source: https://developer.nvidia.com/cuda-gpus,
#: https://docs.nvidia.com/deeplearning/performance/mixed-precision-training/
FLOAT16_SINCE = (7, 0)
BFLOAT16_SINCE = (8, 0)

Policy = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@dataclasses.dataclass(frozen=True)
class Device:
    """`capability` is CUDA's compute capability, None for what is no NVIDIA GPU."""

    kind: str
    capability: tuple[int, int] | None = None


def policy(wanted: Precision, devices: Sequence[Device]) -> Policy:
    """The number format of the layers in between; variables, loss and the saved model are float32 always.

    `auto` takes what every device is faster with, and float32 for a CPU, which emulates the short formats.
    """
    if wanted != "auto":
        return wanted
    if devices and all(device.kind == "TPU" for device in devices):
        return "mixed_bfloat16"
    slowest = _slowest(devices)
    if slowest >= BFLOAT16_SINCE:
        return "mixed_bfloat16"
    return "mixed_float16" if slowest >= FLOAT16_SINCE else "float32"


def compiled(wanted: Xla, devices: Sequence[Device], *, replicas: int) -> bool:
    """Whether forward and backward pass go through XLA: a GPU gains from fewer, larger kernels, a CPU waits for them.

    Never with several replicas: XLA cannot compile the exchange of BatchNorm's statistics between them.
    """
    if replicas > 1:
        if wanted == "on":
            log.warning("xla: on is not followed, because %d replicas exchange batch statistics in the step", replicas)
        return False
    if wanted != "auto":
        return wanted == "on"
    return _slowest(devices) >= FLOAT16_SINCE


def _slowest(devices: Sequence[Device]) -> tuple[int, int]:
    capabilities = [device.capability or (0, 0) for device in devices if device.kind == "GPU"]
    return min(capabilities, default=(0, 0))


def require_use_of(cards: Sequence[Path], devices: Sequence[Device]) -> None:
    """Raises UnusableJob where this installation brings CUDA, the machine has GPUs, and TensorFlow sees none of them.

    Most likely their driver is older than that CUDA: on its processors the job would meet its time limit, and cost.
    """
    if cards and not any(device.kind == "GPU" for device in devices):
        raise UnusableJob(
            f"the machine has {', '.join(map(str, cards))}, and TensorFlow sees no GPU: the driver is probably too old"
            " for the CUDA of this image. Ask for another accelerator (training.<target>.accelerator), or for none"
        )


def cards() -> list[Path]:
    """The NVIDIA GPUs that are meant to be used here: none without CUDA, or where they were hidden on purpose."""
    brings_cuda = any(importlib.metadata.distributions(name="nvidia-cuda-runtime-cu12"))
    if not brings_cuda or "CUDA_VISIBLE_DEVICES" in os.environ:
        return []
    return sorted(path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())


def devices() -> list[Device]:
    """The accelerators that TensorFlow sees here; none means that the CPU does the work."""
    import tensorflow as tf  # noqa: PLC0415  # imported late, as everywhere outside the training itself

    found = []
    for device in [*tf.config.list_physical_devices("GPU"), *tf.config.list_physical_devices("TPU")]:
        details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
        found.append(Device(device.device_type, details.get("compute_capability")))
    return found
