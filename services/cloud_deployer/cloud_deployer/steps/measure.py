"""The model that serves, measured on a new run's held-out pictures, when the trainer measured another one or none.

    look for the result ─► look for the labelled job ─► create it ─► look at it, each minute, until its result is there

It is a small job of the trainer's image with `--evaluate-live`. Labels of its own keep it apart from training jobs; the
release is among them, and in the name of its result, so that a redeploy tries anew what failed before.
"""

from __future__ import annotations

import contextlib
import logging

import pydantic

from cloud_deployer.release import TARGET, CloudRelease, CloudServed, EvaluationJob, Measured
from cloud_deployer.world import World, config_of
from dualdeploy import clock as clocks
from dualdeploy.contracts import training
from dualdeploy.contracts.dataset_config import Capacity, CloudGate, DatasetConfig
from dualdeploy.contracts.training import (
    LiveMetrics,
    LiveModel,
    Metrics,
    OutputLocations,
    TrainingJob,
    TrainingResult,
    as_mapping,
)
from dualdeploy.errors import CannotEverSucceed, NoCapacity, RejectedByGoogle, RetryLater, UnknownRun, UnusableResult
from dualdeploy.google.object_store import ABSENT, GenerationChanged, ObjectMissing
from dualdeploy.google.vertex import DATASET_LABEL, CustomJobSpec, Job, JobOutcome
from dualdeploy.ledger import State, spending
from dualdeploy.release.route import Forward, Stay, Turn, Wait

log = logging.getLogger(__name__)

EVALUATION_LABEL, LIVE_LABEL, RELEASE_LABEL = "dualdeploy_evaluation", "dualdeploy_live", "dualdeploy_release"

#: Vertex AI ends a job that runs longer than its pictures can take: loading and TensorFlow, and so much for each.
START_SECONDS, PICTURE_SECONDS, MOST_SECONDS = 600.0, 0.5, 1800.0
#: How much longer a job may wait for its machine before it is called off.
QUEUE_SECONDS = 900.0


