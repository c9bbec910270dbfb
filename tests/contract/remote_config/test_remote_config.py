"""Remote Config as its REST API describes it: versions, ETags, validation, rollback, and what apps are given.

Source: https://firebase.google.com/docs/reference/remote-config/rest/v1/projects
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from local_cloud.faults import Faults
from local_cloud.remote_config import RemoteConfig

STAGED = {
    "conditions": [{"name": "staged", "expression": "percent('flowers') <= 25"}],
    "parameters": {
        "flowers_version": {"defaultValue": {"value": "v1"}, "conditionalValues": {"staged": {"value": "v2"}}},
        "colour": {"defaultValue": {"value": "blue"}, "description": "somebody else's"},
        "unset": {"defaultValue": {"useInAppDefault": True}},
    },
}


class Client:
    def __init__(self, address: str) -> None:
        self.base = f"http://{address}/v1/projects/demo"
        self._session = requests.Session()

    def close(self) -> None:
        self._session.close()

    def get(self, **query: Any) -> requests.Response:
        return requests.get(f"{self.base}/remoteConfig", params=query, timeout=5)

    def put(self, template: Any, etag: str | None = "*", **query: Any) -> requests.Response:
        headers = {} if etag is None else {"If-Match": etag}
        return requests.put(f"{self.base}/remoteConfig", json=template, headers=headers, params=query, timeout=5)

    def rollback(self, version: str) -> requests.Response:
        return requests.post(f"{self.base}/remoteConfig:rollback", json={"versionNumber": version}, timeout=5)

    def versions(self) -> list[dict[str, str]]:
        answer = requests.get(f"{self.base}/remoteConfig:listVersions", timeout=5).json()
        listed: list[dict[str, str]] = answer["versions"]
        return listed

    def fetch(self, installation: str) -> dict[str, str]:
        body = {"appInstanceId": installation}
        answer = self._session.post(f"{self.base}/namespaces/firebase:fetch", json=body, timeout=5)
        answer.raise_for_status()
        entries: dict[str, str] = answer.json()["entries"]
        return entries


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    server = RemoteConfig(faults=Faults(), state_dir=tmp_path).start()
    asking = Client(server.address)
    yield asking
    asking.close()
    server.close()


def test_a_project_begins_with_an_empty_template(client: Client) -> None:
    answer = client.get()
    assert answer.json() == {"version": {"versionNumber": "0"}}
    assert answer.headers["ETag"]


def test_a_template_is_written_under_the_etag_that_was_read(client: Client) -> None:
    written = client.put(STAGED, client.get().headers["ETag"])
    assert written.status_code == 200
    assert written.headers["ETag"] == client.get().headers["ETag"]
    read = client.get().json()
    assert (read["conditions"], read["parameters"]) == (STAGED["conditions"], STAGED["parameters"])
    assert read["version"]["versionNumber"] == "1"
    assert read["version"]["updateType"] == "INCREMENTAL_UPDATE"


def test_a_stale_etag_is_refused_with_412_and_changes_nothing(client: Client) -> None:
    stale = client.get().headers["ETag"]
    client.put(STAGED, stale)
    answer = client.put({"parameters": {}}, stale)
    assert answer.status_code == 412
    assert "VERSION_MISMATCH" in answer.json()["error"]["message"]
    assert client.get().json()["parameters"] == STAGED["parameters"]


def test_a_write_without_an_etag_is_refused(client: Client) -> None:
    assert client.put(STAGED, None).status_code == 400


def test_validating_writes_nothing_and_says_so_by_the_etag(client: Client) -> None:
    answer = client.put(STAGED, client.get().headers["ETag"], validateOnly="true")
    assert answer.headers["ETag"].endswith("-0")
    assert "parameters" not in client.get().json()


@pytest.mark.parametrize(
    "template",
    [
        {"parameters": {"x": {"conditionalValues": {"nobody": {"value": "1"}}}}},
        {"conditions": [{"name": "a", "expression": "true"}, {"name": "a", "expression": "true"}]},
        {"conditions": [{"name": "a", "expression": ""}]},
        {"conditions": [{"expression": "true"}]},
        {"conditions": [{"name": "a", "expression": "percent('x') <= 10 && device.moon == 'full'"}]},
        {"conditions": [{"name": str(number), "expression": "true"} for number in range(2001)]},
        {"parameters": {"not-a-key": {"defaultValue": {"value": "1"}}}},
        {"parameters": {f"p{number}": {"defaultValue": {"value": "1"}} for number in range(3001)}},
        {"parameters": {"long": {"defaultValue": {"value": "x" * 1_000_001}}}},
        {"version": {"description": "x" * 1025}},
    ],
)
def test_a_template_that_does_not_hang_together_is_refused(client: Client, template: Any) -> None:
    answer = client.put(template)
    assert answer.status_code == 400
    assert "VALIDATION_ERROR" in answer.json()["error"]["message"]


def test_a_template_keeps_its_order_and_what_we_do_not_know_of(client: Client) -> None:
    grown = {
        "parameters": {"zz": {"defaultValue": {"value": "Grüße"}, "later": [1, None]}, "aa": {}},
        "ofNextYear": {"kept": True},
        "conditions": [
            {"name": "zz", "expression": "device.os == 'ios' && app.version.>=(['3.1.0'])"},
            {"name": "aa", "expression": "dateTime < dateTime('2027-01-01T00:00:00')"},
        ],
    }
    client.put(grown)
    read = client.get().json()
    del read["version"]
    assert json.dumps(read) == json.dumps(grown)


def test_a_condition_on_what_is_not_known_of_an_app_holds_for_no_app(client: Client) -> None:
    condition = {"name": "ios", "expression": "percent <= 100 && device.os == 'ios'"}
    values = {"defaultValue": {"value": "others"}, "conditionalValues": {"ios": {"value": "apple"}}}
    client.put({"conditions": [condition], "parameters": {"shop": values}})
    assert client.fetch("installation-1")["shop"] == "others"


def test_a_rollback_is_a_new_version_with_the_old_content(client: Client) -> None:
    client.put(STAGED)
    client.put({"parameters": {}})
    assert client.rollback("1").json()["version"]["rollbackSource"] == "1"
    assert client.get().json()["parameters"] == STAGED["parameters"]
    assert [version["versionNumber"] for version in client.versions()] == ["3", "2", "1"]
    assert "parameters" not in client.get(versionNumber="2").json()
    assert client.rollback("9").status_code == 404


def test_templates_outlive_the_process(tmp_path: Path) -> None:
    first = RemoteConfig(faults=Faults(), state_dir=tmp_path).start()
    writing = Client(first.address)
    etag = writing.put(STAGED).headers["ETag"]
    writing.close()
    first.close()
    second = RemoteConfig(faults=Faults(), state_dir=tmp_path).start()
    reading = Client(second.address)
    try:
        assert reading.get().headers["ETag"] == etag
    finally:
        reading.close()
        second.close()


@pytest.mark.parametrize("share", [10, 50])
def test_a_thousand_installations_see_a_new_value_in_the_share_that_was_asked_for(client: Client, share: int) -> None:
    staged = {**STAGED, "conditions": [{"name": "staged", "expression": f"percent('flowers') <= {share}"}]}
    client.put(staged)
    seen = [client.fetch(f"installation-{number}")["flowers_version"] for number in range(1000)]
    assert abs(seen.count("v2") / 10 - share) <= 2


def test_who_saw_the_new_value_keeps_it_when_the_share_grows(client: Client) -> None:
    def who(share: int) -> set[str]:
        client.put({**STAGED, "conditions": [{"name": "staged", "expression": f"percent('flowers') <= {share}"}]})
        names = [f"installation-{number}" for number in range(60)]
        return {name for name in names if client.fetch(name)["flowers_version"] == "v2"}

    few, more, everybody = who(10), who(50), who(100)
    assert few < more < everybody
    assert len(everybody) == 60
    assert who(0) == set()


def test_a_parameter_with_the_apps_own_default_is_left_out(client: Client) -> None:
    client.put(STAGED)
    entries = client.fetch("installation-1")
    assert entries["colour"] == "blue"
    assert "unset" not in entries
