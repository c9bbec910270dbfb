"""Seeded random histories of one project: what people, data, machines and the network do to the chain, in any order.

    make histories N=5000            seeds 0 to 4999
    make histories N=1 SEED=17       one of them, move by move

A history draws moves from its seed: uploads, deliveries (late, doubled, out of order), ticks of single services, kills
and lost answers at any operation, instances that freeze for minutes, bad models, commands, configurations that change,
break and vanish, and services of two versions side by side. Then everything works again, time passes, and the promises
below are held against what came of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(path) for path in Path(__file__).resolve().parents[1].glob("services/*")]

from dualdeploy.contracts.training import TARGETS
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.vertex import RUN_LABEL, TARGET_LABEL, JobOutcome
from dualdeploy.ledger import State
from dualdeploy.release.route import Forward, Route, Step
from support.chain import SERVICE_OF, SERVICES, Chain, Delivery, check_history
from support.fakes.failing import ProcessDied
from support.fakes.vertex import label_in_picture

MOVES = 40
#: Long enough for leases, quiet periods, bounds of what passes by itself, and the way back.
REST_MINUTES = 90
#: The cleanup looks once an hour, and gives what lost its configuration a day.
CLEANUP_HOURS = 30

BATCH = ("flowers/train-00000-of-00001.tfrecord", "flowers/eval-00000-of-00001.tfrecord")

#: Configurations that are switched between while everything goes on.
CONFIGURATIONS: Sequence[Mapping[str, Any]] = (
    {},
    {"serving": {"canary": {"steps": [5, 50, 100], "bake": "2m", "answers": 2}}},
    {"publishing": {"rollout": {"steps": [10, 50, 100], "bake": "3m"}}},
    {"serving": {"cool_down": "5m", "keep_previous": 1}},
    {"publishing": {"channels": ["firebase-storage"]}},
    {"data": {"quiet_period": 60.0, "on_new_data": "supersede"}},
)


class BrokenPromise(AssertionError):
    """What came of a history is not what the project promises."""


@dataclasses.dataclass
class History:
    """One history; `told` is what happened, move by move."""

    seed: int
    chain: Chain = dataclasses.field(default_factory=Chain)
    told: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.editions = itertools.count(1)
        self.delivered: list[Delivery] = []
        self.keys = itertools.count()
        self.asked: list[tuple[str, str, str, dict[str, Any]]] = []
        self.bad: set[str] = set()
        self.is_bad_next = False
        self.chain.vertex.serve = self._serve
        # What Google does is not recorded: half of the histories have it one way.
        self.chain.vertex.busy_refuses_split = self.seed % 2 == 1
        self.chain.order = lambda: self.chance.sample(SERVICES, len(SERVICES))
        if self.chance.random() < 0.4:
            self._two_versions()

    def play(self) -> None:
        """Draw the moves, then let everything come to rest. Raises BrokenPromise."""
        self._upload()
        names = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
        for _ in range(MOVES):
            name = self.chance.choice(names)
            self.told.append(name)
            getattr(self, f"_{name}")()
        self._rest()
        check(self)

    # Moves -----------------------------------------------------------------------------------------------------

    def _upload(self) -> None:
        edition = next(self.editions)
        self.is_bad_next = self.chance.random() < 0.2
        self.chain.upload(*BATCH, edition=edition)
        self.told.append(f"  edition {edition}{', bad' if self.is_bad_next else ''}")

    def _deliver(self) -> None:
        for _ in range(self.chance.randrange(1, 5)):
            if self.chain.queue:
                delivery = self.chain.queue.pop(self.chance.randrange(len(self.chain.queue)))
                if not self.chain.handle(delivery) or self.chance.random() < 0.2:
                    self.chain.queue.append(delivery)
                self.delivered.append(delivery)

    def _deliver_again(self) -> None:
        if self.delivered:
            self.chain.handle(self.chance.choice(self.delivered))

    def _tick(self) -> None:
        self.chain.tick(self.chance.choice([20, 60, 60, 60, 180]))

    def _tick_one(self) -> None:
        self.chain.clock.advance(self.chance.choice([1, 60]))
        self.chain.tick_of(self.chance.choice(SERVICES))

    def _pass(self) -> None:
        for _ in range(self.chance.randrange(1, 8)):
            self.chain.drain(rounds=1)
            self.chain.vertex.finish_operations()
            self.chain.tick()

    def _train(self) -> None:
        jobs = self.chain.unfinished_jobs()
        if not jobs:
            return
        job = self.chance.choice(jobs)
        labels = self.chain.vertex.jobs[job].labels
        if RUN_LABEL not in labels or TARGET_LABEL not in labels:
            return
        if self.is_bad_next:
            self.bad.add(labels[RUN_LABEL])
        self.chain.train(job, hints=self.chance.random() < 0.7)

    def _finish_operations(self) -> None:
        self.chain.vertex.finish_operations()

    def _kill(self) -> None:
        self._at_one_of_the_next_operations(lambda _name: self.chain.die())

    def _fail(self) -> None:
        def fail(name: str) -> None:
            raise ServiceUnavailable(f"{name} got no answer")

        self._at_one_of_the_next_operations(fail, when=self.chance.choice(["before", "after"]))

    def _freeze(self) -> None:
        minutes = self.chance.randrange(2, 9)
        commands = self.chance.random() < 0.3

        def others() -> None:
            for _ in range(minutes):
                self.chain.tick()
                self.chain.vertex.finish_operations()
            if commands:
                self._command()

        def freeze(_name: str) -> None:
            # On a thread of its own, by which the chain tells instances apart.
            thread = threading.Thread(target=others)
            thread.start()
            thread.join()

        self._at_one_of_the_next_operations(freeze)

    def _command(self) -> None:
        target = self.chance.choice(TARGETS)
        commands = [*["redeploy"] * 4, *["rollback"] * 4, *["abort", "hold", "resume"] * 2, "retire"]
        command = self.chance.choice(commands)
        body: dict[str, Any] = {"dataset": "flowers"}
        if command == "retire":
            body["confirm"] = True
        if command == "redeploy" and self.chance.random() < 0.5 and (runs := self.chain.run_ids()):
            body = {"run_id": self.chance.choice(runs), "force": self.chance.random() < 0.7}
        asked = (target, command, f"key-{next(self.keys)}", body)
        self.asked.append(asked)
        self._ask(asked)

    def _command_again(self) -> None:
        if self.asked:
            self._ask(self.chance.choice(self.asked))

    def _retrain(self) -> None:
        self.chain.queue.append(self.chain.retrain(force=self.chance.random() < 0.5))

    def _configure(self) -> None:
        self.chain.configure(**self.chance.choice(CONFIGURATIONS))

    def _break_config(self) -> None:
        if self.chance.random() < 0.5:
            self.chain.write_config("flowers", b"labels: [")
        elif list(self.chain.config.list("datasets/flowers.yaml")):
            self.chain.forget_config()

    # Disturbances ----------------------------------------------------------------------------------------------

    def _ask(self, asked: tuple[str, str, str, dict[str, Any]]) -> None:
        target, command, key, body = asked
        self.told.append(f"  {target} {command} {body} {key}")
        self.chain.handle(self.chain.post(target, command, key=key, **body))

    def _at_one_of_the_next_operations(self, act: Callable[[str], None], *, when: str = "before") -> None:
        """Do something at one of the next operations, once, and let time pass until it has happened."""
        left = [self.chance.randrange(25)]

        def interfere(_number: int, name: str, at: str) -> None:
            if at == when:
                left[0] -= 1
                if left[0] < 0:
                    self.chain.interfere = lambda *_: None
                    self.told.append(f"  at {name}")
                    act(name)

        self.chain.interfere = interfere
        if self.chance.random() < 0.3:
            # The instance that answers people is like any other.
            self._command()
        self._pass()

    def _serve(self, deployed: Any, instance: Any) -> Any:
        if deployed.display_name in self.bad:
            raise ServiceUnavailable("500: the model server fell over")
        return label_in_picture(deployed, instance)

    def _two_versions(self) -> None:
        """The newer version is today's code with one more state, step and field; deliveries reach either."""
        self.told.append("two versions")
        for target in TARGETS:
            service = SERVICE_OF[target]
            self.chain.versions[service] = [self.chain.compose(service), newer_version(self.chain.compose(service))]
        self.chain.pick = lambda _service, versions: self.chance.choice(versions)

    def _rest(self) -> None:
        """Everything works again; people keep a configuration, and resume what they held."""
        self.chain.interfere = lambda *_: None
        self.chain.order = lambda: SERVICES
        self.chain.configure()
        self.chain.queue = [*self.delivered[-5:], *self.chain.queue]
        for _ in range(REST_MINUTES):
            self._quiet_minute()
            if self.chain.is_quiet():
                break
        for target in TARGETS:
            self.chain.handle(self.chain.post(target, "resume", dataset="flowers"))
        for _ in range(REST_MINUTES):
            self._quiet_minute()
            if self.chain.is_quiet():
                break
        for _ in range(CLEANUP_HOURS):
            self.chain.clock.advance(3600)
            for _ in range(4):
                self._quiet_minute()

    def _quiet_minute(self) -> None:
        self.chain.drain()
        for job in self.chain.unfinished_jobs():
            labels = self.chain.vertex.jobs[job].labels
            if RUN_LABEL in labels and TARGET_LABEL in labels:
                self.chain.train(job)
        self.chain.drain()
        self.chain.vertex.finish_operations()
        self.chain.tick()


