"""Which deployed models, versions and endpoints of a data set nothing needs any more: decided, not done.

Ours is what stands on an endpoint with our label, is a version of our model and is named after a run of ours. Whatever
else is there, whatever has traffic, and whatever a release has a claim on, stays.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from cloud_deployer.hygiene import Idle, Removal
from dualdeploy import clock as clocks
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.ledger import Live, dataset_of
from dualdeploy.vertex import DATASET_LABEL, DeployedModel, Endpoint, ModelVersion

#: A configuration that is taken away for a moment, to be replaced, must not cost anybody an endpoint.
UNCONFIGURED_GRACE = datetime.timedelta(days=1)

#: Versions with these are spoken for in the Model Registry itself.
CLAIMED_ALIASES = frozenset({"live", "previous", "candidate"})


@dataclasses.dataclass(frozen=True)
class Holdings:
    """Everything of one data set, as it is now. `config` is None when it has none, `unconfigured_since` since when.

    `endpoints` are those with the label of the data set, `active` the runs that are not through yet, `idle` what nobody
    asks.
    """

    dataset: str
    model_id: str
    config: DatasetConfig | None
    unconfigured_since: datetime.datetime | None
    live: Live | None
    endpoints: Sequence[Endpoint]
    versions: Sequence[ModelVersion]
    active: frozenset[str]
    now: datetime.datetime
    idle: Idle | None = None

    @property
    def sleeps(self) -> bool:
        """Whether what serves is to be taken down because nobody asks it."""
        return bool(self.idle and self.config and self.config.serving.idle == "undeploy")


@dataclasses.dataclass(frozen=True)
class Surplus:
    """`left` says what costs and stays; `until` is when the next cool-down ends, if one is under way."""

    removals: Sequence[Removal]
    left: Sequence[str]
    until: datetime.datetime | None


def find_surplus(holdings: Holdings) -> Surplus:
    """In the order in which they can be removed: a version that is deployed, or an endpoint that serves, cannot be."""
    removals: list[Removal] = []
    left: list[str] = []
    until = cool_down_end(holdings)
    for endpoint in holdings.endpoints:
        # What serves comes last: Vertex AI undeploys a model that has traffic only when it is the only one left.
        for deployed in sorted(endpoint.deployed, key=lambda each: endpoint.traffic.get(each.id, 0)):
            verdict = _judge(deployed, endpoint, holdings)
            if isinstance(verdict, Removal):
                removals.append(verdict)
            elif verdict:
                left.append(verdict)
    removals += _surplus_versions(holdings)
    removals += _surplus_endpoints(holdings)
    return Surplus(removals, left, until if until and until > holdings.now else None)


def cool_down_end(holdings: Holdings) -> datetime.datetime | None:
    """When the release that was live before loses its claim on a machine."""
    if holdings.live is None or holdings.live.previous is None or holdings.config is None:
        return None
    replaced = clocks.from_text(holdings.live.current.since)
    return replaced + datetime.timedelta(seconds=holdings.config.serving.cool_down)


def is_ours(deployed: DeployedModel, endpoint: Endpoint, holdings: Holdings) -> bool:
    """By the endpoint's label, the model's id and the name that we gave it, all three."""
    return (
        endpoint.labels.get(DATASET_LABEL) == holdings.dataset
        and deployed.model.rsplit("/", 1)[-1].partition("@")[0] == holdings.model_id
        and dataset_of(deployed.display_name) == holdings.dataset
    )


def _judge(deployed: DeployedModel, endpoint: Endpoint, holdings: Holdings) -> Removal | str:
    """Its removal, or why it stays; nothing for what is simply as it should be."""
    name = f"deployed model {deployed.id} of endpoint {endpoint.id} ({deployed.display_name})"
    live = holdings.live
    serving = str(live.current.facts.get("deployed_model", "")) if live else ""
    if not is_ours(deployed, endpoint, holdings):
        return f"{name} is not ours"
    if deployed.id == serving and holdings.sleeps and holdings.idle and holdings.idle.endpoint == endpoint.id:
        reason = f"nobody has asked it since {holdings.idle.since} (serving.idle: undeploy)"
        return _removal(deployed, endpoint, reason)
    if share := endpoint.traffic.get(deployed.id, 0):
        return "" if deployed.id == serving else f"{name} has {share} % of the traffic, and is not what is live"
    if deployed.id == serving:
        return f"{name} is live and has no traffic: somebody moved it away by hand"
    if live and live.previous and deployed.id == str(live.previous.facts.get("deployed_model", "")):
        return _judge_previous(deployed, endpoint, holdings, live)
    return _removal(deployed, endpoint, "no release has a claim on it")


def _judge_previous(deployed: DeployedModel, endpoint: Endpoint, holdings: Holdings, live: Live) -> Removal | str:
    """What served before, and has no traffic: kept for a rollback, for so long as there is something to roll back."""
    name = f"deployed model {deployed.id} of endpoint {endpoint.id} ({deployed.display_name})"
    if holdings.sleeps:
        return _removal(deployed, endpoint, "kept for a rollback of what nobody asks (serving.idle: undeploy)")
    if holdings.config and holdings.config.serving.keep_previous:
        return f"{name} is kept for a rollback (serving.keep_previous)"
    end = cool_down_end(holdings)
    if end and end > holdings.now:
        return f"{name} is kept for a rollback until {clocks.to_text(end)} (serving.cool_down)"
    return _removal(deployed, endpoint, f"replaced by {live.current.run_id}, and its cool-down is over")


def _removal(deployed: DeployedModel, endpoint: Endpoint, reason: str) -> Removal:
    return Removal(
        kind="deployed model", id=deployed.id, endpoint=endpoint.id, run_id=deployed.display_name, reason=reason
    )


def _surplus_versions(holdings: Holdings) -> list[Removal]:
    if holdings.config is None:
        return []
    keep = holdings.config.serving.keep_versions
    ours = [version for version in holdings.versions if _run_of(version, holdings)]
    older = ours[:-keep]
    deployed = {
        (one.model.partition("@")[0], one.version) for endpoint in holdings.endpoints for one in endpoint.deployed
    }
    claimed = set(holdings.active)
    if holdings.live:
        releases = (holdings.live.current, holdings.live.previous)
        claimed |= {release.run_id for release in releases if release}
    return [
        Removal(
            kind="model version",
            id=version.version,
            run_id=_run_of(version, holdings),
            reason=f"{len(ours)} versions, the newest {keep} are kept (serving.keep_versions)",
            heir=ours[-1].version if "default" in version.aliases else "",
        )
        for version in older
        if _run_of(version, holdings) not in claimed
        and not CLAIMED_ALIASES & set(version.aliases)
        and (version.name, version.version) not in deployed
    ]


def _run_of(version: ModelVersion, holdings: Holdings) -> str:
    """The run that a version was made of; empty for one that somebody else added."""
    if version.labels.get(DATASET_LABEL) != holdings.dataset:
        return ""
    return next((alias for alias in version.aliases if dataset_of(alias) == holdings.dataset), "")


def _surplus_endpoints(holdings: Holdings) -> list[Removal]:
    removals = []
    for endpoint in holdings.endpoints:
        if endpoint.deployed:
            continue
        if holdings.config:
            recorded = str(holdings.live.current.facts.get("endpoint", "")) if holdings.live else ""
            if endpoint.id in (holdings.config.serving.endpoint, recorded.rsplit("/", 1)[-1]):
                continue
            reason = f"{holdings.dataset} has the endpoint {holdings.config.serving.endpoint} now"
        else:
            since = holdings.unconfigured_since
            if since is None or holdings.now < since + UNCONFIGURED_GRACE:
                continue
            reason = f"{holdings.dataset} has had no configuration since {clocks.to_text(since)}"
        removals.append(Removal(kind="endpoint", id=endpoint.id, reason=reason))
    return removals
