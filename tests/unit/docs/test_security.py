"""SECURITY.md leaves no account out, and backs what it says is defended by something that can be looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dualdeploy.contracts import dataset_config
from dualdeploy.http.entrypoint import MAX_BODY_BYTES
from dualdeploy.images.pixels import MAX_PIXELS
from dualdeploy.images.tfrecord import MAX_GZIP_RATIO, MAX_RECORD_BYTES
from dualdeploy.release import api
from predictor.settings import PredictorSettings

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
PERMISSIONS = (REPOSITORY / "docs" / "permissions.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no {heading!r}"
    return found[1]


def test_the_theft_of_every_account_that_terraform_makes_is_thought_through() -> None:
    # What permissions.md has is what Terraform plans: tests/unit/terraform/test_access.py.
    accounts = set(re.findall(r"^\| `([a-z-]+)` \|", PERMISSIONS, flags=re.MULTILINE))
    rows = section("What a stolen identity can do")
    named = set(re.findall(r"`([a-z-]+)`", "".join(line for line in rows.splitlines(True) if line.startswith("| `"))))

    assert len(accounts) > 8
    assert accounts <= named


def test_every_promise_about_the_code_names_a_test() -> None:
    promises = re.split(r"^- ", section("Inside the code"), flags=re.MULTILINE)[1:]

    assert len(promises) >= 7
    assert [promise for promise in promises if "](tests/" not in promise] == []


def test_every_way_to_replace_a_model_has_an_answer() -> None:
    rows = [line.split(" | ") for line in section("Who can replace a model").splitlines() if line.startswith("| ")]
    answers = [row[-1] for row in rows[1:]]

    assert len(answers) >= 7
    assert all(len(answer) > 20 for answer in answers)


def test_the_limits_are_those_of_the_code() -> None:
    bodies = (MAX_BODY_BYTES >> 20, api.MAX_BODY_BYTES >> 10)
    predictor = {each.name: each.default for each in PredictorSettings.__dataclass_fields__.values()}

    assert f"{bodies[0]} MB for events, {bodies[1]} KB for requests" in PAGE
    assert f"{predictor['max_request_bytes'] >> 20} MB for predictions" in PAGE
    assert f"a record may announce {MAX_RECORD_BYTES >> 20} MB" in PAGE
    assert MAX_GZIP_RATIO == 100, "a hundredfold, says the page"
    assert f"{MAX_PIXELS // 1_000_000} megapixels" in PAGE
    assert f"{dataset_config.MAX_BYTES >> 10} KB" in PAGE


def test_everyone_who_writes_to_a_bucket_is_thought_of() -> None:
    topology = json.loads((REPOSITORY / "infra" / "topology.json").read_text(encoding="utf-8"))
    ways = section("Who can spend money") + section("Who can replace a model")
    names = {"firebase_storage": "mobile"}

    for bucket in topology["buckets"]:
        name = names.get(bucket, bucket)
        assert re.search(rf"{name}( bucket)?\b", ways), bucket
