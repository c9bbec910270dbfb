"""The shards of a folder on this machine, by the rule that the launcher has for a bucket."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from dualdeploy.contracts.shards import Kind, PassedOver, ShardNames, of_last_folders, pass_over, why_incomplete


@dataclasses.dataclass(frozen=True)
class ShardFolder:
    """`files`: the shards in this folder and the folders in it, by their path below it, with slashes, in order."""

    files: Mapping[str, Path]
    passed_over: PassedOver = dataclasses.field(default_factory=PassedOver)

    @property
    def fault(self) -> str:
        """Why the launcher would refuse the names; empty when it would not."""
        return why_incomplete(self.files) if self.files else self.passed_over.why_no_shards()


def look_into(folder: Path, rule: ShardNames, *, last_folders: int | None = None) -> ShardFolder:
    """Find the shards of all folders, or of the last ones directly in this folder; of `rule` the prefix does not count,
    which is a matter of the bucket. Raises OSError.
    """
    below = ShardNames(patterns=rule.patterns)
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    names = of_last_folders([name for name in sorted(found) if below.kind(name) is Kind.SHARD], last_folders)
    return ShardFolder({name: found[name] for name in names}, pass_over(sorted(found), below))
