"""What the command line asks the demo to use: a folder of shards with its YAML and class names, or painted flowers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dualdeploy_demo.source import DataSource


@dataclasses.dataclass(frozen=True)
class DataRequest:
    """`data` None: painted flowers. `networks`: by target, others than the demo's own; empty for those.

    `method`: `custom`, our own trainer, or `automl`.
    """

    data: Path | None = None
    config_file: Path | None = None
    labels: Sequence[str] = ()
    networks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    method: str = "custom"

    def source(self, scratch: Path) -> DataSource:
        """Find the data, or paint it into `scratch`. Raises UnusableFolder."""
        from dualdeploy_demo import networks, source  # noqa: PLC0415  # painting, which no other command needs

        if self.data is None:
            found = source.painted(scratch)
        else:
            found = source.folder(self.data, labels=self.labels, config_file=self.config_file)
        if self.method == "automl":
            return source.for_automl(found)
        return networks.chosen(found, self.networks)
