"""From the shards of a run to a data set at AutoML that its pipelines learn from, resumable at any line.

    prepare ─► dataset ─► import ─► ready          failed: told with its reason to each run that needs it
      │ custom job:          │ every picture             deleted: no run has needed it for a day
      │ pictures,            │ is there, counted
      └ import files         └ Google could not read some: failed

Runs of the same pictures, labels and split share one (`automl.content_key`): a forced repetition need not import anew.
Its document says which runs need it. A run enters itself before it looks for the data set, and the clock deletes only
what no run is entered for, both by compare-and-swap on that document: what is needed is never deleted.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.contracts import automl, dataset_config
from dualdeploy.contracts.automl import Preparation, Prepared
from dualdeploy.contracts.training import FeatureNames
from dualdeploy.errors import (
    CannotEverSucceed,
    DualDeployError,
    LedgerContention,
    NoCapacity,
    RejectedByGoogle,
    ResourceConflict,
    ResourceMissing,
    RetryLater,
)
from dualdeploy.google.automl import AutoML, ManagedDataset
from dualdeploy.google.object_store import ABSENT, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.google.vertex import (
    ATTEMPT_LABEL,
    DATASET_LABEL,
    RUN_LABEL,
    TARGET_LABEL,
    CustomJobSpec,
    Job,
    JobOutcome,
    Vertex,
)
from dualdeploy.http.ticks import Next
from dualdeploy.ledger import Launch, Ledger, ManagedData, Placement, Run, State, Versioned, names, spending
from dualdeploy.ledger.due import Due
from dualdeploy.ledger.spending import Estimate
from training_launcher import disk, job_spec
from training_launcher.jobs import Jobs
from training_launcher.run_split import split_of_run
from training_launcher.settings import LauncherSettings

log = logging.getLogger(__name__)

#: The kind of due work that deletes what no run needs: `dataset/<dataset>/<key>`.
DATASET = "dataset"

#: Label of data sets at AutoML, and of jobs that prepare them: the content key.
DATA_LABEL = "dualdeploy_data"

#: For so long a data set is kept that no run needs: a forced repetition need not import it anew.
KEPT_SECONDS = 86_400.0

#: For so long an import that is over may show another number of pictures than it imported.
UNCOUNTED_SECONDS = 900.0

#: An operation of Google's that has not ended by then does not end: imports of the largest data sets take hours.
OPERATION_SECONDS = 86_400.0

#: So many steps are gone in one look.
_STEPS = 6

#: Messages of Google's about pictures that are put into a reason; it tells at most 20.
_TOLD = 3

PREPARE, CREATE, IMPORT, READY, FAILED, DELETING, DELETED = (
    "prepare",
    "dataset",
    "import",
    "ready",
    "failed",
    "deleting",
    "deleted",
)


class Unprepared(CannotEverSucceed):
    """There will be no data set at AutoML of this run's pictures; the message says why."""


def key_of(run: Run) -> str:
    """The content key of a run's data set."""
    return automl.content_key(run.snapshot.digest(), run.config)


