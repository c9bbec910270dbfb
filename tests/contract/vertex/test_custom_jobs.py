"""Custom jobs, as Google's generated client sees them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform_v1

State = aiplatform_v1.JobState


def test_a_job_runs_its_image_and_succeeds(cloud: Any) -> None:
    created = cloud.jobs.create_custom_job(parent=cloud.parent, custom_job=cloud.job("print=hello"))
    assert created.state == State.JOB_STATE_PENDING
    job = cloud.ended(created.name)
    assert job.state == State.JOB_STATE_SUCCEEDED
    assert job.create_time <= job.start_time <= job.end_time
    assert cloud.printed(created.name) == ["hello"]
    assert not job.error.message


def test_the_log_sink_hears_how_a_job_ended_after_the_record_says_so(cloud: Any) -> None:
    name = cloud.submit("print=hello")
    entry = cloud.log_entry(name)
    assert cloud.jobs.get_custom_job(name=name).state == State.JOB_STATE_SUCCEEDED
    assert entry["textPayload"] == "Job completed successfully."
    assert entry["resource"]["type"] == "ml_job"
    assert entry["resource"]["labels"]["task_name"] == "service"
    failed = cloud.log_entry(cloud.submit("exit=1"))
    assert failed["textPayload"] == "Job failed."
    assert failed["severity"] == "ERROR"


def test_a_failed_job_tells_its_exit_code_and_the_end_of_its_standard_error(cloud: Any) -> None:
    job = cloud.ended(cloud.submit("print=fine so far", "complain=no such shard", "exit=2"))
    assert job.state == State.JOB_STATE_FAILED
    assert job.error.message.startswith("The replica workerpool0-0 exited with a non-zero status of 2.")
    assert "no such shard" in job.error.message
    assert "fine so far" not in job.error.message


def test_an_unknown_image_fails_the_job_as_a_failed_pull(cloud: Any) -> None:
    job = cloud.ended(cloud.submit(container={"image_uri": "us-docker.pkg.dev/p/r/nowhere:1"}))
    assert job.state == State.JOB_STATE_FAILED
    assert 'Failed to pull image "us-docker.pkg.dev/p/r/nowhere:1"' in job.error.message


def test_a_job_gets_what_vertex_ai_promises_in_its_environment(cloud: Any) -> None:
    names = ["CLOUD_ML_JOB_ID", "CLOUD_ML_PROJECT_ID", "AIP_MODEL_DIR", "AIP_CHECKPOINT_DIR"]
    names += ["AIP_TENSORBOARD_LOG_DIR", "STORAGE_EMULATOR_HOST", "OWN", "TF_CONFIG"]
    name = cloud.submit(
        *(f"environment={name}" for name in names),
        spec={"base_output_directory": {"output_uri_prefix": "gs://models/runs/r1/"}},
        container={"env": [{"name": "OWN", "value": "value"}]},
    )
    cloud.ended(name)
    assert cloud.printed(name) == [
        f"CLOUD_ML_JOB_ID={name.rsplit('/', 1)[-1]}",
        "CLOUD_ML_PROJECT_ID=demo-dualdeploy",
        "AIP_MODEL_DIR=gs://models/runs/r1/model/",
        "AIP_CHECKPOINT_DIR=gs://models/runs/r1/checkpoints/",
        "AIP_TENSORBOARD_LOG_DIR=gs://models/runs/r1/logs/",
        f"STORAGE_EMULATOR_HOST=http://{cloud.storage.address}",
        "OWN=value",
        "TF_CONFIG=None",
    ]


def distributed(cloud: Any, *, chief: list[str], worker: list[str], workers: int = 1, **scheduling: Any) -> str:
    """Submit a job of one chief and so many workers, each told what to do."""
    job = cloud.job(*chief, spec={"scheduling": scheduling})
    pool = aiplatform_v1.WorkerPoolSpec(job.job_spec.worker_pool_specs[0])
    pool.replica_count = workers
    pool.container_spec.args = worker
    job.job_spec.worker_pool_specs.append(pool)
    name: str = cloud.jobs.create_custom_job(parent=cloud.parent, custom_job=job).name
    return name


def test_a_distributed_job_tells_every_replica_its_place_in_the_cluster_as_vertex_ai_does(
    cloud: Any, tmp_path: Path
) -> None:
    """The keys are those of "The format of TF_CONFIG" and "The format of CLUSTER_SPEC".

    Source: https://cloud.google.com/vertex-ai/docs/training/distributed-training
    """
    variables = ["environment=TF_CONFIG", "environment=CLUSTER_SPEC"]
    all_have_spoken = tmp_path / "go"
    name = distributed(
        cloud, chief=[*variables, f"until={all_have_spoken}"], worker=[*variables, "sleep=60"], workers=2
    )
    cloud.running(name, lines=6)
    all_have_spoken.touch()
    # The primary replica's success is the job's; the workers, which would sleep on, are shut down.
    assert cloud.ended(name).state == State.JOB_STATE_SUCCEEDED
    printed = [line.partition("=") for line in cloud.printed(name)]
    configs = [json.loads(value) for variable, _, value in printed if variable == "TF_CONFIG"]
    specs = [json.loads(value) for variable, _, value in printed if variable == "CLUSTER_SPEC"]
    assert {frozenset(each) for each in (*configs, *specs)} == {frozenset({"cluster", "environment", "job", "task"})}
    assert {each["environment"] for each in (*configs, *specs)} == {"cloud"}

    tasks = sorted((config["task"]["type"], config["task"]["index"]) for config in configs)
    assert tasks == [("chief", 0), ("worker", 0), ("worker", 1)]
    pools = sorted((spec["task"]["type"], spec["task"]["index"]) for spec in specs)
    assert pools == [("workerpool0", 0), ("workerpool1", 0), ("workerpool1", 1)]

    clusters = [config["cluster"] for config in configs]
    assert clusters[0] == clusters[1] == clusters[2], "all have the same cluster"
    assert {role: len(addresses) for role, addresses in clusters[0].items()} == {"chief": 1, "worker": 2}
    addresses = [*clusters[0]["chief"], *clusters[0]["worker"]]
    assert len({address.rpartition(":")[2] for address in addresses}) == 3, "each has a port of its own"
    assert specs[0]["cluster"] == {"workerpool0": clusters[0]["chief"], "workerpool1": clusters[0]["worker"]}
    assert configs[0]["job"]["workerPoolSpecs"][1]["replicaCount"] == "2"


def test_a_worker_that_is_done_before_the_chief_does_not_end_the_job(cloud: Any) -> None:
    name = distributed(cloud, chief=["sleep=0.5", "print=the chief is done"], worker=["exit=0"])
    assert cloud.ended(name).state == State.JOB_STATE_SUCCEEDED
    assert cloud.printed(name) == ["the chief is done"]


def test_a_worker_that_fails_ends_the_job_and_is_named(cloud: Any) -> None:
    job = cloud.ended(distributed(cloud, chief=["sleep=60"], worker=["complain=no memory left", "exit=3"]))
    assert job.state == State.JOB_STATE_FAILED
    assert job.error.message.startswith("The replica workerpool1-0 exited with a non-zero status of 3.")
    assert "no memory left" in job.error.message


def test_a_transient_exit_of_a_worker_restarts_the_job(cloud: Any, tmp_path: Any) -> None:
    abort, go = tmp_path / "abort", tmp_path / "go"
    worker = [f"until={abort}", f"abort-first-time={tmp_path / 'once'}", "sleep=60"]
    name = distributed(cloud, chief=["print=chief", f"until={go}"], worker=worker)
    cloud.running(name)
    abort.touch()
    cloud.running(name, lines=2)
    go.touch()
    assert cloud.ended(name).state == State.JOB_STATE_SUCCEEDED
    assert cloud.printed(name).count("chief") == 2


@pytest.mark.parametrize(
    ("scheduling", "chiefs", "workers"), [({}, 1, 2), ({"restart_job_on_worker_restart": True}, 2, 2)]
)
def test_a_worker_whose_machine_is_taken_away_starts_again_and_all_with_it_if_the_job_says_so(
    cloud: Any, tmp_path: Path, scheduling: dict[str, Any], chiefs: int, workers: int
) -> None:
    go = tmp_path / "go"
    name = distributed(cloud, chief=["print=chief", f"until={go}"], worker=["print=worker", "sleep=60"], **scheduling)
    cloud.running(name, lines=2)
    with cloud.faults.plan({"aiplatform.jobs.machine": ["preempt"]}):
        cloud.running(name, lines=chiefs + workers)
    go.touch()
    assert cloud.ended(name).state == State.JOB_STATE_SUCCEEDED
    assert (cloud.printed(name).count("chief"), cloud.printed(name).count("worker")) == (chiefs, workers)


def test_a_job_without_retries_does_not_outlive_its_machine(cloud: Any) -> None:
    name = cloud.submit("print=here", "sleep=60", spec={"scheduling": {"disable_retries": True}})
    cloud.running(name)
    with cloud.faults.plan({"aiplatform.jobs.machine": ["preempt"]}):
        job = cloud.ended(name)
    assert job.state == State.JOB_STATE_FAILED
    assert "workerpool0-0 was lost" in job.error.message


def test_command_overrides_the_image_and_python_means_the_given_interpreter(cloud: Any) -> None:
    name = cloud.submit("-c", "print('from the command')", container={"command": ["python"]})
    assert cloud.ended(name).state == State.JOB_STATE_SUCCEEDED
    assert cloud.printed(name) == ["from the command"]


def test_a_cancelled_job_is_asked_to_end(cloud: Any) -> None:
    name = cloud.submit("print=here", "sleep=60")
    cloud.running(name)
    cloud.jobs.cancel_custom_job(name=name)
    job = cloud.ended(name)
    assert job.state == State.JOB_STATE_CANCELLED
    assert job.error.code == 1
    assert cloud.log_entry(name)["textPayload"] == "Job cancelled."


def test_a_job_that_ignores_the_request_to_end_is_killed_after_the_grace(cloud: Any) -> None:
    name = cloud.submit("ignore-terminate", "print=here", "sleep=60")
    cloud.running(name)
    cloud.jobs.cancel_custom_job(name=name)
    assert cloud.ended(name, seconds=5).state == State.JOB_STATE_CANCELLED


def test_an_ended_job_cannot_be_cancelled(cloud: Any) -> None:
    name = cloud.ended(cloud.submit("exit=0")).name
    with pytest.raises(exceptions.BadRequest, match="JOB_STATE_SUCCEEDED"):
        cloud.jobs.cancel_custom_job(name=name)


def test_a_job_longer_than_its_timeout_is_cancelled(cloud: Any) -> None:
    job = cloud.ended(cloud.submit("sleep=60", spec={"scheduling": {"timeout": {"seconds": 1}}}))
    assert job.state == State.JOB_STATE_CANCELLED
    assert "timeout" in job.error.message


def test_a_transient_exit_restarts_the_job_unless_retries_are_disabled(cloud: Any, tmp_path: Any) -> None:
    marker = f"abort-first-time={tmp_path / 'once'}"
    assert cloud.ended(cloud.submit(marker, "print=second try")).state == State.JOB_STATE_SUCCEEDED
    marker = f"abort-first-time={tmp_path / 'again'}"
    job = cloud.ended(cloud.submit(marker, spec={"scheduling": {"disable_retries": True}}))
    assert job.state == State.JOB_STATE_FAILED
    assert "non-zero status of 134" in job.error.message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"display_name": ""}, "display_name"),
        ({"labels": {"Run": "r1"}}, "Label key 'Run'"),
        ({"labels": {"run": "R 1"}}, "Label value 'R 1'"),
        ({"labels": {"run": "x" * 64}}, "Label value"),
        ({"job_spec": {}}, "worker_pool_specs"),
        ({"job_spec": {"worker_pool_specs": [{"container_spec": {"image_uri": "trainer"}}]}}, "machine_type"),
    ],
)
def test_a_malformed_job_is_refused_by_name_of_the_field(cloud: Any, change: dict[str, Any], named: str) -> None:
    job = aiplatform_v1.CustomJob({**aiplatform_v1.CustomJob.to_dict(cloud.job("exit=0")), **change})
    with pytest.raises(exceptions.BadRequest, match=named):
        cloud.jobs.create_custom_job(parent=cloud.parent, custom_job=job)


@pytest.mark.parametrize(
    ("pool", "named"),
    [
        ({"replica_count": 2}, "replica_count"),
        ({"machine_spec": {"machine_type": "n1-standard-4", "accelerator_count": 1}}, "accelerator_type"),
        ({"container_spec": {"image_uri": "not an image"}}, "Image URI"),
        ({"container_spec": {"image_uri": "trainer", "env": [{"name": "1X", "value": ""}]}}, "variable name"),
    ],
)
def test_a_malformed_worker_pool_is_refused(cloud: Any, pool: dict[str, Any], named: str) -> None:
    job = cloud.job("exit=0")
    merged = {**aiplatform_v1.WorkerPoolSpec.to_dict(job.job_spec.worker_pool_specs[0]), **pool}
    job.job_spec.worker_pool_specs[0] = aiplatform_v1.WorkerPoolSpec(merged)
    with pytest.raises(exceptions.BadRequest, match=named):
        cloud.jobs.create_custom_job(parent=cloud.parent, custom_job=job)


def test_jobs_are_found_again_by_their_labels(cloud: Any) -> None:
    wanted = cloud.submit("exit=0", labels={"dualdeploy_run": "flowers-1a2b", "dualdeploy_target": "cloud"})
    cloud.submit("exit=0", labels={"dualdeploy_run": "flowers-1a2b", "dualdeploy_target": "mobile"})
    cloud.ended(wanted)

    def found(text: str) -> list[str]:
        request = {"parent": cloud.parent, "filter": text}
        return [job.name for job in cloud.jobs.list_custom_jobs(request=request)]

    assert found('labels.dualdeploy_run="flowers-1a2b" AND labels.dualdeploy_target="cloud"') == [wanted]
    assert found("labels.dualdeploy_run=flowers-1a2b labels.dualdeploy_target=cloud") == [wanted]
    assert len(found("labels.dualdeploy_run:*")) == 2
    assert found('labels.dualdeploy_target="cloud" AND state="JOB_STATE_SUCCEEDED"') == [wanted]
    assert found('labels.dualdeploy_run="another"') == []
    with pytest.raises(exceptions.BadRequest, match="with quotes"):
        found('labels.dualdeploy-run="x"')
    with pytest.raises(exceptions.BadRequest, match="nonsense"):
        found("nonsense=1")


def test_jobs_come_newest_first_and_page_by_page(cloud: Any) -> None:
    names = [cloud.submit("exit=0", labels={"paged": "yes"}) for _ in range(5)]
    request = {"parent": cloud.parent, "filter": "labels.paged=yes", "page_size": 2}
    pages = [[job.name for job in page.custom_jobs] for page in cloud.jobs.list_custom_jobs(request=request).pages]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page] == names[::-1]
    for name in names:
        cloud.ended(name)


def test_only_so_many_jobs_run_at_once(new_cloud: Callable[..., Any]) -> None:
    cloud = new_cloud(max_running_jobs=1)
    first, second = cloud.submit("print=1", "sleep=0.5"), cloud.submit("print=2")
    cloud.running(first)
    assert cloud.jobs.get_custom_job(name=second).state == State.JOB_STATE_PENDING
    assert cloud.ended(first).end_time <= cloud.ended(second).start_time


def test_a_waiting_job_can_be_cancelled(new_cloud: Callable[..., Any]) -> None:
    cloud = new_cloud(max_running_jobs=1)
    first, second = cloud.submit("print=1", "sleep=0.5"), cloud.submit("print=2")
    cloud.running(first)
    cloud.jobs.cancel_custom_job(name=second)
    job = cloud.ended(second)
    assert job.state == State.JOB_STATE_CANCELLED
    assert not (cloud.state_dir / "vertex" / "jobs" / second.rsplit("/", 1)[-1]).exists()
    assert cloud.ended(first).state == State.JOB_STATE_SUCCEEDED


def test_an_ended_job_can_be_deleted_and_a_running_one_not(cloud: Any) -> None:
    name = cloud.submit("print=here", "sleep=60")
    with pytest.raises(exceptions.BadRequest, match="cancel it"):
        cloud.jobs.delete_custom_job(name=name)
    cloud.jobs.cancel_custom_job(name=name)
    cloud.ended(name)
    cloud.finish(cloud.jobs.delete_custom_job(name=name))
    with pytest.raises(exceptions.NotFound):
        cloud.jobs.get_custom_job(name=name)


def test_another_project_or_region_is_refused(cloud: Any) -> None:
    with pytest.raises(exceptions.Forbidden):
        cloud.jobs.create_custom_job(parent="projects/another/locations/us-central1", custom_job=cloud.job())
    with pytest.raises(exceptions.NotFound):
        list(cloud.jobs.list_custom_jobs(parent="projects/demo-dualdeploy/locations/europe-west4"))


def test_a_planned_crash_kills_the_job(cloud: Any) -> None:
    with cloud.faults.plan({"aiplatform.jobs.run": ["crash"]}):
        job = cloud.ended(cloud.submit("sleep=60", spec={"scheduling": {"disable_retries": True}}))
    assert job.state == State.JOB_STATE_FAILED
    assert "non-zero status of 137" in job.error.message


def test_a_job_that_is_done_before_its_planned_crash_fails_all_the_same(cloud: Any) -> None:
    with cloud.faults.plan({"aiplatform.jobs.run": ["crash"]}):
        job = cloud.ended(cloud.submit("print=results written"))
    assert job.state == State.JOB_STATE_FAILED
    assert cloud.printed(job.name) in (["results written"], [])


def test_a_stalled_job_ends_only_by_its_timeout(cloud: Any) -> None:
    with cloud.faults.plan({"aiplatform.jobs.run": ["stall"]}):
        # Left alone it would succeed after two seconds: long enough to be frozen before, on a busy machine too.
        job = cloud.ended(cloud.submit("sleep=2", spec={"scheduling": {"timeout": {"seconds": 4}}}))
    assert job.state == State.JOB_STATE_CANCELLED


def test_a_lost_response_leaves_a_job_that_its_labels_find(cloud: Any) -> None:
    job = cloud.job("exit=0", labels={"lost": "response"})
    with (
        cloud.faults.plan({"aiplatform.customJobs.create": ["lost-response"]}),
        pytest.raises(exceptions.ServiceUnavailable),
    ):
        cloud.jobs.create_custom_job(parent=cloud.parent, custom_job=job)
    found = list(cloud.jobs.list_custom_jobs(request={"parent": cloud.parent, "filter": "labels.lost=response"}))
    assert len(found) == 1
    cloud.ended(found[0].name)


def test_the_sink_gets_each_printed_line_only_when_asked(new_cloud: Callable[..., Any]) -> None:
    cloud = new_cloud(stream_output=True)
    name = cloud.submit("print=out", "complain=err")
    cloud.ended(name)
    assert cloud.log_entry(name)
    lines = {(entry["textPayload"], entry["resource"]["labels"]["task_name"]) for entry in cloud.entries}
    assert lines >= {("out", "workerpool0-0"), ("err", "workerpool0-0")}


def test_a_failing_sink_does_not_change_how_a_job_ends(new_cloud: Callable[..., Any]) -> None:
    refusals: list[str] = []
    heard = threading.Event()

    def sink(entry: dict[str, Any]) -> None:
        if not refusals:
            refusals.append(entry["textPayload"])
            raise ConnectionError("the sink is down")
        heard.set()

    cloud = new_cloud(publish_log=sink)
    assert cloud.ended(cloud.submit("exit=0")).state == State.JOB_STATE_SUCCEEDED
    assert heard.wait(5), "the entry was not sent again"
