"""What it costs to check who delivers an event, beside an empty HTTP function: python -m benchmarks callers.

All are measured in one process, in turns, in CPU time.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flask
from werkzeug.test import EnvironBuilder

from benchmarks.report import Row, append_rows
from dualdeploy.http.callers import Callers
from dualdeploy.http.certificates import Certificates
from local_cloud.faults import Faults
from local_cloud.identity import Identity, TokenMint
from support.fakes.callers import AUDIENCE, SENDER, cloud_run_callers, from_sender

ROUNDS, EVENTS, NEW_TOKENS = 20, 500, 10


def main(_arguments: Sequence[str] | None = None) -> None:
    """Measure and write the rows of the report."""
    with tempfile.TemporaryDirectory() as folder:
        mint = TokenMint(Path(folder))
        identity = Identity(mint, faults=Faults()).start()
        try:
            seconds = _measure(mint, Certificates(identity.certs_url))
        finally:
            identity.close()
    empty = round(seconds["empty"] * 1e6, 1)
    how = f"{ROUNDS} rounds of {EVENTS}; against answering 204 to an empty request with Flask"
    append_rows(
        Row(f"callers.{name}", round(seconds[name] * 1e6, 1), "us", empty, None, how)
        for name in ("checked_by_cloud_run", "signed", "signed_new_token")
    )


def _measure(mint: TokenMint, certificates: Certificates) -> dict[str, float]:
    """CPU seconds for one event each."""
    signed = Callers(
        audiences=[AUDIENCE], event_senders=[SENDER, *map(_sender, range(1000))], certificates=certificates
    )
    behind_cloud_run = cloud_run_callers()
    checked, token = from_sender(), _header(mint, SENDER)
    signed.require_event_sender(token)
    numbers = itertools.count()
    totals: dict[str, float] = {}
    for _ in range(ROUNDS):
        unknown = [_header(mint, _sender(next(numbers))) for _ in range(NEW_TOKENS)]
        for name, work, times in (
            ("empty", _empty_function(), EVENTS),
            ("checked_by_cloud_run", lambda: behind_cloud_run.require_event_sender(checked), EVENTS),
            ("signed", lambda: signed.require_event_sender(token), EVENTS),
            ("signed_new_token", lambda unknown=unknown: signed.require_event_sender(unknown.pop()), NEW_TOKENS),
        ):
            totals[name] = totals.get(name, 0.0) + _cpu(work, times) / times
    return {name: total / ROUNDS for name, total in totals.items()}


def _cpu(work: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - started


def _empty_function() -> Callable[[], object]:
    app = flask.Flask("empty")
    app.add_url_rule("/", "empty", lambda: ("", 204), methods=["POST"])
    environ = EnvironBuilder(method="POST", path="/", data=b"{}").get_environ()

    def answer() -> object:
        return list(app(dict(environ), _ignore))

    return answer


def _ignore(_status: str, _headers: object, _error: object = None) -> Any:
    return lambda _data: None


def _sender(number: int) -> str:
    return f"sender-{number}@demo.iam.gserviceaccount.com"


def _header(mint: TokenMint, sender: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {mint.token(sender, AUDIENCE)}"}
