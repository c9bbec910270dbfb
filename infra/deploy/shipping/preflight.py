"""What must be true before anything is changed. Every fault is found in one go, each with the command that mends it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping

from shipping.release import Place
from shipping.tools import CannotShip, ToolFailed, Tools

_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_TERRAFORM = (1, 9)

#: A permission that a deployment of everything cannot do without → the role to ask for.
EVERYTHING: Mapping[str, str] = {
    "artifactregistry.repositories.create": "roles/artifactregistry.admin",
    "cloudbuild.builds.create": "roles/cloudbuild.builds.editor",
    "cloudfunctions.functions.create": "roles/cloudfunctions.admin",
    "cloudscheduler.jobs.create": "roles/cloudscheduler.admin",
    "eventarc.triggers.create": "roles/eventarc.admin",
    "iam.roles.create": "roles/iam.roleAdmin",
    "iam.serviceAccounts.actAs": "roles/iam.serviceAccountUser",
    "iam.serviceAccounts.create": "roles/iam.serviceAccountAdmin",
    "logging.sinks.create": "roles/logging.configWriter",
    "monitoring.alertPolicies.create": "roles/monitoring.editor",
    "pubsub.topics.create": "roles/pubsub.admin",
    "resourcemanager.projects.setIamPolicy": "roles/resourcemanager.projectIamAdmin",
    "run.services.create": "roles/run.admin",
    "serviceusage.services.enable": "roles/serviceusage.serviceUsageAdmin",
    "storage.buckets.create": "roles/storage.admin",
}
#: The same for new versions of code; `modules/delivery` grants them to whoever deploys for a commit.
CODE_ONLY: Mapping[str, str] = {
    "cloudbuild.builds.create": "roles/cloudbuild.builds.editor",
    "cloudfunctions.functions.update": "roles/cloudfunctions.developer",
    "run.services.update": "roles/run.developer",
}

#: Without these nothing of ours can be asked or made; Terraform enables the rest.
FIRST_APIS = (
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "cloudscheduler.googleapis.com",
    "eventarc.googleapis.com",
    "iam.googleapis.com",
    "run.googleapis.com",
    "serviceusage.googleapis.com",
    "storage.googleapis.com",
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong, and the command, or the few words, that mend it."""

    what: str
    remedy: str


