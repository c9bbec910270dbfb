"""One parameter and one condition of ours in the app team's Remote Config template; all else of it stays as it is.

    parameter  dualdeploy_<name>_version    default: the version for everybody; under the condition: the newer one
    condition  dualdeploy <name>            percent('<seed>') <= <share>, last in the list: the team's own come first

What stands in a template is read, changed and written as Google's JSON, so that what we do not know of stays too. The
parameter may be moved into a group, described and given further conditional values: only what is named above is ours.
Sources: https://firebase.google.com/docs/remote-config/condition-reference (conditions), …/quotas-limits (limits).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from dualdeploy.errors import CannotEverSucceed, LedgerContention
from dualdeploy.remote_config import RemoteConfig, TemplateChanged

#: How often a change is decided anew when the team, or another data set's release, publishes at the same time.
MAX_CONFLICTS = 5

#: Longest description of a template's version. Source: …/quotas-limits
_MAX_DESCRIPTION = 1024
_DESCRIPTION = "Dual Deploy: version of the model that phones load; without a value they follow latest.json"

Document = dict[str, Any]
Edit = Callable[[Document], None]


class ParameterMoved(CannotEverSucceed):
    """Somebody changed our parameter or condition by hand: it is theirs now, and is not changed back behind them."""


class VersionParameter:
    """The parameter of one published name."""

    def __init__(self, remote_config: RemoteConfig, name: str) -> None:
        self._remote_config = remote_config
        self.key = key_of(name)
        self.condition = f"dualdeploy {name}"

    def default(self) -> str:
        """The version that everybody is given; empty when phones follow the pointer."""
        return self._default(dict(self._remote_config.read().document))

    def stage(self, *, old: str, new: str, seed: str, share: int, held: int | None) -> None:
        """Give `new` to `share` per cent of the installations, `old` to the others. Repeating it changes nothing.

        The same `seed` keeps the places of installations: who has `new` at 10 % has it at 50 %. `held` is the share of
        the step before, None for the first; if neither that nor `share` is found, ParameterMoved is raised.
        """

        def edit(document: Document) -> None:
            if held is not None:
                self._check_untouched(document, old=old, new=new, seed=seed, shares=(held, share))
            parameter = self._parameter(document)
            parameter["defaultValue"] = {"value": old}
            parameter.setdefault("conditionalValues", {})[self.condition] = {"value": new}
            self._put_condition(document, expression(seed, share))

        self._change(edit, f"{self.key}: {new} for {share} % of the installations")

    def check(self, *, old: str, new: str, seed: str, share: int) -> None:
        """Raise ParameterMoved unless everything stands as `stage` left it at `share`."""
        document = dict(self._remote_config.read().document)
        self._check_untouched(document, old=old, new=new, seed=seed, shares=(share,))

    def settle(self, version: str, *, old: str = "", seed: str = "", held: int | None = None) -> None:
        """Give `version` to everybody; empty lets phones follow the pointer. Repeating it changes nothing.

        `old`, `seed` and `held` are as in `stage`: at the end of a rollout whose last share is not found,
        ParameterMoved is raised.
        """

        def edit(document: Document) -> None:
            if held is not None and not self._is_settled(document, version):
                self._check_untouched(document, old=old, new=version, seed=seed, shares=(held,))
            if version or self._find(document) is not None:
                parameter = self._parameter(document)
                parameter["defaultValue"] = {"value": version} if version else {"useInAppDefault": True}
            self._drop_condition(document)

        self._change(edit, f"{self.key}: {version or 'as latest.json says'} for everybody")

    def take_back(self, *, new: str, old: str, before: str) -> None:
        """End a rollout of `new`: the default is `before` again, unless somebody else has chosen another meanwhile."""

        def edit(document: Document) -> None:
            parameter = self._find(document)
            if parameter is not None and self._default(document) in (new, old):
                parameter["defaultValue"] = {"value": before} if before else {"useInAppDefault": True}
            self._drop_condition(document)

        self._change(edit, f"{self.key}: {new} is taken back")

    # Inside ----------------------------------------------------------------------------------------------------

    def _change(self, edit: Edit, description: str) -> None:
        """Read, change and write under the ETag that was read. Raises LedgerContention after some conflicts."""
        for _ in range(MAX_CONFLICTS):
            template = self._remote_config.read()
            document = copy.deepcopy(dict(template.document))
            edit(document)
            if document == template.document:
                return
            document["version"] = {"description": description[:_MAX_DESCRIPTION]}
            try:
                self._remote_config.write(document, expect=template.etag)
            except TemplateChanged:
                continue
            return
        raise LedgerContention(f"Remote Config was published by others {MAX_CONFLICTS} times while {self.key} changed")

    def _check_untouched(self, document: Document, *, old: str, new: str, seed: str, shares: tuple[int, ...]) -> None:
        parameter = self._find(document) or {}
        staged = parameter.get("conditionalValues", {}).get(self.condition, {}).get("value")
        found = [each["expression"] for each in document.get("conditions", []) if each["name"] == self.condition]
        if self._default(document) == old and staged == new and found in [[expression(seed, each)] for each in shares]:
            return
        raise ParameterMoved(
            f"{self.key} was changed by hand in Remote Config (default {self._default(document) or 'none'}, staged"
            f" {staged or 'none'}, condition {found or 'none'}): redeploy to begin anew"
        )

    def _is_settled(self, document: Document, version: str) -> bool:
        staged = (self._find(document) or {}).get("conditionalValues", {})
        return self._default(document) == version and self.condition not in staged

    def _find(self, document: Document) -> Document | None:
        groups = [group.get("parameters", {}) for group in document.get("parameterGroups", {}).values()]
        for parameters in (document.get("parameters", {}), *groups):
            if self.key in parameters:
                found: Document = parameters[self.key]
                return found
        return None

    def _parameter(self, document: Document) -> Document:
        found = self._find(document)
        if found is None:
            found = {"description": _DESCRIPTION, "valueType": "STRING"}
            document.setdefault("parameters", {})[self.key] = found
        return found

    def _default(self, document: Document) -> str:
        parameter = self._find(document) or {}
        return str(parameter.get("defaultValue", {}).get("value", ""))

    def _put_condition(self, document: Document, text: str) -> None:
        conditions = document.setdefault("conditions", [])
        for condition in conditions:
            if condition["name"] == self.condition:
                condition["expression"] = text
                return
        conditions.append({"name": self.condition, "expression": text})

    def _drop_condition(self, document: Document) -> None:
        parameter = self._find(document) or {}
        _discard(parameter, "conditionalValues", lambda values: values.pop(self.condition, None))
        if self.condition in _conditions_in_use(document):
            # The team chose by our condition too. Without it their template would be refused; nobody is in it now.
            self._put_condition(document, "percent <= 0")
            return
        left = [each for each in document.get("conditions", []) if each["name"] != self.condition]
        _discard(document, "conditions", lambda conditions: conditions.__setitem__(slice(None), left))


def key_of(name: str) -> str:
    """Keys are of letters, digits and `_`; a digest keeps `a-b` and `a_b` apart."""
    if "-" not in name:
        return f"dualdeploy_{name}_version"
    return f"dualdeploy_{name.replace('-', '_')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}_version"


def expression(seed: str, share: int) -> str:
    return f"percent('{seed}') <= {share}"


def _discard(owner: Document, key: str, change: Callable[[Any], object]) -> None:
    """Change what stands under `key`, and take the key away with its last entry, as Google's JSON does."""
    if owner.get(key):
        change(owner[key])
        if not owner[key]:
            del owner[key]


def _conditions_in_use(document: Mapping[str, Any]) -> set[str]:
    groups = [group.get("parameters", {}) for group in document.get("parameterGroups", {}).values()]
    return {
        condition
        for parameters in (document.get("parameters", {}), *groups)
        for parameter in parameters.values()
        for condition in parameter.get("conditionalValues", {})
    }
