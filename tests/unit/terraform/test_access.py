"""Every account may do what its code does and no more; infra/bindings.json is what Terraform plans, and says why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.google.automl import AutoML
from dualdeploy.google.vertex import Vertex
from local_cloud import topology as topologies
from local_cloud.iam.bindings import Binding, Bindings, condition

REPOSITORY = Path(__file__).resolve().parents[3]
SERVICES = ["training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher"]
BINDINGS = Bindings.load(REPOSITORY / "infra" / "bindings.json")

pytestmark = pytest.mark.slow

#: What each call of `dualdeploy.google.vertex` needs. An operation is looked at with the right to get what it works on.
#: Source: https://docs.cloud.google.com/gemini-enterprise-agent-platform/machine-learning/general/iam-permissions
VERTEX: Mapping[str, frozenset[str]] = {
    "create_custom_job": frozenset({"customJobs.create"}),
    "find_custom_jobs": frozenset({"customJobs.list"}),
    "get_custom_job": frozenset({"customJobs.get"}),
    # It may look whether the job has ended meanwhile.
    "cancel_custom_job": frozenset({"customJobs.cancel", "customJobs.get"}),
    "find_model_version": frozenset({"models.get"}),
    "start_delete_model": frozenset({"models.delete"}),
    # So do the versions of a model: the page has no right for them alone.
    "find_model_versions": frozenset({"models.list"}),
    "start_delete_version": frozenset({"models.delete", "models.get"}),
    "start_export": frozenset({"models.export", "models.get"}),
    "start_upload": frozenset({"models.get", "models.upload"}),
    # Google's page does not list mergeVersionAliases; a change of a model takes the right to update it.
    "change_aliases": frozenset({"models.update"}),
    "has_evaluation": frozenset({"modelEvaluations.list"}),
    "import_evaluation": frozenset({"modelEvaluations.import"}),
    "find_endpoint": frozenset({"endpoints.get"}),
    "find_endpoints": frozenset({"endpoints.list"}),
    "start_delete_endpoint": frozenset({"endpoints.delete", "endpoints.get"}),
    "start_create_endpoint": frozenset({"endpoints.create", "endpoints.get"}),
    "start_deploy": frozenset({"endpoints.deploy", "endpoints.get"}),
    "start_undeploy": frozenset({"endpoints.undeploy", "endpoints.get"}),
    "set_request_logging": frozenset({"endpoints.update"}),
    "set_traffic": frozenset({"endpoints.update"}),
    "predict": frozenset({"endpoints.predict"}),
    "operation": frozenset(),
}


#: The same of `dualdeploy.google.automl`.
AUTOML: Mapping[str, frozenset[str]] = {
    "find_datasets": frozenset({"datasets.list"}),
    "find_dataset": frozenset({"datasets.get"}),
    "start_create_dataset": frozenset({"datasets.create", "datasets.get"}),
    "start_import": frozenset({"datasets.import", "datasets.get"}),
    "start_delete_dataset": frozenset({"datasets.delete", "datasets.get"}),
    "create_pipeline": frozenset({"trainingPipelines.create", "models.get"}),
    "find_pipelines": frozenset({"trainingPipelines.list"}),
    "get_pipeline": frozenset({"trainingPipelines.get"}),
    # It may look whether the pipeline has ended meanwhile.
    "cancel_pipeline": frozenset({"trainingPipelines.cancel", "trainingPipelines.get"}),
    "find_evaluation": frozenset({"modelEvaluations.list"}),
    "operation": frozenset(),
}
CALLS = {**VERTEX, **AUTOML}


def host(service: str) -> str:
    return service.replace("_", "-")


def account(member: str) -> str:
    """`job-notifier` for our own accounts, something readable for those of Google."""
    if found := re.fullmatch(r"serviceAccount:([a-z0-9-]+)@demo-dualdeploy\.iam\.gserviceaccount\.com", member):
        return found[1]
    if "gcp-sa-pubsub" in member:
        return "Pub/Sub"
    if "gs-project-accounts" in member:
        return "Cloud Storage"
    return "Cloud Logging" if "writer_identity" in member else member


def conditional_grants(plan: Any) -> Iterator[tuple[str, str, str, tuple[str, str]]]:
    """(account, role, where, title and expression of its condition) of everything that is granted."""
    for found in plan.resources:
        values = found.values
        if "member" not in values or "role" not in values:
            continue
        role = values["role"]
        if role.startswith("google_project_iam_custom_role/"):
            role = role.split("/")[1]
        [limits] = values.get("condition") or [{"title": "", "expression": ""}]
        yield (
            account(values["member"]),
            role,
            _where(found.type, values),
            (limits["title"], limits["expression"]),
        )


def grants(plan: Any) -> Iterator[tuple[str, str, str]]:
    """(account, role, where) of everything that is granted."""
    return ((who, role, where) for who, role, where, _ in conditional_grants(plan))


def _where(kind: str, values: Mapping[str, Any]) -> str:
    if kind == "google_storage_bucket_iam_member":
        return f"bucket {values['bucket'].removeprefix('demo-dualdeploy-')}"
    if kind == "google_pubsub_topic_iam_member":
        topic = values["topic"]
        return f"topic {topic.split('/')[1] if '/' in topic else topic}"
    if kind == "google_pubsub_subscription_iam_member":
        return "its subscriptions"
    if kind == "google_cloud_run_v2_service_iam_member":
        return f"service {values['name']}"
    if kind == "google_service_account_iam_member":
        return f"account {values['service_account_id'].split('/')[1]}"
    return "repository dualdeploy" if kind == "google_artifact_registry_repository_iam_member" else "project"


def trees(service: str) -> Iterator[ast.AST]:
    for path in (REPOSITORY / "services" / service / service).rglob("*.py"):
        yield ast.parse(path.read_text(encoding="utf-8"))


def called(service: str) -> set[str]:
    """The calls of Vertex AI that the service's code makes."""
    return {
        node.func.attr
        for tree in trees(service)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS
    }


