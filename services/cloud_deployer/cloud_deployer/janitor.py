"""Finds what a release, a crash or a changed configuration left behind, and removes it: no forgotten bill.

    clock ─► due? ─► sweep: each data set under its lease ─► settle the removal under way ─► find surplus ─► begin one

A removal is recorded before it is begun, and again with the name of its operation, so that a death in between repeats
it and nothing else. One at a time for each data set, never while a release is under way there; a release that begins
meanwhile waits until it is through (see `hygiene.is_removing`). What must not be removed is refused twice: by
`surplus`, and by Vertex AI itself, which undeploys nothing that has traffic and deletes nothing that is deployed.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Sequence

from cloud_deployer import canary, hygiene
from cloud_deployer.handler import model_id_of
from cloud_deployer.hygiene import Due, Idle, Removal, Report
from cloud_deployer.idle import Watch
from cloud_deployer.settings import DeployerSettings
from cloud_deployer.surplus import Holdings, Surplus, find_surplus
from dualdeploy import clock as clocks
from dualdeploy import dataset_config
from dualdeploy.branches import BranchWorker, branch_under_way, branches_under_way
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import (
    CannotEverSucceed,
    LeaseHeld,
    RejectedByGoogle,
    ResourceConflict,
    ResourceMissing,
    RetryLater,
    UnknownDataset,
)
from dualdeploy.ledger import Ledger, Versioned, dataset_of
from dualdeploy.monitoring import Monitoring
from dualdeploy.object_store import ObjectStore
from dualdeploy.outcome import Outcome, already_done, done
from dualdeploy.vertex import DATASET_LABEL, Endpoint, Vertex

log = logging.getLogger(__name__)

#: How often everything is looked at, and how long a removal that failed is left alone.
LOOK_EVERY = datetime.timedelta(hours=1)

#: Source: "Scale To Zero", limitations, in Vertex AI's documentation of autoscaling.
UNDEPLOYED_BY_GOOGLE = (
    "it is not deployed any more: Vertex AI undeploys what was scaled to zero for 30 days, unless somebody did it by"
    " hand; the next release or POST /redeploy brings it back (serving.scale_to_zero)"
)

#: After so many seconds a sweep looks at no further data set: it comes after the releases, which may take half of the
#: minute that Cloud Run gives a tick (`branches.WORK_SECONDS`), and the last look has to fit too.
SWEEP_SECONDS = 10.0


class Janitor:
    """`on_clock` is cheap while nothing is due: one read."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        config: ObjectStore,
        vertex: Vertex,
        monitoring: Monitoring,
        settings: DeployerSettings,
        clock: Clock = clocks.utc_now,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._vertex = vertex
        self._watch = Watch(monitoring, region=settings.region)
        self._settings = settings
        self._clock = clock

    def on_clock(self) -> Outcome:
        """Sweep if it is time to; what cannot be done now is done at the next tick."""
        try:
            due = self._ledger.read_document(hygiene.DUE_NAME, Due)
            if due and clocks.from_text(due.document.at) > self._clock():
                return already_done("nothing to tidy yet")
            with self._ledger.lease("hygiene", seconds=self._settings.lease_seconds):
                return self._sweep(due)
        except LeaseHeld:
            return already_done("another instance tidies")
        except RetryLater as exc:
            log.warning("tidying is tried again at the next tick: %s", exc)
            return already_done("tidying waits")
        except CannotEverSucceed as exc:
            # A right that is missing, say: no reason to reject the tick, whose releases went well.
            log.error("nothing is tidied until this is mended: %s", exc)  # noqa: TRY400
            return already_done("tidying cannot be done")

    def _sweep(self, due: Versioned[Due] | None) -> Outcome:
        """Look at every data set, or from the one that the last tick stopped at for want of time."""
        until = self._clock() + datetime.timedelta(seconds=SWEEP_SECONDS)
        begun = due.document if due else Due(at="")
        following = clocks.from_text(begun.then) if begun.then else self._clock() + LOOK_EVERY
        endpoints = self._vertex.find_endpoints(DATASET_LABEL)
        waiting = [dataset for dataset in self._datasets(endpoints) if dataset > begun.after]
        for number, dataset in enumerate(waiting):
            if number and self._clock() >= until:
                now, then = clocks.to_text(self._clock()), clocks.to_text(following)
                hygiene.put_off(self._ledger, Due(at=now, after=waiting[number - 1], then=then), read=due)
                return done(f"looked at {number} data sets; the others wait for the next tick")
            of_it = [endpoint.id for endpoint in endpoints if endpoint.labels[DATASET_LABEL] == dataset]
            following = min(following, self._look_safely(dataset, of_it))
        hygiene.put_off(self._ledger, Due(at=clocks.to_text(following)), read=due)
        return done(f"looked at {len(waiting)} data sets")

    def _datasets(self, endpoints: Sequence[Endpoint]) -> list[str]:
        """Every data set that may have something, by name."""
        configured = {
            summary.name.removeprefix("datasets/").removesuffix(".yaml") for summary in self._config.list("datasets/")
        }
        labelled = {endpoint.labels[DATASET_LABEL] for endpoint in endpoints}
        # Those with a report too: what is under way there has perhaps just taken away the last endpoint.
        known = configured | labelled | hygiene.reported(self._ledger)
        # Only what can be a data set of ours: a label can be written by anybody.
        return sorted(name for name in known if dataset_config.DATASET_NAME.fullmatch(name))

    def _look_safely(self, dataset: str, endpoint_ids: Sequence[str]) -> datetime.datetime:
        """When to look again; a data set that cannot be looked at must not keep the others from it."""
        try:
            with self._ledger.lease(f"{dataset}/cloud", seconds=self._settings.lease_seconds):
                return self._look(dataset, endpoint_ids)
        except LeaseHeld:
            return self._clock()
        except RetryLater as exc:
            log.warning("%s is tidied at the next tick: %s", dataset, exc)
            return self._clock()
        except Exception:
            log.exception("%s cannot be tidied", dataset)
            return self._clock() + LOOK_EVERY

    def _look(self, dataset: str, endpoint_ids: Sequence[str]) -> datetime.datetime:
        report = hygiene.read_report(self._ledger, dataset)
        if report.document.under_way and not self._settle(dataset):
            return self._clock()
        if branch_under_way(self._ledger, dataset, "cloud"):
            return self._clock() + LOOK_EVERY
        report = hygiene.read_report(self._ledger, dataset)
        holdings = self._holdings(report.document, endpoint_ids)
        self._notice_undeployed(holdings)
        found = find_surplus(holdings)
        seen = self._seen(report.document, holdings, found)
        removal = self._next(seen, holdings.config)
        if removal is None:
            self._write(seen, report)
            return min(self._clock() + LOOK_EVERY, found.until or datetime.datetime.max.replace(tzinfo=datetime.UTC))
        self._write(seen.changed(under_way=removal.at(self._clock())), report)
        self._settle(dataset)
        return self._clock()

    def _holdings(self, report: Report, endpoint_ids: Sequence[str]) -> Holdings:
        dataset, since = report.dataset, report.unconfigured_since
        config: DatasetConfig | None = None
        try:
            config = dataset_config.read(self._config, dataset)
        except UnknownDataset:
            since = since or clocks.to_text(self._clock())
        live = self._ledger.read_live(dataset, "cloud")
        # The listing was made before the lease was taken: a release may have changed them since.
        endpoints = [found for each in endpoint_ids if (found := self._vertex.find_endpoint(each))]
        holdings = Holdings(
            dataset=dataset,
            model_id=model_id_of(dataset),
            config=config,
            unconfigured_since=clocks.from_text(since) if since and config is None else None,
            live=live.document if live else None,
            endpoints=[endpoint for endpoint in endpoints if endpoint.labels.get(DATASET_LABEL) == dataset],
            versions=self._vertex.find_model_versions(model_id_of(dataset)) if config else [],
            active=frozenset(run_id for run_id in self._ledger.active("cloud") if dataset_of(run_id) == dataset),
            now=self._clock(),
        )
        return dataclasses.replace(holdings, idle=self._idle(holdings, report.idle))

    def _idle(self, holdings: Holdings, known: Idle | None) -> Idle | None:
        """What nobody asks, told once in the log; the first look counts from then on."""
        if holdings.live is None or holdings.config is None:
            return None
        serving = str(holdings.live.current.facts.get("deployed_model", ""))
        for endpoint in holdings.endpoints:
            if all(deployed.id != serving for deployed in endpoint.deployed):
                continue
            found = self._watch.look(endpoint, holdings.live, holdings.config.serving, now=self._clock())
            if found and known and known.endpoint == found.endpoint:
                return found.model_copy(update={"since": known.since})
            if found:
                cost = "an unknown price" if found.usd_per_month is None else f"{found.usd_per_month:.2f} USD"
                log.warning(
                    "endpoint %s is idle since %s, at %s a month: %s", found.endpoint, found.since, cost, found.price
                )
            return found
        return None

    def _seen(self, report: Report, holdings: Holdings, found: Surplus) -> Report:
        for removal in found.removals:
            if removal.what not in {known.what for known in report.surplus}:
                log.info("%s is surplus: %s", removal.what, removal.reason)
        since = holdings.unconfigured_since
        return report.changed(
            looked_at=clocks.to_text(self._clock()),
            unconfigured_since=clocks.to_text(since) if since else "",
            surplus=tuple(found.removals),
            left=tuple(found.left),
            idle=holdings.idle,
        )

    def _next(self, report: Report, config: DatasetConfig | None) -> Removal | None:
        """What to remove now, if anything is to be removed at all."""
        if self._settings.hygiene == "report" or (config and config.serving.hygiene == "report"):
            return None
        lately = self._clock() - LOOK_EVERY
        failed = {other.what for other in report.failed if clocks.from_text(other.since) > lately}
        return next((removal for removal in report.surplus if removal.what not in failed), None)

    # One removal -----------------------------------------------------------------------------------------------

    def _settle(self, dataset: str) -> bool:
        """Bring the removal under way on by a step; whether it is through."""
        report = hygiene.read_report(self._ledger, dataset)
        removal = report.document.under_way
        if removal is None:
            return True
        if self._is_gone(dataset, removal):
            if removal.kind == "deployed model":
                self._tell_live(dataset, removal.id, removal.reason)
            log.warning("removed %s: %s", removal.what, removal.reason)
            following = report.document.with_removed(removal.at(self._clock(), operation=""))
            rest = tuple(other for other in following.surplus if other.what != removal.what)
            self._write(following.changed(surplus=rest), report)
            return True
        if not removal.operation and self._is_candidate(dataset, removal):
            log.warning("%s stays: a release has taken it up", removal.what)
            self._write(report.document.changed(under_way=None), report)
            return True
        problem = self._go_on(report, removal)
        if not problem:
            return False
        log.error("%s stays, and may cost: %s", removal.what, problem)
        self._write(report.document.with_failed(removal.at(self._clock(), problem=problem)), report)
        return True

    def _go_on(self, report: Versioned[Report], removal: Removal) -> str:
        """Begin the removal, or look at its operation: why it has failed, empty while it may still succeed."""
        try:
            if removal.operation:
                return self._problem(removal)
            operation = self._begin(report.document.dataset, removal)
            self._write(report.document.changed(under_way=removal.at(self._clock(), operation=operation)), report)
        except ResourceConflict:
            # Another operation on it is not through: perhaps ours, begun before its name could be recorded.
            return self._overdue(removal)
        except ResourceMissing:
            # Gone between the look and the call, which the next look will see.
            return ""
        except RejectedByGoogle as exc:
            return str(exc)
        return ""

    def _tell_live(self, dataset: str, deployed_id: str, reason: str) -> None:
        """Have the record of what is live say so, if that is what is gone; the next release writes it anew."""
        live = self._ledger.read_live(dataset, "cloud")
        if live is None or live.document.undeployed_at:
            return
        if str(live.document.current.facts.get("deployed_model", "")) == deployed_id:
            told = {"undeployed_at": clocks.to_text(self._clock()), "undeployed_because": reason}
            self._ledger.write_live(live.document.model_copy(update=told), expect=live.generation)

    def _notice_undeployed(self, holdings: Holdings) -> None:
        """What scales to zero is undeployed by Vertex AI itself, which tells nobody."""
        if holdings.config is None or holdings.live is None or holdings.config.serving.scale_to_zero is None:
            return
        facts = holdings.live.current.facts
        serving, where = str(facts.get("deployed_model", "")), str(facts.get("endpoint", ""))
        for endpoint in holdings.endpoints:
            if endpoint.name == where and all(deployed.id != serving for deployed in endpoint.deployed):
                self._tell_live(holdings.dataset, serving, UNDEPLOYED_BY_GOOGLE)

    def _is_candidate(self, dataset: str, removal: Removal) -> bool:
        """Whether a release has planned with it since it was judged, by an instance that was frozen for that long."""
        if removal.kind != "deployed model":
            return False
        rollouts = (canary.rollout_in(branch) for branch in branches_under_way(self._ledger, dataset, "cloud"))
        return any(rollout is not None and rollout.candidate == removal.id for rollout in rollouts)

    def _begin(self, dataset: str, removal: Removal) -> str:
        if removal.kind == "deployed model":
            # Without a split: Vertex AI refuses it should the model have got traffic since it was looked at.
            return self._vertex.start_undeploy(removal.endpoint, removal.id, traffic={})
        if removal.kind == "endpoint":
            return self._vertex.start_delete_endpoint(removal.id)
        model_id = model_id_of(dataset)
        version = self._vertex.find_model_version(model_id, removal.id)
        if version is None:
            raise ResourceMissing(f"{model_id} has no version {removal.id}")
        heir = self._vertex.find_model_version(model_id, removal.heir) if removal.heir else None
        if heir and "default" in version.aliases:
            self._vertex.change_aliases(heir, add=["default"])
        return self._vertex.start_delete_version(version)

    def _is_gone(self, dataset: str, removal: Removal) -> bool:
        if removal.kind == "model version":
            return self._vertex.find_model_version(model_id_of(dataset), removal.id) is None
        endpoint: Endpoint | None = self._vertex.find_endpoint(removal.endpoint or removal.id)
        if removal.kind == "endpoint" or endpoint is None:
            return endpoint is None
        return all(deployed.id != removal.id for deployed in endpoint.deployed)

    def _problem(self, removal: Removal) -> str:
        """Why a removal whose effect is not to be seen has failed; empty while it may still succeed."""
        operation = self._vertex.operation(removal.operation)
        if operation is None or (operation.done and not operation.error):
            return f"{removal.operation} ended without effect"
        return operation.error or self._overdue(removal)

    def _overdue(self, removal: Removal) -> str:
        age = (self._clock() - clocks.from_text(removal.since)).total_seconds()
        return f"still under way after {age:.0f} s" if age > self._settings.operation_limit_seconds else ""

    def _write(self, report: Report, read: Versioned[Report]) -> None:
        self._ledger.write_document(hygiene.report_name(report.dataset), report, expect=read.generation)


def tick(worker: BranchWorker, janitor: Janitor) -> Outcome:
    """What a tick of the clock is for: first the releases, then what they leave behind."""
    released = worker.on_clock()
    return done(f"{released.message}; {janitor.on_clock().message}")
