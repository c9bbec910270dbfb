"""What phones are told about asking the cloud model: worked out for each pair, and again when either side changes.

    deployment-completed (cloud) ────┐
    a file uploaded, a release over ─┴─► due: routing/<dataset> ─► what serves now?
        ─► routing/<dataset>.json in the ledger ─► models/<name>/routing/<version>.json

Nothing is taken from the event but the data set: what serves is read when the marker is looked at, so events may come
twice, late and out of order. Phones may have the live file, the one before it, and one on its way to them; each has an
object of its own. What no phone should have any more loses its object, after which that phone asks no one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dualdeploy import clock as clocks
from dualdeploy.contracts import answers, automl, training
from dualdeploy.contracts import routing as contract
from dualdeploy.contracts.answers import Answer, Pair
from dualdeploy.contracts.dataset_config import DATASET_NAME
from dualdeploy.contracts.events import DeploymentCompleted
from dualdeploy.contracts.routing import ASK_ALWAYS, NEVER_ASK, Cloud, Input, Phone, Routing, Wish
from dualdeploy.errors import LedgerContention, MalformedEvent, UnusableResult
from dualdeploy.google.object_store import ABSENT, ObjectMissing, ObjectStore
from dualdeploy.http.ticks import Next, Ticks
from dualdeploy.ledger import Document, Ledger, Serving, UnreadableDocument, Versioned, names
from dualdeploy.ledger import Routings as Recorded
from dualdeploy.outcome import Outcome, already_done
from mobile_publisher import threshold
from mobile_publisher.release import FIREBASE_STORAGE, File, MobileRelease, NameClaim
from mobile_publisher.storage_channel import StorageChannel
from mobile_publisher.world import TARGET, World

log = logging.getLogger(__name__)

#: The kind of the due markers: `routing/<dataset>`.
KIND = "routing"

_SAYS_NOTHING = (
    "whose answers to single pictures are not known, so it cannot be proven that any answer of the phone's may stand"
)


def key_of(dataset: str) -> str:
    """The key of a data set's due markers."""
    return f"{KIND}/{dataset}"


def on_deployment(event: DeploymentCompleted, ticks: Ticks) -> Outcome:
    """Another cloud model may serve now. Releases for phones leave a marker themselves. Raises MalformedEvent."""
    if event.target == TARGET:
        return already_done("a release for phones has left its marker")
    if not DATASET_NAME.fullmatch(event.dataset):
        raise MalformedEvent(f"{event.dataset[:200]!r} is not the name of a data set")
    return ticks.now(key_of(event.dataset))


def status(ledger: Ledger, dataset: str) -> Mapping[str, Any]:
    """What `/status` says of it."""
    try:
        found = ledger.find(names.routing(dataset), Recorded)
    except UnreadableDocument as exc:
        return {"routing": {"problem": str(exc)}}
    return {"routing": found.document.model_dump(mode="json", exclude={"v", "dataset"}) if found else None}


@dataclasses.dataclass(frozen=True)
class _File:
    """A file that phones may have, and the wish of the release that brought it out."""

    run_id: str
    published_as: str
    file: File
    wish: Wish

    @property
    def version(self) -> str:
        return self.file.version


@dataclasses.dataclass(frozen=True)
class _CloudSide:
    """The live cloud run; `said` is empty, and `problem` a sentence, where its answers cannot be had."""

    cloud: Cloud | None
    said: Sequence[Answer] = ()
    problem: str = ""


