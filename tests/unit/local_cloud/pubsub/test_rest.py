"""Pub/Sub's paths over REST: every method that is not a stream has one."""

from __future__ import annotations

from pathlib import Path

from local_cloud.faults import Faults
from local_cloud.pubsub import PubSub
from local_cloud.pubsub.rest import RULES


def test_every_method_but_the_stream_has_a_path_and_every_path_a_method(tmp_path: Path) -> None:
    pubsub = PubSub(faults=Faults(), state_dir=tmp_path)
    methods = {operation.path for operation in pubsub.operations}
    pubsub.close()
    assert {name for _, _, name in RULES} == methods - {"google.pubsub.v1.Subscriber/StreamingPull"}
