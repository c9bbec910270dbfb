"""What arriving objects, requests for training and the clock lead to."""

from __future__ import annotations

import json

import pytest
from chain import HELD_OUT, LABELS, NUMBERED, WHOLE, Chain, Delivery, shard_bytes

from dualdeploy.errors import CannotEverSucceed, InvalidDatasetConfig, ServiceUnavailable, UnknownDataset
from dualdeploy.ledger import State
from dualdeploy.testing import Failing
from dualdeploy.training import TARGETS, TrainingJob
from dualdeploy.vertex import RejectedByGoogle
from training_launcher.handler import IncompleteSet, NoShards


@pytest.fixture
def chain() -> Chain:
    return Chain()


def message_of(chain: Chain, delivery: Delivery) -> str:
    """Handle a delivery that must be acknowledged as handled; what the service says of it."""
    assert chain.handle(delivery)
    assert chain.rejected == []
    return chain.outcomes[-1][2]


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
    assert chain.ledger.arrivals() == {}
    (said,) = chain.ledger.rejections()
    assert "shards arrive outside of the data set: gs://data/flowers/old/" in said.reason


def test_an_incomplete_numbered_set_is_noted_and_launches_nothing(chain: Chain) -> None:
    message = message_of(chain, chain.upload(NUMBERED[0])[0])
    assert message == f"{NUMBERED[0]} noted; its batch is not complete"
    assert chain.run_ids() == []
    assert list(chain.ledger.arrivals()) == ["flowers"]


def test_a_whole_training_set_without_held_out_shards_waits_because_they_may_still_come(chain: Chain) -> None:
    for delivery in chain.upload(*NUMBERED):
        assert message_of(chain, delivery).endswith("its batch is not complete")
    assert chain.run_ids() == []


def test_the_last_shard_of_a_whole_batch_launches_one_job_for_each_target(chain: Chain) -> None:
    deliveries = chain.upload(*WHOLE)
    message = message_of(chain, deliveries[-1])
    run_id = only_run(chain)
    assert message == f"{run_id}: cloud training, mobile training"
    run = chain.ledger.read_run(run_id)
    assert run.reason == "every numbered set is whole"
    assert [shard.name for shard in run.snapshot.shards] == sorted(WHOLE)
    for target in TARGETS:
        (job,) = chain.jobs_of(run_id, target)
        branch = chain.branch(run_id, target)
        assert (branch.state, branch.job) == (State.TRAINING, job)
        assert chain.vertex.jobs[job].labels == {
            "dualdeploy_run": run_id,
            "dualdeploy_target": target,
            "dualdeploy_dataset": "flowers",
        }


def test_an_event_that_comes_again_is_already_done_and_validates_nothing(chain: Chain) -> None:
    deliveries = chain.upload(*WHOLE)
    message_of(chain, deliveries[-1])
    chain.operations.clear()
    assert message_of(chain, deliveries[-1]) == f"nothing new: {only_run(chain)} is this very data"
    assert chain.outcomes[-1][1] == "already_done"
    assert "data.open" not in chain.operations
    assert not [name for name in chain.operations if name.startswith("vertex.")]


def test_shards_without_numbers_wait_for_the_quiet_period_without_being_listed(chain: Chain) -> None:
    message = message_of(chain, chain.upload("flowers/roses.tfrecord")[0])
    assert message == "flowers/roses.tfrecord noted; the quiet period or _SUCCESS completes its batch"
    assert "data.list" not in chain.operations


def test_a_success_marker_launches_what_is_there(chain: Chain) -> None:
    deliveries = chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord", "flowers/_SUCCESS")
    assert "cloud training" in message_of(chain, deliveries[-1])
    assert chain.ledger.read_run(only_run(chain)).reason == "flowers/_SUCCESS arrived"


def test_a_success_marker_over_an_incomplete_set_is_rejected_with_what_is_missing(chain: Chain) -> None:
    deliveries = chain.upload(NUMBERED[1], *HELD_OUT, "flowers/_SUCCESS")
    exc = rejection_of(chain, deliveries[-1])
    assert isinstance(exc, IncompleteSet)
    assert "flowers/train-of-00002.tfrecord lacks 00000" in str(exc)
    assert chain.run_ids() == []


def test_a_success_marker_without_shards_is_ignored(chain: Chain) -> None:
    assert message_of(chain, chain.upload("flowers/_SUCCESS")[0]) == "the batch has no shards"
    assert chain.run_ids() == []


# The clock -----------------------------------------------------------------------------------------------------


def tick(chain: Chain, seconds: float = 0) -> str:
    chain.clock.advance(seconds)
    return message_of(chain, chain.clock_deliveries()[0])


def test_the_clock_leaves_a_batch_alone_until_its_quiet_period_is_over(chain: Chain) -> None:
    for delivery in chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord"):
        message_of(chain, delivery)
    assert tick(chain, 59) == "nothing waits"
    assert "cloud training" in tick(chain, 1)
    assert chain.ledger.read_run(only_run(chain)).reason == "the quiet period is over"


