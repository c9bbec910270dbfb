"""Traffic splits: which share of an endpoint's requests goes to which deployed model."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Mapping

from local_cloud.vertex.bodies import whole_number
from local_cloud.vertex.errors import failed_precondition, invalid_argument

#: In a deployment's split, the deployed model that is just being made.
NEW = "0"


def check(split: object, *, deployed: Collection[str]) -> dict[str, int]:
    """A traffic split as sent, as numbers by deployed model id.

    Raises:
        ApiError: 400 when a share is no whole number from 0 to 100, an id is not deployed, or the sum is not 100.
    """
    if not isinstance(split, Mapping):
        raise invalid_argument("traffic_split must be a map of percentages by deployed model id.")
    shares = {str(key): whole_number(value, f"traffic_split[{key}]") for key, value in split.items()}
    unknown = [key for key in shares if key not in deployed]
    if unknown:
        raise invalid_argument(f"The following DeployedModel ID(s) [{', '.join(unknown)}] do not exist.")
    if any(not 0 <= share <= 100 for share in shares.values()):
        raise invalid_argument(f"traffic_split: every share must be from 0 to 100, got {shares}.")
    if shares and sum(shares.values()) != 100:
        raise invalid_argument(f"traffic_split must add up to 100, got {sum(shares.values())}.")
    return shares


def after_undeploy(
    current: Mapping[str, int], given: object, *, leaving: str, staying: Collection[str]
) -> dict[str, int]:
    """The split that remains when `leaving` is undeployed.

    "A DeployedModel will be successfully undeployed only if it doesn't have any traffic assigned to it when
    this method executes, or if this field unassigns any traffic to it. If last DeployedModel is being
    undeployed, traffic_split will always end up empty." (UndeployModelRequest.traffic_split)

    Raises:
        ApiError: 400 when traffic would be left pointing at the model that leaves.
    """
    if not staying:
        return {}
    shares = check(given, deployed=[leaving, *staying]) if given else dict(current)
    if shares.pop(leaving, 0) > 0:
        raise failed_precondition(
            f"DeployedModel {leaving} cannot be undeployed: it has traffic assigned to it. Shift its traffic to"
            " another DeployedModel first, or with traffic_split in this request."
        )
    return shares


class Draw:
    """Draws a deployed model for each request; with a seed, the same sequence every time."""

    def __init__(self, seed: int | None) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def choose(self, split: Mapping[str, int]) -> str | None:
        """A deployed model id with the probability of its share, or None when there is no traffic."""
        chosen = [(key, share) for key, share in split.items() if share > 0]
        if not chosen:
            return None
        with self._lock:
            return self._random.choices([key for key, _ in chosen], [share for _, share in chosen])[0]
