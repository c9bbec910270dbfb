"""How the doctor looks: it changes nothing, waits for nobody, and says what it could not see."""

from __future__ import annotations

import datetime
import json
import time
from typing import Any

import pytest

from dualdeploy import clock as clocks
from dualdeploy.google.object_store import GcsObjectStore, Generation
from dualdeploy.ledger import Launch, Ledger, Run, Shard, Snapshot, State, names
from dualdeploy.ledger.due import Due

PROJECT = "demo-dualdeploy"
NOW = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)
#: What an operation that changes nothing is called by Google; `batchGet` and `list…` are reads too.
READS = ("get", "list", "batchGet", "getIamPolicy", "testIamPermissions")


@pytest.fixture
def still(ward: Any) -> Any:
    """The ward with a clock that does not tick: whatever is called is called by the doctor."""
    job = ward.cloud.scheduler.jobs["dualdeploy-tick"]
    job.is_paused = True
    _wait_until_nothing_is_called(ward.cloud)
    yield ward
    job.is_paused = False


def _wait_until_nothing_is_called(cloud: Any, *, quiet_s: float = 1.0, limit_s: float = 60.0) -> None:
    """A tick that was sent before the pause is still delivered, and answered with calls."""
    end = time.monotonic() + limit_s
    last, since = cloud.faults.called(), time.monotonic()
    while time.monotonic() - since < quiet_s:
        assert time.monotonic() < end, "the services never came to rest"
        time.sleep(0.1)
        if (now := cloud.faults.called()) != last:
            last, since = now, time.monotonic()


def test_every_call_that_it_makes_is_a_read(still: Any) -> None:
    before = still.cloud.faults.called()
    objects = {blob.name: blob.generation for blob in still.storage.list_blobs(f"{PROJECT}-ledger")}

    still.look()

    called = still.cloud.faults.called() - before
    assert len(called) > 15
    writes = [name for name in called if not name.rsplit(".", 1)[-1].startswith(READS)]
    # The one list of the ledger above is the test's own.
    assert writes == []
    assert {blob.name: blob.generation for blob in still.storage.list_blobs(f"{PROJECT}-ledger")} == objects


@pytest.mark.parametrize(
    ("planned", "place", "says", "remedy"),
    [
        (
            {"eventarc.triggers.get": ["return-403"]},
            "trigger",
            "you lack eventarc.triggers.get",
            f"gcloud projects add-iam-policy-binding {PROJECT} --member=user:YOU --role=roles/viewer",
        ),
        (
            {"run.services.getIamPolicy": ["return-403"]},
            "identity",
            "run.services.getIamPolicy",
            "roles/iam.securityReviewer",
        ),
        ({"storage.objects.list": ["return-403"]}, "", "storage.objects.list", "roles/storage.objectViewer"),
        (
            {"cloudquotas.quotaInfos.list": ["return-403"]},
            "quota",
            "cloudquotas.quotas.get",
            "roles/cloudquotas.viewer",
        ),
        ({"pubsub.getTopic": ["return-403"]}, "topic", "you lack pubsub.topics.get", "roles/viewer"),
        (
            {"monitoring.listTimeSeries": ["return-403"]},
            "subscription",
            "monitoring.timeSeries",
            "roles/monitoring.viewer",
        ),
        ({"cloudscheduler.jobs.get": ["return-503"]}, "clock", "answered 503: planned fault", "ask again later"),
        # Whichever check asks first: that of the subscription, or that of the trigger that it belongs to.
        ({"pubsub.getSubscription": ["return-503"]}, "", "planned fault", "ask again later"),
        ({"logging.sinks.get": ["reset-connection"]}, "hint", "logging was asked for /v2/", "ask again later"),
        ({"iam.serviceAccounts.get": ["hang:3"]}, "identity", "did not answer within 0.5 s", "ask again later"),
        ({"pubsub.getTopic": ["hang:3"]}, "topic", "did not answer within 0.5 s", "ask again later"),
    ],
)
def test_what_cannot_be_seen_is_said_and_hides_nothing_else(
    ward: Any, planned: dict[str, list[str]], place: str, says: str, remedy: str
) -> None:
    ward.cloud.eventarc.deleted.add("data-object-finalized")
    try:
        with ward.cloud.faults.plan(planned):
            found = ward.look("--patience", "0.5")
    finally:
        ward.cloud.eventarc.deleted.clear()
    unseen = [each for each in found if each["state"] == "could not look"]
    assert any(place in each["place"] and says in each["says"] and remedy in each["remedy"] for each in unseen)
    if "eventarc.triggers.get" not in planned:
        assert [each["about"] for each in found if each["state"] == "broken"] == ["data-object-finalized"]


