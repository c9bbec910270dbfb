"""`make demo` without one of its bindings ends soon, red, and names what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dualdeploy_demo import flowers
from local_cloud.iam.bindings import Binding, Bindings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = REPOSITORY / "infra" / "bindings.json"

#: What is taken away → what the demo says is missing: the services' own accounts, and one of Google's.
MISSING = {
    "training-launcher: roles/storage.objectUser on bucket ledger": "storage.objects",
    "training-launcher: roles/storage.objectViewer on bucket config": "storage.objects.get",
    "training-launcher: roles/storage.objectViewer on bucket data": "storage.objects",
    "training-launcher: dualdeploy_training_launcher on project": "aiplatform.customJobs",
    "Cloud Storage: roles/pubsub.publisher on project": "pubsub.topics.publish",
}

_DEMO = """
import sys
from pathlib import Path
from dualdeploy_demo import run
from dualdeploy_demo.request import DataRequest
repository, data, bindings, build, *labels = sys.argv[1:]
asked = DataRequest(Path(data), labels=labels)
sys.exit(run.main(Path(repository), build=Path(build), asked=asked, bindings=Path(bindings)))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flowers")
    flowers.generate(folder, train=60, held_out=30, shards=1, unseen=5)
    return folder


@pytest.mark.parametrize("name", MISSING)
def test_the_demo_is_red_without_a_binding_and_names_what_is_missing(tmp_path: Path, data: Path, name: str) -> None:
    document = json.loads(FILE.read_text(encoding="utf-8"))
    account = name.partition(":")[0]
    for section, rows in document["bindings"].items():
        named = {Binding(section, **{**row, "objects": tuple(row.get("objects", ()))}).name: row for row in rows}
        document["bindings"][section] = [row for each, row in named.items() if each != name]
    bindings = tmp_path / "bindings.json"
    bindings.write_text(json.dumps(document), encoding="utf-8")
    assert len(Bindings.load(bindings).bindings) == len(Bindings.load(FILE).bindings) - 1

    told = [sys.executable, "-c", _DEMO, str(REPOSITORY), str(data), str(bindings), str(tmp_path / "demo")]
    ran = subprocess.run([*told, *flowers.LABELS], capture_output=True, text=True, check=False, timeout=280)
    said = " ".join(ran.stdout.split())
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "The demo failed" in said
    assert f"lacks {MISSING[name]}" in said
    who = "gs-project-accounts" if account == "Cloud Storage" else f"{account}@"
    assert who in said.rpartition("The demo failed")[2]