class Routings:
    """Implements `ticks.Work`; `what` is a data set."""

    def __init__(self, world: World) -> None:
        self._world = world

    def advance(self, what: str) -> Next:
        """Fit every pair of a file that phones may have and the live cloud run, and publish what came of it.

        Raises LedgerContention when another instance does the same, and UnreadableDocument.
        """
        name = names.routing(what)
        before = self._world.ledger.find(name, Recorded)
        files = {each.version: each for each in self._files(what) if self._is_ours(each.published_as, what)}
        if self._world.storage is None or not (files or before):
            return Next(f"{what} has no file in a bucket that phones read")
        cloud = self._cloud_side(what)
        fitted = tuple(self._fit(what, each, cloud) for each in files.values())
        dropped = self._no_longer(before.document, fitted) if before else ()
        recorded = Recorded(dataset=what, at=self._now(), files=fitted, dropped=dropped)
        written = self._world.ledger.write(name, recorded, expect=before.generation if before else ABSENT)
        self._publish(self._world.storage, name, written)
        done = recorded.changed(published=True, dropped=())
        self._world.ledger.write(name, done, expect=written.generation)
        return Next("; ".join(f"{each.phone.version}: {each.note}" for each in fitted) or "phones have no file")

    def give_up(self, what: str, why: str) -> None:
        """See `ticks.Work`."""

        def decide(present: Recorded | None) -> Recorded:
            return (present or Recorded(dataset=what, at=self._now())).changed(problem=why)

        self._world.ledger.update(names.routing(what), Recorded, decide)

    # Who is who ------------------------------------------------------------------------------------------------

    def _files(self, dataset: str) -> Iterator[_File]:
        """The files that phones may have: the live one, the one before it, and the one that is on its way to them."""
        serving = self._world.serving(dataset)
        for served in (serving.current, serving.previous):
            if served and served.version:
                yield _File(served.run_id, served.published_as, served.file, served.wish)
        if turn := serving.under_way:
            with contextlib.suppress(UnreadableDocument):
                found = self._world.ledger.find_release(MobileRelease, turn.run_id, TARGET, turn.release)
                release = found.document if found else None
                if release and release.file and FIREBASE_STORAGE in release.channels:
                    yield _File(release.run_id, release.published_as, release.file, release.wish)

    def _is_ours(self, name: str, dataset: str) -> bool:
        """Whether no other data set publishes under the name: then what lies there is left to that one."""
        try:
            found = self._world.ledger.find(names.name_claim(name), NameClaim)
        except UnreadableDocument:
            return True
        return found is None or found.document.dataset in ("", dataset)

    def _no_longer(self, before: Recorded, now: Sequence[Routing]) -> tuple[str, ...]:
        """The objects of files that no phone should have any more."""
        had = {contract.object_name(each.name, each.phone.version): each.name for each in before.files}
        ours = {path for path, name in had.items() if self._is_ours(name, before.dataset)}
        still = {contract.object_name(each.name, each.phone.version) for each in now}
        return tuple(sorted((ours | set(before.dropped)) - still))

    def _cloud_side(self, dataset: str) -> _CloudSide:
        found = self._world.ledger.find_serving(Serving, "cloud", dataset)
        serving = found.document if found else None
        if serving is None or serving.current is None or serving.undeployed_at or serving.retired_at:
            return _CloudSide(None, problem="no cloud model serves")
        run_id, models = serving.current.run_id, self._world.models
        name = training.result_name(run_id, "cloud")
        try:
            result = training.parse_result(models.read(name).data, source=models.uri(name))
        except (ObjectMissing, UnusableResult) as exc:
            problem = f"what {run_id} was trained with cannot be read, so phones cannot be told what to send: {exc}"
            return _CloudSide(None, problem=problem)
        cloud = Cloud(run_id=run_id, input=Input(px=result.image_size or automl.PIXELS_TO_SEND))
        if result.managed:
            return _CloudSide(cloud, problem=f"{run_id} was trained by AutoML, {_SAYS_NOTHING}")
        try:
            return _CloudSide(cloud, _said(result.artifacts.answers or "", models, of=run_id))
        except UnusableResult as exc:
            return _CloudSide(cloud, problem=str(exc))

    # One pair --------------------------------------------------------------------------------------------------

    def _fit(self, dataset: str, mine: _File, other: _CloudSide) -> Routing:
        about: dict[str, Any] = {
            "name": mine.published_as,
            "dataset": dataset,
            "at": self._now(),
            "phone": Phone(run_id=mine.run_id, version=mine.version, sha256=mine.file.sha256),
            "cloud": other.cloud,
            **mine.wish.model_dump(),
        }
        if other.cloud is None:
            note = f"{other.problem}: the phone never asks"
            return Routing(threshold=NEVER_ASK, outcome="no_cloud", note=note, **about)
        pairs: list[Pair] = []
        problem = other.problem
        if not problem:
            try:
                pairs = answers.pair(_said(mine.file.answers, self._world.models, of=mine.version), other.said)
                problem = f"{mine.version} and {other.cloud.run_id} have no held-out picture in common"
            except UnusableResult as exc:
                problem = str(exc)
        if not pairs:
            remedy = "" if _SAYS_NOTHING in problem else "; a training of both models on the same data mends it"
            note = f"{problem}: the phone always asks{remedy}"
            return Routing(threshold=ASK_ALWAYS, outcome="not_proven", note=note, share=1.0, **about)
        return _described(threshold.fit(pairs, mine.wish), pairs, about)

    # Publishing ------------------------------------------------------------------------------------------------

    def _publish(self, storage: StorageChannel, name: str, written: Versioned[Recorded]) -> None:
        """Make the objects say what is recorded, unless another instance has recorded something else meanwhile."""

        def guard() -> None:
            found = self._world.ledger.find(name, Document)
            if found is None or found.generation != written.generation:
                raise LedgerContention(f"{name} was changed by another instance")

        for each in written.document.files:
            storage.tell(contract.object_name(each.name, each.phone.version), each.model_dump(mode="json"), guard=guard)
        for path in written.document.dropped:
            storage.withdraw(path, guard=guard)

    def _now(self) -> str:
        return clocks.to_text(self._world.clock())


def _said(uri: str, models: ObjectStore, *, of: str) -> list[Answer]:
    bucket = models.uri("")
    if not uri.startswith(bucket):
        raise UnusableResult(f"{of} came without {answers.FILE_NAME}, what it answers to its held-out pictures")
    try:
        return answers.decode(models.read(uri.removeprefix(bucket)).data, source=uri)
    except ObjectMissing as exc:
        raise UnusableResult(f"{uri} is gone") from exc


def _described(fit: threshold.Fit, pairs: Sequence[Pair], about: Mapping[str, Any]) -> Routing:
    return Routing(
        threshold=fit.point.threshold,
        outcome=fit.outcome,
        note=fit.note,
        examples=len(pairs),
        loss_at_most=fit.loss_at_most,
        share=fit.point.share,
        accuracy=fit.point.accuracy,
        phone_accuracy=sum(pair.phone_right for pair in pairs) / len(pairs),
        cloud_accuracy=fit.point.cloud_right / len(pairs),
        curve=threshold.curve(fit.points),
        **about,
    )
