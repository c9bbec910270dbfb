"""What people read fits 80 columns, however long the names are, and a name is never cut in the middle of an id."""

from __future__ import annotations

import datetime
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from doctor.chain import Chain
from doctor.findings import Finding, Place, State
from dualdeploy.google.object_store import ABSENT
from dualdeploy.ledger import Launch, Ledger, Served, Serving, names
from dualdeploy.ledger import State as RunState
from dualdeploy_cli.commands.letters import _table
from dualdeploy_cli.dead_letters import DeadLetter
from dualdeploy_cli.doctor_tables import print_findings
from dualdeploy_cli.output import link, sentence, short
from dualdeploy_cli.services import Answer
from dualdeploy_cli.status_tables import print_status
from support.command_line import invoke, session
from support.fakes import MemoryObjectStore

REPOSITORY = Path(__file__).resolve().parents[3]
DATASET = "a-data-set-with-the-longest-name-of-all"
PARENT = "projects/a-project-with-a-very-long-id-1/locations/northamerica-northeast1"
JOB = f"{PARENT}/customJobs/1234567890123456789"
ENDPOINT = f"{PARENT}/endpoints/{DATASET}-cloud"
OPERATION = f"{ENDPOINT}/operations/9876543210987654321"


def width(text: str) -> int:
    return max(map(len, text.splitlines()))


@pytest.fixture
def run_id(ledger: Ledger, store: MemoryObjectStore, make_run: Any) -> str:
    run, _ = ledger.claim(make_run(DATASET))
    launch = Launch(
        run_id=run.run_id, dataset=DATASET, target="cloud", state=RunState.TRAINING, since=run.created_at, job=JOB
    )
    ledger.write(names.launch(run.run_id, "cloud"), launch, expect=ABSENT)
    current = Served(run_id=run.run_id, run_created_at=run.created_at, since=run.created_at)
    serving = Serving(dataset=DATASET, target="cloud", current=current, undeployed_because=OPERATION)
    ledger.write(names.serving("cloud", DATASET), serving.changed(removing=OPERATION), expect=ABSENT)
    return str(run.run_id)


@pytest.mark.parametrize("command", ["runs", "run"])
def test_runs(command: str, run_id: str, store: MemoryObjectStore) -> None:
    words = [command, *([run_id] if command == "run" else [])]
    code, text = invoke(*words, given=session(store), width=80)
    assert (code, width(text) <= 80) == (0, True), text
    for name in (run_id, "1234567890123456789"):
        assert name in text
    assert "projects/" not in text
    assert JOB in invoke(*words, "--links", given=session(store), width=80)[1]


def shown(print_it: Any, **options: Any) -> str:
    out = io.StringIO()
    print_it(Console(file=out, width=80, highlight=False), **options)
    return out.getvalue()


def test_the_status() -> None:
    run_id = f"{DATASET}-0123456789ab-r12"
    served = {"run_id": run_id, "since": "2026-11-28T06:00:00.000Z", "endpoint": ENDPOINT, "model": JOB}
    under_way = {"run_id": run_id, "state": "canary", "step": "bake", "waits_for": f"{OPERATION} to end, since noon"}
    body = {"dataset": DATASET, "target": "cloud", "live": {"current": served, "previous": served}}
    answer = Answer("cloud", "http://x", 200, {**body, "under_way": [under_way, under_way]})
    text = shown(lambda out, wide: print_status([(DATASET, answer)], out, wide=wide), wide=False)
    assert width(text) <= 80
    assert run_id in text
    assert f"endpoint {DATASET}-cloud" in " ".join(text.split())
    assert "9876543210987654321 to end" in " ".join(text.split())
    assert "projects/" not in text


def test_the_doctor() -> None:
    finding = Finding(Place.SUBSCRIPTION, f"{PARENT}/subscriptions/{DATASET}", State.BROKEN, f"{OPERATION} " * 5)
    place = {"project": "a-project-with-a-very-long-id-1", "region": "northamerica-northeast1"}
    chain = Chain.load(REPOSITORY / "infra" / "topology.json", **place)
    text = shown(lambda out, **more: print_findings([finding] * 4, chain, out, **more), everything=True, wide=False)
    assert width(text) <= 80
    assert DATASET in text
    assert "projects/" not in text


def test_dead_letters() -> None:
    letter = DeadLetter(
        id="12345678901234567890",
        ack_id="x" * 200,
        at=datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC),
        subscription="projects/p/subscriptions/deployer-training-completed-with-a-long-name",
        deliveries="20",
        attributes={"job": JOB, "target": "cloud"},
        data=b"x" * 500,
        ordering_key="",
    )
    text = shown(lambda out: out.print(_table([letter], wide=False)))
    assert width(text) <= 80
    assert letter.id in text
    assert "projects/" not in text


# Names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_short"),
    [
        (JOB, "1234567890123456789"),
        (f"waits for {OPERATION}.", "waits for 9876543210987654321."),
        (f"{PARENT}/models/flowers@2, and {ENDPOINT}", f"flowers@2, and {DATASET}-cloud"),
        ("projects/p/subscriptions/x-y", "x-y"),
        ("projects/example.com:p/topics/t: is gone", "t: is gone"),
        ("gs://bucket/projects.txt and flowers/train", "gs://bucket/projects.txt and flowers/train"),
    ],
)
def test_a_resource_name_is_cut_to_its_id(text: str, is_short: str) -> None:
    assert short(text) == is_short
    assert sentence(text).plain == is_short
    assert sentence(text, wide=True).plain == text


@pytest.mark.parametrize(
    ("name", "page"),
    [
        (JOB, "vertex-ai/locations/northamerica-northeast1/training/1234567890123456789?project=a-project"),
        (ENDPOINT, f"vertex-ai/online-prediction/locations/northamerica-northeast1/endpoints/{DATASET}-cloud?project="),
        (f"{PARENT}/models/7@2", "vertex-ai/models/locations/northamerica-northeast1/models/7?project="),
        ("gs://bucket/a/b.json", "storage/browser/bucket/a/b.json"),
    ],
)
def test_a_resource_has_a_page_in_the_console(name: str, page: str) -> None:
    assert link(name).startswith(f"https://console.cloud.google.com/{page}")


def test_what_has_no_page_has_no_link() -> None:
    assert link("projects/p/topics/t") == link("") == link("flowers") == ""
