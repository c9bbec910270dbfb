"""Configuration is read once, and every fault of it is told at once."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_type_hints

import pytest

from cloud_deployer.settings import DeployerSettings
from dualdeploy.settings import CloudSettings, WrongSettings, load, setting, variables
from job_notifier.settings import NotifierSettings
from mobile_publisher.settings import PublisherSettings
from training_launcher.settings import LauncherSettings

ENVIRONMENT = {
    "GOOGLE_CLOUD_PROJECT": "demo",
    "GOOGLE_CLOUD_REGION": "us-central1",
    "LEDGER_BUCKET": "demo-ledger",
    "CONFIG_BUCKET": "demo-config",
    "MODELS_BUCKET": "demo-models",
    "PUSH_AUDIENCES": "https://demo.example",
    "PUSH_SERVICE_ACCOUNTS": "caller@demo.iam.gserviceaccount.com",
}


@dataclasses.dataclass(frozen=True)
class Everything:
    word: str = setting("WORD", "a word")
    count: int = setting("COUNT", "how many", default=3)
    share: float = setting("SHARE", "how much", default=0.5)
    loud: bool = setting("LOUD", "whether to shout", default=False)


@dataclasses.dataclass(frozen=True)
class Bounded:
    wait: float = setting("WAIT", "seconds to wait", default=5.0, minimum=0.5)
    workers: int = setting("WORKERS", "how many work", default=2, minimum=1)
    retries: int = setting("RETRIES", "how often to try again", default=3, minimum=0)


def test_what_is_set_is_parsed_by_type_and_what_is_not_is_the_default() -> None:
    read = load(CloudSettings, {**ENVIRONMENT, "LEASE_SECONDS": "30"})

    assert read == CloudSettings(
        project="demo",
        region="us-central1",
        ledger_bucket="demo-ledger",
        config_bucket="demo-config",
        models_bucket="demo-models",
        push_audiences="https://demo.example",
        push_service_accounts="caller@demo.iam.gserviceaccount.com",
        lease_seconds=30.0,
    )


def test_every_missing_and_every_wrong_variable_is_named_in_one_error() -> None:
    wrong = {"COUNT": "many", "SHARE": "nan", "LOUD": "yes"}

    with pytest.raises(WrongSettings) as caught:
        load(Everything, wrong)

    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 4
    assert "WORD is not set (a word)" in lines[0]
    assert "COUNT='many' is wrong" in lines[1]
    assert "SHARE='nan' is wrong: must be a finite number (how much)" in lines[2]
    assert "LOUD='yes' is wrong: must be true or false (whether to shout)" in lines[3]


def test_every_number_below_its_minimum_is_told_together_with_the_other_faults() -> None:
    with pytest.raises(WrongSettings) as caught:
        load(Bounded, {"WAIT": "0.4", "WORKERS": "0", "RETRIES": "often"})

    lines = str(caught.value).splitlines()[1:]
    assert lines[0].strip() == "WAIT='0.4' is wrong: must be at least 0.5 (seconds to wait)"
    assert lines[1].strip() == "WORKERS='0' is wrong: must be at least 1 (how many work)"
    assert "RETRIES='often' is wrong" in lines[2]
    assert len(lines) == 3


def test_the_minimum_itself_is_accepted() -> None:
    assert load(Bounded, {"WAIT": "0.5", "WORKERS": "1", "RETRIES": "0"}) == Bounded(0.5, 1, 0)


@pytest.mark.parametrize("seconds", ["0", "-1", "0.99", "nan", "inf"])
def test_a_lease_that_could_not_be_held_is_refused(seconds: str) -> None:
    with pytest.raises(WrongSettings, match="LEASE_SECONDS"):
        load(CloudSettings, {**ENVIRONMENT, "LEASE_SECONDS": seconds})


@pytest.mark.parametrize("blank", ["", "   ", "\n"])
def test_a_blank_variable_counts_as_not_set(blank: str) -> None:
    with pytest.raises(WrongSettings, match="WORD is not set"):
        load(Everything, {"WORD": blank})
    assert load(Everything, {"WORD": "x", "COUNT": blank}).count == 3


def test_surrounding_white_space_is_not_part_of_a_value() -> None:
    assert load(Everything, {"WORD": " x\n", "LOUD": " TRUE "}) == Everything("x", 3, 0.5, True)


def test_explicit_beats_environment_beats_default() -> None:
    environment = {"WORD": "environment", "COUNT": "5"}

    assert load(Everything, environment, word="explicit") == Everything("explicit", 5, 0.5, False)


def test_an_explicit_value_makes_up_for_a_wrong_variable() -> None:
    assert load(Everything, {"WORD": "x", "COUNT": "many"}, count=1).count == 1


def test_settings_cannot_be_changed_afterwards() -> None:
    read = load(Everything, {"WORD": "x"})

    with pytest.raises(dataclasses.FrozenInstanceError):
        read.word = "y"  # type: ignore[misc]  # that is the point


def test_variables_tells_what_a_service_reads_and_what_it_needs() -> None:
    assert variables(Everything) == {"WORD": True, "COUNT": False, "SHARE": False, "LOUD": False}
    assert {name for name, needed in variables(CloudSettings).items() if needed} == set(ENVIRONMENT)


@dataclasses.dataclass(frozen=True)
class Choosing:
    mode: Literal["remove", "report"] = setting("MODE", "what becomes of what is left", default="remove")


@pytest.mark.parametrize("text", ["Report", "REMOVE", "reprot", "report,remove", "none", "true"])
def test_a_word_that_is_not_among_the_choices_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(WrongSettings, match=r"MODE='.*' is wrong: must be one of remove, report"):
        load(Choosing, {"MODE": text})
    assert load(Choosing, {"MODE": " report "}).mode == "report"
    assert load(Choosing, {}).mode == "remove"


@pytest.mark.parametrize(
    "kind", [CloudSettings, DeployerSettings, LauncherSettings, NotifierSettings, PublisherSettings]
)
def test_every_number_that_a_service_reads_has_a_smallest_one(kind: type[Any]) -> None:
    types = get_type_hints(kind)
    numbers = {field.name: field.metadata for field in dataclasses.fields(kind) if types[field.name] in (int, float)}
    assert numbers
    assert [name for name, metadata in numbers.items() if metadata["minimum"] is None] == []
