"""What another version of the launcher or the notifier wrote is gone on with, and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.ledger import names
from support.chain import Chain, overwrite
from support.fakes import Failing


def edit(chain: Chain, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(chain.ledger_store.read(name).data)
    change(document)
    overwrite(chain.ledger_store, name, json.dumps(document).encode())


def test_a_run_that_a_newer_launcher_claimed_is_not_stranded() -> None:
    """The launcher was taken back to the revision before, or its two revisions share the traffic for a minute."""
    chain = Chain()
    chain.upload()

    def die_before_the_data_is_read(_number: int, name: str, when: str) -> None:
        if name == "data.open":
            chain.interfere = lambda *_: None
            chain.die()

    chain.interfere = die_before_the_data_is_read
    chain.drain(rounds=1, redeliver=False)
    (run_id,) = chain.run_ids()

    def newer(run: dict[str, Any]) -> None:
        run["config"]["validation"]["decode"] = "sample"
        run["config"]["shadow"] = {}

    edit(chain, names.run(run_id), newer)
    chain.queue.clear()
    chain.clock.advance(120)
    chain.settle(ticks=40)
    assert {str(chain.standing(run_id, target).state) for target in ("cloud", "mobile")} == {"live"}


@pytest.mark.parametrize("what", ["run", "launch", "ended", "data set"])
def test_what_a_newer_version_noted_survives_an_older_one(what: str) -> None:
    chain = Chain()
    chain.upload()
    chain.drain()
    (run_id,) = chain.run_ids()
    name = {
        "run": names.run(run_id),
        "launch": names.launch(run_id, "cloud"),
        "ended": names.ended(run_id, "cloud", 1),
        "data set": names.data("flowers"),
    }[what]
    if what == "ended":
        # Recorded, and not announced yet: that is written by the version that serves next.
        (job,) = chain.jobs_of(run_id, "cloud")
        chain.train(job, hints=False)
        chain.publisher.faults.plan("publish", Failing(ServiceUnavailable("no answer")))
        chain.handle(chain.log_hint(job))
    edit(chain, name, lambda document: document.update(cost_center="42"))
    before = chain.ledger_store.read(name)
    chain.settle(ticks=30)
    chain.check_one_run_is_live()
    if what == "data set":
        chain.clock.advance(3600)
        chain.upload(edition=2)
        chain.settle(ticks=30)
    after = chain.ledger_store.read(name)
    assert json.loads(after.data)["cost_center"] == "42"
    assert what == "run" or after.generation != before.generation, "nothing was written: this shows nothing"
