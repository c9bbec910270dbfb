"""Firebase ML as the publisher sees it: the same behaviour of the fake and of Google's SDK at the local cloud."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from dualdeploy.errors import PermissionSpreads, RejectedByGoogle, ResourceConflict, ResourceMissing, ServiceUnavailable
from local_cloud.faults import Faults as CloudFaults


@pytest.fixture
def name() -> str:
    """A display name of this test's own."""
    return f"flowers-{uuid.uuid4().hex[:8]}"


def settled(side: Any, name: str) -> Any:
    """The model, once no operation works on it any more."""
    deadline = time.monotonic() + 30
    while (model := side.firebase.find(name)).locked:
        assert time.monotonic() < deadline, "the model stays locked"
        time.sleep(0.03)
    return model


def created(side: Any, name: str, *, good: bool = True) -> Any:
    side.firebase.create(name, gcs_uri=side.file(good=good), tags=["run-1"])
    return settled(side, name)


def test_a_model_that_was_never_created_is_none(firebase_side: Any, name: str) -> None:
    assert firebase_side.firebase.find(name) is None


def test_a_new_model_is_locked_and_then_there_and_not_published(firebase_side: Any, name: str) -> None:
    uri = firebase_side.file()
    firebase_side.hold_next_operation()
    model = firebase_side.firebase.create(name, gcs_uri=uri, tags=["flowers", "run-1"])
    assert model.locked
    assert (model.display_name, model.tags, model.published) == (name, ("flowers", "run-1"), False)

    model = settled(firebase_side, name)

    assert not model.published
    assert model.gcs_uri == uri
    assert model.model_hash
    assert model.size_bytes > 0
    assert model.error == ""


def test_a_model_is_found_by_its_whole_name_alone(firebase_side: Any, name: str) -> None:
    created(firebase_side, name)

    assert firebase_side.firebase.find(name[:-1]) is None
    assert firebase_side.firebase.find(f"{name}-2") is None
    assert firebase_side.firebase.find(name).display_name == name


def test_a_name_is_taken_once(firebase_side: Any, name: str) -> None:
    first = created(firebase_side, name)

    # Perhaps our own, made by a try whose answer was lost: the next try finds it.
    with pytest.raises(ResourceConflict):
        firebase_side.firebase.create(name, gcs_uri=firebase_side.file(), tags=[])
    assert firebase_side.firebase.find(name).id == first.id


def test_a_published_model_stays_published_when_it_is_updated(firebase_side: Any, name: str) -> None:
    model = created(firebase_side, name)
    assert firebase_side.firebase.publish(model.id).published

    uri = firebase_side.file()
    firebase_side.firebase.update(model.id, gcs_uri=uri, tags=["run-2"])
    updated = settled(firebase_side, name)

    assert updated.published
    assert updated.id == model.id
    assert (updated.gcs_uri, updated.tags) == (uri, ("run-2",))
    assert updated.model_hash != model.model_hash


def test_publishing_can_be_repeated(firebase_side: Any, name: str) -> None:
    model = created(firebase_side, name)

    for _ in range(2):
        assert firebase_side.firebase.publish(model.id).published


def test_a_file_that_is_not_a_model_is_told_and_cannot_be_published(firebase_side: Any, name: str) -> None:
    model = created(firebase_side, name, good=False)

    assert "flatbuffer" in model.error
    assert not model.published
    with pytest.raises(RejectedByGoogle):
        firebase_side.firebase.publish(model.id)


def test_a_locked_model_is_published_later(firebase_side: Any, name: str) -> None:
    firebase_side.hold_next_operation()
    model = firebase_side.firebase.create(name, gcs_uri=firebase_side.file(), tags=[])
    assert model.locked

    with pytest.raises(ServiceUnavailable):
        firebase_side.firebase.publish(model.id)

    assert firebase_side.firebase.publish(settled(firebase_side, name).id).published


