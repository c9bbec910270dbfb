"""What arriving objects, requests for training and ticks lead to."""

from __future__ import annotations

import json

import pytest

from dualdeploy.contracts.training import TARGETS, TrainingJob
from dualdeploy.errors import (
    CannotEverSucceed,
    InvalidDatasetConfig,
    PermissionSpreads,
    RejectedByGoogle,
    ServiceUnavailable,
    UnknownDataset,
)
from dualdeploy.ledger import State, lease
from dualdeploy.ledger.due import Due
from support.chain import HELD_OUT, LABELS, NUMBERED, WHOLE, Chain, Delivery, shard_bytes
from support.fakes import Failing
from training_launcher.arrivals import IncompleteSet, NoShards


@pytest.fixture
def chain() -> Chain:
    return Chain()


def message_of(chain: Chain, delivery: Delivery) -> str:
    """Handle a delivery that must be acknowledged as handled; what the service says of it."""
    assert chain.handle(delivery)
    assert chain.rejected == []
    return chain.outcomes[-1][2]


def launched(chain: Chain, delivery: Delivery) -> str:
    """The same for what claims a run, which is then looked at; its id."""
    message_of(chain, delivery)
    chain.drain()
    return only_run(chain)


def states(chain: Chain, run_id: str) -> list[str]:
    """Of the trainings of both targets."""
    return [chain.standing(run_id, target).state for target in TARGETS]


def arrivals(chain: Chain) -> list[str]:
    """The data sets that are to be looked at."""
    return [key.rpartition("/")[2] for key in chain.active() if key.startswith("training_launcher/arrivals/")]


def rejection_of(chain: Chain, delivery: Delivery) -> CannotEverSucceed:
    assert chain.handle(delivery)
    ((_, exc),) = chain.rejected
    return exc


def only_run(chain: Chain) -> str:
    (run_id,) = chain.run_ids()
    return run_id


# Arriving objects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "flowers/",
        "flowers/train/",
        f"gcloud/tmp/parallel_composite_uploads/x/{WHOLE[0]}",
        "beam-temp-flowers-0af1c2d4/6f2c.train.tfrecord",
        "_temporary/0/part-00000.tfrecord",
    ],
)
def test_folders_and_pieces_of_an_upload_are_ignored_without_a_single_call(chain: Chain, name: str) -> None:
    chain.handle(chain.finalized(name))
    assert chain.outcomes == [("training_launcher/object-finalized", "ignored", f"{name} is not in a data set")]
    assert chain.operations == []


def test_an_object_of_another_bucket_is_ignored(chain: Chain) -> None:
    chain.handle(chain.finalized(WHOLE[0], bucket="models"))
    assert chain.outcomes[0][1] == "ignored"
    assert chain.operations == []


def test_a_shard_outside_every_folder_is_rejected_with_where_to_put_it(chain: Chain) -> None:
    exc = rejection_of(chain, chain.finalized("train-00000-of-00001.tfrecord"))
    assert isinstance(exc, UnknownDataset)
    assert "gs://data/<dataset>/" in str(exc)
    assert "gs://config/datasets/<dataset>.yaml" in str(exc)


def test_a_shard_of_an_unknown_data_set_is_rejected_with_where_its_configuration_belongs(chain: Chain) -> None:
    exc = rejection_of(chain, chain.finalized("cats/train.tfrecord"))
    assert isinstance(exc, UnknownDataset)
    assert "gs://config/datasets/cats.yaml" in str(exc)


def test_a_shard_of_a_data_set_whose_configuration_is_broken_is_rejected_with_all_its_faults(chain: Chain) -> None:
    chain.write_config("flowers", b"dataset: flowers\nlabels: [a]\nserving: {endpoints: x}\n")
    exc = rejection_of(chain, chain.finalized(WHOLE[0]))
    assert isinstance(exc, InvalidDatasetConfig)
    assert "labels: " in str(exc)
    assert "serving.endpoints: unknown key" in str(exc)


def test_a_shard_beside_the_configured_prefix_is_passed_over_and_said_once(chain: Chain) -> None:
    chain.configure(data={"prefix": "flowers/v2/"})
    for name in ("flowers/old/a.tfrecord", "flowers/old/b.tfrecord"):
        message = message_of(chain, chain.upload(name)[0])
        assert message.endswith("gs://data/flowers/old/ is not under data.prefix, gs://data/flowers/v2/")
    (said,) = chain.ledger.rejections()
    assert "shards arrive outside of the data set: gs://data/flowers/old/" in said.reason


