"""What there is on Google Cloud, as far as Terraform makes it: in memory, and it can refuse, and kill who asks."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

State = Mapping[str, Any]

#: What only one thing can have, by type: a second one is refused with 409. The text is how the provider imports it.
#: Source: the page of each resource in the provider's documentation.
NAMES: Mapping[str, str] = {
    "google_artifact_registry_repository": "projects/{project}/locations/{location}/repositories/{repository_id}",
    "google_cloud_run_v2_service": "projects/{project}/locations/{location}/services/{name}",
    "google_cloud_scheduler_job": "projects/{project}/locations/{region}/jobs/{name}",
    "google_cloudbuild_trigger": "projects/{project}/locations/{location}/triggers/{name}",
    "google_cloudfunctions2_function": "projects/{project}/locations/{location}/functions/{name}",
    "google_eventarc_trigger": "projects/{project}/locations/{location}/triggers/{name}",
    "google_firebaserules_release": "projects/{project}/releases/{name}",
    "google_logging_project_sink": "projects/{project}/sinks/{name}",
    "google_project_iam_custom_role": "projects/{project}/roles/{role_id}",
    "google_pubsub_subscription": "projects/{project}/subscriptions/{name}",
    "google_pubsub_topic": "projects/{project}/topics/{name}",
    "google_service_account": "projects/{project}/serviceAccounts/{account_id}@{project}.iam.gserviceaccount.com",
    "google_storage_bucket": "{name}",
}
#: What else of a thing cannot be changed without making it anew.
_FIXED: Mapping[str, tuple[str, ...]] = {
    "google_pubsub_subscription": ("topic", "filter"),
    "google_storage_bucket": ("location", "project"),
    "google_storage_notification": ("bucket", "topic", "payload_format", "event_types", "object_name_prefix"),
    "google_cloudfunctions2_function": ("location",),
}


class Refused(Exception):
    """Google's words."""


class Cloud:
    """Things by type and name. `refusals` are consumed one by one; `before_change` may do anything, kill included."""

    def __init__(self) -> None:
        self.things: dict[tuple[str, str], State] = {}
        #: Every thing that was made, as often as it was.
        self.made: list[tuple[str, str]] = []
        #: (type, what is said, whether it is meant): each is used once.
        self.refusals: list[tuple[str, str, Callable[[State], bool]]] = []
        #: Buckets that hold something.
        self.filled: set[str] = set()
        #: Called after each thing that was made, with its type.
        self.after_change: Callable[[str], None] = lambda _type: None
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def refuse(self, type_: str, says: str, *, times: int = 1, when: Callable[[State], bool] = bool) -> None:
        """Refuse to make things of this type, as often as is said."""
        self.refusals += [(type_, says, when)] * times

    def names(self, type_: str) -> set[str]:
        return {name for kind, name in self.things if kind == type_}

    def change(self, type_: str, before: State | None, after: State | None) -> None:
        """Make, replace or delete one thing. Raises Refused."""
        with self._lock:
            if after is None:
                assert before is not None
                self._delete(type_, before)
            else:
                self._refuse_as_told(type_, after)
                key = (type_, _name(type_, after))
                if before is None and type_ in NAMES and key in self.things:
                    raise Refused(
                        f"Error creating {type_}: googleapi: Error 409: {key[1]} already exists., alreadyExists"
                    )
                self.things[key] = after
                if before is None:
                    self.made.append(key)
            self.after_change(type_)

    def find(self, type_: str, state: State) -> State | None:
        """The thing that a state tells of, as it is now."""
        return self.things.get((type_, _name(type_, state)))

    def by_id(self, type_: str, name: str) -> State | None:
        """The thing that `import` calls so."""
        return self.things.get((type_, name)) if type_ in NAMES else None

    def replaces(self, type_: str, before: State, after: State) -> list[str]:
        """Arguments that differ and cannot be changed."""
        if type_.endswith("_iam_member"):
            fixed = [name for name in after if name not in ("id", "etag")]
        else:
            fixed = [name for name in after if f"{{{name}}}" in NAMES.get(type_, "") or name in _FIXED.get(type_, ())]
        # What an import did not tell is taken to be as it should be.
        unknown = {name for name in fixed if before.get(name) is None} - {"filter"}
        return [
            name for name in fixed if name not in unknown and after[name] is not None and before[name] != after[name]
        ]

    def answers(self, type_: str, planned: State, attribute: str) -> str | None:
        """What only Google knows of a thing that is being made."""
        if type_ == "google_service_account" and attribute in ("email", "member"):
            email = f"{planned['account_id']}@{planned['project']}.iam.gserviceaccount.com"
            return email if attribute == "email" else f"serviceAccount:{email}"
        if attribute == "uri":
            return f"https://{planned['name']}-123456789012.{planned['location']}.run.app"
        if attribute == "id":
            return _name(type_, planned) if type_ in NAMES else f"{type_}-{next(self._numbers)}"
        if attribute == "name" and type_ in NAMES:
            return (
                _name(type_, planned)
                if type_ == "google_project_iam_custom_role"
                else _name(type_, planned).rsplit("/", 1)[1]
            )
        return f"{type_}-{attribute}"

    def _delete(self, type_: str, before: State) -> None:
        if type_ == "google_storage_bucket" and before["name"] in self.filled and not before["force_destroy"]:
            raise Refused(
                f"Error trying to delete bucket {before['name']} containing objects without `force_destroy` set to true"
            )
        self.things.pop((type_, _name(type_, before)), None)

    def _refuse_as_told(self, type_: str, after: State) -> None:
        for number, (refused, says, when) in enumerate(self.refusals):
            if refused == type_ and when(after):
                del self.refusals[number]
                raise Refused(says)


def _name(type_: str, state: State) -> str:
    if type_ in NAMES:
        return NAMES[type_].format_map(state)
    if type_.endswith("_iam_member"):
        return repr(sorted((key, value) for key, value in state.items() if key not in ("id", "etag")))
    return str(state.get("id") or state.get("name"))
