"""Names of AutoML's things."""

from __future__ import annotations

import re

import pytest

from dualdeploy.contracts import automl
from dualdeploy.contracts.dataset_name import DATASET_NAME


@pytest.mark.parametrize("dataset", ["a", "flowers", "a" * 39])
@pytest.mark.parametrize("target", ["cloud", "mobile"])
def test_the_id_of_a_model_is_one_that_vertex_ai_takes_and_no_other_data_set_has(dataset: str, target: str) -> None:
    found = automl.model_id(dataset, target)
    assert re.fullmatch(r"[a-z_][a-z0-9_-]{0,62}", found)
    assert not DATASET_NAME.fullmatch(found.removeprefix("dualdeploy-"))
