"""The gate of one API: what its operations ask, of which resource a request names, and who is let through.

What is asked, and what of it was never verified: operations.json.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from local_cloud.iam.bindings import BindingsError, read_json
from local_cloud.iam.judge import Iam

#: APIs that are not called after the first word of their operations.
_HOSTS = {"resourcemanager": "cloudresourcemanager", "remoteconfig": "firebaseremoteconfig"}

#: find(kind, request): the full names of the resources of a kind (`object`, `topic`, `project`) that a request names.
Find = Callable[[str, Any], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class Ask:
    """One permission that an operation asks of one kind of resource."""

    permission: str
    kind: str


def asks(operation: str) -> tuple[Ask, ...]:
    """What an operation asks. Raises BindingsError for one that operations.json does not name."""
    try:
        return _operations()[operation]
    except KeyError:
        raise BindingsError(
            f"{operation}: local_cloud/iam/operations.json does not say which permissions it asks"
        ) from None


@functools.cache
def _operations() -> Mapping[str, tuple[Ask, ...]]:
    document = read_json("operations.json")["operations"]
    return {name: tuple(Ask(*each) for each in operation["asks"]) for name, operation in document.items()}


class Gate:
    """Asks the judge before an operation of one API begins."""

    def __init__(self, iam: Iam, find: Find) -> None:
        self.iam = iam
        self._find = find

    def check(self, operation: str, caller: str, request: Any, names: Mapping[str, str]) -> None:
        """Raises Refused for the first permission that the caller lacks, ApiIsOff where nobody may call.

        `names` fill the blanks of permissions.
        A permission whose blanks nothing fills is not asked: the request does not say what it works on.
        """
        word = operation.partition(".")[0]
        self.iam.require_api(f"{_HOSTS.get(word, word)}.googleapis.com")
        for ask in asks(operation):
            try:
                permission = ask.permission.format_map(names)
            except KeyError:
                continue
            for resource in self._find(ask.kind, request):
                self.iam.require(caller, permission, resource)


def of_project(iam: Iam) -> Gate:
    """The gate of an API whose every resource is asked of the project."""
    return Gate(iam, lambda _kind, _request: [f"projects/{iam.project}"])
