"""Import files of image data sets: which pictures they name, with which label and in which set.

Source: "Prepare image training data for classification" and ImportDataConfig of the API.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from local_cloud.api import ApiError
from local_cloud.vertex import automl
from local_cloud.vertex.errors import invalid_argument, not_found
from local_cloud.vertex.objects import Objects, StorageFailed, split_uri

ML_USE = "aiplatform.googleapis.com/ml_use"
ML_USES = ("training", "validation", "test")

LARGEST_PICTURE = 30_000_000
LONGEST_LABEL = 128
#: "partial_failures … at most 20" of GenericOperationMetadata.
REPORTED_FAILURES = 20
#: Threads that read pictures.
READERS = 8

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of an import file."""

    uri: str
    label: str = ""
    ml_use: str = ""


@dataclasses.dataclass(frozen=True)
class Imported:
    """Items by the digest of their bytes, as `{"uri", "label", "mlUse"}`, and why lines were left out."""

    items: Mapping[str, Document]
    failures: Sequence[str]

    @property
    def partial_failures(self) -> list[Document]:
        """As google.rpc.Status, as many as Vertex AI reports."""
        return [{"code": 3, "message": message} for message in self.failures[:REPORTED_FAILURES]]


class BadLine(ValueError):
    """A line of an import file cannot be used; the message says why."""


def read(uris: Iterable[str], objects: Objects) -> Imported:
    """Everything that the import files name.

    Of lines for pictures with equal bytes one wins, and nobody may rely on which: here it is the one with the
    smallest digest. Source: ImportDataConfig ("may be picked arbitrarily") and the page of ml_use ("first").

    Raises:
        ApiError: for an import file that cannot be read, and if not one line can be used.
    """
    failures: list[str] = []
    lines: list[Line] = []
    for uri in _expanded(uris, objects):
        for number, text in enumerate(_text(uri, objects).splitlines(), start=1):
            try:
                if text.strip():
                    lines.append(parse(text))
            except BadLine as bad:
                failures.append(f"{uri}, line {number}: {bad}")
    lines.sort(key=lambda line: hashlib.sha256(repr(line).encode()).digest())
    items: dict[str, Document] = {}
    with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
        for line, found in zip(lines, readers.map(lambda line: _digest(line, objects), lines), strict=True):
            if isinstance(found, BadLine):
                failures.append(f"{line.uri}: {found}")
            else:
                items.setdefault(found, {"uri": line.uri, "label": line.label, "mlUse": line.ml_use})
    if failures and not items:
        raise invalid_argument(f"No item was imported: {len(failures)} failed, among them: {failures[0]}")
    return Imported(items, failures)


def parse(text: str) -> Line:
    """Raises BadLine."""
    try:
        document = json.loads(text)
    except ValueError:
        raise BadLine("it is not JSON") from None
    if not isinstance(document, dict):
        raise BadLine("it is not a JSON object")
    if split_uri(document.get("imageGcsUri")) is None:
        raise BadLine(f"imageGcsUri {document.get('imageGcsUri')!r} is not gs://bucket/name")
    annotation = document.get("classificationAnnotation") or {}
    label = annotation.get("displayName", "") if isinstance(annotation, dict) else None
    if not isinstance(label, str) or len(label) > LONGEST_LABEL or (annotation and not label):
        raise BadLine(f"classificationAnnotation.displayName must have 1 to {LONGEST_LABEL} characters")
    resource_labels = document.get("dataItemResourceLabels") or {}
    ml_use = resource_labels.get(ML_USE, "") if isinstance(resource_labels, dict) else None
    if ml_use not in ("", *ML_USES):
        raise BadLine(f"{ML_USE} {ml_use!r} is not one of {', '.join(ML_USES)}")
    return Line(document["imageGcsUri"], label, ml_use)


def _digest(line: Line, objects: Objects) -> str | BadLine:
    bucket, name = split_uri(line.uri) or ("", "")
    try:
        picture = objects.read(bucket, name)
    except StorageFailed as failed:
        return BadLine(f"the image cannot be read: {failed}")
    if len(picture) > LARGEST_PICTURE:
        return BadLine(f"the image has {len(picture)} bytes; at most {LARGEST_PICTURE} are allowed")
    if not automl.is_trainable(picture):
        return BadLine("the image is not JPEG, GIF, PNG, BMP or ICO")
    return hashlib.sha256(picture).hexdigest()


def _expanded(uris: Iterable[str], objects: Objects) -> Iterator[str]:
    """Import files, of which a URI with wildcards may mean several."""
    for uri in uris:
        bucket, name = split_uri(uri) or ("", "")
        if not bucket:
            raise invalid_argument(f"gcs_source.uris: {uri!r} is not gs://bucket/name.")
        literal = re.split(r"[*?\[]", name)[0]
        if literal == name:
            yield uri
            continue
        try:
            found = sorted(each for each in objects.names(bucket, literal) if fnmatch.fnmatchcase(each, name))
        except StorageFailed as failed:
            raise _unreadable(uri, failed) from failed
        if not found:
            raise not_found(f"No file matches {uri}.")
        yield from (f"gs://{bucket}/{each}" for each in found)


def _text(uri: str, objects: Objects) -> str:
    bucket, name = split_uri(uri) or ("", "")
    try:
        return objects.read(bucket, name).decode("utf-8")
    except StorageFailed as failed:
        raise _unreadable(uri, failed) from failed
    except UnicodeDecodeError:
        raise invalid_argument(f"The import file {uri} is not UTF-8.") from None


def _unreadable(uri: str, failed: StorageFailed) -> ApiError:
    """How an import ends whose file cannot be read [U]; the words are ours."""
    if failed.status == 403:
        return ApiError(403, "PERMISSION_DENIED", f"The import file {uri} cannot be read: {failed}")
    if failed.status == 404:
        return not_found(f"The import file {uri} does not exist: {failed}")
    return ApiError(503, "UNAVAILABLE", f"The import file {uri} cannot be read: {failed}")
