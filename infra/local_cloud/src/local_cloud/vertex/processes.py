"""Child processes that stand for containers: started on a leash, logged line by line, surely ended."""

from __future__ import annotations

import collections
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from local_cloud.vertex import leash

#: Lines of standard error kept for the error text of a failed job or deployment.
TAIL_LINES = 20

LineSink = Callable[[str, str], None]


def container_environment(*layers: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without anything that only Vertex AI sets, then `layers` over it."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIP_", "CLOUD_ML_", "TF_CONFIG"))
    }
    for layer in layers:
        inherited |= layer
    return inherited


class Process:
    """One running command; `on_line(stream, line)` sees its output, `on_exit()` its end.

    Raises:
        OSError: when the folder does not exist; a command that does not exist ends with code 127 instead.
    """

    def __init__(
        self,
        command: list[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        log: Path,
        on_line: LineSink | None = None,
        on_exit: Callable[[], None] | None = None,
    ) -> None:
        self._log_lock = threading.Lock()
        self._on_line = on_line
        self._on_exit = on_exit
        self._tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._leash_lock = threading.Lock()
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", leash.__file__, *command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("a", encoding="utf-8")
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name=f"process-{self._popen.pid}", daemon=True).start()

    @property
    def exit_code(self) -> int | None:
        """As the container reports it (137 after SIGKILL), or None while it runs."""
        return self._popen.returncode if self._ended.is_set() else None

    @property
    def tail(self) -> str:
        """The last lines of standard error."""
        with self._log_lock:
            return "\n".join(self._tail)

    def wait(self, timeout: float) -> int | None:
        self._ended.wait(timeout)
        return self.exit_code

    def stop(self) -> None:
        """Freeze the process: it neither works nor ends, as a job that hangs."""
        self._order(leash.STOP)

    def kill(self) -> None:
        self._order(leash.KILL)

    def end(self, grace_seconds: float) -> None:
        """Ask the process to end, then, after the grace, end it."""
        self._order(leash.TERMINATE)
        if self.wait(grace_seconds) is None:
            self.kill()
            self._ended.wait(10)

    def _order(self, order: bytes) -> None:
        with self._leash_lock, contextlib.suppress(OSError, ValueError):
            pipe = self._popen.stdin
            if pipe is not None and not self._ended.is_set():
                pipe.write(order)
                pipe.flush()

    def _watch(self) -> None:
        streams = (("stdout", self._popen.stdout), ("stderr", self._popen.stderr))
        readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in streams if pair[1]]
        for reader in readers:
            reader.start()
        self._popen.wait()
        for reader in readers:
            # Bounded: a process that fled the group may hold the pipe open for ever.
            reader.join(timeout=2)
        self._ended.set()
        with self._leash_lock, contextlib.suppress(OSError):
            if self._popen.stdin:
                self._popen.stdin.close()
        with self._log_lock:
            self._log.close()
        if self._on_exit:
            self._on_exit()

    def _read(self, stream: str, pipe: IO[bytes]) -> None:
        with pipe:
            for raw in pipe:
                line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
                self._note(stream, line)
                if self._on_line:
                    self._on_line(stream, line)

    def _note(self, stream: str, line: str) -> None:
        with self._log_lock:
            if self._log.closed:
                return
            self._log.write(line + "\n")
            self._log.flush()
            if stream == "stderr":
                self._tail.append(line)
