"""The architecture as data: read, filled in, and refused with every fault named by its path."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from local_cloud import topology
from local_cloud.topology import TopologyError

COMMITTED = Path(__file__).parents[3] / "infra" / "topology.json"


def load(path: Path, project: str = "demo-dualdeploy") -> topology.Topology:
    return topology.load(path, project=project, region="us-central1")


@pytest.fixture
def document() -> dict[str, Any]:
    """A small, correct topology."""
    return {
        "buckets": {
            "data": {
                "name": "${project}-data",
                "triggers": [
                    {"name": "arrivals", "event": "finalized", "service": "launcher", "path": "/events/arrivals"}
                ],
                "notifications": [{"topic": "clock", "event_types": ["OBJECT_FINALIZE"]}],
            }
        },
        "topics": {"clock": {}, "dead": {}},
        "subscriptions": {
            "launcher-tick": {
                "topic": "clock",
                "service": "launcher",
                "path": "/events/tick",
                "retry_policy": {"minimum_backoff_seconds": 10, "maximum_backoff_seconds": 60},
                "dead_letter_policy": {"topic": "dead", "max_delivery_attempts": 7},
            },
            "reader": {"topic": "dead", "pull": True},
        },
        "schedules": {"clock": {"topic": "clock", "cron": "* * * * *", "data": {"v": 1}}},
        "services": {"launcher": {"kind": "function", "folder": "services/launcher"}},
        "images": {"trainer": {"folder": "services/trainer", "command": ["python", "-m", "trainer"]}},
        "automl": {
            "search": {"folder": "infra/search", "command": ["python", "search.py"], "path": ["services/trainer"]},
            "server": {"folder": "infra/search", "command": ["python", "serve.py"]},
            "seconds_per_node_hour": 0.5,
        },
    }


def write(folder: Path, document: object) -> Path:
    path = folder / "topology.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_the_committed_topology_is_valid() -> None:
    read = load(COMMITTED)

    assert read.buckets["data"].name == "demo-dualdeploy-data"
    assert {trigger.service for trigger in read.triggers} <= set(read.services)
    assert all(subscription.topic in read.topics for subscription in read.subscriptions.values())


def test_every_push_subscription_of_the_committed_topology_backs_off_and_has_dead_letters() -> None:
    for subscription in load(COMMITTED).subscriptions.values():
        if subscription.service:
            assert subscription.minimum_backoff is not None, subscription.name
            # What is to be advanced is published again by the next tick instead.
            assert bool(subscription.dead_letter_topic) is (subscription.topic != "advance"), subscription.name


def test_every_dead_letter_topic_of_the_committed_topology_has_a_reader() -> None:
    subscriptions = load(COMMITTED).subscriptions.values()
    read = {subscription.topic for subscription in subscriptions}

    assert {subscription.dead_letter_topic for subscription in subscriptions if subscription.service} - {""} <= read


def test_placeholders_are_filled_and_defaults_applied(tmp_path: Path, document: dict[str, Any]) -> None:
    read = load(write(tmp_path, document))
    pushed, pulled = read.subscriptions["launcher-tick"], read.subscriptions["reader"]

    assert read.buckets["data"].name == "demo-dualdeploy-data"
    assert read.triggers[0].bucket == "demo-dualdeploy-data"
    assert (pushed.minimum_backoff, pushed.max_delivery_attempts, pushed.ack_deadline) == (10, 7, 10)
    assert (pulled.service, pulled.dead_letter_topic, pulled.message_retention) == ("", "", 604800)
    assert read.topic_path("clock") == "projects/demo-dualdeploy/topics/clock"
    assert read.subscription_path("reader") == "projects/demo-dualdeploy/subscriptions/reader"


def test_what_stands_for_automl_is_read_and_need_not_be_there(tmp_path: Path, document: dict[str, Any]) -> None:
    read = load(write(tmp_path, document)).automl
    assert read is not None
    assert (read.search.path, read.server.path, read.seconds_per_node_hour) == (("services/trainer",), (), 0.5)
    del document["automl"]
    assert load(write(tmp_path, document)).automl is None


def test_what_was_read_cannot_be_changed(tmp_path: Path, document: dict[str, Any]) -> None:
    read = load(write(tmp_path, document))
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.project = "another"  # type: ignore[misc]


def test_all_faults_are_reported_together_each_with_its_path(tmp_path: Path, document: dict[str, Any]) -> None:
    document["buckets"]["data"]["name"] = "${zone}-data"
    document["buckets"]["data"]["triggers"][0]["service"] = "launcherr"
    document["subscriptions"]["launcher-tick"]["topic"] = "clok"
    document["subscriptions"]["launcher-tick"]["path"] = "events/clock"
    document["subscriptions"]["launcher-tick"]["ack_deadline_seconds"] = "long"
    document["subscriptions"]["reader"] = {"topic": "dead"}
    document["images"]["trainer"]["command"] = "python"
    del document["automl"]["seconds_per_node_hour"]
    with pytest.raises(TopologyError) as refused:
        load(write(tmp_path, document))

    message = str(refused.value)
    assert "buckets.data.name: unknown placeholder ${zone}" in message
    assert "buckets.data.triggers[0].service: no service 'launcherr'; there are launcher" in message
    assert "subscriptions.launcher-tick.topic: no topic 'clok'; there are clock, dead" in message
    assert "subscriptions.launcher-tick.path: 'events/clock' must start with a slash" in message
    assert "subscriptions.launcher-tick.ack_deadline_seconds: must be an integer, not a text" in message
    assert "subscriptions.reader.service: is missing; it must be a text" in message
    assert "images.trainer.command: must be a list, not a text" in message
    assert "automl.seconds_per_node_hour: is missing" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bucket": {}}, "bucket: is not a key; did you mean 'buckets'?"),
        (
            {"subscriptions": {"s": {"topic": "t", "pull": True, "ack_deadline": 60}}},
            "did you mean 'ack_deadline_seconds'",
        ),
        ({"local": {"python-path": ["src"]}}, "local.python-path: is not a key; did you mean 'python_path'?"),
        (
            {"images": {"trainer": {"comand": ["python"]}}},
            "images.trainer.comand: is not a key; did you mean 'command'?",
        ),
        ({"images": {"trainer": {}}}, "images.trainer.command: is missing; give what its container would start"),
        ({"schedules": {"s": {"topic": "u", "cron": "* * * * *"}}}, "no topic 'u'; there are t"),
        ({"topics": {}, "schedules": {"s": {"topic": "u", "cron": "*"}}}, "the file has none; add it to topics"),
        ({"local": {"project": 7}}, "local.project: must be a text, not a number"),
    ],
)
def test_a_slip_is_answered_with_the_key_and_what_mends_it(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(TopologyError) as refused:
        topology.load(write(tmp_path, {"topics": {"t": {}}, **change}))
    assert said in str(refused.value)


def test_keys_for_other_readers_are_left_alone(tmp_path: Path) -> None:
    document = {"description": "…", "owner": "us", "topics": {"t": {"publishers": []}}}
    assert topology.load(write(tmp_path, document)).topics == ("t",)


def test_paths_are_relative_to_the_topology_and_those_of_code_to_its_root(tmp_path: Path) -> None:
    own = {"root": "../code", "python_path": ["lib"], "bindings": "who.json", "project": "shop-project"}
    image = {"trainer": {"folder": "train", "command": ["python", "train.py"]}}
    (tmp_path / "infra").mkdir()
    read = topology.load(write(tmp_path / "infra", {"local": own, "images": image}))

    assert read.project == "shop-project"
    assert read.local.root == tmp_path / "code"
    assert read.local.python_path == (tmp_path / "code" / "lib",)
    assert read.local.bindings == tmp_path / "infra" / "who.json"
    with pytest.raises(TopologyError, match=r"images\.trainer\.folder: .*/code/train is not a folder"):
        topology.require_folders(read)


def built_from(folder: Path, dockerfile: str) -> topology.Image:
    (folder / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    return topology.with_images(topology.load(write(folder, {"images": {}})), {"tulips": folder}).images["tulips"]


@pytest.mark.parametrize("more", ["", 'CMD ["--help"]\n', "# ENTRYPOINT train.py\nENTRYPOINTS none\n"])
def test_a_folder_with_a_dockerfile_stands_for_an_image(tmp_path: Path, more: str) -> None:
    image = built_from(tmp_path, f'FROM scratch\nENTRYPOINT ["sh"]\n  entrypoint ["python", "-m", "train"]  \n{more}')
    assert image == topology.Image("tulips", str(tmp_path), ("python", "-m", "train"))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (own := tmp_path / ".venv" / "bin" / "python").touch()
    assert built_from(tmp_path, 'ENTRYPOINT ["python3", "train.py"]').command == (str(own), "train.py")
    assert built_from(tmp_path, 'ENTRYPOINT ["./train"]').command == ("./train",)


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM scratch\n",
        "ENTRYPOINT python train.py\n",
        "ENTRYPOINT []\n",
        "ENTRYPOINT [7]\n",
        'ENTRYPOINT ["python", \\\n "train.py"]\n',
        'ENTRYPOINT {"python": 1}\n',
    ],
)
def test_a_dockerfile_whose_command_cannot_be_told_is_refused(tmp_path: Path, dockerfile: str) -> None:
    with pytest.raises(TopologyError, match=r'image tulips: .*: write ENTRYPOINT \["python", "train.py"\] on one line'):
        built_from(tmp_path, dockerfile)


def test_a_folder_without_a_dockerfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="name a folder with a Dockerfile"):
        topology.with_images(topology.load(write(tmp_path, {})), {"tulips": tmp_path / "nowhere"})


@pytest.mark.parametrize("project", ["short", "Upper-case", "ends-with-", "1digit-first", "x" * 31])
def test_a_project_id_that_google_refuses_is_refused(project: str) -> None:
    with pytest.raises(TopologyError, match="project"):
        load(COMMITTED, project=project)


def test_a_missing_file_and_a_broken_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="no such file"):
        load(tmp_path / "nowhere.json")
    broken = tmp_path / "topology.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(TopologyError, match=r"topology\.json: not JSON"):
        load(broken)


@pytest.mark.parametrize("document", [[], "text", None, {"buckets": []}, {"buckets": {"data": 3}}])
def test_a_file_of_another_shape_is_refused_without_a_traceback(tmp_path: Path, document: object) -> None:
    with pytest.raises(TopologyError, match="must be an object"):
        load(write(tmp_path, document))


def test_the_readme_explains_every_key_that_is_read(document: dict[str, Any], tmp_path: Path) -> None:
    page = (COMMITTED.parent / "local_cloud" / "README.md").read_text(encoding="utf-8")
    shop = {"shop": {"command": ["python", "shop.py"]}}
    sink = {"jobs": {"topic": "clock", "filter": ["severity=ERROR"]}}
    made = {"command": ["python", "-m", "search"]}
    automl = {"search": made, "server": made, "seconds_per_node_hour": 1}
    document["services"] |= shop
    reader = topology._Reader({"project": "demo-project", "region": "us-central1"})
    section = topology._Section(reader, "", {**document, "web_services": shop, "log_sinks": sink, "automl": automl})
    topology._read(reader, section, tmp_path)
    # The members of these have names of the project's own.
    named = {"buckets", "topics", "subscriptions", "schedules", "log_sinks", "services", "web_services", "images"}
    asked = {key for each in reader.sections for key in each._asked if each.path not in named}
    assert len(asked) > 30
    # What a service is, a function or a container, is for those who deploy it.
    assert [key for key in sorted(asked - {"kind"}) if not re.search(rf"[`.\"]{key}\b", page)] == []
