"""gateway as its own process and account at the local cloud: from a debug token to the answer of a deployed model."""

from __future__ import annotations

import time
from collections.abc import Iterator

import firebase_admin
import pytest
import requests
from firebase_admin import app_check, credentials
from google.auth.credentials import AnonymousCredentials

from support.accounts import PROJECT
from support.gateway_world import ORIGIN, PLENTY, RUN, World, gateway_world
from support.pictures import picture


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with gateway_world(tmp_path_factory.mktemp("gateway")) as world:
        yield world


def test_an_app_with_only_a_token_is_answered_once_a_model_serves(world: World) -> None:
    began = time.monotonic()
    waits = world.ask(picture("red"))
    assert (waits.status_code, waits.json()["reason"]) == (503, "nothing_serves")
    assert int(waits.headers["Retry-After"]) > 0
    assert time.monotonic() - began < 20
    world.record(world.deploy())
    # It looks again after a minute; a new instance at once.
    world.stack.deploy("gateway", **PLENTY, ALLOWED_ORIGINS=ORIGIN)
    answer = world.ask(picture("red"), **{"X-Phone-Label": "red"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] == "red"
    assert (answer.json()["run"], answer.json()["modelVersion"]) == (RUN, "1")
    # With its own account it needed two grants, and nothing was refused.
    assert [each for each in world.cloud.iam.refusals() if "gateway" in each.member] == []
    needed = {(each.role, each.resource) for each in world.cloud.iam.needed() if "gateway" in each.member}
    assert {role.rsplit("/", 1)[-1] for role, _ in needed} == {"dualdeploy_gateway", "storage.objectViewer"}


def test_an_endpoint_that_is_slow_or_refuses_is_told_long_before_it_would_answer(world: World) -> None:
    began = time.monotonic()
    slow = world.ask(picture("lime"))
    assert (slow.status_code, slow.json()["reason"]) == (504, "slow")
    assert time.monotonic() - began < 20
    for fault in ("return-503", "return-429", "reset-connection"):
        with world.cloud.faults.plan({"aiplatform.endpoints.predict": [fault]}):
            down = world.ask(picture("red"))
        assert (down.status_code, down.json()["reason"]) == (503, "endpoint")
        assert int(down.headers["Retry-After"]) > 0
    assert world.ask(picture("red")).status_code == 200


def test_another_debug_token_attests_nothing(world: World) -> None:
    refused = world.token("11111111-0000-4000-8000-000000000000")
    assert (refused.status_code, refused.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


def test_firebase_itself_takes_the_tokens_that_the_local_cloud_gives_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google's own check, at the address of the keys, for which it has no setting."""

    class Nobody(credentials.Base):  # type: ignore[misc]  # it has no types
        def get_credential(self) -> AnonymousCredentials:
            return AnonymousCredentials()

    given = world.cloud.environment()
    monkeypatch.setattr(app_check._AppCheckService, "_JWKS_URL", given["APP_CHECK_KEYS_URL"])
    app = firebase_admin.initialize_app(Nobody(), {"projectId": PROJECT}, name="judge")
    try:
        claims = app_check.verify_token(world.token().json()["token"], app)
    finally:
        firebase_admin.delete_app(app)
    assert claims["app_id"] == given["APP_CHECK_APP"]


def test_a_page_of_a_listed_origin_may_ask(world: World) -> None:
    answer = requests.options(
        f"{world.url}/predict/flowers",
        headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"},
        timeout=5,
    )
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (204, ORIGIN)
