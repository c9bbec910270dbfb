"""The pause before a service that died is started again."""

from __future__ import annotations

from local_cloud.stack import RestartPause


def test_the_pause_doubles_from_half_a_second_to_half_a_minute() -> None:
    pause = RestartPause()

    assert [pause.after(0.1) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_service_that_ran_for_long_begins_anew() -> None:
    pause = RestartPause()
    for _ in range(5):
        pause.after(1.0)

    assert [pause.after(31.0), pause.after(0.1)] == [0.5, 1]
