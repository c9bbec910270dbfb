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
from dualdeploy.google.remote_config import RemoteConfig, TemplateChanged

#: How often a change is decided anew when the team, or another data set's release, publishes at the same time.
MAX_CONFLICTS = 5

#: Longest description of a template's version. Source: …/quotas-limits
_MAX_DESCRIPTION = 1024
_DESCRIPTION = "Dual Deploy: version of the model that phones load; without a value they follow latest.json"

#: How `_text_of` begins for what is not a text; no version begins so.
_OTHER_KIND = "("

Document = dict[str, Any]
Edit = Callable[[Document], None]


class ParameterMoved(CannotEverSucceed):
    """Someone changed our parameter or condition by hand: it is theirs now, and is not changed back behind them."""


class VersionParameter:
    """The parameter of one published name.

    `guard` is called between each look at the template and the write that rests on it, and raises if nothing may be
    written any more.
    """

    def __init__(self, remote_config: RemoteConfig, name: str, *, guard: Callable[[], None] = lambda: None) -> None:
        self._remote_config = remote_config
        self._guard = guard
        self.key = key_of(name)
        self.condition = f"dualdeploy {name}"

    def default(self) -> str:
        """The version that everybody is given; empty when phones follow the pointer.

        Raises ParameterMoved when the team gives something else than a version, a personalisation for example.
        """
        default = self._default(dict(self._remote_config.read().document))
        if default.startswith(_OTHER_KIND):
            raise ParameterMoved(
                f"{self.key} was changed by hand in Remote Config: its default is a {default.strip('()')}; give it a"
                " version or the app's own default, then redeploy"
            )
        return default

    def stage(self, *, old: str, new: str, seed: str, share: int, held: int | None, before: str) -> None:
        """Give `new` to `share` percent of the installations, `old` to the others. Repeating it changes nothing.

        The same `seed` keeps the places of installations: who has `new` at 10 % has it at 50 %. `held` is the share of
        the step before, None for the first, which finds the default at `before` (empty: there was none). ParameterMoved
        is raised when something else is found.
        """

        def edit(document: Document) -> None:
            if not self._is_staged(document, old=old, new=new, seed=seed, share=share):
                if held is None:
                    self._check_default(document, before)
                else:
                    self._check_staged(document, old=old, new=new, seed=seed, share=held)
            parameter = self._parameter(document)
            parameter["defaultValue"] = {"value": old}
            parameter.setdefault("conditionalValues", {})[self.condition] = {"value": new}
            self._put_condition(document, expression(seed, share))

        self._change(edit, f"{self.key}: {new} for {share} % of the installations")

    def check(self, *, old: str, new: str, seed: str, share: int) -> None:
        """Raise ParameterMoved unless everything stands as `stage` left it at `share`."""
        self._check_staged(dict(self._remote_config.read().document), old=old, new=new, seed=seed, share=share)

    def end_rollout(self, *, new: str, old: str, seed: str, held: int) -> None:
        """Give `new` to everybody after the last share, `held`. Repeating it changes nothing. Raises ParameterMoved."""

        def edit(document: Document) -> None:
            if not self._is_settled(document, new):
                self._check_staged(document, old=old, new=new, seed=seed, share=held)
            self._settle(document, new)

        self._change(edit, f"{self.key}: {new} for everyone")

    def settle(self, version: str, *, before: str) -> None:
        """Give `version` to everybody at once; empty lets phones follow the pointer. Repeating it changes nothing.

        Raises ParameterMoved when the default is neither that nor `before`.
        """

        def edit(document: Document) -> None:
            if self._default(document) != version:
                self._check_default(document, before)
            self._settle(document, version)

        self._change(edit, f"{self.key}: {version or 'as latest.json says'} for everyone")

    def take_back(self, *, new: str, old: str, before: str) -> str:
        """End a rollout of `new`, or its release to everybody: the default is `before` again.

        What someone else has chosen meanwhile stays; returns what that is, empty if it is nothing. The template is
        published in any case: an instance that has looked at it before then cannot write any more.
        """
        stays: list[str] = []

        def edit(document: Document) -> None:
            stays.clear()
            parameter = self._find(document)
            default, staged = self._default(document), self._staged(document)
            if parameter is not None and default in (new, old) and default != before:
                parameter["defaultValue"] = {"value": before} if before else {"useInAppDefault": True}
            elif default not in ("", before):
                stays.append(f"its default {default} was chosen by hand")
            if staged in ("", new):
                self._drop_condition(document)
            else:
                stays.append(f"{staged} was staged by hand")

        self._change(edit, f"{self.key}: {new} is taken back", always=True)
        return " and ".join(stays)

    # Inside ----------------------------------------------------------------------------------------------------

    def _change(self, edit: Edit, description: str, *, always: bool = False) -> None:
        """Read, change and write under the ETag that was read, `always` or if there is a change.

        Raises LedgerContention after some conflicts.
        """
        for _ in range(MAX_CONFLICTS):
            template = self._remote_config.read()
            document = copy.deepcopy(dict(template.document))
            edit(document)
            if document == template.document and not always:
                return
            self._guard()
            document["version"] = {"description": description[:_MAX_DESCRIPTION]}
            try:
                self._remote_config.write(document, expect=template.etag)
            except TemplateChanged:
                continue
            return
        raise LedgerContention(f"Remote Config was published by others {MAX_CONFLICTS} times while {self.key} changed")

    def _check_default(self, document: Document, before: str) -> None:
        if (default := self._default(document)) != before:
            raise ParameterMoved(
                f"{self.key} was changed by hand in Remote Config (default {default or 'none'}, it was"
                f" {before or 'none'}): it stays so"
            )

    def _check_staged(self, document: Document, *, old: str, new: str, seed: str, share: int) -> None:
        if not self._is_staged(document, old=old, new=new, seed=seed, share=share):
            raise ParameterMoved(
                f"{self.key} was changed by hand in Remote Config (default {self._default(document) or 'none'}, staged"
                f" {self._staged(document) or 'none'}, condition {self._expressions(document) or 'none'}): redeploy to"
                " begin anew"
            )

    def _is_staged(self, document: Document, *, old: str, new: str, seed: str, share: int) -> bool:
        return (
            self._default(document) == old
            and self._staged(document) == new
            and self._expressions(document) == [expression(seed, share)]
        )

    def _is_settled(self, document: Document, version: str) -> bool:
        return self._default(document) == version and not self._staged(document)

    def _settle(self, document: Document, version: str) -> None:
        if version or self._find(document) is not None:
            parameter = self._parameter(document)
            parameter["defaultValue"] = {"value": version} if version else {"useInAppDefault": True}
        self._drop_condition(document)

    def _staged(self, document: Document) -> str:
        values = (self._find(document) or {}).get("conditionalValues", {})
        return _text_of(values.get(self.condition, {}))

    def _expressions(self, document: Document) -> list[str]:
        return [each["expression"] for each in document.get("conditions", []) if each["name"] == self.condition]

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
        return _text_of(parameter.get("defaultValue", {}))

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
            # The team chose by our condition too. Without it their template would be refused; no one is in it now.
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


def _text_of(value: Mapping[str, Any]) -> str:
    """The text of a value; empty for the app's own default, and for one of another kind its name in brackets.

    Source of the kinds: https://firebase.google.com/docs/reference/remote-config/rest/v1/RemoteConfig (ParameterValue)
    """
    if not value or "value" in value or "useInAppDefault" in value:
        return str(value.get("value", ""))
    return f"{_OTHER_KIND}{next(iter(value))})"


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
