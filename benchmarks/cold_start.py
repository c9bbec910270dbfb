"""Cold start and memory of every service, beside another checkout of this repository.

A service that answers HTTP is started by its Procfile, as in its container, until /healthz answers; the trainer and the
predictor, which need a job or a model, import what they run. Both checkouts take turns, so that whatever else the
machine does hits both; each has bytecode of its own, written by a first start that does not count. CPU seconds count
every process of a service until its end; peak memory is that of its largest process. Medians.

    BEFORE=/path/of/another/checkout python -m benchmarks.cold_start [--rounds 7] [--only gateway,console]

Both run in this environment: the other checkout must have the same packages pinned.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, append_rows

ROOT = Path(__file__).resolve().parent.parent
#: Seconds until a service that does not answer is an error.
PATIENCE = 60.0
#: More than this against the other checkout is a step back.
MOST = 1.1

SERVERS = ("training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher", "console", "gateway")
PROGRAMS = {"trainer": "import trainer.training_run", "predictor": "import predictor.app, predictor.server"}

#: What Terraform sets. No start calls Google.
ENVIRONMENT = {
    "GOOGLE_CLOUD_PROJECT": "demo-project",
    "GOOGLE_CLOUD_REGION": "us-central1",
    "DATA_BUCKET": "data",
    "CONFIG_BUCKET": "config",
    "LEDGER_BUCKET": "ledger",
    "MODELS_BUCKET": "models",
    "FIREBASE_STORAGE_BUCKET": "mobile",
    "TRAINER_IMAGE": "trainer@sha256:1",
    "PREDICTOR_IMAGE": "predictor@sha256:2",
    "CLOUD_DEPLOYER_URL": "http://127.0.0.1:9",
    "MOBILE_PUBLISHER_URL": "http://127.0.0.1:9",
    "PUSH_AUDIENCES": "https://service.example.com",
    "PUSH_SERVICE_ACCOUNTS": "caller@demo-project.iam.gserviceaccount.com",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Start:
    """Wall seconds until it was ready; CPU seconds and peak MiB until it ended."""

    seconds: float
    cpu: float
    peak: float


@dataclasses.dataclass(frozen=True)
class Checkout:
    """A working tree, and a folder for its bytecode."""

    root: Path
    bytecode: Path

    def start(self, service: str) -> Start:
        """Start a service once and end it. Raises RuntimeError when it does not get ready."""
        port = _free_port()
        began = time.perf_counter()
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                self._command(service),
                cwd=self.root / "services" / service,
                env=self._environment(port),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            answered = service in SERVERS and _answers(port)
            seconds = time.perf_counter() - began
            if service in SERVERS:
                os.killpg(process.pid, signal.SIGTERM)
            # Not process.wait(): only this tells what the process and its children used.
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if service in PROGRAMS:
                seconds = time.perf_counter() - began
            if not answered and (service in SERVERS or process.returncode != 0):
                log.seek(0)
                raise RuntimeError(f"{service} of {self.root} does not start:\n{log.read().decode()[-3000:]}")
        return Start(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)

    def _command(self, service: str) -> Sequence[str]:
        if service in PROGRAMS:
            # The library of the other checkout, not the one that this environment has installed.
            mine = f"import dualdeploy; assert dualdeploy.__file__.startswith({str(self.root)!r}), dualdeploy.__file__"
            return [sys.executable, "-c", f"{PROGRAMS[service]}; {mine}"]
        _, _, command = (self.root / "services" / service / "Procfile").read_text(encoding="utf-8").partition("web:")
        return ["/bin/sh", "-c", f"exec {command.strip()}"]

    def _environment(self, port: int) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
        return {
            **ENVIRONMENT,
            "PATH": path,
            "HOME": str(self.bytecode),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "PYTHONPATH": str(self.root / "shared" / "src"),
            "PYTHONPYCACHEPREFIX": str(self.bytecode),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=os.environ.get("BEFORE", ""), help="the other checkout; default: BEFORE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="services, separated by commas; default: all")
    options = parser.parse_args(arguments)
    if not options.before:
        print("skipped: BEFORE=/path/of/another/checkout says what to compare with")
        return
    services = options.only.split(",") if options.only else [*SERVERS, *PROGRAMS]
    with tempfile.TemporaryDirectory() as scratch:
        now = Checkout(ROOT, Path(scratch) / "now")
        before = Checkout(Path(options.before).resolve(), Path(scratch) / "before")
        for each in (now, before):
            each.bytecode.mkdir()
        for service in services:
            append_rows(compare(service, now, before, rounds=options.rounds))


def compare(service: str, now: Checkout, before: Checkout, *, rounds: int) -> list[Row]:
    """Three rows of one service."""
    ours: list[Start] = []
    theirs: list[Start] = []
    for number in range(rounds + 1):
        first, second = (ours, now), (theirs, before)
        for starts, checkout in (first, second) if number % 2 else (second, first):
            starts.append(checkout.start(service))
    how = f"{service}: {'Procfile to /healthz' if service in SERVERS else PROGRAMS[service]}, median of {rounds}"

    def row(name: str, field: str, unit: str, digits: int) -> Row:
        value, baseline = (
            round(statistics.median(getattr(each, field) for each in starts[1:]), digits) for starts in (ours, theirs)
        )
        return Row(f"cold_start_{service}_{name}", value, unit, baseline, MOST, how)

    return [row("wall", "seconds", "s", 3), row("cpu", "cpu", "CPU s", 3), row("memory", "peak", "MiB", 1)]


def _answers(port: int) -> bool:
    """Whether the service on `port` answers in time; asked every five milliseconds."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
                answer.read()
                return True
        except OSError:
            time.sleep(0.005)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
