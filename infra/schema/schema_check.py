"""`python schema_check.py`: every argument in infra/terraform held against the provider's schema.

No registry of providers is asked: the Python sources of `pulumi_gcp` are made of the provider's schema and carry its
names, types, descriptions and import formats. They are read as text from where it is installed. Printed, each with
its place: a resource or data source that is not there, an argument or block that is not there, a block written as an
attribute or the other way round, an argument that is required and missing, a literal of another type or outside the
values that are listed, and an import format that is not documented. Exit 1 if there is any; what stays unchecked is
printed in the end.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hcl2

from shipping import taking_over

REPOSITORY = Path(__file__).resolve().parents[2]

#: Terraform's own, which no provider knows.
_META = {"count", "for_each", "depends_on", "provider", "lifecycle", "timeouts", "provisioner", "connection"}
#: Pulumi's own.
_PULUMI = {"resource_name", "opts"}

#: Where Pulumi's rule does not lead from a type to a module and a class.
_IRREGULAR: Mapping[str, tuple[str, str]] = {
    "google_artifact_registry_repository_iam_member": (
        "artifactregistry/repository_iam_member",
        "RepositoryIamMemberArgs",
    ),
    "google_cloud_run_v2_service": ("cloudrunv2/service", "ServiceArgs"),
    "google_cloud_run_v2_service_iam_member": ("cloudrunv2/service_iam_member", "ServiceIamMemberArgs"),
    "google_cloudfunctions2_function": ("cloudfunctionsv2/function", "FunctionArgs"),
    "google_project": ("organizations/get_project", "get_project"),
    "google_project_iam_custom_role": ("projects/iam_custom_role", "IAMCustomRoleArgs"),
    "google_project_iam_member": ("projects/iam_member", "IAMMemberArgs"),
    "google_project_service": ("projects/service", "ServiceArgs"),
    "google_service_account": ("serviceaccount/account", "AccountArgs"),
    "google_service_account_iam_member": ("serviceaccount/iam_member", "IAMMemberArgs"),
    "google_storage_project_service_account": ("storage/get_project_service_account", "get_project_service_account"),
}


# What we wrote ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Declared:
    """A resource or a data source of ours."""

    file: Path
    kind: str
    type: str
    name: str
    body: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.file} {self.type}.{self.name}"


def declared(repository: Path) -> Iterator[Declared]:
    for file in sorted((repository / "infra" / "terraform").rglob("*.tf")):
        document = hcl2.loads(file.read_text(encoding="utf-8"))
        for kind in ("resource", "data"):
            for block in document.get(kind, []):
                ((type_, named),) = _labelled(block)
                ((name, body),) = _labelled(named)
                yield Declared(file.relative_to(repository), kind, type_, name, body)


def _labelled(block: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key.strip('"'), value) for key, value in block.items() if not key.startswith("__")]


def _is_block(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "__is_block__" in value[0]


def _contents(name: str, value: Any) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """The blocks under a name; those that are dynamic stand under their own name."""
    if name != "dynamic":
        yield name, value
        return
    for each in value:
        ((label, block),) = _labelled(each)
        yield label, block["content"]


# What there is ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Argument:
    """`kind` is string, number, bool, list, map, block, or nothing when it is not known."""

    kind: str
    is_required: bool
    block: str = ""
    values: tuple[str, ...] = ()


class Bindings:
    """The classes of pulumi_gcp, by the names that Terraform has for them."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "pulumi_gcp"
        if not self._root.is_dir():
            raise SystemExit(f"{folder} holds no pulumi_gcp: make schema")

    def find(self, kind: str, type_: str) -> tuple[Path, str] | None:
        """Module and class (or function) of the arguments; None when there is none."""
        if type_ in _IRREGULAR:
            module, name = _IRREGULAR[type_]
            file = self._root / f"{module}.py"
            return (file, name) if name in self._classes(file) else None
        words = type_.removeprefix("google_").split("_")
        for cut in range(1, len(words)):
            rest = "_".join(words[cut:])
            file = self._root / "".join(words[:cut]) / f"{'get_' if kind == 'data' else ''}{rest}.py"
            wanted = f"get_{rest}" if kind == "data" else f"{rest.replace('_', '')}args"
            for name in self._classes(file):
                if name.lower() == wanted:
                    return file, name
        return None

    def arguments(self, file: Path, name: str) -> Mapping[str, Argument]:
        """What a class, or a nested one of its module, takes."""
        found = self._classes(file).get(name) or self._classes(file.parent / "_inputs.py")[name]
        function = found if isinstance(found, ast.FunctionDef) else _constructor(found)
        described = _described(ast.get_docstring(function) or "")
        given = function.args
        defaults: Sequence[ast.expr | None] = [*([None] * (len(given.args) - len(given.defaults))), *given.defaults]
        pairs = [*zip(given.args, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
        return {
            each.arg: _argument(each, is_required=default is None, about=described.get(each.arg, ""))
            for each, default in pairs
            if each.arg not in {"self", "__self__", *_PULUMI}
        }

    def import_formats(self, type_: str) -> set[str]:
        """How the documentation says that a resource is imported, such as `projects/{project}/topics/{name}`."""
        found = self.find("resource", type_)
        text = found[0].read_text(encoding="utf-8") if found else ""
        text = text.partition("## Import")[2].partition('"""')[0]
        return {re.sub(r"\{\{(\w+)\}\}", r"{\1}", each) for each in re.findall(r"`([^`\s]*\{\{[^`\s]*)`", text)}

    @functools.cache  # noqa: B019  # as long-lived as the program
    def _classes(self, file: Path) -> Mapping[str, ast.ClassDef | ast.FunctionDef]:
        if not file.is_file():
            return {}
        tree = ast.parse(file.read_text(encoding="utf-8"))
        return {each.name: each for each in tree.body if isinstance(each, ast.ClassDef | ast.FunctionDef)}


def _constructor(found: ast.ClassDef) -> ast.FunctionDef:
    return next(each for each in found.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")


def _described(doc: str) -> Mapping[str, str]:
    found = re.findall(r":param (?:pulumi\.Input\[.*?\] |\S+ )?(\w+): (.*?)(?=\n\s*:param|\Z)", doc, re.DOTALL)
    return {name: re.sub(r"\s+", " ", text) for name, text in found}


def _argument(each: ast.arg, *, is_required: bool, about: str) -> Argument:
    annotation = ast.unparse(each.annotation) if each.annotation else ""
    if block := re.search(r"'(?:\w+\.)*(\w+Args)'", annotation):
        return Argument("block", is_required, block[1])
    listed = re.search(r"[Pp]ossible values(?: are| include)?:? *((?:`[^`]+`(?:, and |, or |, | and | or )?)+)", about)
    values = tuple(re.findall(r"`\"?([^`\"]+)\"?`", listed[1])) if listed else ()
    for part, kind in (
        ("Mapping[", "map"),
        ("Sequence[", "list"),
        ("bool", "bool"),
        ("int", "number"),
        ("float", "number"),
    ):
        if part in annotation:
            return Argument(kind, is_required, values=values)
    return Argument("string" if "str" in annotation else "", is_required, values=values)


def spellings(name: str) -> list[str]:
    """Terraform's name and what Pulumi may call it: it puts lists into the plural."""
    plurals = [
        f"{name}s",
        f"{name}es",
        re.sub(r"y$", "ies", name),
        re.sub(r"ia$", "ias", name),
        re.sub(r"s$", "", name),
    ]
    return [name, *dict.fromkeys(each for each in plurals if each != name)]


# Comparing -------------------------------------------------------------------------------------------------------


class Comparison:
    """What is wrong, and how much was looked at."""

    def __init__(self, bindings: Bindings) -> None:
        self._bindings = bindings
        self.problems: list[str] = []
        self.arguments = 0
        self.expressions = 0
        #: Types whose import format the bindings leave out.
        self.undocumented: list[str] = []

    def resource(self, ours: Declared) -> None:
        found = self._bindings.find(ours.kind, ours.type)
        if found is None:
            self.problems.append(f"{ours}: there is no {ours.kind} {ours.type}")
            return
        body = {name: value for name, value in ours.body.items() if name not in _META}
        self._body(str(ours), body, *found)

    def _body(self, where: str, body: Mapping[str, Any], file: Path, name: str) -> None:
        known = self._bindings.arguments(file, name)
        given: set[str] = set()
        for key, value in body.items():
            if key.startswith("__"):
                continue
            if _is_block(value) or key == "dynamic":
                for label, blocks in _contents(key, value):
                    given.add(label)
                    self._blocks(f"{where} > {label}", blocks, _lookup(known, label), file)
            else:
                given.add(key)
                self.arguments += 1
                self._attribute(f"{where}: {key}", value, _lookup(known, key))
        for needed, argument in known.items():
            if argument.is_required and not any(needed in spellings(each) for each in given):
                self.problems.append(f"{where}: {needed} is required, and missing")

    def _blocks(self, where: str, blocks: Iterable[Mapping[str, Any]], known: Argument | None, file: Path) -> None:
        self.arguments += 1
        if known is None:
            self.problems.append(f"{where}: there is no such block")
        elif known.kind != "block":
            self.problems.append(f"{where}: is a {known.kind}, and written as a block")
        else:
            for block in blocks:
                self._body(where, block, file, known.block)

    def _attribute(self, where: str, value: Any, known: Argument | None) -> None:
        if known is None:
            self.problems.append(f"{where}: there is no such argument")
            return
        if known.kind == "block":
            self.problems.append(f"{where}: is a block, and written as an attribute")
            return
        kind = _kind(value)
        if not kind:
            self.expressions += 1
            return
        scalars = {"string", "number", "bool"}
        # Terraform makes "8" of 8 and "true" of true by itself, and the other way round.
        if known.kind and kind != known.kind and not {kind, known.kind} <= scalars:
            self.problems.append(f"{where}: is a {known.kind}, and given a {kind}")
        text = str(value).strip('"')
        if known.values and kind == "string" and text not in known.values:
            self.problems.append(f"{where}: {text} is none of {', '.join(known.values)}")


def _lookup(known: Mapping[str, Argument], name: str) -> Argument | None:
    return next((known[each] for each in spellings(name) if each in known), None)


def _kind(value: Any) -> str:
    """Of a literal; nothing for an expression, whose value is known to Terraform only."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list):
        return "list"
    if isinstance(value, dict):
        return "map"
    return "string" if re.fullmatch(r'"[^"$]*"', value) else ""


def check(repository: Path, bindings: Bindings, imports: Mapping[str, str]) -> Comparison:
    """Compare everything that is declared, and by type the import formats that a deployment uses."""
    comparison = Comparison(bindings)
    types = set()
    for ours in declared(repository):
        types.add(ours.type)
        comparison.resource(ours)
    for type_, form in imports.items():
        if type_ not in types:
            comparison.problems.append(f"shipping.taking_over: nothing of ours is a {type_}")
        elif not (documented := bindings.import_formats(type_)):
            comparison.undocumented.append(type_)
        elif _shape(form) not in {_shape(each) for each in documented}:
            comparison.problems.append(
                f"shipping.taking_over: {type_} is imported as {' or '.join(sorted(documented))}"
            )
    return comparison


def _shape(form: str) -> str:
    """An import format without the words that stand for values."""
    return re.sub(r"\{\w+\}", "{}", form)


def main() -> int:
    comparison = check(REPOSITORY, Bindings(Path(sysconfig.get_path("purelib"))), taking_over.IDS)
    for problem in comparison.problems:
        print(problem)
    print(f"{comparison.arguments} arguments and blocks, {len(comparison.problems)} problems.")
    print(
        "Not checked: names beyond their plural, how often a block may come, arguments that exclude each other,\n"
        f"the values of {comparison.expressions} expressions, and how these are imported: "
        f"{', '.join(comparison.undocumented)}."
    )
    return int(bool(comparison.problems) or not comparison.arguments)


if __name__ == "__main__":
    sys.exit(main())
