"""Our parameter in a template that belongs to a whole app team: nothing of theirs is touched, nobody is run over."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from dualdeploy.errors import LedgerContention, RejectedByGoogle, ServiceUnavailable
from dualdeploy.google.remote_config import TemplateChanged
from mobile_publisher.version_parameter import MAX_CONFLICTS, ParameterMoved, VersionParameter, key_of
from support.fakes import Failing, FakeRemoteConfig

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


SEED = "0123456789ab"


def stage(parameter: VersionParameter, share: int, *, held: int | None = None, before: str = "") -> None:
    parameter.stage(old="v1", new="v2", seed=SEED, share=share, held=held, before=before)


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
        lambda: parameter.end_rollout(new="v2", old="v1", seed=SEED, held=50),
        lambda: stage(parameter, 10, before="v2"),
        lambda: parameter.take_back(new="v2", old="v1", before="v1"),
        lambda: parameter.settle("", before="v1"),
    ):
        act()
        assert text(without_ours(remote_config.document)) == text(TEAMS)


def test_in_an_empty_project_nothing_is_left_but_the_parameter() -> None:
    remote_config = FakeRemoteConfig()
    parameter = VersionParameter(remote_config, "flowers")
    stage(parameter, 10)
    parameter.settle("v2", before="v1")
    assert list(remote_config.document) == ["parameters"]
    assert parameter.default() == "v2"


def test_repeating_a_change_publishes_nothing(remote_config: FakeRemoteConfig, parameter: VersionParameter) -> None:
    for act in (
        lambda: stage(parameter, 10),
        lambda: parameter.end_rollout(new="v2", old="v1", seed=SEED, held=10),
        lambda: parameter.settle("v3", before="v2"),
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
    parameter.settle("v2", before="v1")
    ours = remote_config.document["parameterGroups"]["Art"]["parameters"][KEY]
    assert ours["description"] == "which model"
    assert ours["conditionalValues"] == {"zz beta testers": {"value": "v9"}}
    assert ours["defaultValue"] == {"value": "v2"}
    assert KEY not in remote_config.document["parameters"]


def test_a_condition_that_the_team_uses_too_stays_without_anyone_in_it(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    stage(parameter, 10)
    document = remote_config.document
    document["parameters"]["welcome"]["conditionalValues"]["dualdeploy flowers"] = {"value": "you have the new model"}
    remote_config.edit_by_hand(document)
    parameter.settle("v2", before="v1")
    assert remote_config.document["conditions"][-1]["expression"] == "percent <= 0"
    assert remote_config.values(KEY) == {"v2"}


def by_hand(remote_config: FakeRemoteConfig, **changes: Any) -> None:
    """What someone does in the console: our parameter, or with `condition` our condition's expression."""
    document = remote_config.document
    if "condition" in changes:
        document["conditions"][-1]["expression"] = changes["condition"]
    else:
        document["parameters"][KEY].update(changes)
    remote_config.edit_by_hand(document)


