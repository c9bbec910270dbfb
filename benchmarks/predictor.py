"""The predictor under load, against bare calls of the same SavedModel on the same cores.

Throughput: 16 clients with one picture each, over kept-alive connections with prepared requests, against a loop that
calls the SavedModel with 16 pictures. Latency: one client alone, its requests in turns with bare calls for one picture.
Bare calls run in a process of their own that has TensorFlow, the pictures in memory, and nothing else to do; it leaves
TensorFlow's threads at their default, while how many the server uses is part of the server (predictor.threads). Each
round measures both, one after the other; a row is the round with the median ratio of its own, p99 is of all rounds.
Clients share the cores with the server, and so do as little as they can.

    python -m benchmarks.predictor [--rounds 5] [--seconds 8] [--networks densenet121,mobilenet_v3_small]
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import math
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.report import Row, append_rows
from benchmarks.validator import jpeg

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 16
IMAGE_SIZE = 224
PICTURE_BYTES = 20_000

#: Seconds until the first requests of all clients have become a stream.
SETTLED = 2.0
LABELS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")

GOAL_THROUGHPUT, GOAL_SINGLE = 0.85, 1.15


def main(arguments: Sequence[str] | None = None) -> None:
    """Export each network with random weights, serve it, measure, and write the rows of the report."""
    options = _options(arguments)
    if options.contender:
        CONTENDERS[options.contender](options.networks, options.folder)
        return
    chance = random.Random(0)
    pictures = [jpeg(chance, PICTURE_BYTES) for _ in range(CLIENTS)]
    for network in options.networks.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for number, picture in enumerate(pictures):
                (folder / f"{number:02d}.jpg").write_bytes(picture)
            subprocess.run(_command("export", network, folder), cwd=ROOT, env=_environment(), check=True)
            with Bare(network, folder) as bare, Served(folder / "model", pictures) as served:
                rounds = [_round(bare, served, options.seconds) for _ in range(options.rounds)]
            _report(network, rounds, served, options)


@dataclasses.dataclass(frozen=True)
class Calls:
    """What one side did in a while: seconds of each call, pictures, seconds on the wall and on processors."""

    durations: list[float]
    pictures: int
    wall: float
    processor: float

    @property
    def per_second(self) -> float:
        return self.pictures / self.wall


@dataclasses.dataclass(frozen=True)
class Round:
    """One measurement of everything."""

    bare: Calls
    served: Calls
    bare_single: list[float]
    single: list[float]


def _round(bare: Bare, served: Served, seconds: float) -> Round:
    batches, answers = bare.call(CLIENTS, seconds), served.load(seconds)
    bare_single, single = [], []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        bare_single += bare.call(1, 0).durations
        single.append(served.ask())
    print(
        f"  {answers.per_second:.1f} requests/s, bare {batches.per_second:.1f} pictures/s;"
        f" alone {statistics.median(single) * 1000:.1f} ms, bare {statistics.median(bare_single) * 1000:.1f} ms",
        flush=True,
    )
    return Round(batches, answers, bare_single, single)


def _report(network: str, rounds: Sequence[Round], served: Served, options: argparse.Namespace) -> None:
    how = (
        f"random weights, {IMAGE_SIZE} px, JPEGs of {PICTURE_BYTES // 1000} kB, {os.cpu_count()} cores shared with the"
        f" clients; the median ratio of {options.rounds} rounds of {options.seconds:g} s"
    )
    many = _middle(rounds, lambda one: one.served.per_second / one.bare.per_second)
    work = _middle(rounds, lambda one: _processor_each(one.served) / _processor_each(one.bare))
    alone = _middle(rounds, lambda one: statistics.median(one.single) / statistics.median(one.bare_single))
    slow = _percentile_99([seconds for one in rounds for seconds in one.served.durations])
    bare_slow = _percentile_99([seconds for one in rounds for seconds in one.bare.durations])
    loop = f"bare calls for {CLIENTS} pictures in a loop, TensorFlow's default threads"

    def row(name: str, value: float, *, baseline: float | None, goal: float | None = None, what: str) -> Row:
        against = None if baseline is None else round(baseline, 1)
        unit = {"throughput": "requests/s", "start": "s"}.get(name, "ms")
        return Row(f"predictor.{network}.{name}", round(value, 1), unit, against, goal, f"{what}; {how}")

    append_rows(
        [
            row(
                "throughput",
                many.served.per_second,
                baseline=many.bare.per_second,
                goal=GOAL_THROUGHPUT,
                what=f"{CLIENTS} clients, one picture a request; {loop}",
            ),
            row(
                "processor_time",
                _processor_each(work.served) * 1000,
                baseline=_processor_each(work.bare) * 1000,
                what=f"the server's for a picture, {CLIENTS} clients; that of {loop}",
            ),
            row("p99", slow * 1000, baseline=bare_slow * 1000, what=f"{CLIENTS} clients; 99th percentile of {loop}"),
            row(
                "single_p50",
                statistics.median(alone.single) * 1000,
                baseline=statistics.median(alone.bare_single) * 1000,
                goal=GOAL_SINGLE,
                what="one client alone; bare calls for one picture in turns with it",
            ),
            row("start", served.start_seconds, baseline=None, what=f"process to healthy, of it {served.steps}"),
        ]
    )


def _processor_each(calls: Calls) -> float:
    return calls.processor / calls.pictures


def _middle(rounds: Sequence[Round], ratio: Callable[[Round], float]) -> Round:
    return sorted(rounds, key=ratio)[len(rounds) // 2]


def _percentile_99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]


class Bare:
    """A process that calls the SavedModel and does nothing else."""

    def __init__(self, network: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            _command("bare", network, folder),
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        for size in (1, CLIENTS):
            self.call(size, 0)
        return self

    def call(self, size: int, seconds: float) -> Calls:
        """Call with `size` pictures for so long, at least once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(size, seconds, file=self._process.stdin, flush=True)
        durations, processor = json.loads(self._process.stdout.readline())
        return Calls(durations, size * len(durations), sum(durations), processor)

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


