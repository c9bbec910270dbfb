"""Remote Config's template as the publisher sees it: the same behaviour of the fake and of the gateway."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dualdeploy.errors import PermissionSpreads, RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.remote_config import RemoteConfig, RemoteConfigGateway, TemplateChanged
from local_cloud.faults import Faults as CloudFaults
from local_cloud.remote_config import RemoteConfig as RemoteConfigEmulator
from mobile_publisher.version_parameter import VersionParameter
from support.fakes import FakeRemoteConfig

TEAMS = {
    "parameters": {"zz": {"defaultValue": {"value": "Grüße 你好"}}, "aa": {"defaultValue": {"useInAppDefault": True}}},
    "conditions": [
        {"name": "iOS", "expression": "device.os == 'ios' && app.version.>=(['3.1.0'])", "tagColor": "PINK"},
        {"name": "a tenth", "expression": "percent('theirs') between 20 and 30"},
    ],
    "parameterGroups": {"Zoo": {"parameters": {"cat": {"valueType": "NUMBER", "defaultValue": {"value": "1"}}}}},
}


@pytest.fixture(scope="module")
def emulator(cloud_faults: CloudFaults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteConfigEmulator]:
    running = RemoteConfigEmulator(faults=cloud_faults, state_dir=tmp_path_factory.mktemp("remote_config")).start()
    yield running
    running.close()


@pytest.fixture
def gateway(emulator: RemoteConfigEmulator, cloud_faults: CloudFaults) -> Iterator[RemoteConfigGateway]:
    """Of a project of this test's own."""
    yield RemoteConfigGateway(project=f"p-{uuid.uuid4().hex[:8]}", emulator_host=emulator.address)
    cloud_faults.clear()


@pytest.fixture(params=["fake", "local cloud"])
def remote_config(request: pytest.FixtureRequest) -> RemoteConfig:
    return FakeRemoteConfig() if request.param == "fake" else request.getfixturevalue("gateway")


def text(document: Any) -> str:
    return json.dumps({key: value for key, value in document.items() if key != "version"}, ensure_ascii=False)


def test_a_project_begins_with_a_template_of_nothing(remote_config: RemoteConfig) -> None:
    template = remote_config.read()
    assert template.etag
    assert text(template.document) == "{}"


def test_what_is_written_is_read_in_its_order_with_the_next_etag(remote_config: RemoteConfig) -> None:
    before = remote_config.read().etag
    written = remote_config.write(TEAMS, expect=before)
    read = remote_config.read()
    assert text(read.document) == text(written.document) == text(TEAMS)
    assert read.etag == written.etag != before


def test_a_write_over_an_etag_of_yesterday_changes_nothing(remote_config: RemoteConfig) -> None:
    stale = remote_config.read().etag
    remote_config.write(TEAMS, expect=stale)
    with pytest.raises(TemplateChanged):
        remote_config.write({"parameters": {}}, expect=stale)
    assert text(remote_config.read().document) == text(TEAMS)


def test_a_template_that_does_not_hang_together_is_refused(remote_config: RemoteConfig) -> None:
    broken = {"parameters": {"x": {"conditionalValues": {"nobody": {"value": "1"}}}}}
    with pytest.raises(RejectedByGoogle, match=r"Parameter x: unknown conditions \['nobody'\]"):
        remote_config.write(broken, expect=remote_config.read().etag)


def test_of_a_version_the_description_is_kept(remote_config: RemoteConfig) -> None:
    described = {**TEAMS, "version": {"description": "10 % see v2"}}
    remote_config.write(described, expect=remote_config.read().etag)
    assert remote_config.read().document["version"]["description"] == "10 % see v2"


def test_a_rollout_leaves_the_teams_template_byte_for_byte(remote_config: RemoteConfig) -> None:
    remote_config.write(TEAMS, expect=remote_config.read().etag)
    parameter = VersionParameter(remote_config, "flowers")
    for share, held in ((10, None), (50, 10)):
        parameter.stage(old="v1", new="v2", seed="0123456789ab", share=share, held=held, before="")
    parameter.end_rollout(new="v2", old="v1", seed="0123456789ab", held=50)
    left = json.loads(json.dumps(remote_config.read().document))
    assert left["parameters"].pop(parameter.key)["defaultValue"] == {"value": "v2"}
    assert text(left) == text(TEAMS)


# What only the gateway has to bear ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["return-503", "return-429", "return-408"])
def test_an_answer_that_may_be_another_next_time_is_a_reason_to_wait(
    gateway: RemoteConfigGateway, cloud_faults: CloudFaults, fault: str
) -> None:
    cloud_faults.add({"remoteconfig.get": [fault]})
    with pytest.raises(ServiceUnavailable, match="Remote Config, GET of the template"):
        gateway.read()
    assert gateway.read().etag


@pytest.mark.parametrize("fault", ["return-409", "return-412"])
def test_a_conflict_is_told_from_a_refusal(gateway: RemoteConfigGateway, cloud_faults: CloudFaults, fault: str) -> None:
    cloud_faults.add({"remoteconfig.update": [fault]})
    with pytest.raises(TemplateChanged):
        gateway.write(TEAMS, expect=gateway.read().etag)


def test_a_missing_permission_may_only_be_on_its_way(gateway: RemoteConfigGateway, cloud_faults: CloudFaults) -> None:
    cloud_faults.add({"remoteconfig.get": ["return-403"]})
    with pytest.raises(PermissionSpreads, match="403"):
        gateway.read()


def test_no_answer_is_a_reason_to_wait(unheard: str) -> None:
    with pytest.raises(ServiceUnavailable):
        RemoteConfigGateway(project="demo", emulator_host=unheard).read()


def test_an_answer_that_was_lost_after_the_write_is_found_out(
    gateway: RemoteConfigGateway, cloud_faults: CloudFaults
) -> None:
    cloud_faults.add({"remoteconfig.update": ["lost-response"]})
    parameter = VersionParameter(gateway, "flowers")
    with pytest.raises(ServiceUnavailable):
        parameter.settle("v2", before="")
    version = gateway.read().document["version"]["versionNumber"]
    parameter.settle("v2", before="")
    assert gateway.read().document["version"]["versionNumber"] == version
    assert parameter.default() == "v2"


def test_two_data_sets_that_publish_at_once_both_arrive(
    gateway: RemoteConfigGateway, tmp_path: Path, emulator: RemoteConfigEmulator
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def settle(name: str) -> None:
        # Each service instance has a session of its own.
        own = RemoteConfigGateway(project=gateway._url.split("/")[-2], emulator_host=emulator.address)
        VersionParameter(own, name).settle("v1", before="")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(settle, ["roses", "daisies", "tulips"]))
    keys = set(gateway.read().document["parameters"])
    assert keys == {f"dualdeploy_{name}_version" for name in ("roses", "daisies", "tulips")}
