"""What runs may cost and have cost: an estimate beside each run, and one account for each month and data set.

    reserve (training_launcher, before any job) ──► settle (job_notifier when a job ended, or whoever calls it off)
    reserve_jobs ──► settle_job (cloud_deployer, for the job that measures the live model)

The account is changed by compare-and-swap only, so of any number of concurrent launches those that fit are let through
and no more. A reservation is the most that a job can cost, its hard timeout times its price; settling replaces it by
what the job did cost. All money in US dollars, all durations in seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from dualdeploy.errors import CannotEverSucceed
from dualdeploy.ledger import Document, Launch, Ledger, names

log = logging.getLogger(__name__)


class TargetEstimate(Document):
    """One job. Without a known price the amounts are None; `price` says where they come from, or what is missing.

    `usd_per_hour` is that of the dearest entry of `training.<target>.capacity`, `by_entry` has them all.
    """

    usd_per_hour: float | None
    expected_seconds: float
    timeout_seconds: float
    estimated_usd: float | None
    most_usd: float | None
    price: str
    by_entry: tuple[float | None, ...] = ()


class Estimate(Document):
    """What one run may cost, decided once; `refusal` is empty when it may begin. `month` is `2026-11`, in UTC."""

    v: int = 1
    run_id: str
    dataset: str
    month: str
    region: str
    prices_as_of: str
    targets: Mapping[str, TargetEstimate]
    refusal: str = ""

    @property
    def is_priced(self) -> bool:
        return all(each.most_usd is not None for each in self.targets.values())

    @property
    def most_usd(self) -> float:
        """What the run costs if every job runs into its timeout; a job of unknown price counts nothing."""
        return sum(each.most_usd or 0.0 for each in self.targets.values())


class Entry(Document):
    """One job in the account; `actual_usd` is None until it is settled."""

    estimated_usd: float
    reserved_usd: float
    actual_usd: float | None = None
    seconds: float | None = None

    @property
    def counts_usd(self) -> float:
        return self.reserved_usd if self.actual_usd is None else self.actual_usd


class Account(Document):
    """The jobs of one data set in one month: trainings by `<run_id>/<target>`, others by names that begin so.

    Others are measurements, and jobs that were one too many and called off.
    """

    v: int = 1
    dataset: str
    month: str
    jobs: Mapping[str, Entry] = {}

    def total_usd(self) -> float:
        return sum(entry.counts_usd for entry in self.jobs.values())


class OverBudget(CannotEverSucceed):
    """The month's budget does not allow this job any more."""


def record_estimate(ledger: Ledger, estimate: Estimate) -> Estimate:
    """Keep an estimate beside its run; returns the one that is there, which may be an earlier one."""
    return ledger.create(names.estimate(estimate.run_id), estimate)[0].document


def read_estimate(ledger: Ledger, run_id: str) -> Estimate | None:
    """The recorded estimate of a run, if any. Raises CannotEverSucceed when it cannot be read."""
    found = ledger.find(names.estimate(run_id), Estimate)
    return found.document if found else None


def read_account(ledger: Ledger, dataset: str, month: str) -> Account:
    """The account of a month, empty when nothing was reserved in it."""
    found = ledger.find(names.account(month, dataset), Account)
    return found.document if found else Account(dataset=dataset, month=month)


def reserve(ledger: Ledger, estimate: Estimate, *, limit_usd: float | None) -> None:
    """Put the jobs of a run on the month's account, once. Raises OverBudget when `limit_usd` does not allow it."""
    jobs = {
        f"{estimate.run_id}/{target}": Entry(estimated_usd=each.estimated_usd or 0.0, reserved_usd=each.most_usd or 0.0)
        for target, each in estimate.targets.items()
    }
    try:
        reserve_jobs(ledger, estimate.dataset, estimate.month, jobs, limit_usd=limit_usd)
    except OverBudget as exc:
        remedy = "raise the limit and send a forced retrain request, or wait for the next month"
        raise OverBudget(f"the run {exc}: {remedy}") from None