CHANGES = {
    "another default": {"defaultValue": {"value": "v0"}},
    "no default": {"defaultValue": {"useInAppDefault": True}},
    "a personalised default": {"defaultValue": {"personalizationValue": {"personalizationId": "p1"}}},
    "another version for the share": {"conditionalValues": {"dualdeploy flowers": {"value": "v9"}}},
    "nothing for the share": {"conditionalValues": {}},
    "a rollout of theirs for the share": {
        "conditionalValues": {"dualdeploy flowers": {"rolloutValue": {"rolloutId": "r1", "value": "v9", "percent": 5}}}
    },
    "another share": {"condition": "percent('0123456789ab') <= 90"},
    "another condition": {"condition": "app.version.>=(['3.1.0'])"},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("act", ["the next share", "a look", "everybody's turn"])
def test_what_was_changed_by_hand_in_a_rollout_ends_it_and_is_not_changed(
    remote_config: FakeRemoteConfig, parameter: VersionParameter, act: str, changes: dict[str, Any]
) -> None:
    stage(parameter, 10)
    by_hand(remote_config, **changes)
    theirs = text(remote_config.document)
    acts = {
        "the next share": lambda: stage(parameter, 50, held=10),
        "a look": lambda: parameter.check(old="v1", new="v2", seed=SEED, share=10),
        "everybody's turn": lambda: parameter.end_rollout(new="v2", old="v1", seed=SEED, held=10),
    }
    with pytest.raises(ParameterMoved, match=r"changed by hand in Remote Config \(default .*redeploy to begin anew"):
        acts[act]()
    assert text(remote_config.document) == theirs


def test_a_default_that_is_not_a_version_is_left_to_the_team(
    remote_config: FakeRemoteConfig, parameter: VersionParameter
) -> None:
    parameter.settle("v1", before="")
    by_hand(remote_config, **CHANGES["a personalised default"])
    theirs = text(remote_config.document)
    for act in (
        parameter.default,
        lambda: stage(parameter, 10, before="v1"),
        lambda: parameter.settle("v2", before="v1"),
        lambda: parameter.settle("", before="v1"),
    ):
        with pytest.raises(ParameterMoved, match="personalizationValue"):
            act()
    assert text(remote_config.document) == theirs


@pytest.mark.parametrize("act", ["the first share", "everybody's at once", "the pointer's turn"])
def test_a_default_that_was_chosen_after_the_plan_is_not_changed(
    remote_config: FakeRemoteConfig, parameter: VersionParameter, act: str
) -> None:
    parameter.settle("v1", before="")
    by_hand(remote_config, defaultValue={"value": "v0"})
    acts = {
        "the first share": lambda: stage(parameter, 10, before="v1"),
        "everybody's at once": lambda: parameter.settle("v2", before="v1"),
        "the pointer's turn": lambda: parameter.settle("", before="v1"),
    }
    with pytest.raises(ParameterMoved, match="default v0, it was v1"):
        acts[act]()
    assert remote_config.values(KEY) == {"v0"}


@pytest.mark.parametrize(
    ("changes", "left", "told"),
    [
        ({}, {"v1"}, ""),
        (CHANGES["another default"], {"v0"}, "its default v0 was chosen by hand"),
        (CHANGES["no default"], set(), ""),
        (CHANGES["another version for the share"], {"v1", "v9"}, "v9 was staged by hand"),
        (CHANGES["another share"], {"v1"}, ""),
        (CHANGES["a personalised default"], set(), "its default (personalizationValue) was chosen by hand"),
        (CHANGES["a rollout of theirs for the share"], {"v1"}, "(rolloutValue) was staged by hand"),
    ],
    ids=range(7),
)
def test_taking_a_rollout_back_leaves_what_someone_chose_and_tells_it(
    remote_config: FakeRemoteConfig, parameter: VersionParameter, changes: Any, left: set[str], told: str
) -> None:
    parameter.settle("v1", before="")
    stage(parameter, 10, before="v1")
    if changes:
        by_hand(remote_config, **changes)
    assert parameter.take_back(new="v2", old="v1", before="v1") == told
    assert remote_config.values(KEY) == left


def test_what_was_taken_back_is_not_staged_by_an_instance_that_was_frozen_before_it_wrote(
    remote_config: FakeRemoteConfig,
) -> None:
    """Nothing of the rollout was there to be taken back yet; its write must fail, and must not be decided anew."""
    is_taken_back = False

    def guard() -> None:
        if is_taken_back:
            raise LedgerContention("another instance has gone on")

    def freeze(name: str) -> None:
        nonlocal is_taken_back
        if name == "write" and not is_taken_back:
            is_taken_back = True
            VersionParameter(remote_config, "flowers").take_back(new="v2", old="v1", before="")

    remote_config.faults.before = freeze
    with pytest.raises(LedgerContention, match="has gone on"):
        stage(VersionParameter(remote_config, "flowers", guard=guard), 10)
    assert remote_config.values(KEY) == set()


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
