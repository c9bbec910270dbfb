"""What arrived is looked at, whatever was in the way at first: a permission, a configuration, a shard, a death."""

from __future__ import annotations

import pytest

from dualdeploy.errors import CredentialsUnavailable, PermissionSpreads, RejectedByGoogle, ServiceUnavailable
from support.chain import WHOLE, Chain
from support.fakes import Failing

SHARDS = ("flowers/roses.tfrecord", "flowers/eval-roses.tfrecord")
REFUSALS = [
    RejectedByGoogle("403: forbidden by a policy of the organization"),
    PermissionSpreads("403: storage.objects.get denied"),
    ServiceUnavailable("503"),
    CredentialsUnavailable("no token"),
]


def arrivals(chain: Chain) -> list[str]:
    return [key for key in chain.active() if key.startswith("training_launcher/arrivals/")]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda exc: type(exc).__name__)
@pytest.mark.parametrize("store", ["config", "data"])
@pytest.mark.parametrize("names", [WHOLE, SHARDS], ids=["numbered", "quiet period"])
def test_data_that_arrives_while_a_bucket_cannot_be_read_is_trained_when_it_can(
    store: str, names: tuple[str, ...], refusal: Exception
) -> None:
    chain = Chain()
    chain.upload(*names)
    faults = getattr(chain, store).faults
    faults.plan("read" if store == "config" else "list", *[Failing(refusal)] * 3)
    chain.drain(rounds=1, redeliver=False)
    for _ in range(10):
        chain.tick()
        chain.drain()
    assert faults.pending() == {}
    assert len(chain.run_ids()) == 1, chain.outcomes


@pytest.mark.parametrize("when", ["before the data", "in the quiet period"])
@pytest.mark.parametrize(
    "fault", [b"labels: [", b"dataset: flowers\nlabels: [a]\n", b"\xff", b"dataset: other\nlabels: [a, b]\n"]
)
def test_data_that_arrives_while_the_configuration_is_broken_is_trained_when_it_is_mended(
    when: str, fault: bytes
) -> None:
    chain = Chain()
    good = chain.config.read("datasets/flowers.yaml").data
    if when == "before the data":
        chain.write_config("flowers", fault)
        chain.upload(*SHARDS)
        chain.drain()
    else:
        chain.upload(*SHARDS)
        chain.drain()
        chain.write_config("flowers", fault)
    for _ in range(3):
        chain.tick()
    assert chain.run_ids() == []
    chain.write_config("flowers", good)
    for _ in range(10):
        chain.tick()
    assert chain.run_ids(), [str(exc) for _, exc in chain.rejected]


def test_data_that_arrives_before_its_configuration_is_trained_when_that_comes() -> None:
    chain = Chain()
    good = chain.config.read("datasets/flowers.yaml").data
    chain.forget_config()
    chain.upload(*SHARDS)
    chain.drain()
    for _ in range(3):
        chain.tick()
    assert arrivals(chain) == [], "what belongs to no data set is not looked at for ever"
    chain.write_config("flowers", good)
    assert chain.handle(chain.finalized("datasets/flowers.yaml", bucket="config"))
    for _ in range(3):
        chain.tick()
        chain.drain()
    assert len(chain.run_ids()) == 1


def test_a_configuration_alone_launches_nothing() -> None:
    chain = Chain()
    chain.upload(*WHOLE)
    chain.settle()
    chain.configure(data={"prefix": "flowers/", "quiet_period": 60}, training={"cloud": {"epochs": 9}})
    assert chain.handle(chain.finalized("datasets/flowers.yaml", bucket="config"))
    chain.settle()
    assert len(chain.run_ids()) == 1


