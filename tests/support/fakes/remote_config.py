"""Remote Config's template in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dualdeploy.errors import RejectedByGoogle
from dualdeploy.google.remote_config import Template, TemplateChanged
from support.fakes.failing import Faults


class FakeRemoteConfig:
    """Implements `dualdeploy.google.remote_config.RemoteConfig`; `read` and `write` fail by `faults`."""

    def __init__(self, *, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        #: Every published version as text, the first one empty.
        self.versions: list[str] = ["{}"]

    @property
    def document(self) -> dict[str, Any]:
        """What is published now, without `version`; for assertions."""
        found: dict[str, Any] = json.loads(self.versions[-1])
        return {key: value for key, value in found.items() if key != "version"}

    def edit_by_hand(self, document: Mapping[str, Any]) -> None:
        """What somebody does in the console: no ETag is asked for, and no fault is counted."""
        self._publish(document)

    def values(self, key: str) -> set[str]:
        """Every value of a parameter that some app may be given now; an app without one uses its own default."""
        document = self.document
        groups = [group.get("parameters", {}) for group in document.get("parameterGroups", {}).values()]
        for parameters in (document.get("parameters", {}), *groups):
            if key in parameters:
                found = parameters[key]
                values = [found.get("defaultValue", {}), *found.get("conditionalValues", {}).values()]
                return {value["value"] for value in values if "value" in value}
        return set()

    def read(self) -> Template:
        return self.faults.run("read", self._template)

    def write(self, document: Mapping[str, Any], *, expect: str) -> Template:
        def written() -> Template:
            if expect != self._etag:
                raise TemplateChanged(f"the template is at {self._etag}, expected {expect}")
            self._publish(document)
            return self._template()

        return self.faults.run("write", written)

    @property
    def _etag(self) -> str:
        return f"etag-{len(self.versions) - 1}"

    def _template(self) -> Template:
        return Template(json.loads(self.versions[-1]), self._etag)

    def _publish(self, document: Mapping[str, Any]) -> None:
        known = {condition["name"] for condition in document.get("conditions", [])}
        groups = [group.get("parameters", {}) for group in document.get("parameterGroups", {}).values()]
        for parameters in (document.get("parameters", {}), *groups):
            for name, parameter in parameters.items():
                if unknown := set(parameter.get("conditionalValues", {})) - known:
                    raise RejectedByGoogle(f"VALIDATION_ERROR: Parameter {name}: unknown conditions {sorted(unknown)}")
        description = document.get("version", {}).get("description", "")
        version = {"versionNumber": str(len(self.versions)), "description": description}
        self.versions.append(json.dumps({**document, "version": version}, ensure_ascii=False))
