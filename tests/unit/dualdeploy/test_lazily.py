"""Packages that are imported late come through one door, in any number of threads, and a failure ends the process."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
SHARED = REPOSITORY / "shared" / "src"
#: The trainer and the predictor are processes of their own kind: they import what they need at their start.
SERVICES = ("training_launcher", "job_notifier", "cloud_deployer", "mobile_publisher")
SOURCES = (SHARED, *(REPOSITORY / "services" / service for service in SERVICES))
#: Run by a child process, with one thread.
CHILDREN = ("convert_child.py", "memory_child.py")
#: Packages with more than one module to enter by.
BEHIND_THE_DOOR = ("google", "firebase_admin", "grpc", "requests", "ai_edge_litert")

#: Each thread loads every module, beginning with another one; then all of them again.
LOAD = """
import json, sys, threading
from dualdeploy import lazily

names = json.loads(sys.argv[1])
together = threading.Barrier(len(names))
failed = []

def enter(first):
    together.wait()
    for name in [*names[first:], *names[:first]]:
        try:
            lazily.load(name)
        except BaseException as exc:
            failed.append(f"{name}: {exc!r}")

threads = [threading.Thread(target=enter, args=(first,)) for first in range(len(names))]
for thread in threads: thread.start()
for thread in threads: thread.join()
for name in names:
    lazily.load(name)
print(json.dumps(failed))
"""

#: Two requests at once meet a cold instance, and each asks another service of Vertex AI.
ASK = """
import threading
from dualdeploy.errors import ServiceUnavailable
from dualdeploy.google.vertex import VertexGateway

gateway = VertexGateway(project="p", region="r", emulator_host="127.0.0.1:9", call_timeout=1, retry_deadline=0.1)
calls = [
    lambda: gateway.find_endpoints("x"),
    lambda: gateway.find_model_versions("x"),
    lambda: gateway.get_custom_job("1"),
    lambda: gateway.operation("projects/p/locations/r/operations/1"),
]
together = threading.Barrier(len(calls))
told = []

def ask(call):
    together.wait()
    for _ in range(2):
        try:
            call()
        except BaseException as exc:
            told.append(type(exc))

threads = [threading.Thread(target=ask, args=(call,)) for call in calls]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert told == [ServiceUnavailable] * 8, told
"""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for folder in SOURCES:
        for path in sorted(folder.rglob("*.py")):
            yield path, ast.parse(path.read_text())


def loaded_late() -> list[str]:
    return sorted(
        {
            argument.value
            for _, tree in trees()
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "lazily.load"
            for argument in node.args
            if isinstance(argument, ast.Constant)
        }
    )


def fresh_process(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SHARED)}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_every_late_import_of_a_package_with_several_entrances_goes_through_the_door() -> None:
    beside = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}: {ast.unparse(node)}"
        for path, tree in trees()
        if path.name not in CHILDREN
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
        if name.partition(".")[0] in BEHIND_THE_DOOR
    ]
    assert beside == []


def test_the_door_takes_names_that_can_be_read_here() -> None:
    calls = [
        ast.unparse(node)
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "lazily.load"
        and not isinstance(node.args[0], ast.Constant)
    ]
    assert calls == []
    assert len(loaded_late()) > 10


def test_all_of_them_can_be_loaded_by_as_many_threads_at_once_in_a_fresh_process() -> None:
    finished = fresh_process(LOAD, json.dumps(loaded_late()))

    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1]) == []


def test_requests_that_meet_a_cold_instance_together_are_all_answered_and_the_next_ones_too() -> None:
    finished = fresh_process(ASK)
    assert finished.returncode == 0, finished.stderr


def test_a_package_that_cannot_be_imported_ends_the_process_and_is_logged_once() -> None:
    program = """
import threading
from dualdeploy import lazily, logs
logs.configure()
def enter():
    try:
        lazily.load("no_such_package.of_ours")
    except ImportError:
        pass
threads = [threading.Thread(target=enter) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("still here")
"""
    finished = fresh_process(program)
    assert finished.returncode == 3
    assert finished.stdout.count("No module named") == finished.stdout.count('"CRITICAL"') * 2 > 0
    assert finished.stdout.count('"CRITICAL"') == 1
    assert "still here" not in finished.stdout
