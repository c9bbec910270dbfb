"""What people ask of releases: status, redeploy, rollback, abort, hold, resume, retire; and retrain."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dualdeploy_cli import options
from dualdeploy_cli.exits import REFUSED, UNREACHABLE
from dualdeploy_cli.output import console, emit, note, printable, say
from dualdeploy_cli.session import Session, pass_session

if TYPE_CHECKING:
    from dualdeploy_cli.services import Answer

Function = TypeVar("Function", bound=Callable[..., Any])

#: Of commands that services repeat by their key.
_TARGET = click.option("--target", type=click.Choice(["cloud", "mobile"]), help="only this side; default: both")
_URL = click.option(
    "--url", "urls", multiple=True, metavar="URL", help="address of a service, instead of those of the project"
)


def _common(function: Function) -> Function:
    """The options of everything that is asked of the two services."""
    shared = (_TARGET, _URL, options.project, options.region, options.as_json)
    decorated = functools.reduce(lambda made, option: option(made), reversed(shared), function)
    return pass_session(decorated)  # type: ignore[return-value]  # click's own decorator loses the type


class DataSetName(click.ParamType[str]):
    """The name of a data set, as its YAML file has it."""

    name = "DATASET"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from dualdeploy.contracts.dataset_name import DATASET_NAME

        if not DATASET_NAME.fullmatch(value):
            self.fail(f"{value!r} is not the name of a data set, such as flowers", param, ctx)
        return value


_dataset = click.argument("dataset", type=DataSetName())
_run = click.option("--run", "run_id", default="", metavar="RUN", help="this run, as dualdeploy runs lists it")


@click.command
@click.argument("dataset", type=DataSetName(), required=False)
@_TARGET
@_URL
@options.project
@options.region
@options.wide
@options.as_json
@pass_session
def status(
    session: Session,
    *,
    dataset: str | None,
    target: str | None,
    urls: tuple[str, ...],
    project: str,
    region: str,
    wide: bool,
    as_json: bool,
) -> None:
    """Show what serves, what is under way and what waits; of DATASET, or of every one in the ledger.

    \b
    Examples:
      dualdeploy status
      dualdeploy status flowers --links
      dualdeploy status flowers --url https://cloud-deployer-….run.app
    """
    from dualdeploy_cli import services
    from dualdeploy_cli.status_tables import print_status

    if urls and not dataset:
        raise click.UsageError("name the data set: dualdeploy status flowers --url …")
    found = services.find(session, project=project, region=region, urls=urls, target=target or "")
    datasets = [dataset] if dataset else _datasets(session, project)
    answers = [(each, services.get(service, f"status/{each}")) for each in datasets for service in found]
    if as_json:
        emit([_document(each, dataset=name) for name, each in answers])
    elif not answers:
        click.echo("No data set yet.")
    else:
        print_status(answers, console(wide=wide), wide=wide)
    _exit(each for _, each in answers)


def _datasets(session: Session, project: str) -> list[str]:
    """Every data set that a run was claimed for."""
    from dualdeploy.ledger import dataset_of

    names = (each.name for each in session.bucket(session.bucket_name("ledger", project)).list("runs/"))
    return sorted({dataset_of(name.split("/")[1]) for name in names})


@click.command
@click.argument("dataset", type=DataSetName(), required=False)
@_run
@click.option("--force", is_flag=True, help="replace a newer run, and pass a gate that refuses")
@click.option("--no-canary", is_flag=True, help="all traffic in one step; the model is probed all the same")
@click.option(
    "--quantization", default="", metavar="WORD", help="variant of the file for phones; implies --target mobile"
)
@options.reason
@_common
def redeploy(
    session: Session,
    *,
    dataset: str | None,
    run_id: str,
    force: bool,
    no_canary: bool,
    quantization: str,
    reason: str,
    **where: Any,
) -> None:
    """Bring a trained run out again, without training: the live run of DATASET, or the one that --run names.

    \b
    Examples:
      dualdeploy redeploy flowers
      dualdeploy redeploy --run flowers-0123456789ab --force --reason "fixed"
    """
    if bool(dataset) == bool(run_id):
        raise click.UsageError("name either a data set or a run: dualdeploy redeploy flowers")
    if quantization:
        where["target"] = "mobile"
    body = {"dataset": dataset, "run_id": run_id, "force": force, "quantization": quantization, "reason": reason}
    _send(session, "redeploy", {**body, **({"canary": False} if no_canary else {})}, **where)


@click.command
@_dataset
@click.option("--to-run", default="", metavar="RUN", help="go back to this run, not to what served before")
@options.reason
@_common
def rollback(session: Session, *, dataset: str, to_run: str, reason: str, **where: Any) -> None:
    """Go back to what served before. Newer runs stay away until `dualdeploy resume`, or until newer data arrive.

    \b
    Examples:
      dualdeploy rollback flowers --reason "it sees cats"
      dualdeploy rollback flowers --to-run flowers-0123456789ab --target cloud
    """
    _send(session, "rollback", {"dataset": dataset, "to_run": to_run, "reason": reason}, **where)


@click.command
@_dataset
@_run
@options.reason
@_common
def abort(session: Session, *, dataset: str, run_id: str, reason: str, **where: Any) -> None:
    """Stop a release that is under way, and leave everything as it was.

    \b
    Examples:
      dualdeploy abort flowers --target cloud
      dualdeploy abort flowers --run flowers-0123456789ab
    """
    _send(session, "abort", {"dataset": dataset, "run_id": run_id, "reason": reason}, **where)


@click.command
@_dataset
@options.reason
@_common
def hold(session: Session, *, dataset: str, reason: str, **where: Any) -> None:
    """Keep newly trained runs of DATASET away from users, until `dualdeploy resume`.

    \b
    Example:
      dualdeploy hold flowers --reason "the fair is on"
    """
    _send(session, "hold", {"dataset": dataset, "reason": reason}, **where)


@click.command
@_dataset
@_common
def resume(session: Session, *, dataset: str, **where: Any) -> None:
    """End a hold.

    \b
    Example:
      dualdeploy resume flowers
    """
    _send(session, "resume", {"dataset": dataset}, **where)


@click.command
@_dataset
@click.option("--confirm", is_flag=True, help="really take it down; without it only what would be is shown")
@options.reason
@_common
def retire(session: Session, *, dataset: str, confirm: bool, reason: str, **where: Any) -> None:
    """Show what stands of DATASET; with --confirm, take it down and free its names.

    Models, ledger and configuration stay in their buckets. Data that arrive later begin anew.

    \b
    Examples:
      dualdeploy retire flowers
      dualdeploy retire flowers --confirm --reason "the project ended"
    """
    _send(session, "retire", {"dataset": dataset, "confirm": confirm, "reason": reason}, **where)


@click.command
@_dataset
@click.option("--force", is_flag=True, help="train although the data is unchanged")
@options.reason
@options.project
@options.as_json
@pass_session
def retrain(session: Session, *, dataset: str, force: bool, reason: str, project: str, as_json: bool) -> None:
    """Ask for a training on the data that is there. Unchanged data is not trained again without --force.

    \b
    Examples:
      dualdeploy retrain flowers
      dualdeploy retrain flowers --force --reason "new augmentation"
    """
    asked = {"dataset": dataset, "force": force, **({"reason": reason} if reason else {})}
    message = session.publisher(session.project(project)).publish(
        "retrain-requested", json.dumps(asked, ensure_ascii=False).encode(), {}
    )
    if as_json:
        emit({"message": message, **asked})
    else:
        click.echo(f"asked for a training of {dataset} (message {message}); dualdeploy runs shows what becomes of it")


# Sending and telling --------------------------------------------------------------------------------------------


def _send(
    session: Session,
    command: str,
    body: Mapping[str, Any],
    *,
    target: str | None,
    urls: Sequence[str],
    project: str,
    region: str,
    as_json: bool,
) -> None:
    from dualdeploy_cli import services

    given = {key: value for key, value in body.items() if value not in ("", None) and (value or key == "canary")}
    found = services.find(session, project=project, region=region, urls=urls, target=target or "")
    answers = [services.post(service, command, given) for service in found]
    if as_json:
        emit([_document(each) for each in answers])
    else:
        for each in answers:
            _tell(command, each)
    _exit(answers)


def _document(answer: Answer, **more: str) -> dict[str, Any]:
    """What the service said, and beside it who that was and with which HTTP code."""
    return {**more, "target": answer.target, **answer.body, "url": answer.url, "http_status": answer.status}


def _tell(command: str, answer: Answer) -> None:
    """One answer as a sentence, with the command to type next."""
    body = answer.body
    who = str(body.get("target") or answer.target or answer.url)
    if not answer.is_good:
        note(f"{who}: {body.get('error', f'answers {answer.status}')}")
        if send := body.get("send"):
            note(f"  instead: {as_command(send, answer.target)}")
        if candidates := body.get("candidates"):
            note(f"  to choose from: {', '.join(candidates)}")
        return
    out = console()
    if "takes_down" in body:
        say(f"{who}: would take down", out)
        for each in body["takes_down"] or ["nothing"]:
            say(f"  {each}", out)
        say(f"  to do it: {as_command(body['send'], answer.target)}", out)
    elif "run_id" in body:
        say(f"{who}: {command} accepted: {body['run_id']}, release {body.get('release')}, {body.get('state')}", out)
        dataset = str(body.get("status", "")).rpartition("/")[2]
        say(f"  what becomes of it: dualdeploy status {dataset}", out)
    else:
        said = ", ".join(f"{key}: {value}" for key, value in body.items() if key != "target" and value)
        say(f"{who}: {command} done: {said}", out)


#: Of a request's body: the option that says the same.
_OPTIONS: Mapping[str, str] = {"run_id": "--run", "to_run": "--to-run", "force": "--force", "confirm": "--confirm"}


def as_command(send: Mapping[str, Any], target: str) -> str:
    """The command line of a request that a service proposes (`{"path": …, "body": {…}}`)."""
    words = ["dualdeploy", str(send["path"]).strip("/")]
    body = dict(send.get("body", {}))
    if dataset := body.pop("dataset", ""):
        words.append(str(dataset))
    for key, value in body.items():
        words += [_OPTIONS.get(key, f"--{key}"), *([] if value is True else [str(value)])]
    return printable(shlex.join([*words, *(["--target", target] if target else [])]))


def _exit(answers: Any) -> None:
    """Nothing where all are good; else the code of the worst: a refusal is certain, silence may pass."""
    bad = [each for each in answers if not each.is_good]
    if bad:
        raise click.exceptions.Exit(REFUSED if any(each.is_refusal for each in bad) else UNREACHABLE)
