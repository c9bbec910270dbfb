"""A data set's configuration: everything has a default but name and labels, and every fault is told with its path."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dualdeploy.contracts import dataset_config
from dualdeploy.contracts.dataset_config import DatasetConfig, parse, parse_duration
from dualdeploy.errors import InvalidDatasetConfig, ServiceUnavailable, UnknownDataset
from dualdeploy.google import config_bucket
from dualdeploy.google.object_store import ABSENT
from support.fakes import Failing, MemoryObjectStore

SMALLEST: dict[str, Any] = {"dataset": "flowers", "labels": ["daisy", "roses"]}

#: The design's example, with the keys that exist.
EXAMPLE = """
dataset: flowers
labels: [daisy, dandelion, roses, sunflowers, tulips]
data:      {prefix: flowers/, snapshot: all, quiet_period: 2m, features: {image: image, label: class}}
training:
  method: custom
  cloud:   {architecture: densenet121, weights: imagenet, image_size: 224, epochs: 12, machine: n1-standard-8,
            accelerator: {type: NVIDIA_TESLA_T4, count: 1}, capacity: [{strategy: spot}], timeout: 2h}
  mobile:  {architecture: mobilenet_v3_small, weights: imagenet, image_size: 224, epochs: 20, machine: n1-standard-8,
            accelerator: {type: NVIDIA_TESLA_T4, count: 1}, capacity: [{strategy: spot}], timeout: 2h}
gates:
  cloud:   {min_accuracy: 0.85}
  mobile:  {min_accuracy: 0.80, max_size_mb: 8}