def test_a_configuration_that_stays_broken_is_told_and_is_not_an_error_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each entry of severity ERROR is an alert, and the configuration is looked at every hour."""
    chain = Chain()
    chain.upload(*WHOLE)
    chain.settle()
    chain.write_config("flowers", b"labels: [")
    assert chain.handle(chain.finalized("datasets/flowers.yaml", bucket="config"))
    for _ in range(130):
        chain.tick()
        chain.drain()
    assert "gs://config/datasets/flowers.yaml is not YAML" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR" or record.exc_info]
    (said,) = chain.ledger.refused_lately("flowers")
    assert "gs://config/datasets/flowers.yaml is not YAML" in said.reason


def test_a_configuration_is_judged_when_it_is_written() -> None:
    chain = Chain()
    chain.write_config("flowers", b"dataset: flowers\nlabels: [a]\nserving: {endpoints: x}\n")
    assert chain.handle(chain.finalized("datasets/flowers.yaml", bucket="config"))
    (said,) = chain.ledger.refused_lately("flowers")
    assert said.kind == "configuration"
    assert "serving.endpoints: unknown key" in said.reason
    for name in ("datasets/flowers.yaml.bak", "datasets/UPPER.yaml", "README.md", "datasets/x/y.yaml"):
        chain.handle(chain.finalized(name, bucket="config"))
        assert chain.outcomes[-1][1] == "ignored"


def test_an_arrival_during_a_look_leads_to_another_look() -> None:
    chain = Chain()
    chain.upload(*WHOLE)
    chain.queue.clear()
    chain.handle(chain.finalized(WHOLE[0]))
    more = "flowers/more.tfrecord"

    def one_more_arrives(_number: int, name: str, when: str) -> None:
        if (name, when) == ("data.list", "after"):
            chain.interfere = lambda *_: None
            (delivery,) = chain.upload(more)
            chain.queue.remove(delivery)
            delivery.handle()

    chain.interfere = one_more_arrives
    chain.settle(ticks=25)
    snapshots = [[shard.name for shard in chain.ledger.read_run(each).snapshot.shards] for each in chain.run_ids()]
    assert any(more in names for names in snapshots)


@pytest.mark.parametrize("frozen_for", [100, 150, 181, 300])
def test_an_arrival_while_an_instance_is_frozen_in_its_look_leads_to_another_look(frozen_for: float) -> None:
    chain = Chain()
    chain.upload(*SHARDS)
    chain.drain()
    more = "flowers/more.tfrecord"

    def freeze(_number: int, name: str, when: str) -> None:
        if (name, when) == ("data.list", "after"):
            chain.interfere = lambda *_: None
            chain.clock.advance(frozen_for)
            (delivery,) = chain.upload(more)
            chain.queue.remove(delivery)
            delivery.handle()

    chain.clock.advance(120)
    chain.interfere = freeze
    chain.tick_of("training_launcher")
    chain.settle(ticks=30)
    snapshots = [[shard.name for shard in chain.ledger.read_run(each).snapshot.shards] for each in chain.run_ids()]
    assert any(more in names for names in snapshots), snapshots


# A shard that was away -----------------------------------------------------------------------------------------------


def test_the_same_shards_uploaded_again_are_trained_although_one_was_away_while_they_were_validated() -> None:
    """`gcloud storage rm` and `cp` of the same folder, or any upload that deletes before it writes."""
    chain = Chain()
    chain.upload()

    def taken_away(_number: int, name: str, when: str) -> None:
        if (name, when) == ("data.open", "before"):
            chain.interfere = lambda *_: None
            (found,) = chain.data.list(WHOLE[0])
            chain.data.delete(WHOLE[0], expect=found.generation)

    chain.interfere = taken_away
    chain.drain()
    (run_id,) = chain.run_ids()
    assert chain.standing(run_id, "cloud").state == "rejected"
    chain.queue.clear()
    chain.clock.advance(60)
    chain.upload()
    chain.settle(ticks=25)
    states = {each: str(chain.standing(each, "cloud").state) for each in chain.run_ids()}
    assert states == {run_id: "rejected", f"{run_id}-r2": "live"}


def test_a_run_that_was_rejected_for_its_data_is_not_begun_again_by_the_same_bytes() -> None:
    chain = Chain()
    chain.upload(*WHOLE)
    chain.data.put(WHOLE[0], b"no record", expect=chain.data.read(WHOLE[0]).generation)
    chain.settle()
    (run_id,) = chain.run_ids()
    assert chain.standing(run_id, "cloud").state == "rejected"
    chain.clock.advance(3600)
    chain.data.put(WHOLE[0], b"no record.", expect=chain.data.read(WHOLE[0]).generation)
    chain.data.put(WHOLE[0], b"no record", expect=chain.data.read(WHOLE[0]).generation)
    chain.handle(chain.finalized(WHOLE[0], generation=int(chain.data.read(WHOLE[0]).generation)))
    chain.settle()
    assert chain.run_ids() == [run_id]


# A claim is never forgotten -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fatal", range(14))
def test_a_run_that_was_claimed_is_never_forgotten(fatal: int) -> None:
    """Its launcher dies around the claim, the event comes late, and a larger edition stops half-way."""
    chain = Chain()
    chain.upload()

    def die(number: int, _name: str, when: str) -> None:
        if (number, when) == (fatal, "after"):
            chain.interfere = lambda *_: None
            chain.die()

    chain.interfere = die
    first, *late = chain.queue
    chain.queue = []
    chain.handle(first)
    chain.interfere = lambda *_: None
    chain.queue = [*late, first]
    claimed = chain.run_ids()
    # A larger edition begins to arrive, and its pipeline stops half-way: it is never complete.
    chain.upload("flowers/train-00000-of-00003.tfrecord", edition=2)
    chain.settle(ticks=30)
    for run_id in claimed:
        for target in ("cloud", "mobile"):
            assert chain.standing(run_id, target).is_over
            assert chain.jobs_of(run_id, target)
