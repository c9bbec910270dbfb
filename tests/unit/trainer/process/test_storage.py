"""Fetching and publishing without a cloud: local folders, patience, and names."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dualdeploy.contracts.training import ShardReference
from dualdeploy.errors import ServiceUnavailable
from trainer.process import storage as locations
from trainer.process.failures import UnusableData, UnusableJob, UnwritableOutput
from trainer.process.storage import Patience

IMPATIENT = Patience(0)


def test_local_shards_are_read_in_place_and_keep_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.tfrecord" for number in (2, 0, 1)]
    for path in paths:
        path.touch()
    references = [ShardReference(uri=str(path)) for path in paths]
    shards = locations.fetch_shards(references, tmp_path / "cache", IMPATIENT)
    assert [shard.path for shard in shards] == paths
    assert [shard.name for shard in shards] == [str(path) for path in paths]


def test_a_local_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableData, match=r"gone.tfrecord is not a file"):
        locations.fetch(ShardReference(uri=str(tmp_path / "gone.tfrecord")), tmp_path, IMPATIENT)


def test_a_missing_job_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableJob, match=r"job.json cannot be read"):
        locations.read(str(tmp_path / "job.json"), IMPATIENT)


@pytest.mark.parametrize("location", ["gs://", "gs://bucket", "gs://bucket/", "gs:///name"])
def test_half_a_storage_location_is_refused(location: str) -> None:
    with pytest.raises(UnusableJob, match="must be gs://<bucket>/<name>"):
        locations.split_gs(location)


def test_folders_are_published_with_their_structure_and_replace_what_was_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "variables").mkdir(parents=True)
    (source / "saved_model.pb").write_bytes(b"new")
    (source / "variables" / "variables.index").write_bytes(b"index")
    target.mkdir()
    (target / "saved_model.pb").write_bytes(b"old and longer")
    locations.publish_folders({source: f"{target}/"}, IMPATIENT)
    assert (target / "saved_model.pb").read_bytes() == b"new"
    assert (target / "variables" / "variables.index").read_bytes() == b"index"
    assert sorted(path.name for path in target.rglob("*")) == ["saved_model.pb", "variables", "variables.index"]


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableOutput, match=r"file/out/result.json cannot be written"):
        locations.write(str(tmp_path / "file" / "out" / "result.json"), lambda: b"{}", IMPATIENT)


def test_what_fails_temporarily_is_repeated_after_a_pause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The library's own sleep: what it decides is looked at, not waited for.
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    outcomes = iter([ServiceUnavailable("503"), ServiceUnavailable("503"), ServiceUnavailable("503"), None])

    def attempt() -> str:
        if error := next(outcomes):
            raise error
        return "done"

    assert Patience(300).call("uploading", attempt) == "done"
    assert len(pauses) == 3
    assert all(0 <= pause <= 20 for pause in pauses)
    assert caplog.text.count("uploading: 503; trying again") == 3


def test_patience_ends_with_the_error_itself() -> None:
    calls: list[int] = []

    def attempt() -> None:
        calls.append(1)
        raise ServiceUnavailable("503")

    with pytest.raises(ServiceUnavailable):
        Patience(0).call("uploading", attempt)
    assert len(calls) == 1


def test_what_can_never_succeed_is_not_repeated() -> None:
    calls: list[int] = []

    def attempt() -> None:
        calls.append(1)
        raise UnusableData("no")

    with pytest.raises(UnusableData):
        Patience(300).call("fetching", attempt)
    assert len(calls) == 1


def test_what_may_be_absent_is_read_or_none(tmp_path: Path) -> None:
    path = tmp_path / "last.npz"
    assert locations.read_if_present(str(path), IMPATIENT) is None
    assert locations.read_if_present(str(path / "below a file that is not there"), IMPATIENT) is None
    path.write_bytes(b"state")
    assert locations.read_if_present(str(path), IMPATIENT) == b"state"


def test_removing_is_done_once_and_repeating_it_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "last.npz"
    path.write_bytes(b"state")
    for _ in range(2):
        locations.remove(str(path), IMPATIENT)
        assert not path.exists()


def test_a_local_folder_is_used_where_it_is(tmp_path: Path) -> None:
    assert locations.fetch_folder(str(tmp_path), tmp_path / "copy", IMPATIENT) == tmp_path
    with pytest.raises(UnusableData, match="is not a folder"):
        locations.fetch_folder(str(tmp_path / "nowhere"), tmp_path / "copy", IMPATIENT)
