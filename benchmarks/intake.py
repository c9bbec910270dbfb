"""Ten thousand shard events through the real receiver: what they cost, and that they start two jobs and no more.

Every shard's event is delivered one to three times, shuffled, 16 at a time, a hundred in a second of a clock that
also ticks every minute; a shard is uploaded just before its first event. The buckets are in memory and count calls as
Cloud Storage does: a listing is one for each page of 1,000 objects. Events go through functions-framework's own app,
called directly (no client, no sockets), in turns with handlers that do nothing, so that whatever else the machine does
hits all. CPU seconds count, JSON logging included. What the launch itself costs, once, has rows of its own.

    python -m benchmarks.intake [--shards 10000] [--seed 0]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import io
import itertools
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
for source in ("tests", "shared/src", "services/training_launcher"):
    sys.path.insert(0, str(ROOT / source))

from dualdeploy import logs  # noqa: E402 (found through the path above)
from dualdeploy.contracts.dataset_config import object_name  # noqa: E402
from dualdeploy.google.object_store import ABSENT, ObjectSummary  # noqa: E402
from dualdeploy.http.entrypoint import Receiver  # noqa: E402
from dualdeploy.http.ticks import Advance  # noqa: E402
from dualdeploy.images import tfrecord  # noqa: E402 (found through the path above)
from dualdeploy.ledger import Ledger  # noqa: E402
from support.fakes import FakePublisher, FakeVertex, Faults, ManualClock, MemoryObjectStore  # noqa: E402
from support.fakes.callers import cloud_run_callers, from_sender  # noqa: E402
from training_launcher.service import Service, compose  # noqa: E402
from training_launcher.settings import LauncherSettings  # noqa: E402

AT_A_TIME = 16
BLOCK = 1000
BLOCK_SECONDS = 10.0
MOST_CALLS = 1.2
MOST_CPU = 1.5
PAGE = 1000
CONFIG = {"dataset": "flowers", "labels": ["blue", "red"], "validation": {"max_bytes": 1_000_000_000}}

#: functions-framework loads a function from a file; these are the three that take turns.
FUNCTIONS = """
import functions_framework
from benchmarks import intake

@functions_framework.http
def intake_function(request):
    return intake.receiver(request)

@functions_framework.cloud_event
def empty_event_function(event):
    return None

@functions_framework.http
def empty_http_function(request):
    return "", 204
