"""What survives when the machine is taken away: one file after each epoch, from which a new attempt goes on.

    epoch 3 done ── snapshot in memory ── written by a thread while epoch 4 trains ── replaces the file in one act
    SIGTERM, kill, power: the newest whole file counts; of the epoch under way nothing is kept

A checkpoint belongs to one job: other data, labels or parameters start anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dualdeploy.contracts.training import TrainingJob

log = logging.getLogger("trainer")

VERSION = 2
Arrays = Sequence[npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Training after `epoch` finished epochs; `optimizer` is empty at the end of a phase.

    `history` has one entry for each finished epoch, `resumed_at` the epochs after which an attempt took over.
    """

    epoch: int = 0
    weights: Arrays = ()
    optimizer: Arrays = ()
    best_epoch: int = 0
    best_loss: float = float("inf")
    best_weights: Arrays = ()
    history: tuple[Mapping[str, Any], ...] = ()
    resumed_at: tuple[int, ...] = ()

    def to_bytes(self, fingerprint: str) -> bytes:
        """An .npz file; weights that are the best ones are in it once."""
        best_is_last = self.best_epoch == self.epoch
        document = {
            "v": VERSION,
            "fingerprint": fingerprint,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "history": self.history,
            "resumed_at": self.resumed_at,
        }
        arrays = {"document": np.frombuffer(json.dumps(document).encode(), dtype=np.uint8)}
        for kind, values in (
            ("weights", self.weights),
            ("optimizer", self.optimizer),
            ("best", () if best_is_last else self.best_weights),
        ):
            arrays |= {f"{kind}-{index:05d}": value for index, value in enumerate(values)}
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        return stream.getvalue()


class _Foreign(ValueError):
    """This checkpoint is of another job, or of another version of the trainer."""


def parse(data: bytes, fingerprint: str, *, source: str) -> Checkpoint | None:
    """The checkpoint in `data`; None, with a line in the log, if it is damaged or belongs to another job."""
    try:
        return _parse(data, fingerprint)
    except _Foreign as exc:
        log.warning("%s is not used: %s; training starts anew", source, exc)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as exc:
        log.warning("%s is damaged (%s); training starts anew", source, exc)
    return None


def _parse(data: bytes, fingerprint: str) -> Checkpoint:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        document = json.loads(archive["document"].tobytes())
        if document["v"] != VERSION:
            raise _Foreign(f"it has version {document['v']}, this trainer writes {VERSION}")
        if document["fingerprint"] != fingerprint:
            raise _Foreign("it is of a job with other data or parameters")
        names = sorted(archive.files)
        weights, optimizer, best = (
            [archive[name] for name in names if name.startswith(f"{kind}-")]
            for kind in ("weights", "optimizer", "best")
        )
    return Checkpoint(
        epoch=document["epoch"],
        weights=weights,
        optimizer=optimizer,
        best_epoch=document["best_epoch"],
        best_loss=document["best_loss"],
        best_weights=best or weights,
        history=tuple(document["history"]),
        resumed_at=tuple(document["resumed_at"]),
    )


def fingerprint(job: TrainingJob) -> str:
    """A digest of all that decides the weights: data, labels and parameters, not where the results go."""
    parts = job.model_dump(mode="json", include={"target", "labels", "features", "shards", "training"})
    if job.module:
        parts["module"] = job.module.sha256
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def place(job: TrainingJob, environ: Mapping[str, str] = os.environ) -> str:
    """Where a job's checkpoint lies: in the run's folder, or where Vertex AI says (AIP_CHECKPOINT_DIR).

    Source: https://cloud.google.com/vertex-ai/docs/training/code-requirements#environment-variables
    """
    folder = environ.get("AIP_CHECKPOINT_DIR", "").rstrip("/") or f"{job.output.directory.rstrip('/')}/checkpoints"
    return f"{folder}/last.npz"