def test_what_may_be_meant_as_data_beside_the_prefix_is_said_once_for_all_of_its_folders(chain: Chain) -> None:
    chain.configure(data={"prefix": "flowers/v2/"})
    for name in ("raw/roses/1.jpg", "raw/tulips/2.jpg", "README.md", "raw/.DS_Store"):
        chain.handle(chain.finalized(f"flowers/{name}"))
    (said,) = chain.ledger.rejections()
    assert (
        "objects that are not shards by their names arrive outside of the data set: gs://data/flowers/raw/"
        in said.reason
    )


def test_an_incomplete_numbered_set_is_noted_and_launches_nothing(chain: Chain) -> None:
    message = message_of(chain, chain.upload(NUMBERED[0])[0])
    assert message == f"{NUMBERED[0]} noted; its batch is not complete"
    assert chain.run_ids() == []
    assert arrivals(chain) == ["flowers"]


def test_a_whole_training_set_without_held_out_shards_waits_because_they_may_still_come(chain: Chain) -> None:
    for delivery in chain.upload(*NUMBERED):
        assert message_of(chain, delivery).endswith("its batch is not complete")
    assert chain.run_ids() == []


def test_the_last_shard_of_a_whole_batch_launches_one_job_for_each_target(chain: Chain) -> None:
    run_id = launched(chain, chain.upload(*WHOLE)[-1])
    run = chain.ledger.read_run(run_id)
    assert run.reason == "every numbered set is whole"
    assert [shard.name for shard in run.snapshot.shards] == sorted(WHOLE)
    for target in TARGETS:
        (job,) = chain.jobs_of(run_id, target)
        branch = chain.standing(run_id, target)
        assert (branch.state, branch.job) == (State.TRAINING, job)
        assert chain.vertex.jobs[job].labels == {
            "dualdeploy_run": run_id,
            "dualdeploy_target": target,
            "dualdeploy_dataset": "flowers",
            "dualdeploy_attempt": "1",
            "dualdeploy_entry": "0",
        }


def test_an_event_that_comes_again_is_already_done_and_validates_nothing(chain: Chain) -> None:
    deliveries = chain.upload(*WHOLE)
    launched(chain, deliveries[-1])
    chain.operations.clear()
    assert message_of(chain, deliveries[-1]) == f"nothing new: {only_run(chain)} has exactly this data"
    assert chain.outcomes[-1][1] == "already_done"
    assert "data.open" not in chain.operations
    assert not [name for name in chain.operations if name.startswith("vertex.")]


def test_shards_without_numbers_wait_for_the_quiet_period_without_being_listed(chain: Chain) -> None:
    message = message_of(chain, chain.upload("flowers/roses.tfrecord")[0])
    assert message == "flowers/roses.tfrecord noted; the quiet period or _SUCCESS completes its batch"
    assert "data.list" not in chain.operations


def test_a_success_marker_launches_what_is_there(chain: Chain) -> None:
    deliveries = chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord", "flowers/_SUCCESS")
    run_id = launched(chain, deliveries[-1])
    assert states(chain, run_id) == ["training", "training"]
    assert chain.ledger.read_run(run_id).reason == "flowers/_SUCCESS arrived"


def test_a_success_marker_over_an_incomplete_set_is_rejected_with_what_is_missing(chain: Chain) -> None:
    deliveries = chain.upload(NUMBERED[1], *HELD_OUT, "flowers/_SUCCESS")
    exc = rejection_of(chain, deliveries[-1])
    assert isinstance(exc, IncompleteSet)
    assert "flowers/train-of-00002.tfrecord lacks 00000" in str(exc)
    assert chain.run_ids() == []


def test_a_success_marker_without_shards_is_ignored(chain: Chain) -> None:
    assert message_of(chain, chain.upload("flowers/_SUCCESS")[0]) == "the batch has no shards"
    assert chain.run_ids() == []


# Ticks ---------------------------------------------------------------------------------------------------------


def tick(chain: Chain, seconds: float = 60) -> str:
    """A tick of the launcher, all that it makes it look at, and what follows at once."""
    chain.clock.advance(seconds)
    said = chain.tick_of("training_launcher")
    chain.drain()
    assert chain.rejected == []
    return "; ".join(said)


def test_a_batch_is_left_alone_until_its_quiet_period_is_over(chain: Chain) -> None:
    for delivery in chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord"):
        message_of(chain, delivery)
    tick(chain, 59)
    assert chain.run_ids() == []
    tick(chain, 1)
    assert chain.ledger.read_run(only_run(chain)).reason == "the quiet period is over"


