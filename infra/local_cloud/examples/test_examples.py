"""Every example, against one local cloud: `pytest examples`. The order is that of the README."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from local_cloud.cloud import LocalCloud

HERE = Path(__file__).parent
SAYS = {
    "cloud_storage": "['greetings/hello.txt']\nrefused, as on Google Cloud: ",
    "pub_sub": "['order 0', 'order 1']",
    "eventarc": "['arrivals/new.csv']",
    "vertex_ai": "answers for 10: [21, 41]",
    "firebase_ml": "the phone has 36 bytes",
    "remote_config": "a stale ETag answers 412 - the app has {'colour': 'blue'}",
    "scheduler": 'a tick says {"v": 1}',
    "monitoring": "predictions: 30",
    "iam": "it reads True\nrefused: ",
    "faults": "still planned: {}",
}


@pytest.mark.parametrize("name", SAYS)
def test_an_example_does_what_it_says(local_cloud: LocalCloud, capsys: pytest.CaptureFixture[str], name: str) -> None:
    runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith(SAYS[name])


def test_only_the_reader_was_refused_anything(local_cloud: LocalCloud) -> None:
    refused = local_cloud.iam.refusals()
    assert {each.member for each in refused} == {"serviceAccount:reader@demo-shop.iam.gserviceaccount.com"}
    assert "storage.objects.create" in {each.permission for each in refused}
