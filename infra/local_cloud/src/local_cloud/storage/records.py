"""Records: buckets and objects as they are kept, and as the JSON API shows them."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from local_cloud.iam import PROJECT_NUMBER
from local_cloud.storage.errors import invalid
from local_cloud.storage.locations import location_type, require_storage_class

#: Object metadata that a caller may write; everything else of a resource is computed.
WRITABLE = (
    "contentType",
    "contentEncoding",
    "contentDisposition",
    "contentLanguage",
    "cacheControl",
    "customTime",
    "temporaryHold",
    "eventBasedHold",
    "storageClass",
    "metadata",
)

#: Bucket metadata that the service computes and a caller therefore cannot write.
COMPUTED_BY_BUCKET = frozenset(
    {
        "kind",
        "id",
        "selfLink",
        "name",
        "timeCreated",
        "updated",
        "metageneration",
        "generation",
        "etag",
        "projectNumber",
        "locationType",
    }
)

#: https://cloud.google.com/storage/docs/buckets#naming (names with dots up to 222 characters)
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_IP_ADDRESS = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
#: "Bucket names cannot begin with the goog prefix", nor contain google or what looks like it.
_RESERVED = re.compile(r"goog.*|.*g[o0]{2}g[l1]e.*")
#: Until when uniform access can be taken back.
_UNIFORM_LOCK_MICROSECONDS = 90 * 24 * 3600 * 1_000_000
#: For how long what was deleted can be brought back, unless the bucket says otherwise.
_SOFT_DELETE_SECONDS = "604800"
#: Seconds: from seven days to ninety, or none. Source: https://docs.cloud.google.com/storage/docs/soft-delete
_SOFT_DELETE_LIMITS = (604_800, 7_776_000)
#: Source: https://docs.cloud.google.com/storage/docs/lifecycle
_LIFECYCLE_ACTIONS = frozenset({"Delete", "SetStorageClass", "AbortIncompleteMultipartUpload"})
#: Source: https://docs.cloud.google.com/storage/docs/tags-and-labels
_LABEL_KEY = re.compile(r"[^\W\d_][\w-]{0,62}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket: `properties` hold what its owner wrote (labels, lifecycle, ...)."""

    name: str
    generation: int
    metageneration: int
    updated: int
    properties: Mapping[str, Any]

    @property
    def etag(self) -> str:
        return _base64(_field(1, self.metageneration))

    @property
    def is_uniform(self) -> bool:
        """Whether policies alone decide, and no lists on its objects."""
        return bool(self._iam_configuration()["uniformBucketLevelAccess"]["enabled"])

    @property
    def location(self) -> str:
        return str(self.properties.get("location", "US")).upper()

    def resource(self, base_url: str) -> dict[str, Any]:
        """The `storage#bucket` resource; `base_url` has no trailing slash."""
        kind = location_type(self.location)
        created = rfc3339(self.generation)
        return {
            "kind": "storage#bucket",
            "id": self.name,
            "selfLink": f"{base_url}/storage/v1/b/{self.name}",
            "projectNumber": PROJECT_NUMBER,
            "name": self.name,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "etag": self.etag,
            "timeCreated": created,
            "updated": rfc3339(self.updated),
            "storageClass": "STANDARD",
            **({} if kind == "region" else {"rpo": "DEFAULT"}),
            **self.properties,
            "location": self.location,
            "locationType": kind,
            "iamConfiguration": self._iam_configuration(),
            "softDeletePolicy": {
                "retentionDurationSeconds": _SOFT_DELETE_SECONDS,
                "effectiveTime": created,
                **self.properties.get("softDeletePolicy", {}),
            },
        }

    def _iam_configuration(self) -> dict[str, Any]:
        written = self.properties.get("iamConfiguration", {})
        uniform = {"enabled": False, **written.get("uniformBucketLevelAccess", {})}
        if uniform["enabled"]:
            uniform.setdefault("lockedTime", rfc3339(self.generation + _UNIFORM_LOCK_MICROSECONDS))
        return {
            "publicAccessPrevention": "inherited",
            **written,
            "uniformBucketLevelAccess": uniform,
            "bucketPolicyOnly": uniform,  # the former name, which is answered too
        }


