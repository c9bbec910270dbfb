"""What happens to the chain, for the fault plan to disturb: how each story begins and how it must end."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.monitoring import SHORTEST_PERIOD, Served
from dualdeploy.google.vertex import Answer, DeployedModel
from dualdeploy.ledger import State
from support.chain import Chain, Delivery, Interfere
from support.fakes.failing import ProcessDied, When
from support.fakes.vertex import label_in_picture

AnyNumber = TypeVar("AnyNumber")

#: A lease of a dead process runs out after one and a half minutes, the quiet period and the inbox need two.
ENOUGH_TICKS = 15


@dataclasses.dataclass(frozen=True)
class Story:
    """`prepare` happens in peace; what `begin` sets off is then disturbed, until `check` looks what came of it."""

    prepare: Callable[[Chain], None]
    begin: Callable[[Chain], None]
    check: Callable[[Chain], None]


def spread(numbers: Iterable[AnyNumber], *, most: int = 60) -> list[AnyNumber]:
    """At most so many of them, evenly spread: a story has hundreds of operations, and each is told in a tenth of a
    second. All of them with EXHAUSTIVE=1 in the environment; `make histories` disturbs at any of them, too."""
    every = list(numbers)
    if os.environ.get("EXHAUSTIVE") == "1" or len(every) <= most:
        return every
    return [every[place * len(every) // most] for place in range(most)]


class Once:
    """Does something at one operation, once."""

    def __init__(self, number: int, act: Callable[[str], None], when: When = "before") -> None:
        self.number, self.act, self.when = number, act, when
        self.operation = ""

    def __call__(self, number: int, name: str, when: When) -> None:
        if not self.operation and (number, when) == (self.number, self.when):
            self.operation = name
            self.act(name)


def kill(_name: str) -> None:
    raise ProcessDied


def fail(name: str) -> None:
    raise ServiceUnavailable(f"{name} got no answer")


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
    assert chain.standing(run_id, "cloud").state is State.FAILED
    assert chain.standing(run_id, "mobile").state is State.LIVE
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
        assert chain.standing(older, target).state is State.SUPERSEDED
    chain.check_is_tidy()


def redeploy_both(chain: Chain) -> None:
    chain.queue += [chain.redeploy(target, dataset="flowers", reason="a test") for target in ("cloud", "mobile")]


def in_order_of_time(chain: Chain) -> list[str]:
    return sorted(chain.run_ids(), key=lambda run_id: chain.ledger.read_run(run_id).created_at)


def commands_at_once(chain: Chain, seed: int, *, abort: bool) -> list[Delivery]:
    """A rollback, a redeploy of either of two runs, and perhaps an abort, in an order that the seed decides."""
    draw = random.Random(seed)
    older, newer = in_order_of_time(chain)
    asked = [
        chain.post("cloud", "rollback", dataset="flowers", key=f"a{seed}"),
        chain.post("cloud", "redeploy", run_id=newer, key=f"b{seed}"),
        chain.post("cloud", "redeploy", run_id=older, force=True, canary=False),
    ]
    if abort:
        asked.append(chain.post("cloud", "abort", dataset="flowers"))
    draw.shuffle(asked)
    return asked


STORIES = {
    "a first run": Story(nothing, upload, Chain.check_one_run_is_live),
    "a run whose cloud training fails": Story(
        nothing, train_without_success_for_the_cloud, check_that_only_the_phones_have_it
    ),
    "a second run": Story(have_a_live_run, upload_a_second_edition, check_that_the_second_run_replaced_the_first),
    "a redeploy": Story(have_a_live_run, redeploy_both, Chain.check_one_run_is_live),
}


def two_live_runs(chain: Chain) -> None:
    for edition in (1, 2):
        upload(chain, edition=edition)
        chain.settle()
        chain.clock.advance(3600)


def bring_a_bad_model(chain: Chain) -> None:
    known = set(chain.run_ids())

    def serve(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
        if deployed.display_name not in known:
            raise ServiceUnavailable("500: the model server fell over")
        return label_in_picture(deployed, instance)

    chain.vertex.serve = serve
    upload(chain, edition=3)


def check_the_bad_model_is_gone(chain: Chain) -> None:
    _, second, bad = in_order_of_time(chain)
    assert chain.standing(bad, "cloud").state is State.ROLLED_BACK, chain.standing(bad, "cloud").reason
    assert chain.standing(second, "cloud").state is State.LIVE
    assert chain.messages("deployment-completed", run_id=bad, target="cloud", outcome="rolled_back")
    check_serves(chain, second)
    chain.check_is_tidy()


def roll_back(chain: Chain) -> None:
    chain.queue.append(chain.post("cloud", "rollback", dataset="flowers", key="4711"))


def check_the_first_run_is_back(chain: Chain) -> None:
    first, second = in_order_of_time(chain)
    assert chain.standing(first, "cloud").state is State.LIVE
    assert chain.standing(first, "cloud").release == 2
    assert chain.standing(second, "cloud").state is State.ROLLED_BACK
    check_serves(chain, first)
    chain.check_is_tidy()


def check_serves(chain: Chain, run_id: str) -> None:
    live, endpoint = chain.live("cloud"), chain.vertex.endpoints["flowers"]
    assert live.current.run_id == run_id
    assert [deployed.display_name for deployed in endpoint.deployed] == [run_id]
    assert dict(endpoint.traffic) == {endpoint.deployed[0].id: 100}
    assert (live.current.deployed_model, live.undeployed_at) == (endpoint.deployed[0].id, "")


def two_live_runs_and_a_watched_canary(chain: Chain) -> None:
    two_live_runs(chain)
    monitoring = {"max_error_rate": 0.05, "max_latency": "500ms", "wait": "10m"}
    canary = {"steps": [50, 100], "bake": "2m", "answers": 1, "monitoring": monitoring}
    chain.configure(serving={"canary": canary, "cool_down": "3m"})
    chain.monitoring.otherwise = Served(requests=100, errors=0, p95_seconds=0.1)


def cool_down(chain: Chain, *, minutes: int = 8) -> None:
    """Until what was replaced is taken down; a removal is two looks, each under a lease that may have to run out."""
    for _ in range(minutes):
        chain.tick()
        chain.vertex.finish_operations()


def bring_a_good_model(chain: Chain) -> None:
    upload(chain, edition=3)


def check_the_good_model_was_watched_at_every_share(chain: Chain) -> None:
    _, second, good = in_order_of_time(chain)
    assert chain.standing(good, "cloud").state is State.LIVE, chain.standing(good, "cloud").reason
    assert chain.standing(second, "cloud").state is State.SUPERSEDED
    passed = chain.standing(good, "cloud").facts["rollout"]["passed"]
    assert [(step["share"], step["monitoring"]["requests"]) for step in passed] == [(50, 100), (100, 100)]
    assert min(seconds for _, _, seconds in chain.monitoring.asked) >= SHORTEST_PERIOD
    cool_down(chain)
    check_serves(chain, good)
    chain.check_is_tidy()


def bring_a_model_whose_users_see_errors(chain: Chain) -> None:
    chain.monitoring.otherwise = Served(requests=100, errors=40, p95_seconds=0.1)
    upload(chain, edition=3)


#: A model that is alone on its endpoint: its releases are in place.
ALONE = {"scale_to_zero": {"idle": "10m", "warm": "5m"}, "canary": {"answers": 1, "bake": 0}}
SIDE_BY_SIDE = {"canary": {"steps": [50, 100], "bake": 0, "answers": 1}}


def two_live_runs_in_place(chain: Chain) -> None:
    chain.configure(serving=ALONE)
    two_live_runs(chain)


def begin_to_scale_to_zero(chain: Chain) -> None:
    chain.configure(serving=ALONE)
    bring_a_good_model(chain)


def scale_to_zero_no_more_with_a_bad_model(chain: Chain) -> None:
    chain.configure(serving=SIDE_BY_SIDE)
    bring_a_bad_model(chain)


def check_the_newest_serves(chain: Chain) -> None:
    _, second, newest = in_order_of_time(chain)
    assert chain.standing(newest, "cloud").state is State.LIVE, chain.standing(newest, "cloud").reason
    assert chain.standing(second, "cloud").state is State.SUPERSEDED
    check_serves(chain, newest)
    chain.check_is_tidy()


#: What people and bad models make the deployer do.
RELEASE_STORIES = {
    "a model that fails behind the endpoint": Story(two_live_runs, bring_a_bad_model, check_the_bad_model_is_gone),
    "a model that only its users see fail": Story(
        two_live_runs_and_a_watched_canary, bring_a_model_whose_users_see_errors, check_the_bad_model_is_gone
    ),
    "a model that Cloud Monitoring finds good": Story(
        two_live_runs_and_a_watched_canary, bring_a_good_model, check_the_good_model_was_watched_at_every_share
    ),
    "a rollback": Story(two_live_runs, roll_back, check_the_first_run_is_back),
    "a good model in place": Story(two_live_runs_in_place, bring_a_good_model, check_the_newest_serves),
    "a bad model in place": Story(two_live_runs_in_place, bring_a_bad_model, check_the_bad_model_is_gone),
    "a rollback in place": Story(two_live_runs_in_place, roll_back, check_the_first_run_is_back),
    "a first release that scales to zero": Story(two_live_runs, begin_to_scale_to_zero, check_the_newest_serves),
    "a bad model that was to scale to zero no more": Story(
        two_live_runs_in_place, scale_to_zero_no_more_with_a_bad_model, check_the_bad_model_is_gone
    ),
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


@functools.cache
def deployers_operations(story: Story) -> range:
    """The numbers of the operations from which on only the deployer acts on the cloud branch, or of all in a rollback.

    Those before them are the matter of other stories.
    """
    chain, _ = told(story)
    count = len(chain.operations)
    uploads = "vertex.start_upload" in chain.operations
    first = chain.operations.index("vertex.find_endpoint") if uploads else 0
    story.check(chain)
    return range(first, count)
