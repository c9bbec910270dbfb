"""What the process says while it works and when it is refused."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.progress import Progress

from trainer.__main__ import main
from trainer.process import progress


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_banners_that_c_prints_are_not_seen(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.native_banners_held_back():
        os.write(2, b"oneDNN custom operations are on\n")
    os.write(2, b"seen\n")
    assert capfd.readouterr().err == "seen\n"


def test_what_was_held_back_is_shown_when_the_import_fails(capfd: pytest.CaptureFixture[str]) -> None:
    @progress.native_banners_held_back()
    def import_tensorflow() -> None:
        os.write(2, b"libcudart.so.12: cannot open shared object file\n")
        raise ImportError("tensorflow")

    with pytest.raises(ImportError):
        import_tensorflow()
    assert "libcudart" in capfd.readouterr().err


def test_without_a_terminal_every_line_is_json_and_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.reporting() as reporter:
        reporter.expect(3)
        reporter.advance()
        reporter.finish()
        logging.getLogger("trainer").info("epoch 1 of 3", extra={"epoch": 1})
        logging.getLogger("tensorflow").info("ten kilobytes of input names")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["severity"], line["message"], line["epoch"]) for line in lines] == [("INFO", "epoch 1 of 3", 1)]


def shown(progress_bar: Progress) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(progress_bar.get_renderable())
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]  # a StringIO


def test_in_a_terminal_the_bar_says_what_is_done_and_counts_once_it_knows_how_far() -> None:
    with progress.drawn(Console(file=io.StringIO())) as drawn:
        bar = progress.Bar(drawn)
        assert shown(drawn).startswith("loading")
        assert "?" not in shown(drawn)
        bar.expect(4)
        assert shown(drawn).startswith("compiling")
        bar.advance()
        assert shown(drawn).startswith("training")
        assert "1/4" in shown(drawn)
        bar.finish()  # early: no better epoch came any more
        assert shown(drawn).startswith("exporting")
        assert "1/1" in shown(drawn)


def test_a_faulty_call_is_answered_with_64_one_line_and_no_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "mobile", "--labels", "daisy"]) == 64
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (line["severity"], line["error"]) == ("ERROR", "UnusableJob")
    assert "--data, --output missing" in line["message"]
    assert "Traceback" not in line["message"]


def test_help_is_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 done, 64 do not retry, 75 retry later (134 on Vertex AI, which then does), 1 bug." in said