def measure(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """Find out how the model that serves does on the pictures of this run, if any rule of the gate asks for it."""
    config = config_of(release)
    current = world.serving(release.dataset).current
    live = current if current and current.run_id != release.run_id else None
    if live is None or not _is_compared(config.gates.cloud):
        return _measured(release, Measured(live=live.run_id if live else ""))
    result = world.result(release.run_id)
    if known := _figures(release, world, result, live.run_id):
        return _measured(release, Measured(live=live.run_id, metrics=as_mapping(known)))
    if unmeasured := _unmeasured(release, world, result, live):
        return _measured(release, unmeasured)
    return _by_a_job(release, world, config, result, live)


def _unmeasured(release: CloudRelease, world: World, result: TrainingResult, live: CloudServed) -> Measured | None:
    """Why no job is started to measure the model that serves, if none is."""
    if impossible := _impossible(result, world, live):
        return Measured(live=live.run_id, problem=impossible, possible=False)
    # What the trainer could not measure is not asked for again, but by a person who brings the run out once more.
    told = result.live.problem if result.live and result.live.run_id == live.run_id else ""
    if told and release.n == 1:
        return Measured(live=live.run_id, problem=told)
    if release.forced:
        # It goes out whatever the comparison says: someone who rolls back must not wait for a job.
        return Measured(live=live.run_id, problem=told or "no job was started to find out, the release is forced")
    if not world.settings.trainer_image:
        problem = told or "TRAINER_IMAGE is not set, and measuring it takes that image"
        return Measured(live=live.run_id, problem=problem)
    return None


def call_off(release: CloudRelease, world: World) -> None:
    """Of a release that is over before it knew: its job is not waited for any more."""
    was_measuring = release.measured is None and any(moment.state == State.GATING for moment in release.history)
    if not was_measuring or not world.settings.trainer_image:
        return
    with contextlib.suppress(RejectedByGoogle):
        jobs = _jobs(release, world)
        for job in jobs:
            if job.outcome is JobOutcome.UNFINISHED:
                world.vertex.cancel_custom_job(job.name)
        _settle(release, world, jobs)


def _is_compared(limits: CloudGate) -> bool:
    """Whether any rule is about the model that serves; latency alone is not worth a job."""
    compared = (limits.max_regression, limits.max_class_regression, limits.max_calibration_regression)
    return any(limit is not None for limit in compared)


def _measured(release: CloudRelease, measured: Measured) -> Turn[CloudRelease]:
    return Forward(release.changed(measured=measured))


def _figures(release: CloudRelease, world: World, result: TrainingResult, live_run_id: str) -> Metrics | None:
    """Figures of the model that serves on the pictures of this run; None when there are none to be trusted.

    The trainer measures both on the same pictures. Without that, the figures of two runs may only be compared when
    they were trained on the same snapshot, and so held out the same pictures.
    """
    if result.live and result.live.run_id == live_run_id and result.live.metrics:
        return result.live.metrics
    try:
        if world.ledger.read_run(live_run_id).snapshot.digest() != release.snapshot:
            return None
        return world.result(live_run_id).metrics
    except (UnknownRun, UnusableResult):
        return None


def _impossible(result: TrainingResult, world: World, live: CloudServed) -> str:
    """Why no job can measure the model that serves on the new run's pictures, if none can: what AutoML trained answers
    only where it is deployed, and leaves no list of its pictures for another model."""
    if result.managed:
        return "AutoML trained the new one, which leaves no job that another model could be measured with"
    with contextlib.suppress(UnusableResult):
        if world.result(live.run_id).managed:
            return "AutoML trained it, and such a model has no files that a job could run"
    return ""


# The job -------------------------------------------------------------------------------------------------------


def _by_a_job(
    release: CloudRelease, world: World, config: DatasetConfig, result: TrainingResult, live: CloudServed
) -> Turn[CloudRelease]:
    if measured := _written(release, world, live):
        if release.evaluation:
            _settle(release, world, _jobs(release, world))
        return _measured(release, measured)
    if not release.operation_since:
        # From now on counts how long the answer may take, whether Vertex AI takes the job or not.
        return Stay(release.changed(operation_since=clocks.to_text(world.clock())))
    if not release.operation:
        return _find_or_create(release, world, config, result, live)
    return _look(release, world, result, live)


def _written(release: CloudRelease, world: World, live: CloudServed) -> Measured | None:
    """What the job of this release wrote; what an earlier one measured is as true."""
    mine = _read(release, world, live, release.n)
    if mine:
        return mine
    earlier = (_read(release, world, live, n) for n in range(release.n - 1, 0, -1))
    return next((each for each in earlier if each and each.metrics), None)


def _read(release: CloudRelease, world: World, live: CloudServed, n: int) -> Measured | None:
    name = training.live_evaluation_name(release.run_id, live.run_id, release=n)
    try:
        found = LiveMetrics.model_validate_json(world.models.read(name).data)
    except ObjectMissing:
        return None
    except pydantic.ValidationError as exc:
        problem = f"{world.models.uri(name)} is not an evaluation: {exc.errors()[0]['msg']}"
        return Measured(live=live.run_id, problem=problem)
    metrics = as_mapping(found.metrics) if found.metrics else None
    return Measured(live=live.run_id, metrics=metrics, problem=found.problem)


def _find_or_create(
    release: CloudRelease, world: World, config: DatasetConfig, result: TrainingResult, live: CloudServed
) -> Turn[CloudRelease]:
    try:
        found = world.vertex.find_custom_jobs(_labels(release, live))
        jobs = [job for job in found if not job.was_never_placed]
        if not jobs:
            if problem := _too_expensive(release, world, config, result):
                return _measured(release, Measured(live=live.run_id, problem=problem))
            _reserve(release, world, config, result)
            jobs = [_create(release, world, config, result, live, unplaced=len(found))]
    except RetryLater as exc:
        if world.seconds_since(release.operation_since) <= limit_seconds(result):
            raise
        problem = f"Vertex AI did not take the job for {limit_seconds(result):.0f} s: {exc}"
    except spending.OverBudget as exc:
        problem = f"measuring it {exc}"
    except (RejectedByGoogle, UnusableResult) as exc:
        problem = str(exc)
    else:
        log.info("%s measures %s on the pictures of %s", jobs[0].name, live.run_id, release.run_id)
        most = _most_usd(release, world, result)
        evaluation = EvaluationJob(live=live.run_id, job=jobs[0].name, most_usd=most)
        # Of all jobs together: a job that Vertex AI could not place does not begin the time anew.
        since = clocks.to_text(world.clock()) if len(found) < len(jobs) else release.operation_since
        return Stay(release.changed(evaluation=evaluation, operation=jobs[0].name, operation_since=since))
    _settle(release, world, [])
    return _measured(release, Measured(live=live.run_id, problem=problem))


def _look(release: CloudRelease, world: World, result: TrainingResult, live: CloudServed) -> Turn[CloudRelease]:
    try:
        job = world.vertex.get_custom_job(release.operation)
    except RejectedByGoogle as exc:
        # What it cost is not known: its reservation stays.
        return _measured(release, Measured(live=live.run_id, problem=str(exc)))
    limit = limit_seconds(result)
    is_in_time = world.seconds_since(release.operation_since) <= limit
    if job.was_never_placed and is_in_time:
        waiting = release.changed(operation="", evaluation=None)
        return Wait(waiting, f"a machine to measure {live.run_id}: {job.error}")
    if job.outcome is not JobOutcome.UNFINISHED:
        _settle(release, world, [job])
        # It may have written its result between the two looks.
        problem = f"{job.name} {job.outcome} without a result: {job.error or 'no reason given'}"
        return _measured(release, _written(release, world, live) or Measured(live=live.run_id, problem=problem))
    if is_in_time:
        return Wait(release, f"{job.name}, which measures {live.run_id} on the new pictures, {limit:.0f} s at most")
    with contextlib.suppress(RejectedByGoogle):
        world.vertex.cancel_custom_job(job.name)
    _settle(release, world, [job])
    return _measured(release, Measured(live=live.run_id, problem=f"{job.name} had not ended after {limit:.0f} s"))


def timeout_seconds(result: TrainingResult) -> float:
    """How long the job may run: so many pictures take so long."""
    return min(MOST_SECONDS, START_SECONDS + PICTURE_SECONDS * result.metrics.examples)


def limit_seconds(result: TrainingResult) -> float:
    """After so long without an end, queueing and provisioning included, the job is called off."""
    return timeout_seconds(result) + QUEUE_SECONDS


def _create(
    release: CloudRelease,
    world: World,
    config: DatasetConfig,
    result: TrainingResult,
    live: CloudServed,
    *,
    unplaced: int,
) -> Job:
    """The job on the first machines of `training.cloud.capacity` that Vertex AI has; each that could not be placed was
    one try."""
    name = training.live_evaluation_job_name(release.run_id, live.run_id, release=release.n)
    document = _document(release, world, live)
    with contextlib.suppress(GenerationChanged):
        # What an earlier attempt left says the same: a run is frozen.
        world.models.put(name, document.to_json(), expect=ABSENT)
    capacity = config.training.cloud.capacity
    first = unplaced % len(capacity)
    *entries, last = *capacity[first:], *capacity[:first]
    for entry in entries:
        with contextlib.suppress(NoCapacity):
            return world.vertex.create_custom_job(_spec(release, world, result, live, name=name, entry=entry))
    return world.vertex.create_custom_job(_spec(release, world, result, live, name=name, entry=last))


def _spec(
    release: CloudRelease, world: World, result: TrainingResult, live: CloudServed, *, name: str, entry: Capacity
) -> CustomJobSpec:
    return CustomJobSpec(
        display_name=f"{release.run_id}-evaluates-{live.run_id}"[:128],
        image=world.settings.trainer_image,
        arguments=["--target", "cloud", "--job", world.models.uri(name), "--evaluate-live"],
        environment={"GOOGLE_CLOUD_PROJECT": world.settings.project},
        labels=_labels(release, live) | {DATASET_LABEL: release.dataset},
        machine=entry.machine,
        accelerator_type=entry.accelerator.type if entry.accelerator else "",
        accelerator_count=entry.accelerator.count if entry.accelerator else 0,
        strategy=entry.strategy,
        wait=min(entry.wait, QUEUE_SECONDS),
        timeout=timeout_seconds(result),
        output_directory=world.models.uri(name).rsplit("/", 1)[0],
        service_account=world.settings.training_service_account,
    )


def _labels(release: CloudRelease, live: CloudServed) -> dict[str, str]:
    return {EVALUATION_LABEL: release.run_id, LIVE_LABEL: live.run_id, RELEASE_LABEL: str(release.n)}


def _jobs(release: CloudRelease, world: World) -> list[Job]:
    """The job of this release, found by its labels while its name is not recorded."""
    if release.evaluation:
        return [world.vertex.get_custom_job(release.evaluation.job)]
    return world.vertex.find_custom_jobs({EVALUATION_LABEL: release.run_id, RELEASE_LABEL: str(release.n)})


def _document(release: CloudRelease, world: World, live: CloudServed) -> TrainingJob:
    """The job that trained the run, with the live model in it and another place for the result."""
    name = training.job_name(release.run_id, TARGET)
    try:
        trained = TrainingJob.model_validate_json(world.models.read(name).data)
    except (ObjectMissing, pydantic.ValidationError) as exc:
        raise UnusableResult(f"{world.models.uri(name)} cannot be read: {exc}") from exc
    result = world.models.uri(training.live_evaluation_name(release.run_id, live.run_id, release=release.n))
    output = OutputLocations(directory=result.rsplit("/", 1)[0], result=result)
    model = LiveModel(run_id=live.run_id, saved_model=world.result(live.run_id).artifacts.saved_model)
    return trained.model_copy(update={"live": model, "output": output})


# Money ---------------------------------------------------------------------------------------------------------


def _usd_per_hour(release: CloudRelease, world: World) -> float | None:
    """The machine is one of those that the training asks for; the hourly price of the dearest is on record."""
    try:
        estimate = spending.read_estimate(world.ledger, release.run_id)
    except CannotEverSucceed as exc:
        log.warning("the estimate of %s cannot be read: %s", release.run_id, exc)
        return None
    return estimate.targets["cloud"].usd_per_hour if estimate else None


def _most_usd(release: CloudRelease, world: World, result: TrainingResult) -> float | None:
    """What the job can cost at most."""
    price = _usd_per_hour(release, world)
    return None if price is None else round(price * timeout_seconds(result) / 3600, 4)


def _reserve(release: CloudRelease, world: World, config: DatasetConfig, result: TrainingResult) -> None:
    """Put the job on the account of the month in which this release began. Raises OverBudget."""
    most = _most_usd(release, world, result) or 0.0
    job = {_account_key(release): spending.Entry(estimated_usd=most, reserved_usd=most)}
    limit = config.budget.max_usd_per_month
    spending.reserve_jobs(world.ledger, release.dataset, _month(release), job, limit_usd=limit)


def _settle(release: CloudRelease, world: World, jobs: list[Job]) -> None:
    """Replace the reservation by what the job cost until now; no more is spent on a job that is called off."""
    price = _usd_per_hour(release, world)
    if price is None:
        return
    seconds = sum(_seconds(job, world) for job in jobs)
    usd, key = round(price * seconds / 3600, 6), _account_key(release)
    try:
        spending.settle_job(world.ledger, release.dataset, _month(release), key, actual_usd=usd, seconds=seconds)
    except CannotEverSucceed as exc:
        # The reservation stays, which is the most that it can have cost.
        log.warning("what the evaluation for %s cost is not recorded: %s", release.run_id, exc)


def _seconds(job: Job, world: World) -> float:
    ended = job.ended or world.clock()
    return max(0.0, (ended - job.started).total_seconds()) if job.started else 0.0


def _too_expensive(release: CloudRelease, world: World, config: DatasetConfig, result: TrainingResult) -> str:
    limit, most = config.budget.max_usd_per_run, _most_usd(release, world, result)
    if limit is None or most is None or most <= limit:
        return ""
    return f"measuring it may cost {most:.2f} USD, budget.max_usd_per_run is {limit:.2f}"


def _month(release: CloudRelease) -> str:
    return release.history[0].at[:7]


def _account_key(release: CloudRelease) -> str:
    """One entry for each release: a redeploy may measure again, and pay again."""
    return f"{release.run_id}/cloud/live-evaluation-{release.n}"
