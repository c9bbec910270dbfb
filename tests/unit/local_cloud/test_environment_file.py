"""The file that `make up` leaves for shells and scripts."""

from __future__ import annotations

import subprocess
from pathlib import Path

from local_cloud.environment_file import read_environment, write_environment

VARIABLES = {"PLAIN": "127.0.0.1:80", "SPACED": "/home/x/My Projects/it's $HOME", "EMPTY": ""}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_environment(tmp_path / "new" / "cloud.env", VARIABLES)
    assert read_environment(tmp_path / "new" / "cloud.env") == VARIABLES


def test_a_shell_reads_the_same_values(tmp_path: Path) -> None:
    path = tmp_path / "cloud.env"
    write_environment(path, VARIABLES)
    command = f'set -a; . "{path}"; printf %s "$SPACED"'
    shown = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True, timeout=10)
    assert shown.stdout == VARIABLES["SPACED"]
