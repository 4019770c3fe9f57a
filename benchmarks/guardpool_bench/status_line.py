"""The status line of a run on stderr: redrawn in place on a terminal, a line for each case elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class StatusLine:
    """Shows on stderr which case runs.

    Args:
        cases: how many there will be.
        quiet: say nothing.
    """

    def __init__(self, cases: int, *, quiet: bool = False) -> None:
        self._cases = cases
        self._number = 0
        self._case = ""
        self._began = self._case_began = time.monotonic()
        self._quiet = quiet
        self._status: Any = None

    def __enter__(self) -> StatusLine:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False, markup=False).status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def case(self, name: str) -> None:
        """Note that a case begins."""
        self._number += 1
        self._case, self._case_began = name, time.monotonic()
        self.step("preparing")

    def step(self, what: str) -> None:
        """Show what of the case is being measured now."""
        if self._status is not None:
            from rich.text import Text

            elapsed = int(time.monotonic() - self._began)
            clock = f"{elapsed // 60}:{elapsed % 60:02}"
            self._status.update(
                Text.assemble(
                    (f"{self._case} ", "bold"), (f"({self._number} of {self._cases})  ", "dim"), what, (f"  {clock}", "dim")
                )
            )  # fmt: skip

    def case_done(self) -> None:
        """Note that the case is over, and how long it took."""
        if self._quiet:
            return
        line = f"{self._case}: measured in {time.monotonic() - self._case_began:.1f} s"
        if self._status is not None:
            self._status.console.print(line, style="dim")
        else:
            print(f"bench: {line}", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a remark above the status line."""
        if self._quiet:
            return
        if self._status is not None:
            self._status.console.print(line, style="yellow")
        else:
            print(f"bench: {line}", file=sys.stderr, flush=True)
