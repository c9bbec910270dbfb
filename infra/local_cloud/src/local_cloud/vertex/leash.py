"""Runs a container's command as a child in a process group of its own, on a leash held by the local cloud.

Started as `python -I -S leash.py COMMAND…`. The leash is standard input: when the local cloud dies, however
it dies, the pipe closes and the whole group is killed, so no training job outlives it. This needs nothing
of the operating system but POSIX, and reaches grandchildren, which a parent-death signal would not.
Single bytes on the leash are orders. The exit code is the command's, as a container reports it: 128 + N
when signal N ended it. This file is run by path and imports nothing of this package.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

TERMINATE = b"t"
KILL = b"k"
STOP = b"s"

COMMAND_NOT_FOUND = 127


def main(command: list[str]) -> int:
    try:
        child = os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
            setpgroup=0,
        )
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", file=sys.stderr, flush=True)
        return COMMAND_NOT_FOUND
    threading.Thread(target=_obey, args=(child,), daemon=True).start()
    _, status = os.waitpid(child, 0)
    # A container ends with its first process: whatever that one left behind ends here.
    _signal_group(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _obey(child: int) -> None:
    while order := os.read(0, 1):
        if order == TERMINATE:
            # As `docker stop`: the first process is asked, its children are its own business.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        elif order == KILL:
            _signal_group(child, signal.SIGKILL)
        elif order == STOP:
            _signal_group(child, signal.SIGSTOP)
    _signal_group(child, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    # Without the interpreter's shutdown: a thread is still blocked on the leash.
    os._exit(main(sys.argv[1:]))
