"""What Terraform plans is what infra/topology.json says, and leads to code that exists."""

from __future__ import annotations

import base64
import dataclasses
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.http.entrypoint import MAX_BODY_BYTES

REPOSITORY = Path(__file__).resolve().parents[3]
EVENTS = REPOSITORY / "tests" / "events"
SERVICES = ["training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher"]

pytestmark = pytest.mark.slow


def handled_events(service: str) -> set[str]:
    """The names that the service maps to handlers; what is behind them is not reached."""
    composed = importlib.import_module(f"{service}.service").Service
    return set(composed(**{field.name: None for field in dataclasses.fields(composed)}).handlers)


def host(service: str) -> str:
    return service.replace("_", "-")


def runs(plan: Any, service: str) -> Mapping[str, Any]:
    """The planned Cloud Run service or function."""
    kinds = ("google_cloudfunctions2_function", "google_cloud_run_v2_service")
    return next(found.values for found in plan.of(*kinds) if found.values["name"] == host(service))


def test_every_bucket_is_private_and_has_uniform_access(plan: Any, topology: Mapping[str, Any]) -> None:
    buckets = {each.values["name"]: each.values for each in plan.of("google_storage_bucket")}
    assert {bucket["name"] for bucket in topology["buckets"].values()} < set(buckets)
    for bucket in buckets.values():
        assert bucket["uniform_bucket_level_access"] is True
        assert bucket["public_access_prevention"] == "enforced"


def test_pages_of_a_browser_read_what_phones_read_only_where_they_are_named(
    plan: Any, workplace: Any, terraform: Any, variables: Mapping[str, Any]
) -> None:
    assert [each.values["name"] for each in plan.of("google_storage_bucket") if each.values["cors"]] == []
    origins = ["https://app.example.com"]
    changes = terraform(workplace()).plan({**variables, "browser_origins": origins})["resource_changes"]
    rules = {
        each["change"]["after"]["name"]: each["change"]["after"]["cors"]
        for each in changes
        if each["type"] == "google_storage_bucket" and each["change"]["after"]["cors"]
    }
    ((name, (rule,)),) = rules.items()
    assert (name, rule["origin"], rule["method"]) == ("demo-dualdeploy-mobile", origins, ["GET"])


def test_what_cannot_be_made_again_is_kept(plan: Any, topology: Mapping[str, Any]) -> None:
    for key, bucket in topology["buckets"].items():
        planned = plan.one("google_storage_bucket", bucket["name"])
        assert planned["force_destroy"] is False
        assert planned["versioning"][0]["enabled"] is (key != "models")  # artifacts are written once
        for rule in planned["lifecycle_rule"]:
            if rule["action"][0]["type"] == "Delete":
                condition = rule["condition"][0]
                # Current versions are deleted nowhere but where nothing looks for them any more.
                aside = condition["matches_prefix"] in (["rejected/"], ["requests/"])
                assert condition["days_since_noncurrent_time"] or aside


def test_every_lifecycle_is_planned_as_the_topology_has_it(plan: Any, topology: Mapping[str, Any]) -> None:
    names = {
        "noncurrent_days": "days_since_noncurrent_time",
        "newer_versions": "num_newer_versions",
        "prefixes": "matches_prefix",
        "age": "age",
    }
    for bucket in topology["buckets"].values():
        rules = plan.one("google_storage_bucket", bucket["name"])["lifecycle_rule"]
        planned = [
            (
                rule["action"][0]["type"],
                rule["action"][0]["storage_class"],
                {key: value for key, value in rule["condition"][0].items() if value is not None},
            )
            for rule in rules
        ]
        assert planned == [
            *(
                (rule["action"], rule.get("storage_class"), {names[key]: rule[key] for key in names if key in rule})
                for rule in bucket["lifecycle"]
            ),
            ("AbortIncompleteMultipartUpload", None, {"age": 7}),
        ]


def test_every_topic_exists_and_stays_in_its_region(plan: Any, topology: Mapping[str, Any]) -> None:
    topics = {each.values["name"]: each.values for each in plan.of("google_pubsub_topic")}
    assert set(topics) == set(topology["topics"])
    for topic in topics.values():
        assert topic["message_storage_policy"][0]["allowed_persistence_regions"] == ["us-central1"]


def test_every_topic_has_a_subscriber(plan: Any, topology: Mapping[str, Any]) -> None:
    subscribed = {each.values["topic"].split("/")[1] for each in plan.of("google_pubsub_subscription")}
    assert subscribed == set(topology["topics"])


