"""One network from its first weights, or from where an interrupted attempt was, to its measured last ones."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dualdeploy.contracts import saved_model
from dualdeploy.contracts.training import Course, Metrics, TrainingJob, TrainingParameters
from trainer import architectures
from trainer.architectures import Network
from trainer.data.class_weights import class_weights
from trainer.data.examples import DataSet, Examples
from trainer.loop import evaluation, head, recipe
from trainer.loop.replicas import Team
from trainer.outputs import event_log
from trainer.process import checkpoints, hardware
from trainer.process.checkpoint_writer import BackgroundWriter
from trainer.process.checkpoints import Checkpoint
from trainer.process.failures import UnusableData, WorkerLost
from trainer.process.progress import Reporter

log = logging.getLogger("trainer")

#: Held-out pictures that are looked at after every epoch; all of them are at the end.
WATCHED = 500


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained network in float32, its one traced function, and how training went; `predict` is the chief's alone.

    `pictures` were learned from and `skipped` records were not used, by all workers together.
    """

    network: Network
    predict: Any
    history: tuple[Mapping[str, Any], ...]
    course: Course
    pictures: int
    skipped: int


@dataclasses.dataclass(frozen=True)
class Memory:
    """Where the state after each epoch is kept, and what an earlier attempt left there."""

    writer: BackgroundWriter
    checkpoint: str
    logs: str
    earlier: Checkpoint | None


@dataclasses.dataclass(frozen=True)
class Start:
    """What a network is made of that lies in files: `weights` as `architectures.build` has them, and its module."""

    weights: str | Path
    module: Path | None = None


def fit(job: TrainingJob, data: DataSet, start: Start, memory: Memory, *, reporter: Reporter, team: Team) -> Fitted:
    """Build the network that `job` names and train it; state goes to `memory` after each epoch.

    Every worker calls this with its own pictures, the chief with the held-out ones as well.
    Raises UnusableData, UnusableWeights, UnusableModule, UnusableGraph and DivergedTraining.
    """
    training = job.training
    everyone = _everyone(data, memory.earlier, team)
    policy, compiled = _hardware(job, team)
    keras.utils.set_random_seed(training.seed)
    served = architectures.build(
        training.architecture,
        classes=len(job.labels),
        image_size=training.image_size,
        weights=start.weights,
        module=start.module,
    )
    weights = _class_weights(job, everyone.classes)
    earlier = _taken_over(memory)
    if training.recipe.head == "features" and served.pretrained and earlier is None:
        _fit_head(job, served, data, weights, team)
    learner = _learner(job, served, start.module, policy, team)
    predict = inference(served, training.image_size) if team.place.is_chief else None
    lesson = recipe.Lesson(
        network=learner,
        images=data.train.pixels,
        labels=data.train.labels,
        settings=recipe.Settings(
            image_size=training.image_size,
            batch_size=training.batch_size,
            seed=training.seed,
            augmentation=training.augmentation,
            recipe=training.recipe,
            class_weights=weights,
            precision=policy,
            compiled=compiled,
        ),
        watch=_watch(job, data, served, learner, predict=predict, team=team),
        listener=_listener(job, memory, reporter, team),
        team=team,
        fewest=everyone.fewest,
    )
    plan = recipe.phases(learner, epochs=training.epochs, learning_rate=training.learning_rate, recipe=training.recipe)
    reporter.expect(lesson.steps * (training.epochs - (earlier.epoch if earlier else 0)))
    reached = recipe.train(lesson, plan, earlier)
    reporter.finish()
    _hand_over(learner, served)
    if reached.epoch < training.epochs:
        log.info("stopped after epoch %d of %d: no better since %d", reached.epoch, training.epochs, reached.best_epoch)
    course = _course(training, reached, team, policy, compiled=compiled)
    return Fitted(served, predict, reached.history, course, int(everyone.classes.sum()), everyone.skipped)


@dataclasses.dataclass(frozen=True)
class _Everyone:
    """What all workers have together: pictures of each class, the pictures of the one that has fewest, bad records."""

    classes: npt.NDArray[Any]
    fewest: int
    skipped: int


def _everyone(data: DataSet, earlier: Checkpoint | None, team: Team) -> _Everyone:
    pictures = team.each(len(data.train))
    if pictures.min() < team.local:
        raise UnusableData(
            f"worker {int(pictures.argmin())} has {int(pictures.min())} pictures for {team.local} devices: use fewer "
            "workers or accelerators"
        )
    epochs = team.each(earlier.epoch if earlier else 0)
    if len(set(epochs.tolist())) > 1:
        raise WorkerLost(f"the workers found checkpoints of different epochs ({epochs.tolist()})")
    classes = team.total(np.bincount(data.train.labels, minlength=data.classes).tolist())
    if empty := [str(index) for index in np.flatnonzero(classes == 0)]:
        raise UnusableData(f"no picture to learn class {', '.join(empty)} from: add some, or take the label out")
    return _Everyone(classes, int(pictures.min()), int(team.total([data.skipped])[0]))


def _hardware(job: TrainingJob, team: Team) -> tuple[hardware.Policy, bool]:
    devices = hardware.devices()
    hardware.require_use_of(hardware.cards(), devices)
    policy = hardware.policy(job.training.precision, devices)
    compiled = hardware.compiled(job.training.xla, devices, replicas=team.replicas)
    alone = "learning on one device" if team.replicas == 1 else f"learning on {team.replicas} devices"
    member = f"worker {team.place.index + 1} of {team.place.workers}, with {team.local} of {team.replicas} devices"
    who = alone if team.place.workers == 1 else member
    log.info("%s, in %s%s", who, policy, ", compiled by XLA" if compiled else "")
    return policy, compiled


