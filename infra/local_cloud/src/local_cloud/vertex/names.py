"""Names, ids, times and labels as Vertex AI spells them."""

from __future__ import annotations

import dataclasses
import datetime
import re
import secrets
from collections.abc import Mapping
from typing import Any

from local_cloud.api import ApiError
from local_cloud.iam import PROJECT_NUMBER
from local_cloud.vertex.errors import invalid_argument, not_found

#: What Google adds where a project is not there or not the caller's.
_CONSUMER = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "CONSUMER_INVALID",
    "domain": "googleapis.com",
    "metadata": {"service": "aiplatform.googleapis.com"},
}
_DURATION = re.compile(r"(\d+(?:\.\d{1,9})?)s")
_LABEL_LENGTH = 63
_LABEL_COUNT = 64


@dataclasses.dataclass(frozen=True)
class Location:
    """The one project and region that this local cloud stands for.

    Requests may name the project by its id or its number; what is answered names it by its number, as Google does.
    """

    project: str
    region: str
    number: str = PROJECT_NUMBER

    @property
    def name(self) -> str:
        return f"projects/{self.number}/locations/{self.region}"

    def canonical(self, name: str) -> str:
        """The full name of a resource, with the project's number where it was given by the id."""
        return re.sub(rf"^projects/{re.escape(self.project)}/", f"projects/{self.number}/", name)

    def check(self, project: str, location: str) -> str:
        """The location's resource name, if the request means this location.

        Raises:
            ApiError: 403 for a project that is not ours, 404 for a region that is not served here.
        """
        if project not in {self.project, self.number}:
            raise ApiError(
                403, "PERMISSION_DENIED", f"Permission denied on resource project {project}.", details=[_CONSUMER]
            )
        if location != self.region:
            raise not_found(f"Location {location} is not served here: this local cloud is {self.region}.")
        return self.name


def new_id() -> str:
    """A numeric id as Google generates them (19 digits); never with a leading zero."""
    return str(10**18 + secrets.randbelow(8 * 10**18))


def new_etag() -> str:
    """What changes with every change of a resource, as Vertex AI writes it."""
    return "AMEw9y" + secrets.token_urlsafe(32)


def now() -> str:
    """The present as a protobuf JSON timestamp, with microseconds."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def last_segment(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def seconds(duration: object, field: str) -> float:
    """A protobuf JSON duration ("3600s") in seconds; must be positive."""
    matched = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if matched is None or float(matched[1]) <= 0:
        raise invalid_argument(f'{field} must be a positive duration such as "3600s", got {duration!r}.')
    return float(matched[1])


def check_display_name(resource: Mapping[str, Any]) -> None:
    """Refuse a display name that is missing or longer than 128 characters."""
    display_name = resource.get("displayName")
    if not isinstance(display_name, str) or not display_name:
        raise invalid_argument("display_name is required.")
    if len(display_name) > 128:
        raise invalid_argument(f"display_name has {len(display_name)} characters; at most 128 are allowed.")


def check_labels(labels: object) -> None:
    """Refuse labels that Google refuses.

    At most 64 labels; keys and values of at most 63 lower-case letters (of any script), digits, underscores
    and dashes; a key starts with a letter. Source: "Requirements for labels" in Google Cloud's resource docs.
    """
    if labels is None:
        return
    if not isinstance(labels, Mapping):
        raise invalid_argument("labels must be a map of strings.")
    if len(labels) > _LABEL_COUNT:
        raise invalid_argument(f"labels has {len(labels)} entries; at most {_LABEL_COUNT} are allowed.")
    for key, value in labels.items():
        if not key or not key[0].isalpha() or not _is_label_text(key):
            raise invalid_argument(f"Label key {key!r} is invalid: {_LABEL_RULE} and start with a letter.")
        if not isinstance(value, str) or not _is_label_text(value):
            raise invalid_argument(f"Label value {value!r} of key {key!r} is invalid: {_LABEL_RULE}.")


_LABEL_RULE = "labels have at most 63 lower-case letters, digits, underscores and dashes"


def _is_label_text(text: str) -> bool:
    allowed = all(
        character in "_-" or character.isdigit() or (character.isalpha() and character == character.lower())
        for character in text
    )
    return allowed and len(text) <= _LABEL_LENGTH
