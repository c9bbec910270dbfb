"""Whatever is missing is said before anything is changed, all of it, each with the command that mends it."""

from __future__ import annotations

from typing import Any

import pytest

FAULTS = {
    "not logged in": ({"account": ""}, "You are not logged in", "gcloud auth login"),
    "the login has expired": ({"login_expired": True}, "has expired", "gcloud auth login"),
    "no such project": ({"project": "another"}, "sees no project", "gcloud projects create demo-dualdeploy"),
    "no billing": ({"billing": False}, "no billing account", "gcloud billing projects link demo-dualdeploy"),
    "the API of billing is off": (
        {"billing_api_off": True},
        "API for billing is off",
        "gcloud services enable cloudbilling.googleapis.com --project=demo-dualdeploy",
    ),
    "an old Terraform": ({"terraform_version": "1.8.5"}, "1.8.5 is too old", "terraform/install"),
}


@pytest.mark.parametrize(("fault", "complaint", "remedy"), FAULTS.values(), ids=list(FAULTS))
@pytest.mark.parametrize("command", ["deploy", "plan", "destroy"])
def test_a_fault_is_named_with_its_remedy_and_nothing_is_changed(
    project: Any, command: str, fault: dict[str, Any], complaint: str, remedy: str
) -> None:
    project.set(**fault)
    ran = project.run(command)
    assert ran.code == 1
    assert complaint in ran.said
    assert remedy in ran.said
    assert project.facts["acted"] == 0


@pytest.mark.parametrize("region", ["us-central1-a", "US", "europe"])
def test_what_is_not_a_region_is_refused(project: Any, region: str) -> None:
    ran = project.run("deploy", f"--region={region}")
    assert ran.code == 1
    assert f"{region!r} is not a region" in ran.said
    assert project.facts["acted"] == 0


@pytest.mark.parametrize(
    ("region", "complaint"),
    [
        ("us-central9", "us-central9 does not have Cloud Run and Cloud Scheduler and Eventarc and Vertex AI"),
        ("us-west8", "us-west8 does not have Eventarc and Vertex AI"),
    ],
)
def test_a_region_without_a_product_is_refused_with_those_nearby(project: Any, region: str, complaint: str) -> None:
    ran = project.run("deploy", f"--region={region}")
    assert ran.code == 1
    assert complaint in ran.said
    assert "REGION=us-central1 REGION=us-east1" in ran.said
    assert project.facts["buckets"] == {}


@pytest.mark.parametrize("command", ["deploy", "destroy"])
def test_another_region_than_the_deployed_one_is_refused(project: Any, command: str) -> None:
    project.deployed()
    ran = project.run(command, "--region=europe-west4")
    assert ran.code == 1
    assert "is deployed in us-central1" in ran.said
    assert "REGION=us-central1" in ran.said


def test_without_a_region_the_deployed_one_counts(project: Any) -> None:
    assert project.run("deploy", "--region=europe-west4").code == 0
    assert project.run("deploy").code == 0
    assert project.facts["outputs"]["region"] == "europe-west4"


def test_a_missing_permission_is_named_with_the_role_that_brings_it(project: Any, permissions: Any) -> None:
    permissions.lacking = {"eventarc.triggers.create", "iam.roles.create"}
    ran = project.run("deploy")
    assert ran.code == 1
    assert "ann@example.com lacks eventarc.triggers.create" in ran.said
    for role in ("roles/eventarc.admin", "roles/iam.roleAdmin"):
        binding = "gcloud projects add-iam-policy-binding demo-dualdeploy --member=user:ann@example.com"
        assert f"{binding} --role={role}" in ran.said
    assert project.facts["acted"] == 0


def test_one_service_needs_fewer_rights_than_everything(project: Any, permissions: Any) -> None:
    project.deployed()
    permissions.lacking = {"resourcemanager.projects.setIamPolicy", "storage.buckets.create"}
    assert project.run("deploy", "--service=job_notifier").code == 0
    permissions.lacking = {"run.services.update"}
    assert "lacks run.services.update" in project.run("deploy", "--service=job_notifier").said


def test_all_faults_are_told_at_once(project: Any, permissions: Any) -> None:
    permissions.lacking = {"run.services.create"}
    project.set(billing=False, terraform_version="1.5.7")
    said = project.run("deploy", "--region=us").said
    for part in ("too old", "is not a region", "no billing account", "lacks run.services.create"):
        assert part in said


def test_an_api_that_is_off_is_named_where_nothing_would_enable_it(project: Any) -> None:
    project.deployed()
    project.set(apis=[api for api in project.facts["apis"] if api != "run.googleapis.com"])
    ran = project.run("deploy", "--service=job_notifier")
    assert ran.code == 1
    assert "gcloud services enable run.googleapis.com --project=demo-dualdeploy" in ran.said


def test_the_project_of_gcloud_is_taken_where_none_is_named(project: Any) -> None:
    assert "--project my-project" in project.run("deploy", project="").said
    project.set(default_project="demo-dualdeploy")
    assert project.run("deploy", project="").code == 0
