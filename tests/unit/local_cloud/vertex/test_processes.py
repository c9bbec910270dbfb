"""Processes on their leash: exit codes, output, and that nothing is left behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local_cloud.vertex.processes import Process, container_environment
from support.processes import is_alive

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def start(*command: str, **more: object) -> Process:
        return Process(list(command), folder=tmp_path, environment=dict(os.environ), log=tmp_path / "log", **more)  # type: ignore[arg-type]  # callbacks

    return start


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -6 $$", 134)])
def test_an_exit_code_is_the_one_a_container_reports(start: Start, script: str, code: int) -> None:
    assert start("sh", "-c", script).wait(10) == code


def test_a_command_that_does_not_exist_ends_with_127_and_says_so(start: Start) -> None:
    process = start("no-such-command")
    assert process.wait(10) == 127
    assert "no-such-command" in process.tail


def test_output_goes_to_the_log_and_line_by_line_to_every_listener(start: Start, tmp_path: Path) -> None:
    lines: list[tuple[str, str]] = []
    process = start("sh", "-c", "echo out; echo err >&2", on_line=lambda stream, line: lines.append((stream, line)))
    assert process.wait(10) == 0
    assert sorted(lines) == [("stderr", "err"), ("stdout", "out")]
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["err", "out"]
    assert process.tail == "err"


def test_a_stopped_process_ends_only_when_it_is_killed(start: Start) -> None:
    process = start("sh", "-c", "sleep 60")
    process.stop()
    assert process.wait(0.2) is None
    process.end(grace_seconds=0.2)
    assert process.exit_code == 137


def test_what_the_first_process_leaves_behind_ends_with_it(start: Start, tmp_path: Path) -> None:
    process = start("sh", "-c", "sleep 60 & echo $! > child")
    assert process.wait(10) == 0
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 30
    while is_alive(child):
        assert time.monotonic() < deadline, "the grandchild lives on"
        time.sleep(0.01)


def test_the_process_is_told_when_it_shall_end(start: Start, tmp_path: Path) -> None:
    script = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); "
        "print('ready', flush=True); time.sleep(60)"
    )
    process = start(sys.executable, "-c", script)
    deadline = time.monotonic() + 30
    while "ready" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.end(grace_seconds=10)
    assert process.exit_code == 5


def test_only_vertex_ai_s_own_variables_are_kept_from_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_MODEL_DIR", "gs://somebody-else")
    monkeypatch.setenv("CLOUD_ML_JOB_ID", "0")
    environment = container_environment({"A": "1", "B": "1"}, {"B": "2"})
    assert "AIP_MODEL_DIR" not in environment
    assert "CLOUD_ML_JOB_ID" not in environment
    assert (environment["A"], environment["B"], environment["PATH"]) == ("1", "2", os.environ["PATH"])
