"""Taking everything down; data stays unless somebody says otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from shipping import preflight, release
from shipping.release import Place
from shipping.terraform import Terraform
from shipping.tools import CannotShip, ToolFailed, Tools

_BUCKETS = "module.storage.google_storage_bucket.bucket"
#: Google keeps the id of a deleted role for up to 37 days, and nothing can be deployed under it meanwhile.
#: Source: https://docs.cloud.google.com/iam/docs/creating-custom-roles#deleting-custom-role
_ROLES = ".google_project_iam_custom_role."


def destroy(
    place: Place,
    tools: Tools,
    *,
    topology: Mapping[str, Any],
    terraform: Terraform,
    delete_data: bool,
    answer: Callable[[str], str],
) -> Mapping[str, str]:
    """Ask, then take everything down that Terraform made; the buckets of the topology too if `delete_data`.

    Returns the addresses of what was taken down. Raises CannotShip.
    """
    preflight.check(place, tools, permissions=preflight.EVERYTHING)
    state = tools.find("gcloud", "storage", "buckets", "describe", f"gs://{place.state_bucket}", "--format=value(name)")
    if state is None:
        raise CannotShip(f"Nothing is deployed in {place.project}: there is no bucket {place.state_bucket}.")
    terraform.init()
    deployed = terraform.configuration()
    preflight.check_same_region(place, deployed)
    addresses = terraform.addresses()
    if not addresses:
        tools.say("Nothing is deployed.")
        return {}
    _tell_of_endpoints(place, tools)
    buckets = ", ".join(bucket["name"] for bucket in topology["buckets"].values())
    tools.say(f"Takes down {len(addresses)} resources in {place.project}: services, topics, accounts, images.")
    tools.say(f"{'DELETES with all that is in them' if delete_data else 'Keeps'}: {buckets}")
    if answer("The project's name, to go on: ") != place.project:
        raise CannotShip("Not confirmed: nothing was changed.")
    terraform.set_variables(_variables(place, topology, deployed, delete_data=delete_data))
    if delete_data:
        # Whether a bucket may be emptied is decided by what was applied last, not by what is written now.
        terraform.plan("-target=module.storage")
        terraform.apply_plan("-target=module.storage")
    kept = [each for each in addresses if _ROLES in each or (each.startswith(_BUCKETS) and not delete_data)]
    if kept:
        terraform.forget(*kept)
    terraform.destroy()
    tools.say("Taken down. The roles dualdeploy_… are left, which give nothing to anyone: see docs/google-cloud.md.")
    tools.say(f"The state's own bucket is left too: gcloud storage rm --recursive gs://{place.state_bucket}")
    return dict.fromkeys((each for each in addresses if each not in kept), "delete")


def _tell_of_endpoints(place: Place, tools: Tools) -> None:
    """Endpoints are made by cloud_deployer, not by Terraform, and a deployed model costs day and night."""
    command = ("ai", "endpoints", "list", f"--region={place.region}", f"--project={place.project}", "--format=json")
    try:
        endpoints = json.loads(tools.look("gcloud", *command) or "[]")
    except ToolFailed as failed:
        if not failed.passes:
            raise
        return  # the API was never on: nothing is deployed
    for endpoint in endpoints:
        for model in endpoint.get("deployedModels", []):
            tools.say(
                f"{endpoint.get('displayName')} still serves, and costs. To end it:\n"
                f"  gcloud ai endpoints undeploy-model {endpoint['name'].rsplit('/', 1)[1]} "
                f"--deployed-model-id={model['id']} --region={place.region} --project={place.project}"
            )


def _variables(
    place: Place, topology: Mapping[str, Any], deployed: Mapping[str, Any], *, delete_data: bool
) -> dict[str, Any]:
    """Versions do not matter any more, and must be named all the same, also where nothing was ever built."""
    given = {"project": place.project, "region": place.region, **deployed, "delete_data": delete_data}
    versions = []
    for each in release.deployables(topology, deployed).values():
        there = dict(deployed.get(each.kind, {})).get(each.name)
        nothing = (
            f"{each.name}/{release.NOT_BUILT}.zip"
            if each.is_function
            else f"{place.image(each.name)}@sha256:{release.NOT_BUILT}"
        )
        versions.append((each, there or nothing))
    return release.with_versions({"images": {}, "sources": {}, **given}, versions)
