"""docs/operations.md: every alert that exists, queries for what the code really writes, and figures that add up."""

from __future__ import annotations

import ast
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_deployer.steps.measure import MOST_SECONDS
from dualdeploy.contracts import prices
from dualdeploy.contracts.dataset_config import DatasetConfig, parse
from dualdeploy.contracts.training import TARGETS
from dualdeploy.ledger import State
from dualdeploy.logs import JsonFormatter
from dualdeploy.settings import variables
from support.chain import Chain
from training_launcher import duration

hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not installed here; `make setup` installs it")

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
TOPOLOGY = json.loads((REPOSITORY / "infra" / "topology.json").read_text(encoding="utf-8"))
MODULES = REPOSITORY / "infra" / "terraform" / "modules"
MONITORING, BUDGET = MODULES / "monitoring" / "main.tf", MODULES / "budget" / "main.tf"
CODE = sorted(
    path
    for folder in (REPOSITORY / "shared" / "src", REPOSITORY / "services")
    for path in folder.rglob("*.py")
    if "testing" not in path.parts
)
MINUTES = 30 * 24 * 60


def section(heading: str) -> str:
    """The text below a heading, up to the next of the same or a higher level."""
    level = re.match("#+", heading)
    assert level, heading
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level[0])}}} |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no {heading!r}"
    return found[1]


# Alerts ------------------------------------------------------------------------------------------------------------


def alerts() -> Iterator[str]:
    """The names of everything in Terraform that sends mails."""
    for resource in (each for file in (MONITORING, BUDGET) for each in hcl2.loads(file.read_text("utf-8"))["resource"]):
        ((kind, named),) = resource.items()
        (body,) = [each for name, each in named.items() if not name.startswith("__")]
        if kind.strip('"') == "google_billing_budget":
            yield "the budget"
        if kind.strip('"') != "google_monitoring_alert_policy":
            continue
        yield body["display_name"].strip('"').removeprefix("Dual Deploy: ")


def test_every_alert_has_a_heading_and_every_heading_an_alert() -> None:
    headings = re.findall(r"^### (.+)$", section("## Alerts"), flags=re.MULTILINE)

    assert sorted(headings) == sorted(alerts())


def test_every_alert_says_what_to_do() -> None:
    for name in alerts():
        assert len(section(f"### {name}")) > 150, name


def test_the_times_and_tries_that_alerts_name_are_those_of_terraform_and_the_topology() -> None:
    tries: dict[bool, set[int]] = {True: set(), False: set()}
    for each in TOPOLOGY["subscriptions"].values():
        if "dead_letter_policy" in each:
            tries[each["topic"] == "tick"].add(each["dead_letter_policy"]["max_delivery_attempts"])
    monitoring = MONITORING.read_text(encoding="utf-8")

    assert tries == {False: {20}, True: {5}}
    assert "(20 times, of a tick 5)" in section("### dead letters")
    assert re.search(r"threshold_value = 1800\n", monitoring)
    assert "For half an hour" in section("### events wait")
    assert re.search(r'duration = "600s"', monitoring)
    assert "No tick for ten minutes" in section("### the clock stands still")
    assert "for_each = [0.5, 0.9, 1.0]" in BUDGET.read_text(encoding="utf-8")
    assert "half, nine tenths and all" in section("### the budget")


def test_every_announced_end_has_a_heading_and_every_heading_an_end() -> None:
    headings = re.findall(r"^### (.+)$", section("## Announced ends"), flags=re.MULTILINE)

    assert sorted(each.lower().replace(" ", "_") for each in headings) == sorted(TOPOLOGY["ends"])


# Queries -----------------------------------------------------------------------------------------------------------


def queries() -> list[str]:
    return re.findall(r"^```query\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def log_calls() -> Iterator[ast.Call]:
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("debug", "info", "warning", "error", "exception", "log")
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id.strip("_").endswith("log")
            ):
                yield node


def messages() -> set[str]:
    """Every message that the code can write, with states where it has a placeholder, or a word."""
    found = set()
    for call in log_calls():
        texts = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        for text, filling in itertools.product(texts[:1], ["x", *State]):
            found.add(re.sub(r"%[-\d.]*[sdf]", str(filling), text).replace("%%", "%"))
    return found


def fields() -> set[str]:
    """Every field that an entry can have besides those that Cloud Logging takes out."""
    entry = json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "x"})))
    named = {keyword.arg for call in calls_of("bind") for keyword in call.keywords if keyword.arg}
    for call in log_calls():
        for keyword in call.keywords:
            if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
                named |= {str(key.value) for key in keyword.value.keys if isinstance(key, ast.Constant)}
    return {*entry, *named} - {"severity", "time"}


