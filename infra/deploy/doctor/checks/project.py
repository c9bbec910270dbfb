"""The APIs that the chain needs."""

from __future__ import annotations

from collections.abc import Iterator

from doctor.chain import APIS
from doctor.examination import Check, Look
from doctor.findings import Finding, Place


def checks(look: Look) -> Iterator[Check]:
    check = Check(Place.PROJECT, look.chain.project, lambda: _apis(look, check))
    yield check


def _apis(look: Look, check: Check) -> Iterator[Finding]:
    project = look.chain.project
    answer = look.google.get(
        "serviceusage",
        f"/v1/projects/{project}/services:batchGet",
        needs="serviceusage.services.get",
        names=[f"projects/{project}/services/{api}" for api in APIS],
    )
    off = [each["name"].rsplit("/", 1)[-1] for each in answer["services"] if each.get("state") != "ENABLED"]
    for api in off:
        says = f"{api} is off: Google refuses every call of it, and with it a part of the chain"
        yield check.broken(says, f"gcloud services enable {api} --project={project}")
    if not off:
        yield check.ok(f"{len(APIS)} APIs are on")
