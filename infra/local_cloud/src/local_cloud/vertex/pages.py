"""List requests: filter, order and page, as every list method of Google's APIs offers them."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import flask

from local_cloud.vertex.errors import invalid_argument
from local_cloud.vertex.filters import Field, compile_filter

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Listing:
    """What one list method offers: its fields, its orders, and how large a page may be."""

    key: str
    fields: Mapping[str, Field]
    orders: Mapping[str, str] = dataclasses.field(default_factory=dict)
    newest_first: bool = False
    largest_page: int = 1000
    default_page: int = 100


def answer(listing: Listing, documents: Iterable[tuple[int, Document]]) -> Document:
    """The page of `documents` (sequence, resource) that the current request asks for.

    A token remembers the sort key of the last item, not an offset: what is created or deleted between two
    pages neither repeats nor hides an item that was there all along.
    """
    arguments = flask.request.args
    chosen = compile_filter(arguments.get("filter"), listing.fields)
    order = _order(listing, _argument("orderBy", "order_by"))
    question = _digest(arguments.get("filter"), _argument("orderBy", "order_by"))
    keyed = sorted(
        ((_SortKey(order, document, sequence), document) for sequence, document in documents if chosen(document)),
        key=lambda pair: pair[0],
    )
    after = _read_token(_argument("pageToken", "page_token"), question, order)
    rest = [pair for pair in keyed if after is None or after < pair[0]]
    size = _page_size(listing)
    page: Document = {listing.key: [document for _, document in rest[:size]]}
    if len(rest) > size:
        page["nextPageToken"] = _write_token(question, rest[size - 1][0])
    return page


@functools.total_ordering
class _SortKey:
    """The values a document is ordered by; the sequence number breaks ties, so no two keys are equal."""

    def __init__(self, order: list[tuple[str, bool]], document: Document | None, sequence: int) -> None:
        self.order = order
        self.sequence = sequence
        self.values = [document.get(field, "") for field, _ in order if field] if document else []

    def __lt__(self, other: _SortKey) -> bool:
        return self._compare(other) < 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SortKey) and self._compare(other) == 0

    __hash__ = None  # type: ignore[assignment]  # ordered only, never a key of a map

    def _compare(self, other: _SortKey) -> int:
        mine, theirs = [*self.values, self.sequence], [*other.values, other.sequence]
        for (_, descending), left, right in zip(self.order, mine, theirs, strict=True):
            if left != right:
                return (1 if left > right else -1) * (-1 if descending else 1)
        return 0


def _order(listing: Listing, text: str | None) -> list[tuple[str, bool]]:
    """(document key, descending) pairs; the last, without a key, is the order of creation."""
    pairs = []
    for part in filter(None, (text or "").split(",")):
        matched = re.fullmatch(r"\s*(\w+)(?:\s+(asc|desc))?\s*", part)
        if matched is None or matched[1] not in listing.orders:
            known = ", ".join(sorted(listing.orders)) or "none"
            raise invalid_argument(f"Invalid order_by {text!r}: supported fields: {known}.")
        pairs.append((listing.orders[matched[1]], matched[2] == "desc"))
    return [*pairs, ("", listing.newest_first)]


def _page_size(listing: Listing) -> int:
    text = _argument("pageSize", "page_size")
    try:
        size = int(text or 0)
    except ValueError:
        raise invalid_argument(f"page_size must be a number, got {text!r}.") from None
    if size < 0:
        raise invalid_argument(f"page_size must not be negative, got {size}.")
    return min(size, listing.largest_page) if size else listing.default_page


def _argument(*spellings: str) -> str | None:
    return next((flask.request.args[name] for name in spellings if name in flask.request.args), None)


def _digest(*parts: str | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _write_token(question: str, key: _SortKey) -> str:
    return base64.urlsafe_b64encode(json.dumps([question, key.values, key.sequence]).encode()).decode()


def _read_token(token: str | None, question: str, order: list[tuple[str, bool]]) -> _SortKey | None:
    if not token:
        return None
    try:
        asked, values, sequence = json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, binascii.Error):
        raise invalid_argument("page_token is not a token of this list method.") from None
    if asked != question:
        raise invalid_argument("page_token belongs to a request with another filter or order_by.")
    key = _SortKey(order, None, sequence)
    key.values = values
    return key
