"""What every object store does: the same tests for memory, the local cloud and Cloud Storage itself."""

from __future__ import annotations

import base64
import concurrent.futures
import datetime
import functools
import io
import threading
from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest

from dualdeploy.google.object_store import ABSENT, Generation, GenerationChanged, ObjectMissing

NAMES = [
    "plain.json",
    "a/b/c.json",
    "with space.json",
    "Blüten/große Röschen.tfrecord",
    "花/雛菊.tfrecord",
    "percent%2Fslash%20.json",
    "question?hash#plus+and&equals=.json",
    "quote\"'`.json",
    "dots/../not/./a/path.json",
    "double//slash.json",
    "colon:at@semi;comma,star*.json",
    "emoji-🌻.json",
    "e\u0301 is not \u00e9.json",
    "n" * 900,
]


# Reading and writing -------------------------------------------------------------------------------------------------


def test_what_was_put_is_read_with_its_generation(folder: Any) -> None:
    generation = folder.put("a.json", b'{"a": 1}', expect=ABSENT)

    assert generation > 0
    assert folder.read("a.json") == (b'{"a": 1}', generation)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\r\n", bytes(range(256)), b"x" * 300_000], ids=lambda data: f"{len(data)} bytes"
)
def test_bytes_come_back_as_they_were(data: bytes, folder: Any) -> None:
    generation = folder.put("a.bin", data, expect=ABSENT, content_type="application/octet-stream")

    assert folder.read("a.bin") == (data, generation)
    assert folder.read_stream("a.bin", generation=generation) == data


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_written_read_streamed_listed_and_deleted(name: str, folder: Any) -> None:
    generation = folder.put(name, b"x", expect=ABSENT)

    assert folder.read(name) == (b"x", generation)
    assert folder.read_stream(name, generation=generation) == b"x"
    assert folder.names() == [name]
    folder.delete(name, expect=generation)
    assert folder.names() == []


def test_an_absent_object_is_missing(folder: Any) -> None:
    with pytest.raises(ObjectMissing, match=r"a\.json"):
        folder.read("a.json")


def test_a_place_has_a_uri(folder: Any) -> None:
    assert folder.store.uri("a/b.json") == f"gs://{folder.store.bucket_name}/a/b.json"


# Compare and swap ----------------------------------------------------------------------------------------------------


def test_generations_only_grow(folder: Any) -> None:
    generation = ABSENT
    for number in range(5):
        following = folder.put("a.json", str(number).encode(), expect=generation)
        assert following > generation
        generation = following


def test_an_object_that_exists_is_not_created_again(folder: Any) -> None:
    generation = folder.put("a.json", b"first", expect=ABSENT)

    with pytest.raises(GenerationChanged, match=r"a\.json"):
        folder.put("a.json", b"second", expect=ABSENT)
    assert folder.read("a.json") == (b"first", generation)


def test_a_stale_generation_is_refused(folder: Any) -> None:
    first = folder.put("a.json", b"first", expect=ABSENT)
    second = folder.put("a.json", b"second", expect=first)

    with pytest.raises(GenerationChanged):
        folder.put("a.json", b"third", expect=first)
    assert folder.read("a.json") == (b"second", second)


def test_a_write_that_expects_an_object_does_not_create_one(folder: Any) -> None:
    gone = folder.put("a.json", b"x", expect=ABSENT)
    folder.delete("a.json", expect=gone)

    for generation in (gone, Generation(17)):
        with pytest.raises(GenerationChanged):
            folder.put("a.json", b"y", expect=generation)
    assert folder.names() == []


def test_equal_bytes_count_as_written_whatever_was_expected(folder: Any) -> None:
    """Because a lost answer looks just like this: the library repeats the call and is told 412."""
    first = folder.put("a.json", b"same", expect=ABSENT)

    assert folder.put("a.json", b"same", expect=ABSENT) == first
    assert folder.put("a.json", b"same", expect=Generation(17)) == first


def test_a_deleted_object_can_be_created_again_at_a_later_generation(folder: Any) -> None:
    first = folder.put("a.json", b"x", expect=ABSENT)
    folder.delete("a.json", expect=first)

    assert folder.put("a.json", b"x", expect=ABSENT) > first


def test_deleting_states_a_generation_too(folder: Any) -> None:
    first = folder.put("a.json", b"first", expect=ABSENT)
    second = folder.put("a.json", b"second", expect=first)

    with pytest.raises(GenerationChanged):
        folder.delete("a.json", expect=first)
    assert folder.read("a.json") == (b"second", second)
    folder.delete("a.json", expect=second)
    with pytest.raises(ObjectMissing):
        folder.read("a.json")


def test_deleting_what_is_absent_is_fine(folder: Any) -> None:
    folder.delete("a.json", expect=Generation(17))

    generation = folder.put("a.json", b"x", expect=ABSENT)
    folder.delete("a.json", expect=generation)
    folder.delete("a.json", expect=generation)


# Races ---------------------------------------------------------------------------------------------------------------


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results, or the refusals, of calls made at the same time."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        return [future.exception() or future.result() for future in futures]


def test_of_concurrent_creations_one_wins_and_all_others_know_it(folder: Any) -> None:
    for number in range(5):
        name = f"claim-{number}.json"
        results = together(
            [functools.partial(folder.put, name, f"writer {writer}".encode(), expect=ABSENT) for writer in range(8)]
        )

        winners = [writer for writer, result in enumerate(results) if isinstance(result, int)]
        assert len(winners) == 1
        assert [type(result) for result in results].count(GenerationChanged) == 7
        assert folder.read(name) == (f"writer {winners[0]}".encode(), results[winners[0]])


