"""Every route of every emulated API: it can be made to fail, and what it refuses it refuses in the API's envelope."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local_cloud import cloud as clouds
from local_cloud.api import Api, Operation
from local_cloud.cloud import LocalCloud

APIS = ("storage", "vertex", "firebase_ml", "remote_config", "deployed", "control")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[LocalCloud]:
    """A cloud that was built and not started: its applications answer without a network."""
    cloud = clouds.load(repository / "infra" / "topology.json", state_dir=tmp_path_factory.mktemp("cloud"))
    yield cloud
    cloud.close()


def api_of(cloud: LocalCloud, name: str) -> Api:
    api: Api = getattr(cloud, name).api
    return api


def path_of(operation: Operation) -> str:
    """The operation's path with something in every placeholder: the first of `any(...)`, else an x."""
    return re.sub(r"<(?:any\((\w+)[^>]*|[^>]+)>", lambda match: match[1] or "x", operation.path)


def require_envelope(api: str, code: int, answer: Any) -> None:
    if answer.content_type.startswith("application/xml"):  # the XML API of Cloud Storage
        assert re.search(r"<Error><Code>\w+</Code><Message>.+</Message>", answer.get_data(as_text=True))
        return
    error = answer.get_json()["error"]
    assert error["code"] == code
    assert error["message"]
    if api == "storage":
        assert error["errors"][0]["reason"]
        assert error["errors"][0]["domain"] == "global"
    else:
        assert re.fullmatch("[A-Z_]+", error["status"])


@pytest.mark.parametrize("name", APIS)
def test_every_route_fails_on_command_in_its_api_s_envelope(stopped: LocalCloud, name: str) -> None:
    api = api_of(stopped, name)
    assert api.operations
    for operation in api.operations:
        with stopped.faults.plan({operation.name: ["return-503"]}):
            answer = api.app.test_client().open(path_of(operation), method=operation.method)
        assert answer.status_code == 503, operation
        require_envelope(name, 503, answer)
        assert operation.name in answer.get_data(as_text=True)


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize("body", [b"\xff{", b"[]", b'{"unheard": ["of"]}', b""])
def test_no_route_answers_nonsense_with_a_server_error(stopped: LocalCloud, name: str, body: bytes) -> None:
    api = api_of(stopped, name)
    for operation in api.operations:
        answer = api.app.test_client().open(
            path_of(operation), method=operation.method, data=body, content_type="application/json"
        )
        assert answer.status_code < 500, (operation, answer.get_data())
        if answer.status_code >= 400:
            require_envelope(name, answer.status_code, answer)


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_path_that_no_route_has_is_refused_in_the_envelope(stopped: LocalCloud, name: str, method: str) -> None:
    answer = api_of(stopped, name).app.test_client().open("/unheard/of/path", method=method)
    if method == "OPTIONS" and answer.status_code == 200:
        return  # Flask answers OPTIONS for a path that another method has
    assert answer.status_code in {404, 405}
    require_envelope(name, answer.status_code, answer)
