"""Which deployed models, versions and endpoints of a data set nothing needs any more: decided, not done.

Ours is what stands on an endpoint that the data set holds, is a version of our model and is named after a run of ours.
Whatever else is there, whatever has traffic, and whatever a release has a claim on, stays.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from cloud_deployer.cleanup.idle import monthly_usd_of
from cloud_deployer.cleanup.report import DEPLOYED_MODEL, ENDPOINT, MODEL_VERSION, Idle, Removal
from cloud_deployer.naming import CANDIDATE, LIVE, PREVIOUS, model_id_in, model_id_of, model_ids_of
from cloud_deployer.release import CloudServed, CloudServing
from dualdeploy import clock as clocks
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.google.vertex import DATASET_LABEL, DeployedModel, Endpoint, ModelVersion
from dualdeploy.ledger import dataset_of

#: A configuration that is taken away for a moment, to be replaced, must not cost anyone an endpoint or the way back.
UNCONFIGURED_GRACE = datetime.timedelta(days=1)

#: Versions with these are spoken for in the Model Registry itself.
CLAIMED_ALIASES = frozenset({LIVE, PREVIOUS, CANDIDATE})


@dataclasses.dataclass(frozen=True)
class Holdings:
    """Everything of one data set, as it is now. `config` is None when it has none, `unconfigured_since` since when.

    `endpoints` are those that it holds, `formerly` by endpoint who held it before, `wanted` the endpoints that any
    configuration names. `active` are the runs that are not through yet, `idle` is what no one asks.
    """

    dataset: str
    region: str
    config: DatasetConfig | None
    unconfigured_since: datetime.datetime | None
    serving: CloudServing
    endpoints: Sequence[Endpoint]
    formerly: Mapping[str, Sequence[str]]
    wanted: frozenset[str]
    versions: Sequence[ModelVersion]
    active: frozenset[str]
    now: datetime.datetime
    idle: Idle | None = None

    @property
    def sleeps(self) -> bool:
        """Whether what serves is to be taken down because no one asks it."""
        return bool(self.idle and self.config and self.config.serving.idle == "undeploy")

    @property
    def is_in_grace(self) -> bool:
        """Whether its configuration went so lately that it may be just being replaced."""
        since = self.unconfigured_since
        return since is not None and self.now < since + UNCONFIGURED_GRACE

    def is_current(self, deployed: DeployedModel) -> bool:
        return self.serving.current is not None and self.serving.current.deployed_model == deployed.id

    def is_previous(self, deployed: DeployedModel) -> bool:
        return self.serving.previous is not None and self.serving.previous.deployed_model == deployed.id


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
    serving = holdings.serving
    if serving.current is None or serving.previous is None or holdings.config is None:
        return None
    replaced = clocks.from_text(serving.current.since)
    return replaced + datetime.timedelta(seconds=holdings.config.serving.cool_down)


def is_ours(deployed: DeployedModel, endpoint: Endpoint, holdings: Holdings) -> bool:
    """By the claim on the endpoint, the model's id and the name that we gave it, all three."""
    named = dataset_of(deployed.display_name)
    holders = {holdings.dataset, *holdings.formerly.get(endpoint.id, ())}
    return named in holders and model_id_in(deployed.model) in model_ids_of(named)


def _judge(deployed: DeployedModel, endpoint: Endpoint, holdings: Holdings) -> Removal | str:
    """Its removal, or why it stays; nothing for what is simply as it should be."""
    name = f"deployed model {deployed.id} of endpoint {endpoint.id} ({deployed.display_name})"
    idle = holdings.idle
    if not is_ours(deployed, endpoint, holdings):
        return f"{name} is not ours"
    if holdings.is_current(deployed) and holdings.sleeps and idle and idle.endpoint == endpoint.id:
        return _removal(deployed, endpoint, f"it has had no request since {idle.since} (serving.idle: undeploy)")
    if share := endpoint.traffic.get(deployed.id, 0):
        stands = f"{name} has {share} % of the traffic, and is not what is live"
        is_current = holdings.is_current(deployed)
        return _costs(f"{name} serves {share} %", holdings.serving.current, holdings) if is_current else stands
    if holdings.is_current(deployed):
        return f"{name} is live and has no traffic: someone moved it away by hand"
    if holdings.is_previous(deployed):
        return _judge_previous(deployed, endpoint, holdings)
    return _removal(deployed, endpoint, "no release has a claim on it")


