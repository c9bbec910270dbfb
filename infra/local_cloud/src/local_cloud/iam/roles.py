"""Which permissions a role is made of. The data and its source: roles.json."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from local_cloud.iam.bindings import BindingsError, read_json


class Roles:
    """Google's predefined roles, those of its own accounts, the basic ones, and `custom` ones of the project."""

    def __init__(self, project: str, custom: Mapping[str, Sequence[str]]) -> None:
        own = {f"projects/{project}/roles/{name}": permissions for name, permissions in custom.items()}
        agents = {name: each["permissions"] for name, each in _data()["agents"].items()}
        self._permissions = {
            name: frozenset(permissions) for name, permissions in {**_data()["roles"], **agents, **own}.items()
        }
        self._lacking = {name: frozenset(each["lacks"]) for name, each in _data()["basic"].items()}

    def require(self, role: str) -> None:
        """Raises BindingsError for a role that is not known here."""
        if role not in self._permissions and role not in self._lacking:
            named = sorted({*_data()["roles"], *_data()["basic"]})
            alike = [name for name in named if name.startswith(role.partition(".")[0])] or named
            raise BindingsError(
                f"role {role!r} is not known here; write its permissions as a custom role, or take one of"
                f" {', '.join(alike)}"
            )

    def has(self, role: str, permission: str) -> bool:
        """Whether `role` holds `permission`; a role that is not known holds nothing."""
        if role in self._lacking:
            return permission not in self._lacking[role]
        return permission in self._permissions.get(role, frozenset())


def of_agents(number: str) -> Mapping[str, str]:
    """The role that Google grants each of its own accounts on the project, by the account's e-mail address."""
    return {each["account"].replace("NUMBER", number): name for name, each in _data()["agents"].items()}


@functools.cache
def _data() -> Any:
    return read_json("roles.json")
