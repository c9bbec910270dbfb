"""Labels, durations, image URIs."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_cloud.api import ApiError
from local_cloud.vertex.images import Image, command_line, repository_name, resolve
from local_cloud.vertex.names import Location, check_labels, new_id, seconds

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "labels", [None, {}, {"run": "flowers-1a2b_3"}, {"größe": "klein"}, {"a": ""}, {"a": "x" * 63}]
)
def test_labels_that_google_takes_are_taken(labels: object) -> None:
    check_labels(labels)


@pytest.mark.parametrize(
    "labels",
    [
        {"Run": "x"},
        {"1run": "x"},
        {"": "x"},
        {"run": "X"},
        {"run": "a.b"},
        {"run": "a b"},
        {"a" * 64: ""},
        {"a": "x" * 64},
        {"a": 1},
        ["a"],
        {f"k{index}": "" for index in range(65)},
    ],
)
def test_labels_that_google_refuses_are_refused(labels: object) -> None:
    with pytest.raises(ApiError, match=r"[Ll]abel") as refusal:
        check_labels(labels)
    assert refusal.value.status == "INVALID_ARGUMENT"


def test_a_duration_is_protobuf_s_seconds() -> None:
    assert seconds("3600s", "timeout") == 3600.0
    assert seconds("0.5s", "timeout") == 0.5
    for malformed in ("1h", "3600", "-1s", "0s", "", None, 3600):
        with pytest.raises(ApiError, match="timeout"):
            seconds(malformed, "timeout")


def test_a_generated_id_is_a_number_of_nineteen_digits() -> None:
    assert all(len(new_id()) == 19 and new_id().isdigit() for _ in range(100))


@pytest.mark.parametrize(
    "uri",
    [
        "trainer",
        "trainer:v1",
        f"trainer@{DIGEST}",
        f"trainer:v1@{DIGEST}",
        "us-docker.pkg.dev/p/r/trainer:tag",
        f"us-docker.pkg.dev/p/r/trainer@{DIGEST}",
        "localhost:5000/trainer",
    ],
)
def test_an_image_is_known_by_its_repository_s_base_name(uri: str) -> None:
    image = Image(Path("services/trainer"), ("python", "-m", "trainer"))
    assert resolve(uri, {"trainer": image}) is image


@pytest.mark.parametrize("uri", ["", "two words", "trainer:", "trainer@sha1:00", None, 7])
def test_a_malformed_image_uri_is_refused(uri: object) -> None:
    with pytest.raises(ApiError, match="Image URI"):
        repository_name(uri)


def test_a_command_replaces_the_image_s_and_arguments_follow() -> None:
    image = Image(Path(), ("python", "-m", "trainer"))
    assert command_line(image, python="/v/python", command=[], arguments=["--epochs=1"]) == [
        "/v/python",
        "-m",
        "trainer",
        "--epochs=1",
    ]
    assert command_line(image, python="/v/python", command=["sh", "-c"], arguments=["true"]) == ["sh", "-c", "true"]


def test_a_location_stands_for_one_project_and_region() -> None:
    location = Location("demo-dualdeploy", "us-central1")
    answered = f"projects/{location.number}/locations/us-central1"
    assert location.check("demo-dualdeploy", "us-central1") == answered
    assert location.check(location.number, "us-central1") == answered
    with pytest.raises(ApiError, match="another"):
        location.check("another", "us-central1")
