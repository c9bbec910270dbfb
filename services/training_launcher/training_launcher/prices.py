"""What an hour of a training job costs: the dated table beside this module, and nothing that it does not list.

A price that is not in the table is unknown, never guessed; what happens then is the owner's choice
(`budget.unknown_price`), who can also state the price (`budget.<target>.usd_per_hour`).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import pydantic

_TABLE = Path(__file__).with_name("prices.json")


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class MachinePrice(_Strict):
    region: str
    machine: str
    usd_per_hour: float = pydantic.Field(gt=0)
    as_of: str
    source: str


class AcceleratorPrice(_Strict):
    """Of one accelerator; a job pays for each of its own, beside the machine."""

    region: str
    accelerator: str
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

    def hour(self, *, region: str, machine: str, accelerator: str, count: int) -> tuple[float | None, str]:
        """Price of an hour, None if unknown, and a sentence: where it comes from, or which part lacks a price."""
        found = [price for price in self.machines if (price.region, price.machine) == (region, machine)]
        if not found:
            return None, f"no price of {machine} in {region} is known"
        price, source = found[0].usd_per_hour, f"{machine} in {region} at {found[0].usd_per_hour:g} USD"
        if count:
            fitted = [each for each in self.accelerators if (each.region, each.accelerator) == (region, accelerator)]
            if not fitted:
                return None, f"no price of {accelerator} in {region} is known"
            price += count * fitted[0].usd_per_hour
            source += f", {count} {accelerator} at {fitted[0].usd_per_hour:g} USD"
        return price, f"{source} an hour (list prices, {self.as_of})"


@functools.cache
def table() -> PriceTable:
    """The table that this version of the service carries."""
    return PriceTable.model_validate_json(_TABLE.read_bytes())
