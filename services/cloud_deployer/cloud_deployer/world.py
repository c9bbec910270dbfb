"""Everything that the steps of a release touch, handed to each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from cloud_deployer.model_card import ModelCards
from cloud_deployer.probes import Golden, parse_golden
from cloud_deployer.release import TARGET, CloudRelease, CloudServing
from cloud_deployer.settings import DeployerSettings
from dualdeploy import clock as clocks
from dualdeploy import dataset_config, training
from dualdeploy.clock import Clock
from dualdeploy.contracts import saved_model
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.due import Due
from dualdeploy.errors import ResourceMissing, UnusableResult
from dualdeploy.ledger import Ledger
from dualdeploy.monitoring import Monitoring
from dualdeploy.object_store import ObjectMissing, ObjectStore
from dualdeploy.release.operations import Looked, poll_operation
from dualdeploy.release.route import Stay, Turn
from dualdeploy.training import TrainingResult
from dualdeploy.vertex import Endpoint, Vertex

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
            raise UnusableResult(f"{self.models.uri(name)} is gone; train again to bring this run out") from exc

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
            raise UnusableResult(f"{release.golden} is gone; train again to bring this run out") from exc
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
            raise UnusableResult(f"{folder}/{saved_model.FILE} is gone; train again to bring this run out")
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
