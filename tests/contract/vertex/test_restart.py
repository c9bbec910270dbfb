"""What survives the end of the local cloud's process, and what does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.cloud import aiplatform_v1

from support.processes import is_alive

State = aiplatform_v1.JobState

#: A local cloud in a process of its own, so that it can be killed: it runs one job that tells its pid.
PROGRAM = """
import sys, time, json, urllib.request
from pathlib import Path
from local_cloud.faults import Faults
from local_cloud.vertex import Image, Vertex
state, images = Path(sys.argv[1]), Path(sys.argv[2])
vertex = Vertex(
    faults=Faults(), state_dir=state / "vertex", project="demo-dualdeploy", region="us-central1",
    storage_address="127.0.0.1:9", environment=lambda _account: {}, images={"trainer": Image(images, ("python", "-c"))},
    publish_log=lambda entry: None, operation_seconds=0.05,
).start()
script = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
pool = {"machineSpec": {"machineType": "n1-standard-4"}, "containerSpec": {"imageUri": "trainer", "args": [script]}}
body = {"displayName": "toy", "jobSpec": {"workerPoolSpecs": [pool]}}
url = f"http://{vertex.address}/v1/projects/demo-dualdeploy/locations/us-central1/customJobs"
request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(request))["name"], flush=True)
time.sleep(60)
"""


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_killed_local_cloud_takes_its_jobs_with_it_and_finds_them_lost(
    tmp_path: Path, new_cloud: Callable[..., Any]
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        log = tmp_path / "vertex" / "jobs" / name.rsplit("/", 1)[-1] / "log"
        until(lambda: log.exists() and log.read_text().strip().isdigit(), 60, "the job did not start")
        pid = int(log.read_text())
        assert is_alive(pid)
        process.send_signal(signal.SIGKILL)
    until(lambda: not is_alive(pid), 30, "the job outlived the local cloud")
    cloud = new_cloud()
    job = cloud.ended(name)
    assert job.state == State.JOB_STATE_FAILED
    assert "lost" in job.error.message
    assert cloud.log_entry(name)["textPayload"] == "Job failed."


def test_records_survive_and_deployed_models_serve_again(new_cloud: Callable[..., Any]) -> None:
    cloud = new_cloud()
    endpoint = cloud.endpoint("flowers")
    cloud.deploy(endpoint, cloud.upload("flowers", label="kept", version_aliases=["live"]), "1", {"0": 100})
    done = cloud.ended(cloud.submit("exit=0")).name
    cloud.restart()
    assert cloud.jobs.get_custom_job(name=done).state == State.JOB_STATE_SUCCEEDED
    assert "live" in cloud.models.get_model(name=f"{cloud.parent}/models/flowers@live").version_aliases

    def serves() -> bool:
        deployed = cloud.endpoints.get_endpoint(name=endpoint).deployed_models[0]
        return deployed.status.available_replica_count == 1

    until(serves, 10, "the model server was not started again")
    answer = cloud.predictions.predict(endpoint=endpoint, instances=["x"])
    assert (answer.deployed_model_id, answer.model_version_id) == ("1", "1")


def test_an_operation_in_flight_is_taken_up_again(new_cloud: Callable[..., Any]) -> None:
    cloud = new_cloud()
    endpoint, model = cloud.endpoint(), cloud.upload()
    with cloud.faults.plan({"aiplatform.operations.run": ["hang:60"]}):
        operation = cloud.endpoints.deploy_model(
            endpoint=endpoint, deployed_model=cloud.deployment(model, "1"), traffic_split={"0": 100}
        ).operation
        until(lambda: not cloud.faults.pending(), 5, "the operation did not begin")
        cloud.restart()
    client = cloud.endpoints.transport.operations_client
    until(lambda: client.get_operation(operation.name).done, 10, "the operation was not taken up")
    assert dict(cloud.endpoints.get_endpoint(name=endpoint).traffic_split) == {"1": 100}


def test_a_waiting_job_waits_again_and_a_running_one_is_lost(new_cloud: Callable[..., Any]) -> None:
    cloud = new_cloud(max_running_jobs=1)
    running, waiting = cloud.submit("print=here", "sleep=60"), cloud.submit("print=my turn")
    cloud.running(running)
    cloud.restart()
    assert cloud.ended(running).state == State.JOB_STATE_FAILED
    assert cloud.ended(waiting).state == State.JOB_STATE_SUCCEEDED