def test_a_shard_that_arrives_late_begins_the_quiet_period_anew(chain: Chain) -> None:
    chain.handle(chain.upload("flowers/roses.tfrecord")[0])
    chain.clock.advance(50)
    chain.handle(chain.upload("flowers/eval-roses.tfrecord")[0])
    assert tick(chain, 50) == "nothing waits"
    assert "cloud training" in tick(chain, 10)


def test_the_clock_records_an_incomplete_set_once_and_forgets_the_arrival(chain: Chain) -> None:
    chain.handle(chain.upload(NUMBERED[0])[0])
    for _ in range(4):
        assert "lacks 00001" in tick(chain, 90) or chain.ledger.arrivals() == {}
    rejected = [name for name in chain.ledger_store.names() if name.startswith("rejected/")]
    assert len(rejected) == 1
    assert "lacks 00001" in json.loads(chain.ledger_store.read(rejected[0]).data)["reason"]
    assert chain.ledger.arrivals() == {}


def test_a_batch_that_google_does_not_let_us_see_is_launched_when_the_right_is_given(chain: Chain) -> None:
    chain.upload("flowers/a.tfrecord", "flowers/eval.tfrecord")
    chain.drain()
    refusal = Failing(RejectedByGoogle("storage.objects.list is missing"))
    chain.data.faults.plan("list", *[refusal] * 3)
    for _ in range(3):
        chain.tick()
    assert chain.run_ids() == []
    (rejected,) = chain.ledger.rejections()
    assert "storage.objects.list is missing" in rejected.reason
    chain.settle()
    assert len(chain.run_ids()) == 1
    assert chain.ledger.arrivals() == {}


def test_a_data_set_whose_configuration_broke_does_not_keep_the_clock_from_the_others(chain: Chain) -> None:
    chain.configure("animals")
    for delivery in chain.upload("animals/cats.tfrecord", "flowers/roses.tfrecord", "flowers/eval-roses.tfrecord"):
        chain.handle(delivery)
    chain.write_config("animals", b"dataset: [")
    message = tick(chain, 90)
    assert "animals: gs://config/datasets/animals.yaml is not YAML" in message
    assert "cloud training" in message


def test_a_data_set_that_cannot_be_listed_now_does_not_keep_the_clock_from_the_others(chain: Chain) -> None:
    chain.configure("animals")
    for delivery in chain.upload("animals/cats.tfrecord", "flowers/roses.tfrecord", "flowers/eval-roses.tfrecord"):
        chain.handle(delivery)
    chain.data.faults.plan("list", Failing(ServiceUnavailable("no answer")))
    assert "cloud training" in tick(chain, 90)
    assert chain.data.faults.pending() == {}
    assert sorted(chain.ledger.arrivals()) == ["animals"]


def test_arrivals_are_kept_when_forgetting_them_fails(chain: Chain) -> None:
    for delivery in chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord"):
        chain.handle(delivery)
    chain.interfere = _fail_once("ledger.delete")
    tick(chain, 90)
    tick(chain, 90)
    assert chain.ledger.arrivals() == {}
    assert len(chain.vertex.jobs) == 2


def _fail_once(operation: str):
    failed: list[str] = []

    def interfere(_number: int, name: str, when: str) -> None:
        if name == operation and when == "before" and not failed:
            failed.append(name)
            raise ServiceUnavailable(f"{name} got no answer")

    return interfere


