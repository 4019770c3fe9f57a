"""The ledger: from where a run goes on after it was killed at any moment, no job is lost and none is done twice."""

from __future__ import annotations

from hypothesis import given, strategies as st

from guardpool.batch.ledger import Ledger
from guardpool.batch.seam import Mark


class Run:
    """A run over `total` jobs, which are their positions, that may go on from another one."""

    def __init__(self, total: int, standing: tuple[Mark, Mark, list[tuple[int, int]]] | None) -> None:
        mark, seen, done = standing or (Mark(0, {}), None, [])
        self.ledger = Ledger(mark, done, seen)
        self.seen_at = 0 if seen is None else seen.jobs
        self.read, self.total = mark.jobs, total
        self.waiting: list[tuple[int, int]] = []  # number and position
        self.numbered = 0

    def read_portion(self, size: int, with_mark: bool) -> None:
        """Read some jobs."""
        portion = range(self.read, min(self.total, self.read + size))
        self.read = portion.stop
        for position in self.ledger.take(portion, Mark(self.read, {}) if with_mark else None):
            self.waiting.append((self.numbered, position))
            self.numbered += 1

    def finish(self, picks: list[int]) -> list[int]:
        """Finish some of the jobs that wait; returns their positions."""
        chosen = [self.waiting.pop(pick % len(self.waiting)) for pick in picks if self.waiting]
        numbers = [number for number, _ in chosen]
        if numbers:
            consecutive = range(numbers[0], numbers[0] + len(numbers))
            self.ledger.finish(consecutive if numbers == list(consecutive) else numbers)
        return [position for _, position in chosen]


_STEP = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 9), st.booleans()),
    st.tuples(st.just("finish"), st.lists(st.integers(0, 50), min_size=1, max_size=8)),
    st.tuples(st.just("ordered"), st.integers(1, 12)),
    st.tuples(st.just("checkpoint")),
    st.tuples(st.just("kill")),
)


@given(st.integers(0, 60), st.lists(_STEP, max_size=60))
def test_a_run_that_is_killed_anywhere_does_every_job_once(total: int, steps: list[tuple[object, ...]]) -> None:
    run, standing = Run(total, None), None
    durable: list[int] = []  # what stands in the output at the last checkpoint
    written: list[int] = []
    for step in steps:
        if step[0] == "read":
            run.read_portion(step[1], step[2])  # type: ignore[arg-type]
        elif step[0] == "finish":
            written += run.finish(step[1])  # type: ignore[arg-type]
        elif step[0] == "ordered":
            written += run.finish([0] * step[1])  # type: ignore[operator]
        elif step[0] == "checkpoint":
            found = run.ledger.standing()
            if found is not None:
                assert found.seen.jobs >= run.seen_at, "nothing is said about input that was not compared yet"
                assert all(position < found.seen.jobs for position in written)
                standing, durable = found, list(written)
        else:
            run, written = Run(total, standing), list(durable)
    while run.read < total:
        run.read_portion(7, True)
    written += run.finish([0] * len(run.waiting))
    assert sorted(written) == list(range(total))
    run.read_portion(0, True)
    end = run.ledger.standing()
    assert end is not None
    assert end.seen.jobs == total
