"""The GPUs of this machine, counted without TensorFlow: the process that counts them will fork."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

#: CUDA's own setting: which GPUs a process sees.
VISIBLE = "CUDA_VISIBLE_DEVICES"


def names(environ: Mapping[str, str], *, devices: Path = Path("/dev")) -> list[str]:
    """What to put into CUDA_VISIBLE_DEVICES of one process for each GPU; empty without a GPU.

    Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars (an entry of -1 ends the list).
    """
    if VISIBLE in environ:
        chosen = (name.strip() for name in environ[VISIBLE].split(","))
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), chosen))
    # CUDA counts from 0, whatever the numbers of the devices that a container was given.
    found = [path for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return [str(index) for index in range(len(found))]
