"""What mobile_publisher hands to the steps of a release: its stores, its clients, its clock."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from dualdeploy.clock import Clock
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.contracts.training import ManagedModel
from dualdeploy.errors import CannotEverSucceed, LedgerContention
from dualdeploy.google.firebase_ml import FirebaseMl
from dualdeploy.google.object_store import ObjectStore
from dualdeploy.google.remote_config import RemoteConfig
from dualdeploy.google.vertex import Vertex
from dualdeploy.ledger import Ledger, Run
from dualdeploy.ledger.due import Due
from mobile_publisher.release import File, MobileRelease, MobileServed, MobileServing
from mobile_publisher.storage_channel import StorageChannel
from mobile_publisher.version_parameter import VersionParameter


@dataclasses.dataclass(frozen=True)
class Around:
    """What the file of a run goes out into: `live` is the URI of the file that phones have now, empty without one, and
    `live_name` the name that they follow for it. `pointed` is the manifest of what those have who follow the name that
    the file goes out under, None where nothing is there: a name that was left may be taken up again, or be older than
    our records. `exported` is the folder into which Google exported the model.

    `forced`: someone answers for what apps that were not updated will do with the file.
    """

    live: str = ""
    live_name: str = ""
    pointed: Mapping[str, Any] | None = None
    exported: str = ""
    forced: bool = False


#: Makes the file of a run, which may take minutes; of what AutoML trained, Google has to be asked for it first.
Exporter = Callable[[Run, DatasetConfig, Around], File | ManagedModel]

TARGET = "mobile"


class NoOpenChannel(CannotEverSucceed):
    """None of the configured channels can be used; the message says why for each."""


@dataclasses.dataclass(frozen=True)
class World:
    """`models` is the bucket of what was trained, `vertex` exports what AutoML trained, `due` are this service's
    markers. `storage` is None where FIREBASE_STORAGE_BUCKET is not set; `firebase_ml_ends` is the day (YYYY-MM-DD) from
    which on Firebase ML takes no models."""

    ledger: Ledger
    due: Due
    config: ObjectStore
    models: ObjectStore
    vertex: Vertex
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

    def check_current(self, release: MobileRelease) -> None:
        """Raise LedgerContention if another instance has continued the release meanwhile.

        Asked between a look and the write that rests on it: an instance may have been frozen there for longer than its
        lease, and what it was about to give phones may have been taken back.
        """
        found = self.ledger.find_release(MobileRelease, release.run_id, TARGET, release.n)
        if found is None or found.document.model_dump_json() != release.model_dump_json():
            raise LedgerContention(f"another instance has continued {release.name}")

    def bucket(self) -> StorageChannel:
        """The bucket that phones read. Raises NoOpenChannel."""
        if self.storage is None:
            raise NoOpenChannel("FIREBASE_STORAGE_BUCKET was set when this release began and is not any more")
        return self.storage

    def parameter(self, release: MobileRelease) -> VersionParameter:
        """The parameter of the release's name, which is written only while the release is as it was given."""
        return VersionParameter(
            self.remote_config, release.published_as, guard=functools.partial(self.check_current, release)
        )
