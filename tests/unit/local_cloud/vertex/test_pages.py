"""Pages of lists: order, size, tokens."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_cloud.api import ApiError
from local_cloud.vertex import pages
from local_cloud.vertex.filters import text_field

LISTING = pages.Listing(
    key="jobs", fields={"name": text_field("name")}, orders={"name": "name", "size": "size"}, newest_first=True
)
APPLICATION = flask.Flask(__name__)


def answer(
    documents: list[tuple[int, dict[str, Any]]], listing: pages.Listing = LISTING, **query: str
) -> dict[str, Any]:
    with APPLICATION.test_request_context(query_string=query):
        return pages.answer(listing, documents)


def numbered(count: int) -> list[tuple[int, dict[str, Any]]]:
    return [(sequence, {"name": f"job-{sequence}", "size": sequence % 2}) for sequence in range(1, count + 1)]


def names(page: dict[str, Any]) -> list[str]:
    return [job["name"] for job in page["jobs"]]


def test_the_newest_comes_first_where_the_list_says_so() -> None:
    assert names(answer(numbered(3))) == ["job-3", "job-2", "job-1"]


def test_an_order_may_have_several_fields_and_directions() -> None:
    page = answer(numbered(4), orderBy="size desc, name")
    assert names(page) == ["job-1", "job-3", "job-2", "job-4"]
    with pytest.raises(ApiError, match="supported fields: name, size"):
        answer(numbered(1), orderBy="weight")


@given(st.integers(0, 30), st.integers(1, 7), st.sampled_from(["", "name", "size desc", "size, name desc"]))
def test_pages_together_are_the_whole_list(count: int, size: int, order: str) -> None:
    documents, seen, query = numbered(count), [], {"pageSize": str(size), "orderBy": order}
    while True:
        page = answer(documents, **query)
        seen += names(page)
        if "nextPageToken" not in page:
            break
        assert len(page["jobs"]) == size
        query["pageToken"] = page["nextPageToken"]
    assert seen == names(answer(documents, orderBy=order))


def test_what_is_created_or_deleted_between_pages_neither_repeats_nor_hides_an_item() -> None:
    first = answer(numbered(4), pageSize="2")
    later = [*numbered(4)[:2], (5, {"name": "job-5", "size": 0})]
    assert names(first) == ["job-4", "job-3"]
    assert names(answer(later, pageSize="2", pageToken=first["nextPageToken"])) == ["job-2", "job-1"]


def test_a_token_of_another_question_is_refused() -> None:
    token = answer(numbered(4), pageSize="2")["nextPageToken"]
    with pytest.raises(ApiError, match="another filter"):
        answer(numbered(4), pageSize="2", pageToken=token, filter='name="job-1"')
    with pytest.raises(ApiError, match="not a token"):
        answer(numbered(4), pageToken="nonsense")


@pytest.mark.parametrize("size", ["-1", "many"])
def test_a_malformed_page_size_is_refused(size: str) -> None:
    with pytest.raises(ApiError, match="page_size"):
        answer(numbered(1), pageSize=size)
