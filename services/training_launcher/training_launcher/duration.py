"""How long a training job may take, from the number of its pictures: known before anything is spent."""

from __future__ import annotations

import math

from dualdeploy.contracts.dataset_config import Capacity, DatasetConfig, TargetTraining
from dualdeploy.contracts.training import TARGETS

#: What a job gets in any case, and Vertex AI's limit, in seconds.
#: Source: https://cloud.google.com/vertex-ai/docs/training/create-custom-job (CustomJob.scheduling.timeout)
LEAST_SECONDS, MOST_SECONDS = 7_200.0, 604_800.0

#: Pictures of 224 px a second that are learned from on one accelerator, and on one virtual processor. DenseNet121 was
#: measured at 2.5 on two cores; a T4 is said to do 150 and more. Both are on the safe side: what is paid is the time
#: that a job takes, and not what it might have taken.
OF_AN_ACCELERATOR, OF_A_PROCESSOR, AT_PX = 100.0, 1.0, 224

#: For fetching and decoding, evaluation and export, and epochs that are begun again on another machine.
_OTHERS_SECONDS = 3_600.0

_HOUR = 3_600.0


def timeout(training: TargetTraining, pictures: int) -> float:
    """Seconds: as configured, or enough for so many pictures on the slowest of the ways to get machines."""
    if training.timeout is not None:
        return training.timeout
    return min(MOST_SECONDS, max(LEAST_SECONDS, _needed(training, pictures)))


def refusal(config: DatasetConfig, pictures: int) -> str:
    """Why no job is long enough, with what to do; empty when it is."""
    for target in TARGETS:
        training = config.training.of(target)
        needed = _needed(training, pictures)
        if training.timeout is None and needed > MOST_SECONDS:
            each = (needed - _OTHERS_SECONDS) / training.epochs
            fit = int((MOST_SECONDS - _OTHERS_SECONDS) // each)
            remedy = f"write training.{target}.epochs: {fit}, or use " if fit else "use "
            return (
                f"{training.epochs} epochs of {pictures:,} pictures need about {needed / _HOUR:,.0f} h for target "
                f"{target}, and Vertex AI ends a job after {MOST_SECONDS / _HOUR:.0f} h: {remedy}a smaller image_size, "
                f"more replicas or accelerators; or write training.{target}.timeout, if you know that it is faster"
            )
    return ""


def _needed(training: TargetTraining, pictures: int) -> float:
    """In whole hours."""
    smaller = (AT_PX / training.image_size) ** 2
    rate = min(map(_rate, training.capacity)) * training.replicas * smaller
    return math.ceil((_OTHERS_SECONDS + pictures * training.epochs / rate) / _HOUR) * _HOUR


def _rate(entry: Capacity) -> float:
    if entry.accelerator:
        return OF_AN_ACCELERATOR * entry.accelerator.count
    return OF_A_PROCESSOR * _processors(entry.machine)


def _processors(machine: str) -> int:
    """The number at the end of its name."""
    last = machine.rpartition("-")[2]
    return int(last) if last.isdigit() else 1