#: How often each move is drawn.
WEIGHTS: Mapping[str, int] = {
    "upload": 2,
    "deliver": 6,
    "deliver_again": 2,
    "tick": 4,
    "tick_one": 3,
    "pass": 4,
    "train": 5,
    "finish_operations": 3,
    "kill": 4,
    "fail": 4,
    "freeze": 3,
    "command": 4,
    "command_again": 1,
    "retrain": 1,
    "configure": 2,
    "break_config": 1,
}


def newer_version(service: Any) -> Any:
    """Today's code with one more state, step and field, before the last step of each forward route."""

    def verify(release: Any, _world: Any) -> Any:
        return Forward(release.changed(verified=True))

    target = service.worker._of
    step = Step("verify", "verifying", verify, "is verified")  # type: ignore[arg-type]
    target.routes = {
        name: longer(route, step) if name in ("forward", "in place", "rollback") else route
        for name, route in target.routes.items()
    }
    return service


def longer(route: Route, step: Step) -> Route:
    """The route with one more step before its first claimed one that users see nothing of yet."""
    place = next(number for number, each in enumerate(route.steps) if each.name == "claim") + 1
    steps = (*route.steps[:place], step, *route.steps[place:])
    other = Route.__new__(Route)
    other.__dict__.update(route.__dict__)
    other.steps = steps
    other._places = {each.name: number for number, each in enumerate(steps)}
    return other


