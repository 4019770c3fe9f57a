"""The statistics of the benchmark suite: a conclusion must follow from the runs."""

from __future__ import annotations

import math
import random

import pytest

from guardpool_bench import run_statistics
from guardpool_bench.contestants import by, count_rate
from guardpool_bench.measure import take_turns
from guardpool_bench.run_statistics import Summary, change, quantile, ratios, summarise


def test_one_outlier_moves_neither_median_nor_spread() -> None:
    calm = summarise([100.0, 101.0, 99.0, 100.5, 99.5])
    shaken = summarise([100.0, 101.0, 99.0, 100.5, 5000.0])
    assert shaken.median == pytest.approx(calm.median, rel=0.01)
    assert shaken.mad <= 1.0
    assert shaken.high == 5000.0
    assert shaken.low == 99.0


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        summarise([1.0, math.nan])
    with pytest.raises(ValueError, match="finite"):
        summarise([1.0, math.inf])


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1), (0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100)])
def test_a_quantile_is_one_of_the_values(q: float, expected: int) -> None:
    assert quantile([float(n) for n in range(1, 101)], q) == expected


def test_a_quantile_outside_zero_and_one_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        quantile([1.0], 1.5)


def test_ratios_are_taken_round_by_round() -> None:
    # The second round was slow for both: the ratio does not know it.
    assert ratios([90.0, 45.0], [100.0, 50.0]) == [0.9, 0.9]
    with pytest.raises(ValueError, match="do not pair"):
        ratios([1.0], [1.0, 2.0])


def test_a_change_within_the_noise_is_not_certain() -> None:
    old, new = summarise([100, 104, 96, 102, 98]), summarise([103, 99, 107, 101, 105])
    assert not change(old, new, floor=0.01).certain


def test_a_change_beyond_the_noise_is_certain() -> None:
    old, new = summarise([100, 101, 99, 100.5, 99.5]), summarise([80, 81, 79, 80.5, 79.5])
    found = change(old, new, floor=0.02)
    assert found.certain
    assert found.relative == pytest.approx(-0.2)


def test_no_change_below_the_floor_is_certain_however_calm_the_runs() -> None:
    old, new = summarise([100.0] * 5), summarise([102.0] * 5)
    assert not change(old, new, floor=0.03).certain
    assert change(old, new, floor=0.01).certain


def test_a_drift_of_the_machine_is_added_to_the_noise() -> None:
    old, new = summarise([100.0] * 5), summarise([90.0] * 5)
    assert change(old, new, floor=0.03).certain
    assert not change(old, new, floor=0.03, drift=-0.09).certain


def test_single_runs_tell_no_noise() -> None:
    assert change(summarise([100.0]), summarise([50.0]), floor=0.01).noise == math.inf


def test_a_change_from_nothing_has_no_share() -> None:
    assert change(summarise([0.0] * 3), summarise([0.0] * 3), floor=0.1).relative == 0.0
    assert change(summarise([0.0] * 3), summarise([5.0] * 3), floor=0.1).relative == math.inf


def test_noise_alone_seldom_passes_for_a_change() -> None:
    rng = random.Random(7)

    def runs() -> Summary:
        return summarise([rng.gauss(100, 5) for _ in range(5)])

    false_alarms = sum(change(runs(), runs(), floor=0.02).certain for _ in range(1000))
    assert false_alarms < 60


def test_a_real_change_of_some_size_is_seldom_missed() -> None:
    rng = random.Random(8)

    def runs(mean: float) -> Summary:
        return summarise([rng.gauss(mean, 2) for _ in range(5)])

    found = sum(change(runs(100), runs(85), floor=0.02).certain for _ in range(1000))
    assert found > 900


def test_contestants_take_turns_and_every_second_round_goes_backwards() -> None:
    order: list[tuple[str, int]] = []

    def measure(who: str, turn: int) -> float:
        order.append((who, turn))
        return len(order)

    values = take_turns(["a", "b", "c"], 2, measure)
    assert order == [("a", 0), ("b", 0), ("c", 0), ("c", 1), ("b", 1), ("a", 1)]
    assert values == [[1, 6], [2, 5], [3, 4]]


def test_a_run_of_many_slices_is_their_mean() -> None:
    taken = iter([1.0, 2.0, 3.0, 4.0])
    assert take_turns(["a"], 2, lambda who, turn: next(taken), slices=2) == [[1.5, 3.5]]


def test_outcomes_of_the_warm_up_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("guardpool_bench.contestants.time.perf_counter", lambda: now[0])

    def counts() -> object:
        while True:  # 1000 a second while it warms up, 100 a second afterwards
            now[0] += 0.01
            yield 10 if now[0] <= 1.0 else 1

    assert count_rate(counts(), warm_s=1.0, run_s=2.0) == pytest.approx(100.0)  # type: ignore[arg-type]


def test_a_supply_that_ends_too_early_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="came to an end"):
        count_rate(iter([1, 2, 3]), warm_s=10.0, run_s=10.0)


def test_counts_by_portions_add_up() -> None:
    assert list(by(4, iter(range(10)))) == [4, 4, 2]


def test_the_error_of_a_median_shrinks_with_more_runs() -> None:
    few, many = Summary(100, 4, 90, 110, 5), Summary(100, 4, 90, 110, 20)
    assert many.error == pytest.approx(few.error / 2)
    assert run_statistics.Summary(100, 0, 90, 110, 5).error > 0
