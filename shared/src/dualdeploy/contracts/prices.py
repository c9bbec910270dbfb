"""What an hour of Vertex AI costs, training or serving: the dated table beside this module, and nothing that it lacks.

A price that is not in the table is unknown, never guessed; what happens then is the owner's choice
(`budget.unknown_price`), who can also state the price of a training (`budget.<target>.usd_per_hour`).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import pydantic

_TABLE = Path(__file__).with_name("prices.json")

#: A machine that trains has another price than the same machine that serves.
Use = Literal["training", "serving"]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class MachinePrice(_Strict):
    use: Use
    region: str
    machine: str
    usd_per_hour: float = pydantic.Field(gt=0)
    as_of: str
    source: str


class AcceleratorPrice(_Strict):
    """Of one accelerator; each is paid for, beside the machine."""

    use: Use
    region: str
    accelerator: str
    usd_per_hour: float = pydantic.Field(gt=0)
    as_of: str
    source: str


class NodePrice(_Strict):
    """Of an hour of one node that trains for AutoML; `kind` is `cloud` or `mobile`. Google's list names no region."""

    kind: Literal["cloud", "mobile"]
    usd_per_hour: float = pydantic.Field(gt=0)
    as_of: str
    source: str


class PriceTable(_Strict):
    """List prices in US dollars per hour. `what` and `spot` say to people what the numbers cover."""

    v: Literal[1]
    what: str
    page: str
    as_of: str
    spot: str
    machines: tuple[MachinePrice, ...]
    accelerators: tuple[AcceleratorPrice, ...]
    automl: tuple[NodePrice, ...] = ()

    def node_hour(self, kind: str) -> tuple[float | None, str]:
        """Price of an hour of one node of AutoML's training, and where it comes from; see `hour`."""
        for each in self.automl:
            if each.kind == kind:
                return each.usd_per_hour, f"{each.usd_per_hour:g} USD a node hour of AutoML (list price, {each.as_of})"
        return None, f"no price of a node hour of AutoML's {kind} training is known"

    def hour(
        self, *, use: Use, region: str, machine: str, accelerator: str = "", count: int = 0
    ) -> tuple[float | None, str]:
        """Price of an hour, None if unknown, and a sentence: where it comes from, or which part lacks a price."""
        machines = {price.machine: price for price in self.machines if (price.use, price.region) == (use, region)}
        if machine not in machines:
            return None, f"no {use} price of {machine} in {region} is known"
        price, dates = machines[machine].usd_per_hour, {machines[machine].as_of}
        source = f"{machine} in {region} at {price:g} USD"
        if count:
            fitted = {each.accelerator: each for each in self.accelerators if (each.use, each.region) == (use, region)}
            if accelerator not in fitted:
                return None, f"no {use} price of {accelerator} in {region} is known"
            price += count * fitted[accelerator].usd_per_hour
            dates.add(fitted[accelerator].as_of)
            source += f", {count} {accelerator} at {fitted[accelerator].usd_per_hour:g} USD"
        return price, f"{source} an hour of {use} (list prices, {' and '.join(sorted(dates))})"


@functools.cache
def table() -> PriceTable:
    """The table that this version carries."""
    return PriceTable.model_validate_json(_TABLE.read_bytes())
