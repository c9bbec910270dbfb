"""Whether this process can still do its work. One that cannot ends itself, so that the platform starts another.

A retry is no answer to a fault that the retry meets again in the same process: a module that was imported in part stays
so, a full disk stays full, and credentials that could not be had for minutes were not an accident.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable

from dualdeploy.errors import CredentialsUnavailable

log = logging.getLogger(__name__)

#: gunicorn's `Arbiter.WORKER_BOOT_ERROR`: with it the arbiter ends too, and the container with it. After any other
#: status it would start a worker in the same container, beside the same full disk.
EXIT_STATUS = 3

#: For this long "no credentials" is a moment's trouble of the metadata server.
CREDENTIALS_SECONDS = 300.0

#: Of the whole process, not of what it was asked to do: no space, no quota, no more open files.
_BROKEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})


class Health:
    """What this process found out about itself."""

    def __init__(
        self,
        *,
        end: Callable[[int], None] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._end = end
        self._clock = clock
        self._lock = threading.Lock()
        self._ended = False
        self._without_credentials_since: float | None = None
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why this process does not do its work now; empty when it does."""
        return self._fault

    def judge(self, exc: BaseException) -> None:
        """End the process if `exc`, or what it was raised from, says that it is broken."""
        cause: BaseException | None = exc
        while cause is not None:
            if isinstance(cause, ImportError) or (isinstance(cause, OSError) and cause.errno in _BROKEN):
                self._give_up(f"{type(cause).__name__}: {cause}", exc)
                return
            cause = cause.__cause__

    def credentials_missing(self, exc: CredentialsUnavailable) -> None:
        """Note that Google's credentials could not be had; after five minutes of this the process ends."""
        now = self._clock()
        with self._lock:
            if self._without_credentials_since is None:
                self._without_credentials_since = now
            seconds = now - self._without_credentials_since
            self._fault = self._fault or f"no credentials: {exc}"
        if seconds >= CREDENTIALS_SECONDS:
            self._give_up(f"no credentials for {seconds:.0f} s: {exc}", exc)

    def credentials_work(self) -> None:
        """Note that Google took this process's credentials."""
        if self._without_credentials_since is None:
            return
        with self._lock:
            self._without_credentials_since = None
            if not self._ended:
                self._fault = ""

    def _give_up(self, reason: str, exc: BaseException) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._fault = reason
        log.critical("this process is broken and ends, for another to take its place: %s", reason, exc_info=exc)
        self._end(EXIT_STATUS)


#: This process's own. There is one, as there is one process.
PROCESS = Health()
