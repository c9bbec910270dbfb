"""The service as one object: everything wired together, with whatever stands for Google handed in."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

import flask
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from console import actions as acting
from console import board as boards
from console import curve
from console.board import Boards
from console.cloud_model import CloudModel
from console.deployers import Deployers
from console.files import Files
from console.held_out import HeldOut
from console.persons import Persons
from console.published import Published
from console.settings import ConsoleSettings
from console.simulator import Simulator
from dualdeploy import clock as clocks
from dualdeploy import health
from dualdeploy.clock import Clock
from dualdeploy.contracts.dataset_name import DATASET_NAME
from dualdeploy.errors import DualDeployError, RetryLater, UnknownRun
from dualdeploy.google.monitoring import MonitoringGateway
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.http.callers import CallerRefused
from dualdeploy.http.entrypoint import health_page

log = logging.getLogger(__name__)

SERVICE = "console"

_FOLDER = Path(__file__).parent
#: A form has a few hundred characters.
_MAX_BODY_BYTES = 16 << 10

#: Source: https://www.w3.org/TR/CSP3/. Nothing of another origin, no script in a page, no page in a frame.
_POLICY = (
    "default-src 'none'; script-src 'self'%s; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: LiteRT.js compiles WebAssembly, and no text.
_SCRIPTS = {"simulator": " 'wasm-unsafe-eval'"}


class Forbidden(DualDeployError):
    """The request did not come from a page of this console."""


class Service:
    """What operators reach."""

    def __init__(
        self,
        *,
        boards: Boards,
        persons: Persons,
        deployers: Deployers,
        simulator: Simulator,
        settings: ConsoleSettings,
        files: Files,
        clock: Clock = clocks.utc_now,
    ) -> None:
        self._boards = boards
        self._persons = persons
        self._deployers = deployers
        self._settings = settings
        self._simulator = simulator
        self._files = files
        self._clock = clock

    def app(self) -> flask.Flask:
        """The WSGI application."""
        app = flask.Flask(SERVICE, static_folder=None, template_folder=str(_FOLDER / "templates"))
        app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY_BYTES
        app.jinja_env.globals.update(asset=self._files.url, actions=acting.ACTIONS, titles=boards.TITLES)
        app.jinja_env.filters.update(moment=boards.moment, percent=boards.percent, words=boards.words)
        app.jinja_env.filters["second"] = clocks.for_people
        app.jinja_env.filters["ago"] = lambda at: boards.ago(at, clocks.to_text(self._clock()))
        app.add_url_rule("/healthz", "healthz", lambda: health_page(SERVICE, health.PROCESS))
        app.add_url_rule("/static/<version>/<path:name>", "static", self._files.answer)
        app.add_url_rule("/", "home", self._home)
        app.add_url_rule("/datasets/<dataset>", "dataset", self._dataset)
        app.add_url_rule("/runs/<run_id>", "run", self._run)
        app.add_url_rule("/datasets/<dataset>/simulator", "simulator", self._simulate)
        self._simulator.add_routes(app)
        address = "/datasets/<dataset>/<target>/<action>"
        app.add_url_rule(address, "action", self._form)
        app.add_url_rule(address, "act", self._act, methods=["POST"])
        app.before_request(self._admit)
        app.after_request(self._finish)
        for kind, answer in (
            (Forbidden, lambda exc: self._problem(403, "This did not come from a page of the console", str(exc))),
            (CallerRefused, lambda exc: self._problem(exc.status, "Who are you?", str(exc))),
            (UnknownRun, lambda exc: self._problem(404, "Not there", str(exc))),
            (RetryLater, lambda exc: self._problem(503, "Not now", f"The ledger does not answer: {exc}")),
            (DualDeployError, lambda exc: self._problem(500, "Cannot be shown", str(exc))),
            (HTTPException, lambda exc: self._problem(exc.code or 500, exc.name, str(exc.description))),
            (Exception, self._unexpected),
        ):
            app.register_error_handler(kind, answer)
        return app

    # Who ---------------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Know the person; a page of another site cannot act in their name, whatever cookies the browser sends."""
        request = flask.request
        if request.endpoint in ("healthz", "static"):
            return
        flask.g.person = self._persons.of(request.headers)
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return
        site, origin = request.headers.get("Sec-Fetch-Site", ""), request.headers.get("Origin", "")
        # Browsers write the first since 2020-2023; those before write the second. Neither can be written by a page.
        own = site == "same-origin" if site else origin.partition("://")[2] == request.host
        if not own:
            raise Forbidden("open the console and use its own buttons; scripts call the services themselves")

    # Pages -------------------------------------------------------------------------------------------------------

    def _home(self) -> ResponseReturnValue:
        names = self._boards.datasets()
        if len(names) == 1:
            return flask.redirect(flask.url_for("dataset", dataset=names[0]), 303)
        return self._page("home.html", boards=[self._boards.of(name) for name in names])

    def _dataset(self, dataset: str) -> ResponseReturnValue:
        self._require_known(dataset)
        board = self._boards.of(dataset)
        drawn = curve.draw(board.routing) if board.routing else None
        done = flask.request.args.get("done", "")
        return self._page(
            "dataset.html",
            board=board,
            curve=drawn,
            done=acting.ACTIONS.get(done),
            done_on=boards.TITLES.get(flask.request.args.get("on", ""), ""),
        )

    def _run(self, run_id: str) -> ResponseReturnValue:
        view = self._boards.run(run_id)
        moments = sorted(
            ((each["at"], side.target, each["state"], each["note"]) for side in view.targets for each in side.history),
        )
        return self._page("run.html", run=view, moments=moments)

    def _simulate(self, dataset: str) -> ResponseReturnValue:
        self._require_known(dataset)
        board = self._boards.of(dataset)
        drawn = curve.draw(board.routing) if board.routing else None
        return self._page("simulator.html", board=board, curve=drawn, **self._simulator.page(board))

    def _form(self, dataset: str, target: str, action: str) -> ResponseReturnValue:
        return self._action_page(dataset, target, action, flask.request.args, key=str(uuid.uuid4()))

    def _act(self, dataset: str, target: str, action: str) -> ResponseReturnValue:
        self._require_known(dataset)
        form = flask.request.form
        key = form.get("key", "") or str(uuid.uuid4())
        said = self._body(dataset, target, action, form)
        if not said["reason"]:
            return self._action_page(dataset, target, action, form, key=key, error="Say why: it is kept.", status=422)
        if not flask.g.person:
            error = "You are not signed in, and the history names people: use gcloud run services proxy, or IAP."
            return self._action_page(dataset, target, action, form, key=key, error=error, status=403)
        answer = self._deployers.ask(target, action, said, person=flask.g.person, key=key)
        self._boards.forget()
        if answer.is_accepted:
            log.info("%s asked for %s of %s (%s)", flask.g.person, action, dataset, target)
            return flask.redirect(flask.url_for("dataset", dataset=dataset, done=action, on=target), 303)
        error = str(answer.document.get("error", "")) or f"HTTP {answer.status}"
        return self._action_page(
            dataset, target, action, form, key=key, error=error, more=answer.document, status=answer.status or 503
        )

    def _action_page(
        self,
        dataset: str,
        target: str,
        action: str,
        form: Any,
        *,
        key: str,
        error: str = "",
        more: Any = None,
        status: int = 200,
    ) -> ResponseReturnValue:
        self._require_known(dataset)
        said = self._body(dataset, target, action, form)
        board = self._boards.of(dataset)
        side = next((each for each in board.sides if each.target == target), None)
        shown = {**said, "reason": said["reason"] or "…"}
        page = self._page(
            "action.html",
            board=board,
            side=side,
            action=acting.ACTIONS[action],
            quantizations=acting.QUANTIZATIONS,
            form=form,
            key=key,
            error=error,
            more=more or {},
            curl=acting.curl(self._settings.addresses[target], action, shown),
        )
        return page, status

    def _body(self, dataset: str, target: str, action: str, form: Any) -> dict[str, Any]:
        if target not in boards.TITLES or action not in acting.ACTIONS:
            flask.abort(404)
        return acting.body(action, target, dataset, form)

    def _require_known(self, dataset: str) -> None:
        if not DATASET_NAME.fullmatch(dataset) or dataset not in self._boards.datasets():
            flask.abort(404, f"nothing is known of a data set {dataset[:80]!r}")

    # What every answer has -----------------------------------------------------------------------------------------

    def _page(self, template: str, **values: Any) -> str:
        return flask.render_template(template, person=flask.g.get("person", ""), **values)

    def _problem(self, status: int, title: str, text: str) -> ResponseReturnValue:
        return self._page("problem.html", title=title, text=text), status

    def _unexpected(self, exc: Exception) -> ResponseReturnValue:
        health.PROCESS.judge(exc)
        log.error("unexpected error while answering %s", flask.request.path, exc_info=exc)
        return self._problem(500, "A bug of ours", "The log has it.")

    def _finish(self, response: flask.Response) -> flask.Response:
        if not response.headers.get("Cache-Control"):
            response.headers["Cache-Control"] = "no-store"
        response.headers["Content-Security-Policy"] = _POLICY % _SCRIPTS.get(flask.request.endpoint or "", "")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


def compose(
    *,
    ledger: ObjectStore,
    deployers: Deployers,
    monitoring: MonitoringGateway | None,
    models: ObjectStore,
    settings: ConsoleSettings,
    folder: Path = _FOLDER / "static",
    clock: Clock = clocks.utc_now,
) -> Service:
    """Wire the service together; touches nothing yet. `folder`: what pages load.

    Without `monitoring` dead letters are not counted.
    """

    def dead_letters() -> int | str:
        if monitoring is None:
            return 0
        try:
            return monitoring.waiting("dead-letters-replay", at=clock())
        except DualDeployError as exc:
            return f"Dead letters cannot be counted: {exc}"

    return Service(
        boards=Boards(ledger, project=settings.project, dead_letters=dead_letters, clock=clock),
        persons=Persons(settings),
        deployers=deployers,
        simulator=Simulator(
            Published(settings.firebase_storage_url, settings.firebase_storage_bucket),
            CloudModel(settings),
            HeldOut(models),
            files := Files(folder),
        ),
        settings=settings,
        files=files,
        clock=clock,
    )
