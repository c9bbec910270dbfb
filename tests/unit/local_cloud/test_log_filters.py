"""The part of Cloud Logging's query language that sinks use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from local_cloud.api import ApiError
from local_cloud.cloud_logging.filters import compile_filter

REPOSITORY = Path(__file__).parents[3]
ENDED = {
    "resource": {"type": "ml_job", "labels": {"task_name": "service"}},
    "textPayload": "Job completed successfully.",
}


@pytest.mark.parametrize(
    ("text", "is_let_through"),
    [
        ("", True),
        ('resource.type="ml_job"', True),
        ('resource.type="k8s_pod"', False),
        ('resource.type!="k8s_pod"', True),
        ('resource.labels.task_name="service" AND textPayload=~"^Job"', True),
        ('resource.labels.task_name="service"\ntextPayload=~"^Epoch"', False),
        ('textPayload=~"^Epoch" OR textPayload=~"success"', True),
        ('resource.type="k8s_pod" AND (textPayload=~"a" OR textPayload=~"b")', False),
        ('resource.type="k8s_pod" textPayload=~"x" OR resource.type="ml_job"', True),
        ('textPayload!~"failed"', True),
        ('jsonPayload.message=~"Job"', False),
        ('jsonPayload.message=""', True),
    ],
)
def test_an_entry_is_let_through_or_not(text: str, is_let_through: bool) -> None:
    assert compile_filter(text)(ENDED) is is_let_through


@pytest.mark.parametrize("text", ["resource.type", "a = b", '(a="b"', 'a="b")', 'a="b" OR', "a > 5", '"x"="y" &'])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ApiError, match="Unparseable filter"):
        compile_filter(text)


def test_the_filter_of_the_topology_takes_ends_and_nothing_else() -> None:
    topology = json.loads((REPOSITORY / "infra" / "topology.json").read_text(encoding="utf-8"))
    (sink,) = topology["log_sinks"].values()
    is_let_through = compile_filter("\n".join(sink["filter"]))
    assert is_let_through(ENDED)
    assert is_let_through({**ENDED, "textPayload": "", "jsonPayload": {"message": "Job failed. Error: x"}})
    assert not is_let_through({**ENDED, "textPayload": "Epoch 3: accuracy 0.81"})
    worker = {"type": "ml_job", "labels": {"task_name": "workerpool0-0"}}
    assert not is_let_through({**ENDED, "resource": worker})
