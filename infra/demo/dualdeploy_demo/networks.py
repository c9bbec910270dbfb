"""Other networks than the demo's own: of Keras by name, or of somebody's file, which goes into the bucket for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualdeploy.contracts import architectures
from dualdeploy_demo.source import DataSource, UnusableFolder


def chosen(found: DataSource, networks: Mapping[str, str]) -> DataSource:
    """The same data, with `networks` by target where one is named; how accurate those are is reported, not judged.

    Raises UnusableFolder for a name that is none and a file that cannot be read.
    """
    config = found.config
    modules: dict[str, Path] = {}
    for target, network in networks.items():
        if not network:
            continue
        section: dict[str, Any] = {**config["training"][target]}
        if network.endswith(".py"):
            modules[target] = Path(network)
            if not modules[target].is_file():
                raise UnusableFolder(f"{network} is not a file: name one with build(classes, image_size)")
        else:
            section["architecture"] = _known(network)
            least = architectures.KERAS[_name(network)].least_px
            section["image_size"] = max(section["image_size"], least)
        config = {**config, "training": {**config["training"], target: section}}
        gate = {**config["gates"][target], "min_accuracy": 0.0} | ({"max_size_mb": 1000} if target == "mobile" else {})
        config = {**config, "gates": {**config["gates"], target: gate}}
    return dataclasses.replace(found, config=config, modules=modules)


def _known(network: str) -> str:
    if fault := architectures.unknown(network):
        raise UnusableFolder(f"{network} {fault}")
    return network


def _name(network: str) -> str:
    known = architectures.published(network)
    if known is None:
        raise UnusableFolder(f"{network} is a file of a bucket: name the file on this machine instead")
    return known.name
