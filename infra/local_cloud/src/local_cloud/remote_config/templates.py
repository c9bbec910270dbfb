"""The versions of each project's template: written by compare-and-swap on the ETag, and never changed."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

from local_cloud.api import ApiError
from local_cloud.remote_config import conditions
from local_cloud.vertex.errors import invalid_argument, not_found
from local_cloud.vertex.records import Records

Document = dict[str, Any]

_VERSIONS = "versions"
#: Older ones are deleted. Source: https://firebase.google.com/docs/remote-config/templates
KEPT_VERSIONS = 300
#: Source: https://firebase.google.com/docs/remote-config/quotas-limits
MAX_PARAMETERS, MAX_CONDITIONS, MAX_VALUES = 3_000, 2_000, 1_000_000
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_MAX_DESCRIPTION = 1024


class Templates:
    """Every project's versions, in `records`."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def read(self, project: str, version: str = "") -> Document:
        """The template at `version`, else the newest; without any, version 0 with nothing in it."""
        versions = self.versions(project)
        if version:
            found = [each for each in versions if each["version"]["versionNumber"] == version]
            if not found:
                raise not_found(f"Requested entity was not found: version {version}.")
            return found[0]
        return versions[0] if versions else {"version": {"versionNumber": "0"}}

    def versions(self, project: str) -> list[Document]:
        """Newest first."""
        documents = [record for _, record in self._records.all(_VERSIONS) if record["project"] == project]
        return [record["template"] for record in reversed(documents)]

    def write(self, project: str, body: Mapping[str, Any], *, if_match: str, rollback_of: str = "") -> Document:
        """Store the next version when `if_match` names the current one (or is `*`). Raises ApiError 400 or 412."""
        if not if_match:
            raise invalid_argument("An If-Match header is required: the ETag of the last read, or *.")
        check(body)
        with self._records.transaction():
            current = self.read(project)
            if if_match not in ("*", etag(project, current)):
                raise ApiError(412, "FAILED_PRECONDITION", "[VERSION_MISMATCH]: Version mismatch.")
            number = int(current["version"]["versionNumber"]) + 1
            described = {key: value for key, value in body.get("version", {}).items() if key == "description"}
            # In the order of the request, and without what is empty, as protocol buffers are written as JSON.
            template = {key: value for key, value in body.items() if key not in ("version", "etag") and value}
            template["version"] = {
                "versionNumber": str(number),
                "updateTime": datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
                "updateOrigin": "REST_API",
                "updateType": _update_type(if_match, rollback_of),
                **({"rollbackSource": rollback_of} if rollback_of else {}),
                **described,
            }
            self._records.put(_VERSIONS, f"{project}/{number}", {"project": project, "template": template})
            self._records.remove(_VERSIONS, f"{project}/{number - KEPT_VERSIONS}")
        return template

    def values(self, project: str, installation: str) -> dict[str, str]:
        """What an app of this installation is given; a parameter without a value for it is left out."""
        template = self.read(project)
        true = [
            condition["name"]
            for condition in template.get("conditions", [])
            if conditions.holds(condition["expression"], installation)
        ]
        values: dict[str, str] = {}
        for name, parameter in _parameters(template).items():
            conditional = parameter.get("conditionalValues", {})
            # The order of the conditions is their priority.
            chosen = next(
                (conditional[each] for each in true if each in conditional), parameter.get("defaultValue", {})
            )
            if "value" in chosen:
                values[name] = str(chosen["value"])
        return values


def etag(project: str, template: Mapping[str, Any], *, validated: bool = False) -> str:
    """Of a successful validation the suffix is 0: nothing was written."""
    return f"etag-{project}-{0 if validated else template['version']['versionNumber']}"


def check(body: Mapping[str, Any]) -> None:
    """Raises ApiError 400 for a template that the service would not take."""
    _check_values(body)
    listed = body.get("conditions", [])
    names = [condition.get("name") for condition in listed]
    if not all(names) or len(set(names)) != len(names):
        raise invalid_argument("[VALIDATION_ERROR]: Condition names must be given and be unique.")
    for condition in listed:
        try:
            conditions.holds(str(condition.get("expression", "")), "")
        except conditions.UnknownExpression as error:
            raise invalid_argument(f"[VALIDATION_ERROR]: {condition['name']}: {error}.") from None
    _check_limits(body)
    for name, parameter in _parameters(body).items():
        if unknown := set(parameter.get("conditionalValues", {})) - set(names):
            raise invalid_argument(f"[VALIDATION_ERROR]: Parameter {name}: unknown conditions {sorted(unknown)}.")


def _check_values(body: Mapping[str, Any]) -> None:
    """Fields that are unknown here are accepted: Google adds some each year, and a client must keep them."""
    for name, parameter in _parameters(body).items():
        for each in [parameter.get("defaultValue", {}), *parameter.get("conditionalValues", {}).values()]:
            if not isinstance(each.get("value", ""), str):
                where = f"remote_config.parameters[{name}].value"
                raise invalid_argument(f"Invalid value at '{where}' (TYPE_STRING), {each['value']}")


def _check_limits(body: Mapping[str, Any]) -> None:
    parameters = _parameters(body)
    if len(parameters) > MAX_PARAMETERS or len(body.get("conditions", [])) > MAX_CONDITIONS:
        raise invalid_argument(
            f"[VALIDATION_ERROR]: At most {MAX_PARAMETERS} parameters and {MAX_CONDITIONS} conditions are allowed."
        )
    if wrong := [name for name in parameters if not _KEY.fullmatch(name)]:
        raise invalid_argument(f"[VALIDATION_ERROR]: Invalid parameter keys {wrong}.")
    values = [
        str(value.get("value", ""))
        for parameter in parameters.values()
        for value in (parameter.get("defaultValue", {}), *parameter.get("conditionalValues", {}).values())
    ]
    if sum(map(len, values)) > MAX_VALUES:
        raise invalid_argument(f"[VALIDATION_ERROR]: All values together may have {MAX_VALUES} characters.")
    if len(str(body.get("version", {}).get("description", ""))) > _MAX_DESCRIPTION:
        raise invalid_argument(f"[VALIDATION_ERROR]: A description may have {_MAX_DESCRIPTION} characters.")


def _update_type(if_match: str, rollback_of: str) -> str:
    if rollback_of:
        return "ROLLBACK"
    return "FORCED_UPDATE" if if_match == "*" else "INCREMENTAL_UPDATE"


def _parameters(template: Mapping[str, Any]) -> dict[str, Any]:
    grouped = [group.get("parameters", {}) for group in template.get("parameterGroups", {}).values()]
    return {name: value for part in (template.get("parameters", {}), *grouped) for name, value in part.items()}
