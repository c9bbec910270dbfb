"""predict, retrain, deploy, plan, destroy: what they ask of Google, of the launcher and of the deployment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.contracts import events
from dualdeploy.errors import ModelAsleep
from dualdeploy_cli import exits
from shipping.orders import Order
from shipping.tools import CannotShip, Tools
from support.chain import Chain
from support.command_line import call, invoke, session
from support.fakes import Failing, FakePublisher

# predict -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def live() -> Chain:
    chain = Chain()
    chain.configure()
    for delivery in chain.upload():
        chain.handle(delivery)
    chain.settle()
    return chain


def predict(chain: Chain, *arguments: object) -> tuple[int, str]:
    given = session(chain.ledger_store)
    given.vertex = lambda _project, _region: chain.vertex
    return invoke("predict", *arguments, given=given)


def test_the_endpoint_is_asked_for_each_image(live: Chain, tmp_path: Path) -> None:
    paths = [tmp_path / "one.jpg", tmp_path / "two.jpg"]
    for path in paths:
        path.write_bytes(b"an image")
    live.vertex.answered.clear()

    code, text = predict(live, "flowers", *paths, "--json")

    assert code == exits.OK
    answers = json.loads(text)
    assert [each["image"] for each in answers] == [str(path) for path in paths]
    assert all({"label", "confidence", "milliseconds"} <= set(each) for each in answers)
    assert len(live.vertex.answered) == 2
    assert f"{paths[0]}: {answers[0]['label']} (" in predict(live, "flowers", paths[0])[1]


def test_what_cannot_be_answered_is_told_and_ends_with_1(live: Chain, tmp_path: Path) -> None:
    large, small = tmp_path / "large.jpg", tmp_path / "small.jpg"
    large.write_bytes(bytes(1_200_000))
    small.write_bytes(b"an image")
    live.vertex.faults.plan("predict", Failing(ModelAsleep("Model is not yet ready for inference")))
    code, text = predict(live, "flowers", large, small)
    assert code == exits.REFUSED
    assert "large.jpg: has 1,200,000 bytes" in text
    assert "small.jpg: the model was scaled to zero and wakes now" in text

    code, text = predict(live, "birds", small)
    assert (code, "the cloud model of birds does not serve: dualdeploy status birds" in text) == (exits.REFUSED, True)


# retrain -----------------------------------------------------------------------------------------------------------


def test_a_retrain_request_is_one_that_the_launcher_understands() -> None:
    topic = FakePublisher()
    given = session()
    given.publisher = lambda _project: topic
    result = call("retrain", "flowers", "--force", "--reason", "more noise", "--project", "demo", "--json", given=given)

    assert result.exit_code == exits.OK
    assert json.loads(result.stdout)["message"] == "1"
    (sent,) = topic.sent
    assert sent.topic == "retrain-requested"
    asked = events.RetrainRequested(**sent.json())
    assert asked == events.RetrainRequested("flowers", reason="more noise", force=True)


# deploy, plan, destroy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("deploy --project p --region r", {"command": "deploy", "project": "p", "region": "r"}),
        ("deploy --service a --service b", {"command": "deploy", "services": ("a", "b")}),
        ("plan --delete-data", {"command": "plan", "delete_data": True}),
        ("destroy --confirm p", {"command": "destroy", "confirm": "p", "delete_data": False}),
    ],
)
def test_an_order_says_what_the_command_line_says(line: str, wanted: dict[str, Any]) -> None:
    orders: list[tuple[Order, Tools]] = []

    def ship(order: Order, tools: Tools, _answer: object) -> Mapping[str, str]:
        orders.append((order, tools))
        tools.say("a step")
        return {"module.x": "update"}

    given = session()
    given.ship = ship  # type: ignore[assignment]
    result = call(*line.split(), "--json", given=given)

    assert result.exit_code == exits.OK
    assert json.loads(result.stdout) == {"command": wanted["command"], "changes": {"module.x": "update"}}
    assert "a step" in result.stderr
    ((order, tools),) = orders
    assert {key: getattr(order, key) for key in wanted} == wanted
    assert tools.rehearsal is (wanted["command"] == "plan")


def test_destroying_asks_and_a_refusal_is_one_sentence() -> None:
    given = session()

    def ship(_order: Order, _tools: Tools, answer: Any) -> Mapping[str, str]:
        raise CannotShip(f"Not confirmed: {answer('The name, to go on: ')}")

    given.ship = ship  # type: ignore[assignment]
    result = call("destroy", given=given, answers="another\n")
    assert (result.exit_code, "Error: Not confirmed: another" in result.stderr) == (exits.REFUSED, True)
    assert "The name, to go on" in result.stdout
