"""Pictures of concurrent requests go through the model together; nobody waits for nothing, and nobody for ever."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dualdeploy.images.pixels import MAX_PIXELS
from predictor.answers import Fault, Prediction
from predictor.batching import Batcher, ModelFailed, Overloaded
from predictor.instances import Picture
from predictor.model import batch_sizes

LONG = 60.0  # seconds that no test lasts: what waits for it waits for ever


@pytest.fixture
def batcher(model: Any) -> Callable[..., Batcher]:
    def make(**options: Any) -> Batcher:
        return Batcher(model, **{"parallel": 1, "max_waiting": 64, "max_wait": LONG, **options})

    return make


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Threads as gunicorn has them, one for each request."""
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        yield threads


def pictures(*data: bytes) -> list[Picture]:
    return [Picture(each, 12) for each in data]


def labels(answers: Any) -> list[str]:
    return [answer.label if isinstance(answer, Prediction) else answer.reason for answer in answers]


def hold(model: Any, waiting: Batcher, pool: concurrent.futures.ThreadPoolExecutor, png: bytes) -> Any:
    """Keep one batch running until the gate opens."""
    model.gate.clear()
    first = pool.submit(waiting.predict, pictures(png))
    until(lambda: model.running == 1)
    return first


def test_a_lone_request_never_waits_for_company(batcher: Any, png: bytes, model: Any) -> None:
    # With a wait of a minute and a patience of ten seconds, only a batch that starts at once is answered.
    assert labels(batcher(patience=10).predict(pictures(png))) == ["png"]
    assert model.batches == [1]


def test_requests_that_come_while_a_batch_runs_share_the_next_one(
    batcher: Any, pool: Any, model: Any, png: bytes, jpeg: bytes
) -> None:
    waiting = batcher()
    first = hold(model, waiting, pool, png)
    others = [pool.submit(waiting.predict, pictures(each)) for each in (png, jpeg, jpeg, png)]
    until(lambda: waiting.waiting == 4)
    model.gate.set()
    assert labels(first.result(10)) == ["png"]
    assert [labels(other.result(10)) for other in others] == [["png"], ["jpeg"], ["jpeg"], ["png"]]
    assert model.batches == [1, 4]


def test_a_broken_picture_fails_neither_its_request_nor_others_in_its_batch(
    batcher: Any, pool: Any, model: Any, png: bytes, jpeg: bytes
) -> None:
    waiting = batcher()
    hold(model, waiting, pool, png)
    mixed = pool.submit(waiting.predict, pictures(png, png + b"CUT", jpeg))
    other = pool.submit(waiting.predict, pictures(jpeg))
    until(lambda: waiting.waiting == 4)
    model.gate.set()
    assert labels(mixed.result(10)) == ["png", "cut off", "jpeg"]
    assert isinstance(mixed.result()[1], Fault)
    assert labels(other.result(10)) == ["jpeg"]
    assert model.batches == [1, 4]


def test_a_full_batch_starts_beside_a_running_one(batcher: Any, pool: Any, model: Any, png: bytes) -> None:
    waiting = batcher(parallel=2)
    hold(model, waiting, pool, png)
    pool.submit(waiting.predict, pictures(png, png, png))
    until(lambda: waiting.waiting == 3)
    assert model.running == 1
    pool.submit(waiting.predict, pictures(png))
    until(lambda: model.running == 2)
    assert model.batches == [1, 4]
    model.gate.set()


def test_a_batch_that_is_not_full_starts_after_the_longest_wait(
    batcher: Any, pool: Any, model: Any, png: bytes
) -> None:
    waiting = batcher(parallel=2, max_wait=0.02)
    hold(model, waiting, pool, png)
    pool.submit(waiting.predict, pictures(png, png))
    until(lambda: model.running == 2)
    assert model.batches == [1, 2]
    model.gate.set()


def test_no_more_batches_run_at_once_than_allowed(batcher: Any, pool: Any, model: Any, png: bytes) -> None:
    waiting = batcher(parallel=2, max_wait=0.0)
    model.gate.clear()
    answers = [pool.submit(waiting.predict, pictures(png)) for _ in range(12)]
    until(lambda: model.running == 2)
    model.gate.set()
    assert all(labels(answer.result(10)) == ["png"] for answer in answers)
    assert model.most_running == 2


def test_batches_have_the_sizes_that_were_warmed_and_the_rest_goes_with_the_next(
    batcher: Any, model: Any, png: bytes, jpeg: bytes
) -> None:
    answers = batcher().predict(pictures(png, jpeg, jpeg, png, png, jpeg, png))
    assert labels(answers) == ["png", "jpeg", "jpeg", "png", "png", "jpeg", "png"]
    assert model.batches == [4, 2, 1]


