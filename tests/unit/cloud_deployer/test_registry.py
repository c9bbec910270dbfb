"""What people find in the Model Registry and beside it: labels, figures in the console, and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from cloud_deployer.console_metrics import SCHEMA_URI, classification_metrics
from dualdeploy.contracts.training import Metrics
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.vertex import Answer, DeployedModel
from dualdeploy.ledger import State, names
from support.deployer import Deployer, overwrite
from support.fakes import Failing
from support.fakes.vertex import label_in_picture

PER_CLASS = {
    "blue": {"precision": 0.75, "recall": 0.9, "f1": 0.8, "examples": 20},
    "red": {"precision": 0.9, "recall": 0.7, "f1": 0.7, "examples": 20},
}
METRICS = {
    "accuracy": 0.8,
    "loss": 0.25,
    "examples": 40,
    "per_class": PER_CLASS,
    "confusion": [[18, 2], [6, 14]],
    "calibration_error": 0.04,
}


@pytest.fixture
def deployer() -> Deployer:
    """A run is trained, with figures of every class; its release has not begun."""
    deployer = Deployer()
    train(deployer)
    return deployer


@pytest.fixture
def run_id(deployer: Deployer) -> str:
    (run_id,) = deployer.ledger.run_ids("flowers")
    return run_id


def train(deployer: Deployer, edition: int = 1) -> str:
    run_id = deployer.train(edition, announce=False)
    deployer.write_result(run_id, metrics=METRICS)
    validation = {
        "classes": [{"label": label, "records": {"train": 4, "eval": 2}} for label in ("blue", "red")],
        "coverage": {"fraction": 1.0},
        "files": 3,
    }
    overwrite(deployer.ledger_store, names.validation(run_id), json.dumps(validation).encode())
    return run_id


def card(deployer: Deployer, run_id: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(deployer.models.read(f"cards/{run_id}/cloud.json").data)
    return document


def markdown(deployer: Deployer, run_id: str) -> str:
    return deployer.models.read(f"cards/{run_id}/cloud.md").data.decode()


def test_a_version_tells_its_run_its_data_and_the_commit_that_brought_it_out(deployer: Deployer, run_id: str) -> None:
    deployer.go_through(run_id)
    (upload,) = deployer.vertex.uploads
    assert upload.labels == {
        "dualdeploy_dataset": "flowers",
        "dualdeploy_run": run_id,
        "dualdeploy_snapshot": deployer.ledger.read_run(run_id).snapshot.digest()[:32],
        "dualdeploy_revision": "0123abc",
        "dualdeploy_forms": "b64_content",
    }


def test_the_console_is_given_what_was_measured_once(deployer: Deployer, run_id: str) -> None:
    deployer.go_through(run_id)
    assert deployer.post("redeploy", run_id=run_id).status_code == 202
    deployer.go_through(run_id, n=2)
    ((version, evaluation),) = deployer.vertex.evaluations
    assert version.endswith("models/dualdeploy-flowers@1")
    assert (evaluation.display_name, evaluation.schema_uri) == (run_id, SCHEMA_URI)
    assert evaluation.metrics["confusionMatrix"] == {
        "annotationSpecs": [{"id": "0", "displayName": "blue"}, {"id": "1", "displayName": "red"}],
        "rows": [[18, 2], [6, 14]],
    }


def test_of_a_model_that_always_answers_one_class_precision_and_recall_are_its_accuracy() -> None:
    document = classification_metrics(Metrics.model_validate(METRICS), ["blue", "red"])
    assert document["logLoss"] == 0.25
    (figures,) = document["confidenceMetrics"]
    assert (figures["precision"], figures["recall"], figures["f1Score"]) == (0.8, 0.8, 0.8)
    assert figures["f1ScoreMacro"] == 0.75


def test_that_the_registry_refuses_figures_stops_no_release(deployer: Deployer, run_id: str) -> None:
    deployer.vertex.faults.plan("import_evaluation", Failing(RejectedByGoogle("no such schema")))
    deployer.go_through(run_id)
    assert deployer.release(run_id).state is State.LIVE
    assert deployer.vertex.evaluations == []


def test_an_import_whose_answer_was_lost_is_not_repeated(deployer: Deployer, run_id: str) -> None:
    deployer.vertex.faults.plan("import_evaluation", Failing(ServiceUnavailable("lost"), after=True))
    deployer.go_through(run_id)
    assert len(deployer.vertex.evaluations) == 1
    assert deployer.release(run_id).state is State.LIVE


# The card ------------------------------------------------------------------------------------------------------


def test_the_card_of_a_live_model_says_what_it_was_made_of_and_how_it_does(deployer: Deployer, run_id: str) -> None:
    deployer.go_through(run_id)
    found = card(deployer, run_id)
    run = deployer.ledger.read_run(run_id)
    assert found["state"] == "live"
    assert found["data"]["snapshot"] == run.snapshot.digest()
    assert found["data"]["shards"] == 1
    assert found["data"]["classes"] == [
        {"label": "blue", "train": 4, "eval": 2},
        {"label": "red", "train": 4, "eval": 2},
    ]
    assert found["metrics"]["confusion"] == [[18, 2], [6, 14]]
    assert found["gate"]["rules"][0]["name"] == "accuracy"
    assert [step["share"] for step in found["rollout"]["passed"]] == [100]
    assert found["lineage"]["revision"] == "0123abc"
    assert found["lineage"]["training_job"] == "job-1"
    assert found["lineage"]["saved_model"] == f"gs://models/runs/{run_id}/cloud/model"
    assert found["model"]["model_version"] == "1"


def test_the_card_of_a_model_that_the_gate_stopped_says_why(deployer: Deployer, run_id: str) -> None:
    deployer.configure(gates={"cloud": {"min_accuracy": 0.9}})
    deployer.go_through(run_id)
    found = card(deployer, run_id)
    assert found["state"] == "rejected"
    assert found["gate"]["passed"] is False
    assert "| accuracy | 0.8 | >= 0.9 | **failed** |" in markdown(deployer, run_id)


def test_the_card_of_a_replaced_model_says_so(deployer: Deployer, run_id: str) -> None:
    deployer.go_through(run_id)
    deployer.clock.advance(3600)
    newer = train(deployer, 2)
    deployer.go_through(newer)
    assert card(deployer, run_id)["state"] == "superseded"
    assert card(deployer, run_id)["reason"] == f"replaced by {newer}"
    assert card(deployer, newer)["state"] == "live"


def test_the_markdown_shows_the_confusion_matrix_and_the_counts_as_tables(deployer: Deployer, run_id: str) -> None:
    deployer.go_through(run_id)
    text = markdown(deployer, run_id)
    assert "| true \\ predicted | blue | red |\n| --- | --- | --- |\n| blue | 18 | 2 |\n| red | 6 | 14 |" in text
    assert "| class | train | eval |" in text


def test_a_label_with_a_pipe_does_not_break_a_table(deployer: Deployer, run_id: str) -> None:
    deployer.write_result(run_id, metrics=METRICS, labels=["a|b", "red"])
    deployer.go_through(run_id)
    lines = markdown(deployer, run_id).splitlines()
    assert any("a\\|b" in line for line in lines)


def test_who_is_told_of_the_end_is_told_where_the_card_is(deployer: Deployer, run_id: str) -> None:
    deployer.go_through(run_id)
    (message,) = deployer.messages()
    assert message["links"]["card"] == f"gs://models/cards/{run_id}/cloud.md"


def test_a_card_that_cannot_be_written_is_written_at_the_next_tick_and_then_the_end_is_told(
    deployer: Deployer, run_id: str
) -> None:
    deployer.configure(gates={"cloud": {"min_accuracy": 0.9}})
    put, failures = deployer.models.put, [ServiceUnavailable("503")]

    def failing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("cards/") and failures:
            raise failures.pop()
        return put(name, *arguments, **options)

    deployer.models.put = failing  # type: ignore[method-assign]
    deployer.go_through(run_id)
    assert card(deployer, run_id)["state"] == "rejected"
    assert len(deployer.messages()) == 1


def test_a_model_that_was_taken_back_is_not_a_candidate_any_more(deployer: Deployer, run_id: str) -> None:
    deployer.go_through(run_id)
    deployer.clock.advance(3600)

    def serve(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        if deployed.display_name != run_id:
            raise ServiceUnavailable("500: the model server fell over")
        return label_in_picture(deployed, instance)

    deployer.vertex.serve = serve
    second = train(deployer, 2)
    assert deployer.go_through(second).state is State.ROLLED_BACK
    older, newer = deployer.vertex.models["dualdeploy-flowers"].versions
    assert set(older.aliases) == {run_id, "default", "live"}
    assert set(newer.aliases) == {second}
    assert card(deployer, second)["rollout"]["breach"].startswith("at 50 % of the traffic")


# Old and new ---------------------------------------------------------------------------------------------------


def test_the_message_of_an_end_names_what_was_replaced_or_what_serves_on(deployer: Deployer, run_id: str) -> None:
    deployer.go_through(run_id)
    second, third = train(deployer, 2), train(deployer, 3)
    deployer.go_through(second)
    deployer.configure(gates={"cloud": {"min_accuracy": 0.9}})
    deployer.go_through(third)
    told = [(m["run_id"], m["outcome"], m["previous"]) for m in deployer.messages()]
    assert told == [(run_id, "live", ""), (second, "live", run_id), (third, "rejected", second)]


# What no release depends on ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "report", [b"[]", b"\xff", b'{"classes": 7}', b'{"classes": [{"label": "blue"}]}', b'{"coverage": 3}']
)
def test_a_report_of_the_data_that_cannot_be_read_costs_the_card_its_counts_and_nothing_else(
    deployer: Deployer, run_id: str, report: bytes
) -> None:
    overwrite(deployer.ledger_store, names.validation(run_id), report)
    assert deployer.go_through(run_id).state is State.LIVE
    assert card(deployer, run_id)["data"]["classes"] == []


@pytest.mark.parametrize("which", ["run", "launch", "ended"])
def test_what_the_card_alone_needs_costs_the_card_and_nothing_else(deployer: Deployer, run_id: str, which: str) -> None:
    deployer.go_to(run_id, "upload")
    name = {
        "run": names.run(run_id),
        "launch": names.launch(run_id, "cloud"),
        "ended": names.ended(run_id, "cloud", 1),
    }[which]
    overwrite(deployer.ledger_store, name, b"{")
    assert deployer.go_through(run_id).state is State.LIVE


def test_a_card_that_google_refuses_stops_no_release_and_no_message(deployer: Deployer, run_id: str) -> None:
    put = deployer.models.put

    def refusing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("cards/"):
            raise RejectedByGoogle("403: storage.objects.create is missing")
        return put(name, *arguments, **options)

    deployer.models.put = refusing  # type: ignore[method-assign]
    deployer.go_through(run_id)
    assert deployer.release(run_id).state is State.LIVE
    assert len(deployer.messages(outcome="live")) == 1


def test_a_model_that_serves_is_live_even_when_the_registry_refuses_to_say_so(deployer: Deployer, run_id: str) -> None:
    deployer.go_through(run_id)
    newer = train(deployer, 2)
    find = deployer.vertex.find_model_version

    def refusing(model_id: str, alias: str) -> Any:
        if deployer.release(newer).step == "aliases":
            raise RejectedByGoogle("403: aiplatform.models.get is missing")
        return find(model_id, alias)

    deployer.vertex.find_model_version = refusing  # type: ignore[method-assign]
    release = deployer.go_through(newer)
    assert release.state is State.LIVE, release.reason


def test_a_release_that_cannot_be_read_does_not_make_what_replaced_it_a_failure(
    deployer: Deployer, run_id: str
) -> None:
    deployer.go_through(run_id)
    newer = train(deployer, 2)
    overwrite(deployer.ledger_store, names.release(run_id, "cloud", 1), b"{}")
    release = deployer.go_through(newer)
    assert release.state is State.LIVE, release.reason
    assert deployer.live_run() == newer
