"""When a dead worker is replaced, and when the pool gives up."""

from __future__ import annotations

import pytest

from guardpool.supervise.respawn import MAX_BARREN_DEATHS, RespawnPolicy


def test_the_back_off_doubles_from_ten_milliseconds_and_the_eighth_death_breaks_the_pool() -> None:
    policy = RespawnPolicy()
    delays = [policy.death(barren=True) for _ in range(MAX_BARREN_DEATHS)]
    assert delays == [0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, None]


def test_one_outcome_makes_up_for_any_number_of_deaths() -> None:
    policy = RespawnPolicy()
    for _ in range(100):
        for _ in range(MAX_BARREN_DEATHS - 1):
            assert policy.death(barren=True) is not None
        policy.outcome()
    assert policy.barren_deaths == 0
    assert policy.death(barren=True) == 0.0


def test_deaths_that_show_for_something_cost_nothing_and_forgive_nothing() -> None:
    policy = RespawnPolicy()
    for _ in range(3):
        policy.death(barren=True)
    assert [policy.death(barren=False) for _ in range(1000)] == [0.0] * 1000
    assert policy.death(barren=True) == 0.04


def test_the_delay_never_passes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardpool.supervise.respawn.MAX_BARREN_DEATHS", 1000)
    policy = RespawnPolicy()
    delays = [policy.death(barren=True) for _ in range(50)]
    assert max(delay for delay in delays if delay is not None) == 1.0
    assert delays == sorted(delays)  # type: ignore[type-var]
