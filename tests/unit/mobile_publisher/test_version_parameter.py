"""Our parameter in a template that belongs to a whole app team: nothing of theirs is touched, nobody is run over."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from dualdeploy.errors import LedgerContention, RejectedByGoogle, ServiceUnavailable
from dualdeploy.remote_config import TemplateChanged
from dualdeploy.testing import Failing, FakeRemoteConfig
from mobile_publisher.version_parameter import MAX_CONFLICTS, ParameterMoved, VersionParameter, key_of

KEY = "dualdeploy_flowers_version"

#: Everything that a grown template has, in an order that no sorting would give, and fields that we have never heard of.
TEAMS = {
    "conditions": [
        {"name": "zz beta testers", "expression": "app.userAudience.inAtLeastOne(['beta'])", "tagColor": "PINK"},
        {
            "name": "iOS, new",
            "expression": "device.os == 'ios' && app.version.>=(['3.1.0'])",
            "x-new": {"a": [1, None]},
        },
        {"name": "a tenth", "expression": "percent('theirs') <= 10"},
    ],
    "parameters": {
        "welcome": {
            "defaultValue": {"value": 'Grüße, 你好 \u2028 "quoted" <b>'},
            "conditionalValues": {"iOS, new": {"value": "hi"}, "a tenth": {"useInAppDefault": True}},
            "description": "",
            "valueType": "STRING",
        },
        "limits": {"valueType": "JSON", "defaultValue": {"value": '{"b":1,  "a":2.50}'}},
        "an_experiment": {"defaultValue": {"personalizationValue": {"personalizationId": "p1"}}},
    },
    "parameterGroups": {
        "Zoo": {"description": "later first", "parameters": {"cat": {"defaultValue": {"value": "1"}}}},
        "Art": {"parameters": {}},
    },
    "somethingOfNextYear": {"kept": [True, 1.5, "2"]},
}


@pytest.fixture
def remote_config() -> FakeRemoteConfig:
    fake = FakeRemoteConfig()
    fake.edit_by_hand(TEAMS)
    return fake


@pytest.fixture
def parameter(remote_config: FakeRemoteConfig) -> VersionParameter:
    return VersionParameter(remote_config, "flowers")


def stage(parameter: VersionParameter, share: int, *, held: int | None = None) -> None:
    parameter.stage(old="v1", new="v2", seed="0123456789ab", share=share, held=held)


def text(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False)


def without_ours(document: dict[str, Any]) -> dict[str, Any]:
    left = copy.deepcopy(document)
    left["parameters"].pop(KEY, None)
    left["conditions"] = [each for each in left["conditions"] if each["name"] != "dualdeploy flowers"]
    return left


def test_a_share_is_one_parameter_and_one_condition(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    stage(parameter, 10)
    ours = remote_config.document["parameters"][KEY]
    assert ours["defaultValue"] == {"value": "v1"}
    assert ours["conditionalValues"] == {"dualdeploy flowers": {"value": "v2"}}
    # The order of conditions is their priority: the team's own come first.
    assert remote_config.document["conditions"][-1] == {
        "name": "dualdeploy flowers",
        "expression": "percent('0123456789ab') <= 10",
    }


def test_everything_else_of_the_template_stays_byte_for_byte(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    for act in (
        lambda: stage(parameter, 10),
        lambda: stage(parameter, 50, held=10),
        lambda: parameter.settle("v2"),
        lambda: stage(parameter, 10),
        lambda: parameter.take_back(new="v2", old="v1", before="v1"),
        lambda: parameter.settle(""),
    ):
        act()
        assert text(without_ours(remote_config.document)) == text(TEAMS)


def test_in_an_empty_project_nothing_is_left_but_the_parameter() -> None:
    remote_config = FakeRemoteConfig()
    parameter = VersionParameter(remote_config, "flowers")
    stage(parameter, 10)
    parameter.settle("v2")
    assert list(remote_config.document) == ["parameters"]
    assert parameter.default() == "v2"


def test_repeating_a_change_publishes_nothing(remote_config: FakeRemoteConfig, parameter: VersionParameter) -> None:
    for act in (
        lambda: stage(parameter, 10),
        lambda: parameter.settle("v2"),
        lambda: parameter.take_back(new="v2", old="v1", before="v1"),
    ):
        act()
        published = len(remote_config.versions)
        act()
        assert len(remote_config.versions) == published


def test_what_the_team_made_of_our_parameter_stays(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    stage(parameter, 10)
    document = remote_config.document
    moved = document["parameters"].pop(KEY)
    moved["description"] = "which model"
    moved["conditionalValues"]["zz beta testers"] = {"value": "v9"}
    document["parameterGroups"]["Art"]["parameters"][KEY] = moved
    remote_config.edit_by_hand(document)
    stage(parameter, 50, held=10)
    parameter.settle("v2")
    ours = remote_config.document["parameterGroups"]["Art"]["parameters"][KEY]
    assert ours["description"] == "which model"
    assert ours["conditionalValues"] == {"zz beta testers": {"value": "v9"}}
    assert ours["defaultValue"] == {"value": "v2"}
    assert KEY not in remote_config.document["parameters"]


def test_a_condition_that_the_team_uses_too_stays_without_anybody_in_it(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    stage(parameter, 10)
    document = remote_config.document
    document["parameters"]["welcome"]["conditionalValues"]["dualdeploy flowers"] = {"value": "you have the new model"}
    remote_config.edit_by_hand(document)
    parameter.settle("v2")
    assert remote_config.document["conditions"][-1]["expression"] == "percent <= 0"
    assert remote_config.values(KEY) == {"v2"}


def test_what_was_changed_by_hand_is_not_changed_back(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    stage(parameter, 10)
    document = remote_config.document
    document["parameters"][KEY]["defaultValue"] = {"value": "v0"}
    remote_config.edit_by_hand(document)
    with pytest.raises(ParameterMoved, match="changed by hand in Remote Config \\(default v0, staged v2"):
        stage(parameter, 50, held=10)
    parameter.take_back(new="v2", old="v1", before="v1")
    assert remote_config.values(KEY) == {"v0"}


def test_phones_follow_the_pointer_again_if_they_did_before(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    stage(parameter, 10)
    parameter.take_back(new="v2", old="v1", before="")
    assert remote_config.document["parameters"][KEY]["defaultValue"] == {"useInAppDefault": True}
    assert remote_config.values(KEY) == set()
    assert parameter.default() == ""


def test_a_template_that_others_publish_meanwhile_is_read_again(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    theirs = copy.deepcopy(TEAMS)
    theirs["parameters"]["welcome"]["defaultValue"] = {"value": "their newest"}
    edits = iter([theirs])

    def publish_first(name: str) -> None:
        if name == "write" and (edit := next(edits, None)):
            remote_config.edit_by_hand(edit)

    remote_config.faults.before = publish_first
    stage(parameter, 10)
    assert text(without_ours(remote_config.document)) == text(theirs)
    assert remote_config.values(KEY) == {"v1", "v2"}


def test_a_template_that_never_rests_is_left_to_the_next_tick(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    remote_config.faults.plan("write", *[Failing(TemplateChanged("409")) for _ in range(MAX_CONFLICTS)])
    with pytest.raises(LedgerContention, match="published by others 5 times"):
        stage(parameter, 10)
    assert text(remote_config.document) == text(TEAMS)


def test_a_lost_answer_is_found_out_and_not_repeated(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    remote_config.faults.plan("write", Failing(ServiceUnavailable("no answer"), after=True))
    with pytest.raises(ServiceUnavailable):
        stage(parameter, 10)
    published = len(remote_config.versions)
    stage(parameter, 10)
    assert len(remote_config.versions) == published


def test_a_refusal_keeps_googles_words(remote_config: FakeRemoteConfig, parameter: VersionParameter) -> None:
    remote_config.faults.plan("write", Failing(RejectedByGoogle("The caller does not have permission")))
    with pytest.raises(RejectedByGoogle, match="does not have permission"):
        stage(parameter, 10)


@pytest.mark.parametrize("name", ["flowers", "a-b", "a_b", "A" * 32, "-" * 32, "9lives"])
def test_every_published_name_makes_a_key_that_remote_config_takes(name: str) -> None:
    # Letters, digits and _, no digit first, 256 at most. Source: firebase.google.com/docs/remote-config/quotas-limits
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,255}", key_of(name))
    assert len(VersionParameter(FakeRemoteConfig(), name).condition) <= 100


def test_two_names_never_share_a_key() -> None:
    assert len({key_of(name) for name in ("a-b", "a_b", "a--b", "a-_b", "a_-b", "a__b")}) == 6


def test_what_was_done_stands_in_the_templates_history(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    stage(parameter, 10)
    written = json.loads(remote_config.versions[-1])["version"]["description"]
    assert written == "dualdeploy_flowers_version: v2 for 10 % of the installations"
