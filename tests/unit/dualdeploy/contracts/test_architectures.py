"""Which networks a data set may ask for, and the sentence that says what to write instead."""

from __future__ import annotations

import json

import pytest

from dualdeploy.contracts import architectures, dataset_config
from dualdeploy.errors import InvalidDatasetConfig


def config(**cloud: object) -> dataset_config.DatasetConfig:
    document = {"dataset": "flowers", "labels": ["a", "b"], "training": {"cloud": cloud}}
    return dataset_config.parse(json.dumps(document), source="flowers.yaml")


@pytest.mark.parametrize("name", architectures.KERAS)
def test_every_network_can_be_asked_for_from_scratch_at_its_least_size(name: str) -> None:
    least = architectures.KERAS[name].least_px
    asked = config(architecture=f"keras:{name}", weights="none", image_size=least).training.cloud
    assert asked.architecture == f"keras:{name}"


@pytest.mark.parametrize(("short", "name"), architectures.SHORT.items())
def test_a_short_name_is_a_network_of_keras(short: str, name: str) -> None:
    assert architectures.published(short) is architectures.published(f"keras:{name}")


def test_what_phones_are_told_does_not_say_where_the_file_lies() -> None:
    assert architectures.public("module:gs://my-project-config/modules/tulips/net.py") == "module:net.py"
    assert architectures.public("keras:MobileNetV2") == "keras:MobileNetV2"


@pytest.mark.parametrize(
    ("asked", "where", "instead"),
    [
        ({"architecture": "resnet50"}, "training.cloud.architecture", "write keras:ResNet50,"),
        ({"architecture": "keras:MobilenetV2"}, "training.cloud.architecture", "write keras:MobileNetV2,"),
        ({"architecture": "keras:efficientnet_v2_b0"}, "training.cloud.architecture", "write keras:EfficientNetV2B0,"),
        ({"architecture": "MobileNetV2"}, "training.cloud.architecture", "write keras:MobileNetV2,"),
        ({"architecture": "keras:"}, "training.cloud.architecture", "write keras:EfficientNetV2B0,"),
        ({"architecture": "keras:densenet121"}, "training.cloud.architecture", "write keras:DenseNet121,"),
        ({"architecture": ""}, "training.cloud.architecture", "must be one of densenet121,"),
        ({"architecture": "keras:EfficientNetB0"}, "training.cloud", "write architecture: keras:EfficientNetV2B0, or"),
        (
            {"architecture": "keras:EfficientNetB7", "weights": "gs://b/w.weights.h5"},
            "training.cloud",
            "or weights: none",
        ),
        ({"architecture": "keras:Xception", "image_size": 64}, "training.cloud", "write image_size: 71"),
        ({"architecture": "keras:InceptionV3", "image_size": 74}, "training.cloud", "write image_size: 75"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_to_write_instead(
    asked: dict[str, object], where: str, instead: str
) -> None:
    with pytest.raises(InvalidDatasetConfig) as refused:
        config(**asked)
    assert f"{where}: " in str(refused.value)
    assert instead in str(refused.value)
