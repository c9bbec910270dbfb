"""predict: ask the model that serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dualdeploy_cli import options
from dualdeploy_cli.commands.releases import DataSetName
from dualdeploy_cli.exits import REFUSED, Refused
from dualdeploy_cli.output import console, emit, printable
from dualdeploy_cli.session import Session, pass_session

if TYPE_CHECKING:
    from dualdeploy.contracts.prediction import Form
    from dualdeploy.google.vertex import Endpoint, Vertex

#: Vertex AI passes on 1.5 MB to a shared endpoint: docs/serving.md. In base64 that is this many bytes.
_MOST_BYTES = 1_100_000


@click.command
@click.argument("dataset", type=DataSetName())
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@options.project
@options.as_json
@pass_session
def predict(session: Session, *, dataset: str, images: tuple[Path, ...], project: str, as_json: bool) -> None:
    """Ask the cloud model of DATASET what it sees on each of IMAGES (JPEG or PNG files).

    It asks the Vertex AI endpoint itself, as an app would. Exits with 1 if one of the images could not be answered.

    \b
    Examples:
      dualdeploy predict flowers rose.jpg
      dualdeploy predict flowers photos/*.jpg --json
    """
    vertex, endpoint, form = _endpoint(session, dataset, project)
    answers = [{"image": str(path), **_ask(vertex, endpoint, path, form)} for path in images]
    if as_json:
        emit(answers)
    else:
        out = console()
        for each in answers:
            out.print(_line(each), markup=False)
    if any("error" in each for each in answers):
        raise click.exceptions.Exit(REFUSED)


def _endpoint(session: Session, dataset: str, project: str) -> tuple[Vertex, Endpoint, Form]:
    """Where the data set is served, and how pictures are sent there, as the ledger has it."""
    from dualdeploy.ledger import Ledger, Serving, names

    ledger = Ledger(session.bucket(session.bucket_name("ledger", project)), clock=session.clock())
    found = ledger.find(names.serving("cloud", dataset), Serving)
    current = found.document.current if found else None
    name = str((current.model_extra or {}).get("endpoint", "")) if current else ""
    if found is None or not name or found.document.undeployed_at:
        raise Refused(f"the cloud model of {dataset} does not serve: dualdeploy status {dataset} says why")
    _, project_id, _, region, *_ = name.split("/")
    vertex = session.vertex(project_id, region)
    endpoint = vertex.find_endpoint(name.rsplit("/", 1)[-1])
    if endpoint is None:
        raise Refused(f"Vertex AI has no endpoint {name}: dualdeploy doctor looks for what is wrong")
    takes_content = bool(current and (current.model_extra or {}).get("takes_content"))
    return vertex, endpoint, "content" if takes_content else "b64"


def _ask(vertex: Vertex, endpoint: Endpoint, image: Path, form: Form) -> dict[str, Any]:
    from dualdeploy.contracts import prediction
    from dualdeploy.errors import ModelAsleep, RejectedByGoogle

    data = image.read_bytes()
    if len(data) > _MOST_BYTES:
        return {"error": f"has {len(data):,} bytes, and a request may have {_MOST_BYTES:,}: make it smaller"}
    try:
        answer = vertex.predict(endpoint, prediction.instance(data, form))
        said = prediction.said(answer.prediction)
    except ModelAsleep:
        return {"error": "the model was scaled to zero and wakes now: ask again in some minutes"}
    except (RejectedByGoogle, ValueError) as exc:
        return {"error": str(exc)}
    read = {"label": said.label, "confidence": said.confidence}
    return {**answer.prediction, **read, "milliseconds": round(answer.seconds * 1000)}


def _line(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return printable(f"{answer['image']}: {answer['error']}")
    return printable(f"{answer['image']}: {answer['label']} ({answer['confidence']:.0%})")
