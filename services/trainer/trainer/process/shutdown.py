"""Leaving within seconds when the machine is taken away (SIGTERM)."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from trainer.process import failures
from trainer.process import storage as locations

log = logging.getLogger("trainer")


class Departure:
    """What is still to be done when the process must go; harmless where no signal is listened for.

    Vertex AI sends SIGTERM when it takes a spot machine away, and half a minute later the machine is gone. Python
    runs handlers only between two of its own instructions, and compiling or saving a network is a single one that
    lasts many seconds. What C does at once is to write the signal's number into the wake-up pipe, and a thread of
    its own reads that.
    """

    def __init__(self) -> None:
        self._folders: list[Path] = []
        self._last_acts: list[Callable[[], str]] = []
        self._listens = False

    def remove(self, folder: Path) -> None:
        """Remove this scratch folder on the way out."""
        self._folders.append(folder)

    def before(self, act: Callable[[], str]) -> None:
        """Call `act` first, which must end within a few seconds; it returns what to say about it."""
        self._last_acts.append(act)

    def listen(self) -> None:
        """From now on, SIGTERM ends the process with the exit code that asks for another attempt."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._listens = True
        self.keep_listening()

        def wait() -> None:
            while os.read(reader, 1)[0] != signal.SIGTERM:
                continue
            os._exit(self.leave())

        threading.Thread(target=wait, daemon=True, name="sigterm").start()

    def keep_listening(self) -> None:
        """Take SIGTERM back from whoever has taken it: TensorFlow does when several workers find each other."""
        if self._listens:
            signal.signal(signal.SIGTERM, lambda *_: None)

    def leave(self) -> int:
        """Do what is still to be done; returns the exit code."""
        log.warning("interrupted by SIGTERM: %s; start the job again", self.conclude())
        for folder in self._folders:
            locations.remove_folder(folder)
        return failures.exit_code(failures.Interrupted())

    def conclude(self) -> str:
        """Perform the last acts; returns what they say."""
        return "; ".join([self._said(act) for act in self._last_acts] or ["nothing was trained yet"])

    @staticmethod
    def _said(act: Callable[[], str]) -> str:
        try:
            return act()
        except Exception as exc:  # noqa: BLE001  # whatever it is, the process has to leave with the right code
            return f"a shutdown hook failed ({exc})"