class NotReady(CannotShip):
    """Something has to be mended first; the message lists everything."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(f"{problem.what}\n  {problem.remedy}" for problem in problems))
        self.problems = problems


def account(tools: Tools) -> str:
    """Who is logged in. Raises NotReady when nobody is: then nothing else can be asked."""
    found = tools.look("gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)")
    if not found:
        raise NotReady([Problem("You are not logged in to gcloud.", "gcloud auth login")])
    return found


def check(place: Place, tools: Tools, *, permissions: Mapping[str, str]) -> None:
    """Look at the tools, the project, its billing, the region and the permissions. Raises NotReady."""
    problems = [*_tools(tools), *_region_name(place), *_project(place, tools, account(tools), permissions)]
    if problems:
        raise NotReady(problems)


def missing_apis(place: Place, tools: Tools) -> list[str]:
    """Which of FIRST_APIS are off."""
    command = ("services", "list", "--enabled", f"--project={place.project}", "--format=value(config.name)")
    enabled = set(tools.look("gcloud", *command).split())
    return [api for api in FIRST_APIS if api not in enabled]


def check_apis(place: Place, tools: Tools) -> None:
    """Raises NotReady when an API is off that a deployment of everything would have enabled."""
    if missing := missing_apis(place, tools):
        raise NotReady(
            [
                Problem(
                    f"These APIs are off in {place.project}: {', '.join(missing)}",
                    f"gcloud services enable {' '.join(missing)} --project={place.project}",
                )
            ]
        )


#: Products that everything needs and that are not in every region → gcloud's list of where they are. Which accelerators
#: Vertex AI has where, only its quotas tell: `make doctor` compares them with what the data sets ask for.
_REGIONS: Mapping[str, tuple[str, ...]] = {
    "Cloud Run": ("run", "regions", "list"),
    "Cloud Scheduler": ("scheduler", "locations", "list"),
    "Eventarc": ("eventarc", "locations", "list"),
}


#: Where Vertex AI trains and serves, which no command lists. Source: googlecloudsdk/command_lib/ai/constants.py of the
#: Google Cloud SDK 528.0.0, which refuses other regions itself; a test holds it equal where the SDK is installed.
VERTEX_REGIONS = frozenset(
    {
        "africa-south1",
        "asia-east1",
        "asia-east2",
        "asia-northeast1",
        "asia-northeast2",
        "asia-northeast3",
        "asia-south1",
        "asia-southeast1",
        "asia-southeast2",
        "australia-southeast1",
        "australia-southeast2",
        "europe-central2",
        "europe-north1",
        "europe-southwest1",
        "europe-west1",
        "europe-west12",
        "europe-west2",
        "europe-west3",
        "europe-west4",
        "europe-west6",
        "europe-west8",
        "europe-west9",
        "me-central1",
        "me-central2",
        "me-west1",
        "northamerica-northeast1",
        "northamerica-northeast2",
        "southamerica-east1",
        "southamerica-west1",
        "us-central1",
        "us-east1",
        "us-east4",
        "us-east5",
        "us-south1",
        "us-west1",
        "us-west2",
        "us-west3",
        "us-west4",
    }
)


def check_region(place: Place, tools: Tools) -> None:
    """Raises NotReady when a product that everything needs is not in the region; asked once the APIs are on."""
    options = (f"--project={place.project}", "--format=value(locationId)")
    found = {product: set(tools.ask("gcloud", *command, *options).split()) for product, command in _REGIONS.items()}
    found["Vertex AI"] = set(VERTEX_REGIONS)
    if lacking := [product for product, regions in found.items() if place.region not in regions]:
        everywhere = sorted(set.intersection(*found.values()))
        near = [region for region in everywhere if region.split("-")[0] == place.region.split("-")[0]] or everywhere
        raise NotReady(
            [
                Problem(
                    f"{place.region} does not have {' and '.join(lacking)}.",
                    f"Name a region that has everything: REGION={' REGION='.join(near)}",
                )
            ]
        )


def check_same_region(place: Place, deployed: Mapping[str, object]) -> None:
    """Raises NotReady when everything stands in another region already: buckets and endpoints cannot move."""
    there = str(deployed.get("region", place.region))
    if there != place.region:
        raise NotReady(
            [
                Problem(
                    f"{place.project} is deployed in {there}, not in {place.region}, and cannot be moved.",
                    f"make deploy PROJECT={place.project} REGION={there}   (or take it down first: make destroy)",
                )
            ]
        )


def _tools(tools: Tools) -> Iterator[Problem]:
    version = str(json.loads(tools.look("terraform", "version", "-json"))["terraform_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _TERRAFORM:
        yield Problem(
            f"Terraform {version} is too old: 1.9 or newer is needed.",
            "https://developer.hashicorp.com/terraform/install",
        )


def _region_name(place: Place) -> Iterator[Problem]:
    if not _REGION.fullmatch(place.region):
        # us-central1-a is a zone, and US a multi-region: Vertex AI and Cloud Run have neither.
        yield Problem(f"{place.region!r} is not a region.", "Name one such as us-central1: REGION=us-central1")


def _project(place: Place, tools: Tools, who: str, permissions: Mapping[str, str]) -> list[Problem]:
    try:
        tools.look("gcloud", "projects", "describe", place.project, "--format=value(projectId)")
    except ToolFailed as failed:
        if re.search(r"reauth|invalid_grant|refresh", failed.output, flags=re.IGNORECASE):
            return [Problem(f"The login of {who} has expired.", "gcloud auth login")]
        return [
            Problem(
                f"{who} sees no project {place.project}: it does not exist, or the permission to see it is missing.",
                f"gcloud projects create {place.project}   (or, if it exists: gcloud config set account <another one>)",
            )
        ]
    return [*_billing(place, tools), *_permissions(place, tools, who, permissions)]


def _billing(place: Place, tools: Tools) -> Iterator[Problem]:
    command = ("billing", "projects", "describe", place.project, "--format=value(billingEnabled)")
    try:
        is_enabled = tools.look("gcloud", *command) == "True"
    except ToolFailed as failed:
        if not _says_that_an_api_is_off(failed.output):
            raise
        yield _api_is_off("billing", "cloudbilling.googleapis.com", place)
        return
    if not is_enabled:
        yield Problem(
            f"{place.project} has no billing account: buckets, builds and Vertex AI need one.",
            f"gcloud billing projects link {place.project} --billing-account=<ACCOUNT>"
            "   (gcloud billing accounts list shows yours)",
        )


def _permissions(place: Place, tools: Tools, who: str, permissions: Mapping[str, str]) -> Iterator[Problem]:
    held = _held(place, tools.look("gcloud", "auth", "print-access-token"), permissions)
    kind = "serviceAccount" if who.endswith(".gserviceaccount.com") else "user"
    for permission, role in permissions.items():
        if permission not in held:
            yield Problem(
                f"{who} lacks {permission} on {place.project}.",
                f"gcloud projects add-iam-policy-binding {place.project} --member={kind}:{who} --role={role}"
                "   (by an owner)",
            )


def _held(place: Place, token: str, permissions: Mapping[str, str]) -> set[str]:
    """Which of these permissions the caller has, also by a folder or an organisation: gcloud itself cannot ask.

    Source: https://docs.cloud.google.com/resource-manager/reference/rest/v1/projects/testIamPermissions
    """
    # The variable by which gcloud itself is pointed elsewhere.
    base = os.environ.get(
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER", "https://cloudresourcemanager.googleapis.com/"
    )
    request = urllib.request.Request(  # noqa: S310  # https, or what a test has set
        f"{base}v1/projects/{place.project}:testIamPermissions",
        data=json.dumps({"permissions": list(permissions)}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # as above
            return set(json.load(answer).get("permissions", []))
    except urllib.error.HTTPError as failed:
        said = failed.read().decode(errors="replace")
        if _says_that_an_api_is_off(said):
            raise NotReady([_api_is_off("permissions", "cloudresourcemanager.googleapis.com", place)]) from failed
        raise CannotShip(f"asking for permissions on {place.project}: HTTP {failed.code}\n{said[:2000]}") from failed
    except OSError as failed:
        raise CannotShip(f"{base} cannot be reached: {failed}") from failed


def _says_that_an_api_is_off(said: str) -> bool:
    return "SERVICE_DISABLED" in said or "has not been used" in said


def _api_is_off(purpose: str, api: str, place: Place) -> Problem:
    return Problem(f"The API for {purpose} is off.", f"gcloud services enable {api} --project={place.project}")
