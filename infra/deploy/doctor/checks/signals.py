"""What publishes by itself: the clock, the notification of results, and the log sink of training jobs."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterator, Mapping
from typing import Any

from doctor.examination import Check, Look
from doctor.findings import Finding, Hint, Place

#: A tick is due every minute; the alert on the clock waits for ten.
_LATEST_TICK = datetime.timedelta(minutes=10)


def checks(look: Look) -> Iterator[Check]:
    for name, schedule in look.chain.topology["schedules"].items():
        yield _job(look, f"dualdeploy-{name}", schedule)
    for notification in look.chain.notifications():
        yield _notification(look, notification)
    for name, sink in look.chain.topology["log_sinks"].items():
        yield _sink(look, f"dualdeploy-{name}", sink)


def _job(look: Look, name: str, schedule: Mapping[str, Any]) -> Check:
    chain = look.chain
    where = f"--location={chain.region} --project={chain.project}"
    stands = "nothing that waits is resumed: deployments under way, retries, quiet periods"

    def ask() -> Iterator[Finding]:
        path = f"/v1/projects/{chain.project}/locations/{chain.region}/jobs/{name}"
        job = look.google.get("cloudscheduler", path, needs="cloudscheduler.jobs.get")
        state, target, status = job.get("state"), job.get("pubsubTarget", {}), job.get("status", {})
        if state != "ENABLED":
            yield check.broken(f"it is {state}: {stands}", f"gcloud scheduler jobs resume {name} {where}")
        elif target.get("topicName") != chain.topic_path(schedule["topic"]) or job.get("schedule") != schedule["cron"]:
            yield check.broken(f"it publishes {job.get('schedule')!r} to {target.get('topicName')}: {stands}")
        elif json.loads(base64.b64decode(target.get("data", "") or "bnVsbA==")) != schedule["data"]:
            yield check.broken(f"its message is not {json.dumps(schedule['data'])}: every service refuses it")
        elif status.get("code"):
            said = status.get("message") or f"code {status['code']}"
            describe = f"gcloud scheduler jobs describe {name} {where}"
            yield check.broken(f"its last attempt failed ({said}): {stands}", f"{describe}   then: {chain.deploy}")
        elif _is_late(job, look.now):
            yield check.broken(f"it has not ticked since {job['lastAttemptTime']}: {stands}", _run(name, where))
        else:
            yield check.ok(f"ticks to {schedule['topic']}")

    check = Check(
        Place.CLOCK,
        name,
        ask,
        missing=f"the Cloud Scheduler job is missing: {stands}",
        remedy=chain.deploy,
        hint=Hint.CLOCK,
    )
    return check


def _run(name: str, where: str) -> str:
    return f"gcloud scheduler jobs run {name} {where}"


def _is_late(job: Mapping[str, Any], now: datetime.datetime) -> bool:
    attempted = str(job.get("lastAttemptTime", ""))
    return attempted != "" and now - datetime.datetime.fromisoformat(attempted) > _LATEST_TICK


def _notification(look: Look, wanted: Mapping[str, Any]) -> Check:
    chain, bucket, prefix = look.chain, wanted["bucket"], wanted["object_name_prefix"]
    topic = f"//pubsub.googleapis.com/{chain.topic_path(wanted['topic'])}"

    def ask() -> Iterator[Finding]:
        path = f"/storage/v1/b/{bucket}/notificationConfigs"
        configs = look.google.get("storage", path, needs="storage.buckets.get").get("items", [])
        ours = [each for each in configs if each.get("topic") == topic]
        if not ours:
            yield check.broken(f"gs://{bucket} announces nothing to {wanted['topic']}: its notification is missing")
        elif not any(_covers(each, wanted) for each in ours):
            there = "; ".join(
                f"{each.get('object_name_prefix', 'every name')} of {each.get('event_types', 'every kind')}"
                for each in ours
            )
            says = f"gs://{bucket} announces {there}, not {prefix} of {wanted['event_types']}"
            delete = f"gcloud storage buckets notifications delete gs://{bucket}"
            yield check.broken(says, f"{delete} && {chain.deploy}")
        else:
            yield check.ok(f"gs://{bucket}/{prefix} → {wanted['topic']}")

    check = Check(
        Place.HINT,
        f"notification of gs://{bucket}",
        ask,
        missing=f"gs://{bucket} is missing, and announces nothing",
        remedy=chain.deploy,
        hint=Hint.RESULT,
        only_a_hint=True,
    )
    return check


def _covers(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a notification tells of all that it should; without a prefix or types it tells of everything."""
    types = config.get("event_types") or wanted["event_types"]
    starts = wanted["object_name_prefix"].startswith(config.get("object_name_prefix", ""))
    return starts and set(wanted["event_types"]) <= set(types) and config.get("payload_format") != "NONE"


def _sink(look: Look, name: str, wanted: Mapping[str, Any]) -> Check:
    chain = look.chain
    follows = "no log line of an ended job reaches job_notifier"

    def ask() -> Iterator[Finding]:
        path = f"/v2/projects/{chain.project}/sinks/{name}"
        sink = look.google.get("logging", path, needs="logging.sinks.get")
        destination = f"pubsub.googleapis.com/{chain.topic_path(wanted['topic'])}"
        if sink.get("disabled"):
            enable = f"gcloud logging sinks update {name} --no-disabled --project={chain.project}"
            yield check.broken(f"the log sink is disabled: {follows}", enable)
        elif sink.get("destination") != destination:
            yield check.broken(f"the log sink writes to {sink.get('destination')}, not to {destination}: {follows}")
        elif sink.get("filter", "").split() != "\n".join(wanted["filter"]).split():
            there = _one_line(sink.get("filter", ""))
            says = f"the log sink's filter is {there}, which is not ours: {follows}, or the wrong ones"
            yield check.broken(says)
        else:
            yield check.ok(f"ml_job → {wanted['topic']}")

    check = Check(
        Place.HINT,
        name,
        ask,
        missing=f"the log sink is missing: {follows}",
        remedy=chain.deploy,
        hint=Hint.LOG,
        only_a_hint=True,
    )
    return check


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "empty"
