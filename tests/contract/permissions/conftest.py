"""One local cloud with what Terraform grants, and everyone who calls it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from local_cloud import topology as topologies
from local_cloud.cloud import LocalCloud
from support import automl_data
from support.accounts import PROJECT, REGION, REPOSITORY, Service, World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("permissions")
    described = topologies.load(REPOSITORY / "infra" / "topology.json", project=PROJECT, region=REGION)
    stub = topologies.Image("trainer", str(folder), ("python", "-c", "pass"))
    described = dataclasses.replace(
        described, images={**described.images, "trainer": stub}, automl=automl_data.QUICK_IN_TOPOLOGY
    )
    service = Service()
    # The clock stands: what a story publishes is the only thing that moves.
    cloud = LocalCloud(described, state_dir=folder / "cloud", clock_seconds=3600)
    with cloud, pytest.MonkeyPatch.context() as patch:
        # As on every service: Google's client does not ask for the metadata of buckets.
        patch.setenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        world = World(cloud, service)
        owner = world.actor("owner").client
        for name in ("dualdeploy-sources", "dualdeploy-state"):
            owner.create_bucket(f"{PROJECT}-{name}")
        yield world
    service.close()