serving:   {endpoint: flowers, machine: n1-standard-4, min_replicas: 1, max_replicas: 3}
publishing: {name: flowers}
"""


def read(change: dict[str, Any] | None = None) -> DatasetConfig:
    return parse(yaml.safe_dump({**SMALLEST, **(change or {})}), source="flowers.yaml")


def faults_of(document: Any) -> str:
    text = document if isinstance(document, str | bytes) else yaml.safe_dump(document)
    with pytest.raises(InvalidDatasetConfig) as caught:
        parse(text, source="gs://config/datasets/flowers.yaml")
    message = str(caught.value)
    assert message.startswith("gs://config/datasets/flowers.yaml")
    return message


# Recipes -------------------------------------------------------------------------------------------------------------


def test_the_name_of_a_recipe_stands_for_its_keys() -> None:
    recipe = read({"training": {"cloud": {"recipe": "whole_base"}}}).training.cloud.recipe
    assert (recipe.head, recipe.fine_tuned_share, recipe.fine_tuning_rate) == ("features", 1.0, 0.3)
    assert recipe.label_smoothing == read().training.cloud.recipe.label_smoothing


@pytest.mark.parametrize(
    ("cloud", "says"),
    [
        ({"recipe": "best"}, "training.cloud.recipe: must be whole_base, or a section of keys, not 'best'"),
        ({"recipe": ["whole_base"]}, "training.cloud.recipe: must be a section of keys"),
        (
            {"recipe": "whole_base", "weights": "none", "architecture": "module:gs://config/modules/net.py"},
            "a network of your own has a head of its own, which cannot be fitted: write recipe.head: steps",
        ),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_with_what_to_write(cloud: dict[str, Any], says: str) -> None:
    assert says in faults_of({**SMALLEST, "training": {"cloud": cloud}})


# Defaults ------------------------------------------------------------------------------------------------------------


def test_name_and_labels_are_enough() -> None:
    config = read()

    assert config.data.prefix == "flowers/"
    assert config.data.quiet_period == 120.0
    assert config.training.cloud.architecture == "densenet121"
    assert config.training.mobile.architecture == "mobilenet_v3_small"
    assert config.training.of("mobile").epochs == 20
    assert config.serving.endpoint == "flowers"
    assert config.publishing.name == "flowers"


def test_the_example_of_the_design_is_read() -> None:
    config = parse(EXAMPLE, source="flowers.yaml")

    assert config.labels == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    assert config.data.features.label == "class"
    assert config.training.cloud.timeout == 7200.0
    assert config.gates.mobile.max_size_mb == 8.0
    assert config.serving.max_replicas == 3


def test_a_given_section_keeps_the_names_that_follow_from_the_data_set() -> None:
    config = read({"data": {"quiet_period": "10s"}, "serving": {"max_replicas": 2}, "publishing": None})

    assert (config.data.prefix, config.serving.endpoint, config.publishing.name) == ("flowers/", "flowers", "flowers")


def test_what_is_given_is_not_overridden() -> None:
    config = read(
        {"data": {"prefix": "flowers/clean/"}, "serving": {"endpoint": "shop"}, "publishing": {"name": "Shop_1"}}
    )

    assert config.data.prefix == "flowers/clean/"
    assert (config.serving.endpoint, config.publishing.name) == ("shop", "Shop_1")


def test_a_schema_is_short_for_the_features_of_its_writers_and_what_is_written_counts_more() -> None:
    detection = read({"data": {"schema": "object-detection"}}).data
    assert (detection.features.image, detection.features.label) == ("image/encoded", "image/object/class/label")
    assert detection.first_label == 1
    mixed = read({"data": {"schema": "tfds", "first_label": 1, "features": {"label": "species"}}}).data
    assert (mixed.features.image, mixed.features.label, mixed.first_label) == ("image", "species", 1)


@pytest.mark.parametrize(("rule", "eval_patterns"), [("hash", ()), ({"eval": "val/*"}, ("val/*",))])
def test_a_rule_of_the_split_survives_being_kept(rule: object, eval_patterns: tuple[str, ...]) -> None:
    config = read({"data": {"split": rule}})
    assert config.data.split.eval == eval_patterns
    assert DatasetConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_configuration_survives_being_kept_in_the_ledger() -> None:
    config = parse(EXAMPLE, source="flowers.yaml")

    assert DatasetConfig.model_validate(config.model_dump(mode="json")) == config


@settings(deadline=None)  # a loaded machine says nothing of the code
@given(st.from_regex(r"[a-z][a-z0-9-]{0,37}[a-z0-9]", fullmatch=True))
def test_every_good_name_gives_good_names_of_endpoint_and_model(dataset: str) -> None:
    config = parse(yaml.safe_dump({**SMALLEST, "dataset": dataset}), source="x")

    assert config.serving.endpoint == dataset
    assert config.publishing.name[:23] == dataset[:23]


def test_two_long_names_never_become_one_model() -> None:
    names = {parse(f"{{dataset: {'x' * 35 + end}, labels: [a, b]}}", source="x").publishing.name for end in "abc"}

    assert len(names) == 3
    assert all(len(name) == 32 for name in names)


# Faults --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        *(
            ({"training": {"cloud": {"capacity": capacity}}}, f"training.cloud: capacity.{number} asks for the same")
            for number, capacity in [
                (1, [{}, {"wait": "1h"}]),
                (2, [{"strategy": "spot"}, {}, {"machine": "n1-standard-8"}]),
            ]
        ),
        ({"training": {"cloud": {"capacity": []}}}, "training.cloud.capacity: must be a list of at least 1"),
        (
            {"training": {"cloud": {"capacity": [{"wait": 0}]}}},
            "training.cloud.capacity.0.wait: Input should be greater than or equal to 60",
        ),
        (
            {"training": {"cloud": {"capacity": [{"wait": "2d"}]}}},
            "training.cloud.capacity.0.wait: Input should be less than or equal to 86400",
        ),
        ({"training": {"cloud": {"capacity": [{"strategy": "cheap"}]}}}, "training.cloud.capacity.0.strategy: "),
        ({"publishing": {"channels": ["post"]}}, "publishing.channels.0: Input should be"),
        ({"labels": ["daisy", ["roses"]]}, "labels.1: "),
        ({"dataset": ["flowers"]}, "dataset: Input should be a valid string, not ['flowers']"),
        ({"dataset": "Flowers"}, "dataset: must match [a-z][a-z0-9-]{0,38}"),
        ({"dataset": "flowers/../birds"}, "dataset: must match"),
        ({"dataset": "f" * 40}, "dataset: must match"),
        ({"dataset": 17}, "dataset: must match [a-z][a-z0-9-]{0,38} (it becomes part of Vertex AI labels), not '17'"),
        ({"labels": []}, "labels: "),
        ({"labels": ["daisy"]}, "labels: must be a list of at least 2, not ['daisy']"),
        ({"labels": "daisy, roses"}, "labels: must be a list, such as [a, b], not 'daisy, roses'"),
        ({"labels": {"0": "daisy", "1": "roses"}}, "labels: must be a list, such as [a, b]"),
        ({"labels": ["daisy", "daisy"]}, "labels: duplicate label 'daisy'"),
        ({"labels": ["daisy", "daisy "]}, "labels: duplicate label 'daisy'"),
        ({"labels": ["gr\u00fcn", "rot", "gru\u0308n"]}, "labels: duplicate label 'gr\u00fcn'"),
        ({"labels": ["daisy", " "]}, "labels: a label is empty or has a line break"),
        ({"labels": ["daisy", "ro\nses"]}, "labels: a label is empty or has a line break"),
        ({"labels": ["daisy", "ro\u2028ses"]}, "labels: a label is empty or has a line break"),
        ({"labels": ["daisy", "roses", ["tulips"]]}, "labels.2: Input should be a valid string, not ['tulips']"),
        ({"trainign": {}}, "trainign: unknown key"),
        ({"data": {"prefix": "birds/"}}, "data: prefix must begin with flowers/ and end with /"),
        ({"data": {"prefix": "flowers"}}, "data: prefix must begin with flowers/ and end with /"),
        ({"data": {"prefix": "flowers-2/"}}, "data: prefix must begin with flowers/"),
        ({"data": {"quiet_period": "soon"}}, "data.quiet_period: must be a duration such as 90s, 2m, 1h or 1d"),
        ({"data": {"quiet_period": -1}}, "data.quiet_period: must be a duration"),
        ({"data": {"quiet_period": None}}, "data.quiet_period: must be a duration"),
        ({"data": {"features": {"picture": "x"}}}, "data.features.picture: unknown key"),
        ({"data": {"schema": "coco"}}, "data: schema must be one of flowers, tfds, slim, object-detection, not 'coco'"),
        ({"data": {"first_label": -1}}, "data.first_label: "),
        ({"data": {"split": "folders"}}, "data.split: must be names, hash, or {eval: 'pattern'}"),
        ({"data": {"split": {"evall": "x"}}}, "data.split.evall: unknown key"),
        ({"data": []}, "data: must be a section of keys, such as {key: value}, not []"),
        ({"data": {"features": ["image", "class"]}}, "data.features: must be a section of keys"),
        ({"data": {"shards": None}}, "data.shards: must be a list, such as [a, b]"),
        ({"data": {"snapshot": "latest"}}, "data.snapshot: "),
        ({"training": {"method": "magic"}}, "training.method: "),
        ({"training": {"cloud": {"architecture": "resnet"}}}, "training.cloud.architecture: "),
        ({"training": {"cloud": {"weights": "s3://x"}}}, "training.cloud.weights: "),
        ({"training": {"cloud": {"image_size": 16}}}, "training.cloud.image_size: "),
        ({"training": {"mobile": {"epochs": 0}}}, "training.mobile.epochs: "),
        ({"training": {"mobile": {"learning_rate": math.nan}}}, "training.mobile.learning_rate: "),
        ({"training": {"mobile": {"timeout": 0}}}, "training.mobile.timeout: "),
        ({"training": {"mobile": {"timeout": math.inf}}}, "training.mobile.timeout: must be a duration"),
        ({"training": {"mobile": {"accelerator": {"count": 0}}}}, "training.mobile.accelerator.count: "),
        ({"gates": {"cloud": {"min_accuracy": 85}}}, "gates.cloud.min_accuracy: "),
        ({"gates": {"mobile": {"max_size_mb": 0}}}, "gates.mobile.max_size_mb: "),
        ({"serving": {"endpoint": "Flowers"}}, "serving.endpoint: "),
        ({"serving": {"min_replicas": 0}}, "serving.min_replicas: "),
        (
            {"serving": {"min_replicas": 3, "max_replicas": 2}},
            "serving: max_replicas (2) is less than min_replicas (3)",
        ),
        ({"publishing": {"name": "flowers & more"}}, "publishing.name: "),
        ({"publishing": {"name": "f" * 33}}, "publishing.name: "),
        ({"routing": {"mode": "prefer_cloud"}}, "routing.mode: "),
        ({"routing": {"max_loss": 0}}, "routing.max_loss: "),
        ({"routing": {"max_loss": 1}}, "routing.max_loss: "),
        ({"routing": {"confidence": 95}}, "routing.confidence: "),
        ({"routing": {"confidence": 1.0}}, "routing.confidence: "),
        ({"routing": {"max_share": 30}}, "routing.max_share: "),
        ({"routing": {"ask_about": ["poppies"]}}, "routing: ask_about names poppies: labels are "),
    ],
    ids=repr,
)
def test_a_fault_is_told_with_its_path(change: dict[str, Any], fault: str) -> None:
    message = faults_of({**SMALLEST, **change})

    assert fault in message
    assert message.count("; ") == 0, "one fault, told once"


@pytest.mark.parametrize("missing", SMALLEST)
def test_name_and_labels_are_required(missing: str) -> None:
    document = {key: value for key, value in SMALLEST.items() if key != missing}

    assert f"{missing}: Field required" in faults_of(document)


def test_all_faults_are_told_together() -> None:
    message = faults_of(
        {
            "dataset": "flowers",
            "labels": ["a", "a"],
            "data": {"prefix": "birds/"},
            "training": {"cloud": {"epochs": 0, "speed": 9}},
            "serving": {"min_replicas": 3, "max_replicas": 2},
            "budgte": {},
        }
    )

    for path in ("labels:", "data:", "training.cloud.epochs:", "training.cloud.speed:", "serving:", "budgte:"):
        assert path in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "[1, 2]",
        "{",
        "a: b: c",
        "\t",
        b"\xff\xfe\x00",
        "dataset: 2026-13-45",
        "!!int abc",
        "!!bool perhaps",
        "!!timestamp never",
        "!!python/object:os.system {}",
        "? [a]\n: 1",
        "!!map text",
        "&a [*a]",
        "[" * 600,
    ],
)
def test_what_is_not_a_mapping_in_yaml_is_refused(text: str | bytes) -> None:
    faults_of(text)


@settings(deadline=None)  # a loaded machine says nothing of the code
@given(st.text() | st.binary())
def test_no_text_raises_anything_else(text: str | bytes) -> None:
    faults_of(text)


# Durations -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2m", 120), ("1.5h", 5400), ("1d", 86400), ("500ms", 0.5), (30, 30), (0, 0), (" 2m ", 120)],
)
def test_durations_have_a_unit_or_are_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["2:00", "12:30", "0:45"])
def test_a_clock_time_is_refused_because_it_may_be_hours_or_minutes(text: str) -> None:
    with pytest.raises(ValueError, match=r"may be hours or minutes: write \d+m or \d+s"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "2", "2 m", "-2m", "2M", "m", "1h30m", True, None, -1, math.nan, math.inf, []])
def test_other_durations_are_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="such as 90s, 2m, 1h or 1d"):
        parse_duration(text)


# In the bucket -------------------------------------------------------------------------------------------------------


def test_a_configuration_is_read_from_its_place() -> None:
    store = MemoryObjectStore("config")
    store.put("datasets/flowers.yaml", EXAMPLE.encode(), expect=ABSENT)

    assert config_bucket.read(store, "flowers") == parse(EXAMPLE, source="x")


def test_an_unknown_data_set_says_where_to_put_its_configuration() -> None:
    with pytest.raises(UnknownDataset, match=r"gs://config/datasets/birds\.yaml"):
        config_bucket.read(MemoryObjectStore("config"), "birds")


@pytest.mark.parametrize("dataset", ["", "Flowers", "../flowers", "flowers.yaml", "x" * 40, "flowers\n"])
def test_what_can_be_no_data_set_is_not_even_looked_for(dataset: str) -> None:
    store = MemoryObjectStore("config")

    with pytest.raises(UnknownDataset, match="cannot be a data set"):
        config_bucket.read(store, dataset)
    assert not store.faults.calls


def test_a_configuration_under_another_name_is_refused() -> None:
    store = MemoryObjectStore("config")
    store.put("datasets/birds.yaml", EXAMPLE.encode(), expect=ABSENT)

    with pytest.raises(InvalidDatasetConfig, match="dataset: is 'flowers', must be 'birds'"):
        config_bucket.read(store, "birds")


def test_a_bucket_that_does_not_answer_is_not_a_verdict_on_the_configuration() -> None:
    store = MemoryObjectStore("config")
    store.faults.plan("read", Failing(ServiceUnavailable("no answer")))

    with pytest.raises(ServiceUnavailable):
        config_bucket.read(store, "flowers")


def test_configurations_of_the_repository_are_good() -> None:
    """Whatever the repository ships as a data set's configuration has to be one."""
    repository = Path(__file__).parents[4]
    found = [path for path in repository.glob("**/flowers.yaml") if not {".venv", "build"} & set(path.parts)]

    for path in found:
        assert parse(path.read_bytes(), source=str(path)).dataset == "flowers"
    assert found


