"""Many writers at once: a precondition has one winner, and nobody reads half an object."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud.storage import Bucket

THREADS, ROUNDS = 8, 10


def race(contender: Callable[[int], bool]) -> int:
    """How many of the threads, all let go at once, won."""
    barrier = threading.Barrier(THREADS)

    def run(number: int) -> bool:
        barrier.wait()
        return contender(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(run, range(THREADS)))


def test_a_claim_has_exactly_one_winner(bucket: Bucket) -> None:
    for round_number in range(ROUNDS):

        def claim(number: int, name: str = f"claim-{round_number}") -> bool:
            try:
                bucket.blob(name).upload_from_string(str(number), if_generation_match=0)
            except PreconditionFailed:
                return False
            return True

        assert race(claim) == 1


def test_compare_and_swap_loses_no_increment(bucket: Bucket) -> None:
    bucket.blob("counter").upload_from_string("0")

    def increment(_number: int) -> bool:
        while True:
            blob = bucket.get_blob("counter")
            try:
                value = int(blob.download_as_bytes(if_generation_match=blob.generation))
                blob.upload_from_string(str(value + 1), if_generation_match=blob.generation)
            except (NotFound, PreconditionFailed):
                # A blob that was read names its generation, and without versioning an older one is not found.
                continue
            return True

    race(increment)
    assert bucket.blob("counter").download_as_bytes() == str(THREADS).encode()


def test_a_deletion_by_generation_has_exactly_one_winner(bucket: Bucket) -> None:
    blob = bucket.blob("lease")
    blob.upload_from_string("held")

    def release(_number: int) -> bool:
        try:
            bucket.blob("lease").delete(if_generation_match=blob.generation, retry=None)
        except (NotFound, PreconditionFailed):
            return False
        return True

    assert race(release) == 1


def test_a_reader_sees_one_version_or_the_other(bucket: Bucket) -> None:
    versions = [bytes([number]) * 300_000 for number in range(6)]
    bucket.blob("flipping").upload_from_string(versions[0])

    def read_or_write(number: int) -> bool:
        for version in versions:
            if number == 0:
                bucket.blob("flipping").upload_from_string(version)
            elif bucket.blob("flipping").download_as_bytes() not in versions:
                return False
        return True

    assert race(read_or_write) == THREADS