def calls_of(name: str) -> Iterator[ast.Call]:
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
                yield node


def test_the_code_is_seen_to_write_messages_with_fields() -> None:
    assert {"gating: gating -> gating", "removed x: x"} <= messages()
    assert {"message", "run_id", "target", "event", "event_id", "service", "logger"} <= fields()


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_what_the_code_writes(query: str) -> None:
    written = messages()
    hosts = {name.replace("_", "-") for name in {**TOPOLOGY["services"], **TOPOLOGY["web_services"]}}
    for line in query.splitlines():
        if message := re.fullmatch(r'jsonPayload\.message=~"([^"]+)"', line):
            for pattern in alternatives(message[1]):
                assert any(re.search(pattern, each) for each in written), f"nobody writes {pattern!r}"
        elif field := re.fullmatch(r'jsonPayload\.(\w+)="[^"]+"', line):
            assert field[1] in fields()
        elif severity := re.fullmatch(r"severity>?=(\w+)", line):
            assert severity[1] in logging.getLevelNamesMapping()
        elif host := re.fullmatch(r'resource\.labels\.service_name="([^"]+)"', line):
            assert host[1] in hosts
        else:
            assert line in ('resource.type="cloud_run_revision"', 'resource.type="ml_job"')


def alternatives(pattern: str) -> list[str]:
    """A pattern for each branch of every alternation, so that none of them asks in vain."""
    inner = re.search(r"\(([^()]*)\)", pattern)
    if inner:
        return [one for choice in inner[1].split("|") for one in alternatives(pattern.replace(inner[0], choice, 1))]
    return pattern.split("|")


def test_every_branch_of_a_pattern_is_tried() -> None:
    assert alternatives("^a (b|c)|d") == ["^a b", "d", "^a c", "d"]


# Names -------------------------------------------------------------------------------------------------------------


def keys() -> set[str]:
    """Every path into a data set's configuration, sections included, with <target> for either target."""

    def below(document: dict[str, Any], path: str) -> Iterator[str]:
        for key, value in document.items():
            full = f"{path}.{key}".lstrip(".")
            yield full
            if isinstance(value, dict):
                yield from below(value, full)

    schema = DatasetConfig.model_json_schema()
    optional = {"serving.canary.monitoring", "publishing.rollout", "serving.request_log", "training.<target>.timeout"}
    default = parse("dataset: a\nlabels: [a, b]", source="test").model_dump(mode="json")
    assert schema["additionalProperties"] is False
    return (
        {re.sub(r"\.(cloud|mobile)\b", ".<target>", key) for key in below(default, "")}
        | set(below(default, ""))
        | optional
    )


def spans() -> set[str]:
    without_fences = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", without_fences))


def test_every_key_of_a_configuration_that_is_named_exists() -> None:
    sections = set(DatasetConfig.model_fields)
    named = {span.split(":")[0] for span in spans() if re.match(r"[a-z]+\.[a-z<]", span)} - {"labels.txt"}
    asked = {each for each in named if each.split(".")[0] in sections}

    assert len(asked) > 5
    assert asked <= keys()


def test_every_environment_variable_that_is_named_exists() -> None:
    from cloud_deployer.settings import DeployerSettings
    from job_notifier.settings import NotifierSettings
    from mobile_publisher.settings import PublisherSettings
    from training_launcher.settings import LauncherSettings

    known = {"LOG_LEVEL", "ERROR", "REGION"}
    for kind in (DeployerSettings, NotifierSettings, PublisherSettings, LauncherSettings):
        known |= set(variables(kind))
    named = {span for span in spans() if re.fullmatch(r"[A-Z]+(_[A-Z]+)*", span)}

    assert "LAUNCH_LIMIT_SECONDS" in named
    assert named <= known


def test_every_terraform_variable_that_is_named_exists() -> None:
    example = REPOSITORY / "infra" / "terraform" / "environments" / "example" / "variables.tf"
    existing = set(re.findall(r'^variable "(\w+)"', example.read_text(encoding="utf-8"), flags=re.MULTILINE))

    assert {
        "alert_emails",
        "operators",
        "billing_account",
        "monthly_budget",
        "firebase_key_secret",
    } <= existing & spans()


# Figures -----------------------------------------------------------------------------------------------------------


