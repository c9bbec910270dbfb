"""Draws the pictures of docs/architecture.md from data: `make architecture-pictures`.

The chain and what keeps it going come from infra/topology.json, the states from the ledger's tables, the way of a
release from the services' lists. Mermaid, because GitHub and most editors show it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloud_deployer.route
import mobile_publisher.route
from dualdeploy.ledger.states import RELEASE_MOVES, TRAINING_MOVES
from dualdeploy.release.route import Loop, Route

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "architecture.md"
#: A topic that so many services read wakes them; it is not a link of the chain.
_WAKES = 3
_PICTURE = re.compile(r"(<!-- (?P<name>[a-z -]+): drawn by [^>]* -->\n)```mermaid\n.*?```\n", re.DOTALL)


def pictures(topology: Mapping[str, Any]) -> Mapping[str, str]:
    """Name → mermaid text of every picture."""
    return {
        "the chain": _flow("LR", _chain(topology)),
        "what keeps it going": _flow("LR", _wakes(topology)),
        "states": _lines("stateDiagram-v2", _states()),
        "a release to the cloud": _flow("LR", _route(cloud_deployer.route.ROUTES["forward"])),
        "a release to phones": _flow("LR", _route(mobile_publisher.route.ROUTES["forward"])),
    }


def filled(page: str, topology: Mapping[str, Any]) -> str:
    """The page with every picture drawn anew. Raises KeyError for a picture that no one draws."""
    drawn = pictures(topology)
    return _PICTURE.sub(lambda found: f"{found[1]}```mermaid\n{drawn[found['name']]}```\n", page)


def names(page: str) -> list[str]:
    """The pictures that a page has."""
    return [found["name"] for found in _PICTURE.finditer(page)]


def _lines(head: str, lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in (head, *(f"  {each}" for each in dict.fromkeys(lines))))


def _flow(direction: str, lines: Iterable[str]) -> str:
    return _lines(f"flowchart {direction}", lines)


def _id(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def _arrow(source: str, label: str, target: str) -> str:
    return f'{source} -- "{label}" --> {target}' if label else f"{source} --> {target}"


def _topic(name: str) -> str:
    return f"topic_{_id(name)}([{name}])"


def _service(topology: Mapping[str, Any], name: str) -> str:
    kind = name in topology["services"] or name in topology["images"]
    return f"{_id(name)}[{name}]" if kind else f"{_id(name)}[/{name}/]"


def _wakers(topology: Mapping[str, Any]) -> set[str]:
    readers: dict[str, set[str]] = {}
    for each in topology["subscriptions"].values():
        readers.setdefault(each["topic"], set()).add(each.get("service", each.get("reader", "")))
    return {topic for topic, services in readers.items() if len(services) >= _WAKES}


def _chain(topology: Mapping[str, Any]) -> Iterator[str]:
    for name, bucket in topology["buckets"].items():
        shape = f"bucket_{name}[({name} bucket)]"
        for trigger in bucket.get("triggers", ()):
            yield _arrow(shape, "object finalized", _service(topology, trigger["service"]))
        for notification in bucket.get("notifications", ()):
            yield _arrow(shape, notification["object_name_prefix"], _topic(notification["topic"]))
        for writer in bucket["writers"]:
            if writer == "trainer":
                yield _arrow(_service(topology, writer), "", shape)
    yield from _published(topology, set(topology["topics"]) - _wakers(topology) - _dead(topology))
    yield from _read(topology, set(topology["topics"]) - _wakers(topology) - _dead(topology))


def _wakes(topology: Mapping[str, Any]) -> Iterator[str]:
    wakers = _wakers(topology)
    yield from _published(topology, wakers)
    yield from _read(topology, wakers)
    for subscription in topology["subscriptions"].values():
        if letters := subscription.get("dead_letter_policy"):
            tries = letters["max_delivery_attempts"]
            yield _arrow(_topic(subscription["topic"]), f"given up after {tries}", _topic(letters["topic"]))
    yield from _read(topology, _dead(topology))


def _dead(topology: Mapping[str, Any]) -> set[str]:
    policies = [each.get("dead_letter_policy") for each in topology["subscriptions"].values()]
    return {policy["topic"] for policy in policies if policy}


def _published(topology: Mapping[str, Any], topics: set[str]) -> Iterator[str]:
    by_notification = {
        each["topic"] for bucket in topology["buckets"].values() for each in bucket.get("notifications", ())
    }
    for name in topology["topics"]:
        if name in topics and name not in by_notification:
            for publisher in topology["topics"][name]["publishers"]:
                yield _arrow(_service(topology, publisher), "", _topic(name))


def _read(topology: Mapping[str, Any], topics: set[str]) -> Iterator[str]:
    for each in topology["subscriptions"].values():
        if each["topic"] in topics:
            reader = each.get("service") or each["reader"]
            only = each.get("filter", "").removeprefix("attributes.").replace('"', "")
            yield _arrow(_topic(each["topic"]), only, _service(topology, reader))


def _states() -> Iterator[str]:
    for moves in (TRAINING_MOVES, RELEASE_MOVES):
        yield f"[*] --> {next(iter(moves))}"
        for state, following in moves.items():
            yield from (f"{state} --> {each}" for each in sorted(following))
    yield "trained --> waiting: a release begins"


def _route(route: Route) -> Iterator[str]:
    """Steps in their order; a loop goes back to its first step."""
    before = ""
    for part in route.parts:
        steps = part.steps if isinstance(part, Loop) else (part,)
        for step in steps:
            if before:
                yield f"{_step(before)} --> {_step(step.name)}"
            before = step.name
        if isinstance(part, Loop):
            yield _arrow(_step(before), part.each, _step(steps[0].name))


def _step(name: str) -> str:
    return f"step_{_id(name)}[{name}]"


def read_topology() -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads((REPOSITORY / "infra" / "topology.json").read_text(encoding="utf-8"))
    return document


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), read_topology()), encoding="utf-8")
