"""From a claimed run to what Vertex AI and the trainer are told; pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from dualdeploy.contracts import dataset_config, training
from dualdeploy.contracts.split import Split
from dualdeploy.contracts.training import (
    FeatureNames,
    LiveModel,
    ModuleReference,
    OutputLocations,
    Recipe,
    ShardReference,
    ShardSplit,
    Target,
    TrainingJob,
    TrainingParameters,
)
from dualdeploy.google.vertex import ATTEMPT_LABEL, DATASET_LABEL, ENTRY_LABEL, RUN_LABEL, TARGET_LABEL, CustomJobSpec
from dualdeploy.ledger import Placement, Run, Shard
from training_launcher import disk
from training_launcher.run_split import split_of_run
from training_launcher.settings import LauncherSettings


def training_job(run: Run, target: Target, *, models_bucket: str, live: LiveModel | None = None) -> TrainingJob:
    """The document that the trainer reads: exactly the snapshot's shards, where to write, and whom to compare with."""
    config = dataset_config.stored(run.config)
    parameters = config.training.of(target)
    return TrainingJob(
        run_id=run.run_id,
        dataset=run.dataset,
        target=target,
        labels=config.labels,
        features=FeatureNames(**config.data.features.model_dump(), first_label=config.data.first_label),
        shards=shards(run, split_of_run(run)),
        training=TrainingParameters(
            architecture=parameters.architecture,
            weights=parameters.weights,
            image_size=parameters.image_size,
            epochs=parameters.epochs,
            batch_size=parameters.batch_size,
            learning_rate=parameters.learning_rate,
            seed=parameters.seed,
            max_bad_records=parameters.max_bad_records,
            precision=parameters.precision,
            xla=parameters.xla,
            recipe=Recipe.model_validate(parameters.recipe.model_dump()),
        ),
        output=OutputLocations(
            directory=f"gs://{models_bucket}/{training.artifact_directory(run.run_id, target)}",
            result=f"gs://{models_bucket}/{training.result_name(run.run_id, target)}",
        ),
        live=live,
        module=ModuleReference.model_validate(run.modules[target]) if target in run.modules else None,
    )


def custom_job(
    run: Run, target: Target, settings: LauncherSettings, *, placement: Placement, timeout: float, attempt: int
) -> CustomJobSpec:
    """The Vertex AI job of one target, ended after `timeout` seconds: a budget may shorten the configured one.

    Its labels are how it is found again if its name is never recorded.
    """
    parameters = dataset_config.stored(run.config).training.of(target)
    return CustomJobSpec(
        display_name=f"{run.run_id}-{target}",
        image=parameters.image or settings.trainer_image,
        arguments=[
            "--target",
            target,
            "--job",
            f"gs://{settings.models_bucket}/{training.job_name(run.run_id, target)}",
        ],
        environment={"GOOGLE_CLOUD_PROJECT": settings.project},
        labels={**job_labels(run, target), ATTEMPT_LABEL: str(attempt), ENTRY_LABEL: str(placement.entry)},
        machine=placement.machine,
        accelerator_type=placement.accelerator,
        accelerator_count=placement.count,
        replicas=parameters.replicas,
        strategy=placement.strategy,
        wait=placement.wait,
        timeout=timeout,
        output_directory=f"gs://{settings.models_bucket}/{training.artifact_directory(run.run_id, target)}",
        service_account=settings.training_service_account,
        disk_gb=disk.gigabytes(run),
    )


def job_labels(run: Run, target: str) -> dict[str, str]:
    """What the jobs of all attempts have in common."""
    return {RUN_LABEL: run.run_id, TARGET_LABEL: target, DATASET_LABEL: run.dataset}


def shards(run: Run, divided: Split) -> ShardSplit:
    """The shards of a run, divided, each at exactly its version."""
    return ShardSplit(train=_references(run, divided.train), eval=_references(run, divided.eval))


def _references(run: Run, names: Iterable[str]) -> tuple[ShardReference, ...]:
    shards = {shard.name: shard for shard in run.snapshot.shards}
    return tuple(_reference(run.snapshot.bucket, shards[name]) for name in names)


def _reference(bucket: str, shard: Shard) -> ShardReference:
    return ShardReference(
        uri=f"gs://{bucket}/{shard.name}", generation=str(shard.generation), size=shard.size, crc32c=shard.crc32c
    )
