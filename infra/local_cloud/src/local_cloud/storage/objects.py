"""Objects: listing, metadata, deletion, and making new objects out of old ones."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flask

from local_cloud.api import Api
from local_cloud.storage.blobs import OpenBlob
from local_cloud.storage.customer_keys import require_key
from local_cloud.storage.errors import invalid
from local_cloud.storage.preconditions import Preconditions, generation_asked
from local_cloud.storage.records import (
    StoredObject,
    patched_properties,
    require_object_name,
    writable_properties,
)
from local_cloud.storage.state import State
from local_cloud.storage.wire import json_object

#: Google returns at most this many names (objects and prefixes together) in one page.
LARGEST_PAGE = 1000
LARGEST_COMPOSITION = 32

_OBJECT = "/storage/v1/b/<bucket>/o/<name>"


class Objects:
    """The routes of storage.objects.* that carry no media."""

    def __init__(self, api: Api, state: State) -> None:
        self._state = state
        api.operation(
            "storage.objects.list",
            "GET",
            "/storage/v1/b/<bucket>/o",
            differs="live versions only (`versions` and `fields` are ignored)",
        )(self.list)
        api.operation("storage.objects.patch", "PATCH", _OBJECT, differs="holds are kept, not enforced")(self.patch)
        api.operation("storage.objects.update", "PUT", _OBJECT, differs="holds are kept, not enforced")(self.update)
        api.operation("storage.objects.delete", "DELETE", _OBJECT, differs="no soft delete, no versioning")(self.delete)
        api.operation("storage.objects.compose", "POST", f"{_OBJECT}/compose")(self.compose)
        target = "b/<to_bucket>/o/<to_name>"
        api.operation("storage.objects.copy", "POST", f"{_OBJECT}/copyTo/{target}")(self.copy)
        api.operation(
            "storage.objects.rewrite", "POST", f"{_OBJECT}/rewriteTo/{target}", differs="always done in one call"
        )(self.rewrite)

    def list(self, bucket: str) -> Any:
        self._state.bucket(bucket)
        if flask.request.args.get("softDeleted") == "true":
            return {"kind": "storage#objects"}  # nothing is ever soft-deleted here
        listing = Listing.of_query(flask.request.args)
        with self._state.reading():
            items, prefixes, token = listing.page(self._state, bucket)
        document: dict[str, Any] = {"kind": "storage#objects"}
        if items:
            document["items"] = [_resource(stored) for stored in items]
        if prefixes:
            document["prefixes"] = prefixes
        if token:
            document["nextPageToken"] = token
        return document

    def patch(self, bucket: str, name: str) -> Any:
        document = json_object(flask.request.get_data())
        return _resource(
            self._state.change_object(
                bucket,
                name,
                generation_asked(),
                Preconditions.of_request(),
                lambda old: patched_properties(old, document),
            )
        )

    def update(self, bucket: str, name: str) -> Any:
        properties = writable_properties(json_object(flask.request.get_data()))
        return _resource(
            self._state.change_object(
                bucket, name, generation_asked(), Preconditions.of_request(), lambda _old: properties
            )
        )

    def delete(self, bucket: str, name: str) -> Any:
        self._state.delete_object(bucket, name, generation_asked(), Preconditions.of_request())
        return flask.Response(status=204)

    def copy(self, bucket: str, name: str, to_bucket: str, to_name: str) -> Any:
        return _resource(self._copy(bucket, name, to_bucket, to_name))

    def rewrite(self, bucket: str, name: str, to_bucket: str, to_name: str) -> Any:
        stored = self._copy(bucket, name, to_bucket, to_name)
        size = str(stored.content.size)
        return {
            "kind": "storage#rewriteResponse",
            "totalBytesRewritten": size,
            "objectSize": size,
            "done": True,
            "resource": _resource(stored),
        }

    def _copy(self, bucket: str, name: str, to_bucket: str, to_name: str) -> StoredObject:
        require_object_name(to_name)
        written = writable_properties(json_object(flask.request.get_data()))
        preconditions = Preconditions.of_request()
        self._state.require_writable(to_bucket, to_name, preconditions)
        # To copy under another key, or without one, is not played here: who owns the key can write the object anew.
        require_key(self._state.object(bucket, name, generation_asked("sourceGeneration")), flask.request.headers)
        source, content = self._state.duplicate_content(
            bucket, name, generation_asked("sourceGeneration"), Preconditions.of_source()
        )
        # A body replaces the source's metadata as a whole; the content type is the one thing every object has.
        properties = {"contentType": source.properties.get("contentType"), **written} if written else None
        return self._state.put_object(
            to_bucket,
            to_name,
            content,
            properties=source.properties if properties is None else writable_properties(properties),
            preconditions=preconditions,
            component_count=source.component_count,
        )

    def compose(self, bucket: str, name: str) -> Any:
        require_object_name(name)
        document = json_object(flask.request.get_data())
        sources = document.get("sourceObjects")
        if not isinstance(sources, list) or not 1 <= len(sources) <= LARGEST_COMPOSITION:
            raise invalid(f"sourceObjects must be a list of 1 to {LARGEST_COMPOSITION} objects", reason="required")
        preconditions = Preconditions.of_request()
        self._state.require_writable(bucket, name, preconditions)
        opened: list[tuple[StoredObject, OpenBlob]] = []
        try:
            with self._state.reading():
                opened = [self._open_component(bucket, source) for source in sources]
            for stored, _ in opened:
                require_key(stored, flask.request.headers)
            content = self._state.blobs.write(chunk for _, blob in opened for chunk in blob)
        finally:
            for _, blob in opened:
                blob.close()
        return _resource(
            self._state.put_object(
                bucket,
                name,
                # Composed objects have no MD5: https://cloud.google.com/storage/docs/composite-objects
                type(content)(content.blob, content.size, content.crc32c, None),
                properties=self._composed_properties(opened, document.get("destination")),
                preconditions=preconditions,
                component_count=sum(stored.component_count or 1 for stored, _ in opened),
            )
        )

    def _composed_properties(
        self, opened: Iterable[tuple[StoredObject, OpenBlob]], destination: object
    ) -> dict[str, Any]:
        written = writable_properties(destination if isinstance(destination, Mapping) else {})
        first, _ = next(iter(opened))
        return writable_properties({"contentType": first.properties.get("contentType"), **written})

    def _open_component(self, bucket: str, source: object) -> tuple[StoredObject, OpenBlob]:
        if not isinstance(source, Mapping):
            raise invalid("sourceObjects[]: each must be an object with a name")
        generation = source.get("generation")
        wanted = (source.get("objectPreconditions") or {}).get("ifGenerationMatch")
        try:
            return self._state.open_object(
                bucket,
                require_object_name(source.get("name")),
                None if generation is None else int(generation),
                Preconditions(generation_match=None if wanted is None else int(wanted)),
            )
        except (TypeError, ValueError):
            raise invalid(f"sourceObjects[]: generations must be numbers: {dict(source)}") from None


class Listing:
    """One page of names: where it starts, which names it shows, which it folds into prefixes."""

    def __init__(
        self,
        *,
        prefix: str,
        delimiter: str,
        start: str,
        end: str,
        glob: str,
        include_trailing_delimiter: bool,
        page_size: int,
    ) -> None:
        self._prefix = prefix
        self._delimiter = delimiter
        self._start = start
        self._end = end
        self._glob = re.compile(glob_to_regex(glob), re.DOTALL) if glob else None
        self._include_trailing_delimiter = include_trailing_delimiter
        self._page_size = page_size

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> Listing:
        size = query.get("maxResults", str(LARGEST_PAGE))
        if not size.isdigit() or int(size) < 1:
            raise invalid(f"maxResults={size!r} must be a positive number", reason="invalidParameter")
        prefix = query.get("prefix", "")
        start = max(prefix, query.get("startOffset", ""), _name_of_token(query.get("pageToken", "")))
        return cls(
            prefix=prefix,
            delimiter=query.get("delimiter", ""),
            start=start,
            end=query.get("endOffset", ""),
            glob=query.get("matchGlob", ""),
            include_trailing_delimiter=query.get("includeTrailingDelimiter", "").lower() == "true",
            page_size=min(int(size), LARGEST_PAGE),
        )

    def page(self, state: State, bucket: str) -> tuple[list[StoredObject], list[str], str | None]:
        """Objects, prefixes and the token of the next page; objects and prefixes count alike."""
        items: list[StoredObject] = []
        prefixes: list[str] = []
        next_start: str | None = None
        for name, stored in self._entries(state, bucket):
            if len(items) + len(prefixes) == self._page_size:
                return items, prefixes, None if next_start is None else _token_of(next_start)
            if stored is None:
                prefixes.append(name)
                next_start = successor(name)
            else:
                items.append(stored)
                next_start = f"{name}\0"
        return items, prefixes, None

    def _entries(self, state: State, bucket: str) -> Iterator[tuple[str, StoredObject | None]]:
        """Names in order: an object with its record, a folder once and without."""
        start: str | None = self._start
        while start is not None:
            objects, start = state.objects(bucket, start), None
            for stored in objects:
                name = stored.name
                if not name.startswith(self._prefix) or (self._end and name >= self._end):
                    return
                if self._glob is not None and not self._glob.fullmatch(name):
                    continue
                folder = self._folder(name)
                if folder is None or (self._include_trailing_delimiter and name == folder):
                    yield name, stored
                if folder is not None:
                    yield folder, None
                    # One jump over the whole folder instead of a walk through it.
                    start = successor(folder)
                    break

    def _folder(self, name: str) -> str | None:
        if not self._delimiter:
            return None
        found = name.find(self._delimiter, len(self._prefix))
        return None if found < 0 else name[: found + len(self._delimiter)]


def successor(prefix: str) -> str | None:
    """The first string in UTF-8 order behind all that start with `prefix`; None where there is none."""
    for position in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[position]) + 1
        if code == 0xD800:  # surrogates are no characters
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix[:position] + chr(code)
    return None


def glob_to_regex(glob: str) -> str:
    """Cloud Storage's matchGlob as a regular expression.

    `*` and `?` stop at slashes, `**` does not, `[...]` is a class, `{a,b}` an alternative, backslash quotes.
    Source: https://cloud.google.com/storage/docs/json_api/v1/objects/list#list-objects-and-prefixes-using-glob
    """
    parts: list[str] = []
    position, depth = 0, 0
    while position < len(glob):
        rest, character = glob[position:], glob[position]
        position += 1
        if rest.startswith("**"):
            parts.append(".*")
            position += 1
        elif character in _GLOB_PARTS and (character != "," or depth) and (character != "}" or depth):
            depth += {"{": 1, "}": -1}.get(character, 0)
            parts.append(_GLOB_PARTS[character])
        elif character == "[" and (class_match := re.match(r"\[[!^]?\]?[^\]]*\]", rest)):
            body = class_match.group()[1:-1]
            negated = body[:1] in {"!", "^"}
            members = re.sub(r"([\\\]\[&~|^])", r"\\\1", body[1:] if negated else body)
            parts.append(f"[{'^/' if negated else ''}{members}]")
            position += len(class_match.group()) - 1
        elif character == "\\" and position < len(glob):
            parts.append(re.escape(glob[position]))
            position += 1
        else:
            parts.append(re.escape(character))
    if depth:
        raise invalid(f"matchGlob={glob!r}: a brace is not closed", reason="invalidParameter")
    return "".join(parts)


_GLOB_PARTS = {"*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"}


def _token_of(start: str) -> str:
    return base64.urlsafe_b64encode(start.encode()).decode()


def _name_of_token(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise invalid(f"pageToken={token!r} is not one that a listing gave", reason="invalidParameter") from None


def _resource(stored: StoredObject) -> dict[str, Any]:
    return stored.resource(flask.request.host_url.rstrip("/"))