def test_concurrent_increments_are_all_counted(folder: Any) -> None:
    folder.put("counter", b"0", expect=ABSENT)

    def increment(writer: int) -> None:
        while True:
            data, generation = folder.read("counter")
            count = int(data.split()[0]) + 1
            try:
                folder.put("counter", f"{count} by {writer}".encode(), expect=generation)
            except GenerationChanged:
                continue
            return

    results = together([functools.partial(increment, writer) for writer in range(6)])

    assert results == [None] * 6
    assert folder.read("counter")[0].split()[0] == b"6"


# Streams -------------------------------------------------------------------------------------------------------------


def test_a_stream_is_read_in_pieces_to_its_end(folder: Any) -> None:
    data = bytes(range(256)) * 1000
    generation = folder.put("a.bin", data, expect=ABSENT)

    with folder.store.open(folder.name("a.bin"), generation=generation) as stream:
        pieces = list(iter(lambda: stream.read(10_007), b""))
        assert stream.read(10) == b""

    assert b"".join(pieces) == data
    assert {len(piece) for piece in pieces[:-1]} == {10_007}


@pytest.mark.parametrize("length", [0, 1, 999, 1000, 5000])
def test_a_stream_of_the_first_bytes_ends_there(folder: Any, length: int) -> None:
    data = bytes(range(250)) * 4
    generation = folder.put("a.bin", data, expect=ABSENT)

    with folder.store.open(folder.name("a.bin"), generation=generation, length=length) as stream:
        assert stream.read() == data[:length]
        assert stream.read(10) == b""


def test_a_stream_that_is_closed_early_ends_what_fetches_for_it(folder: Any) -> None:
    generation = folder.put("a.bin", bytes(8 << 20), expect=ABSENT)

    streams = [folder.store.open(folder.name("a.bin"), generation=generation) for _ in range(8)]
    for stream in streams:
        assert stream.read(10) == bytes(10)
        stream.close()
    fetching = [each for each in threading.enumerate() if each.name == "read-ahead"]
    for each in fetching:
        each.join(5)
    assert not any(each.is_alive() for each in fetching)


def test_a_stream_can_be_buffered(folder: Any) -> None:
    generation = folder.put("a.txt", b"one\ntwo\nthree", expect=ABSENT)

    with io.BufferedReader(folder.store.open(folder.name("a.txt"), generation=generation)) as lines:
        assert list(lines) == [b"one\n", b"two\n", b"three"]


def test_an_empty_object_is_an_empty_stream(folder: Any) -> None:
    generation = folder.put("a.bin", b"", expect=ABSENT)

    assert folder.read_stream("a.bin", generation=generation, size=10) == b""


def test_a_stream_never_shows_another_generation_than_the_one_asked_for(folder: Any) -> None:
    first = folder.put("a.bin", b"first", expect=ABSENT)
    second = folder.put("a.bin", b"second", expect=first)

    assert folder.read_stream("a.bin", generation=second) == b"second"
    with pytest.raises(ObjectMissing, match=r"a\.bin"):
        folder.read_stream("a.bin", generation=first)


def test_a_stream_of_an_object_that_is_overwritten_meanwhile_shows_the_old_bytes_or_says_that_they_are_gone(
    folder: Any,
) -> None:
    old = bytes(9 << 20)  # more than what is fetched ahead
    generation = folder.put("a.bin", old, expect=ABSENT)

    with folder.store.open(folder.name("a.bin"), generation=generation) as stream:
        read = stream.read(1 << 20)
        folder.put("a.bin", b"\xff" * len(old), expect=generation)
        try:
            while piece := stream.read(4 << 20):
                read += piece
        except ObjectMissing:
            assert len(read) < len(old)
        else:
            assert len(read) == len(old)

    assert set(read) == {0}


def test_a_stream_of_an_absent_object_is_missing(folder: Any) -> None:
    with pytest.raises(ObjectMissing):
        folder.read_stream("a.bin", generation=Generation(17))


# Listing -------------------------------------------------------------------------------------------------------------


def test_a_listing_tells_name_generation_size_checksum_and_time(folder: Any) -> None:
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    generation = folder.put("a.bin", b"flowers", expect=ABSENT)

    [summary] = folder.store.list(folder.prefix)

    checksum = base64.b64encode(google_crc32c.value(b"flowers").to_bytes(4, "big")).decode()
    assert (summary.name, summary.generation, summary.size, summary.crc32c) == (
        folder.name("a.bin"),
        generation,
        7,
        checksum,
    )
    assert before < summary.updated < before + datetime.timedelta(minutes=10)


def test_a_listing_is_in_the_order_of_names_and_of_its_prefix_alone(folder: Any) -> None:
    names = ["b/1", "a/2", "a/10", "a-3", "a", "B", "ä", "z", "🌻", "\uffee"]
    for name in names:
        folder.put(name, b"", expect=ABSENT)

    assert folder.names() == sorted(names)
    assert folder.names("a/") == ["a/10", "a/2"]
    assert folder.names("a") == ["a", "a-3", "a/10", "a/2"]
    assert folder.names("nothing") == []


def test_an_overwritten_object_is_listed_once_as_it_is_now(folder: Any) -> None:
    first = folder.put("a.json", b"first", expect=ABSENT)
    second = folder.put("a.json", b"second!", expect=first)

    assert [(summary.generation, summary.size) for summary in folder.store.list(folder.prefix)] == [(second, 7)]


def test_a_listing_of_more_than_a_page_is_whole(folder: Any) -> None:
    """Cloud Storage gives at most 1,000 names at once."""
    names = [f"inbox/{number:04d}" for number in range(1_050)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: folder.put(name, b"", expect=ABSENT), names))

    assert folder.names("inbox/") == names
