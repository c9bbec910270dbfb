"""Does a test notice when a precondition, a lease or an order is taken away? One change at a time.

    make mutants                     all of them; the last line is `N of M mutants caught`
    make mutants ONLY=due.py         those of one file

The list is made from the sources of services/ and shared/: every `expect=` of a call becomes "whatever is there", every
lease holds no one up, every two consecutive writes or messages change places. A change is run against the tests that
cover its line (as `coverage` saw them), those of its own module and the quickest first, and then against some stories
of the chain. What no test needs to notice stands in tests/mutants_excused.txt, with its reason, and is not run.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import dataclasses
import importlib.util
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn
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
LEFT_OUT = ("/fakes/", "/logs.py", "/tfrecord.py")

#: What is looked at under coverage; two halves, one for each core.
SUITES = (
    (
        "tests/unit/dualdeploy/http",
        "tests/unit/dualdeploy/ledger",
        "tests/unit/dualdeploy/release",
        "tests/unit/job_notifier",
        "tests/unit/training_launcher",
    ),
    ("tests/unit/cloud_deployer", "tests/unit/mobile_publisher"),
)
#: Neither those that convert or train, nor those that start processes: no write of a document depends on them.
QUICK = "not slow and not e2e"

#: What a change is held against that those did not notice: the shortest stories of the whole chain.
STORIES = ("tests/faults/test_two_runs.py", "tests/faults/test_histories.py::test_no_history_breaks_a_promise[0]")

#: What the fakes take for "whatever is there" (`MemoryObjectStore`).
ANY_GENERATION = "-1"

#: Calls that write something, send a message, or change something at Google. What a file's own functions do besides is
#: found by what they call (`_effects_of`).
EFFECTS = frozenset(
    {
        *("put", "put_back", "create", "write", "update", "remove", "delete", "finish", "publish", "publish_all"),
        *("claim", "join", "hold", "resume", "ask_for_turn", "give_up_turn", "end_tail", "note_abort", "note_in_claim"),
        *("record_live", "record_retired", "record_rejected", "mark_replaced", "note_way_back", "note_parameter"),
        *("claim_endpoint", "begin_deletion", "end_deletion", "free", "reserve", "settle", "nudge", "call_off"),
        *("create_custom_job", "cancel_custom_job", "find_or_create", "set_traffic", "change_aliases"),
        *("begin_undeploy", "start_upload", "start_deploy", "start_undeploy", "start_create_endpoint"),
        *("start_delete_endpoint", "start_delete_model", "start_delete_version", "import_evaluation"),
        *("point", "stage", "end_rollout", "take_back", "touch", "store", "put_new", "download_model"),
    }
)

#: Room for a busy machine, not for a change that never comes to an end.
LIMIT_SECONDS = 600


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

    tree = ast.parse(text)
    effects = _effects_of(tree)
    for function, node in _inside_functions(tree):
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
            for first, second in _consecutive([each for each in block if _has_effects(each, effects)]):
                between = block[block.index(first) + 1 : block.index(second)]
                (start, middle), (other, end) = place(first), place(second)
                parts = text[start:middle].decode(), text[middle:other].decode(), text[other:end].decode()
                if after := _exchanged(first, between, second, parts, " " * first.col_offset):
                    yield Mutant(name, first.lineno, function, "order", start, end, "".join(parts), after)


def _effects_of(tree: ast.Module) -> frozenset[str]:
    """Names of calls with an effect: those of `EFFECTS`, and the file's own functions that make such calls."""
    own = {
        node.name.lstrip("_"): {_called(each) for each in ast.walk(node)}
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_")
    }
    effects: frozenset[str] = EFFECTS
    while more := {name for name, calls in own.items() if name not in effects and calls & effects}:
        effects |= more
    return effects


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


