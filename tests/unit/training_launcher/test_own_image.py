"""An image that trains in place of ours: by digest, and as the configuration had it when a run was claimed."""

from __future__ import annotations

import json

import pytest

from dualdeploy.contracts import dataset_config
from dualdeploy.errors import InvalidDatasetConfig
from support.chain import LAUNCHER_SETTINGS, WHOLE, Chain

REPOSITORY = "europe-docker.pkg.dev/p/nets/tulips"
IMAGE = f"{REPOSITORY}@sha256:{'ab' * 32}"


@pytest.mark.parametrize(
    ("image", "write"),
    [
        (REPOSITORY, REPOSITORY),
        (f"{REPOSITORY}:latest", REPOSITORY),
        (f"{REPOSITORY}@sha256:abc", REPOSITORY),
        (f"{REPOSITORY}:1@sha512:{'ab' * 64}", REPOSITORY),
        (f"localhost:5000/nets:1@sha256:{'AB' * 32}", "localhost:5000/nets"),
        (f"https://{IMAGE}", REPOSITORY),
        (f"{IMAGE} ", REPOSITORY),
        (":latest", "REPOSITORY"),
    ],
)
def test_an_image_without_a_digest_is_refused_with_what_to_write(image: str, write: str) -> None:
    document = {"dataset": "flowers", "labels": ["a", "b"], "training": {"cloud": {"image": image}}}
    with pytest.raises(InvalidDatasetConfig) as refused:
        dataset_config.parse(json.dumps(document), source="flowers.yaml")
    assert "training.cloud.image: must name an image by its digest" in str(refused.value)
    assert f"write {write}@sha256:<64 hex digits>" in str(refused.value)


@pytest.mark.parametrize("image", [IMAGE, f"{REPOSITORY}:1.2@sha256:{'0' * 64}", f"nets@sha256:{'0' * 64}", ""])
def test_an_image_with_a_digest_is_taken(image: str) -> None:
    document = {"dataset": "flowers", "labels": ["a", "b"], "training": {"mobile": {"image": image}}}
    assert dataset_config.parse(json.dumps(document), source="flowers.yaml").training.mobile.image == image


def test_the_image_of_a_run_is_the_one_that_stood_there_when_it_was_claimed() -> None:
    chain = Chain()
    chain.configure(data={"quiet_period": 60}, training={"cloud": {"image": IMAGE}})
    chain.upload(*WHOLE)
    chain.settle()
    (run_id,) = chain.run_ids()
    specs = {spec.labels["dualdeploy_target"]: spec for spec in chain.vertex.job_specs.values()}
    assert specs["cloud"].image == IMAGE
    assert specs["mobile"].image == LAUNCHER_SETTINGS.trainer_image
    assert specs["cloud"].arguments == ["--target", "cloud", "--job", f"gs://models/runs/{run_id}/cloud/job.json"]
    assert chain.ledger.read_run(run_id).config["training"]["cloud"]["image"] == IMAGE
