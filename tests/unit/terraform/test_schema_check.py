"""`make schema` finds what is wrong in Terraform; here against a provider of one resource and one data source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import schema_check
from schema_check import Bindings

#: As pulumi_gcp has its classes: required without a default, blocks as classes of _inputs.py, lists in the plural.
TOPIC = '''
class TopicArgs:
    def __init__(__self__, *,
                 name: pulumi.Input[str],
                 kind: Optional[pulumi.Input[str]] = None,
                 retries: Optional[pulumi.Input[int]] = None,
                 labels: Optional[pulumi.Input[Mapping[str, pulumi.Input[str]]]] = None,
                 event_types: Optional[pulumi.Input[Sequence[pulumi.Input[str]]]] = None,
                 policies: Optional[pulumi.Input[Sequence[pulumi.Input['TopicPolicyArgs']]]] = None):
        """
        :param pulumi.Input[str] name: Name of the topic.
        :param pulumi.Input[str] kind: What it is. Possible values are: `FAST`, `SLOW`.
        :param pulumi.Input[int] retries: How often.
        """

class Topic:
    def __init__(__self__):
        """
        ## Import

        * `projects/{{project}}/topics/{{name}}`
        """
'''
INPUTS = """
class TopicPolicyArgs:
    def __init__(__self__, *,
                 regions: pulumi.Input[Sequence[pulumi.Input[str]]]):
        pass
"""
PROJECT = """
def get_project(project_id: Optional[str] = None, opts: Optional[pulumi.InvokeOptions] = None) -> AwaitableProject:
    pass
"""
POLICY = """dynamic "policy" {
    for_each = [1]
    content {
      regions = ["us-central1"]
    }
  }"""
RIGHT = f"""
resource "google_pubsub_topic" "a" {{
  for_each    = var.topics
  name        = each.key
  kind        = "FAST"
  retries     = "3"
  labels      = {{ app = "x" }}
  event_types = ["A"]
  {POLICY}
}}

data "google_project" "this" {{
  project_id = var.project
}}
"""
WRONG = {
    "no such type": (
        '"google_pubsub_topic" "a"',
        '"google_pubsub_topik" "a"',
        "there is no resource google_pubsub_topik",
    ),
    "no such data source": ('"google_project"', '"google_projekt"', "there is no data google_projekt"),
    "no such argument": ("retries ", "tries ", "google_pubsub_topic.a: tries: there is no such argument"),
    "no such argument of a block": (
        "regions ",
        "areas ",
        "google_pubsub_topic.a > policy: areas: there is no such argument",
    ),
    "no such block": ('dynamic "policy"', 'dynamic "polity"', "google_pubsub_topic.a > polity: there is no such block"),
    "a required argument": ("name        = each.key", "", "google_pubsub_topic.a: name is required, and missing"),
    "an attribute as a block": (
        'labels      = { app = "x" }',
        "labels {\n}",
        "labels: is a map, and written as a block",
    ),
    "a block as an attribute": (POLICY, "policy = []", "policy: is a block, and written as an attribute"),
    "a list for a text": ('"FAST"', '["FAST"]', "kind: is a string, and given a list"),
    "a text for a list": ('["A"]', '"A"', "event_types: is a list, and given a string"),
    "another value": ('"FAST"', '"QUICK"', "kind: QUICK is none of FAST, SLOW"),
}


@pytest.fixture
def bindings(tmp_path: Path) -> Bindings:
    for name, text in (("pubsub/topic", TOPIC), ("pubsub/_inputs", INPUTS), ("organizations/get_project", PROJECT)):
        file = tmp_path / "pulumi_gcp" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Bindings(tmp_path)


def problems(folder: Path, bindings: Bindings, text: str, imports: Mapping[str, str]) -> list[str]:
    file = folder / "infra" / "terraform" / "main.tf"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return schema_check.check(folder, bindings, imports).problems


def test_what_the_provider_has_is_let_through(tmp_path: Path, bindings: Bindings) -> None:
    assert problems(tmp_path, bindings, RIGHT, {}) == []


@pytest.mark.parametrize("fault", WRONG)
def test_what_the_provider_would_refuse_is_found(fault: str, tmp_path: Path, bindings: Bindings) -> None:
    ours, wrong, says = WRONG[fault]
    text = RIGHT.replace(ours, wrong)
    assert text != RIGHT
    assert any(says in each for each in problems(tmp_path, bindings, text, {}))


def test_a_thing_is_taken_over_by_the_name_that_is_documented(tmp_path: Path, bindings: Bindings) -> None:
    right = {"google_pubsub_topic": "projects/{project}/topics/{name}"}
    assert problems(tmp_path, bindings, RIGHT, right) == []
    (problem,) = problems(tmp_path, bindings, RIGHT, {"google_pubsub_topic": "{project}/{name}"})
    assert "google_pubsub_topic is imported as projects/{project}/topics/{name}" in problem