# Promises ------------------------------------------------------------------------------------------------------


def check(history: History) -> None:
    """Raise BrokenPromise with everything that is wrong, and the history that led there."""
    faults = [fault for promise in PROMISES for fault in promise(history.chain)]
    if faults:
        raise BrokenPromise(f"seed {history.seed}: {'; '.join(faults)}\n  " + "\n  ".join(history.told))


def nothing_is_stuck(chain: Chain) -> list[str]:
    faults = [f"{key} is still due" for key in chain.active()]
    for target in TARGETS:
        serving = chain.serving(target)
        if serving.under_way or serving.removing:
            faults.append(f"{target}: {serving.under_way or serving.removing} is under way")
        faults += [f"{target}: {turn.name} waits" for turn in serving.waiting]
    for run_id, target in itertools.product(chain.run_ids(), TARGETS):
        found = chain.standing(run_id, target)
        if not found.is_over:
            faults.append(f"{run_id}/{target} is {found.state} at {found.step!r}: waits for {found.waits_for}")
    return faults


def nothing_is_double(chain: Chain) -> list[str]:
    faults = []
    for run_id, target in itertools.product(chain.run_ids(), TARGETS):
        alive = [
            name
            for name in chain.jobs_of(run_id, target)
            if chain.vertex.jobs[name].outcome is not JobOutcome.CANCELLED
        ]
        if len(alive) > 1:
            faults.append(f"{run_id}/{target} was trained {len(alive)} times")
    return faults


