"""The two images, without Docker: the staged folder alone in a clean environment, started by its ENTRYPOINT.

The trainer's lock has TensorFlow with GPU libraries; here it gets the predictor's build for CPUs of the same version.
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from local_cloud.cloud import LocalCloud
from shipping import package

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
TOY_MODEL = REPOSITORY / "tests" / "contract" / "predictor" / "make_toy_model.py"
FOR_GPUS = re.compile(r"^(nvidia-[a-z0-9-]+|tensorflow)==")


def with_tensorflow_for_cpus(lock: str) -> str:
    """The trainer's lock without what needs a GPU, and with the predictor's locked tensorflow-cpu."""
    cpu = [each for each in entries(package.locked_requirements("predictor", REPOSITORY)) if "tensorflow-cpu==" in each]
    return "".join([entry for entry in entries(lock) if not FOR_GPUS.match(entry)] + cpu)


def entries(lock: str) -> list[str]:
    """A lock cut into requirements, each with its hashes and comments."""
    return re.split(r"^(?=[a-z0-9./])", lock, flags=re.MULTILINE)


def entry_point(service: str, installed: Any) -> list[str]:
    command = re.search(r"^ENTRYPOINT (\[.*\])$", (installed.folder / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert command, f"{service} has no ENTRYPOINT"
    return list(json.loads(command[1]))


def run(installed: Any, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=installed.folder,
        env=installed.environment(variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


@pytest.fixture(scope="session")
def trainer(install: Callable[..., Any]) -> Any:
    return install("trainer", requirements=with_tensorflow_for_cpus)


@pytest.fixture(scope="session")
def predictor(install: Callable[..., Any]) -> Any:
    return install("predictor")


@pytest.mark.parametrize("service", ["trainer", "predictor"])
def test_everything_that_an_image_may_import_is_installed(service: str, request: pytest.FixtureRequest) -> None:
    installed = request.getfixturevalue(service)
    done = run(installed, str(installed.python), str(HERE / "look_at_imports.py"), f"{service}/__main__.py")
    assert done.returncode == 0, done.stderr
    _, *missing = done.stdout.splitlines()
    assert missing == []


def test_the_trainer_refuses_a_job_that_is_not_there_and_asks_for_no_repetition(
    trainer: Any, cloud: LocalCloud
) -> None:
    job = f"gs://{cloud.topology.buckets['models'].name}/runs/flowers-0123456789ab/mobile/job.json"
    done = run(trainer, *entry_point("trainer", trainer), "--target", "mobile", "--job", job, **cloud.environment())
    assert done.returncode == 64, done.stdout + done.stderr
    assert job in done.stdout


def test_the_trainer_has_the_tensorflow_that_is_locked(trainer: Any) -> None:
    program = "import keras, tensorflow, trainer.loop.recipe; print(tensorflow.__version__, keras.__version__)"
    done = run(trainer, "python", "-c", program, KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 0, done.stderr
    lock = package.locked_requirements("trainer", REPOSITORY)
    locked = [re.search(rf"^{name}==([^ ;]+)", lock, flags=re.MULTILINE) for name in ("tensorflow", "keras")]
    assert done.stdout.split() == [found[1] for found in locked if found]


def test_the_predictor_names_its_missing_setting(predictor: Any) -> None:
    done = run(predictor, *entry_point("predictor", predictor))
    assert done.returncode == 2
    assert "AIP_STORAGE_URI is not set" in done.stdout


def test_the_packaged_predictor_serves_a_model(predictor: Any, boot: Callable[..., Any], tmp_path: Path) -> None:
    made = run(predictor, str(predictor.python), str(TOY_MODEL), str(tmp_path))
    assert made.returncode == 0, made.stderr
    variables = {"AIP_STORAGE_URI": str(tmp_path / "good"), "PREDICTOR_ADDRESS": "127.0.0.1"}
    # Vertex AI says the port in a variable of its own; PORT means nothing to the image.
    server = boot(predictor, variables, [*shell_with_port(), *entry_point("predictor", predictor)])
    wait_until_ready(server)
    answer = requests.post(server.base + "/predict", json={"instances": [picture("red"), picture("blue")]}, timeout=60)
    assert [prediction["label"] for prediction in answer.json()["predictions"]] == ["red", "blue"]


def shell_with_port() -> list[str]:
    return ["/bin/sh", "-c", 'AIP_HTTP_PORT=$PORT exec "$@"', "sh"]


def wait_until_ready(server: Any) -> None:
    server.wait_until_it_listens()
    deadline = time.monotonic() + 120
    while requests.get(server.base + "/health", timeout=10).status_code != 200:
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.3)


def picture(colour: str) -> dict[str, str]:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(out, "PNG")
    return {"b64": base64.b64encode(out.getvalue()).decode()}
