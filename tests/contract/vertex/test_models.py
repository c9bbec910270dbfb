"""The Model Registry, as Google's generated client sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform_v1
from google.protobuf import field_mask_pb2, struct_pb2


def get(cloud: Any, name: str) -> aiplatform_v1.Model:
    return cloud.models.get_model(name=name)


def test_the_first_version_is_the_default_one(cloud: Any) -> None:
    name = cloud.upload("first", version_aliases=["candidate"], labels={"run": "r1"})
    assert name == f"{cloud.answered_parent}/models/first@1"
    model = get(cloud, f"{cloud.parent}/models/first")
    assert model.version_id == "1"
    assert sorted(model.version_aliases) == ["candidate", "default"]
    assert dict(model.labels) == {"run": "r1"}
    assert model.artifact_uri == "gs://models/toy"
    assert model.container_spec.predict_route == "/predict"


def test_a_model_id_can_be_taken_only_once(cloud: Any) -> None:
    cloud.upload("taken")
    with pytest.raises(exceptions.Conflict, match="already exists"):
        cloud.upload("taken")


def test_a_model_id_is_taken_while_its_upload_is_in_flight(cloud: Any) -> None:
    request = {"parent": cloud.parent, "model_id": "in-flight", "model": {"display_name": "toy"}}
    first = cloud.models.upload_model(request=request)
    with pytest.raises(exceptions.Conflict, match="already exists"):
        cloud.models.upload_model(request=request)
    cloud.finish(first)


@pytest.mark.parametrize("model_id", ["1flowers", "-flowers", "Flowers", "f" * 64, "flowers.v1"])
def test_a_malformed_model_id_is_refused(cloud: Any, model_id: str) -> None:
    with pytest.raises(exceptions.BadRequest, match="model_id"):
        cloud.upload(model_id)


def test_a_second_version_leaves_the_default_where_it_is(cloud: Any) -> None:
    first = cloud.upload("grows")
    parent_model = first.partition("@")[0]
    second = cloud.upload(parent_model=parent_model, artifact_uri="gs://models/second", labels={"run": "r2"})
    assert second == f"{parent_model}@2"
    assert get(cloud, parent_model).version_id == "1"
    assert get(cloud, second).artifact_uri == "gs://models/second"
    assert dict(get(cloud, second).labels) == {"run": "r2"}
    third = cloud.upload(parent_model=parent_model, version_aliases=["default"])
    assert get(cloud, parent_model).version_id == "3"
    assert get(cloud, f"{parent_model}@default").version_id == third.partition("@")[2]
    with pytest.raises(exceptions.NotFound):
        cloud.upload(parent_model=f"{cloud.parent}/models/absent")


def test_an_alias_belongs_to_one_version(cloud: Any) -> None:
    first = cloud.upload("aliased", version_aliases=["live"])
    second = cloud.upload(parent_model=first.partition("@")[0], version_aliases=["candidate"])
    merged = cloud.models.merge_version_aliases(name=second, version_aliases=["live", "-candidate", "default"])
    assert sorted(merged.version_aliases) == ["default", "live"]
    assert list(get(cloud, first).version_aliases) == []
    assert get(cloud, first.partition("@")[0] + "@live").version_id == "2"
    with pytest.raises(exceptions.NotFound):
        get(cloud, first.partition("@")[0] + "@candidate")


def test_the_default_alias_can_be_moved_but_not_removed(cloud: Any) -> None:
    name = cloud.upload("kept")
    with pytest.raises(exceptions.BadRequest, match="default alias"):
        cloud.models.merge_version_aliases(name=name, version_aliases=["-default"])
    with pytest.raises(exceptions.BadRequest, match="version id"):
        cloud.models.merge_version_aliases(name=name.partition("@")[0], version_aliases=["live"])
    with pytest.raises(exceptions.BadRequest, match="alias"):
        cloud.models.merge_version_aliases(name=name, version_aliases=["1"])


def test_versions_are_listed_under_their_own_names(cloud: Any) -> None:
    parent_model = cloud.upload("listed").partition("@")[0]
    cloud.upload(parent_model=parent_model, labels={"run": "r2"})
    names = [model.name for model in cloud.models.list_model_versions(name=parent_model)]
    assert names == [f"{parent_model}@1", f"{parent_model}@2"]
    request = {"name": parent_model, "filter": 'labels.run="r2"'}
    assert [model.version_id for model in cloud.models.list_model_versions(request=request)] == ["2"]
    request = {"name": parent_model, "order_by": "create_time desc"}
    assert [model.version_id for model in cloud.models.list_model_versions(request=request)] == ["2", "1"]


def test_models_are_listed_by_label_name_and_id(cloud: Any) -> None:
    for model_id in ("alpha", "beta"):
        cloud.upload(model_id, display_name=f"shown-{model_id}", labels={"listing": "yes", "id": model_id})

    def found(text: str, **more: Any) -> list[str]:
        request = {"parent": cloud.parent, "filter": text, **more}
        return [model.name.rsplit("/", 1)[-1] for model in cloud.models.list_models(request=request)]

    assert found("labels.listing=yes", order_by="display_name") == ["alpha", "beta"]
    assert found("labels.listing=yes", order_by="display_name desc", page_size=1) == ["beta", "alpha"]
    assert found('displayName="shown-beta"') == ["beta"]
    assert found("model=alpha") == ["alpha"]
    assert found('labels.listing="yes" AND NOT labels.id=beta') == ["alpha"]


def test_the_model_and_a_version_are_patched_separately(cloud: Any) -> None:
    name = cloud.upload("patched", labels={"team": "a"})
    parent_model = name.partition("@")[0]
    mask = field_mask_pb2.FieldMask(paths=["description", "labels"])
    patched = aiplatform_v1.Model(name=parent_model, description="flowers", labels={"team": "b"})
    assert cloud.models.update_model(model=patched, update_mask=mask).description == "flowers"
    mask = field_mask_pb2.FieldMask(paths=["version_description", "labels"])
    patched = aiplatform_v1.Model(name=name, version_description="first", labels={"run": "r1"})
    model = cloud.models.update_model(model=patched, update_mask=mask)
    assert model.version_description == "first"
    assert dict(model.labels) == {"team": "b", "run": "r1"}
    mask = field_mask_pb2.FieldMask(paths=["artifact_uri"])
    with pytest.raises(exceptions.BadRequest, match="artifactUri"):
        cloud.models.update_model(model=patched, update_mask=mask)


def test_the_default_version_stays_as_long_as_the_model(cloud: Any) -> None:
    first = cloud.upload("shrinks")
    second = cloud.upload(parent_model=first.partition("@")[0])
    with pytest.raises(exceptions.BadRequest, match="default version"):
        cloud.models.delete_model_version(name=first)
    cloud.finish(cloud.models.delete_model_version(name=second))
    with pytest.raises(exceptions.NotFound):
        get(cloud, second)
    third = cloud.upload(parent_model=first.partition("@")[0])
    assert third.endswith("@3"), "version ids are not given twice"
    cloud.finish(cloud.models.delete_model(name=first.partition("@")[0]))
    with pytest.raises(exceptions.NotFound):
        get(cloud, first)


def test_an_unknown_serving_image_fails_the_upload(cloud: Any) -> None:
    model = {"display_name": "toy", "container_spec": {"image_uri": "us-docker.pkg.dev/p/r/nowhere:1"}}
    operation = cloud.models.upload_model(parent=cloud.parent, model=model)
    with pytest.raises(exceptions.NotFound, match="Failed to pull image"):
        cloud.finish(operation)


def test_evaluations_belong_to_a_version(cloud: Any) -> None:
    first = cloud.upload("judged")
    second = cloud.upload(parent_model=first.partition("@")[0])
    metrics = struct_pb2.Value()
    metrics.struct_value.update({"accuracy": 0.91})
    evaluation = aiplatform_v1.ModelEvaluation(
        display_name="golden", metrics_schema_uri="gs://schemas/classification.yaml", metrics=metrics
    )
    made = cloud.models.import_model_evaluation(parent=second, model_evaluation=evaluation)
    assert [found.name for found in cloud.models.list_model_evaluations(parent=second)] == [made.name]
    assert list(cloud.models.list_model_evaluations(parent=first)) == []
    assert json.loads(type(made).to_json(made))["metrics"] == {"accuracy": 0.91}