def what_is_recorded_is_what_serves(chain: Chain) -> list[str]:
    live = chain.live("cloud")
    faults = []
    for endpoint in chain.vertex.endpoints.values():
        split = {key: share for key, share in endpoint.traffic.items() if share}
        recorded = {live.current.deployed_model: 100} if live and not live.undeployed_at else {}
        if split != recorded:
            faults.append(f"endpoint {endpoint.id} sends {split}, recorded is {recorded}")
        kept = {live.current.deployed_model} if live else set()
        kept |= {live.previous.deployed_model} if live and live.previous else set()
        faults += [f"{each.display_name} is left deployed" for each in endpoint.deployed if each.id not in kept]
    return faults


def phones_have_what_is_recorded(chain: Chain) -> list[str]:
    live = chain.live("mobile")
    if not live or not live.current.version:
        return []
    stored = chain.phones.read("models/flowers/latest.json").data.decode()
    found = chain.standing(live.current.run_id, "mobile")
    excused = found.facts.get("not_brought_back") or found.facts.get("stays")
    is_right = live.current.version in stored or excused
    return [] if is_right else [f"the pointer says {stored}, recorded is {live.current.version}"]


def everything_is_announced(chain: Chain) -> list[str]:
    faults = []
    for run_id, target in itertools.product(chain.run_ids(), TARGETS):
        found = chain.standing(run_id, target)
        states = {moment.state for moment in found.history}
        if State.TRAINED in states and not chain.messages("training-completed", run_id=run_id, target=target):
            faults.append(f"the training of {run_id}/{target} was never announced")
        if found.release and not chain.messages("deployment-completed", run_id=run_id, target=target):
            faults.append(f"the release of {run_id}/{target} was never announced")
    return faults


def histories_follow_the_tables(chain: Chain) -> list[str]:
    faults = []
    for run_id, target in itertools.product(chain.run_ids(), TARGETS):
        try:
            check_history(chain.standing(run_id, target))
        except AssertionError as exc:
            if "verifying" not in str(exc):
                faults.append(f"{run_id}/{target}: {exc}")
    return faults


def the_newest_data_was_seen(chain: Chain) -> list[str]:
    present = {(each.name, each.crc32c) for each in chain.data.list("flowers/") if ".tfrecord" in each.name}
    snapshots = [chain.ledger.read_run(run_id).snapshot for run_id in chain.run_ids()]
    seen = [{(shard.name, shard.crc32c) for shard in snapshot.shards} for snapshot in snapshots]
    return [] if present in seen else ["what was uploaded last was never claimed"]


PROMISES = (
    nothing_is_stuck,
    nothing_is_double,
    what_is_recorded_is_what_serves,
    phones_have_what_is_recorded,
    everything_is_announced,
    histories_follow_the_tables,
    the_newest_data_was_seen,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play histories; 0 when none broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    seeds = range(options.seed, options.seed + options.count)
    began, broken = time.monotonic(), 0
    for done, fault in enumerate(_played(seeds, options.processes), start=1):
        if fault:
            broken += 1
            print(fault, flush=True)
        if done % 100 == 0:
            print(f"{done} of {len(seeds)} played, {broken} broken promises", flush=True)
    print(f"{len(seeds)} histories in {time.monotonic() - began:.0f} s: {broken} broken promises")
    return min(broken, 1)


def _played(seeds: Sequence[int], processes: int) -> Any:
    if processes == 1 or len(seeds) == 1:
        return map(fault_of, seeds)
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(processes)
    return pool.map(fault_of, seeds, chunksize=5)


def fault_of(seed: int) -> str:
    """What is wrong with a history; empty when it keeps every promise."""
    logging.disable(logging.CRITICAL)
    history = History(seed)
    try:
        history.play()
    except BrokenPromise as exc:
        return str(exc)
    except (Exception, ProcessDied) as exc:  # noqa: BLE001  # whatever it is, the seed must be told
        return f"seed {seed}: {type(exc).__name__}: {exc}\n  " + "\n  ".join(history.told)
    return ""


if __name__ == "__main__":
    sys.exit(main())