def test_every_subscription_is_planned_as_the_topology_has_it(plan: Any, topology: Mapping[str, Any]) -> None:
    planned = {each.values["name"]: each.values for each in plan.of("google_pubsub_subscription")}
    assert set(planned) == set(topology["subscriptions"])
    for name, wanted in topology["subscriptions"].items():
        found = planned[name]
        assert found["topic"] == f"google_pubsub_topic/{wanted['topic']}/id"
        assert found["filter"] == wanted.get("filter")
        assert found["ack_deadline_seconds"] == wanted["ack_deadline_seconds"]
        assert found["message_retention_duration"] == f"{wanted.get('message_retention_seconds', 604800)}s"
        # A subscription that expires takes what waits in it along.
        assert found["expiration_policy"] == [{"ttl": ""}]
        assert bool(found["push_config"]) is not wanted.get("pull", False)


def test_every_push_is_retried_given_up_in_the_end_and_signed(plan: Any, topology: Mapping[str, Any]) -> None:
    pushed = {name: each for name, each in topology["subscriptions"].items() if not each.get("pull")}
    for name, wanted in pushed.items():
        found = plan.one("google_pubsub_subscription", name)
        retry = wanted["retry_policy"]
        assert found["retry_policy"] == [
            {
                "minimum_backoff": f"{retry['minimum_backoff_seconds']}s",
                "maximum_backoff": f"{retry['maximum_backoff_seconds']}s",
            }
        ]
        dead_letters = [
            {
                "dead_letter_topic": f"google_pubsub_topic/{dead['topic']}/id",
                "max_delivery_attempts": dead["max_delivery_attempts"],
            }
            for dead in [wanted.get("dead_letter_policy")]
            if dead
        ]
        assert (found["dead_letter_policy"] or []) == dead_letters
        push = found["push_config"][0]
        address = push["oidc_token"][0]["audience"]
        assert address.endswith(f"/{host(wanted['service'])}/uri")
        assert push["push_endpoint"] == address + wanted["path"]
        caller = f"{host(wanted['service'])}-caller@demo-dualdeploy.iam.gserviceaccount.com"
        assert push["oidc_token"][0]["service_account_email"] == caller


@pytest.mark.parametrize("service", SERVICES)
def test_every_path_that_events_are_sent_to_is_answered_and_every_handler_is_reached(
    service: str, plan: Any, topology: Mapping[str, Any]
) -> None:
    pushed = [
        each.values["push_config"][0]["push_endpoint"].split("/uri", 1)[1]
        for each in plan.of("google_pubsub_subscription")
        if each.owner == service
    ]
    destinations = [
        each.values["destination"][0]["cloud_run_service"][0]
        for each in plan.of("google_eventarc_trigger")
        if each.owner == service
    ]
    assert {destination["service"] for destination in destinations} <= {host(service)}
    paths = pushed + [destination["path"] for destination in destinations]
    assert {path.removeprefix("/events/") for path in paths} == handled_events(service)


def test_every_trigger_is_planned_as_the_topology_has_it(plan: Any, topology: Mapping[str, Any]) -> None:
    wanted = {
        trigger["name"]: {"type": trigger["event"], "bucket": bucket["name"]}
        for bucket in topology["buckets"].values()
        for trigger in bucket.get("triggers", [])
    }
    planned = {
        each.values["name"]: {one["attribute"]: one["value"] for one in each.values["matching_criteria"]}
        for each in plan.of("google_eventarc_trigger")
    }
    assert planned == wanted


def test_every_notification_is_planned_as_the_topology_has_it(plan: Any, topology: Mapping[str, Any]) -> None:
    wanted = [
        (bucket["name"], f"google_pubsub_topic/{each['topic']}/id", each["event_types"], each["object_name_prefix"])
        for bucket in topology["buckets"].values()
        for each in bucket.get("notifications", [])
    ]
    keys = ("bucket", "topic", "event_types", "object_name_prefix")
    planned = [tuple(each.values[key] for key in keys) for each in plan.of("google_storage_notification")]
    assert planned == wanted