class PreparationJobs:
    """The custom jobs that turn shards into pictures and import files; implements `jobs.Kind`."""

    def __init__(self, *, models: ObjectStore, vertex: Vertex, settings: LauncherSettings) -> None:
        self._models = models
        self._vertex = vertex
        self._settings = settings

    def labels(self, run: Run, target: str) -> Mapping[str, str]:
        """Without the run: whichever run needs the data set goes on with it."""
        return {DATA_LABEL: key_of(run), DATASET_LABEL: run.dataset, TARGET_LABEL: target}

    def find(self, labels: Mapping[str, str]) -> Sequence[Job]:
        return self._vertex.find_custom_jobs(labels)

    def get(self, name: str) -> Job:
        return self._vertex.get_custom_job(name)

    def cancel(self, name: str) -> None:
        self._vertex.cancel_custom_job(name)

    def create(self, run: Run, launch: Launch, *, placement: Placement, timeout: float) -> Job:
        key, attempt = key_of(run), launch.attempt + 1
        folder = automl.directory(run.dataset, key)
        name = automl.preparation_name(run.dataset, key, attempt)
        with contextlib.suppress(GenerationChanged):
            # Of two runs that begin the same attempt either will do: they name the same bytes.
            self._models.put(name, self._order(run, key).to_json(), expect=ABSENT)
        return self._vertex.create_custom_job(
            CustomJobSpec(
                display_name=f"{run.run_id}-{automl.DATA}",
                image=self._settings.trainer_image,
                arguments=["prepare-automl", "--job", self._models.uri(name)],
                environment={"GOOGLE_CLOUD_PROJECT": self._settings.project},
                labels={**self.labels(run, automl.DATA), RUN_LABEL: run.run_id, ATTEMPT_LABEL: str(attempt)},
                machine=placement.machine,
                accelerator_type="",
                accelerator_count=0,
                strategy=placement.strategy,
                timeout=timeout,
                output_directory=self._models.uri(folder),
                service_account=self._settings.training_service_account,
                disk_gb=disk.gigabytes_for_two(run),
            )
        )

    def _order(self, run: Run, key: str) -> Preparation:
        config = dataset_config.stored(run.config)
        folder = self._models.uri(automl.directory(run.dataset, key))
        return Preparation(
            run_id=run.run_id,
            dataset=run.dataset,
            key=key,
            labels=config.labels,
            features=FeatureNames(**config.data.features.model_dump(), first_label=config.data.first_label),
            shards=job_spec.shards(run, split_of_run(run)),
            max_bad_records=config.training.tolerated_bad_records,
            directory=folder,
            result=self._models.uri(automl.prepared_name(run.dataset, key)),
        )


