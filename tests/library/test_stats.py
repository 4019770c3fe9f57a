"""Counters and what callers see of them."""

from __future__ import annotations

import json

from guardpool.stats import LATENCY_SAMPLES, Counters, PoolStats, WorkerStats


def test_quantiles_are_of_the_latest_results() -> None:
    counters = Counters()
    assert counters.latency_us() == {}
    counters.results([7], 0.0)
    assert counters.latency_us() == {"p50": 7, "p90": 7, "p99": 7, "max": 7}
    counters.results(list(range(101)), 1.0)
    counters.results([10**6] * LATENCY_SAMPLES, 2.0)
    assert counters.latency_us() == {"p50": 10**6, "p90": 10**6, "p99": 10**6, "max": 10**6}
    counters = Counters()
    counters.results(list(range(100, -1, -1)), 0.0)
    assert counters.latency_us() == {"p50": 50, "p90": 90, "p99": 99, "max": 100}


def test_jobs_per_second_is_the_rate_of_the_last_seconds_of_work() -> None:
    counters = Counters()
    assert counters.jobs_per_s() == 0.0
    for tick in range(200):
        counters.results([1] * 10, tick * 0.1)
    assert abs(counters.jobs_per_s() - 100) < 5
    for tick in range(200):
        counters.results([1] * 50, 20 + tick * 0.1)
    assert abs(counters.jobs_per_s() - 500) < 25


def test_a_pause_does_not_lower_the_rate() -> None:
    counters = Counters()
    for tick in range(50):
        counters.results([1] * 10, tick * 0.1)
    before = counters.jobs_per_s()
    for tick in range(50):
        counters.results([1] * 10, 3600 + tick * 0.1)
        assert counters.jobs_per_s() == 0.0 or abs(counters.jobs_per_s() - before) < 15


def test_pool_statistics_become_json() -> None:
    counters = Counters()
    counters.statuses(["ok", "ok", "trap"])
    stats = PoolStats(
        [WorkerStats(1, 2, 3, 0.5)],
        dict(counters.outcomes),
        {"trap": 1},
        {},
        1.5,
        0,
        1,
        {"a": "on"},
        0,
        "wasmtime 50.0.1",
    )
    told = json.loads(stats.to_json())
    assert told["outcomes"] == {"ok": 2, "trap": 1}
    assert told["workers"] == [{"pid": 1, "jobs": 2, "rss_bytes": 3, "age_s": 0.5}]
