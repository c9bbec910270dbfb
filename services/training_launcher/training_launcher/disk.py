"""How large a boot disk a training job needs, from the shards of its snapshot: known before anything is spent."""

from __future__ import annotations

from dualdeploy.ledger import Run

#: Vertex AI's disks are of these sizes, in gigabytes; the least is what a job gets that asks for none.
#: Source: https://cloud.google.com/vertex-ai/docs/training/configure-compute#boot_disk_options
LEAST_GB, MOST_GB = 100, 64_000

#: Of the image, and of what a job writes at its end.
_OTHERS_GB = 40.0

#: File systems are slower when they are full.
_SPARE = 1.1

_STEP_GB = 50


def gigabytes(run: Run) -> int:
    """What the job of either target needs: its shards, and the pictures of compressed ones once more.

    That is enough for `trainer.data.pictures`; what decoded pictures need besides is used if it is there.
    """
    stored = sum(shard.size * (2 if shard.name.lower().endswith(".gz") else 1) for shard in run.snapshot.shards)
    return _of(stored)


def gigabytes_for_two(run: Run) -> int:
    """What the job needs that reads one shard after the other, the next already on its way."""
    return _of(sum(sorted(shard.size for shard in run.snapshot.shards)[-2:]))


def _of(stored: int) -> int:
    needed = _OTHERS_GB + _SPARE * stored / 1e9
    return max(LEAST_GB, -int(-needed // _STEP_GB) * _STEP_GB)


def refusal(run: Run) -> str:
    """Why no disk is large enough, with what to do; empty when one is."""
    if (needed := gigabytes(run)) <= MOST_GB:
        return ""
    return (
        f"the shards of this run need a disk of {needed:,} GB, and Vertex AI's largest has {MOST_GB:,}: write smaller "
        "pictures into the shards, or train on fewer of them (data.snapshot)"
    )
