"""What an app is answered: one row for each refusal, and what the answer and the log say."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dualdeploy.contracts.prediction import Form
from dualdeploy.errors import (
    DualDeployError,
    ModelAsleep,
    PermissionSpreads,
    RejectedByGoogle,
    ResourceMissing,
    ServiceUnavailable,
)
from dualdeploy.ledger import Ledger, names
from dualdeploy.settings import WrongSettings, load
from gateway.endpoint import Answer, VertexEndpoints
from gateway.quotas import Limit, OverQuota, Quotas
from gateway.serving import Live, WhatServes
from gateway.settings import GatewaySettings
from local_cloud.app_tokens import APP
from local_cloud.identity import TokenMint
from support.fakes.failing import Failing


def ask(client: Any, world: Any, picture: bytes, dataset: str = "flowers", **headers: str) -> Any:
    return client.post(f"/predict/{dataset}", data=picture, headers={**world.headers(), **headers})


def test_a_picture_is_answered_with_the_model_that_answered(world: Any, picture: bytes) -> None:
    answer = ask(world.client, world, picture)
    assert answer.status_code == 200
    assert answer.get_json() == {
        "label": "roses",
        "confidence": 0.75,
        "probabilities": {"roses": 0.75, "tulips": 0.25},
        "run": "flowers-0123456789ab",
        "modelVersion": "3",
    }
    assert world.endpoints.asked[0][1] == picture
    assert answer.headers["Server-Timing"].startswith("endpoint;dur=")
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_model_that_does_not_say_its_run_is_known_by_its_id_and_a_stranger_is_not(world: Any, picture: bytes) -> None:
    said = {"label": "roses", "confidence": 1.0}
    client = world.client
    world.endpoints.answer = Answer(said, "1234567890", "3")
    assert ask(client, world, picture).get_json()["run"] == "flowers-0123456789ab"
    world.endpoints.answer = Answer(said, "9999999999", "4")
    assert ask(client, world, picture).get_json()["run"] == ""


# Whom it answers -----------------------------------------------------------------------------------------------

NOT_GOOD: dict[str, Callable[[Any], dict[str, str]]] = {
    "no token": lambda world: {},
    "an empty token": lambda world: {"X-Firebase-AppCheck": " "},
    "no token at all": lambda world: {"X-Firebase-AppCheck": "abc"},
    "three dots": lambda world: {"X-Firebase-AppCheck": "..."},
    "a very long one": lambda world: {"X-Firebase-AppCheck": "a" * 9000},
    "nested a thousand times": lambda world: {"X-Firebase-AppCheck": f"{_segment('[' * 3000)}.e30.AA"},
    "of another project": lambda world: {"X-Firebase-AppCheck": world.tokens.app_check(aud=["projects/other"])},
    "of an audience that begins alike": lambda world: {
        "X-Firebase-AppCheck": world.tokens.app_check(aud=["projects/demo-project-2"])
    },
    "for nobody": lambda world: {"X-Firebase-AppCheck": world.tokens.app_check(aud=None)},
    "of another issuer": lambda world: {"X-Firebase-AppCheck": world.tokens.app_check(iss="https://evil.example/1")},
    "of an issuer that begins alike": lambda world: {
        "X-Firebase-AppCheck": world.tokens.app_check(iss="https://firebaseappcheck.googleapis.com/1/evil")
    },
    "over": lambda world: {"X-Firebase-AppCheck": world.tokens.app_check(exp=1)},
    "not yet": lambda world: {"X-Firebase-AppCheck": world.tokens.app_check(iat=4_000_000_000, nbf=4_000_000_000)},
    "without an end": lambda world: {"X-Firebase-AppCheck": world.tokens.app_check(exp=None)},
    "of no app": lambda world: {"X-Firebase-AppCheck": world.tokens.app_check("")},
    "of a number": lambda world: {"X-Firebase-AppCheck": world.tokens.app_check(sub=7)},
    "signed by nobody": lambda world: {"X-Firebase-AppCheck": _unsigned(world.tokens.app_check())},
    "changed": lambda world: {"X-Firebase-AppCheck": _changed(world.tokens.app_check())},
    "a user's instead": lambda world: {"X-Firebase-AppCheck": world.tokens.user("ann")},
    "with an app's as the user's": lambda world: world.headers(Authorization=f"Bearer {world.tokens.app_check()}"),
    "with a user of another project": lambda world: world.headers(
        Authorization=f"Bearer {world.tokens.user('ann', iss='https://securetoken.google.com/demo-project2')}"
    ),
    "with a user whose token is over": lambda world: world.headers(
        Authorization=f"Bearer {world.tokens.user('ann', exp=1)}"
    ),
    "with a password": lambda world: world.headers(Authorization="Basic YW5uOnB3"),
}


def _segment(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _unsigned(token: str) -> str:
    """As the emulator of Firebase Auth makes them."""
    return f"{_segment(json.dumps({'alg': 'none', 'typ': 'JWT'}))}.{token.split('.')[1]}."


def _changed(token: str) -> str:
    head, _, signature = token.split(".")
    said = {"sub": APP, "aud": ["projects/demo-project"], "iss": "https://firebaseappcheck.googleapis.com/1"}
    return f"{head}.{_segment(json.dumps({**said, 'iat': 1, 'exp': 4_000_000_000}))}.{signature}"


@pytest.mark.parametrize("kind", NOT_GOOD)
def test_a_token_that_is_not_good_is_refused_and_nothing_is_asked(kind: str, world: Any, picture: bytes) -> None:
    answer = world.client.post("/predict/flowers", data=picture, headers=NOT_GOOD[kind](world))
    assert answer.status_code == 401, answer.get_json()
    assert answer.get_json()["reason"] == "token"
    assert world.endpoints.asked == []


def test_another_key_of_the_same_name_does_not_help(world: Any, picture: bytes, tmp_path: Any) -> None:
    stranger = TokenMint(tmp_path)
    said = {"sub": APP, "aud": ["projects/demo-project"], "iss": "https://firebaseappcheck.googleapis.com/1"}
    headers = {"X-Firebase-AppCheck": stranger.signed({**said, "iat": 1, "exp": 4_000_000_000})}
    assert world.client.post("/predict/flowers", data=picture, headers=headers).status_code == 401


def test_an_app_that_is_not_listed_is_refused_and_without_a_list_each_of_the_project_may(
    world: Any, picture: bytes
) -> None:
    headers = {"X-Firebase-AppCheck": world.tokens.app_check("1:1:web:other")}
    answer = world.client.post("/predict/flowers", data=picture, headers=headers)
    assert (answer.status_code, answer.get_json()["reason"]) == (403, "token")
    world.settings = dataclasses.replace(world.settings, apps="")
    assert world.client.post("/predict/flowers", data=picture, headers=headers).status_code == 200


def test_where_a_user_is_required_one_without_is_refused(world: Any, picture: bytes) -> None:
    world.settings = dataclasses.replace(world.settings, require_user=True)
    client = world.client
    assert ask(client, world, picture).status_code == 401
    assert client.post("/predict/flowers", data=picture, headers=world.headers("ann")).status_code == 200


def test_without_keys_no_one_is_let_in_and_everyone_is_told_to_come_again(world: Any, picture: bytes) -> None:
    world.settings = dataclasses.replace(world.settings, app_check_keys_url="http://127.0.0.1:9/v1/jwks")
    answer = ask(world.client, world, picture)
    assert (answer.status_code, answer.get_json()["reason"]) == (503, "keys")
    assert int(answer.headers["Retry-After"]) > 0


# What it is asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "body", "headers", "status", "reason"),
    [
        ("Flowers", b"", {}, 404, "dataset"),
        ("flowers%2Fother", b"", {}, 404, "request"),
        ("flowers", b"", {}, 400, "picture"),
        ("flowers", b"not a picture", {}, 400, "picture"),
        ("flowers", b'{"instances": []}', {"Content-Type": "application/json"}, 400, "picture"),
        ("flowers", b"GIF89a" + bytes(100), {}, 400, "picture"),
        ("flowers", b"x", {"Content-Encoding": "gzip"}, 415, "encoding"),
        ("flowers", bytes(1_000_001), {}, 413, "size"),
        ("flowers", bytes(1_000_000), {}, 400, "picture"),
        ("tulips", None, {}, 503, "nothing_serves"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_its_reason(
    dataset: str,
    body: bytes | None,
    headers: dict[str, str],
    *,
    status: int,
    reason: str,
    world: Any,
    picture: bytes,
) -> None:
    answer = ask(world.client, world, picture if body is None else body, dataset, **headers)
    assert (answer.status_code, answer.get_json()["reason"]) == (status, reason)
    assert world.endpoints.asked == []
    assert ("Retry-After" in answer.headers) == (status == 503)


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
def test_another_method_is_refused_in_json(method: str, world: Any) -> None:
    answer = getattr(world.client, method)("/predict/flowers")
    assert answer.status_code == 405
    assert answer.get_json()["reason"] == "request"


# What the endpoint answers -------------------------------------------------------------------------------------

CONTAINER = 'Vertex AI, predict: 400 {"error": "instances[0]: truncated: send a JPEG"}'


@pytest.mark.parametrize(
    ("error", "status", "reason", "retry_after"),
    [
        (ModelAsleep("429 Model is not yet ready for inference"), 503, "asleep", 120),
        (ServiceUnavailable("503"), 503, "endpoint", 10),
        (PermissionSpreads("403"), 503, "endpoint", 10),
        (ResourceMissing("404"), 503, "endpoint", 10),
        (RejectedByGoogle("400 Endpoint doesn't have traffic_split."), 503, "endpoint", 10),
        (RejectedByGoogle(CONTAINER), 400, "picture", 0),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
)
def test_a_refusal_of_the_endpoint_tells_the_app_what_to_do_and_nothing_of_the_project(
    error: DualDeployError, *, status: int, reason: str, retry_after: int, world: Any, picture: bytes
) -> None:
    def refuse() -> None:
        raise error

    world.endpoints.act = refuse
    answer = ask(world.client, world, picture)
    assert (answer.status_code, answer.get_json()["reason"]) == (status, reason)
    assert int(answer.headers.get("Retry-After", "0")) == retry_after
    assert "projects/" not in answer.get_data(as_text=True)


def test_an_endpoint_that_hangs_is_given_up_in_time(world: Any, picture: bytes) -> None:
    let_go = threading.Event()
    world.endpoints.act = lambda: let_go.wait(20)
    world.limit_seconds = 0.1
    answer = ask(world.client, world, picture)
    let_go.set()
    assert (answer.status_code, answer.get_json()["reason"]) == (504, "slow")
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"current": None},
        {"undeployed_at": "2026-11-28T12:00:00Z"},
        {"current": {"run_id": "r", "run_created_at": "", "since": ""}},
    ],
    ids=["before the first release", "undeployed", "without an endpoint"],
)
def test_when_nothing_serves_the_app_is_told_to_come_again(changes: dict[str, Any], world: Any, picture: bytes) -> None:
    world.serve(**changes)
    answer = ask(world.client, world, picture)
    assert (answer.status_code, answer.get_json()["reason"]) == (503, "nothing_serves")
    assert answer.headers["Retry-After"] == "60"


def test_a_document_that_cannot_be_read_is_not_a_bug_of_the_app(world: Any, picture: bytes) -> None:
    world.write(b"{")
    assert ask(world.client, world, picture).get_json()["reason"] == "ledger"


def test_what_served_goes_on_serving_while_the_ledger_does_not_answer(world: Any) -> None:
    now = [1000.0]
    serves = WhatServes(Ledger(world.store), clock=lambda: now[0])
    live = serves.of("flowers")
    now[0] += 61
    world.store.faults.plan("read", *[Failing(ServiceUnavailable("no answer"))] * 2)
    assert serves.of("flowers") == live
    now[0] += 3600
    with pytest.raises(ServiceUnavailable):
        serves.of("flowers")
    assert serves.of("flowers") == live
    assert world.store.faults.calls["read"] == 4


def test_an_endpoint_that_is_gone_is_looked_up_again_at_once(world: Any, picture: bytes) -> None:
    def gone() -> None:
        raise ResourceMissing("404")

    client = world.client
    world.endpoints.act = gone
    assert ask(client, world, picture).status_code == 503
    world.serve(
        current={**json.loads(world.store.read("serving/cloud/flowers.json").data)["current"], "endpoint": "e2"}
    )
    world.endpoints.act = lambda: None
    assert ask(client, world, picture).status_code == 200
    assert world.endpoints.asked[-1][0].endpoint == "e2"


# How much ------------------------------------------------------------------------------------------------------


def test_a_user_over_the_quota_is_told_when_to_come_again_and_another_is_not(world: Any, picture: bytes) -> None:
    world.settings = dataclasses.replace(world.settings, user_burst=3, user_per_second=0.01)
    client = world.client
    statuses = [
        client.post("/predict/flowers", data=picture, headers=world.headers("ann")).status_code for _ in range(4)
    ]
    assert statuses == [200, 200, 200, 429]
    refused = client.post("/predict/flowers", data=picture, headers=world.headers("ann"))
    assert refused.get_json()["reason"] == "user"
    assert 90 <= int(refused.headers["Retry-After"]) <= 100
    assert client.post("/predict/flowers", data=picture, headers=world.headers("bob")).status_code == 200


def test_without_a_user_the_address_counts_which_cloud_run_wrote_last(world: Any, picture: bytes) -> None:
    world.settings = dataclasses.replace(world.settings, user_burst=1, user_per_second=0.01)
    client = world.client
    assert ask(client, world, picture, **{"X-Forwarded-For": "203.0.113.7"}).status_code == 200
    # What stands before was written by whoever asks.
    forged = ask(client, world, picture, **{"X-Forwarded-For": "198.51.100.1, 203.0.113.7"})
    assert (forged.status_code, forged.get_json()["reason"]) == (429, "address")
    assert ask(client, world, picture, **{"X-Forwarded-For": "203.0.113.8"}).status_code == 200
    assert ask(client, world, picture, **{"X-Forwarded-For": "2001:db8::1"}).status_code == 200
    assert ask(client, world, picture, **{"X-Forwarded-For": "2001:db8::ffff"}).status_code == 429


def test_a_request_that_one_limit_refuses_costs_none_of_the_others() -> None:
    now = [0.0]
    quotas = Quotas(clock=lambda: now[0])
    user, app = Limit("user", 1, 1), Limit("app", 1, 2)
    quotas.take([(app, "a"), (user, "ann")])
    for _ in range(3):
        with pytest.raises(OverQuota, match="this user: ask again in 1 s"):
            quotas.take([(app, "a"), (user, "ann")])
    quotas.take([(app, "a"), (user, "bob")])
    with pytest.raises(OverQuota, match="this app"):
        quotas.take([(app, "a"), (user, "eve")])
    now[0] += 1
    quotas.take([(app, "a"), (user, "eve")])


def test_a_day_is_over_at_midnight_and_made_up_users_cost_no_memory() -> None:
    now = [86_400.0 * 10 + 3600]
    quotas = Quotas(clock=lambda: now[0], remembered=10)
    limit = Limit("user", 100, 100, per_day=2)
    quotas.take([(limit, "ann")])
    now[0] += 10
    quotas.take([(limit, "ann")])
    with pytest.raises(OverQuota) as refused:
        quotas.take([(limit, "ann")])
    assert refused.value.seconds == 86_400 - 3610
    now[0] += refused.value.seconds
    quotas.take([(limit, "ann")])
    for number in range(1000):
        quotas.take([(limit, str(number))])
    assert len(quotas._spent) == 10


# Pages of a browser --------------------------------------------------------------------------------------------


def test_a_page_of_a_listed_origin_may_ask_and_read_the_answer(world: Any, picture: bytes) -> None:
    client = world.client
    before = client.options(
        "/predict/flowers",
        headers={"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"},
    )
    assert before.status_code == 204
    assert before.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert "X-Firebase-AppCheck" in before.headers["Access-Control-Allow-Headers"]
    assert int(before.headers["Access-Control-Max-Age"]) > 0
    for data in (picture, b"broken"):
        answer = ask(client, world, data, Origin="https://app.example.com")
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example.com.evil", "null", "*"])
def test_a_page_of_another_origin_may_not(origin: str, world: Any) -> None:
    answer = world.client.options("/predict/flowers", headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers


# What is logged ------------------------------------------------------------------------------------------------


def test_the_log_says_what_both_models_said_and_nothing_of_the_user_or_the_picture(
    world: Any, picture: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    said = {
        "X-Phone-Label": "L%C3%B6wenzahn",
        "X-Phone-Confidence": "0.4",
        "X-Phone-Version": "0123456789ab-ffff",
        "X-Phone-Kept": "7",
    }
    with caplog.at_level(logging.INFO):
        world.client.post("/predict/flowers", data=picture, headers=world.headers("ann", **said))
    (record,) = [each for each in caplog.records if hasattr(each, "prediction")]
    told = record.prediction  # type: ignore[attr-defined]  # asked above
    assert {key: told[key] for key in told if not key.endswith("_ms")} == {
        "dataset": "flowers",
        "app": APP,
        "status": 200,
        "run": "flowers-0123456789ab",
        "model_version": "3",
        "cloud_label": "roses",
        "cloud_confidence": 0.75,
        "phone_label": "Löwenzahn",
        "phone_confidence": 0.4,
        "phone_version": "0123456789ab-ffff",
        "phone_kept": 7.0,
        "agrees": False,
    }
    assert "ann" not in str(told)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Phone-Label", "%00"),
        ("X-Phone-Confidence", "nan"),
        ("X-Phone-Confidence", "1.01"),
        ("X-Phone-Confidence", "high"),
        ("X-Phone-Kept", "-1"),
    ],
)
def test_what_a_phone_says_wrongly_is_left_out_and_refuses_nothing(
    header: str, value: str, world: Any, picture: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert ask(world.client, world, picture, **{header: value}).status_code == 200
    (record,) = [each for each in caplog.records if hasattr(each, "prediction")]
    assert not [key for key in record.prediction if key.startswith("phone")]  # type: ignore[attr-defined]


# Where it runs -------------------------------------------------------------------------------------------------

ENVIRONMENT = {"GOOGLE_CLOUD_PROJECT": "demo", "GOOGLE_CLOUD_REGION": "us-central1", "LEDGER_BUCKET": "ledger"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"FIREBASE_AUTH_EMULATOR_HOST": "127.0.0.1:9099"},
        {"APP_CHECK_KEYS_URL": "http://127.0.0.1:1/v1/jwks"},
        {"APP_CHECK_KEYS_URL": "https://evil.example/https://a.googleapis.com/"},
        {"FIREBASE_AUTH_KEYS_URL": "https://www.googleapis.com.evil.example/keys"},
        {"VERTEX_EMULATOR_HOST": "127.0.0.1:1"},
    ],
)
def test_on_cloud_run_it_does_not_start_where_another_than_google_says_which_tokens_are_good(
    wrong: dict[str, str],
) -> None:
    assert load(GatewaySettings, {**ENVIRONMENT, **wrong})
    with pytest.raises(WrongSettings, match=next(iter(wrong))):
        load(GatewaySettings, {**ENVIRONMENT, **wrong, "K_SERVICE": "gateway"})
    assert load(GatewaySettings, {**ENVIRONMENT, "K_SERVICE": "gateway"})


def test_a_dedicated_endpoint_is_asked_at_its_own_host_and_a_shared_one_at_the_regions() -> None:
    endpoints = VertexEndpoints(region="us-central1")
    shared = dataclasses.replace(_live(), dns="")
    assert endpoints._url(_live()) == "https://1.prediction.vertexai.goog/v1/projects/p/endpoints/1:predict"
    assert endpoints._url(shared) == "https://us-central1-aiplatform.googleapis.com/v1/projects/p/endpoints/1:predict"


@pytest.mark.parametrize("form", ["b64", "content"])
@pytest.mark.parametrize(
    "said",
    [
        {"label": "roses", "confidence": 0.75, "probabilities": {"roses": 0.75, "tulips": 0.25}},
        {"ids": ["7", "2"], "displayNames": ["roses", "tulips"], "confidences": [0.75, 0.25]},
    ],
)
def test_models_of_both_roads_are_asked_and_read_alike(form: Form, said: dict[str, Any]) -> None:
    endpoints, session = VertexEndpoints(region="us-central1"), Session(said)
    endpoints._session = session
    answer = endpoints.predict(dataclasses.replace(_live(), form=form), b"picture", seconds=5)
    assert session.sent == [{"instances": [{form: base64.b64encode(b"picture").decode()}]}]
    assert (answer.prediction["label"], answer.prediction["confidence"]) == ("roses", 0.75)


@pytest.mark.parametrize(("current", "form"), [({}, "b64"), ({"takes_content": True}, "content")])
def test_a_picture_is_sent_as_what_serves_takes_it(world: Any, picture: bytes, current: Any, form: str) -> None:
    document = json.loads(world.store.read(names.serving("cloud", "flowers")).data)
    world.serve(current={**document["current"], **current})
    assert ask(world.client, world, picture).status_code == 200
    assert world.endpoints.asked[0][0].form == form


@dataclasses.dataclass
class Session:
    """Answers every request with one prediction."""

    said: Mapping[str, Any]
    sent: list[Any] = dataclasses.field(default_factory=list)

    def post(self, _url: str, *, data: str, **_options: Any) -> Session:
        self.sent.append(json.loads(data))
        return self

    def raise_for_status(self) -> None:
        return

    def json(self) -> Any:
        return {"predictions": [self.said], "deployedModelId": "d", "modelVersionId": "1"}


def _live() -> Live:
    return Live("projects/p/endpoints/1", "1.prediction.vertexai.goog", "r", "d")
