"""Networks that people wrote: pinned and parsed by the launcher, and never run there."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import pytest

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.errors import InvalidDatasetConfig
from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import Run
from support.chain import WHOLE, Chain
from support.fakes import MemoryObjectStore
from training_launcher import job_spec, modules

SOURCE = b"import sys\nsys.modules['it_was_run'] = sys\ndef build(classes, image_size):\n    return None\n"
LOCATION = "gs://config/modules/tulips/net.py"


def config(location: str = LOCATION, **more: Any) -> DatasetConfig:
    cloud = {"architecture": f"module:{location}", "weights": "none", **more}
    document = {"dataset": "flowers", "labels": ["a", "b"], "training": {"cloud": cloud}}
    return dataset_config.parse(json.dumps(document), source="flowers.yaml")


@pytest.fixture
def store() -> MemoryObjectStore:
    store = MemoryObjectStore("config")
    store.put("modules/tulips/net.py", SOURCE, expect=ABSENT)
    return store


def test_the_version_that_is_there_is_pinned_and_not_run(store: MemoryObjectStore) -> None:
    pinned = modules.pinned(config(), store)
    assert list(pinned) == ["cloud"]
    assert pinned["cloud"].uri == LOCATION
    assert pinned["cloud"].generation == str(store.read("modules/tulips/net.py").generation)
    assert pinned["cloud"].sha256 == hashlib.sha256(SOURCE).hexdigest()
    assert "it_was_run" not in sys.modules


def test_the_job_is_told_the_version_that_stands_in_the_run(store: MemoryObjectStore) -> None:
    pinned = modules.pinned(config(), store)
    run = Run.model_validate(
        {
            "run_id": "flowers-0123456789ab",
            "dataset": "flowers",
            "created_at": "2026-11-28T00:00:00.000Z",
            "reason": "",
            "snapshot": {"bucket": "data", "prefix": "flowers/", "shards": []},
            "config": config().model_dump(mode="json"),
            "claim": "",
            "modules": {target: module.model_dump() for target, module in pinned.items()},
        }
    )
    assert job_spec.training_job(run, "cloud", models_bucket="models").module == pinned["cloud"]
    assert job_spec.training_job(run, "mobile", models_bucket="models").module is None


def test_a_network_of_keras_pins_nothing(store: MemoryObjectStore) -> None:
    plain = dataset_config.parse('{"dataset": "flowers", "labels": ["a", "b"]}', source="flowers.yaml")
    assert modules.pinned(plain, store) == {}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"def build(classes, image_size)\n    pass\n", "it is not Python: line 1: expected ':'"),
        (b"x = 1\n", "it defines no function `build"),
        (b"class build: pass\n", "it defines no function"),
        (b"def other():\n    def build(): pass\n", "it defines no function"),
        (b"\x00", "it is not Python"),
        (b"# coding: nonsense\ndef build(a, b): pass\n", "it is not Python"),
        (b"\xff\xfe", "it is not Python"),
        (b"def build(a, b): return " + b"(" * 5000 + b")" * 5000, "it is (not Python|nested too deeply)"),
        (b"#" * (modules.MOST_BYTES + 1), f"a module has at most {modules.MOST_BYTES}"),
        (None, "there is no such object: upload the file"),
    ],
)
def test_a_file_that_builds_nothing_costs_nothing(store: MemoryObjectStore, source: bytes | None, says: str) -> None:
    store.delete("modules/tulips/net.py", expect=store.read("modules/tulips/net.py").generation)
    if source is not None:
        store.put("modules/tulips/net.py", source, expect=ABSENT)
    with pytest.raises(InvalidDatasetConfig, match=says) as refused:
        modules.pinned(config(), store)
    assert f"training.cloud.architecture: module:{LOCATION}" in str(refused.value)


def test_a_module_of_another_bucket_is_refused_with_where_to_put_it(store: MemoryObjectStore) -> None:
    with pytest.raises(InvalidDatasetConfig, match="put the file below gs://config/modules/"):
        modules.pinned(config("gs://elsewhere/modules/net.py"), store)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("gs://config/datasets/net.py", "must name a file below modules/"),
        ("gs://config/modules/../datasets/net.py", "must name a file below modules/"),
        ("gs://config/modules//net.py", "must name a file below modules/"),
        ("/etc/net.py", "must name a file below modules/"),
        ("gs://config/modules/net", "must name a file of Python"),
    ],
)
def test_a_location_that_is_none_is_refused_when_the_configuration_is_read(location: str, says: str) -> None:
    with pytest.raises(InvalidDatasetConfig, match=says):
        config(location)


def test_published_weights_of_ones_own_network_are_refused() -> None:
    with pytest.raises(InvalidDatasetConfig, match="write weights: none, or gs://"):
        config(weights="imagenet")


def test_a_run_keeps_the_version_that_was_there_when_it_was_claimed() -> None:
    chain = Chain()
    chain.config.put("modules/net.py", SOURCE, expect=ABSENT)
    first = chain.config.read("modules/net.py").generation
    architecture = "module:gs://config/modules/net.py"
    chain.configure(data={"quiet_period": 60}, training={"cloud": {"architecture": architecture, "weights": "none"}})
    chain.upload(*WHOLE)
    chain.settle()
    chain.config.put("modules/net.py", SOURCE + b"# newer\n", expect=first)
    (run_id,) = chain.run_ids()
    job = json.loads(chain.models.read(f"runs/{run_id}/cloud/job.json").data)
    assert job["module"] == {
        "uri": "gs://config/modules/net.py",
        "generation": str(first),
        "sha256": hashlib.sha256(SOURCE).hexdigest(),
    }
    assert "it_was_run" not in sys.modules


def test_a_module_that_is_not_there_begins_no_run_and_says_why() -> None:
    chain = Chain()
    architecture = "module:gs://config/modules/net.py"
    chain.configure(data={"quiet_period": 60}, training={"cloud": {"architecture": architecture, "weights": "none"}})
    chain.upload(*WHOLE)
    chain.settle()
    assert chain.run_ids() == []
    refused = [chain.ledger.store.read(found.name).data for found in chain.ledger.store.list("rejected/")]
    assert any(b"there is no such object: upload the file" in document for document in refused)
