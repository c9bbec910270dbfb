"""The APIs that the chain needs, and whether the project is one of Firebase's where phones need that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from doctor.chain import APIS, OPTIONAL_APIS
from doctor.checks import optional
from doctor.examination import Check, Look
from doctor.findings import Finding, Place
from doctor.reads import NotThere


def checks(look: Look) -> Iterator[Check]:
    apis = Check(Place.PROJECT, look.chain.project, lambda: _apis(look, apis))
    yield apis
    for api, variable in OPTIONAL_APIS.items():
        yield _optional_api(look, api, variable)
    firebase = Check(Place.FIREBASE, "Firebase project", lambda: _firebase(look, firebase))
    yield firebase


def _apis(look: Look, check: Check) -> Iterator[Finding]:
    off = _off(look, APIS)
    for api in off:
        says = f"{api} is off: Google refuses every call of it, and with it a part of the chain"
        yield check.broken(says, f"gcloud services enable {api} --project={look.chain.project}")
    if not off:
        yield check.ok(f"{len(APIS)} APIs are on")


def _optional_api(look: Look, api: str, variable: str) -> Check:
    def ask() -> Iterator[Finding]:
        names = optional.users(look, variable)
        if not names:
            yield check.ok("no data set needs it")
        elif _off(look, [api]):
            remedy = f"{variable} = true in terraform.tfvars, then {look.chain.deploy}"
            yield check.broken(f"is off, and {', '.join(names)} needs it", remedy)
        else:
            yield check.ok(f"is on, as {', '.join(names)} needs it")

    check = Check(Place.PROJECT, api, ask)
    return check


def _off(look: Look, apis: Sequence[str]) -> list[str]:
    project = look.chain.project
    answer = look.google.get(
        "serviceusage",
        f"/v1/projects/{project}/services:batchGet",
        needs="serviceusage.services.get",
        names=[f"projects/{project}/services/{api}" for api in apis],
    )
    return [each["name"].rsplit("/", 1)[-1] for each in answer["services"] if each.get("state") != "ENABLED"]


def _firebase(look: Look, check: Check) -> Iterator[Finding]:
    project = look.chain.project
    remedy = f"https://console.firebase.google.com/  (Add project, choose {project}; it needs a person)"
    try:
        look.google.get("firebase", f"/v1beta1/projects/{project}", needs="firebase.projects.get")
    except NotThere:
        if names := optional.users(look, "firebase_ml"):
            says = f"{project} is not a Firebase project: Firebase ML refuses what {', '.join(names)} publishes"
            yield check.broken(says, remedy)
        else:
            says = f"{project} is not a Firebase project: models are published, and phones cannot read the bucket"
            yield check.warning(says, remedy)
    else:
        yield check.ok(f"{project} is one")
