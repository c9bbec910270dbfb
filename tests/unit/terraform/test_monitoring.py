"""Alerts look at things that exist, and their texts at what the code really says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.ledger import State

REPOSITORY = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.slow


def policy(plan: Any, title: str) -> Mapping[str, Any]:
    return next(
        each.values for each in plan.of("google_monitoring_alert_policy") if each.values["display_name"] == title
    )


def test_every_alert_reaches_someone_and_says_what_to_do(plan: Any) -> None:
    policies = plan.of("google_monitoring_alert_policy")
    assert len(policies) == 5
    for each in policies:
        assert each.values["notification_channels"] == ["google_monitoring_notification_channel//id"]
        assert len(each.values["documentation"][0]["content"]) > 100


def test_the_dead_letter_alert_looks_at_the_subscription_that_reads_them(
    plan: Any, topology: Mapping[str, Any]
) -> None:
    filter_ = policy(plan, "Dual Deploy: dead letters")["conditions"][0]["condition_threshold"][0]["filter"]
    (name,) = re.findall(r'subscription_id = "([^"]+)"', filter_)
    assert topology["subscriptions"][name]["topic"] == "dead-letters"


def test_waiting_events_are_looked_for_in_every_push_subscription(plan: Any, topology: Mapping[str, Any]) -> None:
    filter_ = policy(plan, "Dual Deploy: events wait")["conditions"][0]["condition_threshold"][0]["filter"]
    pushed = {name for name, each in topology["subscriptions"].items() if not each.get("pull")}
    assert set(re.findall(r'"([a-z-]+)"', filter_.split("one_of", 1)[1])) == pushed


def test_a_failed_run_is_found_by_what_the_services_log(plan: Any, topology: Mapping[str, Any]) -> None:
    filter_ = policy(plan, "Dual Deploy: a run failed or was rejected")["conditions"][0]["condition_matched_log"][0][
        "filter"
    ]
    (services,) = re.findall(r"service_name=\(([^)]*)\)", filter_)
    assert set(re.findall(r'"([a-z-]+)"', services)) == {name.replace("_", "-") for name in topology["services"]}
    patterns = re.findall(r'message=~"([^"]+)"', filter_)
    # As job_notifier and dualdeploy.release.worker write them; the format strings are looked up in the code.
    notifier = (REPOSITORY / "services" / "job_notifier" / "job_notifier" / "handler.py").read_text(encoding="utf-8")
    worker = (REPOSITORY / "shared" / "src" / "dualdeploy" / "release" / "worker.py").read_text(encoding="utf-8")
    assert '"training %s: %s"' in notifier
    assert '"%s: %s -> %s: %s"' in worker
    assert any(re.search(pattern, "training failed: the job failed: out of memory") for pattern in patterns)
    assert any(
        re.search(pattern, "flowers-0123456789ab/cloud release 1: gate -> rejected: accuracy 0.5 < 0.8")
        for pattern in patterns
    )
    assert not any(
        re.search(pattern, "training succeeded: accuracy 0.912 on 300 held-out examples") for pattern in patterns
    )


def test_the_clock_alert_looks_at_the_topic_that_ticks(plan: Any, topology: Mapping[str, Any]) -> None:
    filter_ = policy(plan, "Dual Deploy: the clock stands still")["conditions"][0]["condition_absent"][0]["filter"]
    assert f'topic_id = "{topology["schedules"]["tick"]["topic"]}"' in filter_


def test_the_budget_is_of_this_project_only_and_in_the_currency_of_its_account(plan: Any) -> None:
    (budget,) = plan.of("google_billing_budget")
    assert budget.values["budget_filter"][0]["projects"] == ["projects/123456789012"]
    amount = budget.values["amount"][0]["specified_amount"][0]
    assert amount["units"] == "200"
    # Another one than the account's is refused, and nobody but the account knows which that is.
    assert amount["currency_code"] is None


def test_a_budget_tells_five_addresses_at_most(
    workplace: Callable[[], Path], terraform: Callable[..., Any], variables: Mapping[str, Any]
) -> None:
    emails = [f"person-{number}@example.com" for number in range(7)]
    planned = terraform(workplace()).plan({**variables, "alert_emails": emails})["resource_changes"]
    channels = [each for each in planned if each["type"] == "google_monitoring_notification_channel"]
    told = {
        name: [each for each in channels if each["address"].startswith(f"module.{name}")]
        for name in ("monitoring", "budget")
    }
    assert (len(told["monitoring"]), len(told["budget"])) == (7, 5)


def test_a_rollback_is_found_by_what_the_deployer_logs(plan: Any) -> None:
    condition = policy(plan, "Dual Deploy: a model was rolled back")["conditions"][0]["condition_matched_log"][0]
    (pattern,) = re.findall(r'message=~"([^"]+)"', condition["filter"])
    # `BranchWorker` logs "%s %s -> %s %s": state and step, then the following ones.
    assert re.search(pattern, f"{State.CANARY} withdraw -> {State.ROLLED_BACK} ")
    assert not re.search(pattern, f"{State.CANARY} shift -> {State.LIVE} ")
