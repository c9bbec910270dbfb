"""The course of training as TensorBoard reads it, without TensorBoard: two runs, `train` and `held_out`.

An event file is a TFRecord file of `tensorflow.Event` (tensorflow/core/util/event.proto). It is made anew from the
whole history after each epoch, so that a resumed training has one file without gaps.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from dualdeploy.images.tfrecord import frame_record

#: TensorBoard takes every file with `tfevents` in its name.
NAME = "events.out.tfevents.0.trainer"

#: What each run shows: the tag, and the key of an epoch's entry.
RUNS: Mapping[str, Mapping[str, str]] = {
    "train": {
        "loss": "loss",
        "accuracy": "accuracy",
        "learning_rate": "learning_rate",
        "images_per_second": "images_per_second",
    },
    "held_out": {"loss": "held_out_loss", "accuracy": "held_out_accuracy"},
}


def encode(history: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """The event file of each run, by its path below the log folder; `history` has one entry for each epoch."""
    return {f"{run}/{NAME}": _file(history, tags) for run, tags in RUNS.items()}


def _file(history: Sequence[Mapping[str, Any]], tags: Mapping[str, str]) -> bytes:
    from tensorflow.core.util import event_pb2  # noqa: PLC0415  # with TensorFlow, which is imported late

    began = _seconds(history[0]) if history else 0.0
    events = [event_pb2.Event(wall_time=began, file_version="brain.Event:2")]
    for entry in history:
        event = event_pb2.Event(wall_time=_seconds(entry), step=entry["epoch"])
        for tag, key in tags.items():
            event.summary.value.add(tag=tag, simple_value=entry[key])
        events.append(event)
    return b"".join(frame_record(event.SerializeToString()) for event in events)


def _seconds(entry: Mapping[str, Any]) -> float:
    return datetime.datetime.fromisoformat(entry["finished_at"]).timestamp()
