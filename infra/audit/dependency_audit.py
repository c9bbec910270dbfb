"""Ask a vulnerability database about every package that is pinned anywhere here (`make audit`), by pip-audit.

pip-audit ends with "no known vulnerabilities" and 0 for a package that the database does not have, and a mirror may
have none. So what was not looked up is counted and named here, and the exit code says which kind of end it was:

| code | means |
|---|---|
| 0 | nothing is known against what could be looked up; how much that is, is said |
| 1 | a vulnerability: name, version, the versions that mend it, and the locks that pin it |
| 2 | the audit itself could not run |
| 3 | with `--strict` only: something could not be looked up |
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]

CLEAN, VULNERABLE, BROKEN, INCOMPLETE = 0, 1, 2, 3

#: What pip-audit says when the database, and not itself, is what fails.
_NO_ANSWER = re.compile(r"Connection(Error|Timeout)|Could not connect|ReadTimeout|not redirecting properly|HTTPError")
_SECONDS = 900.0


class CannotAudit(Exception):
    """The audit itself could not run; the message says what to mend."""


@dataclasses.dataclass(frozen=True, order=True)
class Package:
    """One version of one package, by its normalised name (PEP 503)."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclasses.dataclass(frozen=True, order=True)
class Vulnerability:
    package: Package
    id: str
    aliases: tuple[str, ...] = ()
    fixed_in: tuple[str, ...] = ()

    def names(self) -> set[str]:
        return {self.id, *self.aliases}


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the database said: of `unknown` nothing, each with the reason."""

    vulnerabilities: tuple[Vulnerability, ...]
    unknown: Mapping[Package, str]


@dataclasses.dataclass(frozen=True)
class Accepted:
    """A vulnerability that is known and lived with, until a day, for a reason (`accepted.json`)."""

    until: datetime.date
    reason: str


# What is pinned ----------------------------------------------------------------------------------------------------


def lock_files(repository: Path) -> list[Path]:
    """Every lock of the repository: of the workspace, and of tools that it has no room for."""
    return [repository / "uv.lock", *sorted(repository.glob("infra/*/uv.lock"))]


def pinned(files: Iterable[Path], *, repository: Path) -> dict[Package, list[str]]:
    """Every pinned package with the locks that pin it, whatever it is for; not what is in the repository itself."""
    where: dict[Package, list[str]] = {}
    for file in files:
        packages = tomllib.loads(file.read_text(encoding="utf-8")).get("package", [])
        found = {Package(each["name"], each["version"]) for each in packages if "registry" in each["source"]}
        if not found:
            raise CannotAudit(f"{file} pins nothing: `make lock` writes it")
        for package in found:
            where.setdefault(package, []).append(file.relative_to(repository).as_posix())
    return where


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# What is known -----------------------------------------------------------------------------------------------------


def ask(packages: Iterable[Package], *, tool: Path, options: Sequence[str] = ()) -> Findings:
    """Have pip-audit look up each package. Raises CannotAudit when it, not the database, fails."""
    rounds = _rounds(packages)
    findings = [_ask_once(each, tool=tool, options=options) for each in rounds]
    return Findings(
        tuple(sorted({found for each in findings for found in each.vulnerabilities})),
        {package: why for each in findings for package, why in each.unknown.items()},
    )


def _rounds(packages: Iterable[Package]) -> list[list[Package]]:
    """So that no list has two versions of one package, which pip-audit would take for a conflict."""
    rounds: list[dict[str, Package]] = []
    for package in sorted(packages):
        for taken in rounds:
            if package.name not in taken:
                taken[package.name] = package
                break
        else:
            rounds.append({package.name: package})
    return [list(each.values()) for each in rounds]


def _ask_once(packages: Sequence[Package], *, tool: Path, options: Sequence[str]) -> Findings:
    with tempfile.TemporaryDirectory(prefix="audit-") as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text("".join(f"{each.name}=={each.version}\n" for each in packages), encoding="utf-8")
        command = [str(tool), "--requirement", str(wanted), "--no-deps", "--disable-pip", "--format", "json"]
        command += ["--progress-spinner", "off", *options]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise CannotAudit(f"{tool} cannot be run: {exc}") from exc
    try:
        document = json.loads(ended.stdout)
        return _findings(packages, document["dependencies"])
    except (ValueError, KeyError, TypeError) as exc:
        said = ended.stderr.strip().splitlines()[-1:] or ["nothing"]
        if _NO_ANSWER.search(ended.stderr):
            return Findings((), dict.fromkeys(packages, f"the database does not answer: {said[0][:200]}"))
        raise CannotAudit(f"{tool} ended with {ended.returncode} and said: {said[0][:500]}") from exc


def _findings(packages: Sequence[Package], answers: Iterable[Mapping[str, Any]]) -> Findings:
    asked = {each.name: each for each in packages}
    vulnerabilities: list[Vulnerability] = []
    # Whatever the tool leaves out was not looked up either.
    unknown = dict.fromkeys(packages, "the audit said nothing of it")
    for answer in answers:
        package = asked[_normal(answer["name"])]
        if "skip_reason" in answer:
            unknown[package] = str(answer["skip_reason"])
            continue
        unknown.pop(package, None)
        for found in answer["vulns"]:
            aliases, fixes = tuple(found.get("aliases", ())), tuple(found.get("fix_versions", ()))
            vulnerabilities.append(Vulnerability(package, str(found["id"]), aliases, fixes))
    return Findings(tuple(vulnerabilities), unknown)


# What is lived with ------------------------------------------------------------------------------------------------


def read_accepted(file: Path) -> dict[str, Accepted]:
    """`{"CVE-…": {"until": "2027-01-31", "reason": "…"}}`. Raises CannotAudit."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        accepted = {
            name: Accepted(datetime.date.fromisoformat(each["until"]), str(each["reason"]))
            for name, each in document.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CannotAudit(f'{file} must be {{"CVE-…": {{"until": "2027-01-31", "reason": "…"}}}}: {exc!r}') from exc
    return accepted


