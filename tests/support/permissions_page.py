"""The tables of docs/permissions.md, made of infra/bindings.json and of what is unverified in the local cloud's data.

`make permissions-table` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from local_cloud.iam.bindings import Binding, Bindings, read_json

FILE = Path("docs") / "permissions.md"
BINDINGS_FILE = Path("infra") / "bindings.json"

_TABLE = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, repository: Path) -> str:
    """The page with every table between `<!-- table: name -->` and `<!-- end -->` as it should be.

    Raises KeyError for a table that is not known.
    """
    bindings = Bindings.load(repository / BINDINGS_FILE)
    tables = {section: _grants(bindings, section) for section in {each.section for each in bindings.bindings}}
    tables["custom-roles"] = _custom_roles(bindings)
    tables["not-shown"] = _not_shown(bindings.bindings)
    tables["unverified"] = _unverified()
    return _TABLE.sub(lambda found: f"{found[1]}{tables[found[2]]}{found[3]}", page)


def _grants(bindings: Bindings, section: str) -> str:
    rows = [each for each in bindings.bindings if each.section == section]
    return _table(
        ("account", "role", "where", "why"),
        ((f"`{each.account}`", f"`{each.role}`", each.where, each.why) for each in rows),
    )


def _custom_roles(bindings: Bindings) -> str:
    return _table(
        ("role", "permissions"),
        (
            (f"`{name}`", " ".join(f"`{permission}`" for permission in permissions))
            for name, permissions in bindings.custom_roles.items()
        ),
    )


def _not_shown(bindings: Iterable[Binding]) -> str:
    rows = [each for each in bindings if each.page]
    return _table(
        ("account", "role", "where", "Google's page"),
        ((f"`{each.account}`", f"`{each.role}`", each.where, f"<{each.page}>") for each in rows),
    )


def _unverified() -> str:
    return _table(("what", "what was not verified"), _unverified_rows())


def _unverified_rows() -> Iterator[tuple[str, str]]:
    for name in ("roles.json", "operations.json"):
        yield from read_json(name)["unverified"].items()
    for name, operation in read_json("operations.json")["operations"].items():
        if "unverified" in operation:
            asks = ", ".join(f"`{permission}`" for permission, _ in operation["asks"]) or "nothing"
            yield f"`{name}` asks {asks}", operation["unverified"]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(cells)} |" for cells in rows)]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE = Path(__file__).resolve().parents[2] / FILE
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), Path(__file__).resolve().parents[2]), encoding="utf-8")
