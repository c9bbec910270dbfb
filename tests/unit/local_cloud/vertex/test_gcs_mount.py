"""Which words of a job are paths into Cloud Storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_cloud.vertex.gcs_mount import GcsMount


@pytest.fixture
def mount() -> GcsMount:
    return GcsMount(Path("/jobs/1/gcs"), storage_address="127.0.0.1:9")


@pytest.mark.parametrize(
    ("text", "mapped"),
    [
        ("/gcs/flowers/train/shard-0", "/jobs/1/gcs/flowers/train/shard-0"),
        ("--data=/gcs/flowers/train/", "--data=/jobs/1/gcs/flowers/train/"),
        ("/gcs/flowers", "/jobs/1/gcs/flowers"),
        ("/gcs/a-b.c/x:/gcs/flowers/y", "/jobs/1/gcs/a-b.c/x:/jobs/1/gcs/flowers/y"),
        ('{"path": "/gcs/flowers/x"}', '{"path": "/jobs/1/gcs/flowers/x"}'),
    ],
)
def test_a_mounted_path_is_mapped_into_the_job_s_folder(mount: GcsMount, text: str, mapped: str) -> None:
    assert mount.map(text) == mapped
    assert mount.is_used


@pytest.mark.parametrize(
    "text", ["gs://flowers/x", "/data/gcs/flowers/x", "/gcs/", "/gcs/X", "https://h/gcs/flowers", ""]
)
def test_other_words_stay_as_they_are(mount: GcsMount, text: str) -> None:
    assert mount.map(text) == text
    assert not mount.is_used
