"""An app built on the client has an answer to every picture, whatever becomes of the cloud model."""

from __future__ import annotations

import collections
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.gateway_world import REPOSITORY, RUN, World, gateway_world
from support.node import node
from support.pictures import b64, picture

NEWER = "flowers-ba9876543210"


class App:
    """A process of its own; `answers` are all so far."""

    def __init__(self, world: World) -> None:
        client = (REPOSITORY / "shared" / "js" / "src" / "router.js").as_uri()
        script = REPOSITORY / "tests" / "support" / "app.mjs"
        command = [node(), str(script), client, world.url, "flowers", world.token().json()["token"]]
        command.append(b64(picture("red"))["b64"])
        self.answers: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._changed:
                self.answers.append(json.loads(line))
                self._changed.notify_all()

    def until(self, is_wanted: Callable[[dict[str, Any]], bool], *, times: int = 3) -> list[dict[str, Any]]:
        """Waits for so many more answers of a kind; returns all that came meanwhile."""
        found: collections.deque[dict[str, Any]] = collections.deque()
        with self._changed:
            at, deadline = len(self.answers), time.monotonic() + 20
            while len(found) < times:
                assert self._changed.wait(deadline - time.monotonic()), self.answers[-5:]
                found.extend(filter(is_wanted, self.answers[at:]))
                came, at = self.answers[at:], len(self.answers)
        return came

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout
        self._process.stdout.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with gateway_world(tmp_path) as world:
        yield world


def is_of(run: str) -> Callable[[dict[str, Any]], bool]:
    return lambda answer: answer.get("run") == run


def falls_back(answer: dict[str, Any]) -> bool:
    return answer.get("label") == "phone" and bool(answer.get("fallback"))


def test_an_app_is_answered_through_rollout_rollback_a_dead_endpoint_and_no_network(world: World) -> None:
    world.record(world.deploy())
    with contextlib.closing(App(world)) as app:
        app.until(is_of(RUN))
        # A canary, and then all of it.
        world.add("2", NEWER, {"1": 50, "2": 50})
        app.until(is_of(NEWER))
        world.shift({"2": 100})
        app.until(is_of(NEWER))
        # Back.
        world.shift({"1": 100})
        app.until(is_of(RUN))
        world.finish(world.vertex.start_undeploy("flowers", "2", traffic={"1": 100}))
        app.until(is_of(RUN))
        # The endpoint is there, and no model on it.
        world.finish(world.vertex.start_undeploy("flowers", "1", traffic={}))
        app.until(falls_back)
        world.add("3", NEWER, {"3": 100})
        app.until(is_of(NEWER))
        # No way to the gateway.
        world.stack.delete("gateway")
        app.until(falls_back)
    assert [each for each in app.answers if "failed" in each] == []
    assert {each.get("fallback") for each in app.answers} <= {None, "server", "timeout", "network", "breaker"}
    assert max(each["latencyMs"] for each in app.answers) < 3000
