"""What mobile_publisher hands to the steps of a release: its stores, its clients, its clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from dualdeploy.clock import Clock
from dualdeploy.dataset_config import DatasetConfig
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.firebase import FirebaseMl
from dualdeploy.ledger import Ledger, Run
from dualdeploy.object_store import ObjectStore
from dualdeploy.remote_config import RemoteConfig
from mobile_publisher.release import File, MobileServed, MobileServing
from mobile_publisher.storage_channel import StorageChannel
from mobile_publisher.version_parameter import VersionParameter

#: Makes the file of a run, which may take minutes; the third is the URI of the file that phones have now, or empty.
Exporter = Callable[[Run, DatasetConfig, str], File]

TARGET = "mobile"


class NoOpenChannel(CannotEverSucceed):
    """None of the configured channels can be used; the message says why for each."""


@dataclasses.dataclass(frozen=True)
class World:
    """`storage` is None where FIREBASE_STORAGE_BUCKET is not set; `firebase_ml_ends` is the day (YYYY-MM-DD) from which
    on Firebase ML takes no models."""

    ledger: Ledger
    config: ObjectStore
    firebase: FirebaseMl
    remote_config: RemoteConfig
    export: Exporter
    firebase_ml_ends: str
    storage: StorageChannel | None = None

    @property
    def clock(self) -> Clock:
        return self.ledger.clock

    def serving(self, dataset: str) -> MobileServing:
        found = self.ledger.find_serving(MobileServing, TARGET, dataset)
        return found.document if found else MobileServing(dataset=dataset, target=TARGET)

    def served(self, dataset: str) -> MobileServed | None:
        """What phones have according to our records."""
        return self.serving(dataset).current

    def bucket(self) -> StorageChannel:
        """The bucket that phones read. Raises NoOpenChannel."""
        if self.storage is None:
            raise NoOpenChannel("FIREBASE_STORAGE_BUCKET was set when this release began and is not any more")
        return self.storage

    def parameter(self, name: str) -> VersionParameter:
        return VersionParameter(self.remote_config, name)
