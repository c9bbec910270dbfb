"""The model card: what a model was made of, how good it is, what it cost, and how its release went.

JSON for machines and Markdown for people, in `cards/<run>/` of the models bucket: beside the artifacts, but in a folder
of its own, so that the deployer needs no right to change an artifact.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pydantic

from dualdeploy.errors import CannotEverSucceed, RejectedByGoogle
from dualdeploy.ledger import Branch, Ledger, Run
from dualdeploy.object_store import ABSENT, GenerationChanged, ObjectMissing, ObjectStore
from dualdeploy.training import TrainingResult, as_mapping

log = logging.getLogger(__name__)

#: A card is written by whoever holds the data set's lease; only one whose lease ran out can be in the way.
_ATTEMPTS = 3


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


class ClassCount(_Record):
    """Records of one class, by split."""

    label: str
    records: Mapping[str, int]


class Coverage(_Record):
    fraction: float


class Validation(_Record):
    """What a card takes from the launcher's report; the rest of it is the launcher's business."""

    classes: tuple[ClassCount, ...] = ()
    coverage: Coverage | None = None


def card_name(run_id: str) -> str:
    """Of the Markdown; the JSON beside it has the other ending."""
    return f"cards/{run_id}/cloud.md"


class ModelCards:
    """Writes the card of a branch as it stands; writing it again as it is changes nothing."""

    def __init__(self, *, ledger: Ledger, models: ObjectStore, revision: str) -> None:
        self._ledger = ledger
        self._models = models
        self._revision = revision

    def write(self, branch: Branch, run: Run, result: TrainingResult) -> None:
        """Raises RetryLater when the bucket does not answer; one that refuses costs the card, not the release."""
        validation = self._validation(run.run_id)
        card = build(branch, run, result, validation=validation, revision=self._revision)
        name = card_name(run.run_id)
        try:
            self._put(name, to_markdown(card).encode())
            self._put(name.removesuffix(".md") + ".json", json.dumps(card, indent=1, ensure_ascii=False).encode())
        except RejectedByGoogle as exc:
            log.error("%s gets no model card: %s", run.run_id, exc)  # noqa: TRY400  # expected, and said in full

    def uri(self, run_id: str) -> str:
        return self._models.uri(card_name(run_id))

    def _validation(self, run_id: str) -> Validation:
        """What the launcher found the data to be; empty when nobody can read it, which the card then shows."""
        try:
            found = self._ledger.read_document(f"runs/{run_id}/validation.json", Validation)
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
        log.error("%s is written by somebody else all the time: this version of it is left out", self._models.uri(name))


def build(branch: Branch, run: Run, result: TrainingResult, *, validation: Validation, revision: str) -> dict[str, Any]:
    """The card as JSON values; a function of its arguments alone, so that an unchanged card is the same bytes."""
    facts = branch.facts
    shards = run.snapshot.shards
    rollout = facts.get("rollout") or {}
    return {
        "v": 1,
        "run_id": run.run_id,
        "dataset": run.dataset,
        "state": str(branch.state),
        "since": branch.since,
        "reason": branch.reason,
        "release": branch.release,
        "model": {
            "architecture": result.architecture,
            "weights": result.weights,
            "image_size": result.image_size,
            "labels": list(result.labels),
            "trained_at": result.finished_at,
            **{key: facts.get(key) for key in ("model", "model_version", "endpoint", "deployed_model")},
        },
        "data": {
            "bucket": run.snapshot.bucket,
            "prefix": run.snapshot.prefix,
            "snapshot": run.snapshot.digest(),
            "shards": len(shards),
            "bytes": sum(shard.size for shard in shards),
            **as_mapping(result.data),
            "classes": [{"label": each.label, **each.records} for each in validation.classes],
            "share_of_bytes_counted": validation.coverage.fraction if validation.coverage else None,
        },
        "metrics": as_mapping(result.metrics),
        "gate": facts.get("gate"),
        "rollout": {"passed": rollout.get("passed", []), "breach": rollout.get("breach", "")},
        "cost": {key: facts.get(key) for key in ("estimated_usd", "cost_usd", "training_seconds")},
        "lineage": {
            "why": run.reason,
            "claimed_at": run.created_at,
            "revision": revision,
            "training_job": branch.job,
            "result": facts.get("result"),
            **{key: value for key, value in as_mapping(result.artifacts).items() if value},
        },
        "history": [moment.model_dump(mode="json") for moment in branch.history],
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
