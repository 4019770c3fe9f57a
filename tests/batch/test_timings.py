"""How long the jobs of a run took: quantiles and the slowest tools, in bounded memory."""

from __future__ import annotations

from hypothesis import given, strategies as st

from guardpool.batch.timings import Timings, ToolTime
from guardpool.outcomes import Outcome, Status


def outcome(us: int, tool: str | None = "t") -> Outcome:
    return Outcome(1, "g", "label_resource", tool, Status.OK, duration_us=us)


@given(st.lists(st.integers(0, 10**8), max_size=60))
def test_quantiles_are_those_of_all_durations_to_a_thousandth(durations: list[int]) -> None:
    timings = Timings()
    timings.add([outcome(us) for us in durations])
    timed = sorted(us for us in durations if us)
    told = timings.quantiles()
    assert list(told) == (["p50", "p90", "p99", "max"] if timed else [])
    for part in (50, 90, 99) if timed else ():
        exact = timed[max(0, -(-part * len(timed) // 100) - 1)]
        assert exact * 0.998 <= told[f"p{part}"] <= exact
    assert told.get("max") == (timed[-1] if timed else None)


def test_the_slowest_tools_come_first_and_tools_have_a_limit() -> None:
    timings = Timings()
    timings.add(
        [outcome(10, "quick"), outcome(1000, "slow"), outcome(3000, "slow"), outcome(0, "none"), outcome(5, None)]
    )
    assert timings.slowest(2) == [ToolTime("slow", 2, 2000, 3000), ToolTime("quick", 1, 10, 10)]
    timings.add([outcome(1, f"t{number}") for number in range(20_000)])
    assert len(timings.slowest(50_000)) <= 10_001


def test_what_is_kept_does_not_grow_with_the_jobs() -> None:
    timings = Timings()
    timings.add([outcome(us) for us in range(1, 2_000_000, 7)])
    assert len(timings._durations) < 12_000