def _consecutive(writes: Sequence[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """Two that come after each other on one way through the function: not what ends it, and what stands below."""
    first: ast.stmt | None = None
    for second in writes:
        if first:
            yield first, second
        if not (isinstance(second, ast.If) and _leaves(second.body[-1]) and not second.orelse):
            first = second


def _exchanged(
    first: ast.stmt, between: Sequence[ast.stmt], second: ast.stmt, parts: tuple[str, str, str], indent: str
) -> str:
    """The text in which the second comes before the first; empty when they cannot change places."""
    one, middle, two = parts
    later: list[ast.stmt] = [*between, second]
    if not _leaves(first) and not _stored(first) & _loaded(later):
        if isinstance(second, ast.Return):
            value = two.removeprefix("return").strip()
            return f"{middle.lstrip()}_last = ({value})\n{indent}{one}\n{indent}return _last"
        if not _leaves(second) or isinstance(second, ast.Try | ast.If):
            return f"{middle.lstrip()}{two}\n{indent}{one}"
    earlier: list[ast.stmt] = [first, *between]
    if not _leaves(second) and not set().union(*(_stored(each) for each in earlier)) & _loaded([second]):
        return f"{two}\n{indent}{one}{middle.rstrip()}"
    return ""


def _stored(node: ast.stmt) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}


def _loaded(nodes: Sequence[ast.stmt]) -> set[str]:
    inside = (each for node in nodes for each in ast.walk(node))
    return {each.id for each in inside if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}


def _leaves(node: ast.stmt) -> bool:
    return any(isinstance(each, ast.Return | ast.Continue | ast.Break | ast.Raise) for each in ast.walk(node))


def _has_effects(node: ast.stmt, effects: frozenset[str]) -> bool:
    """Whether running the statement has one; defining a function has none."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return False
    return any(_called(each) in effects for each in ast.walk(node))


def _called(node: ast.AST) -> str:
    """The name of what is called, without a leading underscore; nothing of a method of a text."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Constant):
        return ""
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
        """First those of its own module (tests/ mirrors the packages), then the quickest."""
        lines = range(mutant.line, mutant.line + mutant.before.count("\n") + 1)
        found = frozenset().union(*(self.by_line.get((mutant.path, line), frozenset()) for line in lines))
        path = Path(mutant.path)
        own = {f"test_{path.stem}", f"test_{path.parent.name}"}
        return sorted(found, key=lambda test: (not own & set(test.split(".")), self.seconds.get(test, 1.0)))


def look(folder: Path) -> Seen:
    """Run every suite once under coverage, unless the folder says already what was seen."""
    if not (folder / "seen").exists():
        processes = [
            subprocess.Popen(_coverage(folder, number, suites), cwd=REPOSITORY) for number, suites in enumerate(SUITES)
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit("the tests fail without any change: mend them first")
        (folder / "seen").touch()
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
    return [*command, "-q", "-m", QUICK, "-p", "no:cacheprovider", f"--junitxml={folder}/junit-{number}.xml"]


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
        tests = [_node_id(test) for test in seen.tests(mutant)]
        if tests and _pytest_fails(tests, copy):
            return "tests that run its line"
        if _pytest_fails(STORIES, copy):
            return "stories"
    finally:
        path.write_bytes(original)
        # Two changes of one file may have one length, and one second.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    return ""


def _pytest_fails(names: Sequence[str], copy: Path) -> bool:
    """Run tests in a fork of this process, which has pytest and the like imported already, and nothing of ours."""
    child = os.fork()
    if child == 0:
        _run_tests(names, copy)
    _, status = os.waitpid(child, 0)
    # Also one that was ended by its alarm, or at the end of its memory.
    return status != 0


def _run_tests(names: Sequence[str], copy: Path) -> NoReturn:
    code = 1
    try:
        signal.alarm(LIMIT_SECONDS)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        os.chdir(copy)
        sys.path[:] = _paths_in(copy)
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        code = int(importlib.import_module("pytest").main(["-x", "-q", "-m", QUICK, "-p", "no:cacheprovider", *names]))
    finally:
        os._exit(code)


def _node_id(test: str) -> str:
    """`tests.unit.ledger.test_due.test_x` as pytest names it."""
    module, _, function = test.rpartition(".")
    return f"{module.replace('.', '/')}.py::{function}"


def _paths_in(copy: Path) -> list[str]:
    """What is imported from, with the packages of the copy in place of those that are installed from here."""
    ours = {path: Path(path).relative_to(REPOSITORY) for path in sys.path if Path(path).is_relative_to(REPOSITORY)}
    return [str(copy / ours[path]) if path in ours and (copy / ours[path]).is_dir() else path for path in sys.path]


def _copied(folder: Path) -> Path:
    """A copy of the tree that changes are made in, one for each process."""
    copy = folder / f"copy-{os.getpid()}"
    for part in ("services", "shared", "tests", "infra", "pyproject.toml"):
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", ".terraform"))
        else:
            copy.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy / part)
    return copy


class Process:
    """One of the processes that judge: with a copy of its own, and everything imported that is not ours."""

    copy: ClassVar[Path]
    seen: ClassVar[Seen]

    @classmethod
    def begin(cls, folder: Path, seen: Seen) -> None:
        cls.copy, cls.seen = _copied(folder), seen
        for name in ("flask.testing", "pydantic", "pytest", "yaml"):
            importlib.import_module(name)

    @classmethod
    def check(cls) -> bool:
        """Whether tests pass here without any change: whatever keeps them from it would pass for a change noticed."""
        quickest = sorted(cls.seen.seconds, key=cls.seen.seconds.__getitem__)[:20]
        return not _pytest_fails([_node_id(test) for test in quickest], cls.copy)

    @classmethod
    def judge(cls, mutant: Mutant) -> tuple[Mutant, str, float]:
        """The change, what caught it (nothing: it survives), and the seconds that took."""
        start = time.monotonic()
        return mutant, caught_by(mutant, cls.seen, cls.copy), time.monotonic() - start


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
    parser.add_argument("--folder", type=Path, help="keep here which tests run which line, and use what is there")
    options = parser.parse_args(arguments)
    mutants = all_mutants(options.only)
    if options.list:
        print("\n".join(f"{each.path}:{each.line} {each.kind} {each.function}" for each in mutants))
        return 0
    excused = excuses()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        seen = look(folder)
        print(f"{len(mutants)} changes; which tests run which line is known after {_since(began)}", flush=True)
        results = []
        with concurrent.futures.ProcessPoolExecutor(
            options.processes, multiprocessing.get_context("fork"), Process.begin, (Path(name), seen)
        ) as pool:
            if not pool.submit(Process.check).result():
                raise SystemExit("the tests fail in a copy of the tree without any change")
            judged = [pool.submit(Process.judge, mutant) for mutant in mutants if mutant.key not in excused]
            for each in concurrent.futures.as_completed(judged):
                mutant, caught, seconds = each.result()
                results.append((mutant, caught))
                verdict = f"caught by {caught}" if caught else "SURVIVES"
                print(f"{mutant.path}:{mutant.line} {mutant.kind}: {verdict} ({seconds:.0f} s)", flush=True)
    print(f"took {_since(began)}")
    return _report(mutants, results, excused if not options.only else {})


def _since(moment: float) -> str:
    return f"{time.monotonic() - moment:.0f} s"


def _report(mutants: Sequence[Mutant], results: Sequence[tuple[Mutant, str]], excused: Mapping[str, str]) -> int:
    """0 when whatever was run was caught, and every excuse is one for a change that there is."""
    survivors = [mutant for mutant, caught in results if not caught]
    for mutant in survivors:
        print(f"SURVIVES: {mutant.path}:{mutant.line} {mutant.key}")
    needless = sorted(set(excused) - {mutant.key for mutant in mutants})
    for key in needless:
        print(f"an excuse for a change that is not made any more: {key}")
    place = EXCUSED.relative_to(REPOSITORY)
    print(f"{len(mutants) - len(results)} excused in {place}, {len(survivors)} without an excuse")
    print(f"{len(results) - len(survivors)} of {len(mutants)} mutants caught")
    return min(len(survivors) + len(needless), 1)


if __name__ == "__main__":
    sys.exit(main())