class ManagedDatas:
    """The documents `automl/<dataset>/<key>.json`, and what they are about; implements `methods.Needs`."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        models: ObjectStore,
        vertex: Vertex,
        automl: AutoML,
        due: Due,
        settings: LauncherSettings,
    ) -> None:
        self._ledger = ledger
        self._models = models
        self._automl = automl
        self._due = due
        self._jobs = Jobs(PreparationJobs(models=models, vertex=vertex, settings=settings), ledger=ledger)
        self._vertex = vertex
        self._going: Mapping[str, Callable[[Run, ManagedData, Estimate], ManagedData | str]] = {
            PREPARE: self._prepare,
            CREATE: self._create,
            IMPORT: self._import,
            READY: self._check,
        }

    # Needs -----------------------------------------------------------------------------------------------------

    def refusal(self, run: Run, validation: Mapping[str, Any]) -> str:
        """What a validation that has read everything tells of what AutoML would refuse; the job that prepares the data
        tells what is left."""
        del run
        largest = max((_most(each.get("image_bytes")) for each in validation.get("splits", ())), default=0)
        if largest > automl.MOST_PICTURE_BYTES:
            return (
                f"AutoML takes pictures of at most {automl.MOST_PICTURE_BYTES:,} bytes, and the largest here has"
                f" {largest:,}: write smaller ones, or choose training.method: custom"
            )
        if validation.get("coverage", {}).get("fraction") != 1:
            return ""
        return _few(validation.get("classes", ()))

    def waits_for(self, run: Run, estimate: Estimate) -> str:
        """What the run's data set waits for, empty when it can be learned from. Raises Unprepared."""
        found = self._entered(run)
        for _ in range(_STEPS):
            if isinstance(found, str):
                return found
            document = found.document
            if document.step == FAILED:
                raise Unprepared(document.reason)
            go_on = self._going.get(document.step)
            if go_on is None:
                return f"the data set at AutoML is {document.step}, which a newer version knows"
            following = go_on(run, document, estimate)
            if isinstance(following, str):
                return following
            if following == document:
                return ""
            found = self._write(found, following)
        return "the data set at AutoML is made"

    def managed(self, run: Run) -> str:
        """The full name of the run's data set, once it waits for nothing."""
        found = self._find(run.dataset, key_of(run))
        if found is None or found.document.step != READY:
            raise ResourceConflict(f"the data set at AutoML of {run.run_id} is being changed")
        return found.document.managed

    def over(self, run: Run) -> None:
        """The run needs its data set no more; one that no run needs is deleted after a day."""
        key = key_of(run)
        found = self._find(run.dataset, key)
        if found and run.run_id in found.document.users:
            # Before it is written: an instance that dies in between has only asked for one more look.
            self._due.put(f"{DATASET}/{run.dataset}/{key}", self._in(KEPT_SECONDS))
            found = self._write(found, self._left(run, found.document))
        if found is None or found.document.payer != run.run_id:
            # Another run has prepared it, or none. Before Google is asked, which may refuse.
            spending.free(self._ledger, run.run_id, automl.DATA)
        if found and found.document.step == FAILED and found.document.job:
            # After it is written: a run that enters from now on asks for a job of its own.
            self._jobs.cancel(found.document.job)
        if found and found.document.step == READY:
            self._delete_others(found.document)

    # Entering --------------------------------------------------------------------------------------------------

    def _entered(self, run: Run) -> Versioned[ManagedData] | str:
        """The document with this run in it, begun anew where an earlier attempt failed or was deleted."""
        key = key_of(run)
        found = self._find(run.dataset, key)
        if found is None:
            fresh = ManagedData(dataset=run.dataset, key=key, step=PREPARE, since=self._now(), users=(run.run_id,))
            return self._ledger.create(names.managed_data(run.dataset, key), fresh)[0]
        document = found.document
        if run.run_id in document.users:
            return found
        if document.step == DELETING:
            return "the data set at AutoML of these pictures is being deleted, and made anew after that"
        if document.step == FAILED and document.users:
            return "the data set at AutoML of these pictures has just failed, and is made anew"
        users = tuple(sorted({*document.users, run.run_id}))
        if document.step in (FAILED, DELETED):
            return self._write(found, self._at(document, PREPARE, users=users, job="", managed="", reason=""))
        return self._write(found, document.changed(users=users))

    # Steps -----------------------------------------------------------------------------------------------------

    def _prepare(self, run: Run, document: ManagedData, estimate: Estimate) -> ManagedData | str:
        if not document.job:
            prepared = None if document.anew else self._prepared(document)
            if prepared and not prepared.refusal:
                return self._at(document, CREATE, pictures=prepared.pictures)
            return self._prepared_by(run, document, estimate)
        try:
            job = self._vertex.get_custom_job(document.job)
        except ResourceMissing:
            return self._failed(document, f"{document.job}, which prepares the pictures, no longer exists")
        if job.outcome is JobOutcome.UNFINISHED:
            return f"{document.job} prepares the pictures for AutoML"
        return self._ended(document, job)

    def _prepared_by(self, run: Run, document: ManagedData, estimate: Estimate) -> ManagedData:
        priced = estimate.targets[automl.DATA]
        machine = dataset_config.stored(run.config).training.automl.data.machine
        placement = Placement(
            since=document.since, wait=0.0, machine=machine, strategy="standard", usd_per_hour=priced.usd_per_hour
        )
        launch = _launch(run, document)
        job = self._jobs.find_or_create(run, launch, placement=placement, timeout=priced.timeout_seconds)
        return _taken(run, document, job)

    def _ended(self, document: ManagedData, job: Job) -> ManagedData | str:
        document = self._paid(document, job.billed_seconds)
        if job.was_never_placed:
            changes = {"job": "", "since": self._now(), "spent_seconds": document.spent_seconds}
            self._ledger.update(
                names.managed_data(document.dataset, document.key),
                ManagedData,
                lambda found: found.changed(**changes) if found and found.job == job.name else None,
            )
            raise NoCapacity(f"no machine for {job.name}: {job.error}")
        prepared = self._prepared(document)
        if prepared and prepared.refusal and prepared.job in ("", job.name.rsplit("/", 1)[-1]):
            return self._failed(document, prepared.refusal)
        if job.outcome is not JobOutcome.SUCCEEDED:
            reason = job.error or "Vertex AI gives no reason"
            return self._failed(
                document, f"{job.name}, which prepares the pictures for AutoML, {job.outcome}: {reason}"
            )
        if prepared is None or prepared.refusal:
            return self._failed(document, f"{job.name} succeeded but wrote no {self._prepared_uri(document)}")
        return self._at(document, CREATE, pictures=prepared.pictures, job="", anew=False)

    def _create(self, run: Run, document: ManagedData, estimate: Estimate) -> ManagedData | str:
        del estimate
        found = self._automl.find_datasets(self._labels(document))
        if found:
            self._delete(found[1:])
            return self._at(document, IMPORT, managed=found[0].name)
        operation = self._automl.operation(document.operation) if document.operation else None
        if operation is None:
            started = self._automl.start_create_dataset(f"{run.dataset} {document.key[:12]}", self._labels(document))
            return document.changed(operation=started)
        if not operation.done:
            return self._waited_for(document, "AutoML makes a data set")
        if operation.error:
            return self._after_failure(document, operation.failure("create a data set"), "AutoML made no data set")
        name = document.operation.partition("/operations/")[0]
        if self._automl.find_dataset(name) is None:
            return document.changed(operation="")
        return self._at(document, IMPORT, managed=name)

    def _import(self, run: Run, document: ManagedData, estimate: Estimate) -> ManagedData | str:
        del run, estimate
        dataset = self._automl.find_dataset(document.managed)
        if dataset is None:
            return self._at(document, CREATE, managed="")
        operation = self._automl.operation(document.operation) if document.operation else None
        if operation is None:
            # Not begun, or forgotten: what is there already is not imported again, though that would change nothing.
            return self._begun(document, dataset)
        if not operation.done:
            return self._waited_for(document, f"AutoML imports {document.pictures:,} pictures")
        if operation.error:
            return self._after_failure(document, operation.failure("import pictures"), "the import failed")
        return self._imported(document, dataset, operation.partial_failures)

    def _begun(self, document: ManagedData, dataset: ManagedDataset) -> ManagedData:
        if dataset.items == document.pictures:
            return self._at(document, READY)
        prepared = self._prepared(document)
        if prepared is None:
            return self._at(document, PREPARE, job="")
        return document.changed(operation=self._automl.start_import(document.managed, prepared.files))

    def _imported(self, document: ManagedData, dataset: ManagedDataset, failures: Sequence[str]) -> ManagedData | str:
        if dataset.items == document.pictures and not failures:
            return self._at(document, READY)
        if not failures and not document.uncounted_since:
            return document.changed(uncounted_since=self._now())
        counted = f"{dataset.items:,} of {document.pictures:,} pictures are in the data set"
        if not failures and self._now() < clocks.to_text(_after(document.uncounted_since, UNCOUNTED_SECONDS)):
            return f"AutoML has imported; so far {counted}"
        told = "; ".join(failures[:_TOLD]) + (f" (and {len(failures) - _TOLD} more)" if len(failures) > _TOLD else "")
        reason = f"AutoML did not import every picture, {counted}: {told or 'it does not say why'}"
        return self._failed(document, f"{reason}. Correct the data, or send a retrain request with force: true")

    def _waited_for(self, document: ManagedData, what: str) -> ManagedData | str:
        """What the operation does, for as long as it may take."""
        if self._ledger.clock() < _after(document.since, OPERATION_SECONDS):
            return what
        remedy = "look at it in the console of Vertex AI, then send a retrain request with force: true"
        return self._failed(document, f"{what} since {document.since}, and {document.operation} does not end: {remedy}")

    def _check(self, run: Run, document: ManagedData, estimate: Estimate) -> ManagedData | str:
        """Ready: it is still there, and alone. One whose creation was answered by nothing may have come later."""
        del run, estimate
        found = self._automl.find_datasets(self._labels(document))
        if document.managed not in {each.name for each in found} and not self._automl.find_dataset(document.managed):
            return self._at(document, CREATE, managed="")
        self._delete(each for each in found if each.name != document.managed)
        return document

    def _delete_others(self, document: ManagedData) -> None:
        """Leave no data set that an instance made which was frozen until the others were through."""
        found = self._automl.find_datasets(self._labels(document))
        self._delete(each for each in found if each.name != document.managed)

    # Ends ------------------------------------------------------------------------------------------------------

    def _failed(self, document: ManagedData, reason: str) -> ManagedData:
        log.error("the data set at AutoML of %s cannot be made: %s", document.dataset, reason)
        if document.managed:
            with contextlib.suppress(ResourceMissing):
                self._automl.start_delete_dataset(document.managed)
        return self._at(document, FAILED, managed="", job="", anew=True, reason=reason)

    def _after_failure(self, document: ManagedData, failure: DualDeployError, what: str) -> ManagedData:
        """What passes by itself is tried anew; raises it, so that it is asked for again, ever more seldom."""
        if not isinstance(failure, RetryLater):
            return self._failed(document, f"{what}: {failure}")
        self._ledger.update(
            names.managed_data(document.dataset, document.key),
            ManagedData,
            lambda found: found.changed(operation="") if found and found.operation == document.operation else None,
        )
        raise failure

    def _left(self, run: Run, document: ManagedData) -> ManagedData:
        """Without a run. When no run needs it before it is prepared, the job is to end, and what it took is paid."""
        left = tuple(each for each in document.users if each != run.run_id)
        if not left and document.step == PREPARE:
            document = self._abandoned(run, document)
        return document.changed(users=left, idle_since=self._now())

    def _abandoned(self, run: Run, document: ManagedData) -> ManagedData:
        """It keeps the name of the job, which ends once this is written."""
        if not document.job:
            # The instance that created it may have died before it recorded its name.
            present = self._jobs.present(run, _launch(run, document))
            if not present:
                return document
            document = _taken(run, document, present[0])
        with contextlib.suppress(ResourceMissing):
            job = self._vertex.get_custom_job(document.job)
            began = job.started if job.outcome is JobOutcome.UNFINISHED else None
            seconds = (self._ledger.clock() - began).total_seconds() if began else job.billed_seconds
            document = self._paid(document, seconds)
        return self._at(document, FAILED, reason="no run needs it any more")

    def _paid(self, document: ManagedData, seconds: float) -> ManagedData:
        """With what a job took, which is on the account of the run that pays; repeating it changes nothing there."""
        spent = document.spent_seconds + seconds
        estimate = spending.read_estimate(self._ledger, document.payer)
        price = estimate.targets[automl.DATA].usd_per_hour if estimate and automl.DATA in estimate.targets else None
        usd = None if price is None else price * spent / 3600
        spending.settle(self._ledger, document.payer, automl.DATA, seconds=spent, usd=usd)
        return document.changed(spent_seconds=spent)

    # Inside ----------------------------------------------------------------------------------------------------

    def _find(self, dataset: str, key: str) -> Versioned[ManagedData] | None:
        return self._ledger.find(names.managed_data(dataset, key), ManagedData)

    def _write(self, found: Versioned[ManagedData], following: ManagedData) -> Versioned[ManagedData]:
        name = names.managed_data(following.dataset, following.key)
        return self._ledger.write(name, following, expect=found.generation)

    def _at(self, document: ManagedData, step: str, **changes: object) -> ManagedData:
        return document.changed(
            **{"step": step, "since": self._now(), "operation": "", "uncounted_since": "", **changes}
        )

    def _labels(self, document: ManagedData) -> dict[str, str]:
        return {DATA_LABEL: document.key, DATASET_LABEL: document.dataset}

    def _prepared(self, document: ManagedData) -> Prepared | None:
        name = automl.prepared_name(document.dataset, document.key)
        try:
            return automl.parse_prepared(self._models.read(name).data, source=self._models.uri(name))
        except ObjectMissing:
            return None

    def _prepared_uri(self, document: ManagedData) -> str:
        return self._models.uri(automl.prepared_name(document.dataset, document.key))

    def _delete(self, datasets: Iterable[ManagedDataset]) -> None:
        for each in datasets:
            log.warning("%s is deleted: it is a duplicate, or no run needs it", each.name)
            with contextlib.suppress(ResourceMissing):
                self._automl.start_delete_dataset(each.name)

    def _now(self) -> str:
        return clocks.to_text(self._ledger.clock())

    def _in(self, seconds: float) -> datetime.datetime:
        return self._ledger.clock() + datetime.timedelta(seconds=seconds)


