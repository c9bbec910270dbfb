"""How the shards of a run are divided, and whether that is another way than before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from dualdeploy.contracts import split
from dualdeploy.contracts.split import Problem, Split
from dualdeploy.ledger import Run


def split_of_run(run: Run, *, earlier: Iterable[Run] = ()) -> Split:
    """Divide the run's snapshot; `earlier` runs of its data set are only looked at when shards are held out now.

    Where all of them held out pictures by checksum, the shards that are held out now are new, and this run learns
    from everything that was held out before: that is a doubt.
    """
    divided = _divide(run)
    if not divided.eval:
        return divided
    by_checksum = [_divide(each).by_hash for each in earlier]
    if not by_checksum or not all(by_checksum):
        return divided
    doubt = Problem(
        f"until now one picture in {split.HELD_OUT_ONE_IN} was held out by its checksum; now that shards are held out"
        f" ({divided.eval[0]}), the pictures that were held out before are trained on",
        "nothing, if that is meant: figures of earlier runs were measured on other pictures; otherwise write"
        " data.split: hash",
    )
    return dataclasses.replace(divided, doubts=(doubt, *divided.doubts))


def _divide(run: Run) -> Split:
    names = (shard.name for shard in run.snapshot.shards)
    return split.divide(names, prefix=run.snapshot.prefix, rule=split.rule_of(run.config))
