"""Push: what is posted, which answers acknowledge, and what happens to the rest."""

from __future__ import annotations

import base64
import datetime
import time

import pytest
from google.auth import jwt


def _push(endpoint, **config):
    return {"push_endpoint": endpoint.url, **config}


def test_a_pushed_message_is_wrapped_as_google_wraps_it(cloud, endpoint):
    cloud.topic()
    name = cloud.subscription(push_config=_push(endpoint))
    message_id = cloud.publish(b"hello", target="cloud")
    (request,) = endpoint.wait_for(1)
    assert request.path == "/events"
    assert request.headers["content-type"].startswith("application/json")
    assert request.envelope["subscription"] == name
    message = request.message
    assert base64.b64decode(message["data"]) == b"hello"
    assert message["attributes"] == {"target": "cloud"}
    assert message["messageId"] == message["message_id"] == message_id
    assert message["publishTime"] == message["publish_time"]
    published = datetime.datetime.fromisoformat(message["publishTime"])
    assert abs(published - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(seconds=10)


@pytest.mark.emulator_differs("leaves deliveryAttempt out of pushes")
def test_a_push_counts_its_attempts_when_there_is_a_dead_letter_policy(cloud, endpoint):
    cloud.topic()
    policy = {"dead_letter_topic": cloud.topic("letters"), "max_delivery_attempts": 5}
    cloud.subscription(push_config=_push(endpoint), dead_letter_policy=policy)
    endpoint.answers.append(503)
    cloud.publish(b"data")
    requests = endpoint.wait_for(2)
    assert [request.envelope["deliveryAttempt"] for request in requests] == [1, 2]


def test_a_push_without_a_dead_letter_policy_does_not_count(cloud, endpoint):
    cloud.topic()
    cloud.subscription(push_config=_push(endpoint))
    cloud.publish(b"data")
    assert "deliveryAttempt" not in endpoint.wait_for(1)[0].envelope


@pytest.mark.emulator_differs("leaves orderingKey out of pushes")
def test_a_push_says_its_ordering_key(cloud, endpoint):
    cloud.topic()
    cloud.subscription(push_config=_push(endpoint), enable_message_ordering=True)
    cloud.publish(b"data", ordering_key="flowers")
    assert endpoint.wait_for(1)[0].message["orderingKey"] == "flowers"


@pytest.mark.emulator_differs("sends no Authorization header")
def test_a_push_carries_an_oidc_token_of_the_service_account(cloud, endpoint):
    cloud.topic()
    account = "pusher@example.iam.gserviceaccount.com"
    cloud.subscription(push_config=_push(endpoint, oidc_token={"service_account_email": account}))
    cloud.publish(b"data")
    scheme, token = endpoint.wait_for(1)[0].headers["authorization"].split(" ")
    decoded = jwt.decode(token, verify=False)
    assert scheme == "Bearer"
    assert decoded["email"] == account
    assert decoded["aud"] == endpoint.url
    assert decoded["exp"] > time.time()


def test_an_unwrapped_push_is_the_data_with_attributes_as_headers(cloud, endpoint):
    cloud.topic()
    cloud.subscription(push_config=_push(endpoint, no_wrapper={"write_metadata": True}))
    message_id = cloud.publish(b"plain", target="cloud")
    (request,) = endpoint.wait_for(1)
    assert request.body == b"plain"
    assert request.headers["target"] == "cloud"
    assert request.headers["x-goog-pubsub-message-id"] == message_id


def _publish_to_answers(cloud, make_endpoint, codes):
    """One message to one endpoint per code, each of which answers its code first and 204 from then on."""
    cloud.topic()
    endpoints = {}
    for code in codes:
        endpoints[code] = make_endpoint()
        endpoints[code].answers.append(code)
        cloud.subscription(f"answers-{code}", push_config=_push(endpoints[code]))
    cloud.publish(b"data")
    return endpoints


def test_a_success_acknowledges(cloud, make_endpoint):
    endpoints = _publish_to_answers(cloud, make_endpoint, [102, 200, 201, 204])
    for endpoint in endpoints.values():
        endpoint.wait_for(1)
    time.sleep(1.3)  # the emulator retries after 1 s
    assert {code: len(endpoint.requests) for code, endpoint in endpoints.items()} == dict.fromkeys(endpoints, 1)


@pytest.mark.emulator_differs("redelivers after 202")
def test_an_accepted_message_is_acknowledged_too(cloud, make_endpoint):
    endpoint = _publish_to_answers(cloud, make_endpoint, [202])[202]
    endpoint.wait_for(1)
    time.sleep(1.3)
    assert len(endpoint.requests) == 1


def test_every_other_answer_brings_the_message_again(cloud, make_endpoint):
    endpoints = _publish_to_answers(cloud, make_endpoint, [302, 400, 404, 429, 500, 503])
    for endpoint in endpoints.values():
        first, second = endpoint.wait_for(2)
        assert first.message["messageId"] == second.message["messageId"]


@pytest.mark.emulator_differs("takes 203 for an acknowledgement", run=False)
def test_a_success_that_is_not_on_googles_list_brings_the_message_again(cloud, make_endpoint):
    _publish_to_answers(cloud, make_endpoint, [203])[203].wait_for(2)


def test_a_message_reaches_an_endpoint_that_was_down(cloud, make_endpoint):
    cloud.topic()
    gone = make_endpoint()
    gone.close()
    cloud.subscription(push_config=_push(gone))
    cloud.publish(b"patient")
    time.sleep(0.3)
    back = make_endpoint(gone.port)
    assert base64.b64decode(back.wait_for(1)[0].message["data"]) == b"patient"


def test_a_dead_letter_of_a_push_subscription_is_forwarded(breakable, endpoint):
    # On the local cloud only: Google's emulator agrees, but takes five seconds.
    cloud = breakable.cloud
    cloud.topic()
    policy = {"dead_letter_topic": cloud.topic("letters"), "max_delivery_attempts": 5}
    cloud.subscription("undertaker", topic="letters")
    cloud.subscription(push_config=_push(endpoint), dead_letter_policy=policy)
    endpoint.answer = 500
    cloud.publish(b"poison")
    (letter,) = cloud.pull("undertaker", timeout=10)
    assert letter.message.data == b"poison"
    assert letter.message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
    assert len(endpoint.requests) == 5


def test_the_head_of_an_ordering_key_is_pushed_until_it_is_acknowledged(cloud, endpoint):
    cloud.topic()
    cloud.subscription(push_config=_push(endpoint), enable_message_ordering=True)
    endpoint.answers.append(500)
    cloud.publish_messages([{"data": data, "ordering_key": "k"} for data in (b"first", b"second")])
    datas = [base64.b64decode(request.message["data"]) for request in endpoint.wait_for(3)]
    assert datas == [b"first", b"first", b"second"]


def test_a_changed_endpoint_gets_what_the_old_one_did_not_take(cloud, make_endpoint):
    cloud.topic()
    old, new = make_endpoint(), make_endpoint()
    old.answer = 500
    name = cloud.subscription(push_config=_push(old))
    message_id = cloud.publish(b"data")
    old.wait_for(1)
    cloud.subscriber.modify_push_config(subscription=name, push_config=_push(new))
    assert new.wait_for(1)[0].message["messageId"] == message_id


def test_without_an_endpoint_the_messages_can_be_pulled(cloud, endpoint):
    cloud.topic()
    name = cloud.subscription(push_config=_push(endpoint))
    cloud.subscriber.modify_push_config(subscription=name, push_config={})
    cloud.publish(b"pulled")
    assert [one.message.data for one in cloud.pull()] == [b"pulled"]
    assert endpoint.requests == []


@pytest.mark.emulator_differs("does not keep the bounds of a retry policy", run=False)
def test_a_push_is_retried_after_the_minimum_backoff_and_then_twice_that(cloud, endpoint):
    cloud.topic()
    backoff = {"minimum_backoff": datetime.timedelta(seconds=0.3), "maximum_backoff": datetime.timedelta(seconds=9)}
    cloud.subscription(push_config=_push(endpoint), retry_policy=backoff)
    endpoint.answers.extend([503, 503])
    cloud.publish(b"data")
    times = [request.at for request in endpoint.wait_for(3)]
    assert 0.3 <= times[1] - times[0] < 4
    assert 0.6 <= times[2] - times[1] < 4
