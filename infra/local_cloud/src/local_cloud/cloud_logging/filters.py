"""Cloud Logging's query language, as far as our sinks use it.

Comparisons (`=`, `!=`, `=~`, `!~`) of a field with a quoted text, joined by AND (a new line is one), OR and brackets.
Source: https://docs.cloud.google.com/logging/docs/view/logging-query-language
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from local_cloud.api import ApiError

Entry = Mapping[str, Any]
Test = Callable[[Entry], bool]

_TOKEN = re.compile(r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign>=~|!~|!=|=|\(|\))|(?P<word>[\w.]+))')


def compile_filter(text: str) -> Test:
    """Whether an entry is let through. An empty filter lets everything through. Raises ApiError INVALID_ARGUMENT."""
    reader = _Reader(_tokens(text))
    if not reader.left():
        return lambda _entry: True
    test = reader.any_of()
    if reader.left():
        raise _invalid(f"unexpected {reader.take()!r}")
    return test


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise _invalid(f"cannot be read from {text[at : at + 20]!r} on")
        tokens.append(match[match.lastgroup or 0])
        at = match.end()
    return tokens


class _Reader:
    """OR binds less than AND, and AND may be left out."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens

    def left(self) -> bool:
        return bool(self._tokens)

    def take(self, wanted: str = "") -> str:
        if not self._tokens or (wanted and self._tokens[0] != wanted):
            raise _invalid(f"{wanted or 'something'} is missing at the end or before {self._tokens[:1]}")
        return self._tokens.pop(0)

    def any_of(self) -> Test:
        tests = [self._all_of()]
        while self._tokens[:1] == ["OR"]:
            self.take()
            tests.append(self._all_of())
        return lambda entry: any(test(entry) for test in tests)

    def _all_of(self) -> Test:
        tests = [self._one()]
        while self._tokens and self._tokens[0] not in ("OR", ")"):
            if self._tokens[0] == "AND":
                self.take()
            tests.append(self._one())
        return lambda entry: all(test(entry) for test in tests)

    def _one(self) -> Test:
        if self._tokens[:1] == ["("]:
            self.take()
            inner = self.any_of()
            self.take(")")
            return inner
        field, sign, value = self.take(), self.take(), self.take()
        if sign not in _SIGNS or not value.startswith('"'):
            raise _invalid(f"{field} {sign} {value} is not a comparison with a quoted text")
        wanted = value[1:-1].replace('\\"', '"')
        compare = _SIGNS[sign]
        return lambda entry: compare(_value(entry, field), wanted)


_SIGNS: Mapping[str, Callable[[str, str], bool]] = {
    "=": lambda there, wanted: there == wanted,
    "!=": lambda there, wanted: there != wanted,
    "=~": lambda there, wanted: bool(re.search(wanted, there)),
    "!~": lambda there, wanted: not re.search(wanted, there),
}


def _value(entry: Entry, field: str) -> str:
    value: Any = entry
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)


def _invalid(what: str) -> ApiError:
    return ApiError(400, "INVALID_ARGUMENT", f"Unparseable filter: {what}.")
