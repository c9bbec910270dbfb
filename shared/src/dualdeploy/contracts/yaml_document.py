"""YAML as YAML 1.2 reads it (its core schema), for people's own files. PyYAML alone reads YAML 1.1.

There, `on` and `no` are booleans, `010` is eight and `2:00` is 120. Here only true, false and null are words of YAML,
numbers are decimal, and where a text is meant a plain scalar stays as it is written.
Source: https://yaml.org/spec/1.2.2/#103-core-schema
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import pydantic
import yaml

#: What PyYAML lets through: int() and float() of a text that is too long, names that are no characters, deep nesting.
FAULTS = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

_TAG = "tag:yaml.org,2002:"
_CORE = {
    f"{_TAG}null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    f"{_TAG}bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    f"{_TAG}int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    f"{_TAG}float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A plain scalar that can be read as another thing than a text: `text` is how it is written."""

    text: str
    value: bool | int | float | None

    def __repr__(self) -> str:
        return self.text


def load(text: bytes | str) -> Any:
    """Mappings, lists, texts and `Scalar`s of one document. Raises one of `FAULTS`."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as exc:
        raise yaml.YAMLError(f"{exc}; it must be text in UTF-8") from exc
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def as_meant(document: Any, annotation: Any) -> Any:
    """The document for a field of this type: scalars stay as they are written where it takes texts.

    A section (a pydantic model) that stands empty is left out of its mapping, so that its defaults hold.
    """
    if isinstance(document, Scalar):
        return _scalar_as_meant(document, annotation)
    if isinstance(document, Mapping):
        section = _section(annotation)
        if section is None:
            values = _part(annotation, Mapping, 1)
            return {key: as_meant(value, values) for key, value in document.items()}
        kinds = {name: field.annotation for name, field in section.model_fields.items()}
        return {
            key: as_meant(value, kinds.get(key, Any))
            for key, value in document.items()
            if not _is_empty_section(value, kinds.get(key, Any))
        }
    if isinstance(document, list):
        entries = _part(annotation, Sequence, 0)
        return [as_meant(entry, entries) for entry in document]
    return document


def _scalar_as_meant(scalar: Scalar, annotation: Any) -> Any:
    kinds = set(_kinds(annotation))
    if scalar.value is None:
        return scalar.text if kinds and kinds <= {str} else None
    if kinds and kinds <= {str, type(None)}:
        return scalar.text
    # pydantic takes true for 1: a number that is written so would be a guess.
    if isinstance(scalar.value, bool) and kinds & {int, float} and bool not in kinds:
        return scalar.text
    return scalar.value


def _is_empty_section(value: Any, annotation: Any) -> bool:
    """Whether nothing is written where a section may not be absent; `accelerator: null` says that there is none."""
    if value is not None and not (isinstance(value, Scalar) and value.value is None):
        return False
    return _section(annotation) is not None and type(None) not in _kinds(annotation)


def _kinds(annotation: Any) -> list[Any]:
    """The types that a field takes, without their constraints; nothing for a field that takes anything."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for each in get_args(annotation) for kind in _kinds(each)]
    if origin is Literal:
        return [type(each) for each in get_args(annotation)]
    return [] if annotation is Any else [origin or annotation]


def _section(annotation: Any) -> type[pydantic.BaseModel] | None:
    for kind in _kinds(annotation):
        if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
            return kind
    return None


def _part(annotation: Any, container: type, place: int) -> Any:
    """What a list or a mapping of a field holds; Any when the field does not say."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _part(get_args(annotation)[0], container, place)
    if origin in (Union, types.UnionType):
        return next((part for each in get_args(annotation) if (part := _part(each, container, place)) is not Any), Any)
    if isinstance(origin, type) and issubclass(origin, container):
        return get_args(annotation)[place]
    return Any


class _Loader(yaml.BaseLoader):
    """PyYAML's reader and parser; what scalars mean, which keys there are and what is refused is ours."""

    def scan_to_next_token(self) -> None:
        """YAML takes tabs between two tokens, and in brackets before any; PyYAML takes none."""
        super().scan_to_next_token()
        while self.peek() == "\t" and (self.flow_level or not self.allow_simple_key):
            self.forward()
            super().scan_to_next_token()

    def fetch_more_tokens(self) -> Any:
        try:
            return super().fetch_more_tokens()
        except yaml.scanner.ScannerError as exc:
            begins = "*" if exc.context == "while scanning an alias" else self.peek()
            if begins == "\t":
                exc.problem = f"{exc.problem}: lines are indented with spaces"
            elif begins in "*@`%":
                exc.problem = f"{exc.problem}: a text that begins with {begins} must stand in quotes"
            raise

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML has few types
            remedy = "write out what it stands for, or put it in quotes if it is a text"
            _refuse(f"aliases (*{event.anchor}) are not read: {remedy}", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: ARG002
        found: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                _refuse("a key is a list or a mapping, not a word", key_node.start_mark)
            key = str(key_node.value)
            if key == "<<":
                _refuse("merge keys (<<) are not read: write the keys out", key_node.start_mark)
            # PyYAML takes the last of two: which limit counts must not be a guess.
            if key in found:
                _refuse(f"duplicate key {key!r}", key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def construct_a_mapping(self, node: yaml.Node) -> dict[Hashable, Any]:
        if not isinstance(node, yaml.MappingNode):
            _refuse("this is not a mapping", node.start_mark)
        return self.construct_mapping(node)

    def construct_a_list(self, node: yaml.Node) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            _refuse("this is not a list", node.start_mark)
        return list(self.construct_sequence(node, deep=True))

    def construct_a_text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            _refuse("this is not a text", node.start_mark)
        return str(node.value)

    def construct_other_scalar(self, node: yaml.Node) -> Scalar:
        kind, text = node.tag.removeprefix(_TAG), self.construct_a_text(node)
        if not re.fullmatch(_CORE[node.tag][0], text):
            _refuse(f"{text!r} is not a value of type {kind}", node.start_mark)
        return Scalar(text, _VALUES[kind](text))

    def refuse_tag(self, node: yaml.Node) -> NoReturn:
        _refuse(f"the tag {node.tag.replace(_TAG, '!!')} is not read", node.start_mark)


def _refuse(problem: str, mark: yaml.Mark) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, mark)


def _number(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


_VALUES: Mapping[str, Any] = {
    "null": lambda _text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _number,
    # Python writes infinity and "not a number" without the point.
    "float": lambda text: float(text.replace(".", "", 1) if text.lower().endswith(("inf", "nan")) else text),
}

for _tag, (_pattern, _first) in _CORE.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
    _Loader.add_constructor(_tag, _Loader.construct_other_scalar)
_Loader.add_constructor(f"{_TAG}map", _Loader.construct_a_mapping)
_Loader.add_constructor(f"{_TAG}seq", _Loader.construct_a_list)
_Loader.add_constructor(f"{_TAG}str", _Loader.construct_a_text)
_Loader.add_constructor(None, _Loader.refuse_tag)
