"""Measures several things so that the comparison means something.

They take turns: in every round each is measured once, one right after the other. Whatever happens to the machine for longer
than a second so happens to all of them. Every second round goes backwards, so none is always measured after the same
other one. Ratios are taken within a round, and the median of the rounds is what counts.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


def take_turns(
    contestants: Sequence[T], rounds: int, measure: Callable[[T, int], float], slices: int = 1
) -> list[list[float]]:
    """Measure each contestant once a round.

    Args:
        contestants: what to measure; those that are compared most closely should be neighbours.
        rounds: how often.
        measure: `measure(contestant, round)`.
        slices: how many turns make a round: a value is the mean of so many measurements. If the machine's speed itself
            changes within seconds, many short turns meet it in the same states, and few long ones do not.

    Returns:
        For each contestant its values, one a round.
    """
    values: list[list[float]] = [[0.0] * rounds for _ in contestants]
    for turn in range(rounds * slices):
        order = range(len(contestants))
        for at in order if turn % 2 == 0 else reversed(order):
            values[at][turn // slices] += measure(contestants[at], turn // slices) / slices
    return values


class QuietHeap(AbstractContextManager["QuietHeap"]):
    """Until it is left, the collector ignores all objects that exist now, so the suite's own jobs cost it nothing.

    The collector itself stays on, for the objects that the pools make.
    """

    def __enter__(self) -> QuietHeap:
        gc.collect()
        gc.freeze()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        gc.unfreeze()


@contextmanager
def patched(target: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value until the block is left."""
    before = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, before)
