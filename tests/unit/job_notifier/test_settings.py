"""What job_notifier accepts from its environment."""

from __future__ import annotations

import pytest

from dualdeploy.settings import WrongSettings, load, variables
from job_notifier.settings import NotifierSettings

ENVIRONMENT = {name: "x" for name, needed in variables(NotifierSettings).items() if needed}


def test_an_announcement_may_be_repeated_at_once() -> None:
    assert load(NotifierSettings, {**ENVIRONMENT, "ANNOUNCE_GRACE_SECONDS": "0"}).announce_grace_seconds == 0


def test_times_that_cannot_be_are_told_together() -> None:
    wrong = {**ENVIRONMENT, "ANNOUNCE_GRACE_SECONDS": "-1", "LEASE_SECONDS": "0"}

    with pytest.raises(WrongSettings, match="LEASE_SECONDS='0' is wrong: must be at least 1") as caught:
        load(NotifierSettings, wrong)

    assert "ANNOUNCE_GRACE_SECONDS='-1' is wrong: must be at least 0" in str(caught.value)
