"""The ledger bucket: documents that are read with their generation and written by compare-and-swap only."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import pydantic

from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.errors import CannotEverSucceed, LedgerContention, UnknownRun
from dualdeploy.google.object_store import ABSENT, Generation, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.ledger import names
from dualdeploy.ledger.documents import Claim, Document, Ended, Launch, Rejected, Release, Run, Serving

log = logging.getLogger(__name__)

AnyDocument = TypeVar("AnyDocument", bound=Document)
AnyRelease = TypeVar("AnyRelease", bound=Release)
AnyServing = TypeVar("AnyServing", bound=Serving)

#: How often a change is decided anew before the sender is told to come again.
_ATTEMPTS = 20

#: How far `refused_lately` looks back.
REFUSED_LATELY_DAYS = 7


class UnreadableDocument(CannotEverSucceed):
    """The object is not what its name says; the message names it. It blocks nothing but itself."""


@dataclasses.dataclass(frozen=True)
class Versioned(Generic[AnyDocument]):
    """A document and the generation that it was read at, which the next write has to state."""

    document: AnyDocument
    generation: Generation


class Ledger:
    """Every method raises RetryLater's children when the bucket does not answer, and UnreadableDocument."""

    def __init__(self, store: ObjectStore, *, clock: Clock = clocks.utc_now) -> None:
        self.store = store
        self.clock = clock

    # Any document ----------------------------------------------------------------------------------------------

    def find(self, name: str, kind: type[AnyDocument]) -> Versioned[AnyDocument] | None:
        """The document, or None when there is none."""
        try:
            stored = self.store.read(name)
        except ObjectMissing:
            return None
        return Versioned(self._parse(name, stored.data, kind), stored.generation)

    def create(self, name: str, document: AnyDocument) -> tuple[Versioned[AnyDocument], bool]:
        """Write a document that is not there yet; returns what is there then, and whether this call wrote it.

        Two writers of the same bytes both count as the one who wrote it, because an answer may be lost: what must tell
        its writer carries a token.
        """
        try:
            return Versioned(document, self.store.put(name, encode(document), expect=ABSENT)), True
        except GenerationChanged:
            found = self.find(name, type(document))
            if found is None:
                raise LedgerContention(f"{name} is created and deleted again and again") from None
            return found, found.document == document

    def write(self, name: str, document: AnyDocument, *, expect: Generation) -> Versioned[AnyDocument]:
        """Raises LedgerContention when the object is no longer at `expect`."""
        try:
            return Versioned(document, self.store.put(name, encode(document), expect=expect))
        except GenerationChanged as exc:
            raise LedgerContention(f"{name} was changed by another instance") from exc

    def update(
        self,
        name: str,
        kind: type[AnyDocument],
        change: Callable[[AnyDocument | None], AnyDocument | None],
    ) -> AnyDocument | None:
        """Read, decide, write; when another writer was faster, decide anew on what it wrote.

        `change` is called with the document as it is, or None; it returns the document to write, or the same one (or
        None) to leave everything as it is, and raises whatever its caller wants to hear. Returns what is there then.
        Raises LedgerContention after a bounded number of times.
        """
        for _ in range(_ATTEMPTS):
            found = self.find(name, kind)
            present = found.document if found else None
            wanted = change(present)
            if wanted is None or wanted == present:
                return present
            with contextlib.suppress(LedgerContention):
                return self.write(name, wanted, expect=found.generation if found else ABSENT).document
        raise LedgerContention(f"{name} changes faster than it can be written")

    def remove(self, name: str, *, expect: Generation) -> bool:
        """Remove the object that was read at `expect`; whether it is gone (a newer one stays)."""
        try:
            self.store.delete(name, expect=expect)
        except GenerationChanged:
            return False
        return True

    def names(self, prefix: str) -> list[str]:
        """What is there below a prefix; one listing."""
        return [summary.name for summary in self.store.list(prefix)]

    def _parse(self, name: str, data: bytes, kind: type[AnyDocument]) -> AnyDocument:
        try:
            return kind.model_validate_json(data)
        except pydantic.ValidationError as exc:
            first = exc.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            what = f"{self.store.uri(name)} cannot be read as a {kind.__name__}"
            raise UnreadableDocument(f"{what}: {where}{first['msg']}") from exc

    # Runs and trainings ----------------------------------------------------------------------------------------

    def claim(self, run: Run) -> tuple[Run, bool]:
        """Create the run, or find that it exists: the object's existence is the lock.

        Returns the run as recorded and whether this call created it. `run.claim` makes the bytes this writer's own,
        so a repeated call after a lost response still knows itself.
        """
        found, created = self.create(names.run(run.run_id), run)
        return found.document, created

    def read_run(self, run_id: str) -> Run:
        """Raises UnknownRun."""
        found = self.find(names.run(run_id), Run)
        if found is None:
            raise UnknownRun(f"the ledger has no run {run_id!r}")
        return found.document

    def run_ids(self, dataset: str) -> list[str]:
        """Every run of a data set, in the order of their names. Lists all of their objects: for people only."""
        # `flowers-` is also the beginning of the runs of a data set `flowers-2`, hence the second look.
        parts = (name.split("/") for name in self.names(f"runs/{dataset}-"))
        found = [each[1] for each in parts if len(each) == 3 and each[2] == "run.json"]
        return [run_id for run_id in found if names.dataset_of(run_id) == dataset]

    def read_launch(self, run_id: str, target: str) -> Versioned[Launch]:
        """Raises UnknownRun."""
        found = self.find(names.launch(run_id, target), Launch)
        if found is None:
            raise UnknownRun(f"the ledger has no {target} training of run {run_id!r}")
        return found

    def find_ended(self, run_id: str, target: str, attempt: int) -> Versioned[Ended] | None:
        return self.find(names.ended(run_id, target, attempt), Ended)

    def was_trained(self, run_id: str, target: str) -> bool:
        """Whether there is a trained model of the run. Raises UnknownRun."""
        launch = self.read_launch(run_id, target).document
        ended = self.find_ended(run_id, target, launch.attempt)
        return bool(ended and ended.document.outcome == "succeeded")

    # Releases --------------------------------------------------------------------------------------------------

    def find_release(self, kind: type[AnyRelease], run_id: str, target: str, n: int) -> Versioned[AnyRelease] | None:
        return self.find(names.release(run_id, target, n), kind)

    def newest_release_number(self, run_id: str, target: str) -> int:
        """The number of the run's last release, 0 when it was never released; lists the releases of this run."""
        return max((names.release_number(name) for name in self.names(names.releases(run_id, target))), default=0)

    def find_serving(self, kind: type[AnyServing], target: str, dataset: str) -> Versioned[AnyServing] | None:
        return self.find(names.serving(target, dataset), kind)

    def find_claim(self, name: str) -> Versioned[Claim] | None:
        return self.find(name, Claim)

    # Refusals --------------------------------------------------------------------------------------------------

    def record_rejected(self, rejected: Rejected, *, event_id: str) -> str:
        """Keep an event that can never succeed, once a day however often it is delivered. Returns the object's name."""
        digest = hashlib.sha256(f"{rejected.service}\0{rejected.kind}\0{event_id}".encode()).hexdigest()[:16]
        name = f"rejected/{rejected.at[:10]}/{digest}.json"
        with contextlib.suppress(GenerationChanged):
            self.store.put(name, encode(rejected), expect=ABSENT)
        return name

    def refused_lately(self, dataset: str = "", *, most: int = 10) -> list[Rejected]:
        """What was rejected in the last days, newest first; of one data set if named. Lists: for people."""
        today = self.clock().date()
        found: list[Rejected] = []
        for back in range(REFUSED_LATELY_DAYS):
            of_day = self._rejected(f"rejected/{(today - datetime.timedelta(days=back)).isoformat()}/")
            found += [each for each in of_day if not dataset or each.dataset == dataset]
            if len(found) >= most:
                break
        return sorted(found, key=lambda each: each.at, reverse=True)[:most]

    def rejections(self) -> list[Rejected]:
        """Every recorded rejection, in the order of days. Lists: for people."""
        return list(self._rejected("rejected/"))

    def _rejected(self, prefix: str) -> Iterator[Rejected]:
        for name in self.names(prefix):
            try:
                found = self.find(name, Rejected)
            except UnreadableDocument as exc:
                log.warning("%s", exc)
                continue
            if found:
                yield found.document


def encode(document: pydantic.BaseModel) -> bytes:
    """Indented, because people read the ledger with `gcloud storage cat`."""
    return document.model_dump_json(indent=1).encode()
