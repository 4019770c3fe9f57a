"""Statistics for a handful of noisy runs: medians, and spreads that one outlier does not move.

A benchmark's noise is one-sided and has heavy tails (another program, a page cache that was cold), so means and standard
deviations tell more about the worst run than about the program. Everything here uses order statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

# The median absolute deviation of a normal distribution, times this, is its standard deviation.
MAD_TO_SIGMA = 1.4826
# The standard error of a median is this much larger than that of a mean, for a normal distribution.
MEDIAN_ERROR = 1.2533
# A change is told from noise when it is this many standard errors; 3 of them happen by chance once in 370 comparisons.
SIGMAS = 3.0


@dataclass(frozen=True)
class Summary:
    """The middle and the spread of a few runs.

    Attributes:
        median: the middle run.
        mad: the median distance from it.
        low: the lowest run.
        high: the highest run.
        runs: how many.
    """

    median: float
    mad: float
    low: float
    high: float
    runs: int

    @property
    def error(self) -> float:
        """The standard error of the median, as far as the spread of the runs tells it.

        Few runs can agree by chance: their MAD is taken for no less than an eighth of their range.
        """
        if self.runs < 2:
            return math.inf
        spread = max(self.mad, (self.high - self.low) / 8)
        return MEDIAN_ERROR * MAD_TO_SIGMA * spread / math.sqrt(self.runs)


def summarise(values: Sequence[float]) -> Summary:
    """Median and spread of some runs. Raises ValueError if there are no runs, or one is not a finite number."""
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"not all of these are finite numbers: {list(values)!r}")
    middle = median(values)
    mad = median([abs(value - middle) for value in values])
    return Summary(middle, mad, min(values), max(values), len(values))


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values: the smallest that at least that share of them does not exceed.

    Args:
        ordered: ascending, at least one.
        q: 0 to 1.
    """
    if not ordered:
        raise ValueError("a quantile needs at least one value")
    if not 0 <= q <= 1:
        raise ValueError(f"q must be from 0 to 1, not {q}")
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def ratios(values: Sequence[float], references: Sequence[float]) -> list[float]:
    """Each run over the reference run of the same round.

    Pairing them takes out whatever slowed the whole round down, which a ratio of two medians would not.
    """
    if len(values) != len(references):
        raise ValueError(f"{len(values)} runs and {len(references)} references do not pair")
    return [value / reference for value, reference in zip(values, references)]


@dataclass(frozen=True)
class Change:
    """From one report to another.

    Attributes:
        relative: 0.1 for ten percent more, -0.1 for ten percent less; infinite if there was nothing before.
        noise: the share that the runs' own spread explains: no smaller change can be told from chance.
        certain: whether the change is larger than the noise.
    """

    relative: float
    noise: float
    certain: bool


def change(old: Summary, new: Summary, floor: float, drift: float = 0.0) -> Change:
    """How a quantity changed, and whether that is more than noise.

    Args:
        old: before.
        new: now.
        floor: the smallest relative change that is ever called one. Runs of one process are more alike than runs of
            two, and the spread within one does not show that.
        drift: how much the machine itself changed between the two reports, as a share: added to the noise.
    """
    if old.median == 0:
        relative = 0.0 if new.median == 0 else math.copysign(math.inf, new.median)
        return Change(relative, floor, relative != 0)
    relative = new.median / old.median - 1
    errors = math.hypot(old.error, new.error) / abs(old.median)
    noise = max(floor, SIGMAS * errors) + abs(drift)
    return Change(relative, noise, abs(relative) > noise)
