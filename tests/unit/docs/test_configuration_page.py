"""docs/configuration.md names every key and every variable that exists, with the defaults that the code has."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

from dualdeploy import settings
from dualdeploy.contracts.dataset_config import DatasetConfig

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "configuration.md").read_text(encoding="utf-8")
SETTINGS = {
    "training_launcher": "LauncherSettings",
    "job_notifier": "NotifierSettings",
    "cloud_deployer": "DeployerSettings",
    "mobile_publisher": "PublisherSettings",
}


def keys(model: type[pydantic.BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        # Both targets have the same keys; the page writes <target> for either.
        shown = "<target>" if path == "training" and name in ("cloud", "mobile") else name
        full = f"{path}.{shown}".lstrip(".")
        kind: Any = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)
        yield from keys(kind, full) if nested else [full]


@pytest.mark.parametrize("key", sorted(set(keys(DatasetConfig))))
def test_every_key_of_a_data_set_is_explained(key: str) -> None:
    assert f"| `{key}` |" in PAGE


def test_the_page_explains_no_key_that_does_not_exist() -> None:
    explained = set(re.findall(r"^\| `([a-z_.<>]+)` \|", PAGE, flags=re.MULTILINE))
    known = set(keys(DatasetConfig))
    sections = {key.rpartition(".")[0] for key in known}
    assert explained <= known | sections


@pytest.mark.parametrize("service", SETTINGS)
def test_every_environment_variable_of_a_service_is_explained(service: str) -> None:
    kind = getattr(importlib.import_module(f"{service}.settings"), SETTINGS[service])
    missing = [variable for variable in settings.variables(kind) if f"`{variable}`" not in PAGE]
    assert missing == []