class Unneeded:
    """Deletes data sets at AutoML that no run needs; implements `ticks.Work`."""

    def __init__(self, *, ledger: Ledger, automl: AutoML, due: Due) -> None:
        self._ledger = ledger
        self._automl = automl
        self._due = due

    def advance(self, what: str) -> Next:
        """`what` is `<dataset>/<key>`."""
        dataset, _, key = what.partition("/")
        name = names.managed_data(dataset, key)
        found = self._ledger.find(name, ManagedData)
        if found is None or found.document.step == DELETED:
            return Next("there is no such data set")
        document = found.document
        if document.users:
            # The run that leaves it last asks for the next look.
            return Next(f"is needed by {', '.join(document.users)}")
        ends = _after(document.idle_since or document.since, KEPT_SECONDS)
        if self._ledger.clock() < ends:
            return Next("is kept for a repetition", ends)
        if document.step != DELETING:
            # From here on a run waits until it is gone: this write and the one that enters a run exclude each other.
            found = self._ledger.write(name, document.changed(step=DELETING, operation=""), expect=found.generation)
            document = found.document
        present = self._automl.find_datasets({DATA_LABEL: key, DATASET_LABEL: dataset})
        still = self._ledger.find(name, ManagedData)
        if still is None or still.generation != found.generation:
            # An instance that was frozen before it looked may have found one that was made since.
            raise LedgerContention(f"{name} was changed by another instance")
        if not present:
            self._ledger.write(name, document.changed(step=DELETED, managed=""), expect=found.generation)
            return Next("is deleted")
        try:
            for each in present:
                with contextlib.suppress(ResourceMissing, ResourceConflict):
                    self._automl.start_delete_dataset(each.name)
        except RejectedByGoogle as exc:
            self.give_up(what, str(exc))
        return Next(f"{len(present)} are being deleted", self._due.soon())

    def give_up(self, what: str, why: str) -> None:
        """It costs little, and is told; the next run goes on with what is there."""
        reason = f"the data set {what} at AutoML, which no run needs, is not deleted: {why}"
        changes = {"step": FAILED, "reason": reason, "managed": ""}
        self._ledger.update(
            names.managed_data(*what.split("/", 1)),
            ManagedData,
            lambda found: found.changed(**changes) if found and found.step == DELETING else None,
        )
        raise Unprepared(reason)


