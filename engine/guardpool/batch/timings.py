"""How long the jobs of a run took in their guards: quantiles over all of them, and the tools that took longest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from guardpool.outcomes import Outcome

# Durations are kept to 10 bits: 0.1%, and at most some ten thousand different ones, however many jobs there are.
_BITS = 10
# A guard's jobs may name any tool.
_MAX_TOOLS = 10_000
_QUANTILES = (50, 90, 99)


class ToolTime(msgspec.Struct, frozen=True):
    """What the jobs of one tool took in their guards, in microseconds."""

    tool_name: str
    jobs: int
    mean_us: int
    max_us: int


class Timings:
    """Takes the outcomes of a run; what is kept does not grow with their number.

    An outcome counts if its last attempt ran to its end: not one that was killed or rejected, or whose label was kept.
    """

    def __init__(self) -> None:
        self._durations: Counter[int] = Counter()
        self._tools: dict[str, list[int]] = {}  # jobs, their sum, the longest
        self._max_us = 0

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes. Hot: 0.5 us for each."""
        tools, durations = self._tools, []
        for outcome in outcomes:
            us = outcome.duration_us
            if us <= 0:
                continue
            durations.append(us if us < 1 << _BITS else us >> (shift := us.bit_length() - _BITS) << shift)
            name = outcome.tool_name or ""
            tool = tools.get(name)
            if tool is None:
                tool = tools.setdefault(name if len(tools) < _MAX_TOOLS else "", [0, 0, 0])
            tool[0] += 1
            tool[1] += us
            if us > tool[2]:
                tool[2] = us
                self._max_us = max(self._max_us, us)
        self._durations.update(durations)

    def quantiles(self) -> dict[str, int]:
        """p50, p90, p99 and max, in microseconds; empty if nothing was timed."""
        total = self._durations.total()
        if not total:
            return {}
        found: dict[str, int] = {}
        so_far = 0
        wanted = [(f"p{part}", part * total / 100) for part in _QUANTILES]
        for us, count in sorted(self._durations.items()):
            so_far += count
            while wanted and so_far >= wanted[0][1]:
                found[wanted.pop(0)[0]] = us
        return {**found, "max": self._max_us}

    def slowest(self, most: int = 10) -> list[ToolTime]:
        """The tools whose jobs took longest in the mean, the slowest first."""
        tools = (ToolTime(name, jobs, total // jobs, longest) for name, (jobs, total, longest) in self._tools.items())
        return sorted(tools, key=lambda tool: (-tool.mean_us, tool.tool_name))[:most]
