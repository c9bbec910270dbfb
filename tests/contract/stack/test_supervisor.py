"""The stack as people start and stop it: real processes, no models."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from dualdeploy_demo import supervisor

REPOSITORY = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.timeout(180)


def processes_that_mention(text: str) -> list[str]:
    """Command lines of every living process that has `text` in its command line or environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (folder / "environ").read_bytes().decode(errors="replace")
                if command and (text in command or text in environment):
                    found.append(command)
    return found


def wait_until_gone(text: str, *, seconds: float = 20.0) -> list[str]:
    deadline = time.monotonic() + seconds
    while (left := processes_that_mention(text)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A word in the environment of everything that is started here, by which it is found again."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to find what was left running")
    word = f"left-by-{tmp_path.name}-{os.getpid()}"
    yield word
    assert wait_until_gone(word) == []


def start_owner(tmp_path: Path, mark: str) -> subprocess.Popen[bytes]:
    """A process that runs a stack as the demo does, and tells when it is up."""
    program = (
        "import signal, sys, time\n"
        # Whoever runs the tests in the background may have made them ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\n"
        "from dualdeploy_demo.supervisor import running\n"
        "folder, repository = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "with running(repository, state=folder / 'state', environment_file=folder / 'cloud.env'):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(120)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(REPOSITORY)],
        env={**os.environ, "MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    return owner


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_whatever_ends_the_owner_ends_every_process_of_its_stack(
    tmp_path: Path, mark: str, number: signal.Signals
) -> None:
    owner = start_owner(tmp_path, mark)
    # The owner, the supervisor, four services (with their workers and leashes).
    assert len(processes_that_mention(mark)) > 6

    owner.send_signal(number)
    owner.wait(30)
    if owner.stdout:
        owner.stdout.close()

    assert wait_until_gone(mark) == []


def test_what_up_leaves_running_is_found_and_stopped_by_down(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARK", mark)
    environment_file = tmp_path / "cloud.env"
    process, environment = supervisor.start(REPOSITORY, state=tmp_path / "state", environment_file=environment_file)
    assert supervisor.is_running(environment_file)
    status = requests.get(environment["CLOUD_DEPLOYER_URL"] + "/status/flowers", timeout=10)
    assert status.status_code == 404

    assert supervisor.stop_recorded(environment_file)
    process.wait(30)

    assert not environment_file.exists()
    assert not supervisor.stop_recorded(environment_file), "nothing is left to stop"


def test_an_environment_file_of_a_process_that_is_not_a_stack_stops_nothing(tmp_path: Path) -> None:
    environment_file = tmp_path / "cloud.env"
    environment_file.write_text(f"LOCAL_CLOUD_PID={os.getppid()}\n")
    parent = Path(f"/proc/{os.getppid()}/cmdline")
    if parent.exists() and b"dualdeploy_demo.supervisor" in parent.read_bytes():
        pytest.skip("the parent of the tests mentions the supervisor in its own command line")
    assert not supervisor.stop_recorded(environment_file)
    assert not environment_file.exists()
