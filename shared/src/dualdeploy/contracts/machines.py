"""Which machines Vertex AI has, and which accelerators go with each: the dated table beside this module.

What Google would refuse when a job is created or a model deployed, is refused when the configuration is read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pydantic

_TABLE = Path(__file__).with_name("machines.json")


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Series(_Strict):
    """Machines without accelerators of their own: `<series>-<kind>-<vcpus>`."""

    series: str
    kinds: tuple[str, ...]
    vcpus: tuple[int, ...]

    def machines(self) -> Iterator[str]:
        return (f"{self.series}-{kind}-{count}" for kind in self.kinds for count in self.vcpus)


class Pairing(_Strict):
    """So many of an accelerator go with each of these machines."""

    accelerator: str
    machines: tuple[str, ...]
    counts: tuple[int, ...]


class MachineTable(_Strict):
    v: Literal[1]
    what: str
    page: str
    as_of: str
    flex_start: tuple[str, ...]
    flex_start_page: str
    plain: tuple[Series, ...]
    accelerators: tuple[Pairing, ...]

    def fault(self, machine: str, accelerator: str = "", count: int = 0) -> str:
        """Why Vertex AI has no such machine with so many of the accelerator; empty when it has."""
        plain = any(machine in series.machines() for series in self.plain)
        own = [pairing for pairing in self.accelerators if machine in pairing.machines]
        if not plain and not own:
            series = ", ".join([each.series for each in self.plain] + sorted(self._series_with_accelerators()))
            return (
                f"{machine} is not a machine of Vertex AI; it has those of the series {series}, such as n1-standard-8"
            )
        if not accelerator:
            return "" if plain else f"{machine} is not available without its accelerators: it goes with {_named(own)}"
        if any(pairing.accelerator == accelerator and count in pairing.counts for pairing in own):
            return ""
        if not any(pairing.accelerator == accelerator for pairing in self.accelerators):
            known = ", ".join(dict.fromkeys(pairing.accelerator for pairing in self.accelerators))
            return f"{accelerator} is not an accelerator of Vertex AI; it has {known}"
        goes_with = f"it goes with {_named(own)}" if own else "it takes no accelerator"
        return (
            f"{machine} does not go with {count} {accelerator}: {goes_with}; {self._machines_for(accelerator, count)}"
        )

    def flex_start_fault(self, accelerator: str) -> str:
        """Why Vertex AI does not wait for such a machine itself (Dynamic Workload Scheduler); empty when it does."""
        if accelerator in self.flex_start:
            return ""
        asked = accelerator or "a machine without accelerator"
        return f"flex_start is not offered for {asked}: it is for {_either(self.flex_start)}"

    def _series_with_accelerators(self) -> set[str]:
        plain = {series.series for series in self.plain}
        return {name.split("-")[0] for pairing in self.accelerators for name in pairing.machines} - plain

    def _machines_for(self, accelerator: str, count: int) -> str:
        """Which machines would do: that is what whoever wants this accelerator needs to know."""
        fitting = [
            name
            for pairing in self.accelerators
            if pairing.accelerator == accelerator and count in pairing.counts
            for name in pairing.machines
        ]
        if not fitting:
            counts = sorted(
                {each for pairing in self.accelerators if pairing.accelerator == accelerator for each in pairing.counts}
            )
            return f"{accelerator} comes in numbers of {_either(counts)}"
        shown = _either(fitting[:3])
        return f"{count} {accelerator} is available with {shown}{' and others' if len(fitting) > 3 else ''}"


def _named(pairings: Sequence[Pairing]) -> str:
    return ", or ".join(f"{_either(pairing.counts)} {pairing.accelerator}" for pairing in pairings)


def _either(choices: Sequence[object]) -> str:
    """`1, 2 or 4`."""
    words = [str(choice) for choice in choices]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


@functools.cache
def table() -> MachineTable:
    """The table that this version carries."""
    return MachineTable.model_validate_json(_TABLE.read_bytes())
