"""What people find in the Model Registry and beside it: labels, figures in the console, and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from chain import Chain

from cloud_deployer.console_metrics import SCHEMA_URI, classification_metrics
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.ledger import State
from dualdeploy.testing import Failing
from dualdeploy.testing.vertex import label_in_picture
from dualdeploy.training import Metrics
from dualdeploy.vertex import Answer, DeployedModel

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


def with_figures(chain: Chain) -> None:
    """Every result of the cloud has a confusion matrix."""
    write = chain.write_result

    def write_with_figures(run_id: str, target: str, **arguments: Any) -> None:
        write(run_id, target, **arguments)
        name = f"results/{run_id}/{target}.json"
        stored = chain.models.read(name)
        document = json.loads(stored.data) | {"metrics": METRICS}
        chain.models.put(name, json.dumps(document).encode(), expect=stored.generation)

    chain.write_result = write_with_figures  # type: ignore[method-assign]


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    with_figures(chain)
    chain.upload()
    return chain


def card(chain: Chain, run_id: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(chain.models.read(f"cards/{run_id}/cloud.json").data)
    return document


def markdown(chain: Chain, run_id: str) -> str:
    return chain.models.read(f"cards/{run_id}/cloud.md").data.decode()


def test_a_version_tells_its_run_its_data_and_the_commit_that_brought_it_out(chain: Chain) -> None:
    chain.settle()
    (run_id,) = chain.run_ids()
    (upload,) = chain.vertex.uploads
    assert upload.labels == {
        "dualdeploy_dataset": "flowers",
        "dualdeploy_run": run_id,
        "dualdeploy_snapshot": chain.ledger.read_run(run_id).snapshot.digest()[:32],
        "dualdeploy_revision": "0123abc",
    }


def test_the_console_is_given_what_was_measured_once(chain: Chain) -> None:
    chain.settle()
    (run_id,) = chain.run_ids()
    chain.queue.append(chain.redeploy("cloud", run_id=run_id))
    chain.settle()
    assert chain.branch(run_id, "cloud").release == 2
    ((version, evaluation),) = chain.vertex.evaluations
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


def test_that_the_registry_refuses_figures_stops_no_release(chain: Chain) -> None:
    chain.vertex.faults.plan("import_evaluation", Failing(RejectedByGoogle("no such schema")))
    chain.settle()
    (run_id,) = chain.run_ids()
    assert chain.branch(run_id, "cloud").state is State.LIVE
    assert chain.vertex.evaluations == []


def test_an_import_whose_answer_was_lost_is_not_repeated(chain: Chain) -> None:
    chain.vertex.faults.plan("import_evaluation", Failing(ServiceUnavailable("lost"), after=True))
    chain.settle()
    assert len(chain.vertex.evaluations) == 1
    assert chain.branch(chain.run_ids()[0], "cloud").state is State.LIVE


# The card ------------------------------------------------------------------------------------------------------


def test_the_card_of_a_live_model_says_what_it_was_made_of_and_how_it_does(chain: Chain) -> None:
    chain.settle()
    (run_id,) = chain.run_ids()
    found = card(chain, run_id)
    run = chain.ledger.read_run(run_id)
    assert found["state"] == "live"
    assert found["data"]["snapshot"] == run.snapshot.digest()
    assert found["data"]["shards"] == 3
    assert found["data"]["classes"] == [
        {"label": "blue", "train": 4, "eval": 2},
        {"label": "red", "train": 4, "eval": 2},
    ]
    assert found["metrics"]["confusion"] == [[18, 2], [6, 14]]
    assert found["gate"]["rules"][0]["name"] == "accuracy"
    assert [step["share"] for step in found["rollout"]["passed"]] == [100]
    assert found["lineage"]["revision"] == "0123abc"
    assert found["lineage"]["training_job"] == chain.branch(run_id, "cloud").job
    assert found["lineage"]["saved_model"] == f"gs://models/runs/{run_id}/cloud/model"
    assert found["model"]["model_version"] == "1"


def test_the_card_of_a_model_that_the_gate_stopped_says_why(chain: Chain) -> None:
    chain.configure(gates={"cloud": {"min_accuracy": 0.9}})
    chain.settle()
    (run_id,) = chain.run_ids()
    found = card(chain, run_id)
    assert found["state"] == "rejected"
    assert found["gate"]["passed"] is False
    assert "| accuracy | 0.8 | >= 0.9 | **failed** |" in markdown(chain, run_id)


def test_the_card_of_a_replaced_model_says_so(chain: Chain) -> None:
    chain.settle()
    (older,) = chain.run_ids()
    chain.clock.advance(3600)
    chain.upload(edition=2)
    chain.settle()
    (newer,) = set(chain.run_ids()) - {older}
    assert card(chain, older)["state"] == "superseded"
    assert card(chain, older)["reason"] == f"replaced by {newer}"
    assert card(chain, newer)["state"] == "live"


def test_the_markdown_shows_the_confusion_matrix_and_the_counts_as_tables(chain: Chain) -> None:
    chain.settle()
    text = markdown(chain, chain.run_ids()[0])
    assert "| true \\ predicted | blue | red |\n| --- | --- | --- |\n| blue | 18 | 2 |\n| red | 6 | 14 |" in text
    assert "| class | train | eval |" in text


def test_a_label_with_a_pipe_does_not_break_a_table(chain: Chain) -> None:
    chain.configure(labels=["a|b", "red"])
    chain.settle()
    lines = markdown(chain, chain.run_ids()[0]).splitlines()
    assert any("a\\|b" in line for line in lines)


def test_who_is_told_of_the_end_is_told_where_the_card_is(chain: Chain) -> None:
    chain.settle()
    (run_id,) = chain.run_ids()
    (message,) = chain.messages("deployment-completed", target="cloud")
    assert message["links"]["card"] == f"gs://models/cards/{run_id}/cloud.md"


def test_a_card_that_cannot_be_written_is_written_at_the_next_tick_and_then_the_end_is_told(chain: Chain) -> None:
    chain.configure(gates={"cloud": {"min_accuracy": 0.9}})
    put, failures = chain.models.put, [ServiceUnavailable("503")]

    def failing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("cards/") and failures:
            raise failures.pop()
        return put(name, *arguments, **options)

    chain.models.put = failing  # type: ignore[method-assign]
    chain.settle()
    (run_id,) = chain.run_ids()
    assert card(chain, run_id)["state"] == "rejected"
    assert len(chain.messages("deployment-completed", target="cloud")) == 1


def test_a_model_that_was_taken_back_is_no_candidate_any_more(chain: Chain) -> None:
    chain.settle()
    (first,) = chain.run_ids()
    chain.clock.advance(3600)

    def serve(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        if deployed.display_name != first:
            raise ServiceUnavailable("500: the model server fell over")
        return label_in_picture(deployed, instance)

    chain.vertex.serve = serve
    chain.upload(edition=2)
    chain.settle()
    (second,) = set(chain.run_ids()) - {first}
    assert chain.branch(second, "cloud").state is State.ROLLED_BACK
    older, newer = chain.vertex.models["dualdeploy-flowers"].versions
    assert set(older.aliases) == {first, "default", "live"}
    assert set(newer.aliases) == {second}
    assert card(chain, second)["rollout"]["breach"].startswith("at 50 % of the traffic")


# Old and new ---------------------------------------------------------------------------------------------------


def test_the_message_of_an_end_names_what_was_replaced_or_what_serves_on(chain: Chain) -> None:
    chain.settle()
    (first,) = chain.run_ids()
    chain.clock.advance(3600)
    chain.upload(edition=2)
    chain.settle()
    (second,) = set(chain.run_ids()) - {first}
    chain.configure(gates={"cloud": {"min_accuracy": 0.9}})
    chain.clock.advance(3600)
    chain.upload(edition=3)
    chain.settle()
    told = [(m["run_id"], m["outcome"], m["previous"]) for m in chain.messages("deployment-completed", target="cloud")]
    (third,) = set(chain.run_ids()) - {first, second}
    assert told == [(first, "live", ""), (second, "live", first), (third, "rejected", second)]


# What no release depends on ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "report", [b"[]", b"\xff", b'{"classes": 7}', b'{"classes": [{"label": "blue"}]}', b'{"coverage": 3}']
)
def test_a_report_of_the_data_that_nobody_can_read_costs_the_card_its_counts_and_nothing_else(
    chain: Chain, report: bytes
) -> None:
    chain.drain()
    for _ in range(3):
        chain.tick()
    (run_id,) = chain.run_ids()
    name = f"runs/{run_id}/validation.json"
    chain.ledger_store.put(name, report, expect=chain.ledger_store.read(name).generation)
    chain.settle()
    assert chain.branch(run_id, "cloud").state is State.LIVE
    assert card(chain, run_id)["data"]["classes"] == []


def test_a_card_that_google_refuses_stops_no_release_and_no_message(chain: Chain) -> None:
    put = chain.models.put

    def refusing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("cards/"):
            raise RejectedByGoogle("403: storage.objects.create is missing")
        return put(name, *arguments, **options)

    chain.models.put = refusing  # type: ignore[method-assign]
    chain.settle()
    (run_id,) = chain.run_ids()
    assert chain.branch(run_id, "cloud").state is State.LIVE
    assert len(chain.messages("deployment-completed", target="cloud", outcome="live")) == 1


def test_a_model_that_serves_is_live_even_when_the_registry_refuses_to_say_so(chain: Chain) -> None:
    chain.settle()
    chain.clock.advance(3600)
    chain.upload(edition=2)
    find = chain.vertex.find_model_version

    def refusing(model_id: str, alias: str) -> Any:
        if any(chain.branch(run_id, "cloud").step == "aliases" for run_id in chain.run_ids()):
            raise RejectedByGoogle("403: aiplatform.models.get is missing")
        return find(model_id, alias)

    chain.vertex.find_model_version = refusing  # type: ignore[method-assign]
    chain.settle()
    newer = chain.live("cloud").current.run_id
    assert chain.branch(newer, "cloud").state is State.LIVE, chain.branch(newer, "cloud").reason


def test_a_record_of_what_was_replaced_that_nobody_can_read_does_not_make_what_replaced_it_a_failure(
    chain: Chain,
) -> None:
    chain.settle()
    (older,) = chain.run_ids()
    chain.clock.advance(3600)
    chain.upload(edition=2)
    name = f"runs/{older}/cloud.json"
    chain.ledger_store.put(name, b"{}", expect=chain.ledger_store.read(name).generation)
    chain.settle()
    (newer,) = set(chain.run_ids()) - {older}
    assert chain.live("cloud").current.run_id == newer
    assert chain.branch(newer, "cloud").state is State.LIVE, chain.branch(newer, "cloud").reason