def test_an_api_that_never_answers_does_not_hang_it(ward: Any) -> None:
    begun = time.monotonic()
    deployed = ward.cloud.topology.deployed
    with ward.cloud.faults.plan({"run.services.get": ["hang:30"] * len(deployed)}):
        found = ward.look("--patience", "60", "--limit", "4")
    assert time.monotonic() - begun < 25
    [services] = [each for each in found if each["place"] == "service"]
    assert set(services["about"].split(", ")) == set(deployed)
    assert services["state"] == "could not look"
    assert services["says"] == "this check did not finish within 4 s"
    assert not [each for each in found if each["place"] in ("bucket", "topic", "clock")]


def test_the_exit_code_tells_broken_from_unseen_from_fine(ward: Any) -> None:
    assert ward.run()[0] == 0
    with ward.cloud.faults.plan({"eventarc.triggers.get": ["return-403"]}):
        assert ward.run()[0] == 3
    with ward.cloud.faults.plan({"logging.sinks.get": ["return-403"]}):
        ward.cloud.eventarc.deleted.add("data-object-finalized")
        status, printed = ward.run()
        ward.cloud.eventarc.deleted.clear()
    assert status == 1
    assert "1 broken" in printed


def test_a_remedy_can_be_copied_from_a_narrow_terminal(ward: Any) -> None:
    ward.cloud.eventarc.deleted.add("data-object-finalized")
    _, printed = ward.run(width=60)
    ward.cloud.eventarc.deleted.clear()
    assert f"  → make deploy PROJECT={PROJECT} REGION=us-central1\n" in printed
    table = printed.split("trigger: data-object-finalized")[0]
    assert max(map(len, table.splitlines())) <= 60


def test_the_list_of_everything_names_each_thing(ward: Any) -> None:
    _, printed = ward.run("--all")
    for name in (*ward.cloud.topology.topics, *ward.cloud.topology.subscriptions, *ward.cloud.topology.services):
        assert name in printed
    everything = json.loads(ward.run("--json")[1])
    assert {each["state"] for each in everything} == {"ok"}


# What waits ----------------------------------------------------------------------------------------------------


def test_dead_letters_are_counted_and_lead_to_replay(ward: Any) -> None:
    for number in range(2):
        ward.publisher.publish(ward.topic("dead-letters"), str(number).encode()).result(timeout=5)
    try:
        [found] = ward.look()
    finally:
        name = ward.subscription("dead-letters-replay")
        received = ward.subscriber.pull(subscription=name, max_messages=10, timeout=5).received_messages
        ward.subscriber.acknowledge(subscription=name, ack_ids=[each.ack_id for each in received])
    assert (found["about"], found["state"]) == ("dead-letters-replay", "warning")
    assert found["says"].startswith("2 dead letters: ")
    assert found["remedy"] == f"make replay PROJECT={PROJECT}"


def start_run(ward: Any, at: datetime.datetime, *states: State, **changes: Any) -> str:
    """A run as the services leave it in the ledger; its cloud training is in the last of `states` since `at`."""
    ledger = Ledger(GcsObjectStore(f"{PROJECT}-ledger", client=lambda: ward.storage), clock=lambda: at)
    shard = Shard(name="flowers/a", generation=Generation(1), size=1, crc32c="AAAAAA==")
    run = Run(
        run_id="flowers-0123456789ab",
        dataset="flowers",
        created_at=clocks.to_text(at),
        reason="a test",
        snapshot=Snapshot(bucket=f"{PROJECT}-data", prefix="flowers/", shards=(shard,)),
        config={},
        claim="",
    )
    ledger.claim(run)
    named = {"run_id": run.run_id, "dataset": "flowers", "target": "cloud", "since": run.created_at}
    launch = Launch(**named, state=State.PENDING, attempt=1)
    for state in states:
        launch = launch.moved(state, at=at)
    ledger.create(names.launch(run.run_id, "cloud"), launch.changed(**changes))
    Due("training_launcher", ledger).put(f"launch/{run.run_id}", at)
    return run.run_id


def forget_runs(ward: Any) -> None:
    for blob in ward.storage.list_blobs(f"{PROJECT}-ledger"):
        blob.delete()