def test_the_clock_opens_the_branches_of_a_run_whose_launcher_died_after_setting_a_marker(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.interfere = _fail_once("ledger.put")
    chain.drain()
    chain.interfere = lambda *_: None
    run_id = only_run(chain)
    for target in TARGETS:
        branch = chain.ledger_store.read(f"runs/{run_id}/{target}.json")
        chain.ledger_store.delete(f"runs/{run_id}/{target}.json", expect=branch.generation)
        chain.ledger.mark_active(run_id, target)
    assert tick(chain) == f"{run_id}: cloud training, mobile training"
    # Vertex AI had the jobs already: they are adopted, not started again.
    assert len(chain.vertex.jobs) == 2


def test_an_unreadable_branch_does_not_keep_the_clock_from_other_runs(chain: Chain) -> None:
    chain.ledger_store.put("runs/flowers-000000000000/cloud.json", b"{", expect=0)
    chain.ledger.mark_active("flowers-000000000000", "cloud")
    for delivery in chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord"):
        chain.handle(delivery)
    assert "cloud training" in tick(chain, 90)


def test_a_marker_of_a_run_that_the_ledger_does_not_have_does_not_keep_the_clock_from_other_runs(chain: Chain) -> None:
    chain.ledger.mark_active("flowers-000000000000", "cloud")
    for delivery in chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord"):
        chain.handle(delivery)
    assert "cloud training" in tick(chain, 90)


# Requests for training -----------------------------------------------------------------------------------------


def test_a_request_trains_what_is_there(chain: Chain) -> None:
    chain.upload("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord")
    assert "cloud training" in message_of(chain, chain.retrain())
    assert chain.ledger.read_run(only_run(chain)).reason == "retrain requested: because"


def test_a_request_without_force_finds_nothing_new_in_known_data(chain: Chain) -> None:
    chain.upload(*WHOLE)
    message_of(chain, chain.retrain())
    assert message_of(chain, chain.retrain()) == f"nothing new: {only_run(chain)} is this very data"
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
    chain.clock.advance(10)
    run_id = min(chain.run_ids(), key=len)
    assert message_of(chain, request) == f"nothing new: {run_id}-r2 is this very data"
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
    message = message_of(chain, chain.retrain())
    run_id = only_run(chain)
    assert f"cloud rejected: {NUMBERED[0]}" in message
    assert chain.vertex.jobs == {}
    chain.tick()
    for target in TARGETS:
        assert chain.branch(run_id, target).state is State.REJECTED
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
    message_of(chain, chain.retrain())
    assert chain.branch(only_run(chain), "cloud").state is State.REJECTED
    assert "replaced or deleted after the snapshot" in chain.branch(only_run(chain), "cloud").reason


def test_a_shard_that_cannot_be_read_now_is_read_again_later(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.data.faults.plan("open", Failing(ServiceUnavailable("no answer")))
    assert not chain.handle(chain.retrain())
    assert "cloud training" in tick(chain)


def test_a_validated_run_is_not_validated_again_when_its_launch_is_resumed(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("find_custom_jobs", *[Failing(ServiceUnavailable("no answer"))] * 2)
    assert not chain.handle(chain.retrain())
    chain.operations.clear()
    assert "cloud training" in tick(chain)
    assert "data.open" not in chain.operations


def test_of_two_tolerances_for_bad_records_the_stricter_one_decides_for_both_targets(chain: Chain) -> None:
    good = shard_bytes("many", examples=8)
    chain.configure(training={"cloud": {"max_bad_records": 0.3}, "mobile": {"max_bad_records": 0.0}})
    chain.upload(*HELD_OUT)
    broken = good[:-8] + bytes(8)
    chain.data.put("flowers/train.tfrecord", broken, expect=0)
    # The stricter of the two trainers decides: what it would refuse must not start the other one either.
    assert "rejected" in message_of(chain, chain.retrain())


# Jobs ----------------------------------------------------------------------------------------------------------


def test_the_job_document_names_exactly_the_snapshot(chain: Chain) -> None:
    chain.upload(*WHOLE)
    message_of(chain, chain.retrain())
    run_id = only_run(chain)
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
            "mobile": {"accelerator": None, "spot": False},
        }
    )
    chain.upload(*WHOLE)
    message_of(chain, chain.retrain())
    run_id = only_run(chain)
    cloud, mobile = (chain.vertex.job_specs[chain.jobs_of(run_id, target)[0]] for target in TARGETS)
    assert (cloud.machine, cloud.accelerator_type, cloud.accelerator_count, cloud.timeout, cloud.spot) == (
        "g2-standard-24",
        "NVIDIA_L4",
        2,
        10800.0,
        True,
    )
    assert (mobile.accelerator_type, mobile.accelerator_count, mobile.spot) == ("", 0, False)
    assert list(cloud.arguments) == ["--target", "cloud", "--job", f"gs://models/runs/{run_id}/cloud/job.json"]
    assert cloud.image == "trainer@sha256:1"


def test_a_job_that_was_created_but_never_recorded_is_adopted_by_its_labels(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("create_custom_job", Failing(ServiceUnavailable("the answer was lost"), after=True))
    assert not chain.handle(chain.retrain())
    assert "cloud training" in tick(chain)
    run_id = only_run(chain)
    for target in TARGETS:
        assert chain.jobs_of(run_id, target) == [chain.branch(run_id, target).job]


def test_a_target_that_vertex_does_not_take_now_does_not_keep_the_other_from_its_job(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("create_custom_job", Failing(ServiceUnavailable("quota of NVIDIA_TESLA_T4")))
    assert not chain.handle(chain.retrain())
    run_id = only_run(chain)
    assert chain.branch(run_id, "cloud").state is State.LAUNCHING
    assert chain.branch(run_id, "mobile").state is State.TRAINING
    assert tick(chain) == f"{run_id}: cloud training, mobile training"


def test_a_job_that_vertex_refuses_fails_its_branch_and_not_the_other(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("create_custom_job", Failing(RejectedByGoogle("machine type n1-x does not exist")))
    message = message_of(chain, chain.retrain())
    run_id = only_run(chain)
    assert message == f"{run_id}: cloud failed, mobile training"
    assert "n1-x does not exist" in chain.branch(run_id, "cloud").reason
    chain.settle()
    (told,) = chain.messages("training-completed", target="cloud")
    assert told["outcome"] == "failed"
    assert chain.branch(run_id, "mobile").state is State.LIVE
    assert chain.active() == []


def test_a_launch_that_another_instance_is_at_is_left_to_it(chain: Chain) -> None:
    chain.upload(*WHOLE)
    chain.vertex.faults.plan("find_custom_jobs", *[Failing(ServiceUnavailable("no answer"))] * 2)
    assert not chain.handle(chain.retrain())
    with chain.ledger.lease(f"launch/{only_run(chain)}", seconds=60):
        assert tick(chain) == "nothing waits"
    assert chain.vertex.jobs == {}
    assert "cloud training" in tick(chain)
