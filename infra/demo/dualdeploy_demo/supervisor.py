"""`up`, `down` and the process between them that keeps the stack running: `python -m dualdeploy_demo.supervisor`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from dualdeploy_demo.stack import TOPOLOGY, Stack
from local_cloud import cloud as clouds
from local_cloud.environment_file import read_environment, write_environment
from local_cloud.iam import BindingsError
from local_cloud.pubsub.store import StoreUnusable
from local_cloud.stack import ServiceDidNotStart
from local_cloud.topology import TopologyError

#: In the command line of every stack.
_MARK = "dualdeploy_demo.supervisor"
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
    images: Mapping[str, Path] | None = None,
    web: bool = False,
) -> int:
    """Be the stack until a signal comes, or POST /shutdown, or, when `leashed`, standard input ends."""
    cloud = clouds.load(
        repository / TOPOLOGY,
        state_dir=state / "cloud",
        clock_seconds=clock_seconds,
        realistic=realistic,
        bindings_file=bindings,
        images=images,
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
    images: Mapping[str, Path] | None = None,
    web: bool = False,
) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Start the stack as a process of its own and wait until it is ready. Raises StackFailed.

    A `leashed` stack ends when this process does, however that ends: the pipe to its standard input closes. `images`
    are folders with a Dockerfile, by the last part of the name of the image that each stands for.
    """
    state.mkdir(parents=True, exist_ok=True)
    environment_file.unlink(missing_ok=True)
    log_file = state / "stack.log"
    command = [sys.executable, "-m", _MARK, "--state", str(state)]
    command += ["--repository", str(repository), "--environment-file", str(environment_file)]
    command += ["--clock-seconds", str(clock_seconds)]
    command += ["--leashed"] if leashed else []
    command += ["--bindings", str(bindings)] if bindings else []
    command += [word for name, folder in (images or {}).items() for word in ("--image", f"{name}={folder}")]
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


def is_running(environment_file: Path) -> bool:
    """Whether the stack that wrote `environment_file` is alive."""
    number = int(read_environment(environment_file).get("LOCAL_CLOUD_PID", "0"))
    return number > 0 and is_stack(number)


def is_stack(number: int) -> bool:
    """Whether the process is ours and alive: numbers are used again, and a zombie is dead."""
    record = Path(f"/proc/{number}/cmdline")
    if Path("/proc/self").exists():
        # Empty for a zombie; absent when there is no such process, which may be so from one look to the next.
        try:
            return _MARK.encode() in record.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False
    listing = subprocess.run(
        ["ps", "-o", "stat=,args=", "-p", str(number)], capture_output=True, text=True, check=False
    )
    return _MARK in listing.stdout and not listing.stdout.lstrip().startswith("Z")


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


def _image(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    return name, Path(folder)


def main(arguments: list[str] | None = None) -> int:
    """What `start` runs; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dualdeploy_demo.supervisor", description="Be a stack.")
    for name in ("--repository", "--state", "--environment-file"):
        parser.add_argument(name, type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--clock-seconds", type=float, default=2.0, help="how often schedules fire")
    parser.add_argument("--bindings", type=Path, help="who may do what")
    parser.add_argument("--image", dest="images", type=_image, action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--web", action="store_true", help="with the services that no event reaches")
    parser.add_argument("--leashed", action="store_true", help="end when standard input ends")
    parser.add_argument("--realistic", action="store_true", help="keep Google's rates, time-outs and back-offs")
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return run(options.pop("repository"), images=dict(options.pop("images")), **options)
    except (TopologyError, BindingsError, clouds.StateInUse, StoreUnusable, ServiceDidNotStart, OSError) as exc:
        print(f"dualdeploy: {exc}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
