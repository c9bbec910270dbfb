"""`make audit`: what is pinned, what a database says of it, and that what it does not know is never passed over."""

from __future__ import annotations

import datetime
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import dependency_audit as audit
from dependency_audit import BROKEN, CLEAN, INCOMPLETE, VULNERABLE, Accepted, Findings, Package, Vulnerability

REPOSITORY = Path(__file__).resolve().parents[2]
TODAY = datetime.date(2026, 11, 26)

OLD, NEW = Package("requests", "2.19.1"), Package("requests", "2.34.2")
FLASK = Package("flask", "3.1.2")
LEAK = Vulnerability(OLD, "PYSEC-2018-28", ("CVE-2018-18074",), ("2.20.0",))
WHERE = {OLD: ["infra/policy/uv.lock"], FLASK: ["uv.lock"]}

#: Answers as pip-audit prints them, without its help: of packages that are in `KNOWN`, what is there; of others, that
#: they are not in the database.
TOOL = """#!{python}
import json, sys
KNOWN = json.loads({known!r})
if {noise!r}:
    sys.exit({noise!r})
wanted = sys.argv[sys.argv.index("--requirement") + 1]
answers = []
for line in open(wanted):
    name, version = line.strip().split("==")
    if name in KNOWN:
        answers.append({{"name": name, "version": version, "vulns": KNOWN[name].get(version, [])}})
    else:
        answers.append({{"name": name, "skip_reason": "Dependency not found on PyPI and could not be audited"}})
print(json.dumps({{"dependencies": answers, "fixes": []}}))
"""

MakeTool = Callable[..., Path]


