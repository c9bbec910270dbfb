"""How much one user, address or app may ask, in the memory of this instance.

A second's limit is a bucket of tokens; a day's is a count that begins anew at midnight (UTC). What is not asked about
for long is forgotten first, so that made-up users cost no memory.
"""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
import math
import threading
import time
from collections.abc import Callable, Sequence

from dualdeploy.errors import DualDeployError

#: Users, addresses and apps that are remembered; about 200 bytes each.
_REMEMBERED = 50_000
_DAY_SECONDS = 86_400
#: A host with an IPv6 address has a network of 2**64 of them.
_IPV6_NETWORK_BITS = 64


class OverQuota(DualDeployError):
    """`whose` has asked too much; `seconds` until it may ask again."""

    def __init__(self, whose: str, seconds: float) -> None:
        super().__init__(f"too many requests of this {whose}: ask again in {math.ceil(seconds)} s")
        self.whose = whose
        self.seconds = seconds


@dataclasses.dataclass(frozen=True)
class Limit:
    """`per_second` on average, `burst` at once, `per_day` at most."""

    whose: str
    per_second: float
    burst: float
    per_day: float = math.inf


@dataclasses.dataclass
class _Spent:
    left: float
    at: float
    day: int
    today: int


class Quotas:
    """Thread-safe. `clock` is seconds since 1970."""

    def __init__(self, *, clock: Callable[[], float] = time.time, remembered: int = _REMEMBERED) -> None:
        self._clock = clock
        self._remembered = remembered
        self._lock = threading.Lock()
        self._spent: collections.OrderedDict[tuple[str, str], _Spent] = collections.OrderedDict()

    def take(self, wanted: Sequence[tuple[Limit, str]]) -> None:
        """One request of each; a request that one limit refuses costs none of the others. Raises OverQuota."""
        with self._lock:
            now = self._clock()
            taken = [(limit, self._of(limit, key, now)) for limit, key in wanted]
            for limit, spent in taken:
                if spent.today >= limit.per_day:
                    raise OverQuota(limit.whose, _DAY_SECONDS - now % _DAY_SECONDS)
                if spent.left < 1:
                    raise OverQuota(limit.whose, (1 - spent.left) / limit.per_second)
            for _, spent in taken:
                spent.left -= 1
                spent.today += 1

    def _of(self, limit: Limit, key: str, now: float) -> _Spent:
        name, day = (limit.whose, key), int(now // _DAY_SECONDS)
        spent = self._spent.setdefault(name, _Spent(limit.burst, now, day, 0))
        self._spent.move_to_end(name)
        while len(self._spent) > self._remembered:
            self._spent.popitem(last=False)
        spent.left = min(limit.burst, spent.left + max(0.0, now - spent.at) * limit.per_second)
        spent.at = now
        if spent.day != day:
            spent.day, spent.today = day, 0
        return spent


def address_of(forwarded: str, peer: str) -> str:
    """Whom an address stands for: itself, or the network of an IPv6 address.

    Cloud Run writes the client's address last into `X-Forwarded-For`; what stands before came from the client.
    Source: https://cloud.google.com/run/docs/container-contract
    """
    text = forwarded.rsplit(",", 1)[-1].strip() or peer
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text[:64]
    if address.version == 6:
        return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))
    return str(address)
