"""What an hour costs: only what is listed, each price with its region, its date and its source."""

from __future__ import annotations

import pytest

from dualdeploy.clock import from_text
from dualdeploy.contracts.prices import AcceleratorPrice, MachinePrice, PriceTable, table


def test_every_price_that_we_ship_names_its_region_its_date_and_its_source() -> None:
    for price in (*table().machines, *table().accelerators):
        assert price.region
        assert price.as_of == "undated" or from_text(f"{price.as_of}T00:00:00Z")
        assert len(price.source) > 20
    assert from_text(f"{table().as_of}T00:00:00Z")


def test_no_price_is_listed_twice() -> None:
    machines = [(each.use, each.region, each.machine) for each in table().machines]
    accelerators = [(each.use, each.region, each.accelerator) for each in table().accelerators]
    assert len(set(machines)) == len(machines)
    assert len(set(accelerators)) == len(accelerators)


def test_what_the_table_lacks_is_unknown_and_never_guessed() -> None:
    assert table().hour(use="training", region="us-central1", machine="n1-standard-8")[0] == pytest.approx(0.4369977)
    assert table().hour(use="training", region="europe-west9", machine="n1-standard-8") == (
        None,
        "no training price of n1-standard-8 in europe-west9 is known",
    )
    assert table().hour(
        use="training", region="us-central1", machine="n1-standard-8", accelerator="NVIDIA_L4", count=1
    ) == (None, "no training price of NVIDIA_L4 in us-central1 is known")


def test_a_machine_that_serves_is_not_priced_as_one_that_trains() -> None:
    training, said = table().hour(use="training", region="us-central1", machine="n1-standard-4")
    serving, also_said = table().hour(use="serving", region="us-central1", machine="n1-standard-4")
    assert (training, serving) == (0.21849885, 0.219)
    assert said == "n1-standard-4 in us-central1 at 0.218499 USD an hour of training (list prices, 2026-10-07)"
    assert also_said == "n1-standard-4 in us-central1 at 0.219 USD an hour of serving (list prices, 2026-09-08)"
    assert table().hour(use="serving", region="europe-west4", machine="g2-standard-8")[0] is None


def test_every_accelerator_is_paid_beside_the_machine() -> None:
    hour, said = table().hour(
        use="training", region="europe-west4", machine="g2-standard-8", accelerator="NVIDIA_L4", count=1
    )
    assert hour == pytest.approx(0.4208 + 0.709)
    assert "g2-standard-8 in europe-west4 at 0.4208 USD, 1 NVIDIA_L4 at 0.709 USD" in said
    facts = {"use": "training", "region": "here", "as_of": "2026-11-01", "source": "a test"}
    small = PriceTable(
        v=1,
        what="",
        page="",
        as_of="2026-11-01",
        spot="",
        machines=(MachinePrice(machine="m", usd_per_hour=1.0, **facts),),
        accelerators=(AcceleratorPrice(accelerator="a", usd_per_hour=0.5, **facts),),
    )
    assert small.hour(use="training", region="here", machine="m", accelerator="a", count=4)[0] == 3.0
