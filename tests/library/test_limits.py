"""Limits that cannot work are refused when the pool is made, in the caller's own words for them."""

from __future__ import annotations

import pytest

import guardkit
from guardpool import Guard, Limits, LimitsError
from guardpool.limits import GUARD_DATA_BYTES
from poolkit import MIB, POLICY, WAIT_S, guard, pool


def test_a_memory_cap_below_what_a_fresh_worker_needs_is_refused() -> None:
    with pytest.raises(LimitsError, match=r"max_rss_bytes is 16777216, but a worker has \d+ bytes resident"):
        pool(limits=Limits(max_rss_bytes=16 * MIB, memory_pages=16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": "5"}, "timeout_s"),
        ({"memory_pages": 0}, "memory_pages"),
        ({"memory_pages": 1.5}, "memory_pages"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_jobs_per_worker": 0}, "max_jobs_per_worker"),
        ({"max_rss_bytes": 64 * MIB, "memory_pages": 2048}, "memory_pages .* is more than max_rss_bytes"),
        ({"max_data_bytes": 100 * MIB}, "max_data_bytes .* is below max_rss_bytes"),
    ],
)
def test_limits_that_cannot_work_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(LimitsError, match=message):
        Limits(**options)  # type: ignore[arg-type]


def test_the_data_limit_grows_with_what_guards_need_before_their_first_job() -> None:
    need = 2 * GUARD_DATA_BYTES + 3 * MIB
    assert Limits().data_bytes([MIB, 2 * MIB]) == Limits().max_rss_bytes + 64 * MIB + need
    assert Limits(max_data_bytes=320 * MIB).data_bytes([MIB, 2 * MIB]) == 320 * MIB


def test_more_guards_than_max_data_bytes_allows_are_refused_with_its_name() -> None:
    wasm = guardkit.wat("good")
    guards = [Guard(f"g{n}", wasm, POLICY) for n in range(80)]
    with pytest.raises(
        LimitsError, match=r"max_data_bytes is 335544320, but its 80 guards may need [0-9]+ bytes before"
    ):
        pool(*guards, limits=Limits(max_data_bytes=320 * MIB))


def test_more_workers_than_memory_allows_are_refused() -> None:
    with pytest.raises(LimitsError, match=r"100000 workers .* this machine, or the container, has"):
        pool(workers=100_000)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_an_invalid_number_of_workers_is_refused(workers: object) -> None:
    with pytest.raises(ValueError, match="workers must be a whole number"):
        pool(workers=workers)  # type: ignore[arg-type]


def test_an_allocation_past_the_data_limit_fails_at_once_and_not_later() -> None:
    # The guard grows and touches nothing, so that nothing is resident; a worker has more data than a guard alone.
    limits = Limits(timeout_s=WAIT_S, max_rss_bytes=60 * MIB, max_data_bytes=60 * MIB, memory_pages=900)
    with pool(guard("pages"), workers=1, limits=limits) as p:
        outcome = p.label_resource("grow")
        assert (outcome.status, outcome.attempts) == ("refused", 1)
        assert 100 < -outcome.error.guard_code < limits.memory_pages  # type: ignore[union-attr, operator]
