"""Writes that training does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dualdeploy.errors import ServiceUnavailable
from trainer.process.checkpoint_writer import BackgroundWriter


class Disk:
    """Keeps what is written, in order; a closed gate holds every write up."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()
        self.written: list[tuple[str, bytes]] = []

    def write(self, location: str, content: Callable[[], bytes]) -> None:
        self.began.set()
        assert self.gate.wait(10)
        self.written.append((location, content()))


def test_what_is_put_is_written_when_flush_returns() -> None:
    disk = Disk()
    writer = BackgroundWriter(disk.write)
    writer.put("a", lambda: b"1")
    writer.put("b", lambda: b"2")
    assert writer.flush(10)
    assert sorted(disk.written) == [("a", b"1"), ("b", b"2")]


def test_what_was_overtaken_while_another_write_lasted_is_never_written() -> None:
    disk = Disk()
    disk.gate.clear()
    writer = BackgroundWriter(disk.write)
    writer.put("a", lambda: b"1")
    assert disk.began.wait(10)
    for content in (b"2", b"3"):
        writer.put("a", lambda content=content: content)
    disk.gate.set()
    assert writer.flush(10)
    assert disk.written == [("a", b"1"), ("a", b"3")]


def test_flush_gives_up_after_its_time_and_says_so() -> None:
    disk = Disk()
    disk.gate.clear()
    writer = BackgroundWriter(disk.write)
    writer.put("a", lambda: b"1")
    assert not writer.flush(0.01)
    disk.gate.set()
    assert writer.flush(10)


def test_nothing_to_write_is_flushed_at_once() -> None:
    assert BackgroundWriter(Disk().write).flush(0)


def test_a_write_that_fails_is_a_warning_and_the_next_one_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    answers = iter([ServiceUnavailable("503"), KeyError("a bug"), None])

    def write(location: str, content: Callable[[], bytes]) -> None:
        if error := next(answers):
            raise error
        disk.write(location, content)

    writer = BackgroundWriter(write)
    for content in (b"1", b"2", b"3"):
        writer.put("gs://models/last.npz", lambda content=content: content)
        assert writer.flush(10)
    assert disk.written == [("gs://models/last.npz", b"3")]
    assert "gs://models/last.npz was not written: 503" in caplog.text
    assert "this is a bug" in caplog.text
