"""What launcher and notifier cost: the same after a thousand runs, and no data set keeps another one waiting."""

from __future__ import annotations

import collections

from dualdeploy.google.object_store import ABSENT
from support.chain import WHOLE, Chain

#: What one call of Google costs, in seconds.
CALL = 0.25


def with_history(runs: int) -> Chain:
    chain = Chain()
    chain.upload()
    chain.settle()
    chain.clock.advance(3600)
    for number in range(runs):
        run_id = f"flowers-{number:012x}"
        for name in ("run.json", "cloud/launch.json", "mobile/launch.json", "estimate.json", "validation.json"):
            chain.ledger_store.put(f"runs/{run_id}/{name}", b"{}", expect=ABSENT)
    return chain


def work_of(chain: Chain) -> tuple[int, collections.Counter[str]]:
    """Objects of the ledger that were listed, and the calls made, while a set is replaced and an idle hour passes."""
    listed = [0]
    list_objects = chain.ledger_store.list

    def counted(prefix: str, *, end: str = ""):  # type: ignore[no-untyped-def]
        found = list(list_objects(prefix, end=end))
        listed[0] += len(found)
        return iter(found)

    chain.ledger_store.list = counted  # type: ignore[method-assign]
    first = len(chain.operations)
    for name in WHOLE:
        chain.upload(name, edition=2)
        chain.drain()
        chain.clock.advance(5)
    for _ in range(60):
        chain.tick_of("training_launcher")
        chain.tick_of("job_notifier")
        chain.clock.advance(60)
    return listed[0], collections.Counter(chain.operations[first:])


def test_events_and_ticks_cost_the_same_after_a_thousand_runs() -> None:
    (few_listed, few), (many_listed, many) = work_of(with_history(10)), work_of(with_history(1000))
    assert many_listed <= few_listed + 5
    assert many == few


def test_each_job_is_looked_at_although_there_are_more_than_a_minute_has_time_for() -> None:
    """Hints are lost (that is what the markers are for), and a request is ended by Cloud Run after 60 seconds."""
    chain = Chain()
    names = [f"set{number:02d}" for number in range(70)]
    for dataset in names:
        chain.configure(dataset)
        chain.upload(f"{dataset}/train-00000-of-00001.tfrecord", f"{dataset}/eval-00000-of-00001.tfrecord")
    chain.drain()
    chain.tick()
    (run_id,) = chain.run_ids(names[-1])
    # Everyone trains for hours; only the last one is through.
    for job in chain.jobs_of(run_id, "mobile"):
        chain.train(job, hints=False)
    chain.queue.clear()
    handle, began = chain.handle, [chain.clock()]

    def every_call_takes_time_and_cloud_run_has_an_end(_number: int, _name: str, when: str) -> None:
        if when == "before":
            chain.clock.advance(CALL)
            if (chain.clock() - began[0]).total_seconds() > 60:
                chain.die()

    def in_parallel(delivery, **more):  # type: ignore[no-untyped-def]
        """Each request begins when it is sent, not when the one before it has ended."""
        began[0], at = chain.clock(), chain.clock()
        answered = handle(delivery, **more)
        chain.clock.now = at
        return answered

    chain.handle = in_parallel  # type: ignore[method-assign]
    chain.interfere = every_call_takes_time_and_cloud_run_has_an_end
    for _ in range(3):
        chain.clock.advance(60)
        chain.tick_of("job_notifier")
    assert chain.messages("training-completed", run_id=run_id, target="mobile")
