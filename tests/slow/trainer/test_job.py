"""A whole job: from a description and shards in Cloud Storage to artifacts and a result."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualdeploy.contracts import answers
from dualdeploy.contracts.training import LiveMetrics, parse_result
from dualdeploy.images.pixels import decode_rgb, resize_bilinear
from dualdeploy.images.tfrecord import read_records
from dualdeploy_demo.flowers import Picture, Style
from trainer.outputs import event_log

from .conftest import LABELS, Cloud, trainer_environment

pytestmark = pytest.mark.slow

Trainer = Callable[..., subprocess.CompletedProcess[str]]
RUN = "flowers-000000000001"


@pytest.fixture(scope="module")
def trained(
    cloud: Cloud, shards: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    """One training for all the questions below: 40 pictures, 32 px, three epochs."""
    put = {name: cloud.put(f"trained/{name}", data) for name, data in shards.items()}
    references = {part: [ref for name, ref in put.items() if name.startswith(part)] for part in ("train", "eval")}
    job = cloud.put_job(RUN, references)
    scratch = tmp_path_factory.mktemp("scratch")
    environment = trainer_environment(cloud, scratch, AIP_MODEL_DIR=f"gs://models/runs/{RUN}/mobile/model/")
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "--target", "mobile", "--job", job],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def saved(cloud: Cloud, trained: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both SavedModels, downloaded and loaded."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("models")
    for name in cloud.names():
        if "/model/" in name or "/pixels_model/" in name:
            path = folder / name.removeprefix(f"runs/{RUN}/mobile/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cloud.get(name))
    return {name: tf.saved_model.load(str(folder / name)) for name in ("model", "pixels_model")}


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [Style(side=side).jpeg(Picture("question", side, side % 5)) for side in (40, 64, 97, 33)]


def answer(model: Any, **inputs: Any) -> dict[str, Any]:
    import tensorflow as tf

    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    return {name: value.numpy() for name, value in model.signatures["serving_default"](**tensors).items()}


def test_the_result_is_the_last_object_written_and_all_it_names_is_there(cloud: Cloud, trained: object) -> None:
    names = cloud.names()
    assert names[-1] == f"results/{RUN}/mobile.json"
    result = parse_result(cloud.get(names[-1]), source=names[-1])
    for location in result.artifacts.model_dump().values():
        name = location.removeprefix("gs://models/")
        assert any(other == name or other.startswith(f"{name}/") for other in names), location
    assert (result.run_id, result.target, result.image_size) == (RUN, "mobile", 32)
    assert (result.data.train_examples, result.data.eval_examples, result.data.split) == (40, 10, "named")
    assert set(result.seconds) == {"total", "fetch", "import", "load", "train", "evaluate", "export", "upload"}


def test_the_log_has_one_line_for_each_epoch_in_cloud_loggings_form(trained: subprocess.CompletedProcess[str]) -> None:
    lines = [json.loads(line) for line in trained.stdout.splitlines()]
    epochs = [line for line in lines if "epoch" in line]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert all(line["severity"] == "INFO" and line["run_id"] == RUN for line in epochs)
    assert "held-out pictures" in lines[-1]["message"]


def test_the_metrics_tell_everything_about_the_training(cloud: Cloud, trained: object) -> None:
    metrics = json.loads(cloud.get(f"runs/{RUN}/mobile/metrics.json"))
    assert metrics["examples"] == sum(map(sum, metrics["confusion"])) == 10
    assert list(metrics["per_class"]) == LABELS
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2, 3]
    assert metrics["epochs"][2]["loss"] < metrics["epochs"][0]["loss"]
    assert 0 <= metrics["accuracy"] <= metrics["top_2"] <= 1
    assert 0 <= metrics["calibration_error"] <= 1
    course = metrics["course"]
    assert course == {
        "epochs": 3,
        "epochs_trained": 3,
        "best_epoch": course["best_epoch"],
        "resumed_at": [],
        "workers": 1,
        "replicas": 1,
        "precision": "float32",
        "xla": False,
        "images_per_second": course["images_per_second"],
    }
    assert course["best_epoch"] in {1, 2, 3}
    assert course["images_per_second"] > 0
    assert metrics["training"]["learning_rate"] == 0.003


def test_a_finished_job_leaves_charts_and_tensorboards_logs_but_no_checkpoint(cloud: Cloud, trained: object) -> None:
    from tensorflow.core.util import event_pb2

    folder = f"runs/{RUN}/mobile"
    assert all(cloud.get(f"{folder}/{name}.png").startswith(b"\x89PNG") for name in ("confusion", "curves"))
    assert not [name for name in cloud.names() if name.startswith(f"{folder}/checkpoints/")]
    for run, tags in (("train", {"loss", "accuracy", "learning_rate", "images_per_second"}), ("held_out", {"loss"})):
        records = read_records(io.BytesIO(cloud.get(f"{folder}/logs/{run}/{event_log.NAME}")), name=run)
        events = [event_pb2.Event.FromString(record.data) for record in records]
        assert events[0].file_version == "brain.Event:2"
        assert [event.step for event in events[1:]] == [1, 2, 3]
        assert tags <= {value.tag for value in events[1].summary.value}


def test_the_saved_model_takes_files_and_answers_with_labels(saved: dict[str, Any], pictures: list[bytes]) -> None:
    answers = answer(saved["model"], image_bytes=pictures)
    assert answers["probabilities"].shape == (4, 5)
    assert answers["probabilities"].sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    best = answers["probabilities"].argmax(axis=1)
    assert [label.decode() for label in answers["label"]] == [LABELS[index] for index in best]
    assert answers["confidence"] == pytest.approx(answers["probabilities"].max(axis=1))


def test_the_saved_model_names_its_classes_itself(saved: dict[str, Any]) -> None:
    labels = saved["model"].signatures["labels"]()["labels"].numpy()
    assert [label.decode() for label in labels] == LABELS


def test_the_saved_model_reads_png_as_well(saved: dict[str, Any], pictures: list[bytes]) -> None:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(decode_rgb(pictures[0])).save(stream, "PNG")
    both = answer(saved["model"], image_bytes=[pictures[0], stream.getvalue()])["probabilities"]
    assert both[0] == pytest.approx(both[1], abs=1e-6)


def test_the_pixels_model_agrees_when_pixels_are_made_without_tensorflow(
    saved: dict[str, Any], pictures: list[bytes]
) -> None:
    from_bytes = answer(saved["model"], image_bytes=pictures)["probabilities"]
    for picture, expected in zip(pictures, from_bytes, strict=True):
        pixels = resize_bilinear(decode_rgb(picture), 32)[None]
        probabilities = answer(saved["pixels_model"], pixels=pixels)["probabilities"]
        assert probabilities.shape == (1, 5)
        assert probabilities[0] == pytest.approx(expected, abs=1e-5)


def test_the_answer_to_each_held_out_picture_is_kept(cloud: Cloud, trained: object) -> None:
    found = answers.decode(cloud.get(f"runs/{RUN}/mobile/answers.csv.gz"), source="answers")
    metrics = json.loads(cloud.get(f"runs/{RUN}/mobile/metrics.json"))
    assert len({each.picture for each in found}) == metrics["examples"]
    assert sum(each.label == each.predicted for each in found) / len(found) == pytest.approx(metrics["accuracy"])
    golden = json.loads(cloud.get(f"runs/{RUN}/mobile/golden.json"))["examples"]
    said = {each.picture: each for each in found}
    for example in golden:
        answer = said[answers.fingerprint(base64.b64decode(example["image_bytes"]["b64"]))]
        assert answer.label == example["label"]
        assert answer.confidence == pytest.approx(max(example["probabilities"]), abs=1e-4)


def test_the_golden_examples_are_reproduced_and_cover_every_class(
    cloud: Cloud, saved: dict[str, Any], trained: object
) -> None:
    examples = json.loads(cloud.get(f"runs/{RUN}/mobile/golden.json"))["examples"]
    files = [base64.b64decode(example["image_bytes"]["b64"]) for example in examples]
    expected = np.array([example["probabilities"] for example in examples])
    assert answer(saved["model"], image_bytes=files)["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert {example["label"] for example in examples} == set(LABELS)


def test_the_keras_file_gives_the_same_answers(
    cloud: Cloud, saved: dict[str, Any], pictures: list[bytes], tmp_path: Path
) -> None:
    import keras

    (tmp_path / "model.keras").write_bytes(cloud.get(f"runs/{RUN}/mobile/model.keras"))
    model = keras.models.load_model(tmp_path / "model.keras", compile=False)
    pixels = resize_bilinear(decode_rgb(pictures[0]), 32)[None]
    expected = answer(saved["pixels_model"], pixels=pixels)["probabilities"]
    assert model(pixels, training=False).numpy() == pytest.approx(expected, abs=1e-5)


def test_the_pixels_model_becomes_a_tflite_file_that_answers_the_same(
    cloud: Cloud, saved: dict[str, Any], pictures: list[bytes], tmp_path: Path
) -> None:
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    for name in cloud.names():
        if "/pixels_model/" in name:
            path = tmp_path / name.split("/pixels_model/")[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cloud.get(name))
    interpreter = Interpreter(model_content=tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert())
    interpreter.allocate_tensors()
    pixels = resize_bilinear(decode_rgb(pictures[1]), 32)[None]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    probabilities = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert probabilities == pytest.approx(answer(saved["pixels_model"], pixels=pixels)["probabilities"], abs=1e-4)


def test_a_job_interrupted_at_a_random_moment_goes_on_with_at_most_one_epoch_lost_and_compares_with_the_live_model(
    cloud: Cloud, trained: object, trainer: Trainer, references: dict[str, Any], tmp_path: Path
) -> None:
    run, moment = "flowers-00000000000b", random.uniform(0, 0.5)
    live = {"run_id": RUN, "saved_model": f"gs://models/runs/{RUN}/mobile/model"}
    job = cloud.put_job(run, references, live=live)
    with subprocess.Popen(
        [sys.executable, "-m", "trainer", "--target", "mobile", "--job", job],
        env=trainer_environment(cloud, tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            seen = 0
            for line in process.stdout:
                seen = json.loads(line).get("epoch", seen)
                if seen:
                    break
            time.sleep(moment)
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(timeout=30) == 75
            seen = max([json.loads(line).get("epoch", seen) for line in process.stdout], default=seen)
        finally:
            process.kill()
    assert f"runs/{run}/mobile/checkpoints/last.npz" in cloud.names()

    done = trainer("--target", "mobile", "--job", job)
    assert done.returncode == 0, done.stdout
    result = parse_result(cloud.get(f"results/{run}/mobile.json"), source=run)
    assert result.course is not None
    assert result.course.epochs_trained == 3
    assert len(result.course.resumed_at) == 1, f"interrupted {moment:.2f} s after the first epoch"
    assert result.course.resumed_at[0] >= seen, "of the finished epochs none is trained again"
    assert f"runs/{run}/mobile/checkpoints/last.npz" not in cloud.names()

    # The same as the training that nobody disturbed: in every epoch, and in the end.
    reference = json.loads(cloud.get(f"runs/{RUN}/mobile/metrics.json"))
    metrics = json.loads(cloud.get(f"runs/{run}/mobile/metrics.json"))
    for key in ("loss", "held_out_loss"):
        expected = [epoch[key] for epoch in reference["epochs"]]
        assert [epoch[key] for epoch in metrics["epochs"]] == pytest.approx(expected, rel=0.02)
    assert result.metrics.accuracy == pytest.approx(reference["accuracy"], abs=0.11)

    # The live model is that same training's: asked with files, it answers as it did with pixels.
    assert result.live is not None
    assert result.live.metrics is not None, result.live.problem
    assert result.live.metrics.confusion == tuple(tuple(row) for row in reference["confusion"])
    assert result.live.metrics.loss == pytest.approx(reference["loss"], rel=1e-3)


def test_a_live_model_is_measured_on_a_jobs_pictures_without_training(
    cloud: Cloud, trained: object, trainer: Trainer, references: dict[str, Any]
) -> None:
    run = "flowers-00000000000e"
    live = {"run_id": RUN, "saved_model": f"gs://models/runs/{RUN}/mobile/model"}
    done = trainer("--target", "mobile", "--job", cloud.put_job(run, references, live=live), "--evaluate-live")
    assert done.returncode == 0, done.stdout
    measured = LiveMetrics.model_validate_json(cloud.get(f"results/{run}/mobile.json"))
    reference = json.loads(cloud.get(f"runs/{RUN}/mobile/metrics.json"))
    assert measured.metrics is not None, measured.problem
    assert measured.metrics.confusion == tuple(tuple(row) for row in reference["confusion"])
    assert [name for name in cloud.names() if name.startswith(f"runs/{run}/")] == [f"runs/{run}/mobile/job.json"]

    nobody = trainer("--target", "mobile", "--job", cloud.put_job(run, references), "--evaluate-live")
    assert nobody.returncode == 64
    assert "which model is to be measured" in nobody.stdout


def test_sigterm_ends_the_job_within_seconds_with_75_and_without_a_result(
    cloud: Cloud, references: dict[str, Any], tmp_path: Path
) -> None:
    run = "flowers-00000000000a"
    job = cloud.put_job(run, references, epochs=1000)
    with subprocess.Popen(
        [sys.executable, "-m", "trainer", "--target", "mobile", "--job", job],
        env=trainer_environment(cloud, tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line).get("epoch") == 1:
                    break
            began = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(timeout=20) == 75
            assert time.monotonic() - began < 5
            assert "interrupted by SIGTERM" in process.stdout.read()
        finally:
            process.kill()
    assert f"results/{run}/mobile.json" not in cloud.names()
    assert not list(tmp_path.glob("trainer-*"))


def test_a_network_of_someones_own_is_that_of_the_run_whatever_lies_there_now(
    cloud: Cloud, trainer: Trainer, references: dict[str, Any]
) -> None:
    source = (
        b"import threading\nimport keras\nL = keras.layers\nPIXELS = 'unit'\nprint('hello')\n"
        # What goes on forever does not keep the machine.
        b"threading.Thread(target=threading.Event().wait, name='mine').start()\ndef build(classes, image_size):\n"
        b"    return keras.Sequential([L.Conv2D(4, 3, strides=2), L.GlobalAveragePooling2D(),"
        b" L.Dense(classes, activation='softmax')])\n"
    )
    pinned = cloud.put("modules/net.py", source, bucket="config")
    digest = hashlib.sha256(source).hexdigest()
    module = {"uri": pinned["uri"], "generation": pinned["generation"], "sha256": digest}
    run, names = "flowers-0123456789cd", {"architecture": f"module:{pinned['uri']}", "epochs": 1}
    job = cloud.put_job(run, references, module=module, **names)
    done = trainer("--target", "mobile", "--job", job)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "the job ends while threads that it did not begin go on: mine" in done.stdout.splitlines()[-1]
    result = json.loads(cloud.get(f"results/{run}/mobile.json"))
    assert result["architecture"] == f"module:{pinned['uri']}"
    assert result["artifacts"]["keras"] is None
    assert cloud.get(f"runs/{run}/mobile/module.py") == source
    assert cloud.get(f"runs/{run}/mobile/network.weights.h5")

    # The same generation with other bytes than the run names, and a generation that is gone.
    job = cloud.put_job("flowers-0123456789ce", references, module={**module, "sha256": "0" * 64}, **names)
    done = trainer("--target", "mobile", "--job", job)
    assert done.returncode == 64
    assert f"has SHA-256 {digest[:12]}…, and the run was made with 000000000000…: ask for a new run" in done.stdout
    cloud.put("modules/net.py", b"import os\nos._exit(0)\ndef build(classes, image_size): ...\n", bucket="config")
    job = cloud.put_job("flowers-0123456789cf", references, module=module, **names)
    done = trainer("--target", "mobile", "--job", job)
    assert done.returncode == 64
    assert "modules/net.py is gone at generation" in done.stdout
