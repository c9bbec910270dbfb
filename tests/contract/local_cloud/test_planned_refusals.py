"""What Google says while something is not ready yet, on command and in its own words."""

from __future__ import annotations

import time

import pytest
import requests

from local_cloud.cloud import LocalCloud
from local_cloud.iam import Grant
from local_cloud.recorded import REFUSALS

JOB = {
    "displayName": "toy",
    "jobSpec": {
        "workerPoolSpecs": [
            {
                "machineSpec": {"machineType": "n1-standard-4"},
                "replicaCount": "1",
                "containerSpec": {"imageUri": "us-central1-docker.pkg.dev/demo-dualdeploy/dualdeploy/trainer:1"},
            }
        ]
    },
}


def jobs(cloud: LocalCloud) -> str:
    return f"http://{cloud.vertex.address}/v1/projects/{cloud.topology.project}/locations/us-central1/customJobs"


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_a_planned_refusal_is_the_recorded_one(cloud: LocalCloud, name: str) -> None:
    recorded = REFUSALS[name]
    with cloud.faults.plan({"aiplatform.customJobs.create": [f"refuse:{name}"]}):
        answer = requests.post(jobs(cloud), json=JOB, timeout=30)
    error = answer.json()["error"]
    assert (answer.status_code, error["status"], error["message"]) == (recorded.code, recorded.status, recorded.message)
    assert error.get("details", []) == list(recorded.details)


def test_an_unknown_refusal_cannot_be_planned(cloud: LocalCloud) -> None:
    with pytest.raises(ValueError, match="agents-being-provisioned"):
        cloud.faults.add({"aiplatform.customJobs.create": ["refuse:something"]})


def test_a_job_that_was_accepted_finds_no_machine(cloud: LocalCloud) -> None:
    with cloud.faults.plan({"aiplatform.jobs.place": ["no-capacity"]}):
        name = requests.post(jobs(cloud), json=JOB, timeout=30).json()["name"]
        deadline, job = time.monotonic() + 20, {"state": "JOB_STATE_PENDING"}
        while job["state"] == "JOB_STATE_PENDING" and time.monotonic() < deadline:
            time.sleep(0.1)
            job = requests.get(f"http://{cloud.vertex.address}/v1/{name}", timeout=30).json()
    assert job["state"] == "JOB_STATE_FAILED"
    assert job["error"]["message"].startswith("Resources are insufficient in region: us-central1.")
    assert "startTime" not in job


def test_a_grant_spreads_slowly(cloud: LocalCloud) -> None:
    resource = f"projects/{cloud.topology.project}/topics/tick"
    member = "user:new@example.com"
    control = f"http://{cloud.control.address}/project"
    grant = {"resource": resource, "role": "roles/pubsub.publisher", "member": member}
    requests.patch(control, json={"grants_count_after": 1.0}, timeout=30).raise_for_status()
    try:
        requests.patch(control, json={"grant": [grant]}, timeout=30).raise_for_status()
        assert not cloud.iam.allows(member, "pubsub.topics.publish", resource)
        # The policy shows it at once.
        assert {"role": grant["role"], "members": [member]} in [
            {"role": each["role"], "members": [m for m in each["members"] if m == member]}
            for each in cloud.iam.policy(resource)["bindings"]
        ]
        time.sleep(1.1)
        assert cloud.iam.allows(member, "pubsub.topics.publish", resource)
    finally:
        requests.patch(control, json={"grants_count_after": 0, "revoke": [grant]}, timeout=30).raise_for_status()
    cloud.iam.grant(Grant(resource, "roles/pubsub.publisher", member))
    assert cloud.iam.allows(member, "pubsub.topics.publish", resource)
    cloud.iam.revoke(resource, "roles/pubsub.publisher", member)
