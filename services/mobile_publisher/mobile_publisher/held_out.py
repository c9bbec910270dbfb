"""The pictures of a run, read again from exactly the shards that it was trained and evaluated with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from dualdeploy import tfrecord
from dualdeploy.contracts import split
from dualdeploy.contracts.split import Split
from dualdeploy.errors import UnusableResult
from dualdeploy.ledger import Run, Shard
from dualdeploy.object_store import ObjectMissing, ObjectStore
from dualdeploy.shard_versions import open_shard
from dualdeploy.tfrecord import CorruptRecords
from dualdeploy.training import FeatureNames


def examples(run: Run, store: ObjectStore) -> Iterator[tuple[bytes, int]]:
    """Pairs of a held-out picture's bytes and the index of its label, one at a time.

    Features and labels are those that the run was trained with, whatever the configuration says by now. Records that
    the trainer skips (damaged, no picture, no label, a label out of range) are skipped here too. Raises UnusableResult
    when a shard was replaced or deleted since the run: another picture set would prove nothing.
    """
    divided = _split(run)
    wanted = _any if divided.eval else split.is_held_out
    for shard in _shards(run, divided.eval or divided.train):
        yield from _read(run, shard, store, wanted)


def training_examples(run: Run, store: ObjectStore, *, about: int) -> Iterator[tuple[bytes, int]]:
    """About `about` pairs that the run was trained with, as many of every shard; raises as `examples` does."""
    divided = _split(run)
    of_each = -(-about // max(1, len(divided.train)))
    for shard in _shards(run, divided.train):
        pairs = _read(run, shard, store, _any if divided.eval else _is_trained_on)
        yield from itertools.islice(pairs, of_each)


def _split(run: Run) -> Split:
    names = (shard.name for shard in run.snapshot.shards)
    return split.divide(names, prefix=run.snapshot.prefix, rule=split.rule_of(run.config))


def _shards(run: Run, names: Sequence[str]) -> list[Shard]:
    wanted = frozenset(names)
    return [shard for shard in run.snapshot.shards if shard.name in wanted]


def _is_trained_on(image: bytes) -> bool:
    return not split.is_held_out(image)


def _any(_image: bytes) -> bool:
    return True


def _read(run: Run, shard: Shard, store: ObjectStore, wanted: Callable[[bytes], bool]) -> Iterator[tuple[bytes, int]]:
    features, classes = FeatureNames.model_validate(run.config["data"]["features"]), len(run.config["labels"])
    try:
        with open_shard(store, shard) as stream:
            for record in tfrecord.read_records(stream, name=shard.name, damaged=_skip):
                pair = _pair(record.data, features, classes)
                if pair and wanted(pair[0]):
                    yield pair
    except ObjectMissing as exc:
        raise UnusableResult(
            f"{store.uri(shard.name)} is no longer what {run.run_id} was trained with, so the file cannot be"
            " checked on the run's held-out pictures; train again"
        ) from exc
    except CorruptRecords as exc:
        raise UnusableResult(f"the held-out pictures of {run.run_id} cannot be read: {exc}") from exc


def _skip(_damaged: CorruptRecords) -> None:
    """The trainer counts damaged records and leaves them out."""


def _pair(data: bytes, features: FeatureNames, classes: int) -> tuple[bytes, int] | None:
    try:
        example = tfrecord.parse_example(data)
    except CorruptRecords:
        return None
    image, label = example.get(features.image), example.get(features.label)
    if image is None or label is None or (image.kind, label.kind) != ("bytes", "int64"):
        return None
    if len(image.values) != 1 or len(label.values) != 1 or not 0 <= label.values[0] < classes:
        return None
    return bytes(image.values[0]), int(label.values[0])