def buckets_of(service: str) -> set[str]:
    """The buckets that the service's main.py opens."""
    text = (REPOSITORY / "services" / service / "main.py").read_text(encoding="utf-8")
    return set(re.findall(r"\bread\.(\w+)_bucket\b", text))


@pytest.mark.parametrize(("port", "written"), [(Vertex, VERTEX), (AutoML, AUTOML)])
def test_every_call_of_vertex_ai_has_its_permissions_written_down(port: type, written: Mapping[str, Any]) -> None:
    assert {name for name in vars(port) if not name.startswith("_")} == set(written)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_do_on_vertex_ai_what_its_code_calls_and_nothing_else(service: str, plan: Any) -> None:
    needed = {f"aiplatform.{permission}" for call in called(service) for permission in CALLS[call]}
    roles = [each.values for each in plan.of("google_project_iam_custom_role") if each.owner == service]
    granted = {permission for role in roles for permission in role["permissions"]}
    assert granted == needed


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_reaches_the_buckets_that_it_opens_and_no_other(
    service: str, plan: Any, topology: Mapping[str, Any]
) -> None:
    reached = {where for who, _, where in grants(plan) if who == host(service) and where.startswith("bucket ")}
    assert reached == {bucket_name(topology, key) for key in buckets_of(service)}


def bucket_name(topology: Mapping[str, Any], key: str) -> str:
    """How `grants` calls a bucket."""
    return f"bucket {topology['buckets'][key]['name'].removeprefix('demo-dualdeploy-')}"


def test_who_writes_to_a_bucket_is_who_the_topology_says(plan: Any, topology: Mapping[str, Any]) -> None:
    writing = ("roles/storage.objectUser", "roles/storage.objectCreator")
    for key, bucket in topology["buckets"].items():
        name = bucket_name(topology, key)
        writers = {who for who, role, where in grants(plan) if where == name and role in writing}
        said = {host(writer) for writer in bucket["writers"] if writer not in ("people", "pipelines")}
        # The launcher leaves the job's document beside the artifacts that the job will write.
        assert writers == said | ({"training-launcher"} if key == "models" else set())


def test_who_publishes_to_a_topic_is_who_the_topology_says(plan: Any, topology: Mapping[str, Any]) -> None:
    words = {"Cloud Storage": "Cloud Storage notification", "Cloud Logging": "Cloud Logging sink", "Pub/Sub": "Pub/Sub"}
    for name, topic in topology["topics"].items():
        publishers = {
            who for who, role, where in grants(plan) if where == f"topic {name}" and role == "roles/pubsub.publisher"
        }
        # People have their own rights, and Cloud Scheduler's service agent may publish anywhere.
        said = [publisher for publisher in topic["publishers"] if publisher not in ("people", "Cloud Scheduler")]
        assert len(publishers) == len(said), name
        for who in publishers:
            assert any(text.startswith(words.get(who, who.replace("-", "_"))) for text in said), (name, who)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_called_by_its_own_caller_and_by_the_named_people_only(service: str, plan: Any) -> None:
    callers = {
        who for who, role, where in grants(plan) if where == f"service {host(service)}" and role == "roles/run.invoker"
    }
    people = {"group:ml@example.com", "console"} if service in ("cloud_deployer", "mobile_publisher") else set()
    assert callers == {f"{host(service)}-caller"} | people