@pytest.fixture
def make_tool(tmp_path: Path) -> MakeTool:
    """`make_tool({"requests": {"2.19.1": [...]}})`: a database of its own; `noise` is what it ends with instead."""

    def make(known: Mapping[str, Mapping[str, Any]], *, noise: str = "") -> Path:
        tool = tmp_path / "pip-audit"
        tool.write_text(TOOL.format(python=sys.executable, known=json.dumps(known), noise=noise), encoding="utf-8")
        tool.chmod(0o755)
        return tool

    return make


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two locks that agree about one package and not about the other."""
    root = tmp_path / "repository"
    (root / "infra" / "policy").mkdir(parents=True)
    (root / "uv.lock").write_text(lock(FLASK, NEW), encoding="utf-8")
    (root / "infra" / "policy" / "uv.lock").write_text(lock(OLD, FLASK), encoding="utf-8")
    return root


def lock(*packages: Package) -> str:
    """A lock as uv writes it, with a package of the workspace in it."""
    ours = ("[[package]]", 'name = "trainer"', 'version = "0.1.0"', 'source = { editable = "services/trainer" }')
    lines = ["version = 1", *ours]
    for each in packages:
        lines += ["[[package]]", f'name = "{each.name}"', f'version = "{each.version}"']
        lines += ['source = { registry = "https://pypi.org/simple" }']
    return "\n".join(lines)


# What is pinned ----------------------------------------------------------------------------------------------------


def test_every_lock_of_the_repository_is_read() -> None:
    names = {file.relative_to(REPOSITORY).as_posix() for file in audit.lock_files(REPOSITORY)}
    every = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("uv.lock"))
    ours = {path.as_posix() for path in every if not {".venv", "build"} & set(path.parts)}

    assert names == ours == {"uv.lock", "infra/policy/uv.lock"}


def test_every_package_of_every_lock_is_seen_but_not_our_own() -> None:
    where = audit.pinned(audit.lock_files(REPOSITORY), repository=REPOSITORY)
    for file in audit.lock_files(REPOSITORY):
        name = file.relative_to(REPOSITORY).as_posix()
        pins = file.read_text(encoding="utf-8").count('\nsource = { registry = "')
        assert sum(name in files for files in where.values()) == pins > 50, name
    assert {"dualdeploy", "trainer", "policy"}.isdisjoint(package.name for package in where)


def test_a_package_is_told_with_the_locks_that_pin_it(repository: Path) -> None:
    assert audit.pinned(audit.lock_files(repository), repository=repository) == {
        OLD: ["infra/policy/uv.lock"],
        NEW: ["uv.lock"],
        FLASK: ["uv.lock", "infra/policy/uv.lock"],
    }


def test_a_lock_that_pins_nothing_is_an_error(repository: Path) -> None:
    (repository / "infra" / "policy" / "uv.lock").write_text(lock(), encoding="utf-8")
    with pytest.raises(audit.CannotAudit, match="pins nothing"):
        audit.pinned(audit.lock_files(repository), repository=repository)


# What is known -----------------------------------------------------------------------------------------------------


def test_both_versions_of_a_package_are_looked_up(make_tool: MakeTool) -> None:
    found = {"id": LEAK.id, "aliases": list(LEAK.aliases), "fix_versions": list(LEAK.fixed_in), "description": "…"}
    tool = make_tool({"requests": {"2.19.1": [found]}})

    findings = audit.ask([NEW, OLD, FLASK], tool=tool)

    assert findings.vulnerabilities == (LEAK,)
    assert list(findings.unknown) == [FLASK]


@pytest.mark.parametrize("noise", ["requests.exceptions.ConnectionError: no route", "Could not connect to PyPI's feed"])
def test_a_database_that_does_not_answer_leaves_everything_unknown(make_tool: MakeTool, noise: str) -> None:
    findings = audit.ask([OLD, FLASK], tool=make_tool({}, noise=noise))

    assert set(findings.unknown) == {OLD, FLASK}
    assert all("does not answer" in why for why in findings.unknown.values())


def test_a_tool_that_fails_by_itself_is_not_a_finding(make_tool: MakeTool) -> None:
    with pytest.raises(audit.CannotAudit, match="TypeError: a bug"):
        audit.ask([OLD], tool=make_tool({}, noise="Traceback\nTypeError: a bug"))


def test_a_tool_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(audit.CannotAudit, match="cannot be run"):
        audit.ask([OLD], tool=tmp_path / "absent")


# What is said ------------------------------------------------------------------------------------------------------


def said(
    findings: Findings, accepted: Mapping[str, Accepted] | None = None, *, strict: bool = False
) -> tuple[str, int]:
    lines, code = audit.report(WHERE, findings, accepted or {}, today=TODAY, strict=strict)
    return "\n".join(lines), code


def test_a_vulnerability_is_told_with_version_fix_and_place() -> None:
    text, code = said(Findings((LEAK,), {}))

    assert code == VULNERABLE
    assert (
        "VULNERABLE: requests 2.19.1: PYSEC-2018-28 (CVE-2018-18074), fixed in 2.20.0; in infra/policy/uv.lock" in text
    )


def test_what_was_not_looked_up_is_counted_and_named() -> None:
    text, code = said(Findings((), {FLASK: "Dependency not found on PyPI and could not be audited: flask (3.1.2)"}))

    assert code == CLEAN
    assert "1 of 2 pinned packages are in the database that this machine reaches" in text
    assert "NOT AUDITED: 1 packages: flask 3.1.2" in text
    assert "because: the database does not have them" in text


def test_an_audit_that_looked_nothing_up_does_not_say_that_nothing_is_known() -> None:
    text, _ = said(Findings((), dict.fromkeys(WHERE, "the database does not answer")))

    assert "0 of 2" in text
    assert "Nothing is known" not in text


def test_a_strict_audit_does_not_pass_with_less_than_everything() -> None:
    assert said(Findings((), {FLASK: "unknown"}), strict=True)[1] == INCOMPLETE
    assert said(Findings((), {}), strict=True)[1] == CLEAN
    assert said(Findings((LEAK,), {FLASK: "unknown"}), strict=True)[1] == VULNERABLE


def test_an_accepted_vulnerability_is_told_and_passes_until_its_day() -> None:
    until = {"CVE-2018-18074": Accepted(TODAY, "only of redirects, which we do not follow")}
    text, code = said(Findings((LEAK,), {}), until)
    assert code == CLEAN
    assert "accepted until 2026-11-26, only of redirects, which we do not follow: requests 2.19.1" in text

    over = {"CVE-2018-18074": Accepted(TODAY - datetime.timedelta(days=1), "no longer")}
    assert said(Findings((LEAK,), {}), over)[1] == VULNERABLE


@pytest.mark.parametrize("text", ["[]", "{", '{"CVE-1": {}}', '{"CVE-1": {"until": "soon", "reason": "x"}}'])
def test_a_list_of_accepted_ones_that_cannot_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "accepted.json").write_text(text, encoding="utf-8")
    with pytest.raises(audit.CannotAudit, match="must be"):
        audit.read_accepted(tmp_path / "accepted.json")


def test_what_the_repository_accepts_can_be_read() -> None:
    assert isinstance(audit.read_accepted(REPOSITORY / "infra" / "audit" / "accepted.json"), dict)


# The whole ---------------------------------------------------------------------------------------------------------


def test_the_command_ends_with_the_code_of_what_it_found(
    repository: Path, make_tool: MakeTool, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--repository", str(repository), "--tool"]
    tool = str(make_tool({"requests": {}, "flask": {}}))
    assert audit.main([*arguments, tool]) == CLEAN
    assert "3 of 3 pinned packages" in capsys.readouterr().out
    assert audit.main([*arguments, str(make_tool({"requests": {}})), "--strict"]) == INCOMPLETE
    assert audit.main([*arguments, str(make_tool({"flask": {"3.1.2": [{"id": "CVE-1"}]}}))]) == VULNERABLE
    assert "CVE-1, no version fixes it yet" in capsys.readouterr().out
    assert audit.main([*arguments, str(make_tool({}, noise="KeyError"))]) == BROKEN
    assert "the audit could not run" in capsys.readouterr().err


class Database(http.server.BaseHTTPRequestHandler):
    """An OSV database with one vulnerability, of requests before 2.20.0."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_old = (asked["package"]["name"], asked["version"]) == ("requests", "2.19.1")
        events = [{"introduced": "0"}, {"fixed": "2.20.0"}]
        package = {"name": "requests", "ecosystem": "PyPI"}
        affected = {"package": package, "ranges": [{"type": "ECOSYSTEM", "events": events}], "versions": ["2.19.1"]}
        found = {"id": LEAK.id, "aliases": list(LEAK.aliases), "details": "leaks", "affected": [affected]}
        found["published"] = "2018-10-09T17:29:00Z"
        body = json.dumps({"vulns": [found]} if is_old else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that it has there
        """Not into the test's output."""


@pytest.fixture
def database() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


@pytest.mark.slow
def test_the_pinned_pip_audit_finds_a_vulnerability_in_a_database(
    repository: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["make", ".venv/.audit"], cwd=REPOSITORY, check=True, capture_output=True)
    arguments = ["--repository", str(repository), "--database", "osv", "--osv-url"]

    assert audit.main([*arguments, database]) == VULNERABLE
    out = capsys.readouterr().out
    assert "3 of 3 pinned packages" in out
    assert "VULNERABLE: requests 2.19.1: PYSEC-2018-28 (CVE-2018-18074), fixed in 2.20.0" in out
    assert "requests 2.34.2" not in out

    assert audit.main([*arguments, "http://127.0.0.1:9/v1/query"]) == CLEAN
    assert "0 of 3 pinned packages" in capsys.readouterr().out
