"""Finds what a release, a crash or a changed configuration left behind, and removes it: no forgotten bill.

    every hour ─► sweep: each data set ─┐
    a release ended, a cool-down ended ─┴─► look ─► note one removal ─► claim it ─► begin it ─► look until it is gone

A removal has a claim on what serves, as a release has (`Serving.removing`): it is taken on the very document that the
removal was decided on, so that nothing is removed while a release is under way, and a release that begins meanwhile
waits. What must not be removed is refused twice: by `surplus`, and by Vertex AI itself, which keeps what has traffic
or is deployed.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Iterator, Sequence

from cloud_deployer import claims
from cloud_deployer.cleanup.idle import Watch
from cloud_deployer.cleanup.report import DEPLOYED_MODEL, ENDPOINT, MODEL_VERSION, Idle, Removal, Report, read_report
from cloud_deployer.cleanup.surplus import Holdings, Surplus, find_surplus
from cloud_deployer.naming import model_id_of, model_ids_of
from cloud_deployer.release import TARGET, CloudServing
from cloud_deployer.world import World
from dualdeploy import clock as clocks
from dualdeploy.contracts.dataset_config import DATASET_NAME, DatasetConfig
from dualdeploy.errors import (
    CannotEverSucceed,
    InvalidDatasetConfig,
    LedgerContention,
    RejectedByGoogle,
    ResourceConflict,
    ResourceMissing,
    UnknownDataset,
)
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ABSENT
from dualdeploy.google.vertex import DATASET_LABEL, RUN_LABEL, Endpoint, ModelVersion
from dualdeploy.http.ticks import Next
from dualdeploy.ledger import UnreadableDocument, Versioned, lease, names
from dualdeploy.release.worker import key_of

log = logging.getLogger(__name__)

#: The kinds of due keys: `cleanup/<dataset>` looks at one data set, `sweep/all` has each of them looked at.
CLEANUP, SWEEP = "cleanup", "sweep"
SWEEP_ALL = f"{SWEEP}/all"

#: How long a removal that failed is left alone.
LOOK_EVERY = datetime.timedelta(hours=1)

#: After so many seconds a sweep leaves the rest to another look: Cloud Run ends a request after a minute.
SWEEP_SECONDS = 20.0

#: Source: "Scale To Zero", limitations, in Vertex AI's documentation of autoscaling.
UNDEPLOYED_BY_GOOGLE = (
    "it is not deployed any more: Vertex AI undeploys what was scaled to zero for 30 days, unless someone did it by"
    " hand; the next release or POST /redeploy brings it back (serving.scale_to_zero)"
)


class Sweep:
    """Has every data set looked at, once an hour; implements `ticks.Work`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def advance(self, what: str) -> Next:
        """`what` is `all`, or `after/<dataset>` where the last look stopped for want of time."""
        now = self._world.clock()
        until = now + datetime.timedelta(seconds=SWEEP_SECONDS)
        after = what.removeprefix("after/") if what != "all" else ""
        following = None if after else next_full_hour(now)
        names_of_all = [each for each in self._datasets() if each > after]
        for number, dataset in enumerate(names_of_all):
            if number and self._world.clock() >= until:
                self._world.due.put(f"{SWEEP}/after/{names_of_all[number - 1]}")
                return Next(f"{number} data sets are due, the others follow", following)
            self._world.due.put(f"{CLEANUP}/{dataset}")
        return Next(f"{len(names_of_all)} data sets are due", following)

    def give_up(self, what: str, why: str) -> None:
        """The next full hour begins anew."""
        log.error("the sweep %s is given up: %s", what, why)

    def _datasets(self) -> list[str]:
        """Every data set that may have something, by name."""
        world = self._world
        configured = {
            summary.name.removeprefix("datasets/").removesuffix(".yaml") for summary in world.config.list("datasets/")
        }
        labelled = {endpoint.labels[DATASET_LABEL] for endpoint in world.vertex.find_endpoints(DATASET_LABEL)}
        # Those with a report too: what is under way there has perhaps just taken away the last endpoint.
        prefix = names.cleanup("").removesuffix(".json")
        reported = {name.removeprefix(prefix).removesuffix(".json") for name in world.ledger.names(prefix)}
        known = configured | labelled | reported
        # Only what can be a data set of ours: anyone can write a label.
        return sorted(name for name in known if DATASET_NAME.fullmatch(name))


def next_full_hour(now: datetime.datetime) -> datetime.datetime:
    return now.replace(minute=0, second=0, microsecond=0) + datetime.timedelta(hours=1)


