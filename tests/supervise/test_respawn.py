"""When a dead worker is replaced, and when the pool gives up."""

from __future__ import annotations

import pytest

from guardpool.supervise.respawn import MAX_BARREN_DEATHS, RespawnPolicy


def delay_after_death(policy: RespawnPolicy, now: float = 1000.0) -> float | None:
    """How long the successor of a worker waits after a barren death; None: the pool is broken."""
    return round(policy.spawn_at - now, 6) if policy.barren_death(now) else None


def test_back_off_doubles_from_ten_ms_and_the_eighth_death_breaks_the_pool() -> None:
    policy = RespawnPolicy()
    delays = [delay_after_death(policy) for _ in range(MAX_BARREN_DEATHS)]
    assert delays == [0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, None]


def test_one_outcome_makes_up_for_any_number_of_deaths() -> None:
    policy = RespawnPolicy()
    for _ in range(100):
        for _ in range(MAX_BARREN_DEATHS - 1):
            assert delay_after_death(policy) is not None
        policy.outcome()
    assert policy.barren_deaths == 0
    assert delay_after_death(policy) == 0.0


def test_a_shortage_backs_off_and_tells_how_long_it_lasts_and_breaks_nothing() -> None:
    policy = RespawnPolicy()
    lasted = [policy.shortage(100.0 + number) for number in range(30)]
    assert lasted == [float(number) for number in range(30)]
    assert policy.is_short
    assert (policy.barren_deaths, round(policy.spawn_at - 129.0, 6)) == (0, 1.0)
    assert policy.barren_death(129.0)
    assert policy.spawn_at == 130.0  # what comes later counts
    policy.birth()
    assert not policy.is_short
    assert policy.shortage(200.0) == 0.0


def test_deaths_of_workers_born_before_the_last_barren_one_are_not_news() -> None:
    policy = RespawnPolicy()
    assert policy.is_news(born_at=0.0)
    policy.barren_death(5.0)
    assert not policy.is_news(born_at=4.9)
    assert policy.is_news(born_at=5.0)


def test_delay_never_passes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardpool.supervise.respawn.MAX_BARREN_DEATHS", 1000)
    policy = RespawnPolicy()
    delays = [delay for _ in range(50) if (delay := delay_after_death(policy)) is not None]
    assert len(delays) == 50
    assert max(delays) == 1.0
    assert delays == sorted(delays)
