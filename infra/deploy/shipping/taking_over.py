"""What is there already and is ours is taken into Terraform's state: after `make destroy`, or after a killed apply.

Terraform writes its state down every 20 seconds while it applies: whoever is killed in between has made things that the
state does not know, and the next apply is refused with 409. `terraform import` cannot be used, since it evaluates the
whole configuration with what is in the state; `import` blocks are part of a plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from shipping.tools import CannotShip

_THERE = re.compile(r"already exists|you already own it|must be imported", flags=re.IGNORECASE)

#: How each type is named to `import`, made of what is planned; what may be made twice, or is the same when made twice
#: (grants, APIs, notifications, alerts), is not here. Source: the page of each resource, "Import".
IDS: Mapping[str, str] = {
    "google_artifact_registry_repository": "projects/{project}/locations/{location}/repositories/{repository_id}",
    "google_cloud_run_v2_service": "projects/{project}/locations/{location}/services/{name}",
    "google_cloud_scheduler_job": "projects/{project}/locations/{region}/jobs/{name}",
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
_LABEL = ("app", "dualdeploy")
#: Any of these, as we write it, says that a thing is ours.
_SIGNS = ("description", "display_name", "title", "ruleset_name")


def is_there_already(says: str) -> bool:
    """Whether Google refused to make something because there is one of that name."""
    return bool(_THERE.search(says))


def ids(plan: Mapping[str, Any], addresses: Collection[str]) -> Mapping[str, str]:
    """How `import` calls what a plan would create at these addresses; without those that cannot be imported."""
    planned = {each["address"]: each for each in plan.get("resource_changes", [])}
    return {
        address: IDS[each["type"]].format_map(each["change"]["after"])
        for address in sorted(addresses)
        if (each := planned.get(address)) and each["type"] in IDS and each["change"]["after"]
    }


def blocks(by_address: Mapping[str, str]) -> str:
    """A file of Terraform that takes these over when it is planned and applied."""
    return "".join(
        f"import {{\n  to = {address}\n  id = {json.dumps(name)}\n}}\n" for address, name in by_address.items()
    )


def refuse_what_is_not_ours(plan: Mapping[str, Any]) -> None:
    """Raises CannotShip for a plan that would take over what somebody else made, or would make it anew at once."""
    strange = [
        change["change"]["importing"]["id"]
        for change in plan.get("resource_changes", [])
        if change["change"].get("importing")
        and ("delete" in change["change"]["actions"] or not _is_ours(change["change"]))
    ]
    if strange:
        raise CannotShip(
            "These are in the project already and do not look like ours, so they are left alone:\n  "
            + "\n  ".join(strange)
            + "\nDelete or rename them, or deploy to another project. If a bucket is ours, give it our label:\n"
            + f"  gcloud storage buckets update gs://<BUCKET> --update-labels={'='.join(_LABEL)}"
        )


def _is_ours(change: Mapping[str, Any]) -> bool:
    before, after = change.get("before") or {}, change.get("after") or {}
    key, value = _LABEL
    if any((before.get(labels) or {}).get(key) == value for labels in ("labels", "effective_labels")):
        return True
    return any(before.get(sign) and before[sign] == after.get(sign) for sign in _SIGNS)
