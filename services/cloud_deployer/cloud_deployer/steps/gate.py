"""Whether a trained model may go out: its own figures, and those of the model that serves on the same pictures."""

from __future__ import annotations

from cloud_deployer.release import CloudRelease, Measured
from cloud_deployer.world import World, config_of
from dualdeploy.contracts.dataset_config import CloudGate
from dualdeploy.contracts.training import Metrics, TrainingResult
from dualdeploy.ledger import State
from dualdeploy.release import gate
from dualdeploy.release.route import End, Forward, Turn


def judge(release: CloudRelease, world: World) -> Turn[CloudRelease]:
    """From a result document to a recorded verdict: on, or rejected."""
    limits = config_of(release).gates.cloud
    result = world.result(release.run_id)
    verdict = _verdict(release, world, result, limits)
    release = release.changed(
        gate=verdict.as_facts(),
        accuracy=result.metrics.accuracy,
        saved_model=result.artifacts.saved_model,
        golden=result.artifacts.golden,
        labels=result.labels,
        managed=result.managed is not None,
        card=world.cards.uri(release.run_id),
    )
    # Without it nothing could be proven behind the endpoint: better known now than with traffic on it.
    world.golden(release)
    # A graph is a program: forced or not, none goes where it would be run unless all of its operators are known.
    if not release.managed:
        world.check_graph(result.artifacts.saved_model)
    if not verdict.passed and not release.forced and limits.mode != "warn":
        return End(release, State.REJECTED, verdict.describe())
    despite = "" if verdict.passed else ("forced although " if release.forced else "warned only: ")
    return Forward(release, note=despite + verdict.describe())


def _verdict(release: CloudRelease, world: World, result: TrainingResult, limits: CloudGate) -> gate.Verdict:
    own = gate.judge_cloud(
        result.metrics,
        min_accuracy=limits.min_accuracy,
        max_calibration_error=limits.max_calibration_error,
        max_latency=limits.max_latency,
        measured_by="AutoML" if result.managed else "the trainer",
    )
    rules, not_judged = list(own.rules), list(own.not_judged)
    measured = release.measured or Measured()
    if measured.metrics:
        compared = gate.judge_against_live(
            result.metrics,
            Metrics.model_validate(measured.metrics),
            max_regression=limits.max_regression,
            max_class_regression=limits.max_class_regression,
            max_calibration_regression=limits.max_calibration_regression,
            max_latency_ratio=limits.max_latency_ratio,
        )
        rules += compared.rules
        not_judged += compared.not_judged
    elif measured.problem:
        why = f"{measured.live}, which serves, was not measured on the same pictures: {measured.problem}"
        not_judged.append(f"regression: {why}")
        if measured.possible and world.settings.trainer_image and not release.forced:
            # Someone asked for a comparison, it was tried, and it failed: that is not an approval.
            rules.append(gate.Rule("live_measured", 0, 1, ">="))
    return gate.Verdict(rules, not_judged)
