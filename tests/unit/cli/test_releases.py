"""status, redeploy, rollback, …: against the services' own HTTP interface, on a port of this machine."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from dualdeploy_cli import exits, services
from dualdeploy_cli.commands.releases import as_command
from dualdeploy_cli.session import Session
from support.chain import Chain
from support.command_line import call, invoke, session


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    chain.configure()
    return chain


@pytest.fixture
def given(chain: Chain) -> Iterator[Session]:
    """A session at a local cloud whose two services are those of the chain."""
    made = session(chain.ledger_store)
    made.environ = {"LOCAL_CLOUD_ADDRESS": "x", "GOOGLE_CLOUD_PROJECT": "demo", "LEDGER_BUCKET": "ledger"}
    servers = []
    for target, service in services.TARGETS.items():
        server = make_server("127.0.0.1", 0, chain.http(target).application)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        made.environ[f"{service.upper()}_URL"] = f"http://127.0.0.1:{server.server_port}"
        servers.append(server)
    yield made
    for server in servers:
        server.shutdown()
        server.server_close()


def make_live(chain: Chain, *names: str) -> str:
    """The newest run, live on both sides."""
    for delivery in chain.upload(*names):
        chain.handle(delivery)
    chain.settle()
    return chain.live("cloud").current.run_id


def test_status_says_what_serves_what_is_under_way_and_what_is_held(chain: Chain, given: Session) -> None:
    run_id = make_live(chain)
    assert invoke("hold", "flowers", "--reason", "the fair", given=given)[0] == exits.OK
    assert invoke("redeploy", "flowers", "--target", "cloud", given=given)[0] == exits.OK

    code, text = invoke("status", given=given, width=80)

    assert code == exits.OK
    assert text.splitlines()[0] == "flowers"
    assert f"cloud: serves {run_id} since" in text
    assert f"mobile: serves {run_id} since" in text
    assert f"under way: {run_id}, waiting" in text
    assert "the fair; dualdeploy resume flowers ends it" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "projects/" not in text
    assert "projects/" in invoke("status", "flowers", "--links", given=given)[1]
    told = json.loads(call("status", "flowers", "--json", given=given).stdout)
    assert [(each["target"], each["live"]["current"]["run_id"]) for each in told] == [
        ("cloud", run_id),
        ("mobile", run_id),
    ]


def test_a_release_is_asked_of_both_sides_or_of_one(chain: Chain, given: Session) -> None:
    run_id = make_live(chain)
    code, text = invoke("redeploy", "flowers", "--reason", 'it\'s "late"', given=given)
    assert code == exits.OK
    assert f"cloud: redeploy accepted: {run_id}, release 2, waiting" in text
    assert f"mobile: redeploy accepted: {run_id}, release 2, waiting" in text
    assert "dualdeploy status flowers" in text
    assert 'it\'s "late"' in chain.standing(run_id, "cloud").history[-1].note

    answers = json.loads(call("abort", "flowers", "--target", "mobile", "--json", given=given).stdout)
    assert [(each["target"], each["http_status"]) for each in answers] == [("mobile", 202)]


def test_a_refusal_has_code_1_and_the_command_that_works(chain: Chain, given: Session) -> None:
    run_id = make_live(chain)
    result = call("rollback", "flowers", "--to-run", run_id, "--target", "cloud", given=given)
    assert (result.exit_code, result.stdout) == (exits.REFUSED, "")
    assert "is live already" in result.stderr
    assert f"instead: dualdeploy redeploy --run {run_id} --target cloud" in result.stderr

    assert invoke("resume", "birds", given=given)[0] in (exits.OK, exits.REFUSED)
    code, text = invoke("status", "birds", given=given)
    assert (code, text.count("nothing is known of a data set 'birds'")) == (exits.REFUSED, 2)


def test_retiring_shows_first_and_says_how_to_do_it(chain: Chain, given: Session) -> None:
    make_live(chain)
    code, text = invoke("retire", "flowers", "--target", "cloud", given=given)
    assert code == exits.OK
    assert "cloud: would take down" in text
    assert "to do it: dualdeploy retire flowers --confirm --target cloud" in text
    assert "retire accepted" in invoke("retire", "flowers", "--confirm", "--target", "cloud", given=given)[1]


@pytest.mark.parametrize(
    ("send", "line"),
    [
        ({"path": "/abort", "body": {"dataset": "flowers", "run_id": "f-1"}}, "abort flowers --run f-1"),
        ({"path": "/redeploy", "body": {"run_id": "f-1", "force": True}}, "redeploy --run f-1 --force"),
        ({"path": "/rollback", "body": {"dataset": "flowers", "to_run": "f-1"}}, "rollback flowers --to-run f-1"),
    ],
)
def test_what_a_service_proposes_is_a_command_line(send: dict[str, object], line: str) -> None:
    assert as_command(send, "") == f"dualdeploy {line}"


# Services that do not answer as they should ------------------------------------------------------------------------


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """`answering(status, body, *later)`: the URL of a server that answers so, then with each of `later`."""
    servers = []

    def serve(*answers: tuple[int, bytes]) -> str:
        left = list(answers)
        seen: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                seen.append(self.headers["Idempotency-Key"])
                status, body = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(status)
                self.send_header("Location", "https://accounts.example/signin")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.seen = seen  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
        assert len(set(server.seen)) == 1, "a repetition has the key of the first"


GOOD = json.dumps({"target": "cloud", "run_id": "f-1", "state": "waiting", "status": "/status/flowers"}).encode()


@pytest.mark.parametrize(
    ("answers", "code", "says"),
    [
        ([(503, b"{}"), (202, GOOD)], exits.OK, "redeploy accepted"),
        ([(503, b'{"error": "try again"}')], exits.UNREACHABLE, "try again"),
        ([(500, b"<html>")], exits.UNREACHABLE, "answers 500: the answer is not JSON"),
        ([(302, b"<html>")], exits.UNREACHABLE, "answers 302"),
        ([(401, b"<html>")], exits.REFUSED, "gcloud auth login"),
        ([(403, b"<html>")], exits.REFUSED, "`operators`"),
        ([(404, b"<html>")], exits.REFUSED, "not a service of Dual Deploy"),
        ([(409, b'{"error": "\\u001b[2Jheld"}')], exits.REFUSED, "\ufffd[2Jheld"),
        ([(200, b"[]")], exits.OK, "answers 200"),
    ],
    ids=lambda value: str(value[0][0]) if isinstance(value, list) else "",
)
def test_every_answer_has_a_code_and_a_sentence(answering, answers, code, says) -> None:
    result = call("redeploy", "flowers", "--url", answering(*answers))
    assert (result.exit_code, says in result.output) == (code, True), result.output


def test_a_service_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    code, text = invoke("hold", "flowers", "--url", "http://127.0.0.1:9")
    assert (code, "http://127.0.0.1:9 does not answer: " in text) == (exits.UNREACHABLE, True)
    assert "Traceback" not in text


def test_a_local_cloud_that_died_is_told(tmp_path: Path) -> None:
    file = tmp_path / "local_cloud.env"
    file.write_text("LOCAL_CLOUD_PID=999999999\nGOOGLE_CLOUD_PROJECT=demo\n")
    code, text = invoke("status", given=session(environment_file=file))
    assert (code, "dualdeploy down, then dualdeploy up" in text) == (exits.REFUSED, True)


def test_the_running_local_cloud_is_what_is_worked_on(tmp_path: Path) -> None:
    file = tmp_path / "local_cloud.env"
    file.write_text("GOOGLE_CLOUD_PROJECT=local\nLEDGER_BUCKET=its-ledger\nLOCAL_CLOUD_ADDRESS=x\n")
    made = Session(environment_file=file, environ={"GOOGLE_CLOUD_PROJECT": "of-the-shell"})
    assert (made.project(""), made.bucket_name("ledger", ""), made.is_local) == ("local", "its-ledger", True)
    assert made.bucket_name("ledger", "other") == "other-ledger"
