"""Quota for the accelerators and the processors that the data sets train and serve on."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from doctor.checks import buckets
from doctor.examination import Check, Look
from doctor.findings import Finding, Place
from dualdeploy.contracts.dataset_config import Accelerator, Capacity, DatasetConfig
from dualdeploy.contracts.training import TARGETS

_TRAINING = "aiplatform.googleapis.com/custom_model_training_"
_SERVING = "aiplatform.googleapis.com/custom_model_serving_"
#: Quotas of processors that Google was seen to name; of other families' spot machines it may count none.
_ALWAYS_NAMED = {f"{_TRAINING}cpus", f"{_TRAINING}preemptible_cpus", f"{_SERVING}cpus"}
#: No limit.
_UNLIMITED = -1

#: When the data sets serve on most.
_RELEASING = "while models are released"

#: By metric: the quota's id, and its limit in our region.
Limits = Mapping[str, tuple[str, int]]

#: How Vertex AI names the quota of machines that it may take away, or that it gives when it has some.
_KIND = {"spot": "preemptible_", "flex_start": "preemptible_", "standard": ""}


@dataclasses.dataclass(frozen=True)
class Need:
    """What the data set that asks for most needs of a quota: for its larger job, and for both at once.

    `others` are the other ways in which its jobs ask for machines, each as the quotas that it needs.
    """

    metric: str
    largest: int
    both: int
    dataset: str
    others: tuple[Mapping[str, int], ...] = ()


def checks(look: Look) -> Iterator[Check]:
    check = Check(Place.QUOTA, "training", lambda: _training(look, check))
    yield check
    serving = Check(Place.QUOTA, "serving", lambda: _serving(look, serving))
    yield serving


def needs_of(config: DatasetConfig) -> Iterator[Need]:
    """What the two jobs of a run need of each quota."""
    ways = {
        target: [_taken(entry, config.training.of(target).replicas) for entry in config.training.of(target).capacity]
        for target in TARGETS
    }
    for metric in {metric for each in ways.values() for way in each for metric in way}:
        # One job asks in one way at a time.
        jobs = [most for each in ways.values() if (most := max(way.get(metric, 0) for way in each))]
        # Only where each of the jobs that take from it can do without is there another way.
        takers = [each for each in ways.values() if any(metric in way for way in each)]
        without = [[way for way in each if metric not in way] for each in takers]
        others = tuple(way for each in without for way in each) if all(without) else ()
        yield Need(metric, max(jobs), sum(jobs), config.dataset, others)


def _taken(entry: Capacity, replicas: int) -> Mapping[str, int]:
    """What a job that asks for its machines so takes, by metric."""
    return _of_machines(f"{_TRAINING}{_KIND[entry.strategy]}", entry.machine, entry.accelerator, replicas)


def served(config: DatasetConfig) -> Mapping[str, int]:
    """What a model takes while it serves, by metric: so much for each replica that it may come to.

    Source: `DedicatedResources.max_replica_count` in Vertex AI's API.
    """
    serving = config.serving
    return _of_machines(_SERVING, serving.machine, serving.accelerator, serving.max_replicas)


def _of_machines(kind: str, machine: str, accelerator: Accelerator | None, replicas: int) -> Mapping[str, int]:
    taken = {}
    if accelerator:
        card = accelerator.type.lower().replace("_tesla_", "_")
        taken[f"{kind}{card}_gpus"] = accelerator.count * replicas
    if processors := _processors(machine):
        taken[f"{kind}{_family(machine)}cpus"] = processors * replicas
    return taken


def _family(machine: str) -> str:
    """N1 and E2 count together, every other family by itself."""
    family = machine.partition("-")[0]
    return "" if family in ("n1", "e2") else f"{family}_"


def _processors(machine: str) -> int:
    """Of a machine such as n1-standard-8; 0 for one whose name counts something else, as that of an A100 does."""
    found = re.fullmatch(r"[a-z0-9]+-[a-z]+-(\d+)", machine)
    return int(found[1]) if found else 0


def _configs(look: Look) -> Sequence[DatasetConfig]:
    """Until there is a data set, the defaults say what the first one will ask for."""
    return buckets.usable(look) or [DatasetConfig(dataset="a-new-data-set", labels=("a", "b"))]


def _serving(look: Look, check: Check) -> Iterator[Finding]:
    """All data sets serve at once, and during a release the new model of one is beside the old one."""
    alone, releasing = collections.Counter[str](), collections.Counter[str]()
    for config in _configs(look):
        alone.update(served(config))
        releasing.update(served(config))
        if not config.serving.scale_to_zero:  # which is alone on its endpoint: there the old model goes first
            releasing.update(served(config))
    limits = _limits(look)
    for metric, wanted in sorted(releasing.items()):
        if not _is_counted(metric, limits):
            continue
        if found := _unless_short(look, check, metric, wanted, limits, user="the data sets serve", when=_RELEASING):
            yield found
            continue
        limit, there, more = _shortage(look, metric, wanted, limits)
        if limit >= alone[metric]:
            yield check.warning(f"{there}, and {wanted} are needed {_RELEASING}: a release waits", more)
        else:
            says = f"{there}, and what is configured serves on {alone[metric]}: not all of it can"
            yield check.broken(says, more)


def _training(look: Look, check: Check) -> Iterator[Finding]:
    needs: dict[str, Need] = {}
    for config in _configs(look):
        for need in needs_of(config):
            found = needs.get(need.metric, need)
            # Of two that ask for as much, the one that has no other way decides.
            needs[need.metric] = max(found, need, key=lambda each: (each.both, each.largest, not each.others))
    limits = _limits(look)
    for metric, need in sorted(needs.items()):
        if _is_counted(metric, limits):
            yield _judged(look, check, need, limits)


def _is_counted(metric: str, limits: Limits) -> bool:
    """Whether Google names the quota, or should."""
    return metric in limits or metric in _ALWAYS_NAMED or metric.endswith("_gpus")


def _is_enough(way: Mapping[str, int], limits: Limits) -> bool:
    """What Google names no limit of does not count against it."""
    found = ((limits.get(metric, ("", _UNLIMITED))[1], needed) for metric, needed in way.items())
    return all(limit == _UNLIMITED or limit >= needed for limit, needed in found)


def _unless_short(
    look: Look, check: Check, metric: str, wanted: int, limits: Limits, *, user: str, when: str
) -> Finding | None:
    """What there is to say of a quota of which `user` needs so much; None where its limit is less than that."""
    name = _name(metric)
    if metric not in limits:
        console = f"https://console.cloud.google.com/iam-admin/quotas?project={look.chain.project}"
        return check.unseen(f"Google names no limit of {name}, which {user} on", console)
    if not _is_enough({metric: wanted}, limits):
        return None
    _, limit = limits[metric]
    told = "no limit" if limit == _UNLIMITED else limit
    return check.ok(f"{name}: {told} in {look.chain.region}, {wanted} needed {when}")


def _shortage(look: Look, metric: str, wanted: int, limits: Limits) -> tuple[int, str, str]:
    """The limit of a quota that is too low: as a number, in words, and how to get what is wanted."""
    quota_id, limit = limits[metric]
    more = (
        f"gcloud beta quotas preferences create --service=aiplatform.googleapis.com --quota-id={quota_id}"
        f" --dimensions=region={look.chain.region} --preferred-value={wanted} --project={look.chain.project}"
    )
    return limit, f"{_name(metric)} is {limit} in {look.chain.region}", more


def _name(metric: str) -> str:
    return metric.removeprefix("aiplatform.googleapis.com/")


def _judged(look: Look, check: Check, need: Need, limits: Limits) -> Finding:
    user = f"{need.dataset} trains"
    if found := _unless_short(look, check, need.metric, need.both, limits, user=user, when="at once"):
        return found
    limit, there, more = _shortage(look, need.metric, need.both, limits)
    if limit >= need.largest:
        says = f"{there}, and {need.dataset} needs {need.both} at once: one of its two jobs waits for the other"
        return check.warning(says, more)
    if any(_is_enough(way, limits) for way in need.others):
        waits = "each time it waits, and is then asked for in another way"
        says = f"{there}, and a job of {need.dataset} needs {need.largest}: {waits}"
        return check.warning(says, f"{more}; or take this entry out of training.<target>.capacity")
    says = f"{there}, and a job of {need.dataset} needs {need.largest}: it waits, and is given up after a day"
    return check.broken(says, more)


def _limits(look: Look) -> Limits:
    chain = look.chain
    found: dict[str, tuple[str, int]] = {}
    for info in look.google.pages(
        "cloudquotas",
        f"/v1/projects/{chain.project}/locations/global/services/aiplatform.googleapis.com/quotaInfos",
        "quotaInfos",
        needs="cloudquotas.quotas.get",
        pageSize=1000,
    ):
        limit = _limit(info, chain.region)
        if info.get("metric", "").startswith((_TRAINING, _SERVING)) and limit is not None:
            found[info["metric"]] = (info.get("quotaId", ""), limit)
    return found


def _limit(info: Mapping[str, Any], region: str) -> int | None:
    """What is said of our region, or else of all that nothing is said of."""
    everywhere = None
    for each in info.get("dimensionsInfos", []):
        value = each.get("details", {}).get("value")
        if value is None or region not in each.get("applicableLocations", [region]):
            continue
        dimensions = each.get("dimensions", {})
        if dimensions.get("region") == region:
            return int(value)
        if "region" not in dimensions:
            everywhere = int(value)
    return everywhere
