"""@dualdeploy/client: its own tests, by Node's test runner; and its declarations name what it exports."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gateway import openapi
from support.node import node

PACKAGE = Path(__file__).parents[3] / "shared" / "js"


@pytest.mark.parametrize("name", ["router", "pixels"])
def test_the_tests_in_javascript_pass(name: str) -> None:
    command = [node(), "--test", f"test/{name}.test.js"]
    ended = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-1000:]
    passed = re.search(r"pass (\d+)", ended.stdout)
    assert passed, ended.stdout[-1000:]
    assert int(passed[1]) > 30


@pytest.mark.parametrize("module", ["router", "browser"])
def test_what_is_exported_is_declared_and_the_other_way_round(module: str) -> None:
    script = f"import('./src/{module}.js').then((found) => console.log(Object.keys(found).join('\\n')))"
    shown = subprocess.run(
        [node(), "--eval", script], cwd=PACKAGE, capture_output=True, text=True, timeout=60, check=True
    )
    declared = (PACKAGE / "src" / f"{module}.d.ts").read_text(encoding="utf-8")
    values = re.findall(r"^export (?:const|class|function) (\w+)", declared, re.MULTILINE)
    assert sorted(shown.stdout.split()) == sorted(values)


@pytest.mark.parametrize("path", ["js/src/router.js", "kotlin/Router.kt", "swift/Router.swift"])
def test_what_a_client_tells_of_the_phone_is_what_the_gateway_logs(path: str) -> None:
    written = (PACKAGE.parent / path).read_text(encoding="utf-8")
    assert set(re.findall(r"X-Phone-\w+", written)) == set(openapi.PHONE_HEADERS)