# Schedules -----------------------------------------------------------------------------------------------------------


def test_a_schedule_is_a_cron_expression_in_utc_or_in_a_time_zone() -> None:
    alone = read({"data": {"retrain_schedule": "0 6 * * 1"}}).data.retrain_schedule
    assert alone
    assert (alone.cron, alone.time_zone) == ("0 6 * * 1", "UTC")
    local = {"cron": "*/30 6-8 * JAN,JUL MON#1", "time_zone": "Europe/Berlin"}
    there = read({"data": {"retrain_schedule": local}}).data.retrain_schedule
    assert there
    assert there.model_dump() == local


@pytest.mark.parametrize(
    ("schedule", "fault"),
    [
        ("every monday", "'every monday' is not a cron expression"),
        ("@daily", "'@daily' is not a cron expression"),
        ("0 0 6 * * 1", "is not a cron expression"),
        ("0 25 * * *", "'0 25 * * *' is not a cron expression"),
        ("0 6 30 2 *", "'0 6 30 2 *' is n"),
        ({"cron": "0 6 * * 1", "time_zone": "Berlin"}, "'Berlin' is not a time zone"),
        ({"cron": "0 6 * * 1", "time_zone": "../etc/passwd"}, "is not a time zone"),
        ({"time_zone": "UTC"}, "cron"),
        (7, "retrain_schedule"),
    ],
)
def test_a_schedule_that_cannot_be_used_is_a_fault_of_the_configuration(schedule: object, fault: str) -> None:
    message = faults_of({**SMALLEST, "data": {"retrain_schedule": schedule}})
    assert "data.retrain_schedule" in message
    assert fault in message


