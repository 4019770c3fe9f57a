"""When a dead worker is replaced, and when the pool gives up. Pure: time goes in as a number."""

from __future__ import annotations

# Longest streak of deaths with nothing to show for before the pool is broken.
MAX_BARREN_DEATHS = 8
_FIRST_DELAY_S = 0.010
_MAX_DELAY_S = 1.0


class RespawnPolicy:
    """Back-off while workers die without an outcome to show for it.

    A death is barren when the worker never became ready, or when it held jobs and died before it began one. Deaths that
    end in an outcome, that charge a job an attempt, or that hit an idle worker say nothing against the next worker.
    """

    def __init__(self) -> None:
        self.barren_deaths = 0

    def outcome(self) -> None:
        """A job got its outcome: whatever was wrong is over."""
        self.barren_deaths = 0

    def death(self, *, barren: bool) -> float | None:
        """A worker died.

        Returns:
            Seconds to wait before its successor is started (0, 0.01, 0.02, 0.04 ... 1.0), or None: the pool is broken.
        """
        if not barren:
            return 0.0
        self.barren_deaths += 1
        if self.barren_deaths >= MAX_BARREN_DEATHS:
            return None
        if self.barren_deaths == 1:
            return 0.0
        return float(min(_MAX_DELAY_S, _FIRST_DELAY_S * 2 ** (self.barren_deaths - 2)))
