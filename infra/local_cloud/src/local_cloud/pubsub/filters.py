"""The subscription filter language, compiled to a predicate over a message's attributes.

    expression := term { "AND" term } | term { "OR" term }
    term       := ( "NOT" | "-" ) term | "(" expression ")" | comparison
    comparison := "attributes" ":" key
                | "attributes" "." key ( "=" | "!=" ) string
                | "hasPrefix" "(" "attributes" "." key "," string ")"
    key        := letters, digits, "_" and "-", or a string
    string     := double quotes, with the escapes of C, \\u and \\U

`!=` also matches a message that lacks the key. AND and OR do not mix without parentheses.
Source: https://cloud.google.com/pubsub/docs/subscription-message-filter
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Predicate = Callable[[Mapping[str, str]], bool]

#: "The maximum length of a filter is 256 bytes." It also bounds how deep parentheses can nest.
MAXIMUM_BYTES = 256

_SPACE = re.compile(r"\s*")
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:x(?P<hex>[0-9A-Fa-f]{2})|u(?P<short>[0-9A-Fa-f]{4})|U(?P<long>[0-9A-Fa-f]{8})"
    r"|(?P<octal>[0-7]{1,3})|(?P<single>[abfnrtv\\'\"?`])|(?P<bad>.))",
    re.DOTALL,
)
_SINGLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORD = re.compile(r'[A-Za-z0-9_]+|"(?:[^"\\]|\\.)*"?|.', re.DOTALL)


class FilterSyntaxError(ValueError):
    """A filter that Pub/Sub refuses; `position` counts characters from 0."""

    def __init__(self, problem: str, text: str, position: int) -> None:
        shown = f"{text[:position]}>>>{text[position:]}"
        super().__init__(f"invalid filter at character {position + 1}: {problem}: {shown}")
        self.position = position


def compile_filter(text: str) -> Predicate:
    """The predicate that `text` stands for; an empty filter matches everything.

    Raises FilterSyntaxError, whose message shows the place with `>>>`.
    """
    if len(text.encode()) > MAXIMUM_BYTES:
        raise FilterSyntaxError(f"a filter has at most {MAXIMUM_BYTES} bytes", text, MAXIMUM_BYTES)
    if not text.strip():
        return lambda _: True
    parser = _Parser(text)
    predicate = parser.expression()
    parser.end()
    return predicate


class _Parser:
    """Recursive descent without a separate lexer: `-` negates a term but is part of a key, so the place decides."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def expression(self) -> Predicate:
        terms = [self._term()]
        joined_by = ""
        while operator := self._word("AND", "OR"):
            if joined_by and operator != joined_by:
                self._position -= len(operator)
                raise self._error("AND and OR together need parentheses")
            joined_by = operator
            terms.append(self._term())
        if len(terms) == 1:
            return terms[0]
        combine = all if joined_by == "AND" else any
        return lambda attributes: combine(term(attributes) for term in terms)

    def end(self) -> None:
        self._skip_space()
        if self._position < len(self._text):
            raise self._error("expected AND, OR or the end of the filter")

    def _term(self) -> Predicate:
        if self._word("NOT") or self._take("-"):
            negated = self._term()
            return lambda attributes: not negated(attributes)
        if self._take("("):
            inner = self.expression()
            self._expect(")")
            return inner
        if self._word("hasPrefix"):
            return self._prefix()
        if self._word("attributes"):
            return self._comparison()
        raise self._error("expected attributes, hasPrefix, NOT, - or (")

    def _prefix(self) -> Predicate:
        self._expect("(")
        if not self._word("attributes"):
            raise self._error("expected attributes")
        self._expect(".")
        key = self._key()
        self._expect(",")
        prefix = self._string()
        self._expect(")")
        return lambda attributes: key in attributes and attributes[key].startswith(prefix)

    def _comparison(self) -> Predicate:
        if self._take(":"):
            key = self._key()
            return lambda attributes: key in attributes
        self._expect(".", "expected . or : after attributes")
        key = self._key()
        if self._take("!="):
            value = self._string()
            return lambda attributes: attributes.get(key) != value
        self._expect("=", "expected = or !=")
        value = self._string()
        return lambda attributes: attributes.get(key) == value

    def _key(self) -> str:
        self._skip_space()
        if self._text.startswith('"', self._position):
            return self._string()
        if not (match := _KEY.match(self._text, self._position)):
            raise self._error("expected an attribute key")
        self._position = match.end()
        return match[0]

    def _string(self) -> str:
        self._skip_space()
        if not (match := _STRING.match(self._text, self._position)):
            raise self._error("expected a string in double quotes")
        value = _ESCAPE.sub(lambda escape: self._unescape(escape, match.start(1)), match[1])
        self._position = match.end()
        return value

    def _unescape(self, escape: re.Match[str], start: int) -> str:
        if single := escape["single"]:
            return _SINGLE.get(single, single)
        code = int(escape["octal"], 8) if escape["octal"] else None
        if digits := escape["hex"] or escape["short"] or escape["long"]:
            code = int(digits, 16)
        # A surrogate is no character: no attribute can hold one, and no file could be written with it.
        if code is None or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self._position = start + escape.start()
            raise self._error(f"unknown escape {escape[0]}")
        return chr(code)

    def _word(self, *words: str) -> str:
        """The one of `words` that stands here as a whole word, consumed, or an empty string."""
        self._skip_space()
        for word in words:
            end = self._position + len(word)
            if self._text.startswith(word, self._position) and not re.match(r"\w", self._text[end : end + 1]):
                self._position = end
                return word
        return ""

    def _take(self, symbol: str) -> bool:
        self._skip_space()
        found = self._text.startswith(symbol, self._position)
        self._position += len(symbol) if found else 0
        return found

    def _expect(self, symbol: str, problem: str = "") -> None:
        if not self._take(symbol):
            raise self._error(problem or f"expected {symbol}")

    def _skip_space(self) -> None:
        self._position = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]  # always matches

    def _error(self, problem: str) -> FilterSyntaxError:
        self._skip_space()
        found = _WORD.match(self._text, self._position)
        if found and found[0].upper() in {"AND", "OR", "NOT"} and found[0] != found[0].upper():
            problem = f"{found[0]} must be written {found[0].upper()}"
        return FilterSyntaxError(f"{problem}, found {found[0] if found else 'the end'}", self._text, self._position)
