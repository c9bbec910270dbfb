"""What the demo concludes: `report.json`, and the table that people see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dualdeploy.contracts.routing import Routing
from dualdeploy.ledger import State
from dualdeploy.ledger.standing import Standing
from dualdeploy_demo.answers import Answers, share_right, together
from dualdeploy_demo.source import DataSource

#: The demo's own networks, which must learn something, and what people call them.
DEMONSTRATED = {"densenet121": "DenseNet121", "mobilenet_v3_small": "MobileNetV3", "automl": "AutoML's choice"}


def summarise(
    found: DataSource,
    standings: Mapping[str, Standing],
    of_cloud: Answers,
    of_mobile: Answers,
    *,
    routing: Routing,
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    cloud, mobile = standings["cloud"], standings["mobile"]
    file = mobile.facts["file"]
    figures = file["figures"]
    measured = {
        "cloud": (cloud.facts["accuracy"], cloud.facts["eval_examples"]),
        "mobile": (figures["accuracy"], figures["examples"]),
    }
    pairs = list(zip(found.unseen, of_cloud.answers, of_mobile.answers, strict=True))
    chance = 1 / len(found.config["labels"])
    # How good another network is from scratch, in some minutes and on some hundred pictures, is nobody's fault.
    judged = [target for target in standings if architecture_of(found, target) in DEMONSTRATED]
    ok = all(each.state is State.LIVE for each in standings.values()) and all(
        beats_chance(*measured[target], chance=chance) for target in judged
    )
    return {
        "ok": ok,
        "seconds": {},
        "dataset": found.dataset,
        "run_id": cloud.run_id,
        "chance": chance,
        "cloud": {
            "architecture": architecture_of(found, "cloud"),
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
            "architecture": architecture_of(found, "mobile"),
            "state": str(mobile.state),
            "firebase_model": mobile.facts["firebase_model"],
            "firebase_name": mobile.facts["published_as"],
            "variant": file["variant"],
            "tflite_bytes": sizes["mobile"],
            "accuracy": figures["accuracy"],
            "eval_examples": figures["examples"],
            "training_seconds": mobile.facts["training_seconds"],
            "unseen_right": of_mobile.share_right(found.unseen),
            "invoke_ms_p50": round(of_mobile.median_ms, 3),
        },
        "together": _together(found, of_cloud, of_mobile, routing),
        "agreement": sum(a.label == b.label for _, a, b in pairs) / len(pairs),
        "predictions": [{"label": p.label, "cloud": a.label, "mobile": b.label} for p, a, b in pairs],
    }


def architecture_of(found: DataSource, target: str) -> str:
    """As the configuration has it; a file by its name."""
    if found.config["training"].get("method") == "automl":
        return "automl"
    return (
        found.modules[target].name if target in found.modules else str(found.config["training"][target]["architecture"])
    )


def _together(found: DataSource, of_cloud: Answers, of_mobile: Answers, routing: Routing) -> dict[str, Any]:
    """What an app with both models gets: on the held-out pictures, and of those that were asked about just now."""
    answers, asked = together(of_mobile, of_cloud, routing)
    told = routing.model_dump(mode="json", include=_TOLD)
    return {**told, "unseen_right": share_right(answers, found.unseen), "unseen_asked": asked}


#: Of what phones are told.
_TOLD = {"outcome", "note", "threshold", "share", "accuracy", "examples", "loss_at_most", "curve"}


def beats_chance(accuracy: float, examples: int, *, chance: float) -> bool:
    """Whether guessing would reach `accuracy` on `examples` pictures less often than once in a thousand tries.

    The normal approximation of the binomial distribution: three standard deviations above chance.
    """
    return accuracy > chance + 3 * math.sqrt(chance * (1 - chance) / examples)


def show(console: Console, report: Mapping[str, Any], files: Mapping[Path, str], repository: Path) -> None:
    cloud, mobile, both = report["cloud"], report["mobile"], report["together"]
    asked = len(report["predictions"])
    table = Table(title=f"\nTwo live models from one run ({report['run_id']})", title_justify="left", show_lines=False)
    table.add_column("")
    table.add_column(f"cloud: {DEMONSTRATED.get(cloud['architecture'], cloud['architecture'])}", overflow="fold")
    table.add_column(f"phone: {DEMONSTRATED.get(mobile['architecture'], mobile['architecture'])}", overflow="fold")
    table.add_column("together: phone first", overflow="fold")
    rows = [
        ("state", cloud["state"], mobile["state"], str(both["outcome"]).replace("_", " ")),
        (
            "serves at",
            _tail(cloud["endpoint"]),
            f"Firebase ML model {mobile['firebase_name']}",
            _asks(both),
        ),
        (
            f"held-out accuracy (chance {report['chance']:.0%})",
            f"{cloud['accuracy']:.1%} of {cloud['eval_examples']}",
            f"{mobile['accuracy']:.1%} of {mobile['eval_examples']}",
            f"{both['accuracy']:.1%} of {both['examples']}" if both["examples"] else "",
        ),
        (
            f"right on {asked} pictures asked just now",
            f"{cloud['unseen_right']:.1%}",
            f"{mobile['unseen_right']:.1%}",
            f"{both['unseen_right']:.1%}, {both['unseen_asked']} of {asked} asked",
        ),
        (
            "size",
            f"{cloud['saved_model_bytes'] / 1e6:.1f} MB SavedModel" if cloud["saved_model_bytes"] else "kept by Google",
            f"{mobile['tflite_bytes'] / 1e6:.2f} MB .tflite ({mobile['variant']})",
            "",
        ),
        (
            "time for one picture (median)",
            f"{cloud['predict_ms_p50']:.0f} ms, over HTTP",
            f"{mobile['invoke_ms_p50']:.1f} ms, in LiteRT",
            "",
        ),
        _took(cloud, mobile),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"Both give the same answer for {report['agreement']:.0%} of the pictures.", highlight=False)
    console.print(f"Together: {both['note']}.", highlight=False)
    judged = all(each["architecture"] in DEMONSTRATED for each in (cloud, mobile))
    verdict = "[bold green]ok[/]: both are live" + (" and clearly better than guessing" if judged else "")
    if not report["ok"]:
        verdict = "[bold red]not ok[/]: a model is not better than guessing; train longer or on more data"
    console.print(f"\n{verdict}  ({report['seconds']['total']:.0f} s in all)\n", highlight=False)
    for path, what in files.items():
        console.print(f"  {_relative(path, repository):<28} {what}", highlight=False)
    console.print("\nNext steps:", highlight=False)
    for command, what in (
        ("dualdeploy demo --data folder", "the same with your own TFRecords"),
        ("make up", "leave the stack running and play with it (make down stops it)"),
        ("make test", "every test"),
    ):
        console.print(f"  {command:<28} {what}", highlight=False)


def _took(cloud: Mapping[str, Any], mobile: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """AutoML's trainings are counted in node hours, as Google counts them."""
    if cloud["architecture"] == "automl":
        hours = [f"{each['training_seconds'] / 3600:.1f} node hours" for each in (cloud, mobile)]
        return "AutoML billed", hours[0], hours[1], ""
    return "training took", f"{cloud['training_seconds']:.0f} s", f"{mobile['training_seconds']:.0f} s", ""


def _asks(both: Mapping[str, Any]) -> str:
    """Below which confidence the phone asks; a threshold that no confidence reaches means always."""
    if both["threshold"] > 1:
        return "asks about every picture"
    share = f", {both['share']:.1%} of the pictures" if both["share"] is not None else ""
    return f"asks below {both['threshold']:.2f}{share}" if both["threshold"] else "never asks"


def _tail(resource: str) -> str:
    """`endpoints/flowers` of `projects/p/locations/l/endpoints/flowers`."""
    return "/".join(resource.split("/")[-2:])


def _relative(path: Path, repository: Path) -> str:
    return str(path.relative_to(repository)) if path.is_relative_to(repository) else str(path)