def reserve_jobs(
    ledger: Ledger, dataset: str, month: str, jobs: Mapping[str, Entry], *, limit_usd: float | None
) -> None:
    """Put jobs on an account by names of their own, once. Raises OverBudget when `limit_usd` does not allow them."""
    name = names.account(month, dataset)

    def reserved(found: Account | None) -> Account | None:
        account = found or Account(dataset=dataset, month=month)
        if jobs.keys() <= account.jobs.keys():
            return None
        most, spent = sum(entry.reserved_usd for entry in jobs.values()), account.total_usd()
        if limit_usd is not None and spent + most > limit_usd:
            raise OverBudget(
                f"may cost {most:.2f} USD, and {spent:.2f} USD of this month's {limit_usd:.2f} are"
                f" spent or reserved ({name})"
            )
        return account.changed(jobs={**account.jobs, **jobs})

    ledger.update(name, Account, reserved)


def settle(ledger: Ledger, run_id: str, target: str, *, seconds: float, usd: float | None) -> None:
    """Replace the reservation of a training by what its jobs cost; repeating it changes nothing.

    A cost that is not known (None) leaves the reservation. An account that cannot be read is left to people: the end of
    a training must not be lost over it. Raises LedgerContention when it changes too often.
    """
    if usd is None:
        return
    try:
        estimate = read_estimate(ledger, run_id)
        if estimate:
            job = f"{run_id}/{target}"
            settle_job(ledger, estimate.dataset, estimate.month, job, actual_usd=round(usd, 6), seconds=seconds)
    except CannotEverSucceed:
        log.exception("the cost of %s/%s cannot be recorded", run_id, target)


def add(ledger: Ledger, launch: Launch, job_id: str, *, seconds: float) -> None:
    """Put a job on the account that the training did not need, by what it has used so far; it may be repeated.

    A cost that is not known and an account that cannot be read are left to people, as above.
    """
    usd = cost_of(ledger, launch, seconds=seconds)
    if not usd:
        return
    job = f"{launch.run_id}/{launch.target}/{job_id}"
    entry = Entry(estimated_usd=0.0, reserved_usd=usd, actual_usd=usd, seconds=seconds)

    def added(account: Account | None) -> Account | None:
        if account is None or account.jobs.get(job) == entry:
            return None
        return account.changed(jobs={**account.jobs, job: entry})

    try:
        estimate = read_estimate(ledger, launch.run_id)
        if estimate:
            ledger.update(names.account(estimate.month, estimate.dataset), Account, added)
    except CannotEverSucceed:
        log.exception("the cost of %s cannot be recorded", job)


def free(ledger: Ledger, run_id: str, target: str) -> None:
    """Give back the reservation of a job that the run did not need; what was settled stays, as above."""
    try:
        estimate = read_estimate(ledger, run_id)
        account = read_account(ledger, estimate.dataset, estimate.month) if estimate else None
    except CannotEverSucceed:
        log.exception("the reservation of %s/%s cannot be given back", run_id, target)
        return
    entry = account.jobs.get(f"{run_id}/{target}") if account else None
    if entry and entry.actual_usd is None:
        settle(ledger, run_id, target, seconds=0.0, usd=0.0)


def cost_of(ledger: Ledger, launch: Launch, *, seconds: float) -> float | None:
    """What `seconds` of a training's present job cost; None when its price is not known, or cannot be read."""
    if not seconds:
        return 0.0
    if launch.placement:
        price = launch.placement.usd_per_hour
    else:
        try:
            estimate = read_estimate(ledger, launch.run_id)
        except CannotEverSucceed as exc:
            log.warning("the cost of %s/%s is not known: %s", launch.run_id, launch.target, exc)
            return None
        price = estimate.targets[launch.target].usd_per_hour if estimate and launch.target in estimate.targets else None
    return None if price is None else round(price * seconds / 3600, 6)


def settle_job(ledger: Ledger, dataset: str, month: str, job: str, *, actual_usd: float, seconds: float) -> None:
    """Replace the reservation of a job, if there is one, by what it cost; repeating it changes nothing.

    Raises CannotEverSucceed when the account cannot be read, LedgerContention when it changes too often.
    """

    def settled(account: Account | None) -> Account | None:
        entry = account.jobs.get(job) if account else None
        if account is None or entry is None or entry.actual_usd == actual_usd:
            return None
        return account.changed(jobs={**account.jobs, job: entry.changed(actual_usd=actual_usd, seconds=seconds)})

    ledger.update(names.account(month, dataset), Account, settled)