def _acceptance(found: Vulnerability, accepted: Mapping[str, Accepted], today: datetime.date) -> Accepted | None:
    known = [accepted[name] for name in sorted(found.names()) if name in accepted]
    return next((each for each in known if each.until >= today), None)


# What is said ------------------------------------------------------------------------------------------------------


def report(
    where: Mapping[Package, Sequence[str]],
    findings: Findings,
    accepted: Mapping[str, Accepted],
    *,
    today: datetime.date,
    strict: bool,
) -> tuple[list[str], int]:
    """The lines to print, and the exit code."""
    looked_up = len(where) - len(findings.unknown)
    lines = [f"{looked_up} of {len(where)} pinned packages are in the database that this machine reaches."]
    if findings.unknown:
        shown = ", ".join(map(str, sorted(findings.unknown)[:10]))
        more = f" and {len(findings.unknown) - 10} more" if len(findings.unknown) > 10 else ""
        lines.append(f"NOT AUDITED: {len(findings.unknown)} packages: {shown}{more}")
        lines += sorted({f"  because: {_reason(why)}" for why in findings.unknown.values()})
    open_ = 0
    for found in findings.vulnerabilities:
        also = f" ({', '.join(found.aliases)})" if found.aliases else ""
        mended = f"fixed in {', '.join(found.fixed_in)}" if found.fixed_in else "no version fixes it yet"
        living = _acceptance(found, accepted, today)
        word = f"accepted until {living.until}, {living.reason}" if living else "VULNERABLE"
        open_ += living is None
        lines.append(f"{word}: {found.package}: {found.id}{also}, {mended}; in {', '.join(where[found.package])}")
    if open_:
        lines.append(f"{open_} vulnerabilities. `make lock UPGRADE=name` raises a version.")
        return lines, VULNERABLE
    if looked_up:
        lines.append(f"Nothing is known against the {looked_up} that were looked up, or it is accepted.")
    return lines, INCOMPLETE if strict and findings.unknown else CLEAN


def _reason(why: str) -> str:
    return "the database does not have them" if "not found on PyPI" in why else why


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make audit", description="Ask a vulnerability database about every pin.")
    tool = Path(sys.executable).with_name("pip-audit")
    parser.add_argument("--tool", type=Path, default=tool, help="the pip-audit to run (default: that of this Python)")
    parser.add_argument("--repository", type=Path, default=REPOSITORY)
    parser.add_argument("--accepted", type=Path, default=Path(__file__).with_name("accepted.json"))
    parser.add_argument("--database", choices=("pypi", "osv"), default="pypi")
    parser.add_argument("--osv-url", default="", help="another address of an OSV database")
    parser.add_argument("--strict", action="store_true", help="end with 3 when something could not be looked up")
    options = parser.parse_args(arguments)
    more = ["--vulnerability-service", options.database, *(["--osv-url", options.osv_url] if options.osv_url else [])]
    try:
        accepted = read_accepted(options.accepted)
        where = pinned(lock_files(options.repository), repository=options.repository)
        findings = ask(where, tool=options.tool, options=more)
    except CannotAudit as exc:
        print(f"the audit could not run: {exc}", file=sys.stderr)
        return BROKEN
    today = datetime.datetime.now(datetime.UTC).date()
    lines, code = report(where, findings, accepted, today=today, strict=options.strict)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
