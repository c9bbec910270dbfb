"""AutoML's evaluation: truths in rows, predictions in columns, each test picture once, and zeros left out."""

from __future__ import annotations

import math

import pytest

from local_cloud.vertex.evaluation import Answers, metrics, metrics_of_label

#: Four pictures: two daisies (one of them taken for roses) and two roses.
TESTED = Answers(
    labels=["roses", "daisy"],
    ids=["11", "22"],
    truths=[1, 1, 0, 0],
    scores=[[0.25, 0.75], [0.6, 0.4], [0.9, 0.1], [0.8, 0.2]],
)


def test_the_confusion_matrix_has_truths_in_rows() -> None:
    matrix = metrics(TESTED)["confusionMatrix"]
    assert matrix["annotationSpecs"] == [{"id": "11", "displayName": "roses"}, {"id": "22", "displayName": "daisy"}]
    assert matrix["rows"] == [[2, 0], [1, 1]]


def test_loss_and_precision_are_those_of_the_scores() -> None:
    found = metrics(TESTED)
    assert found["logLoss"] == pytest.approx(-sum(map(math.log, (0.75, 0.4, 0.9, 0.8))) / 4)
    by_threshold = {each.get("confidenceThreshold", 0): each for each in found["confidenceMetrics"]}
    assert by_threshold[0]["recall"] == 1
    assert by_threshold[0]["precision"] == 0.5
    assert (by_threshold[0.7]["precision"], by_threshold[0.7]["recall"]) == (1, 0.75)


def test_zeros_are_left_out_and_a_perfect_model_has_no_loss() -> None:
    perfect = Answers(["a", "b"], ["1", "2"], [0, 1], [[1.0, 0.0], [0.0, 1.0]])
    found = metrics(perfect)
    assert "logLoss" not in found
    assert found["auPrc"] == 1
    assert "confidenceThreshold" not in found["confidenceMetrics"][0]
    wrong = metrics(Answers(["a", "b"], ["1", "2"], [0, 1], [[0.4, 0.6], [0.6, 0.4]]))
    assert "recall" not in wrong["confidenceMetrics"][-1]


def test_a_slice_judges_one_label_against_all_others() -> None:
    assert metrics_of_label(TESTED, 0)["auPrc"] == 1
    assert metrics_of_label(Answers(["a", "b"], ["1", "2"], [0, 1], [[0.4, 0.6], [0.6, 0.4]]), 0)["auPrc"] == 0.5
