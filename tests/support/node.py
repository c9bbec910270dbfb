"""Where Node is, on which the client for apps runs outside a browser."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess

import pytest

#: The oldest that has what is used: fetch, crypto and a test runner.
OLDEST = 18


@functools.cache
def node() -> str:
    """The path of Node; skips where it is missing or too old, which in CI is a failure."""
    found = shutil.which("node") or ""
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout if found else ""
    if version and int(re.findall(r"\d+", version)[0]) >= OLDEST:
        return found
    problem = f"Node {OLDEST} or newer is not installed here" + (f", but {version.strip()}" if version else "")
    if os.environ.get("CI"):
        pytest.fail(f"{problem}; .ci/run installs it")
    pytest.skip(problem)
