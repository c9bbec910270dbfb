"""`up`, `down` and the process between them that keeps the stack running."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from local_cloud import cloud as clouds
from local_cloud.environment_file import is_running, is_stack, read_environment, write_environment
from local_cloud.stack import Stack

START_LIMIT_SECONDS = 120.0
STOP_LIMIT_SECONDS = 30.0


class StackFailed(RuntimeError):
    """The stack did not start; the message ends with the end of its log."""


def run(
    repository: Path,
    *,
    state: Path,
    environment_file: Path,
    clock_seconds: float,
    realistic: bool = False,
    leashed: bool = False,
    bindings: Path | None = None,
    web: bool = False,
) -> int:
    """Be the stack until a signal comes, or POST /shutdown, or, when `leashed`, standard input ends."""
    cloud = clouds.load(
        repository,
        state_dir=state / "cloud",
        clock_seconds=clock_seconds,
        realistic=realistic,
        bindings_file=bindings,
    )
    stack = Stack(cloud, repository=repository, log_folder=state / "logs", web=web)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: cloud.control.stop_requested.set())
    if leashed:
        threading.Thread(target=_wait_for_the_end_of_stdin, args=(cloud.control.stop_requested,), daemon=True).start()
    try:
        stack.start()
        variables = {**stack.environment(), "LOCAL_CLOUD_PID": str(os.getpid()), "LOCAL_CLOUD_STATE": str(state)}
        write_environment(environment_file, variables)
        cloud.control.stop_requested.wait()
    finally:
        # Whoever starts after this must not find addresses that nobody listens on.
        environment_file.unlink(missing_ok=True)
        stack.close()
    return 0


def _wait_for_the_end_of_stdin(stop_requested: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop_requested.set()


def start(
    repository: Path,
    *,
    state: Path,
    environment_file: Path,
    clock_seconds: float = 2.0,
    realistic: bool = False,
    leashed: bool = False,
    bindings: Path | None = None,
    web: bool = False,
) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Start the stack as a process of its own and wait until it is ready. Raises StackFailed.

    A `leashed` stack ends when this process does, however that ends: the pipe to its standard input closes.
    """
    state.mkdir(parents=True, exist_ok=True)
    environment_file.unlink(missing_ok=True)
    log_file = state / "stack.log"
    command = [sys.executable, "-m", "local_cloud", "stack", "--state", str(state)]
    command += ["--repository", str(repository), "--environment-file", str(environment_file)]
    command += ["--clock-seconds", str(clock_seconds)]
    command += ["--leashed"] if leashed else []
    command += ["--bindings", str(bindings)] if bindings else []
    command += ["--realistic"] if realistic else []
    command += ["--web"] if web else []
    with log_file.open("ab") as output:
        # A session of its own: Ctrl-C in the terminal is for whoever started it, who then stops it in order.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if leashed else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_LIMIT_SECONDS
    try:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            if environment_file.exists():
                return process, read_environment(environment_file)
            time.sleep(0.05)
    except BaseException:
        stop(process)
        raise
    stop(process)
    tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-20:])
    raise StackFailed(f"the stack did not start; the end of {log_file}:\n{tail}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop, wait, then insist. Its children end with it, however it ends."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(STOP_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin:
        process.stdin.close()


def stop_recorded(environment_file: Path) -> bool:
    """Stop the stack that wrote `environment_file`; False when there is none."""
    if not environment_file.exists():
        return False
    number = int(read_environment(environment_file).get("LOCAL_CLOUD_PID", "0"))
    if not is_running(environment_file):
        environment_file.unlink(missing_ok=True)
        return False
    os.kill(number, signal.SIGTERM)
    deadline = time.monotonic() + STOP_LIMIT_SECONDS
    while time.monotonic() < deadline:
        if not is_stack(number):
            return True
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)
    return True


@contextlib.contextmanager
def running(
    repository: Path, *, state: Path, environment_file: Path, bindings: Path | None = None
) -> Iterator[Mapping[str, str]]:
    """The stack for the length of the block, as the demo and the end-to-end test use it; yields its variables."""
    process, variables = start(
        repository, state=state, environment_file=environment_file, leashed=True, bindings=bindings
    )
    try:
        yield variables
    finally:
        stop(process)
