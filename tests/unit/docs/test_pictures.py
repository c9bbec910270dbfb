"""The pictures of the architecture page are drawn from data, so they cannot say anything else."""

from __future__ import annotations

import copy

from architecture_pictures import PAGE, filled, names, pictures, read_topology


def test_the_page_has_every_picture_as_it_is_drawn() -> None:
    page = PAGE.read_text(encoding="utf-8")
    topology = read_topology()
    assert sorted(names(page)) == sorted(pictures(topology))
    assert filled(page, topology) == page, "make architecture-pictures draws them"


def test_a_change_of_the_topology_changes_the_picture() -> None:
    topology = read_topology()
    changed = copy.deepcopy(topology)
    subscription = changed["subscriptions"]["deployer-training-completed"]  # type: ignore[index]
    subscription["service"] = "job_notifier"
    drawn, other = pictures(topology), pictures(changed)
    assert {name for name in drawn if drawn[name] != other[name]} == {"the chain"}
    assert 'topic_training_completed([training-completed]) -- "target = cloud" --> cloud_deployer' in drawn["the chain"]


def test_every_subscription_and_every_trigger_is_an_arrow() -> None:
    topology = read_topology()
    drawn = pictures(topology)["the chain"] + pictures(topology)["what keeps it going"]
    for each in topology["subscriptions"].values():
        reader = (each.get("service") or each["reader"]).replace(" ", "_")
        topic = "topic_" + each["topic"].replace("-", "_")
        assert any(
            topic in line.split("-->")[0] and reader in line.split("-->")[1]
            for line in drawn.splitlines()[1:]
            if "-->" in line
        ), each
