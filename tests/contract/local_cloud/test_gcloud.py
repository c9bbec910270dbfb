"""gcloud and gsutil against the local cloud: the commands of our pages, as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from local_cloud import cloud as clouds
from local_cloud.cloud import LocalCloud

pytestmark = pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not on PATH")

REPOSITORY = Path(__file__).parents[3]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
#: A command in a block, or within a sentence, where it may go on in the next line.
_COMMAND = re.compile(
    r"^((?:gcloud (?:storage|pubsub)|gsutil) .+)$|`((?:gcloud (?:storage|pubsub)|gsutil) [^`]+)`", re.MULTILINE
)


def commands() -> list[str]:
    """What our pages tell people to type, but for what has a gap to be filled in or only names a command."""
    found = [
        " ".join((match[1] or match[2]).split())
        for page in PAGES
        for match in _COMMAND.finditer(page.read_text(encoding="utf-8"))
    ]
    return list(dict.fromkeys(each for each in found if "…" not in each and re.search(r"gs://|topics|subscr", each)))


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with clouds.load(
        REPOSITORY / "infra" / "topology.json", state_dir=tmp_path_factory.mktemp("cloud"), clock_seconds=3600
    ) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands take."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "datasets").mkdir()
    for dataset in ("flowers", "animals"):
        (folder / "datasets" / f"{dataset}.yaml").write_text(f"dataset: {dataset}\nlabels: [a, b]\n")
    # A page writes this one itself, with a shell's here-document.
    (folder / "tulips.yaml").write_text("dataset: tulips\nlabels: [a, b]\n")
    (folder / "my" / "shards").mkdir(parents=True)
    (folder / "my" / "shards" / "0.tfrecord").write_bytes(os.urandom(1000))
    (folder / "my_network.py").write_text("def build(classes, image_size): ...\n")
    for number in range(3):
        (folder / f"{number}.tfrecord").write_bytes(os.urandom(1000 + number))
    return folder


@pytest.fixture(scope="module")
def environment(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    quiet = {
        "CLOUDSDK_CONFIG": str(tmp_path_factory.mktemp("gcloud")),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
    }
    return {**os.environ, **cloud.environment(), **quiet}


def run(command: str, desk: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=desk, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_of_our_pages_works(cloud: LocalCloud, desk: Path, environment: Mapping[str, str]) -> None:
    typed = commands()
    assert len(typed) >= 8, typed
    project = cloud.topology.project
    for name in ("runs/a.json", "rejected/a.json"):
        run(f"gcloud storage cp datasets/flowers.yaml gs://{project}-ledger/{name}", desk, environment)
    for command in typed:
        run(re.sub(r"\b(my-project|PROJECT)\b", project, command), desk, environment)
    listed = run(f"gcloud storage ls gs://{project}-data/flowers/", desk, environment).split()
    assert [name.rpartition("/")[2] for name in listed] == ["0.tfrecord", "1.tfrecord", "2.tfrecord", "_SUCCESS"]
    assert run(f"gcloud storage cat gs://{project}-config/datasets/flowers.yaml", desk, environment) == (
        desk / "datasets" / "flowers.yaml"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("tool", ["gcloud storage", "gsutil"])
def test_folders_go_up_and_come_back(
    cloud: LocalCloud, desk: Path, environment: Mapping[str, str], tmp_path: Path, tool: str
) -> None:
    folder = tmp_path / "up"
    folder.mkdir()
    # One above and one below the size from which an upload is resumable, and one whose bytes look like line ends.
    (folder / "large").write_bytes(os.urandom(9_000_000))
    (folder / "small").write_bytes(os.urandom(100))
    (folder / "ends").write_bytes(b"\r\n--\r\n\n\r")
    place = f"gs://{cloud.topology.project}-data/{tool.split(maxsplit=1)[0]}"
    run(f"{tool} rsync -r {folder} {place}", desk, environment)
    down = tmp_path / "down"
    down.mkdir()
    run(f"{tool} rsync -r {place} {down}", desk, environment)
    assert {each.name: each.read_bytes() for each in down.iterdir()} == {
        each.name: each.read_bytes() for each in folder.iterdir()
    }
    run(f"{tool} cp {place}/small {tmp_path}/copy", desk, environment)
    assert (tmp_path / "copy").read_bytes() == (folder / "small").read_bytes()
