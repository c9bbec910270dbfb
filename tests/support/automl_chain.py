"""The first half of the chain with AutoML: from shards to two trained models, without what brings them out."""

from __future__ import annotations

from typing import Any

from dualdeploy.contracts import automl, training
from dualdeploy.contracts.automl import parse_prepared
from dualdeploy.contracts.training import TrainingResult, parse_result
from dualdeploy.ledger import ManagedData, State, names
from dualdeploy.ledger.spending import read_account
from support.chain import Chain, overwrite, shard_bytes
from training_launcher.managed_data import key_of

TRAINING = ("training_launcher", "job_notifier")
SHARDS = ("flowers/train-00000-of-00001.tfrecord", "flowers/eval-00000-of-00001.tfrecord")
#: Different pictures of each shard, of two labels.
PICTURES = 24


def automl_chain(**sections: Any) -> Chain:
    """A project whose data set is trained by AutoML; only what trains hears ticks."""
    chain = Chain()
    chain.order = lambda: TRAINING
    configure(chain, **sections)
    return chain


def configure(chain: Chain, **sections: Any) -> None:
    usual: dict[str, Any] = {"training": {"method": "automl"}, "serving": {"dedicated": False}}
    chain.configure(**{**usual, **sections})


def upload(chain: Chain, edition: int = 1, *, pictures: int = PICTURES) -> None:
    for name in SHARDS:
        generation = overwrite(chain.data, name, shard_bytes(name, edition, pictures))
        chain.queue.append(chain.finalized(name, generation=generation))


def drain(chain: Chain) -> None:
    """Deliver what is queued to those who train."""
    for _ in range(3):
        waiting = [each for each in chain.queue if each.name.partition("/")[0] in TRAINING]
        chain.queue = []
        chain.queue += [each for each in waiting if not chain.handle(each)]
        if not chain.queue:
            return


def work(chain: Chain) -> None:
    """What Google does meanwhile: jobs, pipelines and operations end well."""
    for job in chain.unfinished_jobs():
        chain.train(job, hints=False)
    chain.automl.finish_operations()
    for pipeline in chain.unfinished_pipelines():
        chain.automl.end_pipeline(pipeline)


def settle(chain: Chain, *, ticks: int = 20) -> None:
    """Until every training is over, at most so many minutes."""
    for _ in range(ticks):
        drain(chain)
        work(chain)
        chain.tick()
        if not any(name.startswith(f"due/{service}/") for service in TRAINING for name in waiting(chain)):
            return


def waiting(chain: Chain) -> list[str]:
    """The markers of what is not over: not those of the clock that deletes, a day later."""
    return [name for name in chain.ledger_store.names() if name.startswith("due/") and "/dataset/" not in name]


def until(chain: Chain, step: str, *, ticks: int = 10) -> ManagedData:
    """Let Google and the clock go on until the only data set is at `step`."""
    for _ in range(ticks):
        drain(chain)
        if (found := managed_data(chain)) and found.step == step:
            return found
        chain.automl.finish_operations()
        for job in chain.unfinished_jobs():
            chain.train(job, hints=False)
        chain.tick()
    raise AssertionError(f"never at {step}: {managed_data(chain)}")


def managed_data(chain: Chain, run_id: str = "") -> ManagedData | None:
    runs = chain.run_ids()
    if not runs:
        return None
    run = chain.ledger.read_run(run_id or runs[0])
    found = chain.ledger.find(names.managed_data(run.dataset, key_of(run)), ManagedData)
    return found.document if found else None


def result(chain: Chain, run_id: str, target: str) -> TrainingResult:
    name = training.result_name(run_id, target)
    return parse_result(chain.models.read(name).data, source=name)


def check_trained(chain: Chain, run_id: str) -> None:
    """Both models are trained once, from one data set that has every picture, and everything is paid for."""
    run = chain.ledger.read_run(run_id)
    name = automl.prepared_name(run.dataset, key_of(run))
    prepared = parse_prepared(chain.models.read(name).data, source=name)
    for target in training.TARGETS:
        launch = chain.ledger.read_launch(run_id, target).document
        assert launch.state is State.TRAINED, (target, launch.state, launch.reason, launch.holdup)
        found = result(chain, run_id, target)
        assert found.managed is not None
        assert found.managed.type == chain.automl.specs[launch.job].model_type
        assert found.job == launch.job.rsplit("/", 1)[-1]
        assert found.metrics.examples == prepared.count("test")
        assert chain.messages("training-completed", run_id=run_id, target=target, outcome="succeeded")
        mine = [
            each
            for each in chain.automl.find_pipelines({"dualdeploy_run": run_id, "dualdeploy_target": target})
            if each.state == "PIPELINE_STATE_SUCCEEDED"
        ]
        assert [each.name for each in mine] == [launch.job]
    assert prepared.pictures == 2 * PICTURES


def check_tidy(chain: Chain) -> None:
    """One data set at most for each snapshot, nothing under way, every cent on the account."""
    keys = [each.labels["dualdeploy_data"] for each in chain.automl.datasets.values()]
    assert len(keys) == len(set(keys)), "a data set is one too many"
    assert chain.unfinished_pipelines() == []
    assert chain.unfinished_jobs() == []
    assert [name for name in waiting(chain) if any(f"/{service}/" in name for service in TRAINING)] == []
    assert not [name for name in chain.ledger_store.names() if name.startswith("rejected/")]
    for run_id in chain.run_ids():
        assert run_id not in (managed_data(chain, run_id) or ManagedData(dataset="", key="", step="", since="")).users
        month = chain.ledger.read_run(run_id).created_at[:7]
        jobs = read_account(chain.ledger, "flowers", month).jobs
        mine = {name: entry for name, entry in jobs.items() if name.startswith(f"{run_id}/")}
        assert all(entry.actual_usd is not None for entry in mine.values()), mine
