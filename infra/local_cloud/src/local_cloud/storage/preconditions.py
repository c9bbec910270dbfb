"""Preconditions: what a request demands of the live version before it may read or replace it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import flask
from werkzeug.datastructures import Headers

from local_cloud.storage.errors import NotModified, condition_not_met, invalid


class Versioned(Protocol):
    """What preconditions look at: a stored object or a bucket."""

    @property
    def generation(self) -> int: ...
    @property
    def metageneration(self) -> int: ...
    @property
    def etag(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Preconditions:
    """The demands of one request; a demand that is None was not made.

    A generation of 0 stands for "there is no live version".
    Source: https://cloud.google.com/storage/docs/request-preconditions
    """

    generation_match: int | None = None
    generation_not_match: int | None = None
    metageneration_match: int | None = None
    metageneration_not_match: int | None = None
    etag_match: str | None = None
    etag_not_match: str | None = None

    @classmethod
    def of_request(cls) -> Preconditions:
        """What the query (JSON API) and the headers (XML API, ETags) of the current request demand."""
        query, headers = flask.request.args, flask.request.headers

        def number(parameter: str, header: str) -> int | None:
            value = _integer(query, parameter)
            return _integer(headers, header) if value is None else value

        return cls(
            number("ifGenerationMatch", "x-goog-if-generation-match"),
            _integer(query, "ifGenerationNotMatch"),
            number("ifMetagenerationMatch", "x-goog-if-metageneration-match"),
            _integer(query, "ifMetagenerationNotMatch"),
            headers.get("If-Match"),
            headers.get("If-None-Match"),
        )

    @classmethod
    def of_source(cls) -> Preconditions:
        """What the current request, a copy or a rewrite, demands of its source."""
        query = flask.request.args
        return cls(
            _integer(query, "ifSourceGenerationMatch"),
            _integer(query, "ifSourceGenerationNotMatch"),
            _integer(query, "ifSourceMetagenerationMatch"),
            _integer(query, "ifSourceMetagenerationNotMatch"),
        )

    @classmethod
    def of_stored(cls, stored: Mapping[str, int | str | None]) -> Preconditions:
        """The demands of a resumable upload, as `dataclasses.asdict` wrote them when it began."""
        return cls(**stored)  # type: ignore[arg-type]  # written by asdict of this class

    def check(self, live: Versioned | None, *, reading: bool = False) -> None:
        """Raise ApiError 412, or NotModified for a failed ...NotMatch of a read."""
        generation = live.generation if live else 0
        if self.generation_match is not None and self.generation_match != generation:
            raise condition_not_met()
        if self.metageneration_match is not None and (live is None or self.metageneration_match != live.metageneration):
            raise condition_not_met()
        if self.etag_match is not None and not _has_etag(self.etag_match, live):
            raise condition_not_met()
        if self._excludes(live, generation):
            if reading:
                raise NotModified
            raise condition_not_met()

    def _excludes(self, live: Versioned | None, generation: int) -> bool:
        if self.generation_not_match is not None and self.generation_not_match == generation:
            return True
        if live is None:
            return False
        if self.metageneration_not_match is not None and self.metageneration_not_match == live.metageneration:
            return True
        return self.etag_not_match is not None and _has_etag(self.etag_not_match, live)


def generation_asked(parameter: str = "generation") -> int | None:
    """The version that the current request asks for instead of the live one, or None."""
    return _integer(flask.request.args, parameter)


def _integer(values: Mapping[str, str] | Headers, name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise invalid(f"{name}={text!r} must be an integer", reason="invalidParameter") from None


def _has_etag(wanted: str, live: Versioned | None) -> bool:
    if live is None:
        return False
    tags = {tag.strip().strip('"') for tag in wanted.split(",")}
    return "*" in tags or live.etag in tags
