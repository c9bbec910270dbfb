"""Topics, subscriptions, and what waits in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from doctor.checks import services
from doctor.examination import Check, Look
from doctor.findings import Finding, Hint, Place, State
from doctor.reads import CouldNotLook, NotThere

#: What a subscription says of its topic when that was deleted. Source: google.pubsub.v1.Subscription.topic
_DELETED_TOPIC = "_deleted-topic_"
_WAITING = "pubsub.googleapis.com/subscription/num_undelivered_messages"
_AGE = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"
#: As the alert on waiting events has it (modules/monitoring).
_OLDEST_SECONDS = 1800
#: Metrics are up to some minutes late.
_SEEN_SECONDS = 600


def checks(look: Look) -> Iterator[Check]:
    for topic in look.chain.topics:
        yield _topic(look, topic)
    for name in look.chain.subscriptions:
        yield _subscription(look, name)
    waits = Check(Place.SUBSCRIPTION, "what waits", lambda: _waits(look, waits))
    yield waits


def _topic(look: Look, topic: str) -> Check:
    chain = look.chain

    def ask() -> Iterator[Finding]:
        look.google.topic(chain.topic_path(topic))
        yield check.ok(f"from {', '.join(chain.topics[topic]['publishers'])}")

    readers = [name for name, each in chain.subscriptions.items() if each["topic"] == topic]
    senders = " and ".join(chain.topics[topic]["publishers"])
    missing = f"the topic {topic} is missing: {senders} cannot publish, and {', '.join(readers)} get nothing"
    hint = chain.hint_of_topic(topic)
    check = Check(
        Place.TOPIC,
        topic,
        ask,
        missing=missing,
        remedy=chain.deploy,
        hint=hint,
        only_a_hint=hint in (Hint.RESULT, Hint.LOG),
    )
    return check


def _subscription(look: Look, name: str) -> Check:
    chain, wanted = look.chain, look.chain.subscriptions[name]
    reader = wanted.get("service") or wanted["reader"]
    again = f"gcloud pubsub subscriptions delete {name} --project={chain.project} && {chain.deploy}"

    def ask() -> Iterator[Finding]:
        found = look.google.subscription(chain.subscription_path(name))
        fixed = list(_fixed(look, wanted, found))
        mutable = list(_push(look, wanted, found))
        later = list(_worn(wanted, found))
        if fixed:
            yield check.broken(f"{'; '.join(fixed)}. Neither can be changed: delete it and create it again", again)
        if mutable:
            yield check.broken("; ".join(mutable))
        if later:
            yield check.warning("; ".join(later))
        if not fixed and not mutable and not later:
            yield check.ok(f"{wanted['topic']} → {reader}")

    missing = (
        f"the subscription is missing: {reader} gets no message of {wanted['topic']}, and what is published meanwhile"
        " is lost to it"
    )
    hint = chain.hint_of_subscription(name)
    check = Check(
        Place.SUBSCRIPTION, name, ask, missing=missing, remedy=chain.deploy, hint=hint, only_a_hint=hint is not None
    )
    return check


def _fixed(look: Look, wanted: Mapping[str, Any], found: Any) -> Iterator[str]:
    """What no subscription can change."""
    if found.topic == _DELETED_TOPIC:
        yield f"its topic {wanted['topic']} was deleted, so nothing comes any more"
    elif found.topic != look.chain.topic_path(wanted["topic"]):
        yield f"it reads {found.topic}, not {wanted['topic']}"
    if found.filter != wanted.get("filter", ""):
        ours = wanted.get("filter") or "none"
        yield f"its filter is {found.filter or 'missing'}, not {ours}: it gets the wrong messages"
    if found.detached:
        yield "it is detached: it gets no messages any more"


def _push(look: Look, wanted: Mapping[str, Any], found: Any) -> Iterator[str]:
    """Whether messages arrive where they are handled, signed by who may call."""
    endpoint = found.push_config.push_endpoint
    if wanted.get("pull"):
        if endpoint:
            yield f"it pushes to {endpoint}, but {wanted['reader']} pulls it"
        return
    service = wanted["service"]
    if not endpoint:
        yield f"it has no push endpoint: {service} gets none of its messages, and they wait"
        return
    known = _addresses(look, service)
    if known and endpoint not in [address + wanted["path"] for address in known]:
        yield f"it pushes to {endpoint}, not to {known[0]}{wanted['path']}: {service} gets none of its messages"
    token = found.push_config.oidc_token
    if token.service_account_email != (caller := look.chain.caller(service)):
        yield f"it signs as {token.service_account_email or 'nobody'}, not as {caller}: {service} refuses every message"
    # Without an audience Pub/Sub takes the endpoint.
    elif known and token.audience not in known:
        yield f"its tokens are for {token.audience or endpoint}, not for {known[0]}: {service} refuses every message"


def _addresses(look: Look, service: str) -> list[str]:
    """Where the service answers; nothing where that is not known, which the service's own check tells."""
    with contextlib.suppress(NotThere, CouldNotLook):
        return services.addresses(services.running(look, service))
    return []


def _worn(wanted: Mapping[str, Any], found: Any) -> Iterator[str]:
    """What does no harm before something else goes wrong."""
    if found.expiration_policy.ttl:
        days = found.expiration_policy.ttl.total_seconds() / 86_400
        yield f"it expires after {days:g} days without a reader, with all that waits in it"
    if found.ack_deadline_seconds != wanted["ack_deadline_seconds"]:
        yield f"it waits {found.ack_deadline_seconds} s for an answer, not {wanted['ack_deadline_seconds']}"
    if wanted.get("pull"):
        return
    if "dead_letter_policy" not in wanted:
        pass  # what it carries is sent again by the next tick
    elif not found.dead_letter_policy.dead_letter_topic:
        yield "it has no dead-letter topic: what cannot be handled is tried for a week and then lost"
    elif not found.dead_letter_policy.dead_letter_topic.endswith(f"/{wanted['dead_letter_policy']['topic']}"):
        yield f"it gives up to {found.dead_letter_policy.dead_letter_topic}, which no one reads"
    if not found.retry_policy:
        yield "it has no retry policy: what is refused comes back at once, over and over"


def _waits(look: Look, check: Check) -> Iterator[Finding]:
    chain = look.chain
    waiting = look.google.series(_WAITING, seconds=_SEEN_SECONDS, now=look.now)
    ages = look.google.series(_AGE, seconds=_SEEN_SECONDS, now=look.now)
    stuck = {name: age for name, age in ages.items() if _is_pushed(look, name) and age > _OLDEST_SECONDS}
    for name, age in sorted(stuck.items()):
        service = chain.subscriptions[name]["service"]
        says = f"{waiting.get(name, 0)} messages wait, the oldest for {age // 60} minutes: {service} does not take them"
        logs = f"gcloud run services logs read {chain.host(service)} --region={chain.region} --project={chain.project}"
        yield Finding(Place.SUBSCRIPTION, name, State.BROKEN, says, logs)
    given_up = [name for name, each in chain.subscriptions.items() if each["topic"] == "dead-letters"]
    letters = sum(waiting.get(name, 0) for name in given_up)
    if letters:
        count = f"{letters} dead letter{'s' * (letters > 1)}"
        says = f"{count}: no service could handle them, and what they ask for has not happened"
        yield Finding(Place.SUBSCRIPTION, given_up[0], State.WARNING, says, f"make replay PROJECT={chain.project}")
    if not stuck and not letters:
        yield check.ok("nothing for long, and no dead letters")


def _is_pushed(look: Look, name: str) -> bool:
    return not look.chain.subscriptions.get(name, {"pull": True}).get("pull")
