"""Bringing a data set to its bucket: the configuration first, the shards next, `_SUCCESS` last.

Whatever is interrupted goes on where it was: an object that is there with the same bytes is not sent again.
"""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import google_crc32c

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.shards import SUCCESS_MARKER, Kind, ShardNames
from dualdeploy.errors import InvalidDatasetConfig, UnknownDataset
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ABSENT, ObjectStore
from shard_writer.sources import UnusableSource

#: Shards that are sent at a time: each is in memory as a whole.
_AT_A_TIME = 4

_PLACE = re.compile(r"gs://(?P<bucket>[^/]+)/(?P<folder>[^/]+)(?P<rest>(/[^/]+)*)/?")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where shards go: `prefix` begins with the data set's name and ends with a slash."""

    bucket: str
    dataset: str
    prefix: str


def parse_place(text: str) -> Place:
    """`gs://bucket/dataset/…`. Raises UnusableSource."""
    match = _PLACE.fullmatch(text)
    if not match or not dataset_config.DATASET_NAME.fullmatch(match["folder"]):
        raise UnusableSource(
            f"--to {text}: give gs://<data bucket>/<dataset>, with a data set that matches"
            f" {dataset_config.DATASET_NAME.pattern}"
        )
    return Place(match["bucket"], match["folder"], f"{match['folder']}{match['rest']}/")


@dataclasses.dataclass(frozen=True)
class Delivery:
    """One data set on its way to `place`; `digest` names its content."""

    place: Place
    data: ObjectStore
    config: ObjectStore
    digest: str

    def configure(self, text: str, labels: Sequence[str]) -> str:
        """Install the configuration if there is none; one that is there stays, and has to fit. Says what was done."""
        name = dataset_config.object_name(self.place.dataset)
        try:
            found = config_bucket.read(self.config, self.place.dataset)
        except UnknownDataset:
            self.config.put(name, text.encode(), expect=ABSENT, content_type="application/yaml")
            return f"wrote {self.config.uri(name)}"
        except InvalidDatasetConfig as exc:
            raise UnusableSource(f"{exc}; correct it, it is never overwritten") from exc
        if list(found.labels) != list(labels):
            raise UnusableSource(
                f"{self.config.uri(name)} has other labels ({', '.join(found.labels)}) than these pictures"
                f" ({', '.join(labels)}); it is never overwritten: change it, give --labels, or another data set"
            )
        if not self.place.prefix.startswith(found.data.prefix):
            raise UnusableSource(
                f"{self.data.uri(self.place.prefix)} is not under data.prefix of {self.config.uri(name)},"
                f" {found.data.prefix}"
            )
        features = found.data.features
        if (features.image, features.label) != ("image", "class"):
            raise UnusableSource(f"{self.config.uri(name)} reads other features than image and class")
        return f"kept {self.config.uri(name)}"

    def send(self, paths: Sequence[Path], told: Callable[[int], None]) -> int:
        """Send the shards that are not there yet; `told` gets the bytes of each. Returns how many were sent.

        Raises UnusableSource when the folder has other shards: together they would be another data set.
        """
        names = {f"{self.place.prefix}{path.name}": path for path in paths}
        there = {
            each.name: each
            for each in self.data.list(self.place.prefix)
            if "/" not in each.name.removeprefix(self.place.prefix)
        }
        others = [name for name in there if name not in names and ShardNames().kind(name) is Kind.SHARD]
        if others:
            raise UnusableSource(
                f"{self.data.uri(self.place.prefix)} has other shards already, such as {others[0]}: remove them, or"
                f" send this batch to a folder of its own, --to {self.data.uri(self.place.prefix)}<batch>"
            )

        def one(name: str) -> bool:
            content = names[name].read_bytes()
            found = there.get(name)
            is_new = found is None or found.crc32c != _crc32c(content)
            if is_new:
                expect = found.generation if found else ABSENT
                self.data.put(name, content, expect=expect, content_type="application/octet-stream")
            told(len(content))
            return is_new

        with concurrent.futures.ThreadPoolExecutor(_AT_A_TIME) as pool:
            return sum(pool.map(one, names))

    def finish(self) -> bool:
        """Say that the batch is complete; False when this was said of the very same data already."""
        name, content = f"{self.place.prefix}{SUCCESS_MARKER}", f"{self.digest}\n".encode()
        there = next((each for each in self.data.list(name) if each.name == name), None)
        if there and there.crc32c == _crc32c(content):
            return False
        self.data.put(name, content, expect=there.generation if there else ABSENT, content_type="text/plain")
        return True


def _crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
