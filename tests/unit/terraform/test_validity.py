"""Terraform accepts the configuration: style, schema, a plan from nothing, and each service alone."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from stub_provider import TerraformFailed, load_schema

TERRAFORM = Path(__file__).resolve().parents[3] / "infra" / "terraform"
SERVICES = ["training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher"]

# Every test starts terraform, some of them several times.
pytestmark = pytest.mark.slow


def remove_module(folder: Path, name: str) -> None:
    file = folder / "main.tf"
    text, removed = re.subn(rf'^module "{name}" \{{\n.*?^\}}\n', "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert removed == 1
    file.write_text(text)


def test_every_file_is_formatted(workplace: Callable[[], Path]) -> None:
    workplace()  # skips where there is no terraform
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", "-list=true", str(TERRAFORM)],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TF_CLI_CONFIG_FILE": "/dev/null", "CHECKPOINT_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == [], "run: terraform fmt -recursive infra/terraform"
    assert done.returncode == 0, done.stderr


def test_an_empty_project_can_be_planned(
    workplace: Callable[[], Path], terraform: Callable[..., Any], variables: Mapping[str, Any]
) -> None:
    folder = workplace()
    planned = terraform(folder).plan(variables)
    assert {change["change"]["actions"][0] for change in planned["resource_changes"]} == {"create"}
    assert "Success" in terraform(folder)("validate", "-no-color")


def test_a_bucket_that_is_linked_to_firebase_gets_the_rules_for_phones(
    workplace: Callable[[], Path], terraform: Callable[..., Any], variables: Mapping[str, Any], plan: Any
) -> None:
    planned = terraform(workplace()).plan({**variables, "firebase_bucket_linked": True})
    before = {resource.address for resource in plan.resources}
    added = {
        change["type"]: change["change"]["after"]
        for change in planned["resource_changes"]
        if change["address"] not in before
    }
    assert set(added) == {"google_firebaserules_ruleset", "google_firebaserules_release", "google_project_service"}
    assert added["google_firebaserules_release"]["name"] == f"firebase.storage/{variables['project']}-mobile"
    rules = (TERRAFORM.parent / "firebase" / "storage.rules").read_text()
    assert added["google_firebaserules_ruleset"]["source"][0]["files"][0]["content"] == rules


@pytest.mark.parametrize("service", SERVICES)
def test_without_one_service_the_rest_is_planned_unchanged(
    service: str, workplace: Callable[[], Path], terraform: Callable[..., Any], variables: Mapping[str, Any], plan: Any
) -> None:
    folder = workplace()
    remove_module(folder, service)
    planned = terraform(folder).plan(variables)
    rest = {resource.address for resource in plan.resources if resource.owner != service}
    assert {change["address"] for change in planned["resource_changes"]} == rest
    assert len(rest) < len(plan.resources)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"project": "Demo"}, "6 to 30"),
        ({"operators": ["allUsers"]}, "may replace a model"),
        ({"images": {"trainer": "eu.gcr.io/demo/trainer:latest"}}, "by digest"),
    ],
    ids=["a wrong project id", "everybody as operator", "an image by tag"],
)
def test_what_must_not_be_deployed_is_refused_with_advice(
    change: Mapping[str, Any],
    complaint: str,
    workplace: Callable[[], Path],
    terraform: Callable[..., Any],
    variables: Mapping[str, Any],
) -> None:
    changed = {**variables, **change}
    if "images" in change:
        changed["images"] = {**variables["images"], **change["images"]}
    with pytest.raises(TerraformFailed, match=complaint):
        terraform(workplace()).plan(changed)


def test_the_project_can_be_prepared_before_there_are_images_and_packages(
    workplace: Callable[[], Path], terraform: Callable[..., Any]
) -> None:
    folder = workplace()
    (folder / "terraform.tfvars.json").write_text(json.dumps({"project": "demo-dualdeploy"}))
    run = terraform(folder)
    run("init", "-input=false", "-no-color")
    said = run("plan", "-input=false", "-no-color", "-lock=false", "-target=module.project")
    made = set(re.findall(r"# (module\.\w+)\S* will be created", said))
    assert made == {"module.project"}


def test_a_misspelt_argument_is_found(workplace: Callable[[], Path], terraform: Callable[..., Any]) -> None:
    # The stub is only worth something while it refuses what the provider would refuse.
    folder = workplace()
    file = folder.parents[1] / "modules" / "messaging" / "main.tf"
    file.write_text(file.read_text().replace("ack_deadline_seconds =", "ack_deadline ="))
    run = terraform(folder)
    run("init", "-input=false", "-no-color")
    with pytest.raises(TerraformFailed, match='argument named "ack_deadline" is not expected'):
        run("validate", "-no-color")


def test_every_resource_type_in_use_is_in_the_schema() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in TERRAFORM.rglob("*.tf"))
    schema = load_schema()
    for kind in ("resource", "data"):
        used = set(re.findall(rf'^{kind} "(\w+)"', text, flags=re.MULTILINE))
        assert used == set(schema[kind]), "run make_provider_schema.py again"


def test_the_dashboard_is_json_with_a_filter_for_each_chart(plan: Any) -> None:
    (dashboard,) = plan.of("google_monitoring_dashboard")
    widgets = json.loads(dashboard.values["dashboard_json"])["gridLayout"]["widgets"]
    charts = [widget["xyChart"]["dataSets"][0]["timeSeriesQuery"] for widget in widgets if "xyChart" in widget]
    assert len(charts) == len(widgets) - 1
    assert all("metric.type=" in chart["timeSeriesFilter"]["filter"] for chart in charts)
