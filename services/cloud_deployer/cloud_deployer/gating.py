"""Whether a trained model may go out: its own figures, and those of the model that serves on the same pictures."""

from __future__ import annotations

from cloud_deployer import canary
from cloud_deployer.canary import Shifting
from cloud_deployer.model_card import ModelCards
from dualdeploy import gate, training
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import CloudGate, DatasetConfig
from dualdeploy.errors import UnknownRun, UnusableResult
from dualdeploy.ledger import Branch, Ledger, Run, State
from dualdeploy.object_store import ObjectMissing, ObjectStore
from dualdeploy.training import Metrics, TrainingResult


class Gating:
    """The state `gating`: from a result document to a recorded verdict."""

    def __init__(
        self, *, ledger: Ledger, models: ObjectStore, shifting: Shifting, cards: ModelCards, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._models = models
        self._shifting = shifting
        self._cards = cards
        self._clock = clock

    def judge(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch:
        """The branch with its verdict: on to `deploying`, or rejected."""
        result = self.result(run.run_id)
        verdict = self._verdict(result, run, config.gates.cloud)
        # What an earlier release of the same run found out about its rollout is not true of this one.
        branch = branch.changed(facts={key: value for key, value in branch.facts.items() if key != canary.FACT})
        branch = branch.with_facts(
            gate=verdict.as_facts(),
            accuracy=result.metrics.accuracy,
            saved_model=result.artifacts.saved_model,
            golden=result.artifacts.golden,
            labels=list(result.labels),
            card=self._cards.uri(run.run_id),
        )
        # Without it nothing could be proven behind the endpoint: better known now than with traffic on it.
        self._shifting.golden(branch)
        warned = config.gates.cloud.mode == "warn"
        if not verdict.passed and not branch.forced and not warned:
            return branch.moved(State.REJECTED, at=self._clock(), note=verdict.describe())
        despite = "" if verdict.passed else ("forced although " if branch.forced else "warned only: ")
        return branch.moved(State.DEPLOYING, at=self._clock(), note=despite + verdict.describe(), step="upload")

    def result(self, run_id: str) -> TrainingResult:
        """What the trainer wrote last. Raises UnusableResult."""
        name = training.result_name(run_id, "cloud")
        try:
            return training.parse_result(self._models.read(name).data, source=self._models.uri(name))
        except ObjectMissing as exc:
            raise UnusableResult(f"{self._models.uri(name)} is gone; train again to bring this run out") from exc

    def _verdict(self, result: TrainingResult, run: Run, limits: CloudGate) -> gate.Verdict:
        own = gate.judge_cloud(
            result.metrics,
            min_accuracy=limits.min_accuracy,
            max_calibration_error=limits.max_calibration_error,
            max_latency=limits.max_latency,
        )
        rules, not_judged = list(own.rules), list(own.not_judged)
        live = self._ledger.read_live(run.dataset, "cloud")
        if live and live.document.current.run_id != run.run_id:
            other = live.document.current.run_id
            theirs = self._metrics_of_live(result, run, other)
            if theirs is None:
                not_judged.append(f"regression: {other}, which serves, was not measured on the same pictures")
            else:
                rules += gate.judge_against_live(
                    result.metrics,
                    theirs,
                    max_regression=limits.max_regression,
                    max_class_regression=limits.max_class_regression,
                    max_calibration_regression=limits.max_calibration_regression,
                    max_latency_ratio=limits.max_latency_ratio,
                )
        return gate.Verdict(rules, not_judged)

    def _metrics_of_live(self, result: TrainingResult, run: Run, live_run_id: str) -> Metrics | None:
        """Figures of the model that serves on the pictures of this run; None when there are none to be trusted.

        The trainer measures both on the same pictures. Without that, the figures of two runs may only be compared when
        they were trained on the same snapshot, and so held out the same pictures.
        """
        if result.live and result.live.run_id == live_run_id and result.live.metrics:
            return result.live.metrics
        try:
            if self._ledger.read_run(live_run_id).snapshot.digest() != run.snapshot.digest():
                return None
            return self.result(live_run_id).metrics
        except (UnknownRun, UnusableResult):
            return None
