"""What a release of the cloud model, and what serves, say in the ledger.

Everything that a later step needs stands here, fixed when the release began or found out on its way. Fields that this
version does not know are kept (`ledger.Document`).
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from cloud_deployer import traffic
from dualdeploy import clock as clocks
from dualdeploy.contracts.prediction import Form
from dualdeploy.google.vertex import Deployment
from dualdeploy.ledger import Document, Release, Served, Serving

TARGET = "cloud"

#: An undeployment that was about to begin longer ago is over, or never began, however long its instance was frozen.
LEAVING_SECONDS = 24 * 3600.0

_DEPLOYMENT = pydantic.TypeAdapter(Deployment)


class DeploymentPlan(Document):
    """How a version is deployed; the rest of `vertex.Deployment` is kept beside what is named here."""

    id: str
    model: str
    display_name: str
    machine: str
    min_replicas: int = 1
    accelerator_type: str = ""
    accelerator_count: int = 0
    scale_to_zero: Mapping[str, float] | None = None
    automatic: bool = False

    @classmethod
    def of(cls, deployment: Deployment) -> DeploymentPlan:
        return cls.model_validate(dataclasses.asdict(deployment))

    def to_vertex(self) -> Deployment:
        return _DEPLOYMENT.validate_python(self.model_dump())


class Watched(Document):
    """What Cloud Monitoring must have seen of the new model (`dataset_config.Monitored`). Seconds, shares up to 1."""

    max_error_rate: float = 0.05
    max_latency: float | None = None
    wait: float = 600.0


class Limits(Document):
    """How the new model gets its traffic, and what it must hold (`dataset_config.Canary`). Seconds, shares up to 1.

    `accuracy` is the model's own on its held-out pictures: held against where golden pictures have true labels and no
    answers of the model. None where they have answers.
    """

    steps: tuple[int, ...] = (100,)
    bake: float = 0.0
    answers: int = 10
    min_agreement: float = 0.9
    max_error_rate: float = 0.1
    max_latency_ratio: float = 2.0
    latency_slack: float = 0.25
    max_latency: float | None = None
    accuracy: float | None = None
    monitoring: Watched | None = None


class Tally(Document):
    """What came of the probes of one step; durations in seconds."""

    requests: int = 0
    failures: int = 0
    first_failure: str = ""
    agreed: int = 0
    candidate_seconds: tuple[float, ...] = ()
    other_seconds: tuple[float, ...] = ()


class InPlace(Document):
    """A release that takes down what serves before it deploys what shall; `former` is what goes back if it fails.

    `former` has an id of its own, because that of what serves now (`former_id`) was used. Both are empty when nothing
    of ours served. `leaving` is what is just being undeployed, noted before it begins, and `leaving_by` the operation,
    once it is known; `returns` counts how often the candidate was in the way on the way back.
    """

    former: DeploymentPlan | None = None
    former_id: str = ""
    leaving: str = ""
    leaving_by: str = ""
    returns: int = 0


class Rollout(Document):
    """How one release gets its traffic. `before` is the split that was there: empty when nothing else served.

    `endpoint` is the endpoint's id, `candidate` the id under which `deployment` is, or already was, deployed.
    `formerly` are the data sets that held the endpoint before. `begun` is the last operation that this release began
    on the endpoint. A candidate that is still deployed may be in `before`, with a share that someone gave it by hand.
    `form` is how probes send their pictures: the candidate takes it, and so does everything that has traffic.
    """

    endpoint: str
    candidate: str
    deployment: DeploymentPlan
    before: Mapping[str, int] = {}
    limits: Limits = Limits()
    keep_previous: int = 0
    cool_down: float = 0.0
    formerly: tuple[str, ...] = ()
    form: Form = "b64"
    index: int = 0
    shifted_at: str = ""
    baseline: Tally = Tally()
    tally: Tally = Tally()
    passed: tuple[Mapping[str, Any], ...] = ()
    begun: str = ""
    begun_at: str = ""
    in_place: InPlace | None = None

    @property
    def share(self) -> int:
        """Percent of the traffic."""
        return self.limits.steps[self.index]

    @property
    def is_last_share(self) -> bool:
        return self.index + 1 >= len(self.limits.steps)

    def split(self, index: int) -> dict[str, int]:
        """The split at a share; before the first one, everything is as it was."""
        if index < 0:
            return dict(self.before)
        return traffic.with_share(self.before, self.candidate, self.limits.steps[index])

    @property
    def split_without(self) -> dict[str, int]:
        """The split to go back to; empty when nothing else served."""
        return traffic.without(self.before, self.candidate)


class Measured(Document):
    """How the model that serves (`live`) does on the pictures of a run: `metrics`, or the `problem` why nobody knows.

    Empty when there is nothing to compare with. Not `possible`: these two models cannot be measured on the same
    pictures at all, so nothing was tried that could have failed.
    """

    live: str = ""
    metrics: Mapping[str, Any] | None = None
    problem: str = ""
    possible: bool = True


class EvaluationJob(Document):
    """The job that measures the model that serves; `most_usd` is the most that it can cost, if that is known."""

    live: str
    job: str
    most_usd: float | None = None


class CloudRelease(Release):
    """One release of a cloud model. `snapshot` is the digest of its data, `trained_because` why its run was claimed.

    `model` and `endpoint` are full resource names; `result`, `saved_model`, `golden` and `card` are URIs.
    `deployed_model` is what serves for it on the endpoint, `undeploying` what it is just taking down there. `managed`:
    AutoML trained it, so Google keeps the model. `takes_content`: its pictures may be sent as AutoML's are.
    """

    snapshot: str = ""
    trained_because: str = ""
    result: str = ""
    measured: Measured | None = None
    evaluation: EvaluationJob | None = None
    gate: Mapping[str, Any] | None = None
    accuracy: float | None = None
    saved_model: str = ""
    golden: str = ""
    labels: tuple[str, ...] = ()
    card: str = ""
    model: str = ""
    model_version: str = ""
    managed: bool = False
    takes_content: bool = False
    endpoint: str = ""
    endpoint_dns: str = ""
    rollout: Rollout | None = None
    deployed_model: str = ""
    undeploying: str = ""

    @property
    def plan(self) -> Rollout:
        """Its rollout, which every step after `plan` has."""
        if self.rollout is None:
            raise RuntimeError(f"{self.name} is at {self.step} without a plan")
        return self.rollout

    def with_plan(self, **changes: Any) -> CloudRelease:
        return self.changed(rollout=self.plan.changed(**changes))

    @property
    def place(self) -> InPlace:
        """What a release in place keeps of what it replaces."""
        if self.plan.in_place is None:
            raise RuntimeError(f"{self.name} is at {self.step} and does not replace anything in place")
        return self.plan.in_place

    def with_place(self, **changes: Any) -> CloudRelease:
        return self.with_plan(in_place=self.place.changed(**changes))


class CloudServed(Served):
    """`model` and `endpoint` are full resource names; `deployment` says how it was deployed.

    `takes_content`: pictures may be sent to it as AutoML's models take them (`contracts.prediction`); whoever asks the
    endpoint decides by it.
    """

    model: str = ""
    model_version: str = ""
    endpoint: str = ""
    endpoint_dns: str = ""
    deployed_model: str = ""
    accuracy: float | None = None
    deployment: DeploymentPlan | None = None
    takes_content: bool = False

    @property
    def endpoint_id(self) -> str:
        return self.endpoint.rsplit("/", 1)[-1]


class Leaving(Document):
    """An undeployment that was about to begin at `at`; `operation` is empty until it is known that it did."""

    at: str
    operation: str = ""


class CloudServing(Serving):
    """`leaving` says, by the ids of deployed models, which undeployments may be under way: noted before they begin.

    A model that stands there gets no traffic, and a release that wants it back deploys it anew.
    """

    current: CloudServed | None = None
    previous: CloudServed | None = None
    leaving: Mapping[str, Leaving] = {}

    def with_leaving(self, deployed_id: str, operation: str = "", *, now: datetime.datetime) -> CloudServing:
        """Noted; what was noted so long ago that it has come to its end is forgotten."""
        since = clocks.to_text(now - datetime.timedelta(seconds=LEAVING_SECONDS))
        known = {key: each for key, each in self.leaving.items() if each.at >= since}
        return self.changed(leaving={**known, deployed_id: Leaving(at=clocks.to_text(now), operation=operation)})

    def without_leaving(self, deployed_id: str) -> CloudServing:
        return self.changed(leaving={key: each for key, each in self.leaving.items() if key != deployed_id})


#: What an announcement links to.
LINKS: Sequence[str] = (
    "result",
    "saved_model",
    "golden",
    "card",
    "model",
    "model_version",
    "endpoint",
    "endpoint_dns",
    "deployed_model",
)
