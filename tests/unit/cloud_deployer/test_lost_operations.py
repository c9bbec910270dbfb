"""Operations of Vertex AI that go on although no one knows their names, and what people ask for meanwhile.

An answer is lost, an instance dies before it has written down what it began, or is frozen before it begins it. What
goes on then may end at any time later: users are served all the same, and the record says by what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.vertex import Answer, DeployedModel
from support.deployer import KINDS as RELEASES
from support.deployer import SIDE_BY_SIDE, Deployer, Kind, a_project
from support.fakes.failing import ProcessDied
from support.fakes.vertex import label_in_picture

#: `cleaned up`: it is the cleanup that takes down what was replaced.
KINDS = {**RELEASES, "cleaned up": Kind({**SIDE_BY_SIDE, "cool_down": "5m"})}

#: Which operation is lost, and whether the new model is a bad one (it is then the one that is taken down).
LOST = [
    *(("side by side", each, False) for each in ("start_upload", "start_deploy", "start_undeploy")),
    ("side by side", "start_undeploy", True),
    ("cleaned up", "start_undeploy", False),
    ("to AutoML", "start_deploy", False),
    ("from AutoML", "start_undeploy", True),
    *(("in place", each, False) for each in ("start_deploy", "start_undeploy")),
    ("in place", "start_undeploy", True),
]
COMMANDS = ["rollback", "rollback to it", "abort", "redeploy the older", "redeploy it", "hold", "retire"]
#: Minutes until the operation ends, and whether Vertex AI refuses a split until then (no recording says).
WORLDS = [(0, True), (6, False)]


class Lost:
    """The first call of an operation: its answer is lost, its instance dies after it, or is frozen before it.

    Or it is `known`, and nothing is wrong.
    """

    def __init__(self, deployer: Deployer, operation: str, how: str, meanwhile: Callable[[], None]) -> None:
        self.happened = False
        self._deployer = deployer
        self._at = (f"vertex.{operation}", "before" if how == "frozen" else "after")
        self._how = how
        self._meanwhile = meanwhile

    def __call__(self, _number: int, name: str, when: str) -> None:
        if self.happened or (name, when) != self._at:
            return
        self.happened = True
        if self._how == "known":
            return
        if self._how == "frozen":
            self._meanwhile()
            return
        raise ProcessDied if self._how == "died" else ServiceUnavailable("no answer within 15 s")


def ask(deployer: Deployer, command: str, older: str, newer: str) -> None:
    name, _, which = command.partition(" ")
    body: dict[str, object] = {"dataset": "flowers"}
    if which:
        body = {"run_id": older if which == "the older" else newer, "force": True}
    if command == "rollback to it":
        body = {"dataset": "flowers", "to_run": newer}
    if command == "retire":
        body["confirm"] = True
    assert deployer.post(name, **body).status_code in (200, 202, 409)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", ["known", "lost", "died", "frozen"])
@pytest.mark.parametrize(("kind", "operation", "is_bad"), LOST)
def test_whatever_is_asked_for_while_a_lost_operation_goes_on_users_are_served(
    kind: str, operation: str, is_bad: bool, how: str, command: str
) -> None:
    for ends_after, refuses_split in WORLDS:
        deployer = a_project(KINDS[kind])
        deployer.vertex.busy_refuses_split = refuses_split
        play(deployer, operation, how, command, ends_after, is_bad=is_bad)
        if command == "hold":
            deployer.post("resume", dataset="flowers")
        minutes(deployer, 150, watched=kind != "in place" and command != "retire")
        deployer.check_promises()


def play(deployer: Deployer, operation: str, how: str, command: str, ends_after: int, *, is_bad: bool) -> None:
    older = deployer.live_run()
    (newer,) = set(deployer.ledger.run_ids("flowers")) - {older}
    if is_bad:

        def serve(deployed: DeployedModel, instance: Mapping[str, Any]) -> Answer:
            if deployed.display_name == newer:
                raise ServiceUnavailable("500: the model server fell over")
            return label_in_picture(deployed, instance)

        deployer.vertex.serve = serve

    def meanwhile() -> None:
        ask(deployer, command, older, newer)
        minutes(deployer, ends_after, ends=False)

    lost = Lost(deployer, operation, how, meanwhile)
    deployer.interfere = lost
    deployer.announce(newer)
    for _ in range(90):
        if lost.happened:
            break
        deployer.tick()
        if not lost.happened:
            deployer.vertex.finish_operations()
    assert lost.happened
    if how != "frozen":
        meanwhile()


def minutes(deployer: Deployer, count: int, *, ends: bool = True, watched: bool = False) -> None:
    """Time passes; `ends`: operations end within a minute. `watched`: at no moment may users be without a model."""
    for _ in range(count):
        deployer.tick()
        if ends:
            deployer.vertex.finish_operations()
        if watched:
            assert sum(deployer.vertex.endpoints["flowers"].traffic.values()) == 100
        if ends and not deployer.under_way():
            return
