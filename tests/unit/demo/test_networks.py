"""Other networks in the demo: what becomes of its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualdeploy.contracts import dataset_config
from dualdeploy_demo import networks, source
from dualdeploy_demo.source import DataSource, UnusableFolder


@pytest.fixture
def found() -> DataSource:
    return DataSource({}, source._demo_config(), [], ())


def test_a_network_of_keras_takes_the_place_of_the_demos_own(found: DataSource) -> None:
    other = networks.chosen(found, {"cloud": "keras:Xception", "mobile": ""})
    training = other.config["training"]
    assert training["cloud"]["architecture"] == "keras:Xception"
    assert training["cloud"]["image_size"] == 71
    assert training["mobile"] == found.config["training"]["mobile"]
    assert other.config["gates"]["cloud"]["min_accuracy"] == 0.0
    assert other.config["gates"]["mobile"] == found.config["gates"]["mobile"]
    assert found.config["training"]["cloud"]["architecture"] == "densenet121", "the demo's own is as it was"
    dataset_config.load(_yaml(other), source="flowers.yaml")


def test_a_file_is_kept_for_the_bucket(found: DataSource, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("def build(classes, image_size): ...")
    assert networks.chosen(found, {"mobile": str(file)}).modules == {"mobile": file}


@pytest.mark.parametrize(
    "network", ["keras:Nonesuch", "keras:MobilenetV2", "/nowhere/net.py", "module:gs://b/modules/x.py"]
)
def test_a_network_that_is_none_is_told_before_anything_starts(found: DataSource, network: str) -> None:
    with pytest.raises(UnusableFolder):
        networks.chosen(found, {"cloud": network})


def _yaml(found: DataSource) -> bytes:
    import yaml

    return yaml.safe_dump(found.config).encode()
