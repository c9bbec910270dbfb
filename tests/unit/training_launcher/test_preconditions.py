"""What another instance wrote meanwhile is never overwritten: a write says what it expects."""

from __future__ import annotations

import pytest

from dualdeploy.errors import LedgerContention
from dualdeploy.ledger import State, Versioned
from dualdeploy.ledger.due import Due
from support.chain import WHOLE, Chain
from training_launcher.admission import _NotesOfRun
from training_launcher.data_sets import DataSets
from training_launcher.superseding import Superseding


@pytest.fixture
def chain() -> Chain:
    """A run in training."""
    chain = Chain()
    chain.upload(*WHOLE)
    chain.drain()
    return chain


def test_of_two_verdicts_at_the_same_time_the_first_one_stands(chain: Chain) -> None:
    (run_id,) = chain.run_ids()
    notes = _NotesOfRun(chain.ledger, run_id)
    assert notes.keep("validation-step-7.json", b"first") == b"first"
    assert notes.keep("validation-step-7.json", b"second") == b"first"
    assert notes.read("validation-step-7.json") == b"first"


def test_a_training_that_went_on_meanwhile_is_not_called_off_as_it_was(chain: Chain) -> None:
    (run_id,) = chain.run_ids()
    seen = chain.ledger.read_launch(run_id, "cloud")
    for job in chain.jobs_of(run_id, "cloud"):
        chain.train(job)
    chain.drain()
    chain.tick()
    superseding = Superseding(
        ledger=chain.ledger, due=Due("training_launcher", chain.ledger), data_sets=DataSets(chain.ledger)
    )
    with pytest.raises(LedgerContention):
        superseding.note(seen, by=chain.ledger.read_run(run_id))
    found = chain.ledger.read_launch(run_id, "cloud").document
    assert (found.state, found.called_off) == (State.TRAINED, "")


def test_a_launch_that_was_frozen_does_not_write_over_what_came_of_it_meanwhile() -> None:
    chain = Chain()
    chain.upload(*WHOLE)

    def sleep(_number: int, name: str, when: str) -> None:
        if (name, when) != ("vertex.find_custom_jobs", "before"):
            return
        chain.interfere = lambda *_: None
        chain.clock.advance(240)
        for _ in range(2):
            chain.tick_of("training_launcher")
            for job in chain.unfinished_jobs():
                chain.train(job, hints=False)
            chain.clock.advance(60)
            chain.tick_of("job_notifier")
        (run_id,) = chain.run_ids()
        done.append(chain.ledger.read_launch(run_id, "cloud"))

    done: list[Versioned] = []  # type: ignore[type-arg]
    chain.interfere = sleep
    chain.drain()
    (run_id,) = chain.run_ids()
    after = chain.ledger.read_launch(run_id, "cloud")
    assert done[0].document.state is State.TRAINED
    assert (after.generation, after.document) == (done[0].generation, done[0].document)
