"""`dualdeploy demo`: data goes in, two live models answer, and everything in between is told as it happens."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
from rich.console import Console

from dualdeploy.contracts.routing import Routing
from dualdeploy.errors import DualDeployError
from dualdeploy.google.object_store import GcsObjectStore
from dualdeploy.ledger import Ledger, State
from dualdeploy.ledger.standing import Standing
from dualdeploy_demo import answers, picture, report, source, supervisor, upload, watch
from dualdeploy_demo.request import DataRequest
from dualdeploy_demo.source import DataSource

CLAIM_LIMIT_SECONDS = 120.0
RUN_LIMIT_SECONDS = 1500.0
ROUTING_LIMIT_SECONDS = 120.0


class DemoFailed(RuntimeError):
    """The demo did not end as it should; the message says what to look at."""


#: What can go wrong and says itself what to do; everything else is a bug of ours and shows its trace.
EXPECTED = (
    DemoFailed,
    answers.NoAnswer,
    DualDeployError,
    source.UnusableFolder,
    supervisor.StackFailed,
    watch.RunDidNotFinish,
)


@dataclasses.dataclass(frozen=True)
class Paths:
    """Everything that the demo writes."""

    build: Path

    @property
    def state(self) -> Path:
        return self.build / "state"

    @property
    def data(self) -> Path:
        return self.build / "data"

    @property
    def report(self) -> Path:
        return self.build / "report.json"

    @property
    def predictions(self) -> Path:
        return self.build / "predictions.png"

    @property
    def variants(self) -> Path:
        return self.build / "phone_variants.md"

    @property
    def together(self) -> Path:
        return self.build / "together.png"

    @property
    def environment_file(self) -> Path:
        return self.build / "local_cloud.env"


class Teller:
    """Prints what happens with the seconds since the start, and keeps how long each phase took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    def __call__(self, who: str, what: str) -> None:
        elapsed = time.monotonic() - self._started
        self.console.print(f"[{elapsed:6.1f} s]  {who:<8} {what}", highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - started, 1)

    def total(self) -> float:
        return round(time.monotonic() - self._started, 1)


def main(
    repository: Path, *, build: Path, asked: DataRequest, bindings: Path | None = None, to_stderr: bool = False
) -> int:
    """Run the demo; 0 only when both models are live and both beat chance clearly.

    `bindings` say who may do what (default: infra/bindings.json of the repository). What happens is told on standard
    output, or `to_stderr`.
    """
    told = sys.stderr if to_stderr else sys.stdout
    console = Console(file=told, width=None if told.isatty() else 120)
    paths = Paths(build)
    if paths.environment_file.exists() and supervisor.is_running(paths.environment_file):
        console.print(f"Another demo is running (see {paths.environment_file}); wait for it, or stop it with Ctrl-C.")
        return 1
    if asked.data is not None and asked.data.resolve().is_relative_to(build):
        console.print(f"{asked.data} lies in {build}, which every demo empties: copy your data somewhere else first.")
        return 1
    # A demo begins from nothing: what an earlier one left would be "nothing new".
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    teller = Teller(console)
    console.print("[bold]Dual Deploy[/]: data in, two live models out, on a cloud of this machine's own\n")
    try:
        return _run(repository, paths, teller, asked=asked, bindings=bindings)
    except EXPECTED as exc:
        console.print(f"\n[bold red]The demo failed[/]: {exc}", highlight=False)
        if (logs := paths.state / "logs").exists():
            console.print(f"Logs of every service: {logs}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped; nothing is left running.")
        return 130