class Cleanup:
    """One data set, one removal at a time; implements `ticks.Work`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ledger = world.ledger
        self._watch = Watch(world.monitoring, region=world.settings.region)

    def advance(self, what: str) -> Next:
        """Look at a data set. Raises LeaseHeld while another instance does."""
        with lease(self._ledger, f"cleanup/{what}", seconds=self._world.settings.lease_seconds):
            try:
                return self._look(what)
            except UnreadableDocument as exc:
                # What it says is for people to mend; no release waits for that.
                self._free(what)
                log.error("%s is not cleaned up: %s", what, exc)  # noqa: TRY400
                return Next(str(exc))
            except InvalidDatasetConfig as exc:
                log.warning("%s is not cleaned up while its configuration is broken: %s", what, exc)
                return Next("is not cleaned up while its configuration is broken")

    def give_up(self, what: str, why: str) -> None:
        """No release may wait for a removal that is not gone on with."""
        log.error("the cleanup of %s is given up until the next full hour: %s", what, why)
        self._free(what)

    def _look(self, dataset: str) -> Next:
        if self._is_removing(dataset):
            return Next("a removal is under way", self._soon())
        self._notice_undeployed(dataset)
        report = read_report(self._ledger, dataset)
        found = self._ledger.find_serving(CloudServing, TARGET, dataset)
        serving = found or Versioned(CloudServing(dataset=dataset, target=TARGET), ABSENT)
        if turn := serving.document.under_way:
            # Its end puts this data set on the list again.
            return Next(f"{turn.name} is under way")
        holdings = self._holdings(report.document, serving.document)
        surplus = find_surplus(holdings)
        seen = self._seen(report.document, holdings, surplus)
        removal = self._next(seen, holdings.config)
        if removal is None:
            self._write(seen, report)
            return Next("needs no cleanup", surplus.until)
        self._write(seen.changed(under_way=removal.at(self._world.clock())), report)
        if self._claim(serving, removal):
            self._settle(dataset)
        return Next(f"removes {removal.what}", self._soon())

    def _soon(self) -> datetime.datetime:
        return self._world.clock() + datetime.timedelta(minutes=1)

    # What is there ---------------------------------------------------------------------------------------------

    def _holdings(self, report: Report, serving: CloudServing) -> Holdings:
        world, dataset, since = self._world, report.dataset, report.unconfigured_since
        config: DatasetConfig | None = None
        try:
            config = config_bucket.read(world.config, dataset)
        except UnknownDataset:
            since = since or clocks.to_text(world.clock())
        endpoints = list(self._endpoints(report, serving, config))
        versions = self._versions(dataset) if config else []
        holdings = Holdings(
            dataset=dataset,
            region=world.settings.region,
            config=config,
            unconfigured_since=clocks.from_text(since) if since and config is None else None,
            serving=serving,
            endpoints=[endpoint for endpoint, _ in endpoints],
            formerly={endpoint.id: formerly for endpoint, formerly in endpoints},
            wanted=self._wanted([endpoint.id for endpoint, _ in endpoints if not endpoint.deployed], config),
            versions=versions,
            active=frozenset(turn.run_id for turn in serving.waiting) | self._ahead(versions),
            now=world.clock(),
        )
        return dataclasses.replace(holdings, idle=self._idle(holdings, report.idle))

    def _versions(self, dataset: str) -> list[ModelVersion]:
        found = (self._world.vertex.find_model_versions(model_id) for model_id in model_ids_of(dataset))
        return [version for versions in found for version in versions]

    def _ahead(self, versions: Sequence[ModelVersion]) -> frozenset[str]:
        """The runs whose release is still to begin: what AutoML trains is a version before anyone has judged it."""
        runs = {version.labels.get(RUN_LABEL, "") for version in versions if version.is_automatic}
        return frozenset(run for run in runs if run and not self._ledger.newest_release_number(run, TARGET))

    def _endpoints(
        self, report: Report, serving: CloudServing, config: DatasetConfig | None
    ) -> Iterator[tuple[Endpoint, Sequence[str]]]:
        """Those that the data set holds, and those with its label that no other data set holds.

        Looked for where it was ever seen to have one: not in all claims, which are those of all data sets.
        """
        dataset = report.dataset
        candidates = {endpoint.id for endpoint in self._world.vertex.find_endpoints(DATASET_LABEL, dataset)}
        candidates |= {*report.holds, *({config.serving.endpoint} if config else ())}
        candidates |= {served.endpoint_id for served in (serving.current, serving.previous) if served}
        for endpoint_id in sorted(candidates - {""}):
            endpoint = self._world.vertex.find_endpoint(endpoint_id)
            claim = claims.holder_of(self._ledger, endpoint_id)
            holder = claim.document.dataset if claim else endpoint.labels.get(DATASET_LABEL) if endpoint else ""
            if endpoint and holder == dataset:
                yield endpoint, claim.document.formerly if claim else ()

    def _wanted(self, empty: Sequence[str], config: DatasetConfig | None) -> frozenset[str]:
        """Of these endpoints, those that any configuration names; all of them while one cannot be read."""
        wanted = {config.serving.endpoint} if config else set()
        if not set(empty) - wanted:
            return frozenset(wanted)
        for summary in self._world.config.list("datasets/"):
            name = summary.name.removeprefix("datasets/").removesuffix(".yaml")
            try:
                wanted.add(config_bucket.read(self._world.config, name).serving.endpoint)
            except UnknownDataset:
                continue
            except CannotEverSucceed as exc:
                log.warning("no endpoint is deleted while the configuration of %s cannot be read: %s", name, exc)
                return frozenset(empty) | wanted
        return frozenset(wanted)

    def _idle(self, holdings: Holdings, known: Idle | None) -> Idle | None:
        """What no one asks, told once in the log; the first look counts from then on."""
        current = holdings.serving.current
        if current is None or holdings.config is None:
            return None
        for endpoint in holdings.endpoints:
            if current.deployed_model not in endpoint.deployed_ids:
                continue
            found = self._watch.look(endpoint, current, holdings.config.serving, now=self._world.clock())
            if found and known and known.endpoint == found.endpoint:
                return found.changed(since=known.since)
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
                log.info("%s is not needed any more: %s", removal.what, removal.reason)
        since = holdings.unconfigured_since
        return report.changed(
            looked_at=clocks.to_text(self._world.clock()),
            unconfigured_since=clocks.to_text(since) if since else "",
            holds=tuple(endpoint.id for endpoint in holdings.endpoints),
            surplus=tuple(found.removals),
            left=tuple(found.left),
            idle=holdings.idle,
        )

    def _next(self, report: Report, config: DatasetConfig | None) -> Removal | None:
        """What to remove now, if anything is to be removed at all."""
        if self._world.settings.cleanup == "report" or (config and config.serving.cleanup == "report"):
            return None
        lately = self._world.clock() - LOOK_EVERY
        failed = {other.what for other in report.failed if clocks.from_text(other.since) > lately}
        return next((removal for removal in report.surplus if removal.what not in failed), None)

    # One removal -----------------------------------------------------------------------------------------------

    def _is_removing(self, dataset: str) -> bool:
        """Bring the removal under way on by a step; whether it is not through yet."""
        removal = read_report(self._ledger, dataset).document.under_way
        claimed = self._world.serving(dataset).removing
        if removal is not None and claimed == removal.what:
            return not self._settle(dataset)
        if removal is not None:
            # Noted and never claimed: a release was faster, or its instance died.
            if removal.kind == ENDPOINT:
                claims.end_deletion(self._ledger, removal.id, dataset)
            report = read_report(self._ledger, dataset)
            self._write(report.document.changed(under_way=None), report)
        if claimed:
            self._free(dataset)
        return False

    def _claim(self, serving: Versioned[CloudServing], removal: Removal) -> bool:
        """Take the claim on what serves, if nothing has changed there since the removal was decided."""
        claimed = serving.document.changed(removing=removal.what)
        if removal.kind == DEPLOYED_MODEL:
            claimed = claimed.with_leaving(removal.id, now=self._world.clock())
        try:
            self._ledger.write(names.serving(TARGET, claimed.dataset), claimed, expect=serving.generation)
        except LedgerContention:
            return False
        return True

    def _free(self, dataset: str) -> None:
        def decide(serving: CloudServing | None) -> CloudServing | None:
            return serving.changed(removing="") if serving else None

        freed = self._ledger.update(names.serving(TARGET, dataset), CloudServing, decide)
        for turn in freed.waiting if freed else ():
            self._world.due.put(key_of(turn.run_id, turn.release))

    def _settle(self, dataset: str) -> bool:
        """Bring the removal under way on by a step; whether it is through."""
        report = read_report(self._ledger, dataset)
        removal = report.document.under_way
        if removal is None:
            return True
        if self._is_gone(dataset, removal):
            self._tell(dataset, removal)
            log.warning("removed %s: %s", removal.what, removal.reason)
            self._write(report.document.with_removed(removal.at(self._world.clock(), operation="")), report)
            self._free(dataset)
            return True
        problem = self._go_on(report, removal)
        if not problem:
            return False
        log.error("%s stays, and may cost: %s", removal.what, problem)
        if removal.kind == ENDPOINT:
            claims.end_deletion(self._ledger, removal.id, dataset)
        self._write(report.document.with_failed(removal.at(self._world.clock(), problem=problem)), report)
        self._free(dataset)
        return True

    def _go_on(self, report: Versioned[Report], removal: Removal) -> str:
        """Begin the removal, or look at its operation: why it has failed, empty while it may still succeed."""
        try:
            if removal.operation:
                return self._problem(removal)
            operation = self._begin(report.document.dataset, removal)
            self._write(report.document.changed(under_way=removal.at(self._world.clock(), operation=operation)), report)
        except ResourceConflict:
            # Another operation on it is not through: perhaps ours, begun before its name could be recorded.
            return self._overdue(removal)
        except ResourceMissing:
            # Gone between the look and the call, which the next look will see.
            return ""
        except RejectedByGoogle as exc:
            return str(exc)
        return ""

    def _begin(self, dataset: str, removal: Removal) -> str:
        vertex, model_id = self._world.vertex, removal.model or model_id_of(dataset)
        if removal.kind == DEPLOYED_MODEL:
            # Without a split: Vertex AI refuses it should the model have got traffic since it was looked at.
            return vertex.start_undeploy(removal.endpoint, removal.id, traffic={})
        if removal.kind == ENDPOINT:
            if not claims.begin_deletion(self._ledger, removal.id, dataset):
                raise RejectedByGoogle(f"endpoint {removal.id} is held by another data set")
            return vertex.start_delete_endpoint(removal.id)
        if removal.kind != MODEL_VERSION:
            raise RejectedByGoogle(f"this version of the service cannot remove a {removal.kind}")
        version = vertex.find_model_version(model_id, removal.id)
        if version is None:
            raise ResourceMissing(f"{model_id} has no version {removal.id}")
        heir = vertex.find_model_version(model_id, removal.heir) if removal.heir else None
        if heir and "default" in version.aliases:
            vertex.change_aliases(heir, add=["default"])
        return vertex.start_delete_version(version)

    def _is_gone(self, dataset: str, removal: Removal) -> bool:
        if removal.kind == MODEL_VERSION:
            model_id = removal.model or model_id_of(dataset)
            return self._world.vertex.find_model_version(model_id, removal.id) is None
        endpoint: Endpoint | None = self._world.vertex.find_endpoint(removal.endpoint or removal.id)
        if removal.kind == ENDPOINT or endpoint is None:
            return endpoint is None
        return removal.id not in endpoint.deployed_ids

    def _problem(self, removal: Removal) -> str:
        """Why a removal whose effect is not to be seen has failed; empty while it may still succeed."""
        operation = self._world.vertex.operation(removal.operation)
        if operation is None or (operation.done and not operation.error):
            return f"{removal.operation} ended without effect"
        return operation.error or self._overdue(removal)

    def _overdue(self, removal: Removal) -> str:
        age = self._world.seconds_since(removal.since)
        return f"still under way after {age:.0f} s" if age > self._world.settings.operation_limit_seconds else ""

    # What is told ----------------------------------------------------------------------------------------------

    def _tell(self, dataset: str, removal: Removal) -> None:
        """Have the records say what is gone."""
        if removal.kind == DEPLOYED_MODEL:
            self._tell_undeployed(dataset, removal.id, removal.reason)
        elif removal.kind == ENDPOINT:
            claims.free(self._ledger, removal.id, dataset)

    def _tell_undeployed(self, dataset: str, deployed_id: str, reason: str) -> None:
        """If that is what is recorded as live; the next release writes it anew."""
        now = clocks.to_text(self._world.clock())

        def decide(serving: CloudServing | None) -> CloudServing | None:
            current = serving.current if serving else None
            if serving is None or current is None or serving.undeployed_at or serving.under_way:
                return serving
            if current.deployed_model != deployed_id:
                return serving
            return serving.changed(undeployed_at=now, undeployed_because=reason)

        self._ledger.update(names.serving(TARGET, dataset), CloudServing, decide)

    def _notice_undeployed(self, dataset: str) -> None:
        """Vertex AI undeploys what scales to zero, and an endpoint may pass to another data set: neither tells us."""
        serving = self._world.serving(dataset)
        current = serving.current
        if current is None or serving.undeployed_at or serving.under_way:
            return
        claim = claims.holder_of(self._ledger, current.endpoint_id)
        if claim and claim.document.dataset != dataset:
            holder = claim.document
            why = f"endpoint {current.endpoint_id} is held by data set {holder.dataset} since {holder.since}"
            self._tell_undeployed(dataset, current.deployed_model, why)
            return
        if current.deployment is None or current.deployment.scale_to_zero is None:
            return
        endpoint = self._world.vertex.find_endpoint(current.endpoint_id)
        if endpoint and current.deployed_model not in endpoint.deployed_ids:
            self._tell_undeployed(dataset, current.deployed_model, UNDEPLOYED_BY_GOOGLE)

    def _write(self, report: Report, read: Versioned[Report]) -> Versioned[Report]:
        return self._ledger.write(names.cleanup(report.dataset), report, expect=read.generation)
