"""The networks that a data set may ask for: those of keras.applications, with what each needs, and people's own.

Keras' networks expect their pixels in one of four ways, and a wrong one raises no error: the published weights are then
worth little. A test holds this table against the `preprocess_input` of each (tests/slow/trainer/test_networks.py).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Literal

#: What is done to pixels of 0..255 before the network: nothing, to -1..1, ImageNet's mean and deviation of each colour,
#: or blue first and ImageNet's mean subtracted.
Scaling = Literal["inside", "unit", "torch", "caffe"]


@dataclasses.dataclass(frozen=True)
class Published:
    """A network of keras.applications: its class there, what it expects, and its size without the top."""

    name: str
    scaling: Scaling
    millions: float
    least_px: int = 32
    #: Keras adds a layer with its own weights that it leaves out without them: two networks by one name.
    #: Source: keras/src/applications/efficientnet.py (`if weights == "imagenet"`: a Rescaling), and
    #: https://github.com/tensorflow/tensorflow/issues/62193
    two_networks: bool = False


KERAS: Mapping[str, Published] = {
    network.name: network
    for network in (
        Published("ConvNeXtTiny", "inside", 27.8),
        Published("ConvNeXtSmall", "inside", 49.5),
        Published("ConvNeXtBase", "inside", 87.6),
        Published("ConvNeXtLarge", "inside", 196.2),
        Published("ConvNeXtXLarge", "inside", 348.1),
        Published("DenseNet121", "torch", 7.0),
        Published("DenseNet169", "torch", 12.6),
        Published("DenseNet201", "torch", 18.3),
        Published("EfficientNetB0", "inside", 4.0, two_networks=True),
        Published("EfficientNetB1", "inside", 6.6, two_networks=True),
        Published("EfficientNetB2", "inside", 7.8, two_networks=True),
        Published("EfficientNetB3", "inside", 10.8, two_networks=True),
        Published("EfficientNetB4", "inside", 17.7, two_networks=True),
        Published("EfficientNetB5", "inside", 28.5, two_networks=True),
        Published("EfficientNetB6", "inside", 41.0, two_networks=True),
        Published("EfficientNetB7", "inside", 64.1, two_networks=True),
        Published("EfficientNetV2B0", "inside", 5.9),
        Published("EfficientNetV2B1", "inside", 6.9),
        Published("EfficientNetV2B2", "inside", 8.8),
        Published("EfficientNetV2B3", "inside", 12.9),
        Published("EfficientNetV2S", "inside", 20.3),
        Published("EfficientNetV2M", "inside", 53.2),
        Published("EfficientNetV2L", "inside", 117.7),
        Published("InceptionResNetV2", "unit", 54.3, least_px=75),
        Published("InceptionV3", "unit", 21.8, least_px=75),
        Published("MobileNet", "unit", 3.2),
        Published("MobileNetV2", "unit", 2.3),
        Published("MobileNetV3Large", "inside", 3.0),
        Published("MobileNetV3Small", "inside", 0.9),
        Published("NASNetLarge", "unit", 84.9),
        Published("NASNetMobile", "unit", 4.3),
        Published("ResNet50", "caffe", 23.6),
        Published("ResNet101", "caffe", 42.7),
        Published("ResNet152", "caffe", 58.4),
        Published("ResNet50V2", "unit", 23.6),
        Published("ResNet101V2", "unit", 42.6),
        Published("ResNet152V2", "unit", 58.3),
        Published("VGG16", "caffe", 14.7),
        Published("VGG19", "caffe", 20.0),
        Published("Xception", "unit", 20.9, least_px=71),
    )
}

#: Short names of the networks that were there first.
SHORT: Mapping[str, str] = {
    "densenet121": "DenseNet121",
    "mobilenet_v3_small": "MobileNetV3Small",
    "mobilenet_v3_large": "MobileNetV3Large",
}

_PREFIX, _MODULE = "keras:", "module:"


def published(architecture: str) -> Published | None:
    """The network of keras.applications that `architecture` names; None when it names none."""
    name = architecture.removeprefix(_PREFIX) if architecture.startswith(_PREFIX) else SHORT.get(architecture, "")
    return KERAS.get(name)


def module_of(architecture: str) -> str:
    """Where the file lies that builds this network: a network of somebody's own; empty for one of Keras."""
    return architecture.removeprefix(_MODULE) if architecture.startswith(_MODULE) else ""


def public(architecture: str) -> str:
    """The same for everybody to read: the name of a file of somebody's own, and not where it lies."""
    location = module_of(architecture)
    return f"{_MODULE}{location.rsplit('/', 1)[-1]}" if location else architecture


def unknown(architecture: str) -> str:
    """Why `architecture` names no network that can be trained, with what to write instead; empty when it does."""
    if published(architecture):
        return ""
    if architecture.startswith(_MODULE):
        if architecture.endswith(".py"):
            return ""
        return f"must name a file of Python, not {architecture!r}: write {_MODULE}gs://CONFIG/modules/my_network.py"
    wanted = re.sub(r"[^a-z0-9]", "", architecture.removeprefix(_PREFIX).lower())
    known = {name.lower(): name for name in KERAS}
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.6)
    example = f"{_PREFIX}{known[near[0]]}" if near else f"{_PREFIX}EfficientNetV2B0"
    return (
        f"must be one of {', '.join(SHORT)}, a network of keras.applications as {_PREFIX}<Name>, or a network of your "
        f"own as {_MODULE}gs://…, not {architecture!r}: write {example}, for instance"
    )


def misused(architecture: str, *, weights: str, image_size: int, fits_head: bool = False) -> str:
    """Why this network cannot be trained in this way, with what to write instead; `fits_head`: on features."""
    if module_of(architecture) and fits_head:
        return "a network of your own has a head of its own, which cannot be fitted: write recipe.head: steps"
    if module_of(architecture) and weights == "imagenet":
        return (
            "there are no published weights of a network of your own: write weights: none, or gs://… of a file of yours"
        )
    network = published(architecture)
    if network is None:
        return ""
    if network.two_networks and weights != "none":
        return (
            f"{network.name} with Keras' weights is another network than without (it scales its pixels once more): "
            f"write architecture: {_PREFIX}EfficientNetV2B0, or weights: none"
        )
    if image_size < network.least_px:
        return f"{network.name} needs pictures of at least {network.least_px} px: write image_size: {network.least_px}"
    return ""