def test_a_locked_model_is_updated_later(firebase_side: Any, name: str) -> None:
    firebase_side.hold_next_operation()
    model = firebase_side.firebase.create(name, gcs_uri=firebase_side.file(), tags=[])
    assert model.locked

    with pytest.raises(ServiceUnavailable):
        firebase_side.firebase.update(model.id, gcs_uri=firebase_side.file(), tags=[])


def test_a_model_that_does_not_exist_cannot_be_changed(firebase_side: Any) -> None:
    with pytest.raises(RejectedByGoogle):
        firebase_side.firebase.update("12345", gcs_uri=firebase_side.file(), tags=[])
    with pytest.raises(RejectedByGoogle):
        firebase_side.firebase.publish("12345")


# What Firebase ML answers, or does not answer, becomes one of our errors ---------------------------------------------


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, RejectedByGoogle),
        (403, PermissionSpreads),
        (404, ResourceMissing),
        (408, ServiceUnavailable),
        (409, ResourceConflict),
        (429, ServiceUnavailable),
        (502, ServiceUnavailable),
        (504, ServiceUnavailable),
    ],
)
@pytest.mark.parametrize("operation", ["list", "create"])
def test_an_answer_becomes_an_error(
    operation: str, code: int, error: type[Exception], *, cloud_firebase: Any, cloud_faults: CloudFaults, name: str
) -> None:
    uri = cloud_firebase.file()
    calls = {
        "list": lambda: cloud_firebase.firebase.find(name),
        "create": lambda: cloud_firebase.firebase.create(name, gcs_uri=uri, tags=[]),
    }
    planned = {f"firebaseml.models.{operation}": [f"return-{code}"]}
    with cloud_faults.plan(planned), pytest.raises(error, match="Firebase ML") as caught:
        calls[operation]()
    assert type(caught.value) is error


@pytest.mark.parametrize("fault", ["return-500", "return-503", "reset-connection"])
def test_one_transient_failure_is_not_even_noticed(
    fault: str, cloud_firebase: Any, cloud_faults: CloudFaults, name: str
) -> None:
    with cloud_faults.plan({"firebaseml.models.list": [fault]}):
        assert cloud_firebase.firebase.find(name) is None


def test_a_creation_whose_answer_was_lost_is_found_by_its_name(
    cloud_firebase: Any, cloud_faults: CloudFaults, name: str
) -> None:
    with cloud_faults.plan({"firebaseml.models.create": ["lost-response"]}), pytest.raises(ResourceConflict):
        # The SDK repeats the call and is told that the name is taken.
        cloud_firebase.firebase.create(name, gcs_uri=cloud_firebase.file(), tags=[])

    assert settled(cloud_firebase, name).display_name == name


def test_an_update_whose_answer_was_lost_is_not_a_refusal(
    cloud_firebase: Any, cloud_faults: CloudFaults, name: str
) -> None:
    model = created(cloud_firebase, name)
    uri = cloud_firebase.file()

    cloud_firebase.hold_next_operation()
    cloud_faults.add({"firebaseml.models.patch": ["lost-response"]})
    with pytest.raises(ServiceUnavailable, match="works on model"):
        # The SDK repeats the call and is told that the model is locked, by the operation of the first.
        cloud_firebase.firebase.update(model.id, gcs_uri=uri, tags=["run-2"])

    assert settled(cloud_firebase, name).gcs_uri == uri
    assert cloud_faults.pending() == {}


def test_a_server_that_hangs_is_given_up_in_time(
    firebase_emulator: Any, gateway_at: Any, cloud_faults: CloudFaults, name: str
) -> None:
    cloud_faults.add({"firebaseml.models.list": ["hang:1"] * 2})
    began = time.monotonic()
    try:
        with (
            gateway_at(firebase_emulator.address, call_timeout=0.3) as gateway,
            pytest.raises(ServiceUnavailable),
        ):
            gateway.find(name)
    finally:
        cloud_faults.clear()

    assert time.monotonic() - began < 5


def test_a_connection_that_is_refused_is_a_reason_to_retry_later(gateway_at: Any, unheard: str, name: str) -> None:
    with gateway_at(unheard) as gateway, pytest.raises(ServiceUnavailable):
        gateway.find(name)
