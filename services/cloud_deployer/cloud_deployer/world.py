"""Everything that the steps of a release touch, handed to each of them."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from cloud_deployer.model_card import ModelCards
from cloud_deployer.probes import Golden, parse_golden
from cloud_deployer.release import TARGET, CloudRelease, CloudServing
from cloud_deployer.settings import DeployerSettings
from dualdeploy import clock as clocks
from dualdeploy.clock import Clock
from dualdeploy.contracts import dataset_config, saved_model, training
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.training import TrainingResult
from dualdeploy.errors import DualDeployError, RejectedByGoogle, ResourceMissing, UnusableResult
from dualdeploy.google.monitoring import Monitoring
from dualdeploy.google.object_store import ObjectMissing, ObjectStore
from dualdeploy.google.vertex import Endpoint, Vertex
from dualdeploy.ledger import Ledger, UnreadableDocument, names
from dualdeploy.ledger.due import Due
from dualdeploy.release import serving as serve
from dualdeploy.release.operations import Looked, poll_operation
from dualdeploy.release.route import Stay, Turn

log = logging.getLogger(__name__)

#: What a release forgets of an operation when another one begins.
NO_OPERATION: Mapping[str, Any] = {"operation": "", "operation_since": "", "failing_since": "", "attempts": 0}


@dataclasses.dataclass(frozen=True)
class World:
    """The ledger, the buckets, Google's services, and what the service was told in its environment."""

    ledger: Ledger
    config: ObjectStore
    models: ObjectStore
    vertex: Vertex
    monitoring: Monitoring
    due: Due
    settings: DeployerSettings

    @property
    def clock(self) -> Clock:
        return self.ledger.clock

    @property
    def cards(self) -> ModelCards:
        return ModelCards(ledger=self.ledger, models=self.models, revision=self.settings.git_revision)

    def serving(self, dataset: str) -> CloudServing:
        """What serves; an empty document when nothing ever did."""
        found = self.ledger.find_serving(CloudServing, TARGET, dataset)
        return found.document if found else CloudServing(dataset=dataset, target=TARGET)

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """The endpoint as it is now. Raises ResourceMissing."""
        endpoint = self.vertex.find_endpoint(endpoint_id)
        if endpoint is None:
            raise ResourceMissing(f"endpoint {endpoint_id} was deleted during the deployment")
        return endpoint

    def result(self, run_id: str) -> TrainingResult:
        """What the trainer wrote last. Raises UnusableResult."""
        name = training.result_name(run_id, TARGET)
        try:
            return training.parse_result(self.models.read(name).data, source=self.models.uri(name))
        except ObjectMissing as exc:
            raise UnusableResult(f"{self.models.uri(name)} is gone; train again to release this run") from exc

    def golden(self, release: CloudRelease) -> list[Golden]:
        """The golden pictures of the release's model. Raises UnusableResult."""
        prefix = self.models.uri("")
        if not release.golden.startswith(prefix):
            raise UnusableResult(
                f"{release.golden} is not in {prefix}: the result names a golden set that cannot be read"
            )
        try:
            data = self.models.read(release.golden.removeprefix(prefix)).data
        except ObjectMissing as exc:
            raise UnusableResult(f"{release.golden} is gone; train again to release this run") from exc
        return parse_golden(data, labels=release.labels, source=release.golden)

    def check_graph(self, folder: str) -> None:
        """Hold the SavedModel in `folder` (gs://…) against the list of operators, before anything loads it.

        Raises UnusableResult, and UnusableGraph that names the operator.
        """
        prefix = self.models.uri("")
        if not folder.startswith(prefix):
            raise UnusableResult(f"{folder} is not in {prefix}: the result names a model that cannot be read")
        root = f"{folder.removeprefix(prefix).rstrip('/')}/"
        found = {summary.name.removeprefix(root): summary for summary in self.models.list(root)}
        if saved_model.FILE not in found:
            raise UnusableResult(
                f"there is no {folder}/{saved_model.FILE}: the job did not write it, or it was deleted; train again to "
                "release this run"
            )
        saved_model.check_names(found)
        saved_model.check_size(found[saved_model.FILE].size)
        saved_model.check(self.models.read(root + saved_model.FILE).data)

    # Long-running operations -----------------------------------------------------------------------------------

    def look(self, name: str) -> Looked | None:
        """How an operation stands, or None when Vertex AI does not know it."""
        operation = self.vertex.operation(name)
        if operation is None:
            return None
        return Looked(operation.done, operation.failure(name) if operation.error else None)

    def operate(
        self, release: CloudRelease, *, start: Callable[[], str], there: Callable[[], bool], what: str
    ) -> Turn[CloudRelease]:
        """Start an operation or look at the one that was started; see `poll_operation`."""
        return poll_operation(
            release,
            look=self.look,
            start=start,
            there=there,
            clock=self.clock,
            limit_seconds=self.settings.operation_limit_seconds,
            what=what,
        )

    def operate_on(
        self,
        release: CloudRelease,
        subject: str,
        *,
        start: Callable[[], str],
        there: Callable[[], bool],
        what: str,
    ) -> Turn[CloudRelease]:
        """The same for one of several things that are taken down one after the other: each has its own operation."""
        if release.operation and release.undeploying != subject:
            return Stay(release.changed(**NO_OPERATION))
        return self.operate(release.changed(undeploying=subject), start=start, there=there, what=what)

    def begin_undeploy(self, release: CloudRelease, endpoint_id: str, going: str, *, traffic: Mapping[str, int]) -> str:
        """Begin to take a deployed model down; noted first, so that no one gives it traffic meanwhile.

        The answer to the call may be lost, this instance may be frozen before it, and the release may lose its claim to
        a rollback: the note stands. Raises Displaced.
        """
        with contextlib.suppress(*((UnreadableDocument,) if release.going_back else ())):
            # What cannot be read no one else can claim; the way back goes on without it.
            serve.note_in_claim(
                self.ledger, CloudServing, release, lambda present: present.with_leaving(going, now=self.clock())
            )
        try:
            operation = self.vertex.start_undeploy(endpoint_id, going, traffic=traffic)
        except RejectedByGoogle:
            self._note(release, lambda present: present.without_leaving(going))
            raise
        self._note(release, lambda present: present.with_leaving(going, operation, now=self.clock()))
        return operation

    def _note(self, release: CloudRelease, change: Callable[[CloudServing], CloudServing]) -> None:
        """Note what came of it. While the note says less than is known, the model is only spared for longer."""
        try:
            self.ledger.update(
                names.serving(TARGET, release.dataset), CloudServing, lambda serving: serving and change(serving)
            )
        except DualDeployError as exc:
            log.warning("what %s takes down is not noted in full: %s", release.name, exc)

    def leaving(self, dataset: str, among: Collection[str], *, within: float) -> frozenset[str]:
        """Those of these deployed models whose undeployment may be under way; of one without a known operation, if it
        was about to begin at most `within` seconds ago."""
        since = clocks.to_text(self.clock() - datetime.timedelta(seconds=within))
        noted = self.serving(dataset).leaving
        return frozenset(
            key
            for key, each in noted.items()
            if key in among and (self._is_running(each.operation) if each.operation else each.at >= since)
        )

    def _is_running(self, operation: str) -> bool:
        looked = self.look(operation)
        return looked is not None and not looked.done

    def operate_on_endpoint(
        self, release: CloudRelease, *, start: Callable[[], str], there: Callable[[], bool], what: str
    ) -> Turn[CloudRelease]:
        """The same, with its name in the plan: whoever takes the release back has to wait for its end."""
        turn = self.operate(release, start=start, there=there, what=what)
        if isinstance(turn, Stay) and turn.release.operation:
            begun = turn.release.with_plan(begun=turn.release.operation, begun_at=turn.release.operation_since)
            return Stay(begun)
        return turn

    def seconds_since(self, text: str) -> float:
        return (self.clock() - clocks.from_text(text)).total_seconds()


def config_of(release: CloudRelease) -> DatasetConfig:
    """The configuration that the release began with. Raises InvalidDatasetConfig."""
    return dataset_config.stored(release.config)