def figure(row: str) -> float:
    """The last number of the table's row that begins so."""
    (found,) = [line for line in PAGE.splitlines() if line.startswith(f"| {row}")]
    return float(re.findall(r"\d+\.\d+", found)[-1])


def test_what_a_run_costs_follows_from_the_price_table_and_the_default_configuration() -> None:
    config = parse("dataset: a\nlabels: [a, b]", source="test")
    hours, most = [], 0.0
    for target in TARGETS:
        training = config.training.of(target)
        assert training.accelerator is not None
        price, _ = prices.table().hour(
            use="training",
            region="us-central1",
            machine=training.machine,
            accelerator=training.accelerator.type,
            count=training.accelerator.count,
        )
        assert price is not None
        hours.append(price)
        most += price * duration.timeout(training, pictures=0) / 3600

    assert figure("an hour of one job") == pytest.approx(hours[0], abs=0.005)
    assert figure("both jobs, half an hour each") == pytest.approx(sum(hours) / 2, abs=0.005)
    assert figure("both jobs, at most") == pytest.approx(most, abs=0.005)
    assert figure("a live model measured again") == pytest.approx(hours[0] * MOST_SECONDS / 3600, abs=0.005)


@pytest.mark.parametrize("machine", ["n1-standard-4", "e2-standard-2"])
def test_what_a_model_that_serves_costs_follows_from_the_price_table(machine: str) -> None:
    price, _ = prices.table().hour(use="serving", region="us-central1", machine=machine)

    assert price is not None
    assert figure(f"`serving.machine: {machine}`") == pytest.approx(price * 730, abs=0.01)


def test_what_an_idle_system_looks_at_each_minute_is_what_the_services_do() -> None:
    chain = Chain()
    chain.upload()
    chain.settle()
    chain.clock.advance(2 * 3600)
    chain.settle()
    # What the full hour is for is through by now.
    for _ in range(5):
        chain.tick()
        chain.drain()
    chain.operations.clear()
    chain.tick()
    chain.drain()
    counted = Counter(name.split(".")[1] for name in chain.operations)

    assert chain.active() == []
    assert set(counted) == {"list"}
    assert f"{counted['list']} listings a minute" in PAGE
    assert f"{counted['list'] * MINUTES:,} listings" in PAGE
    # Class A operations at 0.005 US dollars for a thousand.
    assert figure("looks at the ledger") == pytest.approx(counted["list"] * MINUTES * 0.005 / 1000, abs=0.01)


def test_what_ticks_take_of_instances_follows_from_their_size() -> None:
    """At 0.3 s a tick, with the processors and the memory that Terraform gives each service."""
    modules = REPOSITORY / "infra" / "terraform" / "modules"
    variables_ = (modules / "event_service" / "variables.tf").read_text(encoding="utf-8")
    processors = memory = 0.0
    for service in TOPOLOGY["services"]:
        text = (modules / service / "main.tf").read_text(encoding="utf-8")
        own = [re.search(rf"^  {name}\s+= (.+)$", text, re.MULTILINE) for name in ("cpu", "memory")]
        default = [
            re.search(rf'variable "{name}" \{{.*?default\s+= (\S+)', variables_, re.DOTALL)
            for name in ("cpu", "memory")
        ]
        chosen = [(mine or usual) for mine, usual in zip(own, default, strict=True)]
        assert all(chosen), service
        cpu, size = (match[1].strip('"') for match in chosen if match)
        processors += float(cpu)
        memory += float(size[:-2]) / (1024 if size.endswith("Mi") else 1)

    assert f"{MINUTES * 0.3 * processors:,.0f} vCPU-seconds, {MINUTES * 0.3 * memory:,.0f} GiB-seconds" in PAGE


def test_quotas_are_enough_for_the_default_configuration() -> None:
    config = parse("dataset: a\nlabels: [a, b]", source="test")
    jobs = [config.training.of(target) for target in TARGETS]
    accelerators = sum(job.accelerator.count * job.replicas for job in jobs if job.accelerator)
    processors = sum(int(job.machine.rsplit("-", 1)[1]) * job.replicas for job in jobs)
    serving = 2 * int(config.serving.machine.rsplit("-", 1)[1]) * config.serving.max_replicas

    assert f"| `custom_model_training_preemptible_nvidia_t4_gpus` | {accelerators} |" in PAGE
    assert f"its preemptible one | {processors} |" in PAGE
    assert f"| `custom_model_serving_cpus` | {serving} for each data set |" in PAGE