def test_a_shard_that_arrives_late_begins_the_quiet_period_anew(chain: Chain) -> None:
    chain.handle(chain.upload("flowers/roses.tfrecord")[0])
    chain.clock.advance(50)
    chain.handle(chain.upload("flowers/eval-roses.tfrecord")[0])
    tick(chain, 50)
    assert chain.run_ids() == []
    tick(chain, 20)
    only_run(chain)


def test_an_incomplete_set_is_recorded_once_and_the_arrival_is_done_with(chain: Chain) -> None:
    chain.handle(chain.upload(NUMBERED[0])[0])
    for _ in range(4):
        tick(chain, 90)
    (rejected,) = chain.ledger.rejections()
    assert "lacks 00001" in rejected.reason
    assert arrivals(chain) == []


@pytest.mark.parametrize(
    "refusal",
    [RejectedByGoogle("policy"), PermissionSpreads("storage.objects.list is missing"), ServiceUnavailable("no answer")],
    ids=lambda exc: type(exc).__name__,
)
def test_a_batch_that_google_does_not_let_us_see_is_launched_when_it_does(chain: Chain, refusal: Exception) -> None:
    chain.upload("flowers/a.tfrecord", "flowers/eval.tfrecord")
    chain.drain()
    chain.data.faults.plan("list", *[Failing(refusal)] * 3)
    for _ in range(3):
        chain.tick()
    assert chain.run_ids() == []
    chain.settle()
    assert len(chain.run_ids()) == 1
    assert arrivals(chain) == []


def test_a_data_set_whose_configuration_broke_does_not_keep_the_others(chain: Chain) -> None:
    chain.configure("animals")
    chain.upload("animals/cats.tfrecord", "flowers/roses.tfrecord", "flowers/eval-roses.tfrecord")
    chain.drain()
    chain.write_config("animals", b"dataset: [")
    assert "arrivals/animals: waits: gs://config/datasets/animals.yaml is not YAML" in tick(chain, 90)
    assert len(chain.run_ids()) == 1
    assert arrivals(chain) == ["animals"]


def test_a_data_set_that_cannot_be_listed_now_does_not_keep_the_others(chain: Chain) -> None:
    chain.configure("animals")
    chain.upload("animals/cats.tfrecord", "flowers/roses.tfrecord", "flowers/eval-roses.tfrecord")
    chain.drain()
    chain.data.faults.plan("list", Failing(ServiceUnavailable("no answer")))
    tick(chain, 90)
    assert len(chain.run_ids()) == 1
    assert chain.data.faults.pending() == {}
    assert arrivals(chain) == ["animals"]


def test_a_launch_document_that_is_gone_is_begun_again_and_its_job_adopted(chain: Chain) -> None:
    run_id = launched(chain, chain.upload(*WHOLE)[-1])
    for target in TARGETS:
        name = f"runs/{run_id}/{target}/launch.json"
        chain.ledger_store.delete(name, expect=chain.ledger_store.read(name).generation)
    Due("training_launcher", chain.ledger).put(f"launch/{run_id}")
    tick(chain)
    assert states(chain, run_id) == ["training", "training"]
    assert len(chain.vertex.jobs) == 2


def test_a_launch_document_that_cannot_be_read_keeps_neither_the_other_target_nor_other_runs(chain: Chain) -> None:
    broken = launched(chain, chain.upload(*WHOLE)[-1])
    name = f"runs/{broken}/cloud/launch.json"
    chain.ledger_store.put(name, b"{", expect=chain.ledger_store.read(name).generation)
    chain.clock.advance(3600)
    chain.upload(edition=2)
    chain.settle(ticks=25)
    assert chain.standing(broken, "mobile").state == "superseded"
    newer = next(run_id for run_id in chain.run_ids() if run_id != broken)
    assert [chain.standing(newer, target).state for target in TARGETS] == ["live", "live"]
    assert f"gs://ledger/{name} cannot be read" in chain.ledger.rejections()[0].reason


def test_a_marker_of_a_run_that_was_never_claimed_is_forgotten_and_keeps_no_other(chain: Chain) -> None:
    Due("training_launcher", chain.ledger).put("launch/flowers-000000000000")
    launched(chain, chain.upload(*WHOLE)[-1])
    for _ in range(20):
        tick(chain)
    assert not [key for key in chain.active() if "launch/flowers-000000000000" in key]


# Requests for training -----------------------------------------------------------------------------------------


def test_a_request_trains_what_is_there(chain: Chain) -> None:
    chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord")
    launched(chain, chain.retrain())
    assert chain.ledger.read_run(only_run(chain)).reason == "retrain requested: because"


