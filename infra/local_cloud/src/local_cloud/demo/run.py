"""`make demo`: data goes in, two live models answer, and everything in between is told as it happens."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dualdeploy.ledger import Branch, Ledger, State
from dualdeploy.object_store import GcsObjectStore
from local_cloud import supervisor
from local_cloud.demo import answers, drop, picture, source, watch
from local_cloud.demo.answers import Answers
from local_cloud.demo.source import DataSource

CLAIM_LIMIT_SECONDS = 120.0
RUN_LIMIT_SECONDS = 1500.0


class DemoFailed(RuntimeError):
    """The demo did not end as it should; the message says what to look at."""


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


def main(repository: Path, *, build: Path, data: Path | None, labels: Sequence[str]) -> int:
    """Run the demo; 0 only when both models are live and both beat chance clearly."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    paths = Paths(build)
    # A demo begins from nothing: what an earlier one left would be "nothing new".
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    teller = Teller(console)
    console.print("[bold]Dual Deploy[/]: data in, two live models out, on a cloud of this machine's own\n")
    try:
        return _run(repository, paths, teller, data=data, labels=labels)
    except (DemoFailed, source.UnusableFolder, supervisor.StackFailed, watch.RunDidNotFinish) as exc:
        console.print(f"\n[bold red]The demo failed[/]: {exc}", highlight=False)
        console.print(f"Logs of every service: {paths.state / 'logs'}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped; nothing is left running.")
        return 130


def _run(repository: Path, paths: Paths, teller: Teller, *, data: Path | None, labels: Sequence[str]) -> int:
    with teller.phase("data"):
        found = source.folder(data, labels=labels) if data else source.painted(paths.data)
        teller("data", found.described)
    with contextlib.ExitStack() as stack:
        with teller.phase("stack"):
            environment = stack.enter_context(
                supervisor.running(repository, state=paths.state, environment_file=paths.environment_file)
            )
            teller("stack", "local cloud and services are up, each a process of its own")
        # Google's clients find the local cloud in their own variables, as anybody's would.
        os.environ.update(environment)
        with teller.phase("upload"):
            drop.install_config(found, environment)
            drop.upload(found, environment, lambda line: teller("upload", line))
        ledger = Ledger(GcsObjectStore(environment["LEDGER_BUCKET"]))
        with teller.phase("train_and_deploy"):
            run_id = watch.wait_for_run(ledger, found.dataset, limit_seconds=CLAIM_LIMIT_SECONDS)
            teller("run", f"{run_id} claimed: the name is a digest of the data, the same bytes are never trained twice")
            branches = watch.wait_for_end(
                ledger,
                run_id,
                jobs_folder=paths.state / "cloud" / "vertex" / "jobs",
                tell=teller,
                limit_seconds=RUN_LIMIT_SECONDS,
            )
        _refuse_dead_ends(branches)
        with teller.phase("predict"):
            report = _ask(found, branches, environment, paths, teller)
    report["seconds"] = {**teller.seconds, "total": teller.total()}
    paths.report.write_text(json.dumps(report, indent=1) + "\n")
    _conclude(teller.console, report, paths, repository)
    return 0 if report["ok"] else 1


def _refuse_dead_ends(branches: Mapping[str, Branch]) -> None:
    for target, branch in branches.items():
        if branch.state is not State.LIVE:
            raise DemoFailed(f"the {target} model is {branch.state}: {branch.reason}")


def _ask(
    found: DataSource, branches: Mapping[str, Branch], environment: Mapping[str, str], paths: Paths, teller: Teller
) -> dict[str, Any]:
    cloud, mobile = branches["cloud"].facts, branches["mobile"].facts
    of_cloud = answers.ask_cloud(cloud["endpoint"], found.unseen, environment=environment)
    teller("predict", f"asked the endpoint about {len(found.unseen)} pictures that it never saw")
    tflite = answers.download_to_phone(mobile["firebase_model"], environment=environment)
    of_mobile = answers.ask_phone(tflite, found.unseen)
    teller("predict", "downloaded the published file as a phone would, and asked it the same")
    title = f"{found.dataset}: two models from one run, {branches['cloud'].run_id}"
    picture.draw(paths.predictions, found.unseen, of_cloud.answers, of_mobile.answers, title)
    sizes = {"cloud": _size_of(str(cloud["saved_model"])), "mobile": len(tflite)}
    return _report(found, branches, of_cloud, of_mobile, sizes=sizes)


def _size_of(uri: str) -> int:
    """Bytes of every object under a `gs://` folder."""
    bucket, _, folder = uri.removeprefix("gs://").rstrip("/").partition("/")
    return sum(summary.size for summary in GcsObjectStore(bucket).list(f"{folder}/"))


