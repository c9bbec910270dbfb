"""List filters: the part of AIP-160 that Vertex AI documents for its list methods.

`labels.k=v`, `labels."k-1"="v"`, `labels.k:*`, `labels:k`, `state="JOB_STATE_RUNNING"`,
`display_name:"my_job_*"`, `create_time>"2026-11-22T00:00:00Z"`, with AND, OR, NOT and parentheses.
As in AIP-160, OR binds tighter than AND, and AND may be left out.
"""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any

from local_cloud.vertex.errors import invalid_argument

Document = Mapping[str, Any]
Predicate = Callable[[Document], bool]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<comparator><=|>=|!=|=|<|>|:)
      | (?P<punctuation>[().])
      | (?P<word>[^\s"'()=<>!:.]+)
    )""",
    re.VERBOSE,
)
_ORDERINGS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


@dataclasses.dataclass(frozen=True)
class Field:
    """How one filterable field is read and which comparators Google documents for it."""

    read: Callable[[Document], Any]
    comparators: frozenset[str]
    kind: str = "text"


def text_field(key: str, comparators: str = "= !=") -> Field:
    return Field(lambda document: document.get(key, ""), frozenset(comparators.split()))


def time_field(key: str) -> Field:
    return Field(lambda document: _moment(document[key]), frozenset(_ORDERINGS), "time")


def id_field() -> Field:
    """The last segment of the resource name."""
    return Field(lambda document: document["name"].rsplit("/", 1)[-1], frozenset({"=", "!="}))


def labels_field() -> Field:
    return Field(lambda document: document.get("labels", {}), frozenset({"=", "!=", ":"}), "map")


def tags_field(key: str) -> Field:
    """A repeated field: `:` asks whether it holds the value."""
    return Field(lambda document: document.get(key, []), frozenset({":"}), "repeated")


def enum_field(key: str, values: frozenset[str]) -> Field:
    return Field(lambda document: document.get(key, ""), frozenset({"=", "!="}), "enum:" + ",".join(sorted(values)))


def compile_filter(text: str | None, fields: Mapping[str, Field]) -> Predicate:
    """The predicate that `text` describes; an empty text matches everything.

    Raises:
        ApiError: 400 INVALID_ARGUMENT, naming what cannot be understood.
    """
    if not text or not text.strip():
        return lambda _: True
    return _Parser(text, fields).parse()


class _Parser:
    """Recursive descent over AIP-160's grammar: expression, sequence, factor, term."""

    def __init__(self, text: str, fields: Mapping[str, Field]) -> None:
        self._text = text
        self._fields = fields
        self._tokens = list(self._tokenize(text))
        self._at = 0

    def parse(self) -> Predicate:
        predicate = self._expression()
        if self._at < len(self._tokens):
            raise self._invalid(f"unexpected {self._tokens[self._at][1]!r}")
        return predicate

    def _expression(self) -> Predicate:
        parts = [self._factor()]
        while self._at < len(self._tokens) and not self._is_next("punctuation", ")"):
            self._take_word("AND")
            parts.append(self._factor())
        return lambda document: all(part(document) for part in parts)

    def _factor(self) -> Predicate:
        parts = [self._term()]
        while self._take_word("OR"):
            parts.append(self._term())
        return lambda document: any(part(document) for part in parts)

    def _term(self) -> Predicate:
        if self._take_word("NOT"):
            negated = self._term()
            return lambda document: not negated(document)
        if self._is_next("punctuation", "("):
            self._at += 1
            inner = self._expression()
            self._expect("punctuation", ")")
            return inner
        return self._comparison()

    def _comparison(self) -> Predicate:
        name, key = self._member()
        field = self._fields.get(_snake_case(name))
        if field is None:
            raise self._invalid(f"unknown field {name!r}; known: {', '.join(sorted(self._fields))}")
        comparator = self._expect("comparator")
        value = self._value()
        if comparator not in field.comparators:
            raise self._invalid(f"{name} does not support {comparator!r}")
        if field.kind == "map":
            return self._map_comparison(field, key, comparator, value)
        if key is not None:
            raise self._invalid(f"{name} has no members")
        return self._plain_comparison(field, name, comparator, value)

    def _map_comparison(self, field: Field, key: str | None, comparator: str, value: str) -> Predicate:
        if key is None:
            if comparator != ":":
                raise self._invalid("write labels.key=value or labels:key")
            return lambda document: value in field.read(document)
        if comparator == ":" and value == "*":
            return lambda document: key in field.read(document)
        if comparator == "!=":
            return lambda document: field.read(document).get(key) != value
        return lambda document: field.read(document).get(key) == value

    def _plain_comparison(self, field: Field, name: str, comparator: str, value: str) -> Predicate:
        if field.kind == "repeated":
            return lambda document: value in field.read(document)
        if comparator == ":":
            return lambda document: fnmatch.fnmatchcase(field.read(document), value)
        if field.kind.startswith("enum:") and value not in field.kind.removeprefix("enum:").split(","):
            raise self._invalid(f"{value!r} is not a value of {name}")
        compare = _ORDERINGS[comparator]
        expected = self._expected(field, value)
        return lambda document: compare(field.read(document), expected)

    def _expected(self, field: Field, value: str) -> Any:
        if field.kind != "time":
            return value
        try:
            return _moment(value)
        except ValueError:
            raise self._invalid(f"{value!r} is not an RFC 3339 time") from None

    def _member(self) -> tuple[str, str | None]:
        name = self._expect("word")
        if not self._is_next("punctuation", "."):
            return name, None
        self._at += 1
        kind, text = self._next()
        if kind == "string":
            return name, _unquoted(text)
        # A hyphen is an operator of the filter language: Google wants such keys quoted.
        if kind != "word" or "-" in text:
            raise self._invalid(f'write {name}."{text}" with quotes')
        return name, text

    def _value(self) -> str:
        kind, text = self._next()
        if kind == "string":
            return _unquoted(text)
        if kind != "word":
            raise self._invalid(f"expected a value, got {text!r}")
        while self._is_next("punctuation", "."):
            self._at += 1
            text += "." + self._expect("word")
        return text

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise self._invalid("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, kind: str, text: str | None = None) -> str:
        found_kind, found = self._next()
        if found_kind != kind or (text is not None and found != text):
            raise self._invalid(f"expected {text or kind}, got {found!r}")
        return found

    def _is_next(self, kind: str, text: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at] == (kind, text)

    def _take_word(self, word: str) -> bool:
        taken = self._is_next("word", word)
        self._at += taken
        return taken

    def _tokenize(self, text: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        while text[at:].strip():
            matched = _TOKEN.match(text, at)
            if matched is None or matched.lastgroup is None:
                raise self._invalid(f"cannot read {text[at:].strip()!r}")
            tokens.append((matched.lastgroup, matched[matched.lastgroup]))
            at = matched.end()
        return tokens

    def _invalid(self, why: str) -> Exception:
        return invalid_argument(f"Invalid filter {self._text!r}: {why}.")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _snake_case(name: str) -> str:
    """Google accepts both spellings of a field name in filters."""
    return re.sub(r"(?<=[a-z])([A-Z])", lambda matched: "_" + matched[1].lower(), name)


def _moment(text: str) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