def _run(
    repository: Path,
    paths: Paths,
    teller: Teller,
    *,
    asked: DataRequest,
    bindings: Path | None,
) -> int:
    with teller.phase("data"):
        found = asked.source(paths.data)
        for sentence in found.described:
            teller("data", sentence)
    with contextlib.ExitStack() as stack:
        with teller.phase("stack"):
            environment = stack.enter_context(
                supervisor.running(
                    repository, state=paths.state, environment_file=paths.environment_file, bindings=bindings
                )
            )
            teller("stack", "local cloud and services are up, each a process of its own")
        # Google's clients find the local cloud in their own variables, as anybody's would.
        os.environ.update(environment)
        with teller.phase("upload"):
            upload.install_config(found, environment)
            upload.upload_shards(found, environment, lambda line: teller("upload", line))
        ledger = Ledger(GcsObjectStore(environment["LEDGER_BUCKET"]))
        with teller.phase("train_and_deploy"):
            look = _refusals(environment)
            run_id = watch.wait_for_run(ledger, found.dataset, look=look, limit_seconds=CLAIM_LIMIT_SECONDS)
            teller("run", f"{run_id} claimed: the name is a digest of the data, the same bytes are never trained twice")
            standings = watch.wait_for_end(
                ledger,
                run_id,
                jobs_folder=paths.state / "cloud" / "vertex" / "jobs",
                tell=teller,
                look=look,
                limit_seconds=RUN_LIMIT_SECONDS,
            )
        _refuse_dead_ends(standings)
        with teller.phase("predict"):
            routing = watch.wait_for_routing(ledger, found.dataset, run_id, limit_seconds=ROUTING_LIMIT_SECONDS)
            teller("routing", routing.note)
            picture.draw_curve(paths.together, routing)
            summary = _ask(found, standings, environment, paths, teller, routing=routing)
    summary["seconds"] = {**teller.seconds, "total": teller.total()}
    paths.report.write_text(json.dumps(summary, indent=1) + "\n")
    files = {
        paths.predictions: "photos with both answers",
        paths.together: "how right both are together, by the share of pictures that the cloud is asked about",
        paths.variants: "the file for phones in four variants: size, accuracy, latency, memory",
        paths.report: "all figures",
    }
    report.show(teller.console, summary, files, repository)
    return 0 if summary["ok"] else 1


def _refusals(environment: Mapping[str, str]) -> Callable[[], None]:
    """Ends the demo when anyone was refused something: on Google Cloud a grant may spread, here it counts at once."""
    session = requests.Session()

    def look() -> None:
        answer = session.get(f"http://{environment['LOCAL_CLOUD_ADDRESS']}/permissions", timeout=10).json()
        if refused := answer["refused"]:
            said = "; ".join(f"{each['member']} lacks {each['permission']} on {each['resource']}" for each in refused)
            raise DemoFailed(f"{said} (who may do what: infra/bindings.json, and docs/permissions.md)")

    return look


def _refuse_dead_ends(standings: Mapping[str, Standing]) -> None:
    for target, each in standings.items():
        if each.state is not State.LIVE:
            raise DemoFailed(f"the {target} model is {each.state}: {each.reason}")


def _ask(
    found: DataSource,
    standings: Mapping[str, Standing],
    environment: Mapping[str, str],
    paths: Paths,
    teller: Teller,
    *,
    routing: Routing,
) -> dict[str, Any]:
    cloud, mobile = standings["cloud"].facts, standings["mobile"].facts
    of_cloud = answers.ask_cloud(cloud["endpoint"], found.unseen, environment=environment)
    teller("predict", f"asked the endpoint about {len(found.unseen)} pictures that it never saw")
    tflite = answers.download_to_phone(mobile["firebase_model"], environment=environment)
    of_mobile = answers.ask_phone(tflite, found.unseen)
    teller("predict", "downloaded the published file as a phone would, and asked it the same")
    title = f"{found.dataset}: two models from one run, {standings['cloud'].run_id}"
    picture.draw(paths.predictions, found.unseen, of_cloud.answers, of_mobile.answers, title)
    _fetch(str(mobile["file"]["gate_table"]), paths.variants)
    sizes = {"cloud": _size_of(str(cloud["saved_model"])) if cloud["saved_model"] else 0, "mobile": len(tflite)}
    return report.summarise(found, standings, of_cloud, of_mobile, routing=routing, sizes=sizes)


def _fetch(table: str, path: Path) -> None:
    """The on-device gate's table, and its plot beside it under the same name."""
    bucket, _, name = table.removeprefix("gs://").partition("/")
    for suffix in (".md", ".png"):
        stored = GcsObjectStore(bucket).read(f"{name.removesuffix('.md')}{suffix}")
        path.with_suffix(suffix).write_bytes(stored.data)


def _size_of(uri: str) -> int:
    """Bytes of every object under a `gs://` folder."""
    bucket, _, folder = uri.removeprefix("gs://").rstrip("/").partition("/")
    return sum(summary.size for summary in GcsObjectStore(bucket).list(f"{folder}/"))