def _report(
    found: DataSource,
    branches: Mapping[str, Branch],
    of_cloud: Answers,
    of_mobile: Answers,
    *,
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    cloud, mobile = branches["cloud"], branches["mobile"]
    pairs = list(zip(found.unseen, of_cloud.answers, of_mobile.answers, strict=True))
    chance = 1 / len(found.config["labels"])
    ok = all(
        branch.state is State.LIVE
        and beats_chance(branch.facts["accuracy"], branch.facts["eval_examples"], chance=chance)
        for branch in branches.values()
    )
    return {
        "ok": ok,
        "seconds": {},
        "dataset": found.dataset,
        "run_id": cloud.run_id,
        "chance": chance,
        "cloud": {
            "state": str(cloud.state),
            "model": f"{cloud.facts['model']}@{cloud.facts['model_version']}",
            "endpoint": cloud.facts["endpoint"],
            "accuracy": cloud.facts["accuracy"],
            "eval_examples": cloud.facts["eval_examples"],
            "training_seconds": cloud.facts["training_seconds"],
            "saved_model_bytes": sizes["cloud"],
            "unseen_right": of_cloud.share_right(found.unseen),
            "predict_ms_p50": round(of_cloud.median_ms, 2),
        },
        "mobile": {
            "state": str(mobile.state),
            "firebase_model": mobile.facts["firebase_model"],
            "firebase_name": mobile.facts["firebase_name"],
            "tflite_bytes": sizes["mobile"],
            "accuracy": mobile.facts["accuracy"],
            "eval_examples": mobile.facts["eval_examples"],
            "training_seconds": mobile.facts["training_seconds"],
            "unseen_right": of_mobile.share_right(found.unseen),
            "invoke_ms_p50": round(of_mobile.median_ms, 3),
        },
        "agreement": sum(a.label == b.label for _, a, b in pairs) / len(pairs),
        "predictions": [{"label": p.label, "cloud": a.label, "mobile": b.label} for p, a, b in pairs],
    }


def beats_chance(accuracy: float, examples: int, *, chance: float) -> bool:
    """Whether guessing would reach `accuracy` on `examples` pictures less often than once in a thousand tries.

    The normal approximation of the binomial distribution: three standard deviations above chance.
    """
    return accuracy > chance + 3 * math.sqrt(chance * (1 - chance) / examples)


def _conclude(console: Console, report: Mapping[str, Any], paths: Paths, repository: Path) -> None:
    cloud, mobile = report["cloud"], report["mobile"]
    table = Table(title=f"\nTwo live models from one run ({report['run_id']})", title_justify="left", show_lines=False)
    table.add_column("")
    table.add_column("cloud: DenseNet121", overflow="fold")
    table.add_column("phone: MobileNetV3", overflow="fold")
    rows: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("state", lambda: (cloud["state"], mobile["state"])),
        ("lives at", lambda: (_tail(cloud["endpoint"]), f"Firebase ML model {mobile['firebase_name']}")),
        (
            f"right on held-out pictures (chance {report['chance']:.0%})",
            lambda: (
                f"{cloud['accuracy']:.1%} of {cloud['eval_examples']}",
                f"{mobile['accuracy']:.1%} of {mobile['eval_examples']}",
            ),
        ),
        (
            f"right on {len(report['predictions'])} pictures asked just now",
            lambda: (f"{cloud['unseen_right']:.1%}", f"{mobile['unseen_right']:.1%}"),
        ),
        (
            "size",
            lambda: (
                f"{cloud['saved_model_bytes'] / 1e6:.1f} MB SavedModel",
                f"{mobile['tflite_bytes'] / 1e6:.2f} MB .tflite",
            ),
        ),
        (
            "time for one picture (median)",
            lambda: (f"{cloud['predict_ms_p50']:.0f} ms, over HTTP", f"{mobile['invoke_ms_p50']:.1f} ms, in LiteRT"),
        ),
        ("training took", lambda: (f"{cloud['training_seconds']:.0f} s", f"{mobile['training_seconds']:.0f} s")),
    ]
    for name, cells in rows:
        table.add_row(name, *cells())
    console.print(table)
    console.print(f"Both give the same answer for {report['agreement']:.0%} of the pictures.", highlight=False)
    verdict = "[bold green]ok[/]: both are live and clearly better than guessing"
    if not report["ok"]:
        verdict = "[bold red]not ok[/]: a model is no better than guessing; train longer or on more data"
    console.print(f"\n{verdict}  ({report['seconds']['total']:.0f} s in all)\n", highlight=False)
    for path, what in ((paths.predictions, "photos with both answers"), (paths.report, "all figures")):
        console.print(f"  {_relative(path, repository):<28} {what}", highlight=False)
    console.print("\nGo on with:", highlight=False)
    for command, what in (
        ("make demo DATA=folder", "the same with your own TFRecords"),
        ("make up", "leave the stack running and play with it (make down stops it)"),
        ("make test", "every test"),
    ):
        console.print(f"  {command:<28} {what}", highlight=False)


def _tail(resource: str) -> str:
    """`endpoints/flowers` of `projects/p/locations/l/endpoints/flowers`."""
    return "/".join(resource.split("/")[-2:])


def _relative(path: Path, repository: Path) -> str:
    return str(path.relative_to(repository)) if path.is_relative_to(repository) else str(path)
