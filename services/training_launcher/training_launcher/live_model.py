"""The model that serves now, for the trainer to measure again on the new run's held-out pictures."""

from __future__ import annotations

import logging

from dualdeploy.contracts import training
from dualdeploy.contracts.training import LiveModel, Target
from dualdeploy.errors import CannotEverSucceed
from dualdeploy.google.object_store import ObjectMissing, ObjectStore
from dualdeploy.ledger import Ledger, Serving

log = logging.getLogger(__name__)


def live_model(dataset: str, target: Target, *, ledger: Ledger, models: ObjectStore) -> LiveModel | None:
    """What serves for one target of a data set, as its own training left it; None when nothing does.

    A record or a result that cannot be read costs the comparison, not the run. Whether the artifact is still there is
    seen by the trainer, who has to fetch it anyway and then says so in `live.problem`.
    """
    try:
        found = ledger.find_serving(Serving, target, dataset)
        if found is None or found.document.current is None:
            return None
        run_id = found.document.current.run_id
        name = training.result_name(run_id, target)
        result = training.parse_result(models.read(name).data, source=models.uri(name))
    except (CannotEverSucceed, ObjectMissing) as exc:
        log.warning("%s is not compared with the live model of %s: %s", target, dataset, exc, extra={"target": target})
        return None
    if result.managed:
        log.info(
            "%s is not compared with the live model of %s: AutoML's models answer on endpoints only", target, dataset
        )
        return None
    return LiveModel(run_id=run_id, saved_model=result.artifacts.saved_model)
