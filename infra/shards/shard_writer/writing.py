"""From a plan to files: pictures are judged and shards are written by all cores."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import google_crc32c
import yaml

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.shard_folder import look_into
from dualdeploy.contracts.shards import ShardNames
from dualdeploy.images import tfrecord
from shard_writer import reading
from shard_writer.planning import Entry, Plan
from shard_writer.reading import Judged
from shard_writer.sources import Picture, Source, UnusableSource

#: Told after each picture, or each shard.
Told = Callable[[], None]


class ChangedMeanwhile(UnusableSource):
    """A picture is not what it was when it was judged."""


def judge_all(source: Source, *, workers: int, told: Told) -> dict[str, Judged]:
    """What each picture is worth, by its name."""
    judged: dict[str, Judged] = {}
    with _pool(workers) as pool:
        for picture, each in zip(source.pictures, pool.map(reading.judge, source.pictures, chunksize=16), strict=True):
            judged[picture.name] = each
            told()
    return judged


def write_all(plan: Plan, folder: Path, *, workers: int, told: Told) -> list[Path]:
    """Write the shards, each whole or not at all. Raises UnusableSource when the folder has others already."""
    if others := sorted(set(look_into(folder, ShardNames()).files) - set(plan.shards)):
        raise UnusableSource(
            f"{folder} has other shards already, such as {others[0]}: empty it, or give another --out folder"
        )
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in plan.labels), encoding="utf-8")
    paths = []
    with _pool(workers) as pool:
        tasks = [pool.submit(_write, folder / name, shard) for name, shard in plan.shards.items()]
        for task in concurrent.futures.as_completed(tasks):
            paths.append(task.result())
            told()
    return sorted(paths)


def _write(path: Path, entries: Sequence[Entry]) -> Path:
    tfrecord.write_records(path, _records(entries))
    return path


def _records(entries: Sequence[Entry]) -> Iterator[bytes]:
    for entry in entries:
        data, _ = reading.encoded(entry.picture)
        if google_crc32c.value(data) != entry.judged.checksum:
            raise ChangedMeanwhile(f"{entry.picture.path} changed while shards were made of it: run it again")
        yield tfrecord.encode_example({"image": data, "class": entry.label, "filename": entry.picture.name})


def config_document(dataset: str, labels: Sequence[str]) -> str:
    """The data set's YAML, checked. Its prefix is the whole data set, of which these shards may be one batch."""
    document: Mapping[str, object] = {
        "dataset": dataset,
        "labels": list(labels),
        "data": {"features": {"image": "image", "label": "class"}},
    }
    text = "# Written by `make shards`. Every other key has a default: docs/configuration.md\n" + yaml.safe_dump(
        document, sort_keys=False, allow_unicode=True
    )
    dataset_config.parse(text, source=f"{dataset}.yaml")
    return text


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[concurrent.futures.Executor]:
    """Workers that do nothing more once something is wrong, or somebody pressed Ctrl-C."""
    executor: concurrent.futures.Executor = concurrent.futures.ThreadPoolExecutor(1)
    if workers > 1:
        # Not forked: this process has threads (progress), and theirs would be copied in whatever state they are.
        context = multiprocessing.get_context("spawn")
        ignore = (signal.SIGINT, signal.SIG_IGN)
        executor = concurrent.futures.ProcessPoolExecutor(
            workers, mp_context=context, initializer=signal.signal, initargs=ignore
        )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


__all__ = ["Picture", "config_document", "judge_all", "write_all"]
