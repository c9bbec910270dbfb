"""The configuration first, never over another; the shards next; `_SUCCESS` last; and on where it was interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.object_store import ABSENT
from shard_writer import delivery
from shard_writer.delivery import Delivery
from shard_writer.sources import UnusableSource
from shard_writer.writing import config_document
from support.fakes import Failing, MemoryObjectStore

LABELS = ["roses", "tulips"]
TEXT = config_document("garden", LABELS)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"train-0000{number}-of-00003.tfrecord" for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


def job(
    data: MemoryObjectStore, config: MemoryObjectStore, *, to: str = "gs://x-data/garden", digest: str = "1"
) -> Delivery:
    return Delivery(delivery.parse_place(to), data, config, digest)


def deliver(each: Delivery, shards: list[Path]) -> tuple[str, int, bool]:
    return each.configure(TEXT, LABELS), each.send(shards, lambda _bytes: None), each.finish()


def test_a_data_set_arrives_whole_and_in_order(shards: list[Path]) -> None:
    data, config = MemoryObjectStore("x-data"), MemoryObjectStore("x-config")
    written: list[str] = []
    for store in (data, config):
        put = store.put
        store.put = lambda name, content, put=put, **more: (written.append(name), put(name, content, **more))[1]  # type: ignore[method-assign]
    said = deliver(job(data, config), shards)

    assert said == ("wrote gs://x-config/datasets/garden.yaml", 3, True)
    assert written[0] == "datasets/garden.yaml"
    assert sorted(written[1:-1]) == [f"garden/{path.name}" for path in shards]
    assert written[-1] == "garden/_SUCCESS"


def test_it_goes_on_where_it_was_interrupted(shards: list[Path]) -> None:
    data, config = MemoryObjectStore("x-data"), MemoryObjectStore("x-config")
    data.faults.plan("put", Failing(ServiceUnavailable("cut"), after=True))
    with pytest.raises(ServiceUnavailable):
        deliver(job(data, config), shards)
    assert "garden/_SUCCESS" not in data.names()

    kept, sent, finished = deliver(job(data, config), shards)
    assert kept == "kept gs://x-config/datasets/garden.yaml"
    assert sent < 3
    assert finished
    assert deliver(job(data, config), shards) == (kept, 0, False), "everything is there"


def test_another_content_says_that_it_is_complete_anew(shards: list[Path]) -> None:
    data, config = MemoryObjectStore("x-data"), MemoryObjectStore("x-config")
    deliver(job(data, config), shards)
    first = data.read("garden/_SUCCESS").generation
    shards[0].write_bytes(b"another picture")

    assert deliver(job(data, config, digest="2"), shards)[1:] == (1, True)
    assert data.read("garden/_SUCCESS").generation > first


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("dataset: garden\nlabels: [tulips, roses]\n", "has other labels (tulips, roses) than these pictures"),
        ("dataset: garden\nlabels: [roses, tulips]\ndata: {prefix: garden/clean/}\n", "is not under data.prefix"),
        ("dataset: garden\nlabels: [roses, tulips]\ndata: {features: {label: y}}\n", "reads other features"),
        ("dataset: garden\nlabels: [roses]\n", "correct it, it is never overwritten"),
    ],
)
def test_a_configuration_that_does_not_fit_stops_it_before_a_shard_is_sent(
    shards: list[Path], found: str, says: str
) -> None:
    data, config = MemoryObjectStore("x-data"), MemoryObjectStore("x-config")
    config.put("datasets/garden.yaml", found.encode(), expect=ABSENT)
    with pytest.raises(UnusableSource) as caught:
        deliver(job(data, config), shards)

    assert says in str(caught.value)
    assert data.names() == []
    assert config.read("datasets/garden.yaml").data == found.encode()


def test_shards_of_another_batch_stop_it_and_a_folder_of_its_own_does_not(shards: list[Path]) -> None:
    data, config = MemoryObjectStore("x-data"), MemoryObjectStore("x-config")
    data.put("garden/train-00000-of-00009.tfrecord", b"older", expect=ABSENT)
    with pytest.raises(UnusableSource, match="has other shards already, such as garden/train-00000-of-00009"):
        deliver(job(data, config), shards)

    assert deliver(job(data, config, to="gs://x-data/garden/batch-2/"), shards)[1:] == (3, True)
    assert "garden/batch-2/_SUCCESS" in data.names()
