"""The model's folder arrives whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualdeploy.google.object_store import ABSENT, ObjectMissing
from predictor import artifact
from predictor.artifact import DamagedDownload, ModelMissing
from support.fakes.object_store import MemoryObjectStore


class CorruptingStore(MemoryObjectStore):
    """Lists the right checksum and delivers other bytes, as a broken proxy would."""

    def open(self, name, *, generation):  # type: ignore[no-untyped-def]
        stream = super().open(name, generation=generation)
        data = bytearray(stream.read())
        data[0] ^= 1
        return type(stream)(bytes(data))


class ReplacingStore(MemoryObjectStore):
    """Every object is replaced between the listing and the download."""

    def open(self, name, *, generation):  # type: ignore[no-untyped-def]
        self.put(name, b"the next model", expect=generation)
        return super().open(name, generation=generation)


def fill(store: MemoryObjectStore) -> MemoryObjectStore:
    for name in ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"):
        store.put(f"runs/r/cloud/model/{name}", name.encode() * 1000, expect=ABSENT)
    store.put("runs/r/cloud/model/", b"", expect=ABSENT)
    store.put("runs/r/cloud/model-other/saved_model.pb", b"another", expect=ABSENT)
    return store


@pytest.mark.parametrize("prefix", ["runs/r/cloud/model", "runs/r/cloud/model/"])
def test_every_object_below_the_folder_is_copied_and_no_other(prefix: str, tmp_path: Path) -> None:
    artifact.download(fill(MemoryObjectStore()), prefix, tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"}
    assert (tmp_path / "saved_model.pb").read_bytes() == b"saved_model.pb" * 1000


def test_bytes_with_another_checksum_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedDownload, match="another checksum"):
        artifact.download(fill(CorruptingStore()), "runs/r/cloud/model", tmp_path)


def test_a_model_that_is_replaced_meanwhile_is_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        artifact.download(fill(ReplacingStore()), "runs/r/cloud/model", tmp_path)


def test_a_name_that_points_outside_is_refused(tmp_path: Path) -> None:
    store = MemoryObjectStore()
    store.put("model/../../evil", b"x", expect=ABSENT)
    with pytest.raises(ModelMissing, match="outside"):
        artifact.download(store, "model", tmp_path / "model")
    assert not (tmp_path.parent / "evil").exists()


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    assert artifact.fetch(str(tmp_path), tmp_path / "scratch") == tmp_path


def test_a_folder_without_a_model_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="AIP_STORAGE_URI must name"):
        artifact.fetch(str(tmp_path / "nothing"), tmp_path)
