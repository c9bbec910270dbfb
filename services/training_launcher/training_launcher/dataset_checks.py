"""Checks of the data set as a whole, once all shards are read: splits, classes, balance, duplicates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dualdeploy.contracts.split import Split
from training_launcher.fingerprints import Copies, Place, Repeated
from training_launcher.split_totals import SplitTotals
from training_launcher.validation_limits import ValidationLimits
from training_launcher.validation_report import Coverage, Finding, Findings, Severity

_NAMED_CLASSES = 8


@dataclasses.dataclass(frozen=True)
class DatasetChecks:
    """The checks and what they need; `complete` tells that every shard was read to its end."""

    train: SplitTotals
    evaluation: SplitTotals
    split_by_hash: bool
    complete: bool
    class_names: Sequence[str]
    shard_names: Sequence[str]
    limits: ValidationLimits
    findings: Findings

    def check_names(self, split: Split) -> None:
        """What the shards' names say of the split must be clear, and what they may have meant to say is told."""
        for fault in split.faults:
            self._add("error", "split_unclear", fault.message, fault.remedy)
        for doubt in split.doubts:
            self._add("warning", "split_not_recognised", doubt.message, doubt.remedy)

    def check_sample(self, coverage: Coverage, *, tolerate: bool) -> None:
        """What only decoding shows was looked for in a part of the images: say what that means for all of them."""
        if not coverage.images_damaged:
            return
        message = (
            f"{coverage.images_damaged} of {coverage.images_decoded:,} decoded images are damaged inside: "
            f"{coverage.unusable} of {coverage.records:,} records cannot be used, "
            f"{'no' if tolerate else 'and that is'} more than max_bad_records ({self.limits.max_bad_records:g}) allows"
        )
        remedy = "repair or remove the images named below and look for more of their kind, or allow more bad records"
        self.findings.lead(Finding("warning" if tolerate else "error", "damaged_images", message, remedy))

    def check_splits(self) -> None:
        """Both splits need examples."""
        if not self.train.records:
            message = "there is no usable training example"
            self._add("error", "no_training_examples", message, "correct the findings above, or name the right shards")
        if not self.evaluation.records and self.split_by_hash and self.train.records:
            message = "no example falls into the held-out fifth, so the model could not be evaluated"
            self._add("error", "no_evaluation_examples", message, "add examples, or a shard named eval-…")
        elif not self.evaluation.records and not self.split_by_hash:
            message = "the held-out shards have no usable example"
            self._add("error", "no_evaluation_examples", message, "correct the held-out shards, or remove them")

    def check_classes(self) -> None:
        """Every class must be trained, and should be evaluated."""
        if not self.train.records:
            return
        if len(self.class_names) == 1 and self.complete:
            message = f"every record is of one class ({self.class_names[0]})"
            self._add("error", "one_class", message, "add examples of another: a classifier needs two classes")
        missing = self._without_examples(self.train)
        if missing and self.complete:
            remedy = "add examples of it, or remove the label from the configuration"
            self._add("error", "class_missing", f"no training example of {missing}", remedy)
        elif missing:
            remedy = "nothing, if the shards are sorted by class; otherwise add examples"
            message = f"no training example of {missing} in the part that was read"
            self._add("warning", "class_missing_in_sample", message, remedy)
        missing = self._without_examples(self.evaluation) if self.evaluation.records else ""
        if missing:
            remedy = "hold out examples of it: its quality would go unnoticed"
            self._add("warning", "class_missing_in_eval", f"no held-out example of {missing}", remedy)

    def check_balance(self) -> None:
        """A class with far fewer examples than another is seldom learnt."""
        counts = self.train.class_records
        present = np.flatnonzero(counts)
        if len(present) < 2:
            return
        largest, smallest = int(counts.argmax()), int(present[counts[present].argmin()])
        most, fewest = int(counts[largest]), int(counts[smallest])
        if most > fewest * self.limits.max_class_imbalance:
            common, rare = self.class_names[largest], self.class_names[smallest]
            message = (
                f"{common} has {most} training examples, {rare} only {fewest}: {most / fewest:.1f} to 1 "
                f"(more than {self.limits.max_class_imbalance:g} to 1)"
            )
            remedy = f"add examples of {rare}, or expect the model to overlook it"
            self._add("warning", "class_imbalance", message, remedy)

    def check_duplicates(self, images: Repeated) -> tuple[int, int]:
        """Exact copies: between the splits, with another label, within a split; returns the last, of each split."""
        most = self.limits.max_findings_per_code
        self._check_leakage(images.between(self.evaluation.shards, self.train.shards, most))
        conflicts = images.conflicting(most)
        self._add_copies("warning", "conflicting_labels", conflicts, "keep the copy whose label is right", label=True)
        counts = []
        for split in (self.train, self.evaluation):
            copies = images.within(split.shards, 1)
            counts.append(copies.count)
            if copies.count:
                copy, original = copies.examples[0]
                message = (
                    f"{copies.count} of {split.records} images in {split.name} are exact copies of others, "
                    f"such as {self._named(copy)} of {self._named(original)}"
                )
                self._add("warning", f"duplicates_in_{split.name}", message, "remove copies: they weigh double")
        return counts[0], counts[1]

    def _check_leakage(self, leaked: Copies) -> None:
        tolerated = leaked.count <= self.limits.max_leaked_images * self.evaluation.records
        remedy = "remove the image from one of the two: the model would be graded on what it was taught"
        self._add_copies("warning" if tolerated else "error", "leaked_into_training", leaked, remedy)

    def _add_copies(self, severity: Severity, code: str, copies: Copies, remedy: str, *, label: bool = False) -> None:
        for copy, original in copies.examples:
            message = f"the same image as {self._named(original)}"
            if label:
                there, here = self.class_names[original.label], self.class_names[copy.label]
                message += f", but labelled {here} here and {there} there"
            finding = Finding(severity, code, message, remedy, self.shard_names[copy.shard], copy.record)
            self.findings.add(finding)
        self.findings.count_more(code, copies.count - len(copies.examples))

    def _named(self, place: Place) -> str:
        return f"{self.shard_names[place.shard]} record {place.record}"

    def _without_examples(self, split: SplitTotals) -> str:
        missing = np.flatnonzero(split.class_records == 0).tolist()
        names = [f"{self.class_names[index]} ({index})" for index in missing[:_NAMED_CLASSES]]
        more = [f"{len(missing) - len(names)} more"] if len(missing) > len(names) else []
        return ", ".join(names + more)

    def _add(self, severity: Severity, code: str, message: str, remedy: str) -> None:
        self.findings.add(Finding(severity, code, message, remedy))
