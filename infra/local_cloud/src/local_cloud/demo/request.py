"""What the command line asks the demo to use: a folder of shards with its YAML and class names, or painted flowers."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from local_cloud.demo.source import DataSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `DataRequest.of` reads."""
    parser.add_argument("--data", type=Path, help="folder of TFRecord shards (default: painted flowers)")
    parser.add_argument("--yaml", type=Path, help="the data set's configuration: its labels and data are used")
    parser.add_argument("--labels", default="", help="names of the classes, a,b,c in the order of their indices")


@dataclasses.dataclass(frozen=True)
class DataRequest:
    """`data` None: painted flowers. `networks`: by target, others than the demo's own; empty for those."""

    data: Path | None = None
    config_file: Path | None = None
    labels: Sequence[str] = ()
    networks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, options: argparse.Namespace) -> DataRequest:
        """Read the flags of `add_arguments`."""
        labels = [label.strip() for label in options.labels.split(",") if label.strip()]
        return cls(options.data, options.yaml, labels)

    def source(self, scratch: Path) -> DataSource:
        """Find the data, or paint it into `scratch`. Raises UnusableFolder."""
        from local_cloud.demo import networks, source  # noqa: PLC0415  # painting, which no other command needs

        if self.data is None:
            found = source.painted(scratch)
        else:
            found = source.folder(self.data, labels=self.labels, config_file=self.config_file)
        return networks.chosen(found, self.networks)
