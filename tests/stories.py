"""What happens to the chain, for the fault plan to disturb: how each story begins and how it must end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from chain import Chain, Delivery, Interfere

from dualdeploy.ledger import State

#: A lease of a dead process runs out after one and a half minutes, the quiet period and the inbox need two.
ENOUGH_TICKS = 15


@dataclasses.dataclass(frozen=True)
class Story:
    """`prepare` happens in peace; what `begin` sets off is then disturbed, until `check` looks what came of it."""

    prepare: Callable[[Chain], None]
    begin: Callable[[Chain], None]
    check: Callable[[Chain], None]


def upload(chain: Chain, edition: int = 1) -> None:
    chain.upload("flowers/train-00000-of-00001.tfrecord", "flowers/eval-00000-of-00001.tfrecord", edition=edition)


def nothing(chain: Chain) -> None:
    """Some stories begin with an empty project."""


def have_a_live_run(chain: Chain) -> None:
    upload(chain)
    chain.settle()
    chain.check_one_run_is_live()
    chain.clock.advance(3600)


def train_without_success_for_the_cloud(chain: Chain) -> None:
    chain.job_states["cloud"] = "JOB_STATE_FAILED"
    upload(chain)


def check_that_only_the_phones_have_it(chain: Chain) -> None:
    (run_id,) = chain.run_ids()
    assert chain.branch(run_id, "cloud").state is State.FAILED
    assert chain.branch(run_id, "mobile").state is State.LIVE
    assert chain.messages("training-completed", target="cloud", outcome="failed")
    assert not chain.messages("training-completed", target="cloud", outcome="succeeded")
    assert not chain.messages("deployment-completed", target="cloud")
    assert chain.live("cloud") is None
    chain.check_is_tidy()


def upload_a_second_edition(chain: Chain) -> None:
    upload(chain, edition=2)


def check_that_the_second_run_replaced_the_first(chain: Chain) -> None:
    older, newer = in_order_of_time(chain)
    chain.check_is_live(newer)
    for target in ("cloud", "mobile"):
        assert chain.live(target).previous.run_id == older
        assert chain.branch(older, target).state is State.SUPERSEDED
    chain.check_is_tidy()


def redeploy_both(chain: Chain) -> None:
    chain.queue += [chain.redeploy(target, dataset="flowers", reason="a test") for target in ("cloud", "mobile")]


def in_order_of_time(chain: Chain) -> list[str]:
    return sorted(chain.run_ids(), key=lambda run_id: chain.ledger.read_run(run_id).created_at)


STORIES = {
    "a first run": Story(nothing, upload, Chain.check_one_run_is_live),
    "a run whose cloud training fails": Story(
        nothing, train_without_success_for_the_cloud, check_that_only_the_phones_have_it
    ),
    "a second run": Story(have_a_live_run, upload_a_second_edition, check_that_the_second_run_replaced_the_first),
    "a redeploy": Story(have_a_live_run, redeploy_both, Chain.check_one_run_is_live),
}


@functools.cache
def prepared(story: Story) -> Chain:
    """The chain before the story begins; not to be touched, only to be continued."""
    chain = Chain(looks_locked=1)
    story.prepare(chain)
    assert chain.is_quiet()
    return chain


def told(story: Story, disturb: Interfere | None = None, *, redeliver: bool = True) -> tuple[Chain, set[int]]:
    """The chain at the end of a story, and which operations were the last of a handling (both counted from `begin`)."""
    chain = prepared(story).continued()
    last: set[int] = set()
    handle = chain.handle

    def handle_and_count(delivery: Delivery, **arguments: Any) -> bool:
        acknowledged = handle(delivery, **arguments)
        last.add(len(chain.operations) - 1)
        return acknowledged

    chain.handle = handle_and_count  # type: ignore[method-assign]
    if disturb:
        chain.interfere = disturb
    story.begin(chain)
    chain.settle(ticks=ENOUGH_TICKS, redeliver=redeliver)
    return chain, last
