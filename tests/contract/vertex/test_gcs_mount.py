"""`/gcs/<bucket>` inside a job, with the local cloud's own Cloud Storage behind it."""

from __future__ import annotations

import time
from typing import Any

from google.cloud import aiplatform_v1

State = aiplatform_v1.JobState


def test_a_job_reads_and_writes_cloud_storage_as_files(cloud: Any) -> None:
    with cloud.bucket("mounted") as bucket:
        bucket.blob("data/shard-0").upload_from_string(b"records")
        job = cloud.ended(cloud.submit("copy=/gcs/mounted/data/shard-0,/gcs/mounted/runs/r1/model.bin"))
        assert job.state == State.JOB_STATE_SUCCEEDED, job.error.message
        assert bucket.blob("runs/r1/model.bin").download_as_bytes() == b"records"
        # What was only read is not written back: that would be a new generation, and an event.
        assert bucket.get_blob("data/shard-0").metageneration == 1
        assert len(list(bucket.list_blobs(versions=True, prefix="data/"))) == 1


def test_a_file_is_stored_while_the_job_still_runs(cloud: Any) -> None:
    with cloud.bucket("mounted") as bucket:
        bucket.blob("data/early").upload_from_string(b"early")
        name = cloud.submit("copy=/gcs/mounted/data/early,/gcs/mounted/out/early", "sleep=30")
        deadline = time.monotonic() + 30
        while not bucket.blob("out/early").exists():
            assert time.monotonic() < deadline, "the file was not stored while the job ran"
            time.sleep(0.1)
        assert cloud.jobs.get_custom_job(name=name).state == State.JOB_STATE_RUNNING
        cloud.jobs.cancel_custom_job(name=name)
        cloud.ended(name)


def test_a_variable_is_mapped_like_an_argument(cloud: Any) -> None:
    container = {"env": [{"name": "DATA_DIR", "value": "/gcs/mounted/data/"}]}
    with cloud.bucket("mounted") as bucket:
        bucket.blob("data/shard-1").upload_from_string(b"one")
        name = cloud.submit("environment=DATA_DIR", "environment=GCS_MOUNT_ROOT", container=container)
        assert cloud.ended(name).state == State.JOB_STATE_SUCCEEDED
    data_dir, root = (line.partition("=")[2] for line in cloud.printed(name))
    assert data_dir == f"{root}/mounted/data/"


def test_storage_that_is_briefly_unavailable_does_not_fail_the_job(cloud: Any) -> None:
    with cloud.bucket("mounted") as bucket:
        bucket.blob("data/again").upload_from_string(b"again")
        with cloud.faults.plan({"storage.objects.get": ["return-503"], "storage.objects.insert": ["return-503"]}):
            job = cloud.ended(cloud.submit("copy=/gcs/mounted/data/again,/gcs/mounted/out/again"))
        assert job.state == State.JOB_STATE_SUCCEEDED, job.error.message
        assert bucket.blob("out/again").download_as_bytes() == b"again"


def test_a_bucket_that_does_not_exist_fails_the_job_by_name(cloud: Any) -> None:
    job = cloud.ended(cloud.submit("copy=/gcs/absent-bucket/x,/tmp/never"))
    assert job.state == State.JOB_STATE_FAILED
    assert "absent-bucket" in job.error.message
