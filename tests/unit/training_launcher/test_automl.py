"""A run that AutoML trains: its data set, its two pipelines, what they cost, and how all of it ends."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from dualdeploy.contracts import automl
from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import RejectedByGoogle, ServiceUnavailable
from dualdeploy.ledger import ManagedData, State
from dualdeploy.ledger.spending import read_account, read_estimate
from support.automl_chain import (
    PICTURES,
    automl_chain,
    check_tidy,
    check_trained,
    configure,
    drain,
    managed_data,
    result,
    settle,
    until,
    upload,
    work,
)
from support.chain import Chain, overwrite, shard_bytes
from support.fakes import Failing
from training_launcher.managed_data import KEPT_SECONDS, OPERATION_SECONDS, UNCOUNTED_SECONDS


def trained(**sections: Any) -> tuple[Chain, str]:
    chain = automl_chain(**sections)
    upload(chain)
    settle(chain)
    (run_id,) = chain.run_ids()
    return chain, run_id


def first(chain: Chain) -> str:
    """The id of the first run: a repetition has a longer one."""
    return min(chain.run_ids(), key=len)


def launch(chain: Chain, target: str = "cloud") -> Any:
    return chain.ledger.read_launch(first(chain), target).document


# The way ---------------------------------------------------------------------------------------------------------


def test_from_shards_to_two_trained_models_by_one_data_set() -> None:
    chain, run_id = trained()

    check_trained(chain, run_id)
    check_tidy(chain)
    (dataset,) = chain.automl.datasets.values()
    assert dataset.items == 2 * PICTURES
    specs = {each.labels["dualdeploy_target"]: each for each in chain.automl.specs.values()}
    assert {each.dataset for each in specs.values()} == {dataset.name}
    assert (specs["cloud"].model_type, specs["cloud"].node_hours) == ("CLOUD", 8)
    assert (specs["mobile"].model_type, specs["mobile"].node_hours) == ("MOBILE_TF_VERSATILE_1", 1)
    assert specs["cloud"].model_id == automl.model_id("flowers", "cloud")
    assert {each.alias for each in specs.values()} == {run_id}


def test_the_budget_and_the_type_are_those_of_the_configuration() -> None:
    wish = {"cloud": {"budget_node_hours": 20}, "mobile": {"model_type": "MOBILE_TF_LOW_LATENCY_1"}}
    chain, _ = trained(training={"method": "automl", "automl": wish})

    told = {(each.model_type, each.node_hours) for each in chain.automl.specs.values()}
    assert told == {("CLOUD", 20), ("MOBILE_TF_LOW_LATENCY_1", 1)}


def test_people_see_what_is_waited_for() -> None:
    chain = automl_chain()
    upload(chain)
    for step, says in (
        ("prepare", "prepares the pictures for AutoML"),
        ("dataset", "AutoML makes a data set"),
        ("import", f"AutoML imports {2 * PICTURES} pictures"),
    ):
        until(chain, step)
        assert [says in launch(chain, target).holdup.what for target in TARGETS] == [True, True]
        assert launch(chain).state is State.LAUNCHING
    until(chain, "ready")
    chain.tick()
    assert launch(chain).state is State.TRAINING
    assert launch(chain).holdup is None
    assert launch(chain).placement.describe() == "AutoML CLOUD (8 node hours)"
    assert chain.standing(first(chain), "cloud").waits_for.endswith(", AutoML CLOUD (8 node hours)")


def test_a_forced_repetition_imports_nothing_anew() -> None:
    chain, run_id = trained()
    chain.handle(chain.retrain(force=True))
    settle(chain)

    assert set(chain.run_ids()) == {run_id, f"{run_id}-r2"}
    check_trained(chain, f"{run_id}-r2")
    check_tidy(chain)
    assert len(chain.automl.datasets) == 1
    assert chain.automl.faults.calls["start_import"] == 1
    assert sum(job.labels["dualdeploy_target"] == "data" for job in chain.vertex.jobs.values()) == 1
    assert {each.version for each in chain.automl.pipelines.values()} == {"1", "2"}


def test_other_labels_or_another_split_are_another_data_set() -> None:
    chain, _ = trained()
    configure(chain, data={"quiet_period": 60, "split": {"eval": "eval-*"}})
    chain.handle(chain.retrain(force=True))
    settle(chain)

    assert len(chain.automl.datasets) == 2


def begin_all(chain: Chain) -> None:
    """Whatever can begin begins, and custom jobs end well; pipelines go on."""
    for _ in range(8):
        drain(chain)
        chain.automl.finish_operations()
        for job in chain.unfinished_jobs():
            chain.train(job, hints=False)
        chain.tick()


def test_the_second_run_waits_until_the_first_version_of_its_model_is_there() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "ready")
    chain.tick()
    upload(chain, edition=2)
    begin_all(chain)
    older, newer = sorted(chain.run_ids(), key=lambda each: chain.ledger.read_run(each).created_at)
    assert len(chain.automl.pipelines) == 2
    waits = chain.ledger.read_launch(newer, "cloud").document.holdup
    assert "trains the first version" in waits.what
    settle(chain, ticks=60)
    for run_id in (older, newer):
        check_trained(chain, run_id)


# What it costs ---------------------------------------------------------------------------------------------------


def test_what_a_run_costs_is_said_before_and_settled_by_what_google_counted() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "prepare")
    (run_id,) = chain.run_ids()
    estimate = read_estimate(chain.ledger, run_id)
    assert estimate is not None
    assert {name: round(each.most_usd or 0, 2) for name, each in estimate.targets.items()} == {
        "data": 0.92,
        "cloud": 27.72,
        "mobile": 18.0,
    }
    assert "8 node hours, 3.465 USD a node hour of AutoML" in estimate.targets["cloud"].price
    account = read_account(chain.ledger, "flowers", estimate.month)
    assert round(account.total_usd(), 2) == 46.64

    until(chain, "ready")
    chain.tick()
    for name, spec in chain.automl.specs.items():
        chain.automl.end_pipeline(name, node_hours=5.0 if spec.model_type == "CLOUD" else 0.75)
    settle(chain)
    account = read_account(chain.ledger, "flowers", estimate.month)
    paid = {name.rsplit("/", 1)[1]: entry.actual_usd for name, entry in account.jobs.items()}
    assert paid == {"data": 0.0, "cloud": pytest.approx(17.325), "mobile": pytest.approx(13.5)}


@pytest.mark.parametrize(
    ("limit", "refused"),
    [
        ({"max_usd_per_run": 46}, "lower training.automl.<target>.budget_node_hours"),
        ({"max_usd_per_month": 46}, "may cost 46.64 USD"),
        ({"max_usd_per_run": 47, "max_usd_per_month": 47}, ""),
        ({"max_usd_per_run": 46, "data": {"expected": "1h"}}, ""),
        ({"max_usd_per_run": 10, "cloud": {"usd_per_hour": 0.5}, "mobile": {"usd_per_hour": 1}}, ""),
    ],
)
def test_a_limit_is_held_against_node_hours(limit: dict[str, Any], refused: str) -> None:
    chain, run_id = trained(budget=limit)

    if not refused:
        check_trained(chain, run_id)
        return
    assert launch(chain).state is State.REJECTED
    assert refused in launch(chain).reason
    assert chain.vertex.jobs == {}


def test_a_price_that_is_not_known_is_told_as_such() -> None:
    chain = automl_chain(budget={"max_usd_per_month": 100})
    settings = chain.settings["training_launcher"]
    chain.settings["training_launcher"] = dataclasses.replace(settings, region="europe-west4")
    chain.use("training_launcher")
    upload(chain)
    settle(chain)

    assert "no training price of e2-standard-4 in europe-west4 is known" in launch(chain).reason
    assert "budget.<target>.usd_per_hour" in launch(chain).reason


# Refused before anything is spent --------------------------------------------------------------------------------


def check_rejected(chain: Chain, *says: str) -> None:
    for target in TARGETS:
        assert launch(chain, target).state is State.REJECTED
        assert all(each in launch(chain, target).reason for each in says), launch(chain, target).reason
    assert (chain.vertex.jobs, chain.automl.datasets, chain.automl.pipelines) == ({}, {}, {})
    assert managed_data(chain) is None


def test_a_region_without_automl_is_refused() -> None:
    chain = automl_chain()
    settings = chain.settings["training_launcher"]
    chain.settings["training_launcher"] = dataclasses.replace(settings, region="europe-west3")
    chain.use("training_launcher")
    upload(chain)
    settle(chain)

    check_rejected(chain, "AutoML for images does not exist in europe-west3, only in us-central1 and europe-west4")


@pytest.mark.parametrize("pictures", [2, 4])
def test_too_few_pictures_of_a_label_are_refused(pictures: int) -> None:
    chain = automl_chain()
    upload(chain, pictures=pictures)
    settle(chain)

    check_rejected(chain, f"blue has {pictures} pictures, AutoML wants 10", "red has")


def test_a_label_that_no_picture_tests_is_refused() -> None:
    chain = automl_chain(labels=["blue", "red", "green"])
    upload(chain)
    settle(chain)

    assert launch(chain).state is State.REJECTED


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ([{"label": "a", "records": {"train": 40, "eval": 0}}], "a has no held-out picture"),
        ([{"label": "a", "records": {"train": 1, "eval": 20}}], "a has 1 pictures to learn from, AutoML needs two"),
        ([{"label": f"l{n}", "records": {"train": 1, "eval": 1}} for n in range(8)], "and 3 more labels"),
        ([{"label": "a", "records": {"train": 8, "eval": 2}}], ""),
    ],
)
def test_what_a_whole_validation_tells(classes: list[dict[str, Any]], says: str) -> None:
    needs = automl_chain().service("training_launcher").ticks._works["launch"]._methods.automl.needs
    whole = {"coverage": {"fraction": 1}, "classes": classes, "splits": []}

    assert says in needs.refusal(None, whole)
    assert bool(needs.refusal(None, whole)) == bool(says)
    # A part of the data does not prove that the rest lacks a label.
    assert needs.refusal(None, {**whole, "coverage": {"fraction": 0.5}}) == ""


def test_a_picture_that_is_too_large_is_refused() -> None:
    needs = automl_chain().service("training_launcher").ticks._works["launch"]._methods.automl.needs
    found = {"splits": [{"image_bytes": {"maximum": 30_000_001}}, {"image_bytes": None}]}

    assert "the largest here has 30,000,001" in needs.refusal(None, found)


# Failures --------------------------------------------------------------------------------------------------------


def check_failed(chain: Chain, *says: str) -> None:
    for target in TARGETS:
        assert launch(chain, target).state is State.FAILED, launch(chain, target)
        assert all(each in launch(chain, target).reason for each in says), launch(chain, target).reason
        assert chain.messages("training-completed", target=target, outcome="failed")
    assert chain.automl.datasets == {}
    assert chain.automl.pipelines == {}
    check_tidy(chain)


def test_pictures_that_automl_could_not_import_are_the_reason() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "import")
    for name in [each for each in chain.models.names() if "/images/" in each][:5]:
        chain.models.delete(name, expect=chain.models.read(name).generation)
    settle(chain)

    check_failed(chain, "43 of 48 pictures are in the data set", "cannot be read", "2 more")
    # A repetition does not rely on what was prepared.
    chain.handle(chain.retrain(force=True))
    settle(chain)
    check_trained(chain, f"{first(chain)}-r2")


def test_pictures_that_are_missing_without_a_word_are_waited_for_and_then_the_reason() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "import")
    chain.automl.finish_operations()
    (dataset,) = chain.automl.datasets.values()
    chain.automl.datasets[dataset.name] = dataclasses.replace(dataset, items=7)
    chain.tick()
    assert "so far 7 of 48 pictures" in launch(chain).holdup.what
    chain.clock.advance(UNCOUNTED_SECONDS)
    settle(chain)

    check_failed(chain, "7 of 48 pictures are in the data set: it does not say why")


@pytest.mark.parametrize(
    ("kind", "says"), [("create_dataset", "AutoML made no data set"), ("import", "the import failed")]
)
def test_an_operation_that_fails_for_good_is_the_reason(kind: str, says: str) -> None:
    chain = automl_chain()
    chain.automl.fail_operation(kind, "the schema is unknown", code=3)
    upload(chain)
    settle(chain)

    check_failed(chain, says, "the schema is unknown")


@pytest.mark.parametrize(
    ("step", "says"), [("dataset", "AutoML makes a data set since"), ("import", "AutoML imports 48")]
)
def test_an_operation_that_does_not_end_within_a_day_is_the_reason(step: str, says: str) -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, step)
    chain.tick(OPERATION_SECONDS - 120)
    assert launch(chain).state is State.LAUNCHING
    chain.tick(180)

    for target in TARGETS:
        assert launch(chain, target).state is State.FAILED
        assert all(each in launch(chain, target).reason for each in (says, "/operations/", "does not end"))
    # What ends after all is not in the way of the run that is asked for next.
    chain.automl.finish_operations()
    chain.handle(chain.retrain(force=True))
    settle(chain)
    check_trained(chain, f"{first(chain)}-r2")
    check_tidy(chain)


@pytest.mark.parametrize("kind", ["create_dataset", "import"])
def test_an_operation_that_fails_for_a_while_is_begun_again(kind: str) -> None:
    chain = automl_chain()
    chain.automl.fail_operation(kind, "try again", code=14)
    upload(chain)
    settle(chain, ticks=40)

    check_trained(chain, first(chain))
    check_tidy(chain)


@pytest.mark.parametrize("forget", ["create", "import"])
def test_an_operation_that_google_has_forgotten_is_not_an_end(forget: str) -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "dataset" if forget == "create" else "import")
    chain.automl.operations.clear()
    settle(chain)

    check_trained(chain, first(chain))
    check_tidy(chain)


def test_a_data_set_that_someone_deleted_is_made_again() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "import")
    chain.automl.datasets.clear()
    settle(chain)

    check_trained(chain, first(chain))


def test_what_the_job_refuses_is_told_with_its_reason() -> None:
    """The validation saw copies as pictures; the job counts each once."""
    chain = automl_chain()
    for name in ("flowers/train-00000-of-00001.tfrecord", "flowers/eval-00000-of-00001.tfrecord"):
        few = shard_bytes(name, 1, 4)
        chain.queue.append(chain.finalized(name, generation=overwrite(chain.data, name, few * 6)))
    settle(chain)

    check_failed(chain, "blue has 4 different pictures, AutoML wants 10 at least")


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        ("JOB_STATE_FAILED", "exit status 1", "failed: exit status 1"),
        ("JOB_STATE_CANCELLED", "", "cancelled: Vertex AI gives no reason"),
        ("JOB_STATE_SUCCEEDED", "", "succeeded but wrote no gs://models/automl/flowers/"),
    ],
)
def test_a_job_that_prepares_nothing_is_the_reason(state: str, error: str, says: str) -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "prepare")
    (job,) = chain.vertex.jobs
    chain.vertex.end_job(job, state, error=error)
    settle(chain)

    check_failed(chain, says)


def test_a_job_that_vertex_ai_cannot_place_is_asked_for_again() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "prepare")
    (job,) = chain.vertex.jobs
    chain.vertex.end_job(job, "JOB_STATE_FAILED", error="Machine type temporarily unavailable", code=8)
    settle(chain, ticks=40)

    assert len(chain.vertex.jobs) == 2
    check_trained(chain, first(chain))


# Duplicates and lost answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation", ["start_create_dataset", "start_import", "create_pipeline", "start_delete_dataset"]
)
@pytest.mark.parametrize("after", [False, True])
def test_an_answer_that_is_lost_makes_nothing_twice(operation: str, after: bool) -> None:
    chain = automl_chain()
    chain.automl.faults.plan(operation, Failing(ServiceUnavailable("503"), after=after))
    upload(chain)
    settle(chain, ticks=40)
    chain.clock.advance(KEPT_SECONDS)
    for _ in range(6):
        chain.tick()
        chain.automl.finish_operations()

    check_trained(chain, first(chain))
    assert chain.automl.datasets == {}
    assert chain.automl.faults.pending() == {}
    assert len(chain.automl.pipelines) == 2


def test_of_two_data_sets_the_oldest_is_used_and_the_other_deleted() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "dataset")
    labels = {"dualdeploy_data": managed_data(chain).key, "dualdeploy_dataset": "flowers"}  # type: ignore[union-attr]
    chain.automl.start_create_dataset("another", labels)
    settle(chain)

    check_trained(chain, first(chain))
    check_tidy(chain)


def test_a_pipeline_that_is_refused_is_the_reason_and_is_not_asked_for_again() -> None:
    chain = automl_chain()
    chain.automl.faults.plan("create_pipeline", Failing(RejectedByGoogle("400: budget")))
    upload(chain)
    settle(chain)

    assert launch(chain, "cloud").state is State.FAILED
    assert "the job could not be created: 400: budget" in launch(chain, "cloud").reason
    assert launch(chain, "mobile").state is State.TRAINED


# Newer data ------------------------------------------------------------------------------------------------------


def second_run(chain: Chain, **first: Any) -> tuple[str, str]:
    """A run whose pipelines train, and newer data whose pipelines Vertex AI has taken."""
    upload(chain)
    settle(chain)
    upload(chain, edition=2)
    begin_all(chain)
    upload(chain, edition=3)
    begin_all(chain)
    _, older, newer = sorted(chain.run_ids(), key=lambda each: chain.ledger.read_run(each).created_at)
    return older, newer


def test_newer_data_lets_a_pipeline_train_to_its_end() -> None:
    chain = automl_chain()
    older, newer = second_run(chain)

    assert len(chain.unfinished_pipelines()) == 4
    settle(chain)
    for run_id in (older, newer):
        check_trained(chain, run_id)


def test_a_pipeline_is_cancelled_when_that_is_asked_for_and_what_it_used_is_paid() -> None:
    chain = automl_chain(data={"quiet_period": 60, "on_new_data": "supersede"})
    older, newer = second_run(chain)
    settle(chain, ticks=40)

    check_trained(chain, newer)
    check_tidy(chain)
    for target in TARGETS:
        found = chain.ledger.read_launch(older, target).document
        assert found.state is State.SUPERSEDED
        assert "AutoML bills the node hours that it has used" in found.reason
    account = read_account(chain.ledger, "flowers", chain.ledger.read_run(older).created_at[:7])
    assert account.jobs[f"{older}/cloud"].actual_usd == pytest.approx(0.5 * 3.465)


# What is left ----------------------------------------------------------------------------------------------------


def test_a_data_set_that_no_run_needs_is_deleted_after_a_day_and_made_anew_when_one_does() -> None:
    chain, run_id = trained()
    chain.tick()
    assert len(chain.automl.datasets) == 1
    chain.clock.advance(KEPT_SECONDS)
    chain.tick()
    assert managed_data(chain).step == "deleting"  # type: ignore[union-attr]
    chain.handle(chain.retrain(force=True))
    drain(chain)
    repeated = f"{run_id}-r2"
    waits = chain.ledger.read_launch(repeated, "cloud").document.holdup
    assert "is being deleted, and made anew after that" in waits.what
    settle(chain, ticks=30)
    check_trained(chain, repeated)
    # What was prepared for the first is still there.
    assert sum(job.labels["dualdeploy_target"] == "data" for job in chain.vertex.jobs.values()) == 1


def test_a_data_set_that_a_run_needs_is_never_deleted() -> None:
    chain, run_id = trained()
    chain.handle(chain.retrain(force=True))
    drain(chain)
    chain.clock.advance(KEPT_SECONDS * 2)
    chain.tick()
    assert f"{run_id}-r2" in managed_data(chain).users  # type: ignore[union-attr]
    assert len(chain.automl.datasets) == 1


def test_a_run_that_is_given_up_while_it_is_prepared_leaves_no_job() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "prepare")
    (run_id,) = chain.run_ids()
    chain.service("training_launcher").ticks._works["launch"].give_up(run_id, "its process died each time")
    settle(chain)

    assert chain.unfinished_jobs() == []
    assert launch(chain).state is State.FAILED
    check_tidy(chain)
    chain.handle(chain.retrain(force=True))
    settle(chain, ticks=30)
    check_trained(chain, f"{run_id}-r2")


def test_a_step_that_a_newer_version_knows_is_left_alone() -> None:
    chain = automl_chain()
    upload(chain)
    found = until(chain, "prepare")
    name = next(each for each in chain.ledger_store.names() if each.startswith("automl/"))
    stored = chain.ledger_store.read(name)
    text = json.dumps({**json.loads(stored.data), "step": "polishing", "wax": 3}).encode()
    chain.ledger_store.put(name, text, expect=stored.generation)
    work(chain)
    chain.tick()

    assert "is polishing, which a newer version knows" in launch(chain).holdup.what
    kept = ManagedData.model_validate_json(chain.ledger_store.read(name).data)
    assert (kept.wax, kept.key) == (3, found.key)  # type: ignore[attr-defined]


# The result ------------------------------------------------------------------------------------------------------


def test_the_result_is_measured_on_our_held_out_pictures_in_the_order_of_our_labels() -> None:
    chain = automl_chain()
    upload(chain)
    until(chain, "ready")
    chain.tick()
    for name in chain.unfinished_pipelines():
        chain.automl.end_pipeline(name, right=0.75)
    settle(chain)

    found = result(chain, first(chain), "cloud")
    assert found.labels == ("blue", "red")
    assert found.metrics.examples == PICTURES
    assert found.metrics.accuracy == 0.75
    assert found.metrics.confusion == ((9, 3), (3, 9))
    assert found.metrics.per_class["blue"].recall == 0.75
    assert [(each.label, each.taken_for, each.examples) for each in found.metrics.confused] == [
        ("blue", "red", 3),
        ("red", "blue", 3),
    ]
    assert found.metrics.loss == 0.25
    assert (found.data.eval_examples, found.data.train_examples) == (PICTURES, PICTURES)
    assert found.architecture == "AutoML CLOUD"
    assert found.artifacts.golden.startswith("gs://models/automl/flowers/")
