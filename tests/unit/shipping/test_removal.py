"""`make destroy` asks, keeps data unless told, and a deployment afterwards finds what was kept."""

from __future__ import annotations

from typing import Any

import pytest

CONFIRMED = "--confirm=demo-dualdeploy"
DATA = ["demo-dualdeploy-data", "demo-dualdeploy-config", "demo-dualdeploy-ledger", "demo-dualdeploy-models"]


def test_without_the_projects_name_nothing_is_changed(project: Any) -> None:
    project.deployed()
    before = project.facts["acted"]
    ran = project.run("destroy", "--confirm=yes")
    assert ran.code == 1
    assert "nothing was changed" in ran.said
    assert project.facts["acted"] == before


def test_everything_is_taken_down_and_data_stays(project: Any) -> None:
    project.deployed()
    ran = project.run("destroy", CONFIRMED)
    assert ran.code == 0, ran.said
    assert project.facts["resources"] == {}
    assert set(DATA) <= set(project.facts["buckets"])


def test_data_is_deleted_when_told(project: Any) -> None:
    project.deployed()
    ran = project.run("destroy", CONFIRMED, "--delete-data")
    assert ran.code == 0, ran.said
    assert not set(DATA) & set(project.facts["buckets"])


@pytest.mark.slow
def test_killed_at_any_deed_it_can_be_taken_down_again(project: Any) -> None:
    project.deployed()
    whole = {**project.facts, "acted": 0}
    project.facts = whole
    project.run("destroy", CONFIRMED)
    deeds = project.facts["acted"]
    assert deeds > 6
    for die_at in (*range(1, deeds, 3), deeds):
        project.facts = {**whole, "die_at": die_at, "die_before": False}
        assert project.run("destroy", CONFIRMED).code == -9
        project.set(die_at=None)
        assert project.run("destroy", CONFIRMED).code == 0
        assert project.facts["resources"] == {}
        assert set(DATA) <= set(project.facts["buckets"])


def test_a_half_made_system_can_be_taken_down(project: Any) -> None:
    project.set(die_at=6)
    project.run("deploy", "--region=us-central1")
    project.set(die_at=None)
    ran = project.run("destroy", CONFIRMED)
    assert ran.code == 0, ran.said
    assert project.facts["resources"] == {}


def test_what_terraform_did_not_make_and_costs_is_named_with_the_command_that_ends_it(project: Any) -> None:
    project.deployed()
    project.set(
        endpoints=[
            {
                "name": "projects/1/locations/us-central1/endpoints/flowers",
                "displayName": "flowers",
                "deployedModels": [{"id": "77"}],
            }
        ]
    )
    ran = project.run("destroy", CONFIRMED)
    assert "gcloud ai endpoints undeploy-model flowers --deployed-model-id=77 --region=us-central1" in ran.said


def test_where_nothing_is_deployed_it_says_so(project: Any) -> None:
    ran = project.run("destroy", CONFIRMED)
    assert ran.code == 1
    assert "Nothing is deployed in demo-dualdeploy" in ran.said
