"""Which endpoint answers for a data set, from the one object of the ledger that says so."""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from dualdeploy.contracts.prediction import Form
from dualdeploy.errors import RetryLater
from dualdeploy.ledger import Ledger, Served, Serving

log = logging.getLogger(__name__)

#: An endpoint changes when a data set gets another one, or is retired; a new version keeps it.
KEPT_SECONDS = 60.0
#: For this long the last answer counts while the ledger cannot be read: what serves most likely still does.
_KEPT_WITHOUT_LEDGER_SECONDS = 3600.0
_REMEMBERED = 1000


class _Served(Served):
    """What cloud_deployer adds; full resource names."""

    endpoint: str = ""
    endpoint_dns: str = ""
    deployed_model: str = ""
    takes_content: bool = False


class _Serving(Serving):
    current: _Served | None = None


@dataclasses.dataclass(frozen=True)
class Live:
    """`endpoint` is the full name, `dns` the host of a dedicated one; the others say which model serves everyone.

    `form` is how pictures are sent: what serves takes it, and what may have a share of the traffic beside it.
    """

    endpoint: str
    dns: str
    run_id: str
    deployed_model: str
    form: Form = "b64"


class WhatServes:
    """Remembers for a minute. Thread-safe. `clock` is monotonic."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._known: collections.OrderedDict[str, tuple[float, Live | None]] = collections.OrderedDict()

    def of(self, dataset: str) -> Live | None:
        """None when nothing serves. Raises RetryLater's children, and UnreadableDocument."""
        with self._lock:
            read_at, known = self._known.get(dataset, (-_KEPT_WITHOUT_LEDGER_SECONDS, None))
        age = self._clock() - read_at
        if age < KEPT_SECONDS:
            return known
        try:
            live = self._read(dataset)
        except RetryLater as exc:
            if known is None or age >= _KEPT_WITHOUT_LEDGER_SECONDS:
                raise
            log.warning("%s is asked at the endpoint that it had %.0f s ago: %s", dataset, age, exc)
            return known
        with self._lock:
            self._known[dataset] = (self._clock(), live)
            self._known.move_to_end(dataset)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return live

    def forget(self, dataset: str) -> None:
        """Read it again at the next request: its endpoint is not there any more."""
        with self._lock:
            self._known.pop(dataset, None)

    def _read(self, dataset: str) -> Live | None:
        found = self._ledger.find_serving(_Serving, "cloud", dataset)
        serving = found.document if found else None
        if serving is None or serving.current is None or serving.undeployed_at or not serving.current.endpoint:
            return None
        current = serving.current
        form: Form = "content" if current.takes_content else "b64"
        return Live(current.endpoint, current.endpoint_dns, current.run_id, current.deployed_model, form)