def test_the_clock_ticks_as_the_topology_says(plan: Any, topology: Mapping[str, Any]) -> None:
    for name, schedule in topology["schedules"].items():
        job = plan.one("google_cloud_scheduler_job", f"dualdeploy-{name}")
        assert job["schedule"] == schedule["cron"]
        target = job["pubsub_target"][0]
        assert target["topic_name"] == f"google_pubsub_topic/{schedule['topic']}/id"
        assert json.loads(base64.b64decode(target["data"])) == schedule["data"]


def logged(file: str) -> Mapping[str, Any]:
    event = json.loads((EVENTS / file).read_text(encoding="utf-8"))
    return json.loads(base64.b64decode(event["body"]["message"]["data"]))  # type: ignore[no-any-return]


def is_let_through(filter_: str, entry: Mapping[str, Any]) -> bool:
    """The part of Cloud Logging's query language that the sink uses: lines are joined by AND."""
    resource, task, texts = filter_.strip().splitlines()
    return (
        resource == f'resource.type="{entry["resource"]["type"]}"'
        and task == f'resource.labels.task_name="{entry["resource"]["labels"].get("task_name")}"'
        and any(
            re.search(pattern, str(entry.get("textPayload", "")) if field == "textPayload" else _message(entry))
            for field, pattern in re.findall(r'(textPayload|jsonPayload\.message)=~"([^"]+)"', texts)
        )
    )


def _message(entry: Mapping[str, Any]) -> str:
    return str(entry.get("jsonPayload", {}).get("message", ""))


def test_the_log_sink_takes_both_forms_of_an_end_and_nothing_else(plan: Any) -> None:
    (sink,) = plan.of("google_logging_project_sink")
    assert sink.values["destination"] == "pubsub.googleapis.com/google_pubsub_topic/training-job-logs/id"
    let_through = sink.values["filter"]
    text, payload = logged("pubsub_push_training_job_text.json"), logged("pubsub_push_training_job_json.json")
    assert is_let_through(let_through, text)
    assert is_let_through(let_through, payload)
    assert not is_let_through(let_through, {**text, "textPayload": "Epoch 3: accuracy 0.81"})
    assert not is_let_through(let_through, {**payload, "jsonPayload": {"message": "my Job failed. I think"}})
    assert not is_let_through(let_through, logged("pubsub_push_log_of_another_resource.json"))
    of_a_worker = {**text, "resource": {**text["resource"], "labels": {"task_name": "workerpool0-0"}}}
    assert not is_let_through(let_through, of_a_worker)


@pytest.mark.parametrize("service", SERVICES)
def test_no_request_is_cut_off_before_pubsub_stops_waiting(
    service: str, plan: Any, topology: Mapping[str, Any]
) -> None:
    deadlines = [
        each["ack_deadline_seconds"] for each in topology["subscriptions"].values() if each.get("service") == service
    ]
    found = runs(plan, service)
    timeout = (
        found["service_config"][0]["timeout_seconds"]
        if topology["services"][service]["kind"] == "function"
        else int(found["template"][0]["timeout"].removesuffix("s"))
    )
    assert timeout >= max(deadlines)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_scales_to_zero_and_not_without_end(service: str, plan: Any, topology: Mapping[str, Any]) -> None:
    found = runs(plan, service)
    scaling = found["service_config"][0] if "service_config" in found else found["template"][0]["scaling"][0]
    assert scaling["min_instance_count"] == 0
    assert 1 <= scaling["max_instance_count"] <= 20


def test_functions_are_what_make_package_makes(plan: Any) -> None:
    for function in plan.of("google_cloudfunctions2_function"):
        build = function.values["build_config"][0]
        service = function.values["name"].replace("-", "_")
        main = (REPOSITORY / "services" / service / "main.py").read_text(encoding="utf-8")
        assert f"def {build['entry_point']}(" in main
        assert build["runtime"] == "python311"
        assert re.fullmatch(rf"{service}/[0-9a-f]{{64}}\.zip", build["source"][0]["storage_source"][0]["object"])


def test_a_body_that_a_service_accepts_fits_into_every_instance(plan: Any) -> None:
    # Two requests at once with the largest body must not kill the smallest instance.
    assert 2 * MAX_BODY_BYTES < 512 * 1024 * 1024
    memories = [
        each.values["service_config"][0]["available_memory"] for each in plan.of("google_cloudfunctions2_function")
    ]
    limits = [
        each.values["template"][0]["containers"][0]["resources"][0]["limits"]["memory"]
        for each in plan.of("google_cloud_run_v2_service")
    ]
    assert set(memories + limits) == {"512Mi", "2Gi", "4Gi"}
