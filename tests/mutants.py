"""Does a test notice when a precondition, a lease or an order is taken away? One change at a time.

    make mutants                     all of them; the last line is `N of M mutants caught`
    make mutants ONLY=due.py         those of one file

The list is made from the sources of services/ and shared/: every `expect=` of a call becomes "whatever is there", every
lease holds no one up, every two consecutive writes or messages change places. A change is run against the tests that
cover its line (as `coverage` saw them), the quickest first, and then against the stories of the chain. What survives
must stand in tests/mutants_excused.txt, with its reason.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import dataclasses
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

REPOSITORY = Path(__file__).resolve().parent.parent
EXCUSED = REPOSITORY / "tests" / "mutants_excused.txt"

#: Where there is something to be changed.
SOURCES = (
    "shared/src/dualdeploy",
    "services/training_launcher/training_launcher",
    "services/job_notifier/job_notifier",
    "services/cloud_deployer/cloud_deployer",
    "services/mobile_publisher/mobile_publisher",
)
#: Fakes, and what writes logs, records and files instead of documents.
LEFT_OUT = ("/testing/", "/logs.py", "/tfrecord.py")

#: What is looked at under coverage; two halves, one for each core.
SUITES = (
    ("tests/unit/ledger", "tests/unit/release", "tests/unit/job_notifier"),
    ("tests/unit/cloud_deployer", "tests/unit/mobile_publisher", "tests/unit/training_launcher"),
)

#: What a change is held against that those did not notice: the stories of the whole chain.
STORIES = ("tests/faults",)

#: What the fakes take for "whatever is there" (`MemoryObjectStore`).
ANY_GENERATION = "-1"

#: Calls that write something, or send a message.
EFFECTS = frozenset(
    {
        *("put", "put_back", "create", "write", "update", "remove", "delete", "finish", "publish", "publish_all"),
        *("claim", "record_live", "note_way_back", "ask_for_turn", "give_up_turn", "join", "hold", "resume"),
        *("record_rejected", "set_traffic", "change_aliases", "create_custom_job", "cancel_custom_job"),
        *("start_upload", "start_deploy", "start_undeploy", "start_create_endpoint", "start_delete_endpoint"),
        *("point", "point_back", "stage", "take_back", "reserve", "settle", "nudge"),
    }
)

#: Seconds of tests for one change: the quickest first, and the rest only if nothing noticed.
FIRST_SECONDS, MOST_SECONDS = 20.0, 150.0


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change: `after` stands in place of the characters `start` to `end` of the file."""

    path: str
    line: int
    function: str
    kind: str
    start: int
    end: int
    before: str
    after: str

    @property
    def key(self) -> str:
        """What an excuse is written for: survives when lines move."""
        return f"{self.path} {self.function} {self.kind}: {' '.join(self.before.split())[:100]}"

    def applied(self, text: bytes) -> bytes:
        return text[: self.start] + self.after.encode() + text[self.end :]


# The list ------------------------------------------------------------------------------------------------------


