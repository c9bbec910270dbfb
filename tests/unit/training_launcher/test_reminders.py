"""Whatever a training is called off or given up for, job_notifier is reminded to look at its job."""

from __future__ import annotations

import pytest

from dualdeploy.ledger import Launch, names
from dualdeploy.ledger.due import Due
from support.chain import Chain


@pytest.mark.parametrize("why", ["called_off", "passed_over"])
def test_a_job_that_is_cancelled_is_looked_at_although_its_reminder_was_lost(why: str) -> None:
    chain = Chain()
    chain.upload()
    chain.drain()
    (run_id,) = chain.run_ids()
    for name in chain.ledger.names("due/job_notifier/"):
        chain.ledger_store.delete(name, expect=chain.ledger_store.read(name).generation)

    def cancel(launch: Launch | None) -> Launch | None:
        return launch.changed(**{why: "newer data"}) if launch else None

    chain.ledger.update(names.launch(run_id, "cloud"), Launch, cancel)
    Due("training_launcher", chain.ledger).put(f"launch/{run_id}", chain.clock())
    chain.clock.advance(60)
    chain.tick_of("training_launcher")
    assert f"job/{run_id}/cloud/1" in Due("job_notifier", chain.ledger).all_keys()
