"""The filter language: its grammar, its meaning, and what a refused filter tells."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_cloud.pubsub.filters import MAXIMUM_BYTES, FilterSyntaxError, compile_filter
from support.nested import nested

# A tree is ("has", key), ("equals" | "differs" | "prefix", key, value), ("not", tree) or ("and" | "or", [trees]).

_KEYS = st.sampled_from(["a", "b-1", "ce-type", "_x", "iana.org/tag", 'quo"te', "AND", "é"])
_VALUES = st.sampled_from(["", "x", "xy", 'say "hi"', "back\\slash", "tab\t", "ü"])
_LEAVES = st.one_of(
    st.tuples(st.just("has"), _KEYS),
    st.tuples(st.sampled_from(["equals", "differs", "prefix"]), _KEYS, _VALUES),
)
_TREES = nested(
    _LEAVES,
    lambda trees: st.one_of(
        st.tuples(st.just("not"), trees),
        st.tuples(st.sampled_from(["and", "or"]), st.lists(trees, min_size=2, max_size=3)),
    ),
)
_ATTRIBUTES = st.dictionaries(_KEYS, _VALUES)


def _quoted(text):
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    return f'"{escaped}"'


def _key(key):
    plain = set(string.ascii_letters + string.digits + "-_")
    return key if set(key) <= plain else _quoted(key)


def _rendered(tree, negation, space):
    kind, rest = tree[0], tree[1:]
    if kind == "has":
        return f"attributes{space}:{space}{_key(rest[0])}"
    if kind == "prefix":
        return f"hasPrefix({space}attributes.{_key(rest[0])}{space},{space}{_quoted(rest[1])})"
    if kind in {"equals", "differs"}:
        operator = "=" if kind == "equals" else "!="
        return f"attributes.{_key(rest[0])}{space}{operator}{space}{_quoted(rest[1])}"
    if kind == "not":
        return f"{negation}({_rendered(rest[0], negation, space)})"
    return f" {kind.upper()} ".join(f"({_rendered(part, negation, space)})" for part in rest[0])


def _evaluated(tree, attributes):
    kind, rest = tree[0], tree[1:]
    if kind == "has":
        return rest[0] in attributes
    if kind == "prefix":
        return rest[0] in attributes and attributes[rest[0]].startswith(rest[1])
    if kind == "equals":
        return attributes.get(rest[0]) == rest[1]
    if kind == "differs":
        return attributes.get(rest[0]) != rest[1]
    if kind == "not":
        return not _evaluated(rest[0], attributes)
    results = [_evaluated(part, attributes) for part in rest[0]]
    return all(results) if kind == "and" else any(results)


@given(
    _TREES,
    st.lists(_ATTRIBUTES, min_size=1, max_size=5),
    st.sampled_from(["NOT ", "-", "NOT"]),
    st.sampled_from(["", " ", "\n  "]),
)
def test_a_rendered_expression_means_what_its_tree_means(tree, samples, negation, space):
    text = _rendered(tree, negation, space)
    if len(text.encode()) > MAXIMUM_BYTES:
        with pytest.raises(FilterSyntaxError):
            compile_filter(text)
        return
    matches = compile_filter(text)
    for attributes in samples:
        assert matches(attributes) == _evaluated(tree, attributes), text


def _refusal(text):
    """The error that `text` is refused with, or None; any other exception is a bug of the compiler."""
    try:
        compile_filter(text)
    except FilterSyntaxError as error:
        return error
    return None


@given(st.text(max_size=60))
def test_any_text_is_compiled_or_refused_with_a_position_inside_it(text):
    refusal = _refusal(text)
    if refusal:
        assert 0 <= refusal.position <= max(len(text), MAXIMUM_BYTES)
    else:
        assert compile_filter(text)({}) in {True, False}


_TOKENS = ["attributes", ".", ":", "a", "=", "!=", '"v"', "AND", "OR", "NOT", "-", "(", ")", "hasPrefix", ","]


@given(st.lists(st.sampled_from(_TOKENS), max_size=20))
def test_tokens_in_any_order_never_end_in_another_error(tokens):
    refusal = _refusal(" ".join(tokens))
    assert refusal is None or ">>>" in str(refusal)


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [
        ("", {}, None),
        ("attributes:a", {"a": ""}, {"b": "a"}),
        ('attributes.a = "x"', {"a": "x"}, {"a": "X"}),
        ('attributes.a != "x"', {"a": "y"}, {"a": "x"}),
        ('hasPrefix(attributes.a, "x")', {"a": "xy"}, {"a": "yx"}),
        ('hasPrefix(attributes.a, "")', {"a": ""}, {}),
        ("NOT attributes:a", {}, {"a": "x"}),
        ("-attributes:a", {}, {"a": "x"}),
        ("NOT NOT attributes:a", {"a": "x"}, {}),
        ("NOT attributes:a AND attributes:b", {"b": "x"}, {}),
        ("attributes:a AND attributes:b AND attributes:c", {"a": "", "b": "", "c": ""}, {"a": "", "b": ""}),
        ("attributes:a OR attributes:b OR attributes:c", {"c": ""}, {"d": ""}),
        ("(attributes:a OR attributes:b) AND attributes:c", {"b": "", "c": ""}, {"a": ""}),
        ('attributes:"iana.org/language_tag"', {"iana.org/language_tag": "en"}, {"iana": ""}),
        ('attributes.ce-type="x"', {"ce-type": "x"}, {"ce": "x"}),
        (r'attributes.a = "\x41\u00e9\U0001F33C\101\n"', {"a": "Aé🌼A\n"}, {"a": "A"}),
        ("  attributes : a\n", {"a": ""}, {}),
    ],
)
def test_what_a_filter_matches(text, matching, other):
    matches = compile_filter(text)
    assert matches(matching)
    if other is not None:
        assert not matches(other)


def test_unequal_matches_a_message_without_the_key():
    assert compile_filter('attributes.a != "x"')({})


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ('attributes.a = "b" AND attributes:c OR attributes:d', 36, "parentheses"),
        ('attributes.a = "b" OR attributes:c AND attributes:d', 35, "parentheses"),
        ("attributes.a = b", 15, "string in double quotes"),
        ("attributes.a = 'b'", 15, "string in double quotes"),
        ('attributes.a = "b', 15, "string in double quotes"),
        ('attributes.a > "b"', 13, "expected = or !="),
        ('attributes.a = "b" attributes:c', 19, "expected AND, OR"),
        ("attributes:a and attributes:b", 13, "must be written AND"),
        ("not attributes:a", 0, "must be written NOT"),
        ("attributes", 10, "found the end"),
        ("attributes:", 11, "attribute key"),
        ("(attributes:a", 13, "expected )"),
        ("attributes:a)", 12, "expected AND, OR or the end"),
        ("()", 1, "expected attributes"),
        ('data = "x"', 0, "expected attributes"),
        ('hasPrefix(attributes:a, "x")', 20, "expected ."),
        ("hasPrefix(attributes.a)", 22, "expected ,"),
        ('hasSuffix(attributes.a, "x")', 0, "expected attributes"),
        (r'attributes.a = "\q"', 16, r"unknown escape \q"),
        (r'attributes.a = "\uD800"', 16, "unknown escape"),
        ("attributes:a AND", 16, "found the end"),
        ("AND attributes:a", 0, "expected attributes"),
    ],
)
def test_a_refused_filter_points_at_the_place(text, position, problem):
    with pytest.raises(FilterSyntaxError, match=f"character {position + 1}: ") as refused:
        compile_filter(text)
    assert refused.value.position == position
    assert problem in str(refused.value)
    assert f"{text[:position]}>>>{text[position:]}" in str(refused.value)


def test_a_filter_has_at_most_256_bytes():
    value = "v" * (MAXIMUM_BYTES - len('attributes.a=""'))
    assert compile_filter(f'attributes.a="{value}"')({"a": value})
    with pytest.raises(FilterSyntaxError, match="256 bytes"):
        compile_filter(f'attributes.a="{value}v"')


@pytest.mark.parametrize("text", ["(" * 256, "-" * 256, "NOT " * 64])
def test_the_deepest_unfinished_nesting_is_refused_at_its_end(text):
    assert _refusal(text).position == len(text)


def test_the_deepest_nesting_is_compiled():
    assert compile_filter("(" * 120 + "attributes:a" + ")" * 120)({"a": "x"})