def _costs(what: str, served: CloudServed | None, holdings: Holdings) -> str:
    """What a data set without a configuration costs, for as long as it does."""
    since = holdings.unconfigured_since
    if since is None:
        return ""
    usd = monthly_usd_of(served.deployment, region=holdings.region) if served and served.deployment else None
    price = "an unknown price" if usd is None else f"{usd:.2f} USD"
    why = f"{holdings.dataset} has had no configuration since {clocks.to_text(since)}"
    return f"{what} and costs {price} a month, but {why}: configure it again, or send it to /retire"


def _judge_previous(deployed: DeployedModel, endpoint: Endpoint, holdings: Holdings) -> Removal | str:
    """What served before, and has no traffic: kept for a rollback, for so long as there is something to roll back."""
    name = f"deployed model {deployed.id} of endpoint {endpoint.id} ({deployed.display_name})"
    current = holdings.serving.current
    if holdings.sleeps:
        return _removal(deployed, endpoint, "kept for a rollback of a model without requests (serving.idle: undeploy)")
    if holdings.is_in_grace:
        return _costs(f"{name} is kept for a rollback", holdings.serving.previous, holdings)
    if holdings.config and holdings.config.serving.keep_previous:
        return f"{name} is kept for a rollback (serving.keep_previous)"
    end = cool_down_end(holdings)
    if end and end > holdings.now:
        return f"{name} is kept for a rollback until {clocks.to_text(end)} (serving.cool_down)"
    by = current.run_id if current else "nothing"
    return _removal(deployed, endpoint, f"replaced by {by}, and its cool-down is over")


def _removal(deployed: DeployedModel, endpoint: Endpoint, reason: str) -> Removal:
    return Removal(
        kind=DEPLOYED_MODEL, id=deployed.id, endpoint=endpoint.id, run_id=deployed.display_name, reason=reason
    )


def _surplus_versions(holdings: Holdings) -> list[Removal]:
    if holdings.config is None:
        return []
    mine = [version for version in holdings.versions if _run_of(version, holdings)]
    models = dict.fromkeys(model_id_in(version.name) for version in mine)
    of_each = ([version for version in mine if model_id_in(version.name) == model] for model in models)
    keep = holdings.config.serving.keep_versions
    return [removal for versions in of_each for removal in _surplus_of_model(versions, keep, holdings)]


def _surplus_of_model(mine: Sequence[ModelVersion], keep: int, holdings: Holdings) -> list[Removal]:
    """Of the versions of one model, oldest first: a model of ours, or of AutoML's."""
    older = mine[:-keep]
    deployed = {(model_id_in(one.model), one.version) for endpoint in holdings.endpoints for one in endpoint.deployed}
    served = (holdings.serving.current, holdings.serving.previous)
    claimed = holdings.active | {each.run_id for each in served if each}
    return [
        Removal(
            kind=MODEL_VERSION,
            id=version.version,
            run_id=_run_of(version, holdings),
            reason=f"{len(mine)} versions, the newest {keep} are kept (serving.keep_versions)",
            heir=mine[-1].version if "default" in version.aliases else "",
            model="" if model_id_in(version.name) == model_id_of(holdings.dataset) else model_id_in(version.name),
        )
        for version in older
        if _run_of(version, holdings) not in claimed
        and not CLAIMED_ALIASES & set(version.aliases)
        and (model_id_in(version.name), version.version) not in deployed
    ]


def _run_of(version: ModelVersion, holdings: Holdings) -> str:
    """The run that a version was made of; empty for one that someone else added."""
    if version.labels.get(DATASET_LABEL) != holdings.dataset:
        return ""
    return next((alias for alias in version.aliases if dataset_of(alias) == holdings.dataset), "")


def _surplus_endpoints(holdings: Holdings) -> list[Removal]:
    removals = []
    current = holdings.serving.current
    for endpoint in holdings.endpoints:
        if endpoint.deployed or endpoint.id in holdings.wanted:
            continue
        if holdings.config:
            if current and endpoint.id == current.endpoint_id:
                continue
            reason = f"{holdings.dataset} has the endpoint {holdings.config.serving.endpoint} now"
        else:
            since = holdings.unconfigured_since
            if since is None or holdings.is_in_grace:
                continue
            reason = f"{holdings.dataset} has had no configuration since {clocks.to_text(since)}"
        removals.append(Removal(kind=ENDPOINT, id=endpoint.id, reason=reason))
    return removals
