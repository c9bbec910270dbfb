"""Writes that training does not wait for: the newest content of each location, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from dualdeploy.errors import DualDeployError

log = logging.getLogger("trainer")

Content = Callable[[], bytes]


class BackgroundWriter:
    """Puts content into place one after the other; what was overtaken before its turn came is never written.

    A write that fails is a warning: training goes on, and the next epoch tries again.
    """

    def __init__(self, write: Callable[[str, Content], None]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._waiting: dict[str, Content] = {}
        self._busy = False
        self._thread: threading.Thread | None = None

    def put(self, location: str, content: Content) -> None:
        """Write `content()` to `location` soon, instead of what may still be waiting for that place."""
        with self._changed:
            self._waiting[location] = content
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="background-writer")
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all is written, at most `timeout` seconds; whether it is."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._waiting or self._busy:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                location = next(iter(self._waiting))
                content = self._waiting.pop(location)
                self._busy = True
            try:
                self._write(location, content)
            except DualDeployError as exc:
                log.warning("%s was not written: %s", location, exc)
            except Exception:
                log.exception("%s was not written: this is a bug", location)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
