"""A deployment brings everything out, goes on where it was killed, and touches nothing that it was not asked to."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from shipping import refusals
from support import google_says


def acting(project: Any, *names: str) -> list[list[str]]:
    return [each for each in project.commands() if each[1] in names]


def position(project: Any, name: str, word: str = "") -> int:
    return next(at for at, each in enumerate(project.commands()) if each[1] == name and word in " ".join(each))


def test_an_empty_project_gets_the_whole_system_with_one_command(project: Any) -> None:
    ran = project.deployed()
    facts = project.facts
    assert set(facts["outputs"]["images"]) == {"cloud_deployer", "mobile_publisher", "trainer", "predictor"}
    assert all("@sha256:" in image for image in facts["outputs"]["images"].values())
    assert set(facts["outputs"]["sources"]) == {"training_launcher", "job_notifier"}
    for name in facts["outputs"]["sources"].values():
        assert f"gs://demo-dualdeploy-dualdeploy-sources/{name}" in facts["objects"]
    assert facts["buckets"]["demo-dualdeploy-dualdeploy-state"]["versioning_enabled"] == "True"
    assert "job_notifier: ready" in ran.said
    order = [
        position(project, "services enable"),
        position(project, "storage buckets create"),
        position(project, "init"),
        position(project, "plan", "-target=module.project"),
        position(project, "builds submit"),
        position(project, "run services describe"),
    ]
    assert order == sorted(order)


def test_the_same_again_builds_nothing_and_changes_nothing(project: Any) -> None:
    project.deployed()
    before = project.facts
    ran = project.deployed()
    assert "nothing changes" in ran.said
    after = project.facts
    for part in ("images", "objects", "resources", "outputs", "buckets"):
        assert after[part] == before[part]


@pytest.mark.slow
def test_killed_at_any_deed_it_goes_on_and_ends_the_same(project: Any) -> None:
    empty = project.facts
    project.deployed()
    undisturbed = project.facts
    deeds = undisturbed["acted"]
    assert deeds > 15
    # Every kind of deed, and some of those that are alike; before it, or after it and before hearing of it.
    for number, die_at in enumerate([*range(1, 6), *range(6, deeds, 6), deeds]):
        project.facts = {**empty, "die_at": die_at, "die_before": number % 2 == 0}
        assert project.run("deploy", "--region=us-central1").code == -9
        # `builds submit` refuses to build an image twice, and `buckets create` a bucket that is there.
        project.set(die_at=None)
        ran = project.run("deploy", "--region=us-central1")
        assert ran.code == 0, (die_at, ran.said)
        for part in ("images", "objects", "resources", "outputs", "buckets", "apis"):
            assert project.facts[part] == undisturbed[part], (die_at, part)


def test_a_service_whose_code_is_deployed_already_is_left_alone(project: Any) -> None:
    project.deployed()
    applied = len(acting(project, "plan", "apply"))
    ran = project.run("deploy", "--service=job_notifier")
    assert ran.code == 0
    assert "nothing to do" in ran.said
    assert len(acting(project, "plan", "apply")) == applied


def test_one_service_is_refused_when_the_checkout_would_change_others_too(project: Any) -> None:
    project.deployed()
    before = project.facts
    project.change_code("job_notifier", "second")
    project.set(infrastructure="v2")
    ran = project.run("deploy", "--service=job_notifier")
    assert ran.code == 1
    assert "would change more than job_notifier" in ran.said
    assert "module.mobile_publisher.this" in ran.said
    assert "make deploy PROJECT=demo-dualdeploy REGION=us-central1" in ran.said
    assert project.facts["resources"] == before["resources"]


def test_one_service_of_a_system_that_was_never_finished_is_refused(project: Any) -> None:
    project.set(apis=[], die_at=4)
    project.run("deploy", "--region=us-central1")
    project.set(die_at=None)
    ran = project.run("deploy", "--service=job_notifier")
    assert ran.code == 1
    assert "make deploy PROJECT=demo-dualdeploy REGION=us-central1" in ran.said


def test_an_unknown_service_is_refused_with_the_known_ones(project: Any) -> None:
    project.deployed()
    ran = project.run("deploy", "--service=jobnotifier")
    assert ran.code == 1
    assert "job_notifier" in ran.said


def test_a_commit_deploys_what_changed_and_builds_nothing_else(project: Any) -> None:
    project.deployed()
    built = len(acting(project, "builds submit"))
    project.change_code("cloud_deployer", "second")
    project.change_code("training_launcher", "second")
    ran = project.run("deploy", "--code-only")
    assert ran.code == 0, ran.said
    assert "mobile_publisher: unchanged" in ran.said
    assert len(acting(project, "builds submit")) == built + 1
    # The account of Cloud Build may look at nothing else.
    assert acting(project, "plan")[-1][-1] == "-refresh=false"


def test_a_rehearsal_changes_nothing_and_shows_the_commands(project: Any) -> None:
    before = project.facts
    ran = project.run("plan", "--region=us-central1")
    assert ran.code == 0, ran.said
    assert "gcloud storage buckets create gs://demo-dualdeploy-dualdeploy-state" in ran.said
    for part in ("acted", "apis", "buckets", "resources", "images", "objects"):
        assert project.facts[part] == before[part]


def test_a_rehearsal_of_a_deployed_system_shows_what_would_change(project: Any) -> None:
    project.deployed()
    before = project.facts
    project.change_code("predictor", "second")
    ran = project.run("plan")
    assert ran.code == 0, ran.said
    assert "update: module.cloud_deployer.predictor" in ran.said
    assert "$ gcloud builds submit" in ran.said
    for part in ("acted", "resources", "images", "outputs"):
        assert project.facts[part] == before[part]


WAIT = {what: each.says for what, each in google_says.WAIT.items()}
FINAL = {what: each.says for what, each in google_says.FINAL.items()}

#: Every first call after an API was enabled, or after an account was made and granted something.
FIRST_CALLS = ["run regions list", "eventarc locations list", "storage buckets create", "builds submit", "storage cp"]


@pytest.mark.parametrize("says", WAIT.values(), ids=list(WAIT))
def test_what_google_says_while_something_does_not_count_yet_is_known(says: str) -> None:
    framed = "\n".join(f"│ {line}" for line in textwrap.wrap(says, 60, break_long_words=False, break_on_hyphens=False))
    assert refusals.what_passes(says)
    assert refusals.what_passes(f"╷\n{framed}\n╵" + "\nwhat follows it\n" * 1000)


@pytest.mark.parametrize("says", FINAL.values(), ids=list(FINAL))
def test_what_does_not_pass_is_not_waited_for(says: str) -> None:
    assert not refusals.what_passes(says)


@pytest.mark.parametrize("command", FIRST_CALLS)
def test_a_first_call_is_repeated_while_google_says_wait(project: Any, command: str) -> None:
    project.set(
        refuse={command: [WAIT["an API that was just enabled"], WAIT["a builder that may not read its source yet"]]}
    )
    ran = project.run("deploy", "--region=us-central1")
    assert ran.code == 0, ran.said
    assert ran.said.count("Google is not ready yet") == 2


@pytest.mark.parametrize("target", ["module.project", ""], ids=["the foundation", "everything"])
def test_an_apply_is_planned_and_made_again_while_google_says_wait(project: Any, target: str) -> None:
    refused = ["module.training_launcher.this", WAIT["Eventarc's agent, in lower case"]]
    project.set(fail_apply={target: [refused, refused]})
    ran = project.run("deploy", "--region=us-central1")
    assert ran.code == 0, ran.said
    assert ran.said.count("Google is not ready yet") == 2


def test_a_refusal_that_never_passes_ends_the_waiting(project: Any) -> None:
    project.set(refuse={"builds submit": [WAIT["a builder that may not read its source yet"]] * 30})
    ran = project.run("deploy", "--region=us-central1")
    assert ran.code == 1
    assert "does not have storage.objects.get access" in ran.said
    assert ran.said.count("asked again in 0 s") == 10


def test_an_optional_product_that_is_never_ready_is_left_out_in_the_end(project: Any) -> None:
    address = "module.monitoring[0].google_monitoring_alert_policy.clock_stopped"
    project.set(fail_apply={"": [[address, WAIT["a metric that Cloud Monitoring does not know yet"]]] * 30})
    ran = project.run("deploy", "--region=us-central1")
    assert ran.code == 1
    assert ran.said.count("Google is not ready yet") == 10
    assert "job_notifier: ready" in ran.said
    assert "in terraform.tfvars: monitoring = false" in ran.said


def test_a_real_refusal_is_not_tried_again_and_is_shown(project: Any) -> None:
    refused = ["module.messaging.this", FINAL["a permission that a person lacks"]]
    project.set(fail_apply={"": [refused, refused]})
    ran = project.run("deploy", "--region=us-central1")
    assert ran.code == 1
    assert "module.messaging.this" in ran.said
    assert "pubsub.topics.create" in ran.said
    assert len(project.facts["fail_apply"][""]) == 1


def test_a_refusal_with_a_remedy_that_google_does_not_name_is_told_with_it(project: Any) -> None:
    project.set(fail_apply={"": [["module.storage.this", FINAL["a bucket's name that somebody else has"]]]})
    assert "deploy to a project with another id" in project.run("deploy", "--region=us-central1").said


def test_a_bucket_that_would_be_made_anew_is_refused_unless_told(project: Any) -> None:
    project.deployed()
    project.set(replaces_bucket=True)
    ran = project.run("deploy")
    assert ran.code == 1
    assert 'module.storage.google_storage_bucket.bucket["data"]' in ran.said
    assert project.run("deploy", "--delete-data").code == 0


def test_a_lock_that_a_killed_deployment_left_names_the_command_that_takes_it_away(project: Any) -> None:
    project.deployed()
    project.set(locked=True)
    ran = project.run("deploy")
    assert ran.code == 1
    assert "force-unlock 1234" in ran.said


def test_a_service_that_does_not_become_ready_is_named_with_the_command_that_says_why(project: Any) -> None:
    project.set(not_ready=["job-notifier"])
    ran = project.run("deploy", "--region=us-central1")
    assert ran.code == 1
    assert "gcloud run services logs read job-notifier" in ran.said