# Size --------------------------------------------------------------------------------------------------------------


def test_what_is_far_too_large_to_be_a_configuration_is_not_even_parsed() -> None:
    padding = "# " + "x" * dataset_config.MAX_BYTES
    with pytest.raises(InvalidDatasetConfig, match=r"test has \d+ bytes, a configuration may have 1048576"):
        dataset_config.parse(f"dataset: flowers\nlabels: [a, b]\n{padding}\n", source="test")


def test_a_fault_quotes_no_more_of_a_value_than_tells_which_it_is() -> None:
    message = faults_of({**SMALLEST, "data": {"quiet_period": "x" * 10_000}})

    assert len(message) < 500


# AutoML --------------------------------------------------------------------------------------------------------------


def automl(training: dict[str, Any] | None = None, serving: dict[str, Any] | None = None) -> dict[str, Any]:
    shared = {"dedicated": False} if serving is None else serving
    return {"training": {"method": "automl", **(training or {})}, "serving": shared}


def test_automl_spends_the_least_unless_told_otherwise() -> None:
    config = read(automl({"automl": {"mobile": {"budget_node_hours": 2.5}}}))

    assert config.training.automl.of("cloud").budget_node_hours == 8
    assert config.training.automl.of("cloud").model_type == "CLOUD"
    assert config.training.automl.of("mobile").budget_node_hours == 2.5
    assert config.training.automl.of("mobile").model_type == "MOBILE_TF_VERSATILE_1"


