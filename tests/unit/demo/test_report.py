"""What the demo concludes from what it saw."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from dualdeploy.contracts.routing import Phone, Routing
from dualdeploy.ledger import State
from dualdeploy.ledger.standing import Standing
from dualdeploy_demo import picture, report
from dualdeploy_demo.answers import Answer, Answers
from dualdeploy_demo.source import DataSource, Picture

LABELS = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
CLOUD_FACTS = {
    "model": "projects/p/locations/l/models/dualdeploy-flowers",
    "model_version": "1",
    "endpoint": "projects/p/locations/l/endpoints/flowers",
    "accuracy": 0.8,
    "eval_examples": 160,
    "training_seconds": 90.0,
}
FILE = {"variant": "dynamic", "figures": {"accuracy": 0.9, "examples": 160}}
MOBILE_FACTS = {
    "firebase_model": "17",
    "published_as": "flowers",
    "file": FILE,
    "training_seconds": 60.0,
}


ROUTING = Routing(
    name="flowers",
    dataset="flowers",
    at="2026-11-23T12:00:00.000Z",
    phone=Phone(run_id="flowers-0123456789ab", version="1", sha256=""),
    threshold=0.6,
    max_loss=0.01,
    confidence=0.95,
    outcome="asks",
    note="asking the cloud about 41 % of the pictures loses at most 1 % of them",
    examples=600,
    loss_at_most=0.009,
    share=0.41,
    accuracy=0.815,
    phone_accuracy=0.76,
    cloud_accuracy=0.813,
    curve=((0.0, 0.0, 0.76), (0.6, 0.41, 0.815), (1.01, 1.0, 0.813)),
)


def stands(target: str, facts: dict[str, Any], state: State = State.LIVE) -> Standing:
    return Standing(
        run_id="flowers-0123456789ab",
        dataset="flowers",
        target=target,
        state=state,
        since="2026-11-23T12:00:00.000Z",
        facts=facts,
    )


def summary(
    cloud: Standing | None = None, mobile: Standing | None = None, other: str = "", routing: Routing = ROUTING
) -> dict[str, Any]:
    pictures = [Picture(b"", label) for label in LABELS]
    training = {"cloud": {"architecture": other or "densenet121"}, "mobile": {"architecture": "mobilenet_v3_small"}}
    config = {"dataset": "flowers", "labels": LABELS, "training": training}
    found = DataSource({}, config, pictures, ("five pictures",))
    right = Answers([Answer(label, 0.9) for label in LABELS], 30.0)
    one_wrong = Answers([Answer("tulips", 0.5), *right.answers[1:]], 0.2)
    standings = {"cloud": cloud or stands("cloud", CLOUD_FACTS), "mobile": mobile or stands("mobile", MOBILE_FACTS)}
    sizes = {"cloud": 30_000_000, "mobile": 1_100_000}
    return report.summarise(found, standings, right, one_wrong, routing=routing, sizes=sizes)


def test_the_report_has_every_figure_that_is_promised() -> None:
    found = summary()
    assert set(found) >= {"ok", "seconds", "dataset", "run_id", "cloud", "mobile", "agreement", "predictions"}
    assert set(found["cloud"]) >= {"state", "model", "endpoint", "accuracy", "predict_ms_p50"}
    assert set(found["mobile"]) >= {"state", "firebase_model", "tflite_bytes", "accuracy", "invoke_ms_p50"}
    assert found["predictions"][0] == {"label": "daisy", "cloud": "daisy", "mobile": "tulips"}


def test_agreement_counts_equal_answers_and_not_right_ones() -> None:
    assert summary()["agreement"] == 0.8


def test_together_is_what_an_app_gets_that_follows_the_routing() -> None:
    # The phone is wrong about the first picture, and half sure of that.
    asks = summary()["together"]
    assert (asks["unseen_right"], asks["unseen_asked"], asks["accuracy"]) == (1.0, 1, 0.815)
    never = summary(routing=ROUTING.model_copy(update={"threshold": 0.0}))["together"]
    assert (never["unseen_right"], never["unseen_asked"]) == (0.8, 0)
    about = summary(routing=ROUTING.model_copy(update={"threshold": 0.0, "ask_about": ("tulips",)}))["together"]
    assert (about["unseen_right"], about["unseen_asked"]) == (1.0, 2)


def test_two_live_models_that_beat_chance_are_ok() -> None:
    assert summary()["ok"] is True


@pytest.mark.parametrize("accuracy", [0.2, 0.25, 0.29])
def test_a_model_that_guesses_is_not_ok(accuracy: float) -> None:
    assert (
        summary(
            mobile=stands(
                "mobile", {**MOBILE_FACTS, "file": {**FILE, "figures": {"accuracy": accuracy, "examples": 160}}}
            )
        )["ok"]
        is False
    )


def test_how_good_another_network_is_is_told_and_not_judged() -> None:
    guesses = stands("cloud", {**CLOUD_FACTS, "accuracy": 0.2})
    found = summary(cloud=guesses, other="keras:ResNet50V2")
    assert found["ok"]
    assert (found["cloud"]["accuracy"], found["cloud"]["architecture"]) == (0.2, "keras:ResNet50V2")
    assert not summary(cloud=guesses)["ok"]
    assert "better than guessing" not in shown(found)
    assert "ok: both are live and clearly better than guessing" in shown(summary())


def shown(found: dict[str, Any]) -> str:
    out = io.StringIO()
    found["seconds"] = {"total": 1.0}
    report.show(Console(file=out, width=120), found, {}, Path("/"))
    return out.getvalue()


def test_a_model_that_is_not_live_is_not_ok() -> None:
    assert summary(cloud=stands("cloud", CLOUD_FACTS, State.ROLLED_BACK))["ok"] is False


@pytest.mark.parametrize(
    ("accuracy", "examples", "beats"), [(0.30, 160, True), (0.29, 160, False), (0.30, 100, False), (0.9, 10, True)]
)
def test_chance_is_beaten_only_by_three_standard_deviations(accuracy: float, examples: int, beats: bool) -> None:
    assert report.beats_chance(accuracy, examples, chance=0.2) is beats


def test_the_table_says_where_both_live_and_how_good_they_are() -> None:
    text = io.StringIO()
    found = {**summary(), "seconds": {"total": 130.0}}
    report.show(Console(file=text, width=120), found, {Path("/r/build/x.png"): "photos"}, Path("/r"))
    shown = text.getvalue()
    for expected in ("endpoints/flowers", "Firebase ML model flowers", "80.0% of 160", "1.10 MB", "build/x.png", "ok"):
        assert expected in shown
    for expected in ("asks below 0.60, 41.0%", "81.5% of 600", "100.0%, 1 of 5 asked", "loses at most 1 %"):
        assert expected in shown


@pytest.mark.parametrize("curve", [ROUTING.curve, ()])
def test_the_curve_is_drawn_whatever_it_holds(tmp_path: Path, curve: tuple[tuple[float, float, float], ...]) -> None:
    nothing = {"share": None, "accuracy": None, "phone_accuracy": None, "cloud_accuracy": None, "examples": 0}
    routing = ROUTING.model_copy(update={"curve": curve, **({} if curve else nothing)})
    picture.draw_curve(tmp_path / "together.png", routing)
    with Image.open(tmp_path / "together.png") as drawn:
        assert drawn.size == (720, 440)
    text = io.StringIO()
    found = {**summary(routing=routing), "seconds": {"total": 130.0}}
    report.show(Console(file=text, width=120), found, {}, Path("/r"))
    assert "together" in text.getvalue()


def test_a_phone_that_always_asks_is_said_to() -> None:
    text = io.StringIO()
    found = {**summary(routing=ROUTING.model_copy(update={"threshold": 1.01})), "seconds": {"total": 130.0}}
    report.show(Console(file=text, width=120), found, {}, Path("/r"))
    assert "asks about every picture" in text.getvalue()
