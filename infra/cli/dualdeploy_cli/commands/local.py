"""demo, demo-data, up, down: the whole system on this machine."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import click

from dualdeploy_cli import options
from dualdeploy_cli.exits import Refused
from dualdeploy_cli.output import emit, note
from dualdeploy_cli.session import Session, pass_session

_FILE = click.Path(path_type=Path, exists=True)
_bindings = click.option("--bindings", type=_FILE, help="who may do what; default: infra/bindings.json")
_data = click.option("--data", type=_FILE, help="folder of TFRecord shards of your own; default: painted flowers")
_yaml_file = click.option(
    "--yaml", "yaml_file", type=_FILE, help="the data set's configuration: its labels and data are used"
)


class _ImageFolder(click.ParamType[tuple[str, Path]]):
    name = "NAME=FOLDER"

    def convert(
        self, value: str | tuple[str, Path], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        name, given, folder = value.partition("=")
        if not given or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) or not Path(folder).is_dir():
            self.fail(
                f"{value!r}: give the last part of the image's name and a folder, as in tulips=../tulips", param, ctx
            )
        return name, Path(folder)


@click.command
@_data
@_yaml_file
@options.labels
@click.option("--cloud", default="", metavar="NETWORK", help="for the cloud: keras:<Name>, or a file that builds one")
@click.option("--mobile", default="", metavar="NETWORK", help="for phones: keras:<Name>, or a file that builds one")
@click.option(
    "--method", type=click.Choice(["custom", "automl"]), default="custom", help="who trains: our own trainer, or AutoML"
)
@_bindings
@options.as_json
@pass_session
def demo(
    session: Session,
    *,
    data: Path | None,
    yaml_file: Path | None,
    labels: tuple[str, ...],
    cloud: str,
    mobile: str,
    method: str,
    bindings: Path | None,
    as_json: bool,
) -> None:
    """Run the whole loop on a local cloud: data in, two live models out.

    It takes two to four minutes, most of them training, and leaves build/demo behind: what both models said,
    and all figures. The local cloud ends with it. Exits with 0 only if both models are live and both are
    clearly better than guessing; how good other networks than the demo's own are is told, and not judged.

    \b
    Examples:
      dualdeploy demo
      dualdeploy demo --data my/shards --labels cats,dogs
      dualdeploy demo --cloud keras:EfficientNetV2B0 --mobile my_network.py
      dualdeploy demo --method automl
    """
    from dualdeploy_demo import run
    from dualdeploy_demo.request import DataRequest

    build = session.checkout / "build" / "demo"
    if method == "automl" and (cloud or mobile):
        raise Refused("AutoML chooses its networks itself: leave out --cloud and --mobile, or --method automl")
    asked = DataRequest(data, yaml_file, labels, {"cloud": cloud, "mobile": mobile}, method)
    code = run.main(session.checkout, build=build, asked=asked, bindings=bindings, to_stderr=as_json)
    if as_json and (build / "report.json").exists():
        emit(json.loads((build / "report.json").read_text(encoding="utf-8")))
    click.get_current_context().exit(code)


@click.command("demo-data")
@_data
@_yaml_file
@options.labels
@options.as_json
@pass_session
def demo_data(
    session: Session, *, data: Path | None, yaml_file: Path | None, labels: tuple[str, ...], as_json: bool
) -> None:
    """Configure a data set and upload its shards to the running local cloud, or to the project of the environment.

    Without --data flowers are painted: the same pictures every time, so a second upload is recognised as nothing
    new. The configuration is the demo's own, but for labels and data.

    \b
    Examples:
      dualdeploy demo-data
      dualdeploy demo-data --data my/shards --labels cats,dogs
    """
    from dualdeploy_demo import upload
    from dualdeploy_demo.request import DataRequest
    from dualdeploy_demo.source import UnusableFolder

    project = session.project("")
    # Before any of Google's clients is built: they read the variables of the running local cloud.
    buckets = {f"{kind.upper()}_BUCKET": session.bucket_name(kind, "") for kind in ("config", "data")}
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = DataRequest(data, yaml_file, labels).source(Path(folder))
        except UnusableFolder as exc:
            raise Refused(str(exc)) from exc
        configured = upload.install_config(found, buckets)
        note(f"configured {configured}")
        upload.upload_shards(found, buckets, note)
    if as_json:
        emit({"project": project, "dataset": found.dataset, "config": configured, "shards": sorted(found.files)})


@click.command
@click.option("--realistic", is_flag=True, help="keep Google's rates, time-outs and pauses")
@click.option(
    "--image",
    "images",
    type=_ImageFolder(),
    multiple=True,
    help="a training image of your own: the folder with its Dockerfile, for every image whose last part is NAME",
)
@_bindings
@options.as_json
@pass_session
def up(
    session: Session, *, realistic: bool, images: tuple[tuple[str, Path], ...], bindings: Path | None, as_json: bool
) -> None:
    """Start a local cloud with every service, and leave it running.

    Its addresses are in build/local_cloud.env; any client, script or test suite can use them. Every other
    command finds it by itself.

    \b
    Examples:
      dualdeploy up
      dualdeploy up --image tulips=infra/own_container
      set -a; source build/local_cloud.env; set +a
    """
    from dualdeploy_demo import guide, supervisor
    from local_cloud.environment_file import read_environment

    file = session.environment_file
    is_up = file.exists() and supervisor.is_running(file)
    if is_up and images:
        raise Refused("the local cloud is running already, and knows its images from its start: dualdeploy down first")
    if is_up:
        environment = read_environment(file)
        note(f"already running; {file} has its addresses, dualdeploy down stops it")
    else:
        try:
            _, environment = supervisor.start(
                session.checkout,
                state=file.parent / "local_cloud",
                environment_file=file,
                bindings=bindings.resolve() if bindings else None,
                images={name: folder.resolve() for name, folder in images},
                realistic=realistic,
                web=True,
            )
        except supervisor.StackFailed as exc:
            raise Refused(str(exc)) from exc
    if as_json:
        emit(environment)
    elif not is_up:
        click.echo(guide.describe(environment, file))


@click.command
@options.as_json
@pass_session
def down(session: Session, *, as_json: bool) -> None:
    """Stop the local cloud that `dualdeploy up` left running. Its state stays in build/local_cloud.

    \b
    Example:
      dualdeploy down
    """
    from dualdeploy_demo import supervisor

    stopped = supervisor.stop_recorded(session.environment_file)
    if as_json:
        emit({"stopped": stopped})
    else:
        click.echo("stopped; its state is kept in build/local_cloud" if stopped else "nothing is running")
