"""From a claimed run to what it may cost, and whether its owner allows that; pure functions.

    expected ≤ timeout      what the job is expected to cost  ──► estimated_usd
    timeout (hard)          what it can cost at most          ──► most_usd, which is reserved

Of several ways to get a machine (`training.<target>.capacity`) the dearest counts.
AutoML's trainings are counted in node hours: their budgets are what they are expected to take and what they can take at
most, and what turns the shards into pictures for them is one more job, `data`.
Vertex AI ends a job at its timeout, so a limit holds exactly when timeout times price stays below it: a limit shortens
the timeouts, and refuses a run whose expected time no longer fits.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping

from dualdeploy.contracts import automl, dataset_config
from dualdeploy.contracts.dataset_config import Capacity, DatasetConfig
from dualdeploy.contracts.prices import PriceTable
from dualdeploy.contracts.training import TARGETS, Target
from dualdeploy.ledger import Run
from dualdeploy.ledger.spending import Estimate, TargetEstimate
from training_launcher import disk, duration


def estimate(run: Run, *, region: str, prices: PriceTable, now: datetime.datetime, pictures: int = 0) -> Estimate:
    """What both jobs of `run`, with so many pictures, may cost in `region`; the month is the one of `now`, in UTC."""
    config = dataset_config.stored(run.config)
    is_automl = config.training.method == "automl"
    targets = _automl(config, region, prices) if is_automl else _custom(config, region, prices, pictures)
    found = Estimate(
        run_id=run.run_id,
        dataset=run.dataset,
        month=now.astimezone(datetime.UTC).strftime("%Y-%m"),
        region=region,
        prices_as_of=prices.as_of,
        targets=targets,
    )
    refusal = _elsewhere(region) if is_automl else disk.refusal(run) or duration.refusal(config, pictures)
    if refusal:
        return found.model_copy(update={"refusal": refusal})
    if config.budget.is_limited and not found.is_priced and config.budget.unknown_price == "refuse":
        unknown = "; ".join(each.price for each in targets.values() if each.most_usd is None)
        remedy = "state budget.<target>.usd_per_hour, or set budget.unknown_price to warn"
        return found.model_copy(
            update={"refusal": f"the run has a budget, but its cost is unknown: {unknown}; {remedy}"}
        )
    return _within(found, config)


def _elsewhere(region: str) -> str:
    """Why AutoML cannot be had in this region; empty where it can."""
    if region in automl.REGIONS:
        return ""
    return (
        f"AutoML for images does not exist in {region}, only in {' and '.join(automl.REGIONS)}: deploy there, or write"
        " training.method: custom"
    )


def _custom(config: DatasetConfig, region: str, prices: PriceTable, pictures: int) -> dict[str, TargetEstimate]:
    return {target: _target(config, target, region, prices, pictures) for target in TARGETS}


def _automl(config: DatasetConfig, region: str, prices: PriceTable) -> dict[str, TargetEstimate]:
    preparing, allowance = config.training.automl.data, config.budget.data
    price, source = prices.hour(use="training", region=region, machine=preparing.machine)
    if allowance.usd_per_hour is not None:
        price, source = allowance.usd_per_hour, f"budget.{automl.DATA}.usd_per_hour"
    expected = min(allowance.expected or preparing.timeout, preparing.timeout)
    found = {automl.DATA: _timed(_priced(price, source), expected, preparing.timeout)}
    for target in TARGETS:
        hours, own = config.training.automl.of(target).budget_node_hours, config.budget.of(target).usd_per_hour
        price, source = prices.node_hour(target)
        if own is not None:
            price, source = own, f"budget.{target}.usd_per_hour"
        found[target] = _timed(_priced(price, f"{hours:g} node hours, {source}"), hours * 3600, hours * 3600)
    return found


def _target(config: DatasetConfig, target: Target, region: str, prices: PriceTable, pictures: int) -> TargetEstimate:
    training, allowance = config.training.of(target), config.budget.of(target)
    found = [_hour(each, training.replicas, region, prices) for each in training.capacity]
    if allowance.usd_per_hour is not None:
        found = [(allowance.usd_per_hour, f"budget.{target}.usd_per_hour")] * len(found)
    # An unknown price may be the dearest.
    price, source = max(found, key=lambda each: math.inf if each[0] is None else each[0])
    priced = _priced(price, source).changed(by_entry=tuple(each for each, _ in found))
    timeout = duration.timeout(training, pictures)
    return _timed(priced, min(allowance.expected or timeout, timeout), timeout)


def _priced(price: float | None, source: str) -> TargetEstimate:
    return TargetEstimate(
        usd_per_hour=price, expected_seconds=0.0, timeout_seconds=0.0, estimated_usd=None, most_usd=None, price=source
    )


def _hour(entry: Capacity, replicas: int, region: str, prices: PriceTable) -> tuple[float | None, str]:
    """The full price of an hour: what spot machines and flex_start cost less changes by the day."""
    accelerator = entry.accelerator
    price, source = prices.hour(
        use="training",
        region=region,
        machine=entry.machine,
        accelerator=accelerator.type if accelerator else "",
        count=accelerator.count if accelerator else 0,
    )
    if price is None or replicas == 1:
        return price, source
    return price * replicas, f"{replicas} workers, each {source}"


def _timed(each: TargetEstimate, expected: float, timeout: float) -> TargetEstimate:
    price = each.usd_per_hour
    return each.changed(
        expected_seconds=expected,
        timeout_seconds=timeout,
        estimated_usd=None if price is None else price * expected / 3600,
        most_usd=None if price is None else price * timeout / 3600,
    )


_REMEDY = {
    "custom": "shorten budget.<target>.expected or training.<target>.timeout, or choose another machine",
    "automl": "lower training.automl.<target>.budget_node_hours, or shorten budget.data.expected",
}


def _within(found: Estimate, config: DatasetConfig) -> Estimate:
    """Shorten the timeouts until the run cannot cost more than its limit, or refuse it."""
    limit = config.budget.max_usd_per_run
    if limit is None or found.most_usd <= limit:
        return found
    expected = sum(each.estimated_usd or 0.0 for each in found.targets.values())
    if expected > limit:
        hours = ", ".join(
            f"{target} {each.estimated_usd:.2f} USD for {each.expected_seconds / 3600:.2f} h"
            for target, each in found.targets.items()
            if each.estimated_usd is not None
        )
        remedy = f"raise it, {_REMEDY[config.training.method]}"
        refusal = (
            f"the run is expected to cost {expected:.2f} USD ({hours}), budget.max_usd_per_run is {limit:.2f}: {remedy}"
        )
        return found.model_copy(update={"refusal": refusal})
    return found.model_copy(
        update={"targets": _shortened(found.targets, (limit - expected) / (found.most_usd - expected))}
    )


def _shortened(targets: Mapping[str, TargetEstimate], share: float) -> dict[str, TargetEstimate]:
    """The same jobs with only this share of the time between what is expected and their timeouts."""
    shortened = {}
    for target, each in targets.items():
        timeout = each.timeout_seconds
        if each.usd_per_hour and each.timeout_seconds > each.expected_seconds:
            # Whole seconds, as Vertex AI takes them, and rounded down: a limit is a limit.
            spare = share * (each.timeout_seconds - each.expected_seconds)
            timeout = max(1.0, float(math.floor(each.expected_seconds + spare)))
        shortened[target] = _timed(each, min(each.expected_seconds, timeout), timeout)
    return shortened
