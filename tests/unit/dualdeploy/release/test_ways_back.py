"""In whatever state a release is, one of abort and rollback works and says which, also while it is just going live."""

from __future__ import annotations

from typing import Any

import pytest

from dualdeploy.ledger.documents import RELEASE_ENDS
from support.toy import DATASET, Disturbance, Toy

FIRST, SECOND = (f"{DATASET}-00000000000{digit}" for digit in "ab")


def with_a_trained_one() -> Toy:
    toy = Toy()
    toy.train(FIRST)
    toy.tick(times=15)
    toy.train(SECOND, announce=False)
    return toy


def told(number: int, command: str) -> tuple[Toy, Disturbance, dict[str, Any]]:
    """A second run goes out, and a command comes before one of its operations; what was answered then."""
    toy = with_a_trained_one()
    answer: dict[str, Any] = {}

    def ask() -> None:
        response = toy.http().post(f"/{command}", json={"dataset": DATASET})
        answer.update(response.json, status=response.status_code)

    disturbance = Disturbance(toy, number, ask)
    toy.announce(SECOND)
    toy.tick(times=20)
    return toy, disturbance, answer


def operations() -> range:
    _, undisturbed, _ = told(0, "abort")
    assert undisturbed.count > 40
    return range(1, undisturbed.count + 1)


def check_first_serves(toy: Toy, story: str) -> None:
    toy.tick(times=20)
    assert toy.world.shelf == {FIRST: 100}, story
    current = toy.serving().current
    assert current is not None
    assert (current.run_id, toy.serving().under_way, toy.serving().waiting) == (FIRST, None, ()), story
    assert toy.standing(SECOND).state in RELEASE_ENDS, story


@pytest.mark.parametrize("command", ["abort", "rollback"])
def test_whichever_comes_before_any_operation_is_carried_out_or_names_the_one_that_is(command: str) -> None:
    other = {"abort": "/rollback", "rollback": "/abort"}[command]
    sent_on = 0
    for number in operations():
        toy, disturbance, answer = told(number, command)
        story = f"{command} before operation {number} ({disturbance.operation}): {answer}"
        if answer["status"] == 409 and "send" in answer and "candidates" not in answer:
            assert answer["send"]["path"] == other, story
            sent_on += 1
            # At the very moment that it was refused the other one would have worked: it is sent there and then.
            toy = sent_there_and_then(number, command, answer["send"])
        elif answer["status"] == 409:
            # Nothing had begun yet, or all was over: so says the answer.
            assert "nothing of flowers is under way" in answer["error"] or "nothing served before" in answer["error"], (
                story
            )
            continue
        else:
            assert answer["status"] == 202, story
        check_first_serves(toy, story)
    assert sent_on


def sent_there_and_then(number: int, command: str, send: dict[str, Any]) -> Toy:
    toy = with_a_trained_one()

    def ask() -> None:
        assert toy.http().post(f"/{command}", json={"dataset": DATASET}).status_code == 409
        response = toy.http().post(send["path"], json=send["body"])
        assert response.status_code == 202, (number, response.json)

    Disturbance(toy, number, ask)
    toy.announce(SECOND)
    toy.tick(times=20)
    return toy
