"""What happens between SIGTERM and the end of the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.departure import Departure


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
    assert "a last act failed ('gone'); the second was asked as well" in caplog.text


def test_before_training_there_is_nothing_to_keep() -> None:
    assert Departure().conclude() == "nothing was trained yet"
