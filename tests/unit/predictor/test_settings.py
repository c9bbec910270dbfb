"""What the environment may say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dualdeploy import settings
from dualdeploy.settings import WrongSettings
from predictor.settings import PredictorSettings, quota


def test_vertex_ais_names_are_read_and_the_rest_has_defaults() -> None:
    environ = {
        "AIP_STORAGE_URI": "gs://bucket/model",
        "AIP_HTTP_PORT": "7080",
        "AIP_HEALTH_ROUTE": "/h",
        "AIP_PREDICT_ROUTE": "/p",
        "MODEL_VERSION": "3",
    }
    read = settings.load(PredictorSettings, environ)
    assert (read.storage_uri, read.port, read.health_route, read.predict_route) == (
        "gs://bucket/model",
        7080,
        "/h",
        "/p",
    )
    assert read.model_version == "3"
    assert read.max_request_bytes == 10 * 1024 * 1024


def test_what_vertex_ai_leaves_out_is_its_documented_default() -> None:
    read = settings.load(PredictorSettings, {"AIP_STORAGE_URI": "/m"})
    assert (read.port, read.health_route, read.predict_route) == (8080, "/health", "/predict")


def test_every_fault_is_reported_together() -> None:
    with pytest.raises(WrongSettings, match=r"(?s)AIP_STORAGE_URI is not set.*AIP_HTTP_PORT='http'"):
        settings.load(PredictorSettings, {"AIP_HTTP_PORT": "http"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PREDICTOR_MAX_BATCH", "0"),
        ("PREDICTOR_MAX_INSTANCES", "-1"),
        ("PREDICTOR_MAX_IN_FLIGHT", "-1"),
        ("PREDICTOR_MAX_WAIT", "-0.1"),
        ("PREDICTOR_LOAD_TIMEOUT", "0"),
        ("AIP_HTTP_PORT", "0"),
        ("AIP_HEALTH_ROUTE", "h"),
    ],
)
def test_values_that_cannot_work_are_refused_by_the_name_of_the_variable(variable: str, value: str) -> None:
    with pytest.raises(WrongSettings, match=f"{variable}='{value}'.*must"):
        settings.load(PredictorSettings, {"AIP_STORAGE_URI": "/m", variable: value})


def test_two_threads_are_always_left_for_health_checks() -> None:
    read = settings.load(PredictorSettings, {"AIP_STORAGE_URI": "/m", "PREDICTOR_MAX_IN_FLIGHT": "5"})
    assert read.threads == read.in_flight + 2 == 7


@pytest.mark.parametrize(("written", "cores"), [("150000 100000", 1.5), ("max 100000", math.inf), ("", math.inf)])
def test_a_container_has_as_many_cores_as_it_has_time_on(written: str, cores: float, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(written)
    assert quota(tmp_path) == cores
    assert quota(tmp_path / "not there") == math.inf