def _launch(run: Run, document: ManagedData) -> Launch:
    """The preparation, as `Jobs` knows the training of a target."""
    return Launch(
        run_id=run.run_id,
        dataset=run.dataset,
        target=automl.DATA,
        state=State.LAUNCHING,
        since=document.since,
        attempt=document.attempt,
    )


def _taken(run: Run, document: ManagedData, job: Job) -> ManagedData:
    """With the job of its next attempt. The run that it was made for pays: it may be another of the same pictures."""
    payer = job.labels.get(RUN_LABEL, run.run_id)
    spent = document.spent_seconds if payer == document.payer else 0.0
    return document.changed(job=job.name, attempt=document.attempt + 1, payer=payer, spent_seconds=spent)


def _after(moment: str, seconds: float) -> datetime.datetime:
    return clocks.from_text(moment) + datetime.timedelta(seconds=seconds)


def _most(spread: Any) -> int:
    return int(spread["maximum"]) if isinstance(spread, Mapping) else 0


def _few(classes: Iterable[Mapping[str, Any]]) -> str:
    """Which labels AutoML could not be trained with, by how many usable records they have."""
    faults = []
    for each in classes:
        records = each.get("records", {})
        total = sum(records.values())
        if total < automl.LEAST_PICTURES_OF_A_LABEL:
            faults.append(f"{each['label']} has {total} pictures, AutoML wants {automl.LEAST_PICTURES_OF_A_LABEL}")
        elif not records.get("eval"):
            faults.append(f"{each['label']} has no held-out picture, and AutoML tests every label")
        elif records.get("train", 0) < 2:
            faults.append(f"{each['label']} has {records.get('train', 0)} pictures to learn from, AutoML needs two")
    if not faults:
        return ""
    more = f", and {len(faults) - 5} more labels" if len(faults) > 5 else ""
    return f"AutoML cannot be trained on this data: {'; '.join(faults[:5])}{more}. Add pictures, or take labels out"