@pytest.mark.parametrize(("count", "batches"), [(2, [1, 1]), (4, [2, 2]), (7, [4, 2, 1]), (8, [4, 4])])
def test_a_lone_request_of_several_pictures_is_shared_by_all_free_places_at_once(
    batcher: Any, pool: Any, model: Any, count: int, batches: list[int]
) -> None:
    sent = [b"JPEG", b"\x89PNG", b"\x89PNG", b"JPEG", b"\x89PNG", b"JPEG", b"JPEG", b"\x89PNG"][:count]
    # With a wait of a minute and a patience of ten seconds, only what starts at once is answered.
    model.gate.clear()
    answer = pool.submit(batcher(parallel=2, patience=10).predict, pictures(*sent))
    until(lambda: model.running == 2)
    model.gate.set()
    assert labels(answer.result(10)) == ["jpeg" if each == b"JPEG" else "png" for each in sent]
    assert model.batches == batches


def test_a_place_that_is_taken_gets_no_share(batcher: Any, pool: Any, model: Any, png: bytes) -> None:
    waiting = batcher(parallel=2)
    first = hold(model, waiting, pool, png)
    second = pool.submit(waiting.predict, pictures(*[png] * 4))
    until(lambda: model.running == 2)
    model.gate.set()
    assert [len(each.result(10)) for each in (first, second)] == [1, 4]
    assert model.batches == [1, 4]


def test_a_model_that_pads_gets_all_that_wait_up_to_its_largest_batch(batcher: Any, model: Any, png: bytes) -> None:
    model.pads = True
    assert len(batcher().predict(pictures(*[png] * 7))) == 7
    assert model.batches == [4, 3]


def test_large_pictures_make_small_batches(batcher: Any, model: Any, png: bytes) -> None:
    large = [Picture(png, MAX_PIXELS)] * 4
    assert len(batcher().predict(large)) == 4
    assert model.batches == [2, 2]


def test_a_full_queue_turns_requests_away_and_says_when_to_come_back(
    batcher: Any, pool: Any, model: Any, png: bytes
) -> None:
    waiting = batcher(max_waiting=3)
    hold(model, waiting, pool, png)
    # More than the queue holds, but nobody is before it: it could never be answered otherwise.
    large = pool.submit(waiting.predict, pictures(*[png] * 5))
    until(lambda: waiting.waiting == 5)
    with pytest.raises(Overloaded, match="5 pictures are waiting") as caught:
        waiting.predict(pictures(png))
    assert caught.value.retry_after >= 1
    model.gate.set()
    assert len(large.result(10)) == 5
    assert labels(waiting.predict(pictures(png))) == ["png"]


def test_a_request_that_is_given_up_leaves_the_queue(batcher: Any, pool: Any, model: Any, png: bytes) -> None:
    waiting = batcher(patience=0.05)
    hold(model, waiting, pool, png)
    with pytest.raises(Overloaded, match="no answer within"):
        waiting.predict(pictures(png, png))
    assert waiting.waiting == 0
    model.gate.set()
    until(lambda: model.running == 0)
    assert labels(waiting.predict(pictures(png))) == ["png"]
    assert model.batches == [1, 1]


def test_a_failing_model_fails_all_who_wait_for_that_batch_and_works_on(
    batcher: Any, pool: Any, model: Any, png: bytes
) -> None:
    waiting = batcher()
    first = hold(model, waiting, pool, png)
    model.failure = RuntimeError("the model broke")
    model.gate.set()
    with pytest.raises(ModelFailed, match="the model broke"):
        first.result(10)
    # Of seven pictures the first four fail; nobody asks about the other three any more.
    with pytest.raises(ModelFailed):
        waiting.predict(pictures(*[png] * 7))
    model.failure = None
    assert labels(waiting.predict(pictures(png))) == ["png"]
    assert model.batches == [1, 4, 1]


def test_a_model_that_answers_too_little_fails_the_batch_and_not_the_thread(
    batcher: Any, model: Any, png: bytes
) -> None:
    model.answers_at_most = 1
    waiting = batcher()
    for _ in range(2):
        with pytest.raises(ModelFailed, match="1 answers for 2 pictures"):
            waiting.predict(pictures(png, png))


def test_many_threads_each_get_their_own_answers(batcher: Any, pool: Any, png: bytes, jpeg: bytes) -> None:
    waiting = batcher(parallel=2, max_wait=0.001, max_waiting=1000)
    kinds = {png: "png", jpeg: "jpeg", jpeg + b"CUT": "cut off"}

    def ask(number: int) -> bool:
        sent = [list(kinds)[(number + index) % 3] for index in range(number % 6 + 1)]
        return labels(waiting.predict(pictures(*sent))) == [kinds[each] for each in sent]

    assert all(pool.map(ask, range(300)))


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (16, [1, 2, 4, 8, 16]), (20, [1, 2, 4, 8, 16, 20])],
)
def test_every_power_of_two_up_to_the_largest_batch_is_warmed(largest: int, sizes: list[int]) -> None:
    assert batch_sizes(largest) == sizes


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)
