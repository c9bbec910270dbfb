"""From the data that is there to a claimed run: which run it is, and whether it is new.

::

    marker launch/<run> in 3 minutes ─► claim runs/<run>/run.json ─► data/<dataset>.json ─► marker launch/<run> now

The first marker is for the case that the process dies: a run that was claimed is never forgotten. A request is kept
with the run that it wants (`requests/`) before that run is claimed, so that a repetition, however late, does the same
or nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator

import pydantic

from dualdeploy import clock as clocks
from dualdeploy.contracts import training
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed, DualDeployError
from dualdeploy.ledger import Intent, Ledger, Run, Snapshot, names, run_id_of
from dualdeploy.ledger.due import Due
from dualdeploy.outcome import Outcome, already_done, done
from training_launcher import admission
from training_launcher.data_sets import DataSets
from training_launcher.modules import Pin

log = logging.getLogger(__name__)

#: The kind of due work that takes a run to its jobs.
LAUNCH = "launch"

#: Repetitions of one snapshot: more than this is a loop somewhere, not a wish.
MAX_REPEATS = 99

#: When a claim whose process died is gone on with.
_RESUME_SECONDS = 180.0


class Wish(pydantic.BaseModel):
    """A run that someone or something wants: of this snapshot, with this configuration.

    `token` is the same for whoever wants the same at the same time. `force`: although the data was trained already.
    `completed_by`, `extends`: see `Run`.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    config: DatasetConfig
    snapshot: Snapshot
    reason: str
    token: str = ""
    force: bool = False
    completed_by: str = ""
    extends: str = ""


class Claiming:
    """Claims runs, and makes sure that what is claimed is launched."""

    def __init__(
        self, *, ledger: Ledger, due: Due, data_sets: DataSets, nudge: Callable[[str], None], pin: Pin
    ) -> None:
        """`nudge` asks for a look at a marker now (`Ticks.nudge`); `pin` says which versions of modules are current."""
        self._ledger = ledger
        self._due = due
        self._data_sets = data_sets
        self._nudge = nudge
        self._pin = pin

    def claim(self, wish: Wish) -> tuple[Run, bool]:
        """The run of the wish, and whether it is new: claimed by this call, or by one before it with the same token."""
        run, is_ours = self._wanted(wish)
        return self._claim(run) if is_ours else (run, False)

    def claim_once(self, request: str, wish: Wish, *, kind: str) -> tuple[Run, bool]:
        """The same for a request that may come again: what it wants is written down first, and does not change."""
        name = names.request(digest_of(request))
        for _ in range(MAX_REPEATS):
            intent = self._intent(name, wish, kind)
            run, is_new = self._claim(intent.run) if intent.run else (self._ledger.read_run(intent.run_id), False)
            if is_new or not wish.force:
                return run, is_new
            # Another request was faster with this repetition: the next one, for this request as well.
            self._want_another(name, wish, run)
        raise _too_often(wish)

    def intended(self, request: str) -> tuple[Run, bool] | None:
        """The run of a request that came before, claimed if that was not done yet; None for a new request."""
        found = self._ledger.find(names.request(digest_of(request)), Intent)
        if found is None:
            return None
        if found.document.run:
            return self._claim(found.document.run)
        return self._ledger.read_run(found.document.run_id), False

    def launch(self, run: Run, *, is_new: bool) -> Outcome:
        """Have a run looked at now; the answer to whoever asked for it."""
        if not is_new:
            return already_done(f"nothing new: {run.run_id} has exactly this data")
        key = f"{LAUNCH}/{run.run_id}"
        self._due.put(key)
        with contextlib.suppress(DualDeployError):
            # The next tick does the same.
            self._nudge(key)
        return done(f"{run.run_id}: claimed {len(run.snapshot.shards)} shards, {run.reason}")

    # Which run -------------------------------------------------------------------------------------------------

    def _intent(self, name: str, wish: Wish, kind: str) -> Intent:
        run, is_ours = self._wanted(wish)
        wanted = Intent(
            kind=kind,
            at=clocks.to_text(self._ledger.clock()),
            dataset=run.dataset,
            run_id=run.run_id,
            run=run if is_ours else None,
        )
        return self._ledger.create(name, wanted)[0].document

    def _want_another(self, name: str, wish: Wish, taken: Run) -> None:
        def changed(found: Intent | None) -> Intent | None:
            if found is None or found.run_id != taken.run_id:
                return found
            run, _ = self._wanted(wish)
            return found.changed(run_id=run.run_id, run=run)

        self._ledger.update(name, Intent, changed)

    def _wanted(self, wish: Wish) -> tuple[Run, bool]:
        """The run to claim, True; or the one that has exactly this data already, False."""
        for run in self._repetitions(wish):
            known = self._ledger.find(names.run(run.run_id), Run)
            if known is None or known.document.claim == run.claim:
                return run if known is None else known.document, True
            if not wish.force and not self._went_missing(known.document, wish.snapshot):
                return known.document, False
        raise _too_often(wish)

    def _repetitions(self, wish: Wish) -> Iterator[Run]:
        digest, at = wish.snapshot.digest(), clocks.to_text(self._ledger.clock())
        token = wish.token or uuid.uuid4().hex
        modules = {target: training.as_mapping(module) for target, module in self._pin(wish.config).items()}
        for repeat in range(1, MAX_REPEATS + 1):
            yield Run(
                run_id=run_id_of(wish.config.dataset, digest, repeat=repeat),
                dataset=wish.config.dataset,
                created_at=at,
                reason=wish.reason,
                snapshot=wish.snapshot,
                config=wish.config.model_dump(mode="json"),
                claim=token,
                completed_by=wish.completed_by,
                extends=wish.extends,
                modules=modules,
            )

    def _went_missing(self, run: Run, present: Snapshot) -> bool:
        """Whether a run was refused only because its objects were away, and these are others with the same bytes."""
        before = {(shard.name, shard.generation) for shard in run.snapshot.shards}
        if before == {(shard.name, shard.generation) for shard in present.shards}:
            return False
        return admission.is_about_the_objects(self._ledger, run.run_id)

    def _claim(self, run: Run) -> tuple[Run, bool]:
        known = self._ledger.find(names.run(run.run_id), Run)
        if known and known.document.claim != run.claim:
            return known.document, False
        key = f"{LAUNCH}/{run.run_id}"
        if known is None:
            self._due.put(key, self._ledger.clock() + datetime.timedelta(seconds=_RESUME_SECONDS))
        claimed, _ = self._ledger.claim(run)
        if claimed.claim != run.claim:
            return claimed, False
        if known is None:
            self._data_sets.begun(claimed)
            log.info("claimed %s: %d shards, %s", run.run_id, len(run.snapshot.shards), run.reason)
        return claimed, True


def digest_of(request: str) -> str:
    """A name for a request that may have any characters in it."""
    return hashlib.sha256(request.encode()).hexdigest()[:24]


def _too_often(wish: Wish) -> CannotEverSucceed:
    return CannotEverSucceed(f"the data of {wish.config.dataset} was repeated {MAX_REPEATS} times")
