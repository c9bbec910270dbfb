"""The pictures of a run, read again from exactly the shards that it was trained and evaluated with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from dualdeploy.contracts import split
from dualdeploy.contracts.example import ExampleSchema, UsableExample, schema_of
from dualdeploy.contracts.split import Split, SplitRule
from dualdeploy.errors import UnusableResult
from dualdeploy.google.object_store import ObjectMissing, ObjectStore
from dualdeploy.images import image_file, tfrecord
from dualdeploy.images.tfrecord import CorruptRecords
from dualdeploy.images.unusable import UnusableRecord
from dualdeploy.ledger import Run, Shard
from dualdeploy.ledger.shard_versions import open_shard

#: A picture's bytes, and the index of its label.
Pair = tuple[bytes, int]


def examples(run: Run, store: ObjectStore, *, by_hash: bool = False) -> Iterator[Pair]:
    """Pairs of a held-out picture's bytes and the index of its label, one at a time.

    `by_hash`: the trainer says that it held out by checksum, whatever the names say to this version of the rule.

    Features and labels are those that the run was trained with, whatever the configuration says by now. Records that
    the trainer skips (damaged, no picture, no label, a label out of range) are skipped here too. Raises UnusableResult
    when a shard was replaced or deleted since the run: another picture set would prove nothing.
    """
    divided = _split(run, by_hash)
    wanted = _any if divided.eval else schema_of(run.config).is_held_out
    for shard in _shards(run, divided.eval or divided.train):
        yield from _read(run, shard, store, wanted)


def training_examples(run: Run, store: ObjectStore, *, about: int, by_hash: bool = False) -> Iterator[Pair]:
    """About `about` pairs that the run was trained with, as many of every shard; raises as `examples` does."""
    divided, schema = _split(run, by_hash), schema_of(run.config)
    of_each = -(-about // max(1, len(divided.train)))
    for shard in _shards(run, divided.train):
        pairs = _read(run, shard, store, lambda example: bool(divided.eval) or not schema.is_held_out(example))
        yield from itertools.islice(pairs, of_each)


def _split(run: Run, by_hash: bool) -> Split:
    rule = SplitRule(by="hash") if by_hash else split.rule_of(run.config)
    return split.divide((shard.name for shard in run.snapshot.shards), prefix=run.snapshot.prefix, rule=rule)


def _shards(run: Run, names: Sequence[str]) -> list[Shard]:
    wanted = frozenset(names)
    return [shard for shard in run.snapshot.shards if shard.name in wanted]


def _read(run: Run, shard: Shard, store: ObjectStore, wanted: Callable[[UsableExample], bool]) -> Iterator[Pair]:
    schema = schema_of(run.config)
    try:
        with open_shard(store, shard) as stream:
            for record in tfrecord.read_records(stream, name=shard.name, damaged=_skip):
                example = _usable(schema, record.data)
                if example and wanted(example):
                    yield example.image, example.label
    except ObjectMissing as exc:
        raise UnusableResult(
            f"{store.uri(shard.name)} is no longer what {run.run_id} was trained with, so the file cannot be"
            " checked on the run's held-out pictures; train again"
        ) from exc
    except CorruptRecords as exc:
        raise UnusableResult(f"the held-out pictures of {run.run_id} cannot be read: {exc}") from exc


def _any(_example: UsableExample) -> bool:
    return True


def _skip(_damaged: CorruptRecords) -> None:
    """The trainer counts damaged records and leaves them out."""


def _usable(schema: ExampleSchema, data: bytes) -> UsableExample | None:
    """None for what the trainer leaves out; damage inside the pixels shows, as there, when the picture is decoded."""
    try:
        example = schema.read(data)
        image_file.check(example.image)
    except (CorruptRecords, UnusableRecord):
        return None
    return example
