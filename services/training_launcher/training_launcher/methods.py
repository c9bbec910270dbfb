"""The two ways of training a run: our own trainer, or AutoML. Everything else is the same for both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from dualdeploy.ledger import Run
from dualdeploy.ledger.spending import Estimate
from training_launcher.jobs import Jobs


class Needs(Protocol):
    """What must be there before the jobs of a run can be asked for."""

    def refusal(self, run: Run, validation: Mapping[str, Any]) -> str:
        """Why this data can never be trained on in this way; empty when it can, as far as its validation tells."""

    def waits_for(self, run: Run, estimate: Estimate) -> str:
        """Do what can be done now; what is waited for, empty when everything is there.

        Raises RetryLater, or CannotEverSucceed when it will never be there.
        """

    def over(self, run: Run) -> None:
        """Both trainings of the run are over: it needs nothing any more. Repeating it changes nothing."""


class Nothing:
    """Our own trainer reads the shards itself; implements `Needs`."""

    def refusal(self, run: Run, validation: Mapping[str, Any]) -> str:
        del run, validation
        return ""

    def waits_for(self, run: Run, estimate: Estimate) -> str:
        del run, estimate
        return ""

    def over(self, run: Run) -> None:
        del run


@dataclasses.dataclass(frozen=True)
class Method:
    """One way of training: its jobs, and what they need."""

    jobs: Jobs
    needs: Needs


def name_of(run: Run) -> str:
    """`custom` or `automl`, as the run's own configuration says."""
    return str(run.config.get("training", {}).get("method", "custom"))


@dataclasses.dataclass(frozen=True)
class Methods:
    """Both ways."""

    custom: Method
    automl: Method

    def of(self, run: Run) -> Method:
        """The way in which this run is trained."""
        return self.automl if name_of(run) == "automl" else self.custom
