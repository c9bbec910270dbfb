"""No file of the repository holds a secret: keys and tokens by their looks, and whatever random is assigned to a word
that means one.

Patterns of our own, because detect-secrets 1.5.0, the best known of its kind, has none for Google's API keys, OAuth
tokens and service accounts, which are what could get in here, and takes 23 s for this repository (this: about four).
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import math
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

#: Folders that are made, not written; only looked at where there is no git to ask.
_MADE = {".git", ".venv", "build", "__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}

PATTERNS = {
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "service account's key": r'"private_key(?:_id)?"\s*:\s*"(?:[0-9a-f]{40}"|-----BEGIN)',
    "Google API key": r"(?<![\w-])AIza[\w-]{35}(?![\w-])",
    "Google OAuth access token": r"(?<![\w.])ya29\.[\w-]{30,}",
    "Google OAuth refresh token": r"(?<![\w/])1//0[\w-]{38,}",
    "Google OAuth client secret": r"(?<![\w-])GOCSPX-[\w-]{28}(?![\w-])",
    "AWS access key": r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])",
    "GitHub token": r"(?<!\w)(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,})",
    "GitLab token": r"(?<!\w)glpat-[\w-]{20}",
    "PyPI or npm token": r"(?<!\w)(?:pypi-AgEI[\w-]{50,}|npm_[A-Za-z0-9]{36})",
    "Slack token": r"(?<!\w)xox[abprs]-\d+-[\w-]{20,}",
    "signed token": r"(?<!\w)eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{40,}",
    "password in an address": r"\b[a-z][a-z+]{2,}://[^\s/:@'\"<>{}$]+:[^\s/:@'\"<>{}$]{6,}@[\w.-]+",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in PATTERNS.items()}

#: A word that means a secret, and what is assigned to it as a quoted text without spaces.
_ASSIGNED = re.compile(
    r"""(?i)(?:secret|token|passw(?:or)?d|passphrase|api_?key|private_?key|credential|signing_?key)\w*["']?\s*"""
    r"""(?::\s*\w+\s*)?[:=]\s*[bruf]{0,2}["']([A-Za-z0-9+/=_.~-]{20,})["']"""
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{60,}={0,2}")

#: What only looks like a secret, by file and finding, each with its reason; it has to be there still.
ALLOWED: dict[tuple[str, str], str] = {}


def files() -> list[Path]:
    """Every file that is tracked, or would be: a secret shall be found before it is committed."""
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, check=True).stdout.decode().split("\0")
        found = [REPOSITORY / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        found = [path for path in REPOSITORY.rglob("*") if not _MADE & set(path.relative_to(REPOSITORY).parts)]
    return sorted(path for path in set(found) if path.is_file())


def findings(data: bytes) -> Iterator[tuple[str, str]]:
    """What a file holds that looks like a secret: its kind, and the beginning of it (a log shall not have the rest)."""
    text = data.decode("utf-8", errors="replace")
    for found in (text, *_decoded(text)):
        for name, pattern in _PATTERNS.items():
            yield from ((name, match[0][:12]) for match in pattern.finditer(found))
        for match in _ASSIGNED.finditer(found):
            if is_random(match[1]):
                yield "something random", match[1][:4]


def _decoded(text: str) -> Iterator[str]:
    """What stands in base64 in it, as in the payload of a message."""
    for match in _BASE64.finditer(text):
        try:
            yield base64.b64decode(match[0] + "=" * (-len(match[0]) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue


def is_random(text: str) -> bool:
    """Whether somebody's machine made it up: with digits, and more bits for each letter than words and names have."""
    least = 3.0 if re.fullmatch("[0-9a-f]+|[0-9A-F]+", text) else 3.9
    return any(letter.isdigit() for letter in text) and bits(text) >= least


def bits(text: str) -> float:
    """Shannon's entropy of a text's letters, in bits for each."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


@functools.cache
def found_in_the_repository() -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for path in files():
        for kind, beginning in findings(path.read_bytes()):
            found.setdefault((path.relative_to(REPOSITORY).as_posix(), kind), []).append(f"{beginning}…")
    return found


def test_no_file_holds_a_secret() -> None:
    surplus = {place: what for place, what in found_in_the_repository().items() if place not in ALLOWED}

    assert surplus == {}, "take it out, and have it revoked: whoever can read the history has it"


def test_every_exception_is_still_needed() -> None:
    assert set(ALLOWED) <= set(found_in_the_repository())


def test_the_whole_repository_is_looked_at() -> None:
    names = {path.relative_to(REPOSITORY).as_posix() for path in files()}

    assert {"Makefile", "README.md", "infra/topology.json", ".ci/run", "tests/unit/test_no_secrets.py"} <= names
    assert len(names) > 500
    assert not any(name.startswith((".venv/", "build/")) for name in names)


# The test of the test: planted secrets, put together here so that this file has none ---------------------------------

_RANDOM = "q7Zt3Xw9Lk2Vb8Nm4Rc6Yp1Hs5Dg0JfA"
_KEY = "-----BEGIN " + "PRIVATE KEY-----"
PLANTED = {
    "private key": _KEY,
    "private key of RSA": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "private key of a person": "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----",
    "service account's key": json.dumps({"private_key_id": "0123456789abcdef" * 2 + "01234567"}),
    "Google API key": "AIza" + "SyA-1234567890_abcdefghijklmnopqrst",
    "Google OAuth access token": "ya29." + _RANDOM,
    "Google OAuth refresh token": "1//0" + _RANDOM + "abcdefgh",
    "Google OAuth client secret": "GOCSPX-" + _RANDOM[:28],
    "AWS access key": "AKIA" + "IOSFODNN7ABCDEFG",
    "GitHub token": "ghp_" + _RANDOM + "abcd",
    "GitLab token": "glpat-" + _RANDOM[:20],
    "PyPI or npm token": "npm_" + _RANDOM + "abcd",
    "Slack token": "xoxb-" + "123456789012-" + _RANDOM,
    "signed token": "eyJhbGciOiJSUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0." + _RANDOM * 2,
    "password in an address": "https://somebody:" + "hunter2hunter2@example.com/simple",
    "assigned": 'password = "' + _RANDOM + '"',
    "assigned in JSON": json.dumps({"api_key": _RANDOM}),
    "assigned in YAML": "signing_key: '" + _RANDOM + "'",
    "assigned in hex": 'secret = "' + "0f1e2d3c4b5a69788796a5b4c3d2e1f0" + '"',
    "assigned with a type": 'ACCESS_TOKEN: str = "' + _RANDOM + '"',
}


@pytest.mark.parametrize("secret", PLANTED.values(), ids=PLANTED)
def test_a_planted_secret_is_found(secret: str) -> None:
    assert list(findings(f"before\n    x = 1; {secret}\nafter\n".encode()))


def test_every_pattern_has_a_planted_secret() -> None:
    kinds = {kind for secret in PLANTED.values() for kind, _ in findings(secret.encode())}

    assert kinds == {*PATTERNS, "something random"}


def test_a_planted_secret_is_found_in_base64_and_among_bytes() -> None:
    key = PLANTED["Google API key"]
    message = base64.b64encode(json.dumps({"note": "a message that is long enough", "key": key}).encode())

    assert list(findings(b'{"data": "' + message + b'"}'))
    assert list(findings(b"\x89PNG\r\n\x1a\n\0\xff" + _KEY.encode() + b"\0\xfe"))


def test_a_log_has_no_more_of_a_secret_than_tells_which_it_is() -> None:
    assert all(len(beginning) <= 12 for secret in PLANTED.values() for _, beginning in findings(secret.encode()))


@pytest.mark.parametrize(
    "text",
    [
        "requests==2.34.2 --hash=sha256:59bb03251907983d1603d27c3087ddb1e93299ea2163adcdba37899a4fb12ffb",
        'token = "SIGNATURE_REMOVED_BY_GOOGLE"',
        'PRIVATE_KEY_FILE = "/secrets/key"',
        'password = os.environ["PASSWORD_OF_THE_DATABASE"]',
        'credential_uri = "gs://bucket/folder/firebase-admin.json"',
        "https://example.com:8443/a@b",
        "AIzaShort",
    ],
)
def test_what_is_not_a_secret_is_not_found(text: str) -> None:
    assert list(findings(text.encode())) == []
