"""What the configuration says about serving reaches Vertex AI, and what cannot be is refused with its reason."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from dualdeploy.contracts import dataset_config
from dualdeploy.errors import InvalidDatasetConfig
from dualdeploy.google.vertex import RequestLogging
from dualdeploy.ledger import State
from support.deployer import Deployer

ACCOUNT = "predictor@demo.iam.gserviceaccount.com"
CANARY = {"canary": {"steps": [100], "answers": 1}}


def released(deployer: Deployer, edition: int = 1) -> str:
    run_id = deployer.train(edition)
    deployer.go_through(run_id)
    deployer.clock.advance(600)
    return run_id


def test_every_serving_option_reaches_the_deployment() -> None:
    deployer = Deployer()
    deployer.configure(
        serving={
            **CANARY,
            "machine": "g2-standard-24",
            "accelerator": {"type": "NVIDIA_L4", "count": 2},
            "min_replicas": 2,
            "max_replicas": 5,
            "autoscaling": {"cpu": 70, "accelerator": 80, "requests": 90},
            "spot": True,
            "service_account": ACCOUNT,
            "container_log": False,
            "access_log": True,
        }
    )
    run_id = released(deployer)
    (deployment,) = deployer.vertex.deployments.values()
    assert (deployment.machine, deployment.accelerator_type, deployment.accelerator_count) == (
        "g2-standard-24",
        "NVIDIA_L4",
        2,
    )
    assert (deployment.min_replicas, deployment.max_replicas) == (2, 5)
    assert deployment.targets == {
        "aiplatform.googleapis.com/prediction/online/cpu/utilization": 70,
        "aiplatform.googleapis.com/prediction/online/accelerator/duty_cycle": 80,
        "aiplatform.googleapis.com/prediction/online/request_count": 90,
    }
    assert (deployment.spot, deployment.service_account) == (True, ACCOUNT)
    assert (deployment.container_log, deployment.access_log) == (False, True)
    assert deployment.display_name == run_id


def test_nothing_is_asked_for_that_the_configuration_does_not_name() -> None:
    deployer = Deployer()
    released(deployer)
    (deployment,) = deployer.vertex.deployments.values()
    assert (deployment.accelerator_count, deployment.targets, deployment.spot) == (0, {}, False)
    assert (deployment.service_account, deployment.container_log, deployment.access_log) == ("", True, False)
    assert deployer.vertex.endpoints["flowers"].request_logging is None


def test_predictions_are_logged_to_bigquery_from_the_next_release_on_and_no_longer_when_that_is_taken_back() -> None:
    deployer = Deployer()
    released(deployer)
    deployer.configure(serving={**CANARY, "request_log": {"table": "bq://demo.logs.flowers", "sampling": 0.25}})
    released(deployer, edition=2)
    assert deployer.vertex.endpoints["flowers"].request_logging == RequestLogging("bq://demo.logs.flowers", 0.25)
    deployer.configure()
    released(deployer, edition=3)
    assert deployer.vertex.endpoints["flowers"].request_logging is None
    assert deployer.vertex.faults.calls["set_request_logging"] == 2


def test_an_endpoint_is_made_shared_if_asked_and_does_not_change_its_kind() -> None:
    deployer = Deployer()
    deployer.configure(serving={**CANARY, "dedicated": False})
    released(deployer)
    assert deployer.vertex.endpoints["flowers"].dns == ""
    deployer.configure()
    release = deployer.release(released(deployer, edition=2))
    assert release.state is State.FAILED
    assert "endpoint flowers is shared, which cannot be changed: set serving.dedicated: false" in release.reason


def test_an_endpoint_whose_name_comes_later_than_itself_is_waited_for() -> None:
    deployer = Deployer()
    released(deployer)
    there = deployer.vertex.endpoints["flowers"]
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(there, dns="")
    run_id = deployer.train(2)
    deployer.go_to(run_id, "endpoint")
    deployer.settle(ticks=3)
    assert deployer.release(run_id).holdup.what == "the DNS name of endpoint flowers"
    deployer.vertex.endpoints["flowers"] = dataclasses.replace(deployer.vertex.endpoints["flowers"], dns=there.dns)
    assert deployer.go_through(run_id).state is State.LIVE


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"min_replicas": 0}, "serving.min_replicas.*write serving.scale_to_zero.*one model on the endpoint"),
        ({"min_replicas": 2}, "max_replicas .1. is less than min_replicas .2."),
        ({"autoscaling": {"cpu": 70}}, "autoscaling has nothing to scale"),
        ({"max_replicas": 3, "autoscaling": {"accelerator": 70}}, "serving.accelerator has none"),
        ({"max_replicas": 3, "autoscaling": {"cpu": 101}}, "serving.autoscaling.cpu"),
        ({"max_replicas": 3, "autoscaling": {"memory": 50}}, "serving.autoscaling.memory"),
        ({"service_account": "predictor"}, "serving.service_account"),
        ({"request_log": {"table": "demo.logs.flowers"}}, "serving.request_log.table"),
        ({"request_log": {"table": "bq://demo", "sampling": 0}}, "serving.request_log.sampling"),
        ({"request_log": {"sampling": 0.5}}, "serving.request_log.table"),
    ],
)
def test_what_vertex_ai_would_refuse_is_refused_when_it_is_read(options: dict[str, Any], why: str) -> None:
    text = json.dumps({"dataset": "flowers", "labels": ["blue", "red"], "serving": options})
    with pytest.raises(InvalidDatasetConfig, match=why):
        dataset_config.parse(text, source="flowers.yaml")


# Scaling to zero -----------------------------------------------------------------------------------------------


def parsed(**serving: Any) -> dataset_config.Serving:
    document = {"dataset": "flowers", "labels": ["blue", "red"], "serving": serving}
    return dataset_config.parse(json.dumps(document), source="flowers.yaml").serving


def test_scaling_to_zero_needs_nothing_but_its_own_key() -> None:
    serving = parsed(dedicated=True, scale_to_zero={"idle": "1h"})
    assert serving.scale_to_zero == dataset_config.ScaleToZero(idle=3600.0, warm=3600.0)
    assert (serving.canary.steps, serving.cool_down, serving.keep_previous, serving.idle) == ((100,), 0.0, 0, "report")


def test_what_does_not_contradict_stays_as_it_was_written() -> None:
    serving = parsed(
        scale_to_zero={},
        canary={"answers": 3, "bake": "1m"},
        cool_down=0,
        spot=True,
        max_replicas=4,
        autoscaling={"cpu": 70},
        request_log={"table": "bq://demo.logs.flowers"},
    )
    assert (serving.canary.answers, serving.canary.bake, serving.spot) == (3, 60.0, True)


def test_a_configuration_that_was_written_out_in_full_means_the_same() -> None:
    serving = parsed(scale_to_zero={"idle": "10m"})
    assert dataset_config.Serving.model_validate(serving.model_dump(mode="json")) == serving


@pytest.mark.parametrize(
    ("options", "why", "instead"),
    [
        ({"dedicated": False}, "Vertex AI refuses it on shared endpoints", "Leave dedicated out"),
        ({"canary": {"steps": [5, 100]}}, "nothing can share its traffic", "Leave canary.steps out"),
        ({"canary": {"monitoring": {}}}, "all of the traffic or none", "Leave canary.monitoring out"),
        ({"keep_previous": 1}, "none can be kept beside it", "Leave keep_previous out"),
        ({"cool_down": "1h"}, "what was replaced cannot stay", "Leave cool_down out"),
        ({"min_replicas": 2, "max_replicas": 3}, "the least is 0 machines", "Leave min_replicas out"),
        ({"idle": "undeploy"}, "both say what happens without requests", "Leave one of them out"),
    ],
    ids=str,
)
def test_what_scaling_to_zero_excludes_is_refused_with_the_reason_and_a_way_out(
    options: dict[str, Any], why: str, instead: str
) -> None:
    with pytest.raises(InvalidDatasetConfig) as refused:
        parsed(scale_to_zero={"idle": "1h"}, **options)
    message = str(refused.value)
    assert message.startswith("flowers.yaml: serving: scale_to_zero does not go with ")
    assert why in message
    assert instead in message
    # Each of them is fine without it.
    parsed(**options)


def test_all_contradictions_are_told_together() -> None:
    with pytest.raises(InvalidDatasetConfig, match=r"dedicated: false.*Nor with keep_previous: 1.*Nor with cool_down"):
        parsed(scale_to_zero={}, dedicated=False, keep_previous=1, cool_down="5m")


@pytest.mark.parametrize("period", ["4m", "9h", "often"])
@pytest.mark.parametrize("key", ["idle", "warm"])
def test_periods_that_vertex_ai_does_not_take_are_refused(key: str, period: str) -> None:
    with pytest.raises(InvalidDatasetConfig, match=f"serving.scale_to_zero.{key}: "):
        parsed(scale_to_zero={key: period})
