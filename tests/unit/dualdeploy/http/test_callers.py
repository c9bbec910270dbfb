"""Only Google's word for who delivers an event is taken."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import flask
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from google.auth import crypt, jwt

from dualdeploy import outcome
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.http.callers import CallerRefused, Callers
from dualdeploy.http.certificates import Certificates
from dualdeploy.http.entrypoint import Receiver
from dualdeploy.ledger import Ledger
from support.fakes import MemoryObjectStore
from support.fakes.callers import AUDIENCE, SENDER, checked_token, cloud_run_callers, from_sender


class Issuer:
    """Signs tokens; its certificates are served over HTTP, as Google's are."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.asked = 0
        self.cache_control = "public, max-age=600"
        self.body: bytes | None = None
        self.add_key("one")
        issuer = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = issuer.body if issuer.body is not None else json.dumps(issuer.certificates()).encode()
                self.send_response(200)
                self.send_header("Cache-Control", issuer.cache_control)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                """Silence."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}/oauth2/v1/certs"

    def add_key(self, name: str) -> None:
        self.keys[name] = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def certificates(self) -> dict[str, str]:
        return {name: certificate(key) for name, key in self.keys.items()}

    def token(self, *, key: str = "one", signed_by: Any = None, **claims: Any) -> str:
        now = int(time.time())
        said = {
            "aud": AUDIENCE,
            "email": SENDER,
            "email_verified": True,
            "exp": now + 3600,
            "iat": now,
            "iss": "https://accounts.google.com",
            **claims,
        }
        pem = (signed_by or self.keys[key]).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        signer = crypt.RSASigner.from_string(pem, key)
        return bytes(jwt.encode(signer, {k: v for k, v in said.items() if v is not None})).decode()

    def headers(self, **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(**claims)}"}


def certificate(key: Any) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    thread = threading.Thread(target=issuer.server.serve_forever, daemon=True)
    thread.start()
    yield issuer
    issuer.server.shutdown()
    issuer.server.server_close()


@pytest.fixture
def issuer(shared_issuer: Issuer) -> Iterator[Issuer]:
    shared_issuer.asked = 0
    yield shared_issuer
    shared_issuer.body = None
    shared_issuer.cache_control = "public, max-age=600"
    for name in [name for name in shared_issuer.keys if name != "one"]:
        del shared_issuer.keys[name]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def callers(issuer: Issuer, clock: Clock) -> Callers:
    return Callers(audiences=[AUDIENCE], event_senders=[SENDER], certificates=Certificates(issuer.url, clock=clock))


def test_a_signed_token_of_the_right_account_is_accepted(callers: Callers, issuer: Issuer) -> None:
    assert callers.require_event_sender(issuer.headers()) == SENDER
    # Eventarc names the path as well.
    assert callers.require_event_sender(issuer.headers(aud=f"{AUDIENCE}/events/object-finalized")) == SENDER


@pytest.mark.parametrize(
    ("claims", "status", "why"),
    [
        ({"email": "stranger@example.com"}, 403, "may not deliver events"),
        ({"aud": "https://another.example"}, 401, "PUSH_AUDIENCES"),
        ({"aud": f"{AUDIENCE}.evil.example"}, 401, "PUSH_AUDIENCES"),
        ({"aud": [AUDIENCE]}, 401, "no audience"),
        ({"aud": None}, 401, "no audience"),
        ({"email_verified": False}, 401, "no verified e-mail"),
        ({"email_verified": "true"}, 401, "no verified e-mail"),
        ({"email": None}, 401, "no verified e-mail"),
        ({"iss": "https://accounts.example.com"}, 401, "not issued by Google"),
        ({"iss": None}, 401, "not issued by Google"),
        ({"exp": 1}, 401, "expired"),
        ({"exp": None}, 401, "not Google's"),
        ({"iat": time.time() + 9_000, "exp": time.time() + 90_000}, 401, "too early"),
        ({"exp": "soon"}, 401, "not Google's"),
    ],
)
def test_a_signed_token_that_says_something_else_is_refused(
    callers: Callers, issuer: Issuer, claims: dict[str, Any], status: int, why: str
) -> None:
    with pytest.raises(CallerRefused, match=why) as caught:
        callers.require_event_sender(issuer.headers(**claims))
    assert caught.value.status == status


def test_a_token_of_another_key_or_with_a_changed_claim_is_refused(callers: Callers, issuer: Issuer) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    forged = issuer.token(signed_by=stranger)
    head, _, signature = issuer.token().split(".")
    tampered = ".".join([head, checked_token("admin@example.com").split(".")[1], signature])
    for token in (forged, tampered):
        with pytest.raises(CallerRefused, match="Could not verify token signature"):
            callers.require_event_sender({"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256", "", None, 7])
def test_no_other_algorithm_gets_in(callers: Callers, issuer: Issuer, algorithm: Any) -> None:
    head = {"alg": algorithm, "typ": "JWT", "kid": "one"}
    segments = issuer.token().split(".")
    token = ".".join([encoded(head), *segments[1:]])
    with pytest.raises(CallerRefused) as caught:
        callers.require_event_sender({"Authorization": f"Bearer {token}"})
    assert caught.value.status == 401


GONE = ".SIGNATURE_REMOVED_BY_GOOGLE"


def encoded(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b.c",
        "e30.e30.e30",
        f"{encoded([])}.{encoded(7)}.e30",
        "é.é.é",
        "." * 5000,
        "A" * 9000,
        f"e30.{encoded([])}.e30",
    ],
)
def test_garbage_is_refused(callers: Callers, token: str) -> None:
    for behind, end in ((callers, ""), (callers, GONE), (cloud_run_callers(), GONE)):
        with pytest.raises(CallerRefused) as caught:
            behind.require_event_sender({"Authorization": f"Bearer {token}{end}"})
        assert caught.value.status == 401


def test_a_token_without_signature_is_worth_nothing_where_cloud_run_does_not_check(callers: Callers) -> None:
    with pytest.raises(CallerRefused, match="CLOUD_RUN_CHECKS_TOKENS") as caught:
        callers.require_event_sender(from_sender())
    assert caught.value.status == 401


def test_a_token_without_signature_is_read_where_cloud_run_has_checked_it() -> None:
    callers = cloud_run_callers()
    assert callers.require_event_sender(from_sender()) == SENDER
    for headers, status in [
        (from_sender("operator@example.com"), 403),
        (from_sender(aud="https://another.example"), 401),
        (from_sender(exp=1), 401),
        ({}, 401),
        ({"Authorization": "Basic abc"}, 401),
    ]:
        with pytest.raises(CallerRefused) as caught:
            callers.require_event_sender(headers)
        assert caught.value.status == status


def test_certificates_are_fetched_once_for_as_long_as_google_says(
    callers: Callers, issuer: Issuer, clock: Clock
) -> None:
    for number in range(20):
        callers.require_event_sender(issuer.headers(sub=str(number)))
    assert issuer.asked == 1
    clock.now += 601
    callers.require_event_sender(issuer.headers(sub="later"))
    assert issuer.asked == 2


def test_the_same_token_is_verified_once_but_expires_all_the_same(issuer: Issuer) -> None:
    now = time.time()
    seconds = [now]
    certificates = Certificates(issuer.url)
    callers = Callers(audiences=[AUDIENCE], event_senders=[SENDER], certificates=certificates, now=lambda: seconds[0])
    headers = issuer.headers()
    callers.require_event_sender(headers)
    issuer.body = b"no certificates any more"
    callers.require_event_sender(headers)
    seconds[0] += 3700
    with pytest.raises(CallerRefused, match="expired"):
        callers.require_event_sender(headers)


def test_a_new_key_of_google_s_is_noticed_but_made_up_ones_do_not_make_us_ask_all_the_time(
    callers: Callers, issuer: Issuer, clock: Clock
) -> None:
    callers.require_event_sender(issuer.headers())
    issuer.add_key("two")
    with pytest.raises(CallerRefused, match="not found"):
        callers.require_event_sender(issuer.headers(key="two"))
    clock.now += 61
    callers.require_event_sender(issuer.headers(key="two"))
    for _ in range(5):
        with pytest.raises(CallerRefused, match="not found"):
            callers.require_event_sender(issuer.headers(key="made-up", signed_by=issuer.keys["two"]))
    assert issuer.asked == 2


@pytest.mark.parametrize("body", [b"", b"[]", b'{"one": 1}', b"<html>"])
def test_without_certificates_the_event_has_to_come_again(callers: Callers, issuer: Issuer, body: bytes) -> None:
    issuer.body = body
    with pytest.raises(ServiceUnavailable, match=r"certificates"):
        callers.require_event_sender(issuer.headers())
    issuer.body = None
    assert callers.require_event_sender(issuer.headers()) == SENDER


def test_a_certificate_of_another_kind_of_key_crashes_nothing(callers: Callers, issuer: Issuer) -> None:
    issuer.keys["elliptic"] = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(CallerRefused):
        callers.require_event_sender(issuer.headers(key="elliptic", signed_by=issuer.keys["one"]))


# Two tokens in one request --------------------------------------------------------------------------------------


OPERATOR = "operator@example.com"
CONSOLE = "console@demo.iam.gserviceaccount.com"


def checked(email: str, **claims: Any) -> str:
    return f"Bearer {checked_token(email, **claims)}"


@pytest.mark.parametrize(
    "forged",
    [
        checked(SENDER),
        checked(SENDER).replace("Bearer", "bearer"),
        checked(SENDER).replace("Bearer ", "Bearer   "),
        f"Basic {checked_token(SENDER)}",
        checked_token(SENDER),
        checked("boss@example.com", aud="32555940559.apps.googleusercontent.com"),
        # Not unsigned, and not looked at either.
        checked(SENDER).replace("SIGNATURE_REMOVED_BY_GOOGLE", "c2lnbmVk"),
        "Bearer",
        "Bearer x",
        "",
    ],
)
def test_beside_the_token_that_cloud_run_checked_no_other_one_counts(forged: str) -> None:
    headers = {"X-Serverless-Authorization": checked(OPERATOR), "Authorization": forged}
    with pytest.raises(CallerRefused):
        cloud_run_callers().require_event_sender(headers)
    with contextlib.suppress(CallerRefused):
        assert cloud_run_callers().identity(headers) == OPERATOR


@pytest.mark.parametrize(
    "header",
    [
        # What some servers make of a header that comes twice.
        f"{checked(SENDER)},{checked(OPERATOR)}",
        f"{checked(SENDER)}, {checked(OPERATOR)}",
        f"{checked(SENDER)} {checked_token(OPERATOR)}",
        f"{checked(SENDER)}.{checked_token(OPERATOR)}",
        f"{checked(SENDER)}\n",
        "Basic abc",
        "Bearer",
        checked_token(OPERATOR),
    ],
)
@pytest.mark.parametrize("name", ["X-Serverless-Authorization", "Authorization"])
def test_a_header_that_is_not_one_token_names_no_one(name: str, header: str) -> None:
    headers = {name: header}
    if header.endswith("\n"):
        # White space at the end is no second token.
        assert cloud_run_callers().identity(headers) == SENDER
        return
    with pytest.raises(CallerRefused):
        cloud_run_callers().require_event_sender(headers)
    with contextlib.suppress(CallerRefused):
        assert cloud_run_callers().identity(headers) == ""


def test_the_serverless_header_alone_is_enough() -> None:
    """As `gcloud run services proxy` sends it, and whoever needs Authorization for something else."""
    assert cloud_run_callers().identity({"X-Serverless-Authorization": checked(OPERATOR)}) == OPERATOR
    assert cloud_run_callers().require_event_sender({"X-Serverless-Authorization": checked(SENDER)}) == SENDER
    beside = {"X-Serverless-Authorization": checked(OPERATOR), "Authorization": "Basic of-another-system"}
    assert cloud_run_callers().identity(beside) == OPERATOR


@pytest.mark.parametrize(
    ("caller", "headers", "named"),
    [
        (CONSOLE, {"X-Console-User": "jo@example.com"}, "jo@example.com"),
        (CONSOLE, {}, CONSOLE),
        (CONSOLE, {"X-Console-User": ""}, CONSOLE),
        (CONSOLE, {"X-Console-User": "jo"}, CONSOLE),
        (CONSOLE, {"X-Console-User": "jo@example.com al@example.com"}, CONSOLE),
        (OPERATOR, {"X-Console-User": "jo@example.com"}, OPERATOR),
        (SENDER, {"X-Console-User": "jo@example.com"}, SENDER),
        (CONSOLE, {"X-Goog-Authenticated-User-Email": "accounts.google.com:jo@example.com"}, CONSOLE),
        (
            "service-1@gcp-sa-iap.iam.gserviceaccount.com",
            {"X-Goog-Authenticated-User-Email": "accounts.google.com:jo@example.com"},
            "service-1@gcp-sa-iap.iam.gserviceaccount.com",
        ),
        (OPERATOR, {"X-Forwarded-User": "jo@example.com", "From": "jo@example.com"}, OPERATOR),
    ],
)
def test_a_person_is_named_by_the_console_alone(caller: str, headers: dict[str, str], named: str) -> None:
    callers = cloud_run_callers(console=CONSOLE)
    assert callers.identity({"Authorization": checked(caller), **headers}) == named
    without_console = cloud_run_callers()
    assert without_console.identity({"Authorization": checked(caller), **headers}) == caller


def test_the_console_cannot_send_an_event_in_anybody_s_name() -> None:
    headers = {"Authorization": checked(CONSOLE), "X-Console-User": SENDER}
    with pytest.raises(CallerRefused):
        cloud_run_callers(console=CONSOLE).require_event_sender(headers)


# At the receiver -----------------------------------------------------------------------------------------------


def receive(callers: Callers, headers: dict[str, str], seen: list[Any]) -> flask.Response:
    handlers = {"tick": lambda envelope: seen.append(envelope) or outcome.done("done")}
    store = MemoryObjectStore()
    receiver = Receiver("tester", handlers, ledger=Ledger(store), project="demo", callers=callers)
    body = {"message": {"messageId": "1"}}
    with flask.Flask("tester").test_request_context("/events/tick", method="POST", json=body, headers=headers):
        answer = receiver(flask.request)
    assert list(store.list("")) == [], "a refused request leaves nothing in the ledger"
    return answer


def test_the_receiver_handles_nothing_of_a_stranger_and_says_why_in_the_log(
    callers: Callers, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    with caplog.at_level(logging.WARNING):
        assert receive(callers, {}, seen).status_code == 401
        assert receive(callers, issuer.headers(email="stranger@example.com"), seen).status_code == 403
    assert seen == []
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "refused",
        "refused",
    ]
    assert "stranger@example.com may not deliver events" in caplog.text
    assert receive(callers, issuer.headers(), seen).status_code == 204
    assert len(seen) == 1


def test_the_receiver_asks_for_another_delivery_while_certificates_cannot_be_had(issuer: Issuer) -> None:
    certificates = Certificates("http://127.0.0.1:9/certs")
    callers = Callers(audiences=[AUDIENCE], event_senders=[SENDER], certificates=certificates)
    seen: list[Any] = []
    answer = receive(callers, issuer.headers(), seen)
    assert (answer.status_code, seen) == (503, [])
    assert answer.headers["Retry-After"]


def test_no_token_is_ever_in_the_log(callers: Callers, issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    headers = issuer.headers(email="stranger@example.com")
    with caplog.at_level(logging.DEBUG):
        for each in (headers, from_sender(), {"Authorization": "Bearer opensesame"}):
            with contextlib.suppress(CallerRefused):
                answer = receive(callers, each, [])
                assert each["Authorization"].split()[1] not in answer.get_data(as_text=True)
    for secret in (headers["Authorization"].split(".")[2], "opensesame"):
        assert secret not in caplog.text
