"""What happens between SIGTERM and the end of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.process.shutdown import Departure

REPOSITORY = Path(__file__).parents[4]


def test_the_last_acts_come_first_then_scratch_is_removed_and_the_code_asks_for_another_attempt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    departure = Departure()
    departure.remove(scratch)
    departure.before(lambda: f"the checkpoint is written, scratch is there: {scratch.exists()}")
    assert departure.leave() == 75
    assert not scratch.exists()
    assert "interrupted by SIGTERM: the checkpoint is written, scratch is there: True" in caplog.text


def test_an_act_that_fails_does_not_keep_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> str:
        raise KeyError("gone")

    departure = Departure()
    departure.before(fail)
    departure.before(lambda: "the second was asked as well")
    assert departure.leave() == 75
    assert "a shutdown hook failed ('gone'); the second was asked as well" in caplog.text


def test_before_training_there_is_nothing_to_keep() -> None:
    assert Departure().conclude() == "nothing was trained yet"


def test_a_handler_that_someone_else_put_there_does_not_keep_the_process() -> None:
    """TensorFlow takes SIGTERM when workers find each other; a process of its own, because it leaves."""
    program = """
import os, signal, time
from trainer.process.shutdown import Departure
departure = Departure()
departure.listen()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
departure.keep_listening()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(30)
"""
    folders = [str(REPOSITORY / "services" / "trainer"), str(REPOSITORY / "shared" / "src")]
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(folders)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=25, check=False).returncode == 75


def test_who_does_not_listen_takes_no_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    Departure().keep_listening()
    assert signal.getsignal(signal.SIGTERM) is before
