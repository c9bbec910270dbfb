"""Requests become batches; their number and their size are bounded."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from predictor.batching import Batcher, Overloaded
from predictor.model import UndecodableImages, batch_sizes


def test_a_request_is_cut_into_batches_and_answered_in_order(model: Any, png: bytes, jpeg: bytes) -> None:
    batcher = Batcher(model, max_batch=2, parallel=1)
    answers = batcher.predict([png, jpeg, jpeg, png, png])
    assert [answer.label for answer in answers] == ["png", "jpeg", "jpeg", "png", "png"]
    assert model.batches == [2, 2, 1]


def test_undecodable_pictures_are_numbered_within_the_request(model: Any, png: bytes) -> None:
    batcher = Batcher(model, max_batch=2, parallel=1)
    with pytest.raises(UndecodableImages) as caught:
        batcher.predict([png, png + b"CUT", png, png, png + b"CUT"])
    assert sorted(caught.value.faults) == [1, 4]


def test_no_more_batches_run_at_once_than_allowed(model: Any, png: bytes) -> None:
    batcher = Batcher(model, max_batch=1, parallel=2)
    model.gate.clear()
    threads = [threading.Thread(target=batcher.predict, args=([png],)) for _ in range(6)]
    for thread in threads:
        thread.start()
    _until(lambda: model.running == 2)
    model.gate.set()
    for thread in threads:
        thread.join(10)
    assert len(model.batches) == 6
    assert model.most_running == 2


def test_waiting_too_long_is_an_overload_and_frees_nothing_it_does_not_hold(model: Any, png: bytes) -> None:
    batcher = Batcher(model, max_batch=1, parallel=1, patience=0.05)
    model.gate.clear()
    first = threading.Thread(target=batcher.predict, args=([png],))
    first.start()
    _until(lambda: model.running == 1)
    for _ in range(2):
        with pytest.raises(Overloaded):
            batcher.predict([png])
    model.gate.set()
    first.join(10)
    assert len(batcher.predict([png])) == 1


def test_a_failing_model_gives_its_place_back(model: Any, png: bytes) -> None:
    batcher = Batcher(model, max_batch=1, parallel=1, patience=0.05)
    model.failure = RuntimeError("the model broke")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="the model broke"):
            batcher.predict([png])


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (16, [1, 2, 4, 8, 16]), (20, [1, 2, 4, 8, 16, 20])],
)
def test_every_power_of_two_up_to_the_largest_batch_is_warmed(largest: int, sizes: list[int]) -> None:
    assert batch_sizes(largest) == sizes


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