def test_a_request_without_force_finds_nothing_new_in_known_data(chain: Chain) -> None:
    chain.upload(*WHOLE)
    launched(chain, chain.retrain())
    assert message_of(chain, chain.retrain()) == f"nothing new: {only_run(chain)} has exactly this data"
    assert len(chain.vertex.jobs) == 2


def test_a_forced_request_repeats_a_known_run_under_a_name_of_its_own(chain: Chain) -> None:
    chain.upload(*WHOLE)
    message_of(chain, chain.retrain())
    run_id = only_run(chain)
    assert message_of(chain, chain.retrain(force=True)).startswith(f"{run_id}-r2: ")
    assert message_of(chain, chain.retrain(force=True)).startswith(f"{run_id}-r3: ")
    assert sorted(chain.run_ids()) == [run_id, f"{run_id}-r2", f"{run_id}-r3"]


def test_a_forced_request_that_is_delivered_again_finds_its_own_run(chain: Chain) -> None:
    chain.upload(*WHOLE)
    message_of(chain, chain.retrain())
    request = chain.retrain(force=True)
    message_of(chain, request)
    chain.drain()
    chain.clock.advance(10)
    run_id = min(chain.run_ids(), key=len)
    assert message_of(chain, request).startswith(f"{run_id}-r2: ")
    chain.drain()
    assert len(chain.run_ids()) == 2
    assert len(chain.vertex.jobs) == 4


def test_a_forced_request_on_new_data_is_its_first_run(chain: Chain) -> None:
    chain.upload(*WHOLE)
    message_of(chain, chain.retrain(force=True))
    assert not only_run(chain).endswith("-r2")


def test_a_request_for_an_empty_data_set_is_rejected(chain: Chain) -> None:
    exc = rejection_of(chain, chain.retrain())
    assert isinstance(exc, NoShards)
    assert "gs://data/flowers/" in str(exc)


def test_a_request_for_an_unknown_data_set_is_rejected(chain: Chain) -> None:
    assert isinstance(rejection_of(chain, chain.retrain(dataset="cats")), UnknownDataset)


@pytest.mark.parametrize("force", [True, False])
def test_a_request_over_an_incomplete_set_is_rejected_forced_or_not(chain: Chain, force: bool) -> None:
    chain.upload(NUMBERED[0])
    assert isinstance(rejection_of(chain, chain.retrain(force=force)), IncompleteSet)


# Admission -----------------------------------------------------------------------------------------------------


def test_data_that_fails_validation_is_rejected_before_any_job_and_told_to_subscribers(chain: Chain) -> None:
    chain.upload(*NUMBERED, *HELD_OUT)
    chain.data.put(NUMBERED[0], b"no record at all", expect=chain.data.read(NUMBERED[0]).generation)
    run_id = launched(chain, chain.retrain())
    assert chain.vertex.jobs == {}
    for _ in range(3):
        chain.tick()
    for target in TARGETS:
        assert chain.standing(run_id, target).state is State.REJECTED
        (told,) = chain.messages("training-completed", target=target)
        assert told["outcome"] == "failed"
        assert NUMBERED[0] in told["reason"]
    assert chain.active() == []
    report = json.loads(chain.ledger_store.read(f"runs/{run_id}/validation.json").data)
    assert report["verdict"] == "rejected"
    assert report["findings"]


def test_a_shard_that_is_deleted_after_the_snapshot_rejects_the_run(chain: Chain) -> None:
    chain.upload(*WHOLE)

    def delete_before_it_is_read(_number: int, name: str, _when: str) -> None:
        if name == "data.open":
            chain.interfere = lambda *_: None
            for shard in WHOLE:
                chain.data.delete(shard, expect=chain.data.read(shard).generation)

    chain.interfere = delete_before_it_is_read
    run_id = launched(chain, chain.retrain())
    assert chain.standing(run_id, "cloud").state is State.REJECTED
    assert "replaced or deleted after the snapshot" in chain.standing(run_id, "cloud").reason


