"""What the endpoint answers to the golden pictures, told apart by the deployed model that answered.

The traffic split draws a model for each request; there is no way to address one. So pictures are sent until enough of
them were answered by the candidate. Vertex AI names the deployed model in an answer, not in an error: while a candidate
has traffic, a failure is charged to it, less what failed before it had any.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

from cloud_deployer.release import Limits, Tally, Watched
from dualdeploy.contracts import prediction
from dualdeploy.contracts.golden import Picture, decode
from dualdeploy.contracts.prediction import Form
from dualdeploy.errors import (
    CredentialsUnavailable,
    ModelAsleep,
    PermissionSpreads,
    RejectedByGoogle,
    ServiceUnavailable,
)
from dualdeploy.google.monitoring import Served
from dualdeploy.google.vertex import Answer, Endpoint, Vertex
from dualdeploy.release.gate import Rule, Verdict

#: Answers may differ between machines in the last digits; of classes that are this close either is right.
CLOSE = 0.01

#: Probing goes on in slices of so many seconds, so that an instance is never long away from its lease.
SLICE_SECONDS = 5.0

#: Networks lose a request now and then: so many failures of a step are charged to no one.
STRAY = 1

#: A share is given so many times the requests that should suffice before its model counts as unreachable.
PATIENCE = 4


@dataclasses.dataclass(frozen=True)
class Golden:
    """One picture, and the labels that are right for it: those that the trained model gives it, or, without
    `is_answer`, the true one.
    """

    picture: bytes
    labels: frozenset[str]
    is_answer: bool = True


def parse_golden(data: bytes, *, labels: Sequence[str], source: str) -> list[Golden]:
    """A `golden.json` (`contracts.golden`). Raises UnusableResult."""
    return [_golden(picture, labels) for picture in decode(data, labels=labels, source=source)]


def _golden(picture: Picture, labels: Sequence[str]) -> Golden:
    if picture.probabilities is None:
        return Golden(picture.image, frozenset({picture.label}), is_answer=False)
    best = max(picture.probabilities)
    likely = (label for label, share in zip(labels, picture.probabilities, strict=True) if share >= best - CLOSE)
    return Golden(picture.image, frozenset(likely))


def probe(
    vertex: Vertex,
    endpoint: Endpoint,
    golden: Sequence[Golden],
    *,
    candidate: str,
    tally: Tally,
    wanted: int,
    form: Form = "b64",
) -> Tally:
    """Send golden pictures until `wanted` requests tell something about the candidate, or the slice is over.

    An empty `candidate` stands for the models that serve before one has traffic: every answer counts. Raises
    ModelAsleep, and what is this service's own want of a permission: it tells nothing about a model.
    """
    until = time.monotonic() + SLICE_SECONDS
    limit = max_requests(endpoint.traffic.get(candidate, 100), wanted)
    while tally.requests < limit and time.monotonic() < until:
        enough = judged(tally) if candidate else tally.requests
        if enough >= wanted:
            break
        picture = golden[tally.requests % len(golden)]
        try:
            answer = vertex.predict(endpoint, prediction.instance(picture.picture, form))
        except ModelAsleep:
            # This request has woken it: nothing is known about the model before it is up.
            raise
        except (PermissionSpreads, CredentialsUnavailable):
            raise
        except (ServiceUnavailable, RejectedByGoogle) as exc:
            tally = _with_failure(tally, str(exc))
        else:
            tally = _with_answer(tally, answer, picture, candidate=candidate)
    return tally


def judged(tally: Tally) -> int:
    """Requests that say something about the candidate; one failure alone is no one's proof (see `STRAY`)."""
    return len(tally.candidate_seconds) + max(0, tally.failures - STRAY)


def _with_failure(tally: Tally, reason: str) -> Tally:
    first = tally.first_failure or reason[:300]
    return tally.changed(requests=tally.requests + 1, failures=tally.failures + 1, first_failure=first)


def _with_answer(tally: Tally, answer: Answer, golden: Golden, *, candidate: str) -> Tally:
    took = round(answer.seconds, 4)
    if answer.deployed_id != candidate:
        return tally.changed(requests=tally.requests + 1, other_seconds=(*tally.other_seconds, took)[-200:])
    return tally.changed(
        requests=tally.requests + 1,
        agreed=tally.agreed + (_label(answer) in golden.labels),
        candidate_seconds=(*tally.candidate_seconds, took),
    )


def _label(answer: Answer) -> str:
    """Empty for an answer that names none: it agrees with nothing."""
    try:
        return prediction.said(answer.prediction).label
    except ValueError:
        return ""


def max_requests(share: int, wanted: int) -> int:
    """After so many requests at `share` per cent, a model that answers at all has answered `wanted` times."""
    return math.ceil(PATIENCE * wanted * 100 / max(share, 1)) + 10


def judge(tally: Tally, limits: Limits, *, before: Tally) -> Verdict:
    """Hold a step's probes against their limits; `before` is the tally of the time before the candidate had traffic."""
    answers = len(tally.candidate_seconds)
    others = len(tally.other_seconds)
    usual = before.failures / before.requests if before.requests else 0.0
    failures = max(0.0, tally.failures - STRAY - usual * (others + tally.failures))
    rules = [Rule("error_rate", failures / max(answers + failures, 1.0), limits.max_error_rate, "<=")]
    if answers:
        rules.append(_agreement(tally.agreed / answers, answers, limits))
        slowest = percentile_95(tally.candidate_seconds)
        serving = (*before.other_seconds, *tally.other_seconds)
        if serving:
            allowed = limits.max_latency_ratio * percentile_95(serving) + limits.latency_slack
            rules.append(Rule("p95_seconds", slowest, allowed, "<="))
        if limits.max_latency is not None:
            rules.append(Rule("p95_seconds_at_most", slowest, limits.max_latency, "<="))
    return Verdict(rules)


def _agreement(share: float, answers: int, limits: Limits) -> Rule:
    """With the labels that the model gave in training; where those are not known, its share of right answers must not
    be less than the same model's on all of its held-out pictures, but for chance: the pictures are few, so two standard
    errors are added to what any model may disagree.
    """
    if limits.accuracy is None:
        return Rule("label_agreement", share, limits.min_agreement, ">=")
    chance = 2 * math.sqrt(limits.accuracy * (1 - limits.accuracy) / answers)
    return Rule("right_answers", share, limits.accuracy - (1 - limits.min_agreement) - chance, ">=")


def judge_monitored(seen: Served, limits: Watched) -> Verdict:
    """Hold all traffic of the candidate, as Cloud Monitoring saw it, against its limits; what lacks data is named."""
    rules, not_judged = [], []
    if seen.requests or seen.errors:
        rules.append(Rule("monitored_error_rate", seen.error_rate, limits.max_error_rate, "<="))
    else:
        not_judged.append("monitored_error_rate: no request was reported")
    if limits.max_latency is not None and seen.p95_seconds is not None:
        rules.append(Rule("monitored_p95_seconds", seen.p95_seconds, limits.max_latency, "<="))
    elif limits.max_latency is not None:
        not_judged.append("monitored_p95_seconds: no latency was reported")
    return Verdict(rules, not_judged)


def percentile_95(seconds: Sequence[float]) -> float:
    """The smallest value that 95 % of them do not exceed (nearest rank)."""
    return sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]