def mutants_of(path: Path) -> Iterator[Mutant]:
    text = path.read_bytes()
    offsets = [0, *itertools.accumulate(len(line) for line in text.splitlines(keepends=True))]
    name = str(path.relative_to(REPOSITORY))

    def place(node: ast.AST) -> tuple[int, int]:
        start = offsets[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, offsets[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def change(kind: str, node: ast.AST, function: str, after: str) -> Mutant:
        start, end = place(node)
        return Mutant(name, node.lineno, function, kind, start, end, text[start:end].decode(), after)  # type: ignore[attr-defined]

    for function, node in _inside_functions(ast.parse(text)):
        if isinstance(node, ast.Call):
            yield from (
                dataclasses.replace(
                    change("precondition", each.value, function, ANY_GENERATION),
                    before=text[slice(*place(node))].decode(),
                )
                for each in node.keywords
                if each.arg == "expect"
            )
        if isinstance(node, ast.With):
            for item in node.items:
                if _called(item.context_expr) == "lease":
                    yield change("lease", item.context_expr, function, '__import__("contextlib").nullcontext()')
        for block in _blocks(node):
            for first, second in itertools.pairwise(block):
                if _can_change_places(first, second):
                    (start, middle), (other, end) = place(first), place(second)
                    before = text[start:end].decode()
                    # Before a `return` nothing can change places with it: the first is left out.
                    moved = b"" if isinstance(second, ast.Return) else text[middle:other] + text[start:middle]
                    after = (text[other:end] + moved).decode()
                    yield Mutant(name, first.lineno, function, "order", start, end, before, after)


def _inside_functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Every node inside a function, with the function's name."""

    def walk(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inside = (*names, child.name)
                yield ".".join(inside), child
                yield from walk(child, inside)
            else:
                if names:
                    yield ".".join(names), child
                yield from walk(child, names)

    yield from walk(tree, ())


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if isinstance(block, list) and block and isinstance(block[0], ast.stmt) and not isinstance(node, ast.ClassDef):
            yield block


def _can_change_places(first: ast.stmt, second: ast.stmt) -> bool:
    movable = ast.Expr | ast.Assign | ast.AnnAssign | ast.If | ast.For
    if not isinstance(first, movable) or not isinstance(second, movable | ast.Return):
        return False
    if not (_effects(first) and _effects(second)):
        return False
    stored = {each.id for each in ast.walk(first) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    loaded = {each.id for each in ast.walk(second) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
    leaves = any(isinstance(each, ast.Return | ast.Continue | ast.Break) for each in ast.walk(first))
    return not stored & loaded and not leaves


def _effects(node: ast.AST) -> bool:
    return any(_called(each) in EFFECTS for each in ast.walk(node))


def _called(node: ast.AST) -> str:
    """The name of what is called, without a leading underscore."""
    function = node.func if isinstance(node, ast.Call) else None
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return str(name).lstrip("_")


def all_mutants(only: str) -> list[Mutant]:
    paths = sorted(path for source in SOURCES for path in (REPOSITORY / source).rglob("*.py"))
    wanted = [path for path in paths if not any(each in str(path) for each in LEFT_OUT) and only in str(path)]
    return [mutant for path in wanted for mutant in mutants_of(path)]


# Which tests see a line ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Seen:
    """Which test functions ran a line, and how long each takes."""

    by_line: Mapping[tuple[str, int], frozenset[str]]
    seconds: Mapping[str, float]

    def tests(self, mutant: Mutant) -> list[str]:
        """The quickest first."""
        lines = range(mutant.line, mutant.line + mutant.before.count("\n") + 1)
        found = frozenset().union(*(self.by_line.get((mutant.path, line), frozenset()) for line in lines))
        return sorted(found, key=lambda test: self.seconds.get(test, 1.0))


def look(folder: Path) -> Seen:
    """Run every suite once under coverage."""
    processes = [
        subprocess.Popen(_coverage(folder, number, suites), cwd=REPOSITORY, env=_environment(REPOSITORY))
        for number, suites in enumerate(SUITES)
    ]
    if any(process.wait() for process in processes):
        raise SystemExit("the tests fail without any change: mend them first")
    by_line: dict[tuple[str, int], set[str]] = {}
    seconds: dict[str, float] = {}
    for number in range(len(SUITES)):
        _read_coverage(folder / f"coverage-{number}", by_line)
        for case in ElementTree.parse(folder / f"junit-{number}.xml").iter("testcase"):  # noqa: S314 (our own file)
            test = f"{case.get('classname')}.{str(case.get('name')).partition('[')[0]}"
            seconds[test] = seconds.get(test, 0.0) + float(case.get("time") or 0)
    return Seen({line: frozenset(tests) for line, tests in by_line.items()}, seconds)


def _coverage(folder: Path, number: int, suites: Sequence[str]) -> list[str]:
    settings = folder / f"coverage-{number}.ini"
    source = "\n  ".join(str(REPOSITORY / each) for each in SOURCES)
    data = folder / f"coverage-{number}"
    settings.write_text(f"[run]\ndynamic_context = test_function\ndata_file = {data}\nsource =\n  {source}\n")
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", *suites]
    return [*command, "-q", "-p", "no:cacheprovider", f"--junitxml={folder}/junit-{number}.xml"]


def _read_coverage(path: Path, by_line: dict[tuple[str, int], set[str]]) -> None:
    import coverage

    data = coverage.CoverageData(str(path))
    data.read()
    for file in data.measured_files():
        name = str(Path(file).relative_to(REPOSITORY))
        for line, contexts in data.contexts_by_lineno(file).items():
            by_line.setdefault((name, line), set()).update(each for each in contexts if each)


# Running one ---------------------------------------------------------------------------------------------------


def caught_by(mutant: Mutant, seen: Seen, copy: Path) -> str:
    """The tests that notice the change, empty when none does."""
    path = copy / mutant.path
    original = path.read_bytes()
    path.write_bytes(mutant.applied(original))
    try:
        for tests in _batches(seen.tests(mutant), seen.seconds):
            if _fails(tests, copy):
                return tests[0]
        if _pytest_fails(STORIES, copy):
            return STORIES[0]
    finally:
        path.write_bytes(original)
    return ""


def _batches(tests: Sequence[str], seconds: Mapping[str, float]) -> Iterator[list[str]]:
    batch: list[str] = []
    spent, limit = 0.0, FIRST_SECONDS
    for test in tests:
        spent += seconds.get(test, 1.0)
        if spent > MOST_SECONDS:
            break
        batch.append(test)
        if spent > limit:
            yield batch
            batch, limit = [], limit * 3
    if batch:
        yield batch


def _fails(tests: Sequence[str], copy: Path) -> bool:
    return _pytest_fails(sorted({_node_id(test) for test in tests}), copy)


def _pytest_fails(names: Sequence[str], copy: Path) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *names]
    limit = 3 * MOST_SECONDS
    try:
        done = subprocess.run(
            command, cwd=copy, env=_environment(copy), capture_output=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        # A change that never comes to an end is noticed too.
        return True
    return done.returncode != 0


def _node_id(test: str) -> str:
    """`tests.unit.ledger.test_due.test_x` as pytest names it."""
    module, _, function = test.rpartition(".")
    return f"{module.replace('.', '/')}.py::{function}"


def _environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root / "shared/src"), "PYTHONDONTWRITEBYTECODE": "1"}


def _copies(folder: Path, count: int) -> queue.Queue[Path]:
    """Copies of the tree that changes are made in, one for each process."""
    copies: queue.Queue[Path] = queue.Queue()
    for number in range(count):
        copy = folder / f"copy-{number}"
        for part in ("services", "shared", "tests", "infra", "pyproject.toml"):
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", ".terraform"))
            else:
                shutil.copy(source, copy / part)
        copies.put(copy)
    return copies


def excuses() -> dict[str, str]:
    """The reason for each survivor that is excused, by its key."""
    found = {}
    for line in EXCUSED.read_text(encoding="utf-8").splitlines() if EXCUSED.exists() else []:
        key, separator, reason = line.partition(" — ")
        if separator and not line.startswith("#"):
            found[key.strip()] = reason.strip()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every change against its tests; 0 when no survivor is without an excuse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a path")
    parser.add_argument("--list", action="store_true", help="only tell which changes there are")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    mutants = all_mutants(options.only)
    if options.list:
        print("\n".join(f"{each.path}:{each.line} {each.kind} {each.function}" for each in mutants))
        return 0
    excused = excuses()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seen = look(folder)
        copies = _copies(folder, options.processes)

        def run(mutant: Mutant) -> tuple[Mutant, str]:
            copy = copies.get()
            try:
                return mutant, caught_by(mutant, seen, copy)
            finally:
                copies.put(copy)

        with concurrent.futures.ThreadPoolExecutor(options.processes) as pool:
            results = list(pool.map(run, mutants))
    return _report(results, excused)


def _report(results: Sequence[tuple[Mutant, str]], excused: Mapping[str, str]) -> int:
    survivors = [mutant for mutant, caught in results if not caught]
    unexcused = [mutant for mutant in survivors if mutant.key not in excused]
    for mutant in survivors:
        reason = excused.get(mutant.key)
        print(f"{'excused: ' + reason if reason else 'SURVIVES'}: {mutant.path}:{mutant.line} {mutant.key}")
    used = {mutant.key for mutant in survivors}
    for key in sorted(set(excused) - used):
        print(f"an excuse that is not needed: {key}")
    print(json.dumps({"unexcused": len(unexcused), "excused": len(survivors) - len(unexcused)}))
    print(f"{len(results) - len(survivors)} of {len(results)} mutants caught")
    return min(len(unexcused), 1)


if __name__ == "__main__":
    sys.exit(main())
