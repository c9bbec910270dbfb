"""Quota for the accelerators and the processors that the data sets train on."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from doctor.checks import buckets
from doctor.examination import Check, Look
from doctor.findings import Finding, Place
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.training import TARGETS

_METRIC = "aiplatform.googleapis.com/custom_model_training_"
#: Quotas of processors that Google was seen to name; of other families' spot machines it may count none.
_ALWAYS_NAMED = {f"{_METRIC}cpus", f"{_METRIC}preemptible_cpus"}
#: No limit.
_UNLIMITED = -1


@dataclasses.dataclass(frozen=True)
class Need:
    """What the data set that asks for most needs of a quota: for its larger job, and for both at once."""

    metric: str
    largest: int
    both: int
    dataset: str


def checks(look: Look) -> Iterator[Check]:
    check = Check(Place.QUOTA, "training", lambda: _training(look, check))
    yield check


def demand(config: DatasetConfig) -> Mapping[str, tuple[int, int]]:
    """By metric: what the largest job of a run takes, and what both take when they train at once."""
    jobs: dict[str, list[int]] = collections.defaultdict(list)
    for target in TARGETS:
        training = config.training.of(target)
        kind = f"{_METRIC}{'preemptible_' if training.spot else ''}"
        if training.accelerator:
            card = training.accelerator.type.lower().replace("_tesla_", "_")
            jobs[f"{kind}{card}_gpus"].append(training.accelerator.count * training.replicas)
        if processors := _processors(training.machine):
            jobs[f"{kind}{_family(training.machine)}cpus"].append(processors * training.replicas)
    return {metric: (max(counts), sum(counts)) for metric, counts in jobs.items()}


def _family(machine: str) -> str:
    """N1 and E2 count together, every other family by itself."""
    family = machine.partition("-")[0]
    return "" if family in ("n1", "e2") else f"{family}_"


def _processors(machine: str) -> int:
    """Of a machine such as n1-standard-8; 0 for one whose name counts something else, as that of an A100 does."""
    found = re.fullmatch(r"[a-z0-9]+-[a-z]+-(\d+)", machine)
    return int(found[1]) if found else 0


def _training(look: Look, check: Check) -> Iterator[Finding]:
    # Until there is a data set, the defaults say what the first one will ask for.
    configs = buckets.usable(look) or [DatasetConfig(dataset="a-new-data-set", labels=("a", "b"))]
    needs: dict[str, Need] = {}
    for config in configs:
        for metric, (largest, both) in demand(config).items():
            need = Need(metric, largest, both, config.dataset)
            needs[metric] = max(needs.get(metric, need), need, key=lambda each: (each.both, each.largest))
    limits = _limits(look)
    for metric, need in sorted(needs.items()):
        if metric in limits or metric in _ALWAYS_NAMED or metric.endswith("_gpus"):
            yield _judged(look, check, need, limits.get(metric))


def _judged(look: Look, check: Check, need: Need, found: tuple[str, int] | None) -> Finding:
    name, region = need.metric.removeprefix("aiplatform.googleapis.com/"), look.chain.region
    if found is None:
        console = f"https://console.cloud.google.com/iam-admin/quotas?project={look.chain.project}"
        return check.unseen(f"Google names no limit of {name}, which {need.dataset} trains on", console)
    quota_id, limit = found
    more = (
        f"gcloud beta quotas preferences create --service=aiplatform.googleapis.com --quota-id={quota_id}"
        f" --dimensions=region={region} --preferred-value={need.both} --project={look.chain.project}"
    )
    if limit == _UNLIMITED or limit >= need.both:
        return check.ok(
            f"{name}: {'no limit' if limit == _UNLIMITED else limit} in {region}, {need.both} needed at once"
        )
    there = f"{name} is {limit} in {region}"
    if limit >= need.largest:
        says = f"{there}, and {need.dataset} needs {need.both} at once: one of its two jobs waits for the other"
        return check.warning(says, more)
    says = f"{there}, and a job of {need.dataset} needs {need.largest}: it waits, and is given up after a day"
    return check.broken(says, more)


def _limits(look: Look) -> Mapping[str, tuple[str, int]]:
    """By metric: the quota's id, and its limit in our region."""
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
        if info.get("metric", "").startswith(_METRIC) and limit is not None:
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
