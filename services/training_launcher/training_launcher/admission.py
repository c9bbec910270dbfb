"""Whether a claimed run may cost anything: its data is validated once, and the verdict is kept beside the run."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, BinaryIO

from dualdeploy.contracts import split
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.ledger import Ledger, Run, Shard
from dualdeploy.object_store import ObjectMissing, ObjectStore
from dualdeploy.shard_versions import open_shard

if TYPE_CHECKING:
    from training_launcher.validation import Verdict


@dataclasses.dataclass(frozen=True)
class Admission:
    """The verdict; `reason` is one line that names the first fault, empty when accepted."""

    accepted: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class StoredShard:
    """One version of one shard in a bucket, as the validator reads it."""

    shard: Shard
    store: ObjectStore

    @property
    def name(self) -> str:
        return self.shard.name

    @property
    def size(self) -> int:
        return self.shard.size

    def open(self) -> BinaryIO:
        return open_shard(self.store, self.shard)


def examine(run: Run, *, ledger: Ledger, data: ObjectStore) -> Admission:
    """The recorded verdict of a run, or a new one, which is then recorded at `runs/<run_id>/validation.json`."""
    name = f"runs/{run.run_id}/validation.json"
    recorded = ledger.read_bytes(name)
    if recorded is None:
        recorded = ledger.write_once(name, _examine(run, data))
    document = json.loads(recorded)
    accepted = document["verdict"] == "accepted"
    return Admission(accepted, "" if accepted else document["reason"])


def _examine(run: Run, data: ObjectStore) -> bytes:
    try:
        verdict = _validate(run, data)
    except ObjectMissing as exc:
        reason = (
            f"a shard was replaced or deleted after the snapshot ({exc}); what replaced it becomes a run of its own"
        )
        return json.dumps({"v": 1, "verdict": "rejected", "reason": reason}).encode()
    except OSError as exc:
        raise ServiceUnavailable(f"a shard of {run.run_id} could not be read to its end: {exc}") from exc
    return verdict.to_json()


def _validate(run: Run, data: ObjectStore) -> Verdict:
    # NumPy and Pillow: an event that leads to no new run must not pay for them.
    from training_launcher.validation import ValidationLimits, validate  # noqa: PLC0415

    config = DatasetConfig.model_validate(run.config)
    # What the stricter of the two trainers would refuse must not start either of them.
    tolerated = min(config.training.cloud.max_bad_records, config.training.mobile.max_bad_records)
    return validate(
        [StoredShard(shard, data) for shard in run.snapshot.shards],
        labels=config.labels,
        features={"image": config.data.features.image, "label": config.data.features.label},
        split=split.divide(
            (shard.name for shard in run.snapshot.shards), prefix=run.snapshot.prefix, rule=config.data.split
        ),
        limits=ValidationLimits(max_bytes=config.validation.max_bytes, max_bad_records=tolerated),
    )