def test_a_run_that_does_not_move_is_named_with_the_command_that_shows_it(ward: Any) -> None:
    run_id = start_run(ward, clocks.utc_now() - datetime.timedelta(hours=5), State.LAUNCHING, State.TRAINING)
    try:
        assert ward.look() == []
        later = clocks.utc_now() + datetime.timedelta(hours=22)
        [found] = [each for each in ward.look(now=later) if each["place"] == "run" and each["about"].endswith("cloud")]
    finally:
        forget_runs(ward)
    assert (found["about"], found["state"]) == (f"{run_id}/cloud", "warning")
    assert "is training for 27 hours" in found["says"]
    assert found["remedy"] == f"make run ID={run_id} PROJECT={PROJECT}"


def test_a_run_that_waits_for_quota_is_told_at_the_quota(ward: Any) -> None:
    since = clocks.to_text(clocks.utc_now())
    holdup = {"what": "quota or capacity of Vertex AI", "since": since}
    run_id = start_run(ward, clocks.utc_now(), State.LAUNCHING, holdup=holdup, retry_at=since)
    try:
        [found] = ward.look()
    finally:
        forget_runs(ward)
    assert (found["place"], found["about"], found["state"]) == ("quota", f"{run_id}/cloud", "warning")
    assert f"waits for quota or capacity of Vertex AI, since {since}; asked again at {since}" in found["says"]


def test_refused_events_are_counted_for_a_day(ward: Any) -> None:
    ward.storage.bucket(f"{PROJECT}-ledger").blob("rejected/2026/one.json").upload_from_string("{}")
    try:
        [found] = ward.look()
        a_day_later = clocks.utc_now() + datetime.timedelta(days=1, minutes=1)
        later = ward.look(now=a_day_later)
    finally:
        forget_runs(ward)
    assert (found["about"], found["state"]) == ("refused events", "warning")
    assert found["remedy"] == f"gcloud storage cat gs://{PROJECT}-ledger/rejected/2026/one.json"
    assert not [each for each in later if each["about"] == "refused events"]


# Announced ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("today", "state", "words"),
    [
        ("2027-03-14", None, ""),
        ("2027-03-15", "warning", "92 days are left, until 2027-06-15. flowers publish through it"),
        ("2027-06-15", "broken", "Firebase ML custom model hosting ends on 15 June 2027"),
    ],
)
def test_the_end_of_firebase_ml_is_told_from_the_day_of_the_alert_on(
    ward: Any, today: str, state: str | None, words: str
) -> None:
    now = datetime.datetime.fromisoformat(f"{today}T12:00:00+00:00")
    found = [each for each in ward.look(now=now) if each["place"] == "firebase ml"]
    assert [each["state"] for each in found] == ([state] if state else [])
    for each in found:
        assert words in each["says"]
        assert each["remedy"].startswith(f"make firebase-migrate PROJECT={PROJECT}")


def test_a_data_set_that_does_not_publish_there_needs_not_care(ward: Any) -> None:
    ward.configure("flowers", "{dataset: flowers, labels: [a, b], publishing: {channels: [firebase-storage]}}")
    try:
        found = ward.look(now=datetime.datetime(2027, 7, 1, tzinfo=datetime.UTC))
    finally:
        ward.configure("flowers", "{dataset: flowers, labels: [daisy, roses]}")
    assert not [each for each in found if each["place"] == "firebase ml"]


@pytest.mark.parametrize(
    ("today", "state"), [("2027-06-30", None), ("2027-07-01", "warning"), ("2027-10-31", "broken")]
)
def test_the_end_of_python_3_11_is_told_too(ward: Any, today: str, state: str | None) -> None:
    now = datetime.datetime.fromisoformat(f"{today}T12:00:00+00:00")
    found = [each for each in ward.look(now=now) if each["about"] == "images and runtime"]
    assert [each["state"] for each in found] == ([state] if state else [])


# Usage ---------------------------------------------------------------------------------------------------------


def test_without_a_project_it_says_how_to_name_one(ward: Any) -> None:
    del ward.environment["GOOGLE_CLOUD_PROJECT"]
    try:
        status, printed = ward.run()
    finally:
        ward.environment["GOOGLE_CLOUD_PROJECT"] = PROJECT
    assert status == 2
    assert "--project my-project" in printed


def test_without_a_region_it_looks_where_the_data_is(ward: Any) -> None:
    del ward.environment["GOOGLE_CLOUD_REGION"]
    bucket = ward.storage.bucket(f"{PROJECT}-data")
    try:
        bucket.delete()
        assert "which region? Give --region us-central1" in ward.run()[1]
        bucket.create(location="US-CENTRAL1")
        status, printed = ward.run()
    finally:
        ward.environment["GOOGLE_CLOUD_REGION"] = "us-central1"
    assert status == 0
    assert f"{PROJECT} in us-central1" in printed
