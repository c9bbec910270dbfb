"""A run that another version of the launcher claimed is gone on with."""

from __future__ import annotations

import json

from chain import Chain, overwrite

from dualdeploy.ledger import names


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
    name = names.run(run_id)
    run = json.loads(chain.ledger_store.read(name).data)
    run["config"]["validation"]["decode"] = "sample"
    run["config"]["shadow"] = {}
    overwrite(chain.ledger_store, name, json.dumps(run).encode())
    chain.queue.clear()
    chain.clock.advance(120)
    chain.settle(ticks=40)
    assert {str(chain.standing(run_id, target).state) for target in ("cloud", "mobile")} == {"live"}
