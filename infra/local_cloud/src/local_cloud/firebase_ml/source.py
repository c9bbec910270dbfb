"""Where a model file comes from: a gs:// URI, or the signed URL that firebase_admin makes of it."""

from __future__ import annotations

import dataclasses
import datetime
import urllib.parse

import urllib3

from local_cloud.api import ApiError
from local_cloud.vertex.errors import invalid_argument

_TIMEOUT = urllib3.Timeout(connect=5, read=60)


class SourceMissing(Exception):
    """There is no file at the place named, or the URL may no longer be used."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One object of Cloud Storage; `expires` is the signed URL's end and `query` what is signed, if it came as one."""

    bucket: str
    name: str
    expires: datetime.datetime | None = None
    query: str = ""

    @property
    def uri(self) -> str:
        return f"gs://{self.bucket}/{self.name}"


def parse(text: object) -> Source:
    """The object that `text` names.

    Raises:
        ApiError: 400 when it is neither a gs:// URI nor a signed URL of Cloud Storage.
    """
    parts = urllib.parse.urlsplit(text) if isinstance(text, str) else None
    if parts is not None and parts.scheme == "gs" and parts.netloc and len(parts.path) > 1:
        return Source(parts.netloc, parts.path[1:])
    if parts is not None and parts.scheme in {"http", "https"}:
        query = dict(urllib.parse.parse_qsl(parts.query))
        bucket, _, name = urllib.parse.unquote(parts.path).lstrip("/").partition("/")
        if bucket and name and "X-Goog-Signature" in query:
            return Source(bucket, name, _expiry(query), parts.query)
    raise invalid_argument("tfliteModel.gcsTfliteUri must be a gs:// URI or a signed URL of Cloud Storage.")


def _expiry(query: dict[str, str]) -> datetime.datetime:
    try:
        signed = datetime.datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
        return signed + datetime.timedelta(seconds=int(query["X-Goog-Expires"]))
    except (KeyError, ValueError):
        raise invalid_argument("tfliteModel.gcsTfliteUri: X-Goog-Date or X-Goog-Expires is malformed.") from None


class Reader:
    """Reads sources from the local cloud's Cloud Storage, whatever host a signed URL names.

    A signed URL is read as such, and so judged as the account that signed it.
    """

    def __init__(self, storage_address: str) -> None:
        self._base = f"http://{storage_address}"
        self._pool = urllib3.PoolManager(retries=False, timeout=_TIMEOUT)

    def read(self, source: Source) -> bytes:
        """The object's bytes.

        Raises:
            SourceMissing: there is no such object, or the signed URL has expired.
            ApiError: 503 when Cloud Storage does not answer as it should.
        """
        if source.expires is not None and datetime.datetime.now(datetime.UTC) > source.expires:
            raise SourceMissing(f"The signed URL of {source.uri} has expired.")
        if source.query:
            url = f"{self._base}/{source.bucket}/{urllib.parse.quote(source.name)}?{source.query}"
        else:
            name = urllib.parse.quote(source.name, safe="")
            url = f"{self._base}/download/storage/v1/b/{source.bucket}/o/{name}?alt=media"
        try:
            answer = self._pool.request("GET", url)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(503, "UNAVAILABLE", f"Cloud Storage is not available: {error}") from error
        if answer.status in {401, 403, 404}:
            raise SourceMissing(f"The model file {source.uri} was not found.")
        if answer.status != 200:
            raise ApiError(503, "UNAVAILABLE", f"Cloud Storage answered {answer.status} for {source.uri}.")
        return answer.data