def test_a_caller_may_call_and_nothing_else(plan: Any) -> None:
    roles = {role for who, role, _ in grants(plan) if who.endswith("-caller")}
    assert roles == {"roles/run.invoker", "roles/eventarc.eventReceiver"}


def test_what_is_not_called_by_people_is_not_reachable_from_outside(plan: Any) -> None:
    functions = [
        each.values["service_config"][0]["ingress_settings"] for each in plan.of("google_cloudfunctions2_function")
    ]
    assert set(functions) == {"ALLOW_INTERNAL_ONLY"}


def test_everyone_may_call_what_asks_for_tokens_of_its_own_and_nothing_else(plan: Any) -> None:
    open_to_everybody = {
        each.values["name"] for each in plan.of("google_cloud_run_v2_service") if each.values["invoker_iam_disabled"]
    }
    assert open_to_everybody == {"gateway"}


def test_no_account_has_a_wide_role(plan: Any) -> None:
    on_the_project = {(who, role) for who, role, where in grants(plan) if where == "project"}
    assert on_the_project == {
        ("training-launcher", "dualdeploy_training_launcher"),
        ("job-notifier", "dualdeploy_job_notifier"),
        ("training-launcher", "dualdeploy_training_launcher_automl"),
        ("job-notifier", "dualdeploy_job_notifier_automl"),
        ("mobile-publisher", "dualdeploy_mobile_publisher_automl"),
        ("cloud-deployer", "dualdeploy_cloud_deployer"),
        ("cloud-deployer", "roles/monitoring.viewer"),
        ("console", "roles/monitoring.viewer"),
        ("gateway", "dualdeploy_gateway"),
        ("mobile-publisher", "roles/firebaseml.admin"),
        ("mobile-publisher", "roles/cloudconfig.admin"),
        ("training-launcher-caller", "roles/eventarc.eventReceiver"),
        ("Cloud Storage", "roles/pubsub.publisher"),
        ("dualdeploy-builder", "roles/storage.objectViewer"),
        ("dualdeploy-builder", "roles/logging.logWriter"),
        ("dualdeploy-releaser", "dualdeploy_releaser"),
        ("dualdeploy-releaser", "roles/logging.logWriter"),
    }


def test_who_writes_the_template_of_remote_config_may_and_its_api_is_on(plan: Any) -> None:
    writers = {
        service
        for service in SERVICES
        if "RemoteConfigGateway(" in (REPOSITORY / "services" / service / "main.py").read_text(encoding="utf-8")
    }
    granted = {who for who, role, _ in grants(plan) if role == "roles/cloudconfig.admin"}
    assert granted == {host(service) for service in writers}
    enabled = {each.values["service"] for each in plan.of("google_project_service")}
    assert {"firebaseml.googleapis.com", "firebaseremoteconfig.googleapis.com"} <= enabled


def test_every_account_has_a_purpose(plan: Any) -> None:
    accounts = {each.values["account_id"] for each in plan.of("google_service_account")}
    assert accounts == {who for who, _, _ in grants(plan)} - {
        "Pub/Sub",
        "Cloud Storage",
        "Cloud Logging",
        "group:ml@example.com",
    }


def test_every_line_of_the_file_of_bindings_says_why() -> None:
    assert [each.name for each in BINDINGS.bindings if len(each.why) < 10] == []


def test_terraform_grants_what_the_file_of_bindings_says_and_nothing_else(plan: Any) -> None:
    described = topologies.load(REPOSITORY / "infra" / "topology.json", project="demo-dualdeploy", region="us-central1")

    def limits(binding: Binding) -> tuple[str, str]:
        found = condition(binding, described)
        return (found.title, found.expression) if found else ("", "")

    said = {(each.account, each.role, each.on, limits(each)) for each in BINDINGS.bindings}
    granted = {
        ("an operator" if who.startswith("group:") else who, role, where, limited)
        for who, role, where, limited in conditional_grants(plan)
    }
    assert sorted(granted - said) == []
    assert sorted(said - granted) == []


def test_a_custom_role_holds_the_permissions_that_the_file_of_bindings_says(plan: Any) -> None:
    planned = {
        each.values["role_id"]: sorted(each.values["permissions"]) for each in plan.of("google_project_iam_custom_role")
    }
    assert planned == {name: sorted(permissions) for name, permissions in BINDINGS.custom_roles.items()}
