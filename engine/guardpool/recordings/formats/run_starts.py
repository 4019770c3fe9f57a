"""Where in a gateway's log a new run begins."""

from __future__ import annotations

from guardpool.recordings.formats.pairing import MAX_SERVERS
from guardpool.recordings.formats.timestamps import seconds_between

# The gateway gives up a call after so long, if its configuration says nothing else (`toolTimeout`).
_MAX_ANSWER_S = 60.0
# Lines that are written at once may have their times in the wrong order.
_MAX_CLOCK_STEP_S = 1.0


class RunStarts:
    """Tells where a new gateway begins to write into the same file.

    A gateway asks its servers for their tools when it starts. It may ask again while it runs, and then answers are still on
    their way; so that a server is asked once more is a new run only with other evidence: the server is greeted before
    (`initialize`), a second server is asked once more without a call between, the clock has gone back, or nothing was
    written for longer than a call may take.
    """

    def __init__(self) -> None:
        self._listed: set[str] = set()  # servers whose tools were asked for in this run
        self._greeted: set[str] = set()  # and since the last call: servers that were greeted
        self._again: set[str] = set()  # and those that were asked once more
        self.last_at: str | None = None  # when the line before was written

    def is_start(self, server: str, method: str, at: str | None, *, is_first_page: bool) -> bool:
        """Whether a request is the first that shows a new run.

        Args:
            server: that is asked.
            method: of the request.
            at: when it was written, RFC 3339.
            is_first_page: it does not go on with a list (`cursor`).
        """
        if method == "tools/call":
            if self._again or self._greeted:
                self._again.clear()
                self._greeted.clear()
            return False
        if method == "initialize" and len(self._greeted) < MAX_SERVERS:
            self._greeted.add(server)
        if method != "tools/list" or not is_first_page:
            return False
        if server not in self._listed:
            if len(self._listed) >= MAX_SERVERS:
                self._listed.clear()
            self._listed.add(server)
            return False
        self._again.add(server)
        pause_s = seconds_between(self.last_at, at) or 0.0
        is_apart = pause_s >= _MAX_ANSWER_S or pause_s <= -_MAX_CLOCK_STEP_S
        if not is_apart and len(self._again) < 2 and server not in self._greeted:
            return False
        self._listed = self._again
        self._again, self._greeted = set(), set()
        return True
