"""This process among the workers of its job, as Vertex AI tells it in TF_CONFIG; no TensorFlow here.

    {"cluster": {"chief": ["host:port"], "worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}

Vertex AI sets it only when a job has more than one machine: the first worker pool is the chief, the second the workers.
Source: https://cloud.google.com/vertex-ai/docs/training/distributed-training#tf-config
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from dualdeploy.contracts.training import ShardReference
from trainer.process.failures import UnusableData, UnusableJob


@dataclasses.dataclass(frozen=True)
class Place:
    """Worker `index` of so many; 0 is the chief, which alone writes results, checkpoints and logs."""

    index: int = 0
    workers: int = 1

    @property
    def is_chief(self) -> bool:
        return self.index == 0


def place(environ: Mapping[str, str]) -> Place:
    """Where this process stands; alone without TF_CONFIG. Raises UnusableJob for a cluster that we cannot join."""
    try:
        config = json.loads(environ.get("TF_CONFIG") or "{}")
        sizes = {role: len(addresses) for role, addresses in config.get("cluster", {}).items()}
        task = config.get("task", {})
        role, index = str(task.get("type", "")), int(task.get("index", 0))
    except (AttributeError, TypeError, ValueError) as exc:
        raise UnusableJob(f"TF_CONFIG cannot be understood: {exc}") from exc
    others = sorted(sizes.keys() - {"chief", "worker"})
    if others:
        raise UnusableJob(
            f"TF_CONFIG names tasks of type {', '.join(others)}: use one pool with the chief and one with workers; "
            "gradients are exchanged among them, and the chief evaluates"
        )
    chiefs, workers = sizes.get("chief", 0), sizes.get("chief", 0) + sizes.get("worker", 0)
    if workers <= 1:
        return Place()
    if chiefs > 1 or role not in sizes or not 0 <= index < sizes[role]:
        raise UnusableJob(f"TF_CONFIG is inconsistent: this is {role or 'no task'} {index} of {sizes}")
    return Place(index + (chiefs if role == "worker" else 0), workers)


def share(shards: Sequence[ShardReference], where: Place) -> tuple[list[ShardReference], list[ShardReference]]:
    """The shards that this worker learns from, and those that others do, each in the given order.

    The largest first, each to whoever has least so far, so that all have about the same; every worker decides alike.
    Raises UnusableData when somebody would have none.
    """
    if len(shards) < where.workers:
        raise UnusableData(
            f"{where.workers} workers share {len(shards)} training shards, so one has none: write more shards, or "
            f"lower training.<target>.replicas to {max(1, len(shards))}"
        )
    loads = [(0, 0)] * where.workers
    owners: dict[int, int] = {}
    for position in sorted(range(len(shards)), key=lambda position: (-shards[position].size, position)):
        owner = loads.index(min(loads))
        loads[owner] = (loads[owner][0] + shards[position].size, loads[owner][1] + 1)
        owners[position] = owner
    mine = [shard for position, shard in enumerate(shards) if owners[position] == where.index]
    return mine, [shard for position, shard in enumerate(shards) if owners[position] != where.index]
