"""Whether a trained model may go out: its own figures, and those of the model that serves on the same pictures."""

from __future__ import annotations

from cloud_deployer import canary
from cloud_deployer.canary import Shifting
from cloud_deployer.live_evaluation import LiveEvaluation, Measured
from cloud_deployer.model_card import ModelCards
from dualdeploy import gate, training
from dualdeploy.clock import Clock
from dualdeploy.dataset_config import CloudGate, DatasetConfig
from dualdeploy.errors import UnknownRun, UnusableResult
from dualdeploy.ledger import Branch, Ledger, Release, Run, State
from dualdeploy.object_store import ObjectMissing, ObjectStore
from dualdeploy.training import Metrics, TrainingResult


class Gating:
    """The state `gating`: from a result document to a recorded verdict."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        models: ObjectStore,
        shifting: Shifting,
        cards: ModelCards,
        evaluation: LiveEvaluation,
        clock: Clock,
    ) -> None:
        self._evaluation = evaluation
        self._ledger = ledger
        self._models = models
        self._shifting = shifting
        self._cards = cards
        self._clock = clock

    def judge(self, branch: Branch, run: Run, config: DatasetConfig) -> Branch | None:
        """The branch with its verdict: on to `deploying`, or rejected; or on the way to what the verdict needs."""
        result = self.result(run.run_id)
        found = self._ledger.read_live(run.dataset, "cloud")
        live = found.document.current if found and found.document.current.run_id != run.run_id else None
        measured = self._measured(branch, run, result, live, config)
        if not isinstance(measured, Measured):
            return measured
        verdict = self._verdict(branch, result, measured, live, config.gates.cloud)
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

    def _verdict(
        self, branch: Branch, result: TrainingResult, measured: Measured, live: Release | None, limits: CloudGate
    ) -> gate.Verdict:
        own = gate.judge_cloud(
            result.metrics,
            min_accuracy=limits.min_accuracy,
            max_calibration_error=limits.max_calibration_error,
            max_latency=limits.max_latency,
        )
        rules, not_judged = list(own.rules), list(own.not_judged)
        if live and measured.metrics:
            rules += gate.judge_against_live(
                result.metrics,
                measured.metrics,
                max_regression=limits.max_regression,
                max_class_regression=limits.max_class_regression,
                max_calibration_regression=limits.max_calibration_regression,
                max_latency_ratio=limits.max_latency_ratio,
            )
        elif live and _is_compared(limits):
            why = f": {measured.problem}" if measured.problem else ""
            not_judged.append(f"regression: {live.run_id}, which serves, was not measured on the same pictures{why}")
            if self._evaluation.is_possible and not branch.forced:
                # Somebody asked for a comparison, it was tried, and it failed: that is no approval.
                rules.append(gate.Rule("live_measured", 0, 1, ">="))
        return gate.Verdict(rules, not_judged)

    def _measured(
        self, branch: Branch, run: Run, result: TrainingResult, live: Release | None, config: DatasetConfig
    ) -> Measured | Branch | None:
        """How the live model does on this run's pictures; where nobody knows yet, a job finds out."""
        if live is None or not _is_compared(config.gates.cloud):
            return Measured()
        if known := self._metrics_of_live(result, run, live.run_id):
            return Measured(known)
        if result.live and result.live.run_id == live.run_id:
            return Measured(problem=result.live.problem)
        if branch.forced:
            # It goes out whatever the comparison says: somebody who rolls back must not wait for a job.
            return Measured(problem="no job was started to find out, the release is forced")
        return self._evaluation.advance(branch, run, live, config)

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


def _is_compared(limits: CloudGate) -> bool:
    """Whether any rule is about the model that serves; latency alone is not worth a job."""
    compared = (limits.max_regression, limits.max_class_regression, limits.max_calibration_regression)
    return any(limit is not None for limit in compared)
