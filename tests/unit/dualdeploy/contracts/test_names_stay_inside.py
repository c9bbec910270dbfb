"""Whatever a name says, it names nothing outside its place: no other object of a bucket, no other file of a machine."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualdeploy import local_paths
from dualdeploy.contracts import dataset_config, events, training
from dualdeploy.contracts.events import TrainingCompleted
from dualdeploy.errors import CannotEverSucceed, InvalidDatasetConfig, MalformedEvent, UnknownDataset, UnknownRun
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import Ledger
from dualdeploy.ledger.standing import standing
from local_cloud.storage.blobs import Blobs
from local_cloud.vertex.gcs_mount import GcsMount, MountFailed
from mobile_publisher.export import download_tree
from predictor import artifact
from support.chain import SERVICE_OF, Chain
from support.fakes import ManualClock, MemoryObjectStore
from trainer.process import storage as locations
from trainer.process.storage import Patience

#: What somebody might send in place of a data set's name or a run's id.
HOSTILE = (
    "",
    ".",
    "..",
    "../../live/flowers",
    "flowers/../../live",
    "flowers-0123456789ab/../flowers-ba9876543210",
    "flowers-0123456789ab/cloud.json#",
    "/flowers-0123456789ab",
    "flowers-0123456789ab\n",
    "flowers-0123456789ab\0",
    "Flowers-0123456789ab",
    "flowers-0123456789AB",
    "flowers%2f..%2flive",
    "flöwers-0123456789ab",
    "flowers-٠١٢٣٤٥٦٧٨٩٠١",
    "f" * 300,
)


# Object names ------------------------------------------------------------------------------------------------------


class Untouched(MemoryObjectStore):
    """A bucket that nothing may be asked of."""

    def read(self, name: str) -> Any:
        raise AssertionError(f"{name!r} was read")

    def put(self, name: str, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"{name!r} was written")


@pytest.fixture(scope="module")
def chain() -> Chain:
    """One project for all of them: each shows that nothing came of it."""
    return Chain()


@pytest.fixture
def untouched() -> Ledger:
    return Ledger(Untouched("ledger", clock=ManualClock()))


@pytest.mark.parametrize("run_id", HOSTILE)
def test_the_ledger_makes_no_object_s_name_of_what_is_not_a_run_id(untouched: Ledger, run_id: str) -> None:
    for read in (
        lambda: untouched.read_run(run_id),
        lambda: untouched.read_launch(run_id, "cloud"),
        lambda: untouched.find_ended(run_id, "cloud", 1),
        lambda: untouched.newest_release_number(run_id, "cloud"),
        lambda: standing(untouched, run_id, "cloud"),
    ):
        with pytest.raises(UnknownRun, match="is not a run id"):
            read()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run_id=st.text() | st.from_regex(r"[a-z0-9./-]{1,40}"))
def test_a_run_is_read_from_its_own_folder_or_not_at_all(run_id: str) -> None:
    asked: list[str] = []

    class Asked(MemoryObjectStore):
        def read(self, name: str) -> Any:
            asked.append(name)
            return super().read(name)

    with pytest.raises(UnknownRun):
        Ledger(Asked("ledger", clock=ManualClock())).read_run(run_id)
    assert all(name.count("/") == 2 and name.startswith("runs/") and name.endswith("/run.json") for name in asked)


@pytest.mark.parametrize("run_id", HOSTILE[1:])
def test_a_message_that_names_no_run_is_refused_before_anything_is_read(chain: Chain, run_id: str) -> None:
    for target in training.TARGETS:
        event = TrainingCompleted(run_id=run_id, dataset="flowers", target=target, outcome="succeeded")
        with pytest.raises(CannotEverSucceed):
            chain.event(SERVICE_OF[target], "training-completed", events.encode(event)).handle()
    # With another number of folders it is not a result's name at all, and passed over.
    outcome = ""
    with contextlib.suppress(CannotEverSucceed):
        outcome = chain.result_hint(run_id, "cloud").handle().kind
    assert outcome in ("", "ignored")
    assert list(chain.ledger_store.list("")) == []


@pytest.mark.parametrize("dataset", HOSTILE)
def test_a_data_set_s_configuration_is_looked_for_only_under_a_data_set_s_name(chain: Chain, dataset: str) -> None:
    with pytest.raises(UnknownDataset):
        config_bucket.read(Untouched("config"), dataset)
    with pytest.raises(UnknownDataset if dataset else MalformedEvent):
        chain.retrain(dataset=dataset).handle()


@pytest.mark.parametrize("folder", [name for name in HOSTILE if name and "/" not in name])
def test_a_shard_in_a_folder_that_is_not_a_data_set_leaves_nothing_in_the_ledger(chain: Chain, folder: str) -> None:
    with pytest.raises(UnknownDataset):
        chain.finalized(f"{folder}/a.tfrecord").handle()
    assert list(chain.ledger_store.list("")) == []


def asked_over_http(name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "POST", "/redeploy", {"run_id": name}
    yield "POST", "/redeploy", {"dataset": name}
    yield "POST", "/rollback", {"dataset": name}
    yield "POST", "/rollback", {"dataset": "flowers", "to_run": name}
    for command in ("abort", "hold", "resume", "retire"):
        yield "POST", f"/{command}", {"dataset": name}


@pytest.mark.parametrize("name", HOSTILE[1:])
@pytest.mark.parametrize("target", training.TARGETS)
def test_the_http_interface_takes_no_other_name(chain: Chain, target: str, name: str) -> None:
    client = chain.http(target)
    for method, path, body in asked_over_http(name):
        assert client.open(path, method=method, json=body).status_code == 422, (path, body)
    for path in ("/status/", "/runs/"):
        quoted = path + "".join(f"%{byte:02x}" for byte in name.encode())
        # 308: Werkzeug takes two slashes for one.
        assert client.get(quoted).status_code in (404, 308)
    assert list(chain.ledger_store.list("")) == []


@pytest.mark.parametrize(
    "prefix",
    [
        "flowers/../birds/",
        "flowers/./",
        "flowers//",
        "flowers/../",
        "flowers/a//b/",
        "/flowers/",
        "../flowers/",
        "flowers",
    ],
)
def test_shards_lie_below_the_data_set_s_own_folder(prefix: str) -> None:
    document = {"dataset": "flowers", "labels": ["a", "b"], "data": {"prefix": prefix}}
    with pytest.raises(InvalidDatasetConfig, match="data: prefix must"):
        dataset_config.parse(json.dumps(document), source="test")


@pytest.mark.parametrize("name", ["../flowers", "a/b", "a.b", "", " ", "a\n", "é", "f" * 33])
def test_a_published_name_is_one_folder(name: str) -> None:
    document = {"dataset": "flowers", "labels": ["a", "b"], "publishing": {"name": name}}
    with pytest.raises(InvalidDatasetConfig, match=r"publishing.name: "):
        dataset_config.parse(json.dumps(document), source="test")


# Files -------------------------------------------------------------------------------------------------------------

#: Object names that Cloud Storage takes, and what they would be as paths.
LEAVING = ("../outside", "a/../../outside", "/etc/passwd", "//etc/passwd", "..", "a/..", "a\0b")


@pytest.mark.parametrize("name", [*LEAVING, "", "."])
def test_a_name_that_leaves_its_folder_makes_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(local_paths.LeavesItsFolder):
        local_paths.inside(tmp_path, name)


@given(name=st.text() | st.from_regex(r"[a./]{1,12}"))
def test_every_path_that_is_made_of_a_name_lies_below_its_folder(name: str) -> None:
    folder = Path("/somewhere/folder")
    try:
        path = local_paths.inside(folder, name)
    except local_paths.LeavesItsFolder:
        return
    assert path != folder
    assert path.resolve().is_relative_to(folder)


@pytest.mark.parametrize("name", [name for name in LEAVING if "\0" not in name])
def test_a_model_s_objects_are_fetched_into_its_folder_or_not_at_all(tmp_path: Path, name: str) -> None:
    store = MemoryObjectStore("models")
    store.put("model/saved_model.pb", b"x", expect=ABSENT)
    store.put(f"model/{name}", b"x", expect=ABSENT)

    with pytest.raises(local_paths.LeavesItsFolder):
        download_tree(store, "model", tmp_path / "publisher")
    with pytest.raises(artifact.ModelMissing, match="outside"):
        artifact.download(store, "model", tmp_path / "predictor")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"saved_model.pb"}


@pytest.mark.parametrize("name", LEAVING)
def test_the_trainer_fetches_a_model_into_its_folder_or_not_at_all(tmp_path: Path, name: str) -> None:
    store = MemoryObjectStore("models")
    store.put(f"model/{name}", b"x", expect=ABSENT)

    with pytest.raises(local_paths.LeavesItsFolder):
        locations.fetch_folder("gs://models/model", tmp_path / "trainer", Patience(0), bucket_of=lambda _: store)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("name", ["..", "/", "é" * 500, "x" * 1000 + ".tfrecord", "a\0b.tfrecord", "a\\b.tfrecord"])
def test_a_shard_becomes_a_file_of_the_cache_whatever_its_name(tmp_path: Path, name: str) -> None:
    store = MemoryObjectStore("data")
    store.put(f"flowers/{name}", b"bytes", expect=ABSENT)

    shard = training.ShardReference(uri=f"gs://data/flowers/{name}")
    path = locations.fetch(shard, tmp_path, Patience(0), bucket_of=lambda _: store)

    assert path.parent == tmp_path
    assert path.read_bytes() == b"bytes"


@pytest.mark.parametrize("name", LEAVING[:6])
def test_the_local_cloud_mounts_no_bucket_outside_its_folder(tmp_path: Path, name: str) -> None:
    mount = GcsMount(tmp_path / "jobs" / "gcs", storage_address="127.0.0.1:9")
    mount.map(f"--data=/gcs/bucket/{name}")
    with pytest.raises(MountFailed):
        mount.download()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "jobs" / "outside").exists()


def test_the_local_cloud_keeps_an_object_in_a_file_that_is_not_named_after_it(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    content = blobs.write([b"bytes"])
    assert base64.b64decode(content.crc32c)
    assert [path.name for path in tmp_path.iterdir()] == [content.blob]
    assert len(content.blob) == 32