"""

#: Google uses a token for many deliveries, too.
TOKEN = from_sender()["Authorization"]

Application = Callable[[dict[str, Any], Callable[..., Any]], Any]

#: What `intake_function` hands its requests to; set by `deliver`.
receiver: Callable[..., Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Deliver the events of one large set and of many small ones, and write the rows of the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    with Path(os.devnull).open("w") as nowhere:
        handler = logging.StreamHandler(nowhere)
        handler.setFormatter(logs.JsonFormatter())
        root.handlers[:] = [handler]
        root.setLevel(logging.INFO)
        try:
            in_one_set = deliver(_names(options.shards, options.shards), options.seed)
            in_many_sets = deliver(_names(options.shards, PAGE), options.seed)
        finally:
            root.handlers[:] = kept[0]
            root.setLevel(kept[1])
    append_rows(_rows("intake", in_one_set, f"one set of {options.shards}"))
    append_rows(_rows("intake.many_sets", in_many_sets, f"sets of {PAGE}"))


@dataclasses.dataclass
class Costs:
    """What the deliveries cost together, and what the launch cost beside them; CPU in seconds."""

    deliveries: int = 0
    calls: int = 0
    launch_calls: int = 0
    launch_cpu: float = 0.0
    runs: int = 0
    jobs: int = 0
    cpu: dict[str, float] = dataclasses.field(default_factory=dict)


class CountedStore(MemoryObjectStore):
    """Counts every call, and a listing once for each page that is read of it."""

    def __init__(self, bucket: str, clock: ManualClock, counter: Iterator[int]) -> None:
        # `next` of a counter cannot lose a count between threads, `+= 1` can.
        faults = Faults()
        faults.before = lambda _name: next(counter) and None
        super().__init__(bucket, faults=faults, clock=clock)
        self._counter = counter

    def list(self, prefix: str, *, end: str = "") -> Iterator[ObjectSummary]:
        for number, summary in enumerate(super().list(prefix, end=end)):
            if number and number % PAGE == 0:
                next(self._counter)
            yield summary


def deliver(names: Sequence[str], seed: int) -> Costs:
    """Upload and announce `names` one to three times each; what it cost, and what it started."""
    chance = random.Random(seed)
    clock, counter, costs = ManualClock(), itertools.count(), Costs()
    stores = {name: CountedStore(name, clock, counter) for name in ("data", "config", "ledger", "models")}
    vertex = FakeVertex()
    ledger = Ledger(stores["ledger"], clock=clock)
    service = _serve(stores, ledger, vertex, clock)
    applications = _applications()
    stores["config"].put(object_name("flowers"), json.dumps(CONFIG).encode(), expect=ABSENT)
    deliveries = [name for name in names for _ in range(chance.randint(1, 3))]
    chance.shuffle(deliveries)
    uploaded: dict[str, int] = {}
    next_tick = clock().timestamp() + 60
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        _warm_up(pool, applications)
        for start in range(0, len(deliveries), BLOCK):
            block = deliveries[start : start + BLOCK]
            _upload(stores["data"], [name for name in block if name not in uploaded], uploaded)
            announced = [(name, uploaded[name]) for name in block]
            before = next(counter)
            for function in chance.sample(sorted(applications), len(applications)):
                costs.cpu[function] = costs.cpu.get(function, 0.0) + _cpu_of(pool, applications[function], announced)
            costs.calls += next(counter) - before - 1
            clock.advance(BLOCK_SECONDS)
            if clock().timestamp() >= next_tick:
                next_tick += 60
                _tick(service, costs, counter)
    for _ in range(4):
        clock.advance(60)
        _tick(service, costs, counter)
    costs.deliveries, costs.runs, costs.jobs = len(deliveries), len(ledger.run_ids("flowers")), len(vertex.jobs)
    assert (costs.runs, costs.jobs) == (1, 2), f"{costs.runs} runs and {costs.jobs} jobs of one batch"
    return costs


def _rows(name: str, costs: Costs, what: str) -> list[Row]:
    events = costs.deliveries
    how = f"{what}, {events} deliveries shuffled, {AT_A_TIME} at a time; {costs.runs} run, {costs.jobs} jobs"
    microseconds = {function: round(seconds / events * 1e6, 1) for function, seconds in costs.cpu.items()}
    ours, event, http = (
        microseconds[key] for key in ("intake_function", "empty_event_function", "empty_http_function")
    )
    launch = f"{how}; ticks with validation of every shard, once"
    return [
        Row(f"{name}.runs", costs.runs, "runs", None, 1, how),
        Row(f"{name}.jobs", costs.jobs, "jobs", None, 2, how),
        Row(f"{name}.calls_per_event", round(costs.calls / events, 4), "calls", None, MOST_CALLS, how),
        Row(f"{name}.cpu_per_event", ours, "us", event, MOST_CPU, f"against an empty CloudEvent function; {how}"),
        Row(f"{name}.cpu_per_event_http", ours, "us", http, None, f"against an empty HTTP function; {how}"),
        Row(f"{name}.launch_calls", costs.launch_calls, "calls", None, None, launch),
        Row(f"{name}.launch_cpu", round(costs.launch_cpu, 2), "s", None, None, launch),
    ]


def _names(count: int, in_a_set: int) -> list[str]:
    """`count` training shards in sets of `in_a_set`, and one held-out shard."""
    names = ["flowers/eval-00000-of-00001.tfrecord"]
    for first in range(0, count, in_a_set):
        size = min(in_a_set, count - first)
        folder = f"flowers/part-{first // in_a_set}"
        names += [f"{folder}/train-{index:05d}-of-{size:05d}.tfrecord" for index in range(size)]
    return names


def _serve(stores: dict[str, CountedStore], ledger: Ledger, vertex: FakeVertex, clock: ManualClock) -> Service:
    """As services/training_launcher/main.py composes it, with everything outside the process in memory."""
    settings = LauncherSettings(
        project="demo-project",
        region="us-central1",
        ledger_bucket="ledger",
        config_bucket="config",
        models_bucket="models",
        data_bucket="data",
        lease_seconds=90.0,
        trainer_image="trainer@sha256:1",
    )
    service = compose(
        ledger=ledger,
        data=stores["data"],
        config=stores["config"],
        models=stores["models"],
        vertex=vertex,
        publisher=FakePublisher(),
        settings=settings,
    )
    # Where the functions look for it, whatever this module is called now.
    importlib.import_module("benchmarks.intake").receiver = Receiver(  # type: ignore[attr-defined]
        "training_launcher",
        service.handlers,
        ledger=ledger,
        project="demo-project",
        clock=clock,
        callers=cloud_run_callers(),
    )
    return service


@functools.cache
def _applications() -> dict[str, Application]:
    from functions_framework import create_app  # noqa: PLC0415 (only here)

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "functions.py"
        source.write_text(FUNCTIONS)
        names = ("intake_function", "empty_event_function", "empty_http_function")
        return {name: create_app(name, str(source)) for name in names}


def _upload(data: CountedStore, names: Sequence[str], uploaded: dict[str, int]) -> None:
    for name in dict.fromkeys(names):
        uploaded[name] = data.put(name, _shard(name), expect=ABSENT)


def _shard(name: str) -> bytes:
    """One tiny picture of each class, different in every shard."""
    from PIL import Image  # noqa: PLC0415 (only here)

    chance, out = random.Random(name), io.BytesIO()
    records = []
    for label in range(2):
        picture = io.BytesIO()
        Image.frombytes("RGB", (4, 4), chance.randbytes(48)).save(picture, "PNG")
        records.append(tfrecord.encode_example({"image": [picture.getvalue()], "class": [label]}))
    tfrecord.write_records(out, records)
    return out.getvalue()


def _cpu_of(pool: ThreadPoolExecutor, application: Application, announced: Sequence[tuple[str, int]]) -> float:
    """CPU seconds of all threads while `application` answers one event for each object and generation."""
    requests = [_request(name, generation) for name, generation in announced]
    started = time.process_time()
    statuses = list(pool.map(functools.partial(_answer, application), requests))
    seconds = time.process_time() - started
    assert set(statuses) <= {"204 NO CONTENT", "200 OK"}, set(statuses)
    return seconds


def _request(name: str, generation: int) -> dict[str, Any]:
    """The WSGI request of one Cloud Storage event in Eventarc's binary mode."""
    body = json.dumps(
        {"kind": "storage#object", "bucket": "data", "name": name, "generation": str(generation), "size": "400"}
    ).encode()
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/events/object-finalized",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_AUTHORIZATION": TOKEN,
        "HTTP_CE_ID": f"{name}-{generation}",
        "HTTP_CE_SOURCE": "//storage.googleapis.com/projects/_/buckets/data",
        "HTTP_CE_SPECVERSION": "1.0",
        "HTTP_CE_TYPE": "google.cloud.storage.object.v1.finalized",
        "HTTP_CE_SUBJECT": f"objects/{name}",
        "HTTP_CE_TIME": "2026-11-23T12:00:00Z",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def _answer(application: Application, request: dict[str, Any]) -> str:
    """The status of the answer."""
    statuses: list[str] = []
    answer = application(request, lambda status, _headers, _error=None: statuses.append(status))
    for _ in answer:
        pass
    if hasattr(answer, "close"):
        answer.close()
    return statuses[0]


def _warm_up(pool: ThreadPoolExecutor, applications: dict[str, Application]) -> None:
    """First requests import and build things; an object of another bucket leaves no trace."""
    for application in applications.values():
        _cpu_of(pool, application, [("README.md", 1)] * 200)


def _tick(service: Service, costs: Costs, counter: Iterator[int]) -> None:
    """A tick, and everything that it has looked at."""
    before, started = next(counter), time.process_time()
    service.ticks.on_tick()
    due = service.ticks._due
    for _ in range(3):
        # What a look makes due is looked at at once, as its message has it.
        for entry in due.entries():
            service.ticks.on_advance(Advance(entry, service.ticks._ledger.clock()))
    costs.launch_cpu += time.process_time() - started
    costs.launch_calls += next(counter) - before - 1


if __name__ == "__main__":
    main()
