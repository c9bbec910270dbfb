"""The devices that learn one network together: one, all GPUs of a machine, or those of several workers.

    pictures of this worker ── local batch ──► replica 0: forward, backward ─┐
                                          └──► replica 1: forward, backward ─┴─ sum of gradients over all ──► same step

Each replica holds a copy of the network. BatchNorm's statistics are those of the whole batch, so that the model does
not depend on how many devices shared the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.process.workers import Place


class Team:
    """All replicas of a job. Make it before anything else is done with TensorFlow: workers find each other here."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()
        self._strategy = _strategy(self.place)
        self.replicas: int = self._strategy.num_replicas_in_sync
        #: Replicas of this worker; all workers have machines of one kind.
        self.local = self.replicas // self.place.workers

    def scope(self) -> Any:
        """Variables made in this block exist once on each replica."""
        return self._strategy.scope()

    def put(self, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[Any, Any]:
        """A local batch on the devices that will learn from it, in equal parts."""
        if self.local == 1:
            return tf.constant(images), tf.constant(labels)
        size = len(labels) // self.local

        def parts(values: npt.NDArray[Any]) -> Any:
            def one(context: Any) -> tf.Tensor:
                number = context.replica_id_in_sync_group % self.local
                return tf.constant(values[number * size : (number + 1) * size])

            return self._strategy.experimental_distribute_values_from_function(one)

        return parts(images), parts(labels)

    def run(self, step: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Call `step` on every replica, in a traced function; returns what the first of this worker answers."""
        if self.replicas == 1:
            return step(*arguments)
        answers = self._strategy.run(step, args=tuple(arguments))
        return tf.nest.map_structure(lambda value: self._strategy.experimental_local_results(value)[0], answers)

    def sum(self, values: Sequence[Any]) -> Any:
        """Sums over all replicas; call inside `run`."""
        if self.replicas == 1:
            return values
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, list(values))

    def number(self) -> Any:
        """Which of all replicas this is; call inside `run`."""
        if self.replicas == 1:
            return 0
        return tf.distribute.get_replica_context().replica_id_in_sync_group

    def total(self, values: Sequence[float]) -> npt.NDArray[Any]:
        """Sums over all workers; every worker must call it at the same point, and waits there for the others."""
        mine = np.asarray(values, dtype=np.float64)
        if self.place.workers == 1:
            return mine

        def one(context: Any) -> tf.Tensor:
            first = context.replica_id_in_sync_group % self.local == 0
            return tf.constant(mine if first else np.zeros_like(mine))

        parts = self._strategy.experimental_distribute_values_from_function(one)
        return np.asarray(self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None))

    def each(self, value: float) -> npt.NDArray[Any]:
        """What every worker says, by its index."""
        return self.total([value if index == self.place.index else 0.0 for index in range(self.place.workers)])


def _strategy(place: Place) -> Any:
    if place.workers > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()
