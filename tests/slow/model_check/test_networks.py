"""Networks of keras.applications: each gets the pixels it expects, and one of each kind goes the whole way."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import numpy as np
import pytest

from dualdeploy.contracts.architectures import KERAS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]


def _factories() -> dict[str, Any]:
    import keras

    found = vars(keras.applications).items()
    return {name: each for name, each in found if inspect.isfunction(each) and name[0].isupper()}


def test_the_table_has_every_network_of_keras() -> None:
    assert sorted(KERAS) == sorted(_factories())


def test_every_network_gets_its_pixels_as_keras_itself_would_prepare_them() -> None:
    import keras

    from trainer import architectures

    pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 3, 3)).astype(np.float32)
    source = keras.Input((3, 3, 3))
    scaled = {
        scaling: keras.Model(source, architectures.scaled(source, scaling))(pixels).numpy()  # type: ignore[arg-type]
        for scaling in {network.scaling for network in KERAS.values()}
    }
    for name, factory in _factories().items():
        prepared = sys.modules[factory.__module__].preprocess_input(pixels.copy())
        np.testing.assert_allclose(scaled[KERAS[name].scaling], prepared, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("name", "variants"),
    # Pixels from -1 to 1, and blue first; `torch` and `inside` go the whole way in the end-to-end test.
    [("MobileNetV2", ["float32", "int8"]), ("VGG16", ["float32"])],
)
def test_a_network_of_each_kind_goes_the_whole_way(name: str, variants: list[Any]) -> None:
    from model_check import stages

    told: list[str] = []
    asked = stages.Asked(f"keras:{name}", classes=3, image_size=32, variants=variants)
    found = stages.take(asked, lambda stage, _seconds, _what: told.append(stage))
    assert told[:5] == ["build", "learn", "operators", "export", "serve"]
    assert set(found.milliseconds) == set(variants)
    assert found.millions == pytest.approx(KERAS[name].millions, abs=0.06)


def test_networks_inside_a_network_are_layers_like_others() -> None:
    import keras

    from trainer import architectures

    inner = keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()], name="inner")
    source = keras.Input((4,))
    base = keras.Model(source, keras.layers.Dense(4, name="last")(inner(source)))
    network = architectures.Network(base, base, pretrained=True)
    assert [type(layer).__name__ for layer in network.layers] == [
        "InputLayer",
        "Dense",
        "BatchNormalization",
        "Dense",
    ]
