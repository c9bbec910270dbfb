"""The model that is live, asked about pictures of today."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.data.pictures import EncodedPictures, Index

pytestmark = pytest.mark.slow

LABELS = ("daisy", "roses", "tulips")


@pytest.fixture
def pictures(tmp_path: Path) -> EncodedPictures:
    """Files whose content is what the models below take for the index of the class."""
    contents = [b"0", b"1", b"2"] * 30
    path = tmp_path / "held-out.pictures"
    path.write_bytes(b"".join(contents))
    index = Index()
    for place, content in enumerate(contents):
        index.append(file=0, offset=place, data=content, label=0, alone=True)
    return index.finish([path])


TRUTH = np.array([0, 1, 2] * 30, dtype=np.int32)


def save(folder: Path, *, labels: list[str] | None, positions: list[int]) -> Path:
    """A model that answers with certainty: the class at the position that the picture's content has in `positions`."""
    import tensorflow as tf

    model = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        index = tf.gather(positions, tf.strings.to_number(image_bytes, tf.int32))
        return {"probabilities": tf.one_hot(index, len(labels or positions))}

    model.serve = serve
    signatures = {"serving_default": serve}
    if labels:
        model.labels = tf.function(lambda: {"labels": tf.constant(labels)}, input_signature=[])
        signatures["labels"] = model.labels
    tf.saved_model.save(model, str(folder), signatures=signatures)
    return folder


def test_answers_are_compared_by_label_not_by_position(pictures: EncodedPictures, tmp_path: Path) -> None:
    from trainer.outputs import live

    shuffled = save(tmp_path / "model", labels=["tulips", "daisy", "roses"], positions=[1, 2, 0])
    metrics = live.measure(shuffled, pictures, TRUTH, LABELS)
    assert metrics.accuracy == 1.0
    assert metrics.examples == 90


def test_a_class_that_the_live_model_does_not_know_is_never_its_answer(
    pictures: EncodedPictures, tmp_path: Path
) -> None:
    from trainer.outputs import live

    older = save(tmp_path / "model", labels=["daisy", "roses", "weeds"], positions=[0, 1, 2])
    metrics = live.measure(older, pictures, TRUTH, LABELS)
    assert metrics.per_class["tulips"].recall == 0.0
    assert metrics.per_class["roses"].recall == 1.0
    assert metrics.accuracy == pytest.approx(2 / 3)


def test_what_cannot_be_asked_is_told_as_such(pictures: EncodedPictures, tmp_path: Path) -> None:
    from trainer.outputs import live

    nameless = save(tmp_path / "nameless", labels=None, positions=[0, 1, 2])
    (tmp_path / "empty").mkdir()
    for folder in (nameless, tmp_path / "empty"):
        with pytest.raises(live.UnusableModel):
            live.measure(folder, pictures, TRUTH, LABELS)


def test_a_live_model_that_writes_files_is_not_run(pictures: EncodedPictures, tmp_path: Path) -> None:
    import tensorflow as tf

    from trainer.outputs import live

    model = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.io.write_file(str(tmp_path / "written"), "written")
        return {"probabilities": tf.zeros([tf.size(image_bytes), 3])}

    tf.saved_model.save(model, str(tmp_path / "model"), signatures={"serving_default": serve})
    with pytest.raises(live.UnusableModel, match="operator WriteFile"):
        live.measure(tmp_path / "model", pictures, TRUTH, LABELS)
    with pytest.raises(live.UnusableModel, match="operator WriteFile"):
        live.latency(tmp_path / "model", [b"0"])
    assert not (tmp_path / "written").exists()


def test_the_time_of_one_picture_is_taken_from_the_saved_model_alone(tmp_path: Path) -> None:
    from trainer.outputs import live

    model = save(tmp_path / "model", labels=list(LABELS), positions=[0, 1, 2])
    assert live.latency(model, [b"0", b"1"]) > 0
    (tmp_path / "empty").mkdir()
    with pytest.raises(live.UnusableModel):
        live.latency(tmp_path / "empty", [b"0"])
