"""Machines with accelerators: the same pairs are refused in a configuration and by the local cloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.machines import table
from dualdeploy.errors import InvalidDatasetConfig
from local_cloud.api import ApiError
from local_cloud.vertex import machines as local_machines

REPOSITORY = Path(__file__).parents[4]

#: (machine, accelerator, count, what the fault says; empty where Vertex AI has it)
PAIRS = [
    ("n1-standard-8", "", 0, ""),
    ("n1-standard-8", "NVIDIA_TESLA_T4", 1, ""),
    ("n1-standard-8", "NVIDIA_TESLA_T4", 4, ""),
    ("n1-standard-8", "NVIDIA_TESLA_T4", 3, "does not go with 3 NVIDIA_TESLA_T4: it goes with 1, 2 or 4"),
    ("n1-standard-64", "NVIDIA_TESLA_T4", 1, "does not go with 1"),
    ("n1-standard-16", "NVIDIA_TESLA_V100", 1, "1 NVIDIA_TESLA_V100 is available with n1-standard-2"),
    ("n1-standard-4", "NVIDIA_L4", 1, "is available with g2-standard-4, g2-standard-8 or g2-standard-12 and others"),
    ("n1-standard-4", "NVIDIA_TESLA_P100", 1, "not an accelerator of Vertex AI"),
    ("g2-standard-8", "NVIDIA_L4", 1, ""),
    (
        "g2-standard-8",
        "NVIDIA_TESLA_T4",
        1,
        "g2-standard-8 does not go with 1 NVIDIA_TESLA_T4: it goes with 1 NVIDIA_L4",
    ),
    ("g2-standard-8", "NVIDIA_L4", 2, "goes with 1 NVIDIA_L4"),
    ("g2-standard-48", "NVIDIA_L4", 4, ""),
    ("g2-standard-8", "", 0, "is not available without its accelerators: it goes with 1 NVIDIA_L4"),
    ("g2-standard-9", "NVIDIA_L4", 1, "not a machine"),
    ("a2-highgpu-4g", "NVIDIA_TESLA_A100", 4, ""),
    ("a2-highgpu-4g", "NVIDIA_A100_80GB", 4, "goes with 4 NVIDIA_TESLA_A100"),
    ("a3-highgpu-8g", "NVIDIA_H100_80GB", 8, ""),
    ("a3-ultragpu-8g", "NVIDIA_H200_141GB", 8, ""),
    ("e2-standard-4", "NVIDIA_TESLA_T4", 1, "it takes no accelerator"),
    ("e2-standard-4", "", 0, ""),
    ("e2-micro", "", 0, "not a machine of Vertex AI"),
    ("foo-1", "", 0, "not a machine of Vertex AI; it has those of the series n1"),
]


def configured(section: str, machine: str, accelerator: str, count: int) -> None:
    card = f"{{type: {accelerator}, count: {count}}}" if accelerator else "null"
    chosen = f"{{machine: {machine}, accelerator: {card}}}"
    text = {"serving": f"serving: {chosen}", "training": f"training: {{cloud: {chosen}}}"}[section]
    dataset_config.parse(f"dataset: flowers\nlabels: [a, b]\n{text}", source="here")


@pytest.mark.parametrize("section", ["serving", "training"])
@pytest.mark.parametrize(("machine", "accelerator", "count", "fault"), PAIRS)
def test_what_vertex_ai_would_refuse_is_refused_by_the_configuration(
    section: str, machine: str, accelerator: str, count: int, fault: str
) -> None:
    if not fault:
        configured(section, machine, accelerator, count)
        return
    with pytest.raises(InvalidDatasetConfig) as refused:
        configured(section, machine, accelerator, count)
    assert fault in str(refused.value)


@pytest.mark.parametrize(("machine", "accelerator", "count", "fault"), PAIRS)
def test_the_local_cloud_refuses_the_same_pairs(machine: str, accelerator: str, count: int, fault: str) -> None:
    asked = {
        "machineType": machine,
        **({"acceleratorType": accelerator, "acceleratorCount": count} if accelerator else {}),
    }
    if not fault:
        local_machines.check(asked, "machine_spec")
        return
    with pytest.raises(ApiError) as refused:
        local_machines.check(asked, "machine_spec")
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    assert refused.value.message.startswith("List of found errors:\t1.Field: machine_spec.")


#: (machine, accelerator, whether Vertex AI waits for it itself)
FLEX_START = [
    ("n1-standard-8", "NVIDIA_TESLA_T4", False),
    ("n1-standard-8", "NVIDIA_TESLA_V100", False),
    ("n1-standard-8", "", False),
    ("g2-standard-8", "NVIDIA_L4", True),
    ("a2-highgpu-1g", "NVIDIA_TESLA_A100", True),
    ("a3-highgpu-1g", "NVIDIA_H100_80GB", True),
]


@pytest.mark.parametrize(("machine", "accelerator", "offered"), FLEX_START)
def test_flex_start_is_refused_where_vertex_ai_does_not_offer_it(
    machine: str, accelerator: str, *, offered: bool
) -> None:
    card = f"{{type: {accelerator}}}" if accelerator else "null"
    entry = f"{{machine: {machine}, accelerator: {card}, strategy: flex_start}}"
    text = f"dataset: flowers\nlabels: [a, b]\ntraining: {{mobile: {{capacity: [{{}}, {entry}]}}}}"
    asked = {"machineType": machine, "acceleratorType": accelerator or None}
    spec = {"workerPoolSpecs": [{"machineSpec": asked}, {}], "scheduling": {"strategy": "FLEX_START"}}
    if offered:
        dataset_config.parse(text, source="here")
        local_machines.check_strategy(spec)
        return
    with pytest.raises(InvalidDatasetConfig, match=r"training\.mobile: capacity\.1: flex_start is not offered"):
        dataset_config.parse(text, source="here")
    with pytest.raises(ApiError, match="FLEX_START is not supported"):
        local_machines.check_strategy(spec)


def test_both_read_the_same_table() -> None:
    ours = REPOSITORY / "shared" / "src" / "dualdeploy" / "contracts" / "machines.json"
    theirs = REPOSITORY / "infra" / "local_cloud" / "src" / "local_cloud" / "vertex" / "machines.json"
    assert ours.read_bytes() == theirs.read_bytes()
    assert table().as_of in ours.read_text(encoding="utf-8")


def test_a_training_that_is_longer_than_vertex_ai_allows_is_refused() -> None:
    dataset_config.parse("dataset: flowers\nlabels: [a, b]\ntraining: {cloud: {timeout: 7d}}", source="here")
    with pytest.raises(InvalidDatasetConfig, match=r"training\.cloud\.timeout"):
        dataset_config.parse("dataset: flowers\nlabels: [a, b]\ntraining: {cloud: {timeout: 8d}}", source="here")


@pytest.mark.parametrize(
    ("machine", "accelerator", "count", "strategy", "needs"),
    [
        ("n1-standard-8", "", 0, "STANDARD", {"cpus": 24}),
        ("n1-standard-8", "NVIDIA_TESLA_T4", 2, "SPOT", {"preemptible_cpus": 24, "preemptible_nvidia_t4_gpus": 6}),
        ("g2-standard-12", "NVIDIA_L4", 1, "FLEX_START", {"preemptible_g2_cpus": 36, "preemptible_nvidia_l4_gpus": 3}),
        ("a2-ultragpu-2g", "NVIDIA_A100_80GB", 2, "STANDARD", {"a2_cpus": 72, "nvidia_a100_80gb_gpus": 6}),
    ],
)
def test_a_job_takes_from_the_quotas_of_processors_and_of_cards(
    machine: str, accelerator: str, count: int, strategy: str, needs: dict[str, int]
) -> None:
    spec = {"machineType": machine, "acceleratorType": accelerator, "acceleratorCount": count}
    pools = [{"machineSpec": spec}, {"machineSpec": spec, "replicaCount": "2"}, {}]
    demanded = local_machines.demand({"workerPoolSpecs": pools, "scheduling": {"strategy": strategy}})
    prefix = "aiplatform.googleapis.com/custom_model_training_"
    assert demanded == {f"{prefix}{name}": amount for name, amount in needs.items()}
