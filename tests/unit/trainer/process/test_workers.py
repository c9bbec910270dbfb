"""Where a process stands among the workers of its job, and which shards it learns from."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualdeploy.contracts.training import ShardReference
from trainer.process.failures import UnusableData, UnusableJob
from trainer.process.workers import Place, place, share

#: As Vertex AI sets it for a chief and two workers (more keys than are needed, addresses of its own network).
CLUSTER = {
    "chief": ["cmle-training-workerpool0-0a1b-0:2222"],
    "worker": ["cmle-training-workerpool1-0a1b-0:2222", "cmle-training-workerpool1-0a1b-1:2222"],
}


def config(role: str, index: int, cluster: object = CLUSTER) -> dict[str, str]:
    task = {"type": role, "index": index, "trial": ""}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task, "environment": "cloud", "job": "{}"})}


@pytest.mark.parametrize(
    "environ",
    [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": "{}"}, config("chief", 0, {"chief": ["c:2222"]})],
)
def test_a_process_without_others_is_the_chief(environ: dict[str, str]) -> None:
    assert place(environ) == Place(0, 1)
    assert place(environ).is_chief


def test_the_chief_is_the_first_and_the_workers_follow_it() -> None:
    places = [place(config(role, index)) for role, index in (("chief", 0), ("worker", 0), ("worker", 1))]
    assert places == [Place(0, 3), Place(1, 3), Place(2, 3)]
    assert [each.is_chief for each in places] == [True, False, False]


def test_without_a_chief_the_first_worker_is_it() -> None:
    places = [place(config("worker", index, {"worker": ["a:1", "b:1"]})) for index in (0, 1)]
    assert places == [Place(0, 2), Place(1, 2)]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"TF_CONFIG": "{"}, "TF_CONFIG cannot be understood"),
        ({"TF_CONFIG": '{"cluster": 1}'}, "TF_CONFIG cannot be understood"),
        (config("ps", 0, CLUSTER | {"ps": ["p:2222"]}), "tasks of type ps"),
        (config("evaluator", 0), "inconsistent: this is evaluator 0"),
        (config("worker", 2), "inconsistent: this is worker 2"),
        (config("chief", 0, {"chief": ["a:1", "b:1"]}), "inconsistent"),
    ],
)
def test_a_cluster_that_is_none_of_ours_is_refused(environ: dict[str, str], said: str) -> None:
    with pytest.raises(UnusableJob, match=said):
        place(environ)


def shards(*sizes: int) -> list[ShardReference]:
    return [ShardReference(uri=f"gs://data/{number}", size=size) for number, size in enumerate(sizes)]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 8))
def test_every_shard_is_learned_from_by_exactly_one_worker_and_none_has_more_than_its_share_and_a_shard(
    sizes: list[int], workers: int
) -> None:
    every = shards(*sizes)
    if len(every) < workers:
        with pytest.raises(UnusableData, match="so one has none"):
            share(every, Place(0, workers))
        return
    shares = [share(every, Place(index, workers)) for index in range(workers)]
    mine = [[shard.uri for shard in found] for found, _ in shares]
    assert sorted(itertools.chain(*mine)) == sorted(shard.uri for shard in every)
    assert all(mine), "nobody is without a shard"
    for found, others in shares:
        assert sorted(shard.uri for shard in [*found, *others]) == sorted(shard.uri for shard in every)
    loads = [sum(shard.size for shard in found) for found, _ in shares]
    assert max(loads) <= sum(sizes) / workers + max(sizes)


def test_alone_every_shard_is_ones_own_in_the_given_order() -> None:
    every = shards(3, 1, 2)
    assert share(every, Place()) == (every, [])