def test_a_shard_that_cannot_be_read_now_is_read_again_later_and_the_run_says_so(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.data.faults.plan("open", Failing(ServiceUnavailable("no answer")))
    run_id = launched(chain, chain.retrain())
    assert "no answer" in chain.standing(run_id, "cloud").waits_for
    tick(chain)
    assert states(chain, run_id) == ["training", "training"]


def test_a_validated_run_is_not_validated_again_when_its_launch_is_resumed(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("find_custom_jobs", *[Failing(ServiceUnavailable("no answer"))] * 2)
    run_id = launched(chain, chain.retrain())
    assert states(chain, run_id) == ["launching", "launching"]
    chain.operations.clear()
    tick(chain)
    assert states(chain, run_id) == ["training", "training"]
    assert "data.open" not in chain.operations


def test_of_two_tolerances_for_bad_records_the_stricter_one_decides_for_both_targets(chain: Chain) -> None:
    good = shard_bytes("many", examples=8)
    chain.configure(training={"cloud": {"max_bad_records": 0.3}, "mobile": {"max_bad_records": 0.0}})
    chain.upload(*HELD_OUT)
    broken = good[:-8] + bytes(8)
    chain.data.put("flowers/train.tfrecord", broken, expect=0)
    # The stricter of the two trainers decides: what it would refuse must not start the other one either.
    assert states(chain, launched(chain, chain.retrain())) == ["rejected", "rejected"]


# Jobs ----------------------------------------------------------------------------------------------------------


def test_the_job_document_names_exactly_the_snapshot(chain: Chain) -> None:
    chain.upload(*WHOLE)
    run_id = launched(chain, chain.retrain())
    run = chain.ledger.read_run(run_id)
    for target in TARGETS:
        job = TrainingJob.model_validate_json(chain.models.read(f"runs/{run_id}/{target}/job.json").data)
        assert (job.run_id, job.target, job.labels) == (run_id, target, LABELS)
        assert [reference.uri for reference in job.shards.train] == [f"gs://data/{name}" for name in NUMBERED]
        assert [reference.uri for reference in job.shards.eval] == [f"gs://data/{name}" for name in HELD_OUT]
        generations = {shard.name: str(shard.generation) for shard in run.snapshot.shards}
        assert {r.uri: r.generation for r in job.shards.train} == {
            f"gs://data/{name}": generations[name] for name in NUMBERED
        }
        assert job.output.result == f"gs://models/results/{run_id}/{target}.json"
        assert job.output.directory == f"gs://models/runs/{run_id}/{target}"


def test_the_two_jobs_differ_as_the_configuration_says(chain: Chain) -> None:
    chain.configure(
        training={
            "cloud": {"machine": "g2-standard-24", "accelerator": {"type": "NVIDIA_L4", "count": 2}, "timeout": "3h"},
            "mobile": {"accelerator": None, "capacity": [{"strategy": "standard"}]},
        }
    )
    chain.upload(*WHOLE)
    run_id = launched(chain, chain.retrain())
    cloud, mobile = (chain.vertex.job_specs[chain.jobs_of(run_id, target)[0]] for target in TARGETS)
    assert (cloud.machine, cloud.accelerator_type, cloud.accelerator_count, cloud.timeout, cloud.strategy) == (
        "g2-standard-24",
        "NVIDIA_L4",
        2,
        10800.0,
        "spot",
    )
    assert (mobile.accelerator_type, mobile.accelerator_count, mobile.strategy) == ("", 0, "standard")
    assert list(cloud.arguments) == ["--target", "cloud", "--job", f"gs://models/runs/{run_id}/cloud/job.json"]
    assert cloud.image == "trainer@sha256:1"


def test_a_job_that_was_created_but_never_recorded_is_adopted_by_its_labels(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("create_custom_job", Failing(ServiceUnavailable("the answer was lost"), after=True))
    run_id = launched(chain, chain.retrain())
    tick(chain)
    for target in TARGETS:
        assert chain.jobs_of(run_id, target) == [chain.standing(run_id, target).job]


def test_a_target_that_vertex_does_not_take_now_does_not_keep_the_other_from_its_job(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("create_custom_job", Failing(ServiceUnavailable("quota of NVIDIA_TESLA_T4")))
    run_id = launched(chain, chain.retrain())
    assert states(chain, run_id) == ["launching", "training"]
    tick(chain)
    assert states(chain, run_id) == ["training", "training"]


def test_a_job_that_vertex_refuses_fails_its_training_and_not_the_other(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("create_custom_job", Failing(RejectedByGoogle("machine type n1-x does not exist")))
    run_id = launched(chain, chain.retrain())
    assert states(chain, run_id) == ["failed", "training"]
    assert "n1-x does not exist" in chain.standing(run_id, "cloud").reason
    chain.settle()
    (told,) = chain.messages("training-completed", target="cloud")
    assert told["outcome"] == "failed"
    assert chain.standing(run_id, "mobile").state is State.LIVE
    assert chain.active() == []


def test_a_launch_that_another_instance_is_at_is_left_to_it(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("find_custom_jobs", *[Failing(ServiceUnavailable("no answer"))] * 2)
    run_id = launched(chain, chain.retrain())
    with lease(chain.ledger, f"launch/{run_id}", seconds=90):
        assert "waits: locks/launch/" in tick(chain)
    assert chain.vertex.jobs == {}
    tick(chain)
    assert states(chain, run_id) == ["training", "training"]
