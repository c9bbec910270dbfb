"""What a release for phones knows and leaves behind: documents of the ledger that mobile_publisher alone writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dualdeploy.contracts.routing import Wish
from dualdeploy.ledger import Claim, Document, Release, Served, Serving
from mobile_publisher.on_device_gate import Figures

FIREBASE_ML, FIREBASE_STORAGE = "firebase-ml", "firebase-storage"


class File(Document):
    """One checked .tflite file of a run in the models bucket, with what was measured of it.

    `uri`, `manifest`, `gate_table` and `answers` (to the held-out pictures) are objects there. `version` is how phones
    know the file. `quantization` and `named` are what was asked for when it was made: the name stands in the
    file and in its manifest.
    """

    uri: str
    sha256: str
    version: str
    manifest: str
    variant: str
    quantization: str
    named: str
    figures: Figures
    #: Of the pixels that an app feeds it.
    input_type: str = "float32"
    gate_table: str = ""
    answers: str = ""


class Rollout(Document):
    """A version on its way to installations, share by share; `old` is what everybody has when it begins.

    `shares` (percent) and `bake` (seconds) are the configuration's, `(100,)` when there is nothing to stage; `index` is
    the share that it is at, since `shifted_at`. `seed` draws the installations: another run draws others first.
    """

    old: str
    seed: str
    shares: tuple[int, ...]
    bake: float
    index: int = 0
    shifted_at: str = ""
    passed: tuple[Mapping[str, Any], ...] = ()

    @property
    def share(self) -> int:
        return self.shares[self.index]

    @property
    def held(self) -> int | None:
        """The share before this one."""
        return self.shares[self.index - 1] if self.index else None


class Before(Document):
    """What phones had before a release changed anything, for its way back.

    `pointer` is the version that latest.json named, `parameter` the default of Remote Config's parameter; empty where
    there was none. `firebase_file` and `firebase_tags` are what the Firebase model held according to our records.
    """

    pointer: str = ""
    parameter: str = ""
    firebase_file: str = ""
    firebase_tags: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """The version that everybody had."""
        return self.parameter or self.pointer


class MobileRelease(Release):
    """`published_as` (publishing.name) to `bake` are fixed when the release begins; the steps find out the rest.

    `shares` is empty without a staged rollout. `parameter`: Remote Config tells phones their version under this name,
    because of this release or an earlier one. `remark` is all that was not as recorded, `not_brought_back` are the
    parts of a rollback that failed, with the reason; `stays` is what its own way back could not take back.
    """

    published_as: str = ""
    channels: tuple[str, ...] = ()
    closed_channels: tuple[str, ...] = ()
    quantization: str = ""
    shares: tuple[int, ...] = ()
    bake: float = 0.0
    #: The folder into which Google exported what AutoML trained.
    exported: str = ""
    file: File | None = None
    gate: Mapping[str, Any] = {}
    version: str = ""
    parameter: bool = False
    before: Before | None = None
    rollout: Rollout | None = None
    remark: str = ""
    firebase_model: str = ""
    #: When its phones are to ask the cloud.
    wish: Wish = Wish()
    not_brought_back: Mapping[str, str] = {}
    stays: tuple[str, ...] = ()


class MobileServed(Served):
    """What phones were given: `file`, under the name `published_as`.

    `version` and `pointer` (the URI of latest.json) are those of channel firebase-storage, `firebase_model` and
    `firebase_tags` those of firebase-ml; empty where the release went out without the channel. `remote_config` is the
    parameter that names a version, `closed_channels` why a configured channel was not used.
    """

    file: File
    published_as: str
    version: str = ""
    pointer: str = ""
    firebase_model: str = ""
    firebase_tags: tuple[str, ...] = ()
    remote_config: str = ""
    #: When these phones are to ask the cloud.
    wish: Wish = Wish()
    closed_channels: tuple[str, ...] = ()


class MobileServing(Serving):
    current: MobileServed | None = None
    previous: MobileServed | None = None


class NameClaim(Claim):
    """Which data set publishes under a name; none when `dataset` is empty.

    `parameter`: a rollout has left a version in Remote Config's parameter of this name, which apps follow.
    """

    parameter: bool = False
