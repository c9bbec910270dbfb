"""Log lines as Cloud Logging's agent reads them: one JSON object each, with its special names."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dualdeploy import logs


@pytest.fixture
def lines() -> Callable[[], list[dict[str, Any]]]:
    """What was logged to "test" so far, parsed line by line."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    log = logging.getLogger("test")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.DEBUG)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    libraries = {name: logging.getLogger(name).level for name in ("urllib3", "google")}
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, library_level in libraries.items():
        logging.getLogger(name).setLevel(library_level)


log = logging.getLogger("test")


def test_a_line_has_severity_message_time_in_utc_and_logger(lines: Callable[[], list[dict[str, Any]]]) -> None:
    record = logging.LogRecord("test", logging.WARNING, __file__, 1, "took %s shards", (3,), None)
    record.created, record.msecs = 0.0, 7.0

    log.handle(record)

    assert lines() == [
        {"severity": "WARNING", "message": "took 3 shards", "time": "1970-01-01T00:00:00.007Z", "logger": "test"}
    ]


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_python_levels_are_the_severities_of_cloud_logging(
    level: str, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    log.log(logging.getLevelNamesMapping()[level], "x")

    assert lines()[0]["severity"] == level


def test_extra_and_bound_fields_become_fields_and_extra_wins(lines: Callable[[], list[dict[str, Any]]]) -> None:
    with logs.bind(run_id="r1", target="cloud"):
        log.info("x", extra={"target": "mobile", "seconds": 1.5})

    entry = lines()[0]
    assert (entry["run_id"], entry["target"], entry["seconds"]) == ("r1", "mobile", 1.5)


def test_bindings_nest_and_end_with_their_block(lines: Callable[[], list[dict[str, Any]]]) -> None:
    with logs.bind(run_id="r1"):
        with logs.bind(target="cloud"):
            log.info("inner")
        log.info("outer")
    log.info("after")

    fields = [{key: entry.get(key) for key in ("run_id", "target")} for entry in lines()]
    assert fields == [
        {"run_id": "r1", "target": "cloud"},
        {"run_id": "r1", "target": None},
        {"run_id": None, "target": None},
    ]


def test_a_binding_ends_when_its_block_raises(lines: Callable[[], list[dict[str, Any]]]) -> None:
    with pytest.raises(ValueError, match="x"), logs.bind(run_id="r1"):
        raise ValueError("x")
    log.info("after")

    assert "run_id" not in lines()[0]


def test_empty_fields_are_left_out(lines: Callable[[], list[dict[str, Any]]]) -> None:
    with logs.bind(run_id="", target=None, attempt=0):
        log.info("x")

    assert "run_id" not in lines()[0]
    assert "target" not in lines()[0]
    assert lines()[0]["attempt"] == 0


def test_an_exception_is_part_of_the_message_on_one_line(lines: Callable[[], list[dict[str, Any]]]) -> None:
    try:
        int("boom")
    except ValueError:
        log.exception("while deploying")

    [entry] = lines()
    assert entry["message"].startswith("while deploying\nTraceback (most recent call last):")
    assert entry["message"].endswith("ValueError: invalid literal for int() with base 10: 'boom'")


def test_what_json_does_not_know_is_written_as_text(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log.info("Grüße", extra={"error": ValueError("x")})

    assert (lines()[0]["message"], lines()[0]["error"]) == ("Grüße", "x")


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("105445aa7843bc8bf206b12000100000/1;o=1", "projects/demo/traces/105445aa7843bc8bf206b12000100000"),
        ("105445aa7843bc8bf206b12000100000", "projects/demo/traces/105445aa7843bc8bf206b12000100000"),
        ("", None),
        ("/1;o=1", None),
    ],
)
def test_the_trace_header_becomes_the_trace_field(header: str, field: str | None) -> None:
    assert logs.trace_field(header, "demo").get("logging.googleapis.com/trace") == field


def test_configured_logging_goes_to_stdout_as_json_and_replaces_what_was_there(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "warning")
    root_logger.addHandler(logging.StreamHandler(sys.stdout))

    logs.configure()
    logging.getLogger("anything").info("too quiet")
    logging.getLogger("anything").warning("loud")

    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["message"] == "loud"
    assert len(root_logger.handlers) == 1


def test_a_terminal_gets_a_line_for_people() -> None:
    record = logging.LogRecord("test", logging.INFO, __file__, 1, "launched", (), None)
    record.created = 3661.0
    with logs.bind(run_id="r1"):
        line = logs.PlainFormatter().format(record)

    assert line == "01:01:01 INFO    launched  [run_id=r1]"
