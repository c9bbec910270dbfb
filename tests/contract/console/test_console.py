"""console as its own process and account at the local cloud: a button reaches the history in the person's name."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from dualdeploy_demo.stack import Stack
from local_cloud import cloud as clouds

REPOSITORY = Path(__file__).resolve().parents[3]
OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("console")
    with clouds.load(REPOSITORY / "infra" / "topology.json", state_dir=folder / "cloud", clock_seconds=3600) as cloud:
        stack = Stack(cloud, repository=REPOSITORY, log_folder=folder)
        try:
            for name in ("cloud_deployer", "mobile_publisher", "console"):
                stack.deploy(name)
            serving = {"dataset": "flowers", "target": "cloud"}
            requests.post(
                f"{cloud.environment()['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/{cloud.topology.project}-ledger/o",
                params={"uploadType": "media", "name": "serving/cloud/flowers.json"},
                data=json.dumps(serving).encode(),
                timeout=5,
            ).raise_for_status()
            yield stack
        finally:
            stack.close()


def post(stack: Stack, action: str, **headers: str) -> requests.Response:
    url = f"http://{stack.services['console'].address}/datasets/flowers/cloud/{action}"
    form = {"reason": "a story", "key": f"key-{action}"}
    return requests.post(url, data=form, headers=headers or OWN, timeout=30, allow_redirects=False)


def status(stack: Stack) -> Any:
    return requests.get(f"http://{stack.services['cloud_deployer'].address}/status/flowers", timeout=10).json()


def test_a_button_reaches_the_history_in_the_name_of_the_person(stack: Stack) -> None:
    assert post(stack, "hold").status_code == 303
    hold = status(stack)["hold"]
    assert (hold["by"], hold["reason"]) == (f"{getpass.getuser()}@localhost", "a story")
    page = requests.get(f"http://{stack.services['console'].address}/datasets/flowers", timeout=30)
    assert f"by {hold['by']}: a story" in page.text
    assert post(stack, "resume").status_code == 303
    assert status(stack)["hold"] is None
    # As its own account, which was refused nothing that it needed.
    refused = [each for each in stack.cloud.iam.refusals() if "console@" in each.member]
    assert refused == []


def test_a_refusal_of_the_service_is_shown(stack: Stack) -> None:
    answer = post(stack, "rollback")
    assert 400 <= answer.status_code < 500
    assert 'role="alert"' in answer.text


def test_a_page_of_another_site_sets_nothing_off(stack: Stack) -> None:
    assert post(stack, "hold", **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert status(stack)["hold"] is None
