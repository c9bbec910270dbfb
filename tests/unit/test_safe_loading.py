"""Nothing that comes from outside is ever run: no pickle, no eval, no shell, and YAML only by a safe loader."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("services", "shared", "infra", "benchmarks")
    for path in (REPOSITORY / folder).rglob("*.py")
    if not {"build", ".venv", "node_modules"} & set(path.relative_to(REPOSITORY).parts)
)

#: Modules that make objects, and so may run code, of what they read.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
#: Bare names that run text; `compile` of `re` is an attribute.
NAMES = {"eval", "exec", "compile", "__import__"}
#: Attributes, whatever they are of, that do the same or hand text to a shell.
ATTRIBUTES = {
    "unsafe_load",
    "full_load",
    "load_all",
    "UnsafeLoader",
    "FullLoader",
    "read_pickle",
    "system",
    "popen",
    "getoutput",
    "getstatusoutput",
    "enable_unsafe_deserialization",
}

#: PyYAML's that make objects of whatever class the text names.
LOADERS = {"yaml.Loader", "yaml.CLoader", "yaml.FullLoader", "yaml.UnsafeLoader"}

#: What is allowed all the same, by file and finding, each with its reason.
ALLOWED: set[tuple[str, str]] = {
    # A network of one's own is a program, and runs inside the training job only: SECURITY.md says what that may do.
    ("services/trainer/trainer/modules.py", "compile"),
    ("services/trainer/trainer/modules.py", "exec"),
}


def findings(source: str) -> Iterator[str]:
    """What a file does that it should not, as text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"import {each.name}" for each in node.names if each.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield f"import {node.module}"
        elif isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            yield from _of_call(node)
        elif isinstance(node, ast.ClassDef):
            yield from (f"class of {base}" for base in map(ast.unparse, node.bases) if base in LOADERS)


def _of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if isinstance(node.func, ast.Name) and called in NAMES:
        yield called
    if given.get("shell", "False") != "False":
        yield f"{called} with a shell"
    if given.get("allow_pickle", "False") != "False":
        yield f"{called} with allow_pickle"
    if given.get("safe_mode", "True") != "True":
        yield f"{called} without safe_mode"
    if called == "yaml.load" and given.get("Loader") not in ("yaml.SafeLoader", "yaml.CSafeLoader"):
        yield "yaml.load without a safe loader"


def shown(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_a_file_runs_nothing_that_it_reads(path: Path) -> None:
    found = {(shown(path), finding) for finding in findings(path.read_text(encoding="utf-8"))}

    assert found <= ALLOWED


def test_every_exception_is_still_needed() -> None:
    found = {
        (name, finding) for name, _ in ALLOWED for finding in findings((REPOSITORY / name).read_text(encoding="utf-8"))
    }

    assert found == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "os.system(line)",
        "subprocess.run(line, shell=True)",
        "subprocess.Popen(line, shell=shell)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text, Loader=SomeLoader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load(text)",
        "class Mine(yaml.Loader): ...",
        "np.load(path, allow_pickle=True)",
        "keras.models.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
    ],
)
def test_what_must_not_be_is_found(source: str) -> None:
    assert list(findings(source))


@pytest.mark.parametrize(
    "source",
    [
        "yaml.safe_load(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "class Mine(yaml.SafeLoader): ...",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "subprocess.run([tool, text])",
        "re.compile(text)",
        "model.compile()",
    ],
)
def test_what_may_be_is_not(source: str) -> None:
    assert not list(findings(source))