class Served:
    """`python -m predictor` with a kept-alive connection for each client."""

    def __init__(self, model: Path, pictures: Sequence[bytes]) -> None:
        self._pictures = pictures
        self._port = _free_port()
        aip = {"AIP_STORAGE_URI": str(model), "AIP_HTTP_PORT": str(self._port), "PREDICTOR_ADDRESS": "127.0.0.1"}
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "predictor"],
            env={**_environment(), **aip},
            stdout=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        while (health := self._health()) is None:
            if self._process.poll() is not None:
                raise RuntimeError(f"the predictor ended with {self._process.returncode}: run it by hand")
            time.sleep(0.02)
        self.start_seconds = time.monotonic() - self._started
        self.steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in health["steps"].items())
        self._clients = [Client(self._port, picture) for picture in self._pictures]
        for client in self._clients:
            client.ask()
        return self

    def _health(self) -> dict[str, Any] | None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
            try:
                connection.request("GET", "/health")
                answer = connection.getresponse()
            except OSError:
                return None
            document: dict[str, Any] = json.loads(answer.read())
            return document if answer.status == 200 else None

    def ask(self) -> float:
        """One request of a client alone; its seconds."""
        return self._clients[0].ask()

    def load(self, seconds: float) -> Calls:
        """All clients at once for so long; answers count from `SETTLED` on until then, batches under way do not."""
        before, began = self._processor(), time.monotonic()
        settled, until = began + SETTLED, began + SETTLED + seconds

        def ask_on(client: Client) -> list[tuple[float, float]]:
            taken = []
            while time.monotonic() < until:
                took = client.ask()
                taken.append((time.monotonic(), took))
            return taken

        with concurrent.futures.ThreadPoolExecutor(len(self._clients)) as pool:
            answers = [answer for each in pool.map(ask_on, self._clients) for answer in each]
        counted = [took for at, took in answers if settled <= at < until]
        # Every request's work counts, also of those that are not in the time: a share for those that are.
        processor = (self._processor() - before) * len(counted) / len(answers)
        return Calls(counted, len(counted), seconds, processor)

    def _processor(self) -> float:
        """Seconds that the serving process has used; Linux tells them in ticks."""
        (worker,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        self._process.terminate()
        self._process.wait(60)


class Client:
    """A kept-alive connection and a request sent on it again and again: http.client costs five times as much."""

    def __init__(self, port: int, picture: bytes) -> None:
        body = json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()}]}).encode()
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        self._request = f"{head}Content-Type: application/json\r\n\r\n".encode() + body
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> float:
        """Seconds until the whole answer is here."""
        began = time.monotonic()
        self._socket.sendall(self._request)
        answer = b""
        while (missing := self._missing(answer)) > 0:
            received = self._socket.recv(missing)
            if not received:
                raise RuntimeError(f"the predictor hung up after {answer[:300]!r}")
            answer += received
        took = time.monotonic() - began
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"the predictor answered {answer[:300]!r}")
        return took

    def _missing(self, answer: bytes) -> int:
        """Bytes still to come, as far as can be told: the head says how long the body is."""
        head, found, body = answer.partition(b"\r\n\r\n")
        if not found:
            return 1 << 16
        length = re.search(rb"\r\nContent-Length: (\d+)", head, flags=re.IGNORECASE)
        assert length is not None, head
        return int(length[1]) - len(body)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def export(network: str, folder: Path) -> None:
    """Write the SavedModel as the trainer does, with random weights."""
    import tensorflow as tf  # noqa: PLC0415 (seconds, and only in this process)

    from trainer import architectures  # noqa: PLC0415
    from trainer.outputs.export import write_models  # noqa: PLC0415

    built = architectures.build(network, classes=len(LABELS), image_size=IMAGE_SIZE, weights="none")
    shape = tf.TensorSpec([None, IMAGE_SIZE, IMAGE_SIZE, 3], tf.float32)
    write_models(
        built,
        tf.function(lambda pixels: built.model(pixels, training=False), input_signature=[shape]),
        labels=LABELS,
        image_size=IMAGE_SIZE,
        model=folder / "model",
        pixels_model=folder / "pixels_model",
    )


def bare(_network: str, folder: Path) -> None:
    """Read `size seconds` from stdin, call the SavedModel, answer with the seconds of each call and of processors."""
    import tensorflow as tf  # noqa: PLC0415

    loaded = tf.saved_model.load(str(folder / "model"))
    serve = loaded.signatures["serving_default"]
    pictures = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    for line in sys.stdin:
        size, seconds = line.split()
        durations: list[float] = []
        began, used = time.monotonic(), time.process_time()
        while not durations or time.monotonic() < began + float(seconds):
            asked = time.monotonic()
            answer = serve(image_bytes=tf.constant(pictures[: int(size)]))
            for output in answer.values():
                output.numpy()
            durations.append(time.monotonic() - asked)
        print(json.dumps([durations, time.process_time() - used]), flush=True)


CONTENDERS: dict[str, Callable[[str, Path], None]] = {"export": export, "bare": bare}


def _command(contender: str, network: str, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.predictor", "--contender", contender]
    return [*command, "--networks", network, "--folder", str(folder)]


def _environment() -> dict[str, str]:
    sources = os.pathsep.join(str(ROOT / source) for source in ("shared/src", "services/trainer", "services/predictor"))
    return {**os.environ, "PYTHONPATH": sources, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each of the three measurements of a round")
    parser.add_argument("--networks", default="densenet121,mobilenet_v3_small")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
