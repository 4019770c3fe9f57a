"""Which failures of backend calls are logged, so that a backend that is down gives a few lines and not one a question. Pure."""

from __future__ import annotations

from guardpool.printable import printable

# The same failure is told again after so long, with how often it came meanwhile.
INTERVAL_S = 60.0
# So many different failures are told in that time. With some backends each question fails in words of its own.
MOST_TOLD = 20


class BackendFailures:
    """The failures of the last minute. Times are monotonic seconds."""

    def __init__(self) -> None:
        # When each was told, and how often it came since.
        self._told: dict[tuple[str, str, str], tuple[float, int]] = {}
        self._is_cut = False

    def line(self, now: float, guard: str, tool: str, failure: str) -> str | None:
        """What to log of a failure; None: nothing."""
        key = guard, tool, failure
        told_at, times = self._told.get(key, (-INTERVAL_S, 0))
        if key in self._told and now < told_at + INTERVAL_S:
            self._told[key] = told_at, times + 1
            return None
        if len(self._told) >= MOST_TOLD and key not in self._told:
            self._told = {key: seen for key, seen in self._told.items() if now < seen[0] + INTERVAL_S}
            if len(self._told) >= MOST_TOLD:
                is_news, self._is_cut = not self._is_cut, True
                return "more failures of backend calls follow that are counted in outcomes only" if is_news else None
            self._is_cut = False
        self._told[key] = now, 0
        more = f" ({times + 1:,} times since it was last told)" if times else ""
        return f"guard {guard}: backend call of {printable(tool, 80)} failed: {failure}{more}"
