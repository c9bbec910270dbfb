"""An instance that Cloud Run froze goes on at any line, long after its lease, with what it once read."""

from __future__ import annotations

import threading

import pytest

from dualdeploy.google.vertex import JobOutcome
from support.chain import Chain
from support.fakes.failing import When
from support.stories import RELEASE_STORIES, STORIES, Story, cool_down, deployers_operations, prepared, spread, told

TOLD = {**STORIES, **RELEASE_STORIES}

#: In three minutes the next step is taken, in eight the whole release is through.
FREEZES = [(name, 3) for name in TOLD] + [("a model that fails behind the endpoint", 8), ("a rollback", 8)]

#: The deployer's cleanup looks for what was left behind once an hour.
JANITOR_SECONDS = 3600


class Freeze:
    """Stops an instance before one operation, once, and lets all others go on for `minutes` meanwhile."""

    def __init__(self, chain: Chain, number: int, *, minutes: int) -> None:
        self.chain, self.number, self.minutes = chain, number, minutes
        self.operation = ""
        self.problem = ""

    def __call__(self, number: int, name: str, when: When) -> None:
        if number != self.number or when != "before" or self.operation:
            return
        self.operation = name
        # On a thread of its own, by which the chain tells instances apart.
        others = threading.Thread(target=self._let_the_others_go_on)
        others.start()
        others.join()

    def _let_the_others_go_on(self) -> None:
        try:
            for _ in range(self.minutes):
                self.chain.tick()
                self.chain.vertex.finish_operations()
                for job in self.chain.unfinished_jobs():
                    self.chain.train(job)
        except Exception as exc:  # noqa: BLE001  # on another thread, where it would go unseen
            self.problem = repr(exc)


def frozen(story: Story, number: int, minutes: int) -> tuple[Chain, Freeze]:
    """A story with an instance frozen at an operation, and then an hour in which to tidy."""
    chain = prepared(story).continued()
    chain.interfere = freeze = Freeze(chain, number, minutes=minutes)
    story.begin(chain)
    chain.settle(ticks=30)
    chain.clock.advance(JANITOR_SECONDS)
    cool_down(chain)
    return chain, freeze


def forget_cancelled_jobs(chain: Chain) -> None:
    """Whoever wakes up may start another job: it then sees that its own is the later one, and cancels it."""
    for name, job in list(chain.vertex.jobs.items()):
        if job.outcome is JobOutcome.CANCELLED:
            del chain.vertex.jobs[name]


def what_is_wrong(story: Story, number: int, minutes: int) -> str:
    chain, freeze = frozen(story, number, minutes)
    forget_cancelled_jobs(chain)
    try:
        assert freeze.operation, "nobody was frozen"
        assert freeze.problem == ""
        story.check(chain)
    except AssertionError as exc:
        return f"frozen before operation {number} ({freeze.operation}): {exc}"
    return ""


def operations_of(name: str) -> range:
    if name in RELEASE_STORIES:
        return deployers_operations(RELEASE_STORIES[name])
    chain, _ = told(STORIES[name])
    return range(len(chain.operations))


@pytest.mark.parametrize(("name", "minutes"), FREEZES)
def test_an_instance_that_goes_on_long_after_its_lease_does_no_harm(name: str, minutes: int) -> None:
    wrong = [what_is_wrong(TOLD[name], number, minutes) for number in spread(operations_of(name), most=30)]
    assert [each for each in wrong if each] == []
