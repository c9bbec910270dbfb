"""How long a job may take, by the number of its pictures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.dataset_config import DatasetConfig
from dualdeploy.ledger import spending
from support.chain import WHOLE, Chain
from training_launcher import duration

HOUR = 3600.0
SLOW = {"epochs": 1000, "image_size": 1024, "accelerator": None}
L4 = {"machine": "g2-standard-48", "accelerator": {"type": "NVIDIA_L4", "count": 4}}


def config(**cloud: Any) -> DatasetConfig:
    document = {"dataset": "flowers", "labels": ["a", "b"], "training": {"cloud": cloud}}
    return dataset_config.parse(json.dumps(document), source="flowers.yaml")


@pytest.mark.parametrize(
    ("pictures", "cloud", "hours"),
    [
        (0, {}, 2),
        (3_670, {}, 2),
        (30_000, {}, 2),
        (30_001, {}, 3),
        (1_300_000, {}, 45),
        (1_300_000, {"timeout": "1h"}, 1),
        (1_300_000, {"epochs": 1}, 5),
        (1_300_000, {"image_size": 112}, 12),
        (1_300_000, {"replicas": 4}, 12),
        (1_300_000, L4, 12),
        (10_000, {"accelerator": None}, 6),
        # The slowest of the ways to get machines counts.
        (1_300_000, {**L4, "capacity": [{}, {"machine": "n1-standard-8", "accelerator": {"count": 1}}]}, 45),
        (1_300_000, {"epochs": 1000}, 168),
    ],
)
def test_a_job_gets_as_long_as_its_pictures_may_take(pictures: int, cloud: dict[str, Any], hours: float) -> None:
    assert duration.timeout(config(**cloud).training.cloud, pictures) == hours * HOUR


def test_what_the_longest_job_is_too_short_for_is_refused_with_the_epochs_that_fit() -> None:
    refusal = duration.refusal(config(epochs=100), 1_300_000)
    assert refusal.startswith(
        "100 epochs of 1,300,000 pictures need about 363 h for target cloud, and Vertex AI ends a job after 168 h: "
        "write training.cloud.epochs: 46, or use a smaller image_size"
    )
    assert duration.refusal(config(epochs=46), 1_300_000) == ""
    assert duration.refusal(config(epochs=100, timeout="100h"), 1_300_000) == ""
    assert ": use a smaller image_size" in duration.refusal(config(epochs=1), 100_000_000)


def test_a_timeout_that_was_not_written_is_not_a_word_of_a_recorded_configuration() -> None:
    recorded = config(timeout="3h").model_dump(mode="json")["training"]
    assert recorded["cloud"]["timeout"] == 3 * HOUR
    # An older service would take none for a fault.
    assert "timeout" not in recorded["mobile"]
    assert recorded["mobile"]["accelerator"]
    assert recorded["mobile"].keys() >= {"capacity", "recipe"}


def test_a_run_counts_the_pictures_before_it_says_what_it_costs() -> None:
    chain = Chain()
    chain.configure(data={"quiet_period": 60}, training={"cloud": SLOW})
    chain.upload(*WHOLE)
    chain.settle()
    (run_id,) = chain.run_ids()
    report = json.loads(chain.ledger.store.read(f"runs/{run_id}/validation.json").data)
    estimate = spending.read_estimate(chain.ledger, run_id)
    assert estimate is not None
    training = dataset_config.stored(chain.ledger.read_run(run_id).config).training.cloud
    wanted = duration.timeout(training, report["coverage"]["records"])
    assert estimate.targets["cloud"].timeout_seconds == wanted > 2 * HOUR
    (spec,) = [spec for spec in chain.vertex.job_specs.values() if spec.labels["dualdeploy_target"] == "cloud"]
    assert spec.timeout == wanted
