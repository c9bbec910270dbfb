"""The model card: what a model was made of, how good it is, what it cost, and how its release went.

JSON for machines and Markdown for people, in `cards/<run>/` of the models bucket: beside the artifacts, but in a folder
of its own, so that the deployer needs no right to change an artifact.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cloud_deployer.release import TARGET, CloudRelease
from dualdeploy.contracts import training
from dualdeploy.contracts.training import TrainingResult, as_mapping
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.google.object_store import ABSENT, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.ledger import Document, Ended, Launch, Ledger, Run, names

log = logging.getLogger(__name__)

#: A card is written by whoever holds the claim on what serves; only an instance that was frozen can be in the way.
_ATTEMPTS = 3


class ClassCount(Document):
    """Records of one class, by split."""

    label: str
    records: Mapping[str, int]


class Coverage(Document):
    fraction: float


class Validation(Document):
    """What a card takes from the launcher's report; the rest of it is the launcher's business."""

    classes: tuple[ClassCount, ...] = ()
    coverage: Coverage | None = None


@dataclasses.dataclass(frozen=True)
class Story:
    """What is known of a release beside itself: its run, how it was trained, and what came of that."""

    run: Run
    launch: Launch
    ended: Ended | None
    result: TrainingResult
    validation: Validation


def card_name(run_id: str) -> str:
    """Of the Markdown; the JSON beside it has the other ending."""
    return f"cards/{run_id}/cloud.md"


class ModelCards:
    """Writes the card of a release as it stands; writing it again as it is changes nothing."""

    def __init__(self, *, ledger: Ledger, models: ObjectStore, revision: str) -> None:
        self._ledger = ledger
        self._models = models
        self._revision = revision

    def write(self, release: CloudRelease) -> None:
        """Raises RetryLater when a bucket does not answer; what can never succeed costs the card, not the release."""
        try:
            card = build(release, self._story(release.run_id), revision=self._revision)
            name = card_name(release.run_id)
            self._put(name, to_markdown(card).encode())
            self._put(name.removesuffix(".md") + ".json", json.dumps(card, indent=1, ensure_ascii=False).encode())
        except ObjectMissing as exc:
            log.warning("%s gets no model card: %s", release.run_id, exc)
        except CannotEverSucceed as exc:
            log.error("%s gets no model card: %s", release.run_id, exc)  # noqa: TRY400  # expected, and said in full

    def uri(self, run_id: str) -> str:
        return self._models.uri(card_name(run_id))

    def _story(self, run_id: str) -> Story:
        launch = self._ledger.read_launch(run_id, TARGET).document
        ended = self._ledger.find_ended(run_id, TARGET, launch.attempt)
        name = training.result_name(run_id, TARGET)
        return Story(
            run=self._ledger.read_run(run_id),
            launch=launch,
            ended=ended.document if ended else None,
            result=training.parse_result(self._models.read(name).data, source=self._models.uri(name)),
            validation=self._validation(run_id),
        )

    def _validation(self, run_id: str) -> Validation:
        """What the launcher found the data to be; empty when it cannot be read, which the card then shows."""
        try:
            found = self._ledger.find(names.validation(run_id), Validation)
        except CannotEverSucceed as exc:
            log.warning("the card of %s has no counts: %s", run_id, exc)
            return Validation()
        return found.document if found else Validation()

    def _put(self, name: str, data: bytes) -> None:
        for _ in range(_ATTEMPTS):
            try:
                there = self._models.read(name)
                if there.data == data:
                    return
                generation = there.generation
            except ObjectMissing:
                generation = ABSENT
            try:
                self._models.put(name, data, expect=generation)
            except GenerationChanged:
                continue
            return
        log.error("other instances keep writing %s: this version of it is left out", self._models.uri(name))


def build(release: CloudRelease, story: Story, *, revision: str) -> dict[str, Any]:
    """The card as JSON values; a function of its arguments alone, so that an unchanged card is the same bytes."""
    run, result, ended = story.run, story.result, story.ended
    rollout = release.rollout
    return {
        "v": 1,
        "run_id": run.run_id,
        "dataset": run.dataset,
        "state": str(release.state),
        "since": release.since,
        "reason": release.reason,
        "release": release.n,
        "model": {
            "architecture": result.architecture,
            "weights": result.weights,
            # Of a model that AutoML trained no one knows it.
            "image_size": result.image_size or None,
            "automl": result.managed.type if result.managed else "",
            "labels": list(result.labels),
            "trained_at": result.finished_at,
            "model": release.model,
            "model_version": release.model_version,
            "endpoint": release.endpoint,
            "deployed_model": release.deployed_model,
        },
        "data": _data_of(story),
        "metrics": as_mapping(result.metrics),
        "gate": release.gate,
        "rollout": {"passed": list(rollout.passed) if rollout else [], "breach": release.going_back},
        "cost": {
            "estimated_usd": story.launch.estimated_usd,
            "cost_usd": ended.cost_usd if ended else None,
            "training_seconds": ended.seconds if ended else None,
        },
        "lineage": {
            "why": run.reason,
            "claimed_at": run.created_at,
            "revision": revision,
            "training_job": story.launch.job,
            "result": release.result,
            **{key: value for key, value in as_mapping(result.artifacts).items() if value},
        },
        "history": [moment.model_dump(mode="json") for moment in (*story.launch.history, *release.history)],
    }


def _data_of(story: Story) -> dict[str, Any]:
    shards, validation = story.run.snapshot.shards, story.validation
    return {
        "bucket": story.run.snapshot.bucket,
        "prefix": story.run.snapshot.prefix,
        "snapshot": story.run.snapshot.digest(),
        "shards": len(shards),
        "bytes": sum(shard.size for shard in shards),
        **as_mapping(story.result.data),
        "classes": [{"label": each.label, **each.records} for each in validation.classes],
        "share_of_bytes_counted": validation.coverage.fraction if validation.coverage else None,
    }


def to_markdown(card: Mapping[str, Any]) -> str:
    """The card for people: nothing is in it that the JSON does not have."""
    parts = [
        f"# {card['run_id']}, cloud",
        _standing(card),
        _section("Model", _pairs(card["model"])),
        _section("Data", _data(card["data"])),
        _section("Measured on the held-out pictures", _metrics(card["metrics"], card["model"]["labels"])),
        _section("Gate", _gate(card["gate"])),
        _section("Rollout", _rollout(card["rollout"])),
        _section("Cost", _pairs(card["cost"])),
        _section("Lineage", _pairs(card["lineage"])),
        _section("History", _table(("at", "state", "note"), (list(each.values()) for each in card["history"]))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _standing(card: Mapping[str, Any]) -> str:
    reason = f": {card['reason']}" if card["reason"] else ""
    return f"**{card['state']}** since {card['since']}, release {card['release']}{reason}"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _pairs(values: Mapping[str, Any]) -> str:
    rows = [(key.replace("_", " "), _shown(value)) for key, value in values.items() if value not in (None, "", [])]
    return _table(("", ""), rows) if rows else ""


def _data(data: Mapping[str, Any]) -> str:
    classes = data["classes"]
    share = data["share_of_bytes_counted"]
    figures = _pairs({key: value for key, value in data.items() if key not in ("classes", "share_of_bytes_counted")})
    if not classes:
        return figures
    splits = [key for key in classes[0] if key != "label"]
    counts = _table(
        ("class", *splits), ([each["label"], *(each.get(split, 0) for split in splits)] for each in classes)
    )
    note = "" if share in (None, 1, 1.0) else f"\n\nCounted on {share:.0%} of the bytes."
    return f"{figures}\n\n{counts}{note}"


def _metrics(metrics: Mapping[str, Any], labels: Sequence[str]) -> str:
    whole = _pairs({key: value for key, value in metrics.items() if key not in ("per_class", "confusion", "confused")})
    per_class = metrics["per_class"]
    fields = ("precision", "recall", "f1", "examples")
    rows = ([label, *(_shown(each[field]) for field in fields)] for label, each in per_class.items())
    tables = [_table(("class", *fields), rows)] if per_class else []
    if metrics["confusion"]:
        header = ("true \\ predicted", *labels)
        counted = zip(labels, metrics["confusion"], strict=False)
        tables.append(_table(header, ([label, *row] for label, row in counted)))
    return "\n\n".join([whole, *tables])


def _gate(gate: Mapping[str, Any] | None) -> str:
    if not gate:
        return ""
    lines = [_rules(gate["rules"])] if gate["rules"] else []
    return "\n\n".join([*lines, *(f"Not judged: {each}" for each in gate.get("not_judged", ()))])


def _rules(rules: Iterable[Mapping[str, Any]]) -> str:
    rows = (
        (rule["name"], _shown(rule["figure"]), f"{rule['comparison']} {_shown(rule['limit'])}", _verdict(rule))
        for rule in rules
    )
    return _table(("rule", "figure", "limit", ""), rows)


def _verdict(rule: Mapping[str, Any]) -> str:
    return "passed" if rule["passed"] else "**failed**"


def _rollout(rollout: Mapping[str, Any]) -> str:
    steps = [
        f"At {step['share']} %, {step['requests']} probes:\n\n{_rules([*step['rules'], *_monitored(step)])}"
        for step in rollout["passed"]
    ]
    return "\n\n".join([*steps, *([f"Went back: {rollout['breach']}"] if rollout["breach"] else [])])


def _monitored(step: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    rules: Sequence[Mapping[str, Any]] = (step.get("monitoring") or {}).get("rules", ())
    return rules


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