@dataclasses.dataclass(frozen=True)
class Content:
    """The bytes of an object: where they lie, how many they are, and their checksums (base64)."""

    blob: str
    size: int
    crc32c: str
    md5: str | None  # composed objects have none: their parts were never read as one stream


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """The live version of an object; the generation is also its time of creation in microseconds."""

    bucket: str
    name: str
    generation: int
    metageneration: int
    updated: int
    content: Content
    properties: Mapping[str, Any]
    component_count: int | None = None

    @property
    def etag(self) -> str:
        return _base64(_field(1, self.generation) + _field(2, self.metageneration))

    def resource(self, base_url: str, *, with_checksums: bool | None = None) -> dict[str, Any]:
        """The `storage#object` resource: 64-bit numbers are strings, as JSON has no 64-bit integers.

        Checksums of an object under a customer's key are told only to a caller that brings the key (`with_checksums`).
        """
        quoted = urllib.parse.quote(self.name, safe="")
        created = rfc3339(self.generation)
        resource: dict[str, Any] = {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "selfLink": f"{base_url}/storage/v1/b/{self.bucket}/o/{quoted}",
            "mediaLink": f"{base_url}/download/storage/v1/b/{self.bucket}/o/{quoted}"
            f"?generation={self.generation}&alt=media",
            "name": self.name,
            "bucket": self.bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            # What was put together of others has no type unless it is given one.
            **({"contentType": "application/octet-stream"} if self.component_count is None else {}),
            "storageClass": "STANDARD",
            "size": str(self.content.size),
            "crc32c": self.content.crc32c,
            "etag": self.etag,
            "timeCreated": created,
            "updated": rfc3339(self.updated),
            "timeStorageClassUpdated": created,
            "timeFinalized": created,
            **self.properties,
        }
        if self.content.md5 is not None:
            resource["md5Hash"] = self.content.md5
        if "customerEncryption" in self.properties and not with_checksums:
            resource.pop("md5Hash", None)
            del resource["crc32c"]
        if self.component_count is not None:
            resource["componentCount"] = self.component_count
        return resource


def rfc3339(microseconds: int, *, digits: int = 3) -> str:
    """The API's time format, in UTC and milliseconds, or with so many digits of a second."""
    seconds, rest = divmod(microseconds, 1_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{rest:06d}"[:digits] + "Z"


def writable_properties(document: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an object resource that its writer decides; refuses custom metadata that is not text."""
    properties = {key: document[key] for key in WRITABLE if document.get(key) is not None}
    require_storage_class(properties.get("storageClass", "STANDARD"))
    metadata = properties.get("metadata")
    if metadata is not None:
        _require_text_values(metadata)
        if not metadata:
            del properties["metadata"]
    return properties


def patched_properties(old: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch of what may be written: null removes a key, custom metadata merges key by key."""
    merged = dict(old)
    for key in WRITABLE:
        if key not in patch:
            continue
        value = patch[key]
        if key == "metadata" and isinstance(value, Mapping):
            custom = {**old.get("metadata", {}), **value}
            value = {name: text for name, text in custom.items() if text is not None}
        merged[key] = value
    return writable_properties(merged)


def require_bucket_name(name: object) -> str:
    """Refuse a bucket name that Cloud Storage refuses."""
    if not isinstance(name, str) or not _BUCKET_NAME.fullmatch(name) or ".." in name:
        raise invalid(f"Invalid bucket name: {name!r}; use 3 to 63 of [a-z0-9._-], letter or digit at the ends")
    if any(len(part) > 63 for part in name.split(".")):
        raise invalid(f"Invalid bucket name: {name!r}; each part between dots has at most 63 characters")
    if "." not in name and len(name) > 63:
        raise invalid(f"Invalid bucket name: {name!r}; it has at most 63 characters")
    if _IP_ADDRESS.fullmatch(name) or _RESERVED.fullmatch(name):
        raise invalid(f"Invalid bucket name: {name!r}; it must not be an IP address, begin with goog or contain google")
    return name


def require_bucket_properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse what Cloud Storage refuses to keep of a bucket. Raises ApiError 400."""
    location_type(str(properties.get("location", "US")))
    require_storage_class(properties.get("storageClass", "STANDARD"))
    kept = int((properties.get("softDeletePolicy") or {}).get("retentionDurationSeconds", _SOFT_DELETE_SECONDS))
    rules = (properties.get("lifecycle") or {}).get("rule") or []
    are_kept = kept == 0 or _SOFT_DELETE_LIMITS[0] <= kept <= _SOFT_DELETE_LIMITS[1]
    are_known = all((rule.get("action") or {}).get("type") in _LIFECYCLE_ACTIONS for rule in rules)
    if not are_kept or not are_known or not all(map(_is_label, (properties.get("labels") or {}).items())):
        raise invalid("Invalid argument.")
    return dict(properties)


def _is_label(label: tuple[str, Any]) -> bool:
    key, value = label[0], str(label[1] or "")
    is_lower = (key + value).lower() == key + value
    return is_lower and bool(_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value))


def require_object_name(name: object) -> str:
    """Refuse an object name that Cloud Storage refuses: empty, over 1024 bytes, line breaks, '.' and '..'."""
    if not isinstance(name, str) or not name:
        raise invalid("Required parameter: name (of the object)", reason="required")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise invalid(f"Invalid object name: {name!r} is not valid UTF-8") from None
    is_reserved = name in {".", ".."} or name.startswith(".well-known/acme-challenge/")
    if size > 1024 or is_reserved or "\r" in name or "\n" in name:
        raise invalid(f"Invalid object name: {name[:80]!r}; at most 1024 bytes, no line breaks, not '.' or '..'")
    return name


def _require_text_values(metadata: object) -> None:
    if not isinstance(metadata, Mapping):
        raise invalid(f"metadata must be an object of strings, got {type(metadata).__name__}")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise invalid(f"metadata.{key} must be a string, got {value!r}")


def _field(number: int, value: int) -> bytes:
    """A number as a field of a protocol buffer: etags of Cloud Storage are such messages."""
    encoded = bytearray([number << 3])
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _base64(message: bytes) -> str:
    return base64.b64encode(message).decode()