@pytest.mark.parametrize(
    ("serving", "says"),
    [
        ({}, "serving.dedicated: true: Vertex AI serves AutoML models on shared endpoints only. Write dedicated:"),
        ({}, "another serving.endpoint, such as flowers-shared"),
        ({"endpoint": "a" * 63}, f"such as {'a' * 56}-shared"),
        ({"dedicated": False, "machine": "n1-standard-8"}, "serving.machine: Google chooses the machines"),
        ({"dedicated": False, "accelerator": {"type": "NVIDIA_TESLA_T4"}}, "serving.accelerator: Google chooses"),
        ({"dedicated": False, "max_replicas": 2, "autoscaling": {"cpu": 50}}, "serving.autoscaling: Google chooses"),
        ({"dedicated": False, "spot": True}, "serving.spot: Google chooses"),
        ({"dedicated": False, "service_account": "a@p.iam.gserviceaccount.com"}, "serving.service_account: Google"),
        ({"scale_to_zero": {}}, "Nor with serving.scale_to_zero: Google chooses"),
    ],
)
def test_automl_does_not_serve_as_our_own_models_do(serving: dict[str, Any], says: str) -> None:
    assert says in faults_of({**SMALLEST, **automl(serving=serving)})
    assert says not in str(read({"serving": serving}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (automl({"automl": {"cloud": {"budget_node_hours": 7.9}}}), "training.automl.cloud.budget_node_hours: "),
        (automl({"automl": {"cloud": {"budget_node_hours": 801}}}), "training.automl.cloud.budget_node_hours: "),
        (automl({"automl": {"mobile": {"budget_node_hours": 0.5}}}), "training.automl.mobile.budget_node_hours: "),
        (automl({"automl": {"mobile": {"budget_node_hours": 101}}}), "training.automl.mobile.budget_node_hours: "),
        (automl({"automl": {"cloud": {"model_type": "MOBILE_TF_VERSATILE_1"}}}), "training.automl.cloud.model_type: "),
        (automl({"automl": {"mobile": {"model_type": "CLOUD"}}}), "training.automl.mobile.model_type: "),
        ({**automl(), "publishing": {"quantization": "int8"}}, "publishing.quantization: AutoML makes one file"),
        ({**automl(), "labels": [f"l{n}" for n in range(5_001)]}, "5001 labels: AutoML takes at most 5000"),
        ({**automl(), "labels": ["daisy", "r" * 129]}, "AutoML takes at most 128 characters"),
    ],
)
def test_what_automl_would_refuse_after_it_was_paid_for_is_refused_at_once(change: dict[str, Any], says: str) -> None:
    assert says in faults_of({**SMALLEST, **change})


def test_a_recorded_configuration_for_automl_is_read_again_with_every_default_in_it() -> None:
    config = read(automl())

    assert dataset_config.stored(config.model_dump(mode="json")) == config
