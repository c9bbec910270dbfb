"""Several devices and several workers learn what one learns alone.

In most of these trainings one step takes all pictures, so that the order in which they are dealt does not matter, and
nothing but rounding may differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualdeploy.contracts.training import TrainingResult, parse_result
from dualdeploy_demo import flowers

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]

#: The trainer with two CPUs that TensorFlow takes for two devices, as a machine with two GPUs has them.
TWO_DEVICES = """
import sys, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from trainer.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What one job left in its folder."""

    result: TrainingResult
    weights: list[np.ndarray]
    history: list[Mapping[str, Any]]
    output: str


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty painted flowers in two equal shards, and ten held out."""
    folder = tmp_path_factory.mktemp("flowers")
    flowers.generate(folder, train=60, held_out=10, shards=2, style=flowers.Style(side=48))
    return folder


def arguments(data: Path, output: Path, **flags: Any) -> list[str]:
    settings = {"architecture": "mobilenet_v3_small", "image_size": 32, "batch_size": 60, "epochs": 4}
    settings |= {"learning_rate": 0.003, "augmentation": "none", "early_stopping": 0, "seed": 1} | flags
    given = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    labels = ",".join(flowers.LABELS)
    return ["--target", "mobile", "--data", str(data), "--labels", labels, "--output", str(output), *given]


def started(words: list[str], scratch: Path, *, program: str = "", **more: str) -> subprocess.Popen[str]:
    folders = [str(REPOSITORY / "shared" / "src"), str(REPOSITORY / "services" / "trainer")]
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONPATH": os.pathsep.join(folders),
        "CUDA_VISIBLE_DEVICES": "",
        **more,
    }
    how = ["-c", program] if program else ["-m", "trainer"]
    return subprocess.Popen(
        [sys.executable, *how, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-6000:]
    return output


def trained(output: Path, said: str) -> Trained:
    import keras

    result = parse_result((output / "result.json").read_bytes(), source="result.json")
    weights = keras.models.load_model(output / "model.keras").get_weights()
    return Trained(result, weights, json.loads((output / "metrics.json").read_text())["epochs"], said)


@contextlib.contextmanager
def cluster(words: list[list[str]], folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """One process for each list of arguments, the first the chief, told of each other as Vertex AI tells them."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(words))]
    roles = [("chief", 0), *(("worker", index) for index in range(len(words) - 1))]
    running = []
    for (role, index), line in zip(roles, words, strict=True):
        scratch = folder / f"{role}-{index}"
        scratch.mkdir(parents=True)
        config = {
            "cluster": {"chief": addresses[:1], "worker": addresses[1:]},
            "task": {"type": role, "index": index},
            "environment": "cloud",
        }
        running.append(started(line, scratch, TF_CONFIG=json.dumps(config)))
    try:
        yield running
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.communicate()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("alone")
    return trained(folder / "out", finished(started(arguments(data, folder / "out"), folder)))


def assert_same_model(one: Trained, other: Trained) -> None:
    assert [entry["loss"] for entry in one.history] == pytest.approx([e["loss"] for e in other.history], rel=0.01)
    assert [entry["held_out_loss"] for entry in one.history] == pytest.approx(
        [entry["held_out_loss"] for entry in other.history], rel=0.02
    )
    # Adam takes whole steps for gradients that are next to nothing, so single weights may differ, not their mass.
    distances = [np.abs(a - b).mean() for a, b in zip(one.weights, other.weights, strict=True)]
    assert np.mean(distances) < 1e-3
    assert one.result.metrics.accuracy == pytest.approx(other.result.metrics.accuracy, abs=0.11)


def test_two_devices_of_one_machine_learn_what_one_learns(data: Path, alone: Trained, tmp_path: Path) -> None:
    process = started(arguments(data, tmp_path / "out"), tmp_path, program=TWO_DEVICES)
    both = trained(tmp_path / "out", finished(process))
    assert both.result.course
    assert (both.result.course.workers, both.result.course.replicas) == (1, 2)
    assert_same_model(both, alone)


def test_two_workers_learn_what_one_learns_and_the_chief_alone_writes(
    data: Path, alone: Trained, tmp_path: Path
) -> None:
    # Each has an output folder of its own here, to see who writes.
    outputs = [tmp_path / "chief-out", tmp_path / "worker-out"]
    with cluster([arguments(data, output) for output in outputs], tmp_path) as processes:
        said = [finished(process) for process in reversed(processes)][::-1]
    both = trained(outputs[0], said[0])
    assert both.result.course
    assert (both.result.course.workers, both.result.course.replicas) == (2, 2)
    assert both.result.data.eval_examples == 10
    assert_same_model(both, alone)
    assert not outputs[1].exists()
    assert "30 pictures to learn from, 0 held out" in said[1]


def test_pictures_that_only_the_others_have_are_held_out_by_the_chief_all_the_same(data: Path, tmp_path: Path) -> None:
    """Without held-out shards the bytes of each picture decide, whoever learns from its shard; steps take batches."""
    folder = tmp_path / "unnamed"
    folder.mkdir()
    for number, shard in enumerate(sorted(data.glob("train-*"))):
        (folder / f"part-{number}.tfrecord").write_bytes(shard.read_bytes())
    flags = {"batch_size": 16, "epochs": 1, "precision": "mixed_bfloat16"}
    outputs = [tmp_path / "chief-out", tmp_path / "worker-out"]
    with cluster([arguments(folder, output, **flags) for output in outputs], tmp_path / "two") as processes:
        said = [finished(process) for process in reversed(processes)][::-1]
    both = trained(outputs[0], said[0])
    learned = sum(pictures_to_learn_from(text) for text in said)
    assert learned == both.result.data.train_examples
    assert learned + both.result.data.eval_examples == 60
    assert both.result.course
    assert both.result.course.precision == "mixed_bfloat16"
    assert {str(weight.dtype) for weight in both.weights} == {"float32"}


def pictures_to_learn_from(said: str) -> int:
    found = re.search(r"(\d+) pictures to learn from", said)
    assert found
    return int(found[1])


def test_a_worker_whose_peer_is_lost_leaves_with_the_code_that_asks_for_another_attempt(
    data: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / "chief-out", tmp_path / "worker-out"]
    words = [arguments(data, output, epochs=500) for output in outputs]
    with cluster(words, tmp_path) as (chief, worker):
        assert chief.stdout is not None
        for line in chief.stdout:
            if '"epoch": 1' in line:
                break
        worker.kill()
        assert chief.wait(timeout=240) == 75
    assert not (outputs[0] / "result.json").exists()
    assert (outputs[0] / "checkpoints" / "last.npz").exists()
