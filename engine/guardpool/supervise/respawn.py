"""When a dead worker is replaced, and when the pool gives up. Pure: time goes in as a number."""

from __future__ import annotations

# The pool is broken if for so long it has no worker, and none can be started because the machine lacks something.
SHORTAGE_PATIENCE_S = 30.0
# The pool is broken after so many barren deaths (see `RespawnPolicy`) in a row.
MAX_BARREN_DEATHS = 8
_FIRST_DELAY_S = 0.010
_MAX_DELAY_S = 1.0


class RespawnPolicy:
    """Back-off while workers die without an outcome.

    A death is barren when the worker never became ready, or when it held jobs and died before it began one. Deaths that
    end in an outcome, that charge a job an attempt, or that hit an idle worker say nothing against the next worker.

    Attributes:
        barren_deaths: how many there were in a row.
    """

    def __init__(self) -> None:
        self.barren_deaths = 0
        self._last_barren_at = 0.0
        self._due_after_barren = self._due_after_shortage = 0.0
        self._shortages = 0
        self._short_since = 0.0

    @property
    def spawn_at(self) -> float:
        """No worker is started before that time."""
        return max(self._due_after_barren, self._due_after_shortage)

    @property
    def is_short(self) -> bool:
        """Whether the last attempt to start a worker failed because the machine lacks something."""
        return self._shortages > 0

    def outcome(self) -> None:
        """Reset the count: a job got its outcome, so whatever was wrong is over."""
        self.barren_deaths = 0

    def is_news(self, born_at: float) -> bool:
        """Whether the barren death of a worker born then says anything that an earlier one did not.

        Of many workers that die at once only the first counts: each was born before the others' deaths.
        """
        return born_at >= self._last_barren_at

    def barren_death(self, now: float) -> bool:
        """A worker's death was barren, or it could not even be started.

        Its successor waits for 0, 10, 20, 40 ... 1000 ms from now on.

        Returns:
            Whether there is to be a successor; False: the pool is broken.
        """
        self._last_barren_at = now
        self.barren_deaths += 1
        if self.barren_deaths >= MAX_BARREN_DEATHS:
            return False
        self._due_after_barren = now + _delay(self.barren_deaths)
        return True

    def shortage(self, now: float) -> float:
        """A worker could not be started because the machine lacks something now, which says nothing against workers.

        The next attempt waits as after a barren death.

        Returns:
            For how many seconds that has been so: since the first of these failures after the last worker became ready.
        """
        if not self._shortages:
            self._short_since = now
        self._shortages += 1
        self._due_after_shortage = now + _delay(self._shortages)
        return now - self._short_since

    def birth(self) -> None:
        """A worker became ready: the machine has what one needs."""
        self._shortages = 0


def _delay(failures: int) -> float:
    """How long to wait after so many failures in a row: 0, 10, 20, 40 ... 1000 ms."""
    return min(_MAX_DELAY_S, _FIRST_DELAY_S * 2 ** (failures - 2)) if failures >= 2 else 0.0