def inference(network: Network, image_size: int) -> Any:
    """The network's traced function, refused before anything is learned if no service would serve it.

    Raises UnusableGraph.
    """
    predict = recipe.inference(network.model, image_size)
    saved_model.check_graph(predict.graph.as_graph_def().SerializeToString())
    return predict


def _learner(job: TrainingJob, served: Network, module: Path | None, policy: hardware.Policy, team: Team) -> Network:
    """The network that is trained: the served one itself, or its twin on every replica or in another number format."""
    if team.replicas == 1 and policy == "float32":
        return served
    with team.scope():
        twin = architectures.build(
            job.training.architecture,
            classes=len(job.labels),
            image_size=job.training.image_size,
            weights="none",
            precision=policy,
            shared=team.replicas > 1,
            module=module,
        )
        recipe.put_weights(twin.model, recipe.weights_of(served.model))
    return dataclasses.replace(twin, pretrained=served.pretrained)


def _fit_head(job: TrainingJob, served: Network, data: DataSet, weights: Any, team: Team) -> None:
    """On the pictures of the chief, whose head all workers begin with."""
    if team.place.is_chief:
        head.fit(
            served,
            data.train.pixels,
            data.train.labels,
            image_size=job.training.image_size,
            smoothing=job.training.recipe.label_smoothing,
            class_weights=weights,
        )
    for variable in served.head:
        values = variable.value.numpy().ravel() if team.place.is_chief else np.zeros(variable.shape).ravel()
        variable.assign(team.total(values.tolist()).reshape(variable.shape).astype(np.float32))


def _hand_over(learner: Network, served: Network) -> None:
    if learner is not served:
        recipe.put_weights(served.model, recipe.weights_of(learner.model))


def _watch(
    job: TrainingJob, data: DataSet, served: Network, learner: Network, *, predict: Any, team: Team
) -> Callable[[], Metrics]:
    """Measures as the model will be served; the chief does, and tells the others, who must stop at the same epoch."""
    some = _some(data.held_out)

    def watch() -> Metrics:
        _hand_over(learner, served)
        loss, accuracy = 0.0, 0.0
        if predict is not None:
            found = evaluation.evaluate(predict, some, job.labels).metrics
            loss, accuracy = found.loss, found.accuracy
        loss, accuracy = team.total([loss, accuracy])
        return Metrics(loss=loss, accuracy=min(accuracy, 1.0), examples=max(1, len(some)))

    return watch


def _course(
    training: TrainingParameters, reached: Checkpoint, team: Team, policy: hardware.Policy, *, compiled: bool
) -> Course:
    speeds = [entry["images_per_second"] for entry in reached.history]
    return Course(
        epochs=training.epochs,
        epochs_trained=reached.epoch,
        best_epoch=reached.best_epoch,
        resumed_at=reached.resumed_at,
        workers=team.place.workers,
        replicas=team.replicas,
        precision=policy,
        xla=compiled,
        images_per_second=round(statistics.median(speeds), 1) if speeds else None,
    )


def _taken_over(memory: Memory) -> Checkpoint | None:
    if memory.earlier is None:
        return None
    earlier = memory.earlier
    log.info("an earlier attempt got to epoch %d: going on from there", earlier.epoch)
    return dataclasses.replace(earlier, resumed_at=(*earlier.resumed_at, earlier.epoch))


def _listener(job: TrainingJob, memory: Memory, reporter: Reporter, team: Team) -> recipe.Listener:
    identity = checkpoints.fingerprint(job)

    def after_epoch(report: recipe.EpochReport, reached: Checkpoint) -> None:
        # First of all: an epoch that was told is not trained again, whenever the machine is taken away.
        memory.writer.put(memory.checkpoint, lambda: reached.to_bytes(identity))
        log.info(
            "epoch %d of %d: loss %.3f, accuracy %.3f, held-out accuracy %.3f, %.0f pictures/s",
            report.epoch,
            report.epochs,
            report.loss,
            report.accuracy,
            report.held_out_accuracy,
            report.images_per_second,
            extra=dataclasses.asdict(report),
        )
        for name, content in event_log.encode(reached.history).items():
            memory.writer.put(f"{memory.logs}/{name}", lambda content=content: content)  # type: ignore[misc]

    # The other workers know the same: one tells it.
    return recipe.Listener(lambda _: reporter.advance(), after_epoch if team.place.is_chief else lambda *_: None)


def _class_weights(job: TrainingJob, counts: npt.NDArray[Any]) -> Any:
    if job.training.recipe.class_weights == "none":
        return None
    weights = class_weights(counts)
    if weights is not None:
        named = ", ".join(f"{label} {weight:.2f}" for label, weight in zip(job.labels, weights, strict=True))
        log.info("the classes are unbalanced; they count %s", named)
    return weights


def _some(examples: Examples) -> Examples:
    """At most about `WATCHED` held-out pictures, evenly spread: enough to see after each epoch where it goes."""
    stride = max(1, -(-len(examples) // WATCHED))
    return Examples(examples.pixels[::stride], examples.labels[::stride])
