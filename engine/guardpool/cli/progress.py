"""Progress that is honest: what was done, how fast lately, how long still, and what became of the jobs.

The display is drawn by the thread that calls `update`; it has none of its own. Log lines of guards are kept by a handler
that never blocks the pool, and are printed above the bar, escaped.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardpool.cli.render import complain, make_console, safe, show_bytes, show_duration, show_rate, show_seconds
from guardpool.cli.tables import Table
from guardpool.outcomes import Outcome, Status
from guardpool.plurals import number_of
from guardpool.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

    from guardpool.batch.timings import Timings

_RATE_WINDOW_S = 10.0
_LOG_LINES = 5000
_LOG_CHARS = 500
_NARROW_COLUMNS = 56
_SLOWEST_TOOLS = 3
_STYLES = {Status.OK: "green", Status.REFUSED: "yellow", Status.REJECTED: "yellow", Status.CANCELLED: "yellow"}


class RateMeter:
    """Jobs a second over the last ten seconds: what an ETA has to be made of, which the mean of a long run is not."""

    def __init__(self, now: float, done: int = 0) -> None:
        self._samples: deque[tuple[float, int]] = deque([(now, done)])

    def record(self, now: float, done: int) -> float:
        """Take note of how many are done; return the rate."""
        samples = self._samples
        if now - samples[-1][0] >= 0.25 or len(samples) == 1:
            samples.append((now, done))
        while len(samples) > 2 and now - samples[1][0] >= _RATE_WINDOW_S:
            samples.popleft()
        since, before = samples[0]
        return (done - before) / (now - since) if now > since else 0.0


@dataclass(frozen=True)
class State:
    """What the display shows.

    Args:
        done: jobs that have their outcome.
        counts: how many of them ended with each status.
        part: how much of the input is done, 0 to 1; None if its size is not known.
        unit: what is counted.
        given: how many of the jobs, 0 to 1, no guard had to label, because a label was kept or a job equal.
        read: bytes of the input read so far, as they are stored, and how many there are, if that is known.
    """

    done: int
    counts: Mapping[Status, int]
    part: float | None
    unit: str = "jobs"
    given: float = 0.0
    read: tuple[int, int | None] | None = None


class LogBuffer(logging.Handler):
    """Keeps log lines for the main thread to print, so that a slow terminal does not stop the pool's own thread."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=_LOG_LINES)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line; the oldest goes when there are too many."""
        if len(self._lines) == _LOG_LINES:
            self._dropped += 1
        self._lines.append(f"guardpool: {record.levelname.lower()}: {record.getMessage()[: _LOG_CHARS * 2]}")

    def drain(self) -> list[str]:
        """The lines since last time, safe to print."""
        lines = [printable(self._lines.popleft(), _LOG_CHARS) for _ in range(len(self._lines))]
        if self._dropped:
            lines.append(f"guardpool: {self._dropped} older log lines are not shown")
            self._dropped = 0
        return lines

    def install(self, level: str) -> None:
        """Listen to guardpool's loggers: its own warnings always, the guards' lines from `level` on."""
        listen(self, level)

    def uninstall(self) -> None:
        """Undo `install`."""
        listen_no_more(self)


def listen(handler: logging.Handler, level: str) -> None:
    """Give a handler what guardpool logs: its own warnings always, the guards' lines from `level` on, or none at `off`."""
    root = logging.getLogger("guardpool")
    root.addHandler(handler)
    root.propagate = False
    logging.getLogger("guardpool.guard").setLevel(logging.CRITICAL + 1 if level == "off" else level.upper())


def listen_no_more(handler: logging.Handler) -> None:
    """Undo `listen`."""
    root = logging.getLogger("guardpool")
    root.removeHandler(handler)
    root.propagate = True
    logging.getLogger("guardpool.guard").setLevel(logging.NOTSET)


class Display:
    """Progress on stderr: a bar if it is a terminal, otherwise only log lines.

    Args:
        bar: False: no bar even on a terminal.
        logs: printed whenever the display is updated.
    """

    def __init__(self, *, bar: bool, logs: LogBuffer) -> None:
        self._logs = logs
        self._started = time.monotonic()
        self._meter = RateMeter(self._started)
        self._live: Live | None = None
        if bar and can_draw():
            from rich.live import Live

            self._live = Live(console=make_console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()

    def begin(self, done: int = 0) -> None:
        """The first job is about to be read, and so many are done already: rates count from here."""
        self._started = time.monotonic()
        self._meter = RateMeter(self._started, done)

    @property
    def elapsed_s(self) -> float:
        """Seconds since `begin`."""
        return time.monotonic() - self._started

    def update(self, state: State) -> None:
        """Print the log lines that came and draw the bar anew."""
        self.print_logs()
        if self._live is None:
            return
        now = time.monotonic()
        rate = self._meter.record(now, state.done)
        self._live.update(render_progress(state, rate, now - self._started, self._live.console.width), refresh=True)

    def print_logs(self) -> None:
        """Print the log lines that came, above the bar."""
        lines = self._logs.drain()
        if not lines:
            return
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text("\n".join(lines)), soft_wrap=True)
            return
        try:
            sys.stderr.write("\n".join(lines) + "\n")
            sys.stderr.flush()
        except OSError:
            pass  # there is no reader

    def close(self) -> None:
        """Take the bar away and give the terminal its cursor back; print what is left of the log."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self.print_logs()


def can_draw() -> bool:
    """Whether stderr is a terminal that a bar can be drawn on."""
    return os.isatty(2) and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


def render_progress(state: State, rate: float, elapsed_s: float, columns: int) -> RenderableType:
    """The bar of the moment, for a terminal of `columns`."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    facts = f"{state.done:,} {state.unit}  {show_rate(rate)}  {_time_left(state, rate, elapsed_s)}"
    counts = counts_line(state.counts)
    if state.given:
        counts.append(f"  not labelled again {_percent(state.given)}", style="dim")
    if state.read is not None:
        read, total = state.read
        of = "" if total is None else f" of {show_bytes(total)}"
        counts.append(f"{'  ' if counts else ''}{show_bytes(read)}{of} read", style="dim")
    counts.truncate(columns, overflow="ellipsis")
    if state.part is None or columns < _NARROW_COLUMNS:
        percent = "" if state.part is None else f"{_percent(state.part)}  "
        line = Text(percent + facts, no_wrap=True)
        line.truncate(columns, overflow="ellipsis")
        return Group(line, counts)
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    bar = ProgressBar(total=1.0, completed=state.part, width=max(8, min(40, columns - len(facts) - 8)))
    grid.add_row(bar, _percent(state.part), facts)
    return Group(grid, counts)


def _percent(part: float) -> str:
    return f"{min(int(part * 100), 99 if part < 1 else 100)}%"


def _time_left(state: State, rate: float, elapsed_s: float) -> str:
    if state.part is None:
        return show_seconds(elapsed_s)
    if state.part <= 0 or rate <= 0:
        return "ETA -:--"
    left_s = math.ceil((state.done / state.part - state.done) / rate)
    return f"ETA {show_seconds(left_s)}" if left_s >= 60 else f"ETA 0:{left_s:02}"


def counts_line(counts: Mapping[Status, int]) -> Text:
    """Outcomes by status, `ok 1,234  trap 5`, in the order of `Status`."""
    from rich.text import Text

    line = Text(no_wrap=True)
    for status in Status:
        if counts.get(status):
            line.append(f"{status.value} ", style="dim").append(
                f"{counts[status]:,}  ", style=_STYLES.get(status, "red")
            )
    line.rstrip()
    return line


def print_summary(
    counts: Counter[Status],
    examples: Mapping[Status, Outcome],
    elapsed_s: float,
    *,
    table: bool,
    prefix: str = "",
    suffix: str = "",
    earlier: int = 0,
    timings: Timings | None = None,
) -> None:
    """The end of a run, for people, on stderr: how many jobs, how fast, and what became of them.

    Args:
        counts: outcomes by status.
        examples: one of each status but `ok`.
        elapsed_s: how long the run took.
        table: draw a table if stderr is a terminal; otherwise it is one line.
        prefix: stands before the number of jobs.
        suffix: stands at the end of the line, or above the table.
        earlier: how many of the outcomes an interrupted run had made: they took none of this time.
        timings: how long jobs took in their guards; shown below the table only.
    """
    total = sum(counts.values())
    now = total - earlier
    rate = f" ({show_rate(now / elapsed_s).removesuffix('/s')} jobs/s)" if elapsed_s > 0 and now else ""
    headline = f"{prefix}{number_of(now, 'job')} in {show_seconds(elapsed_s)}{rate}"
    if earlier:
        headline += f", and {earlier:,} before the interruption"
    if not (table and can_draw()):
        words = ", ".join(f"{counts[status]:,} {status.value}" for status in Status if counts[status])
        complain(f"{headline}{': ' + words if words else ''}{suffix}")
        return
    console = make_console(stderr=True)
    console.print(safe(f"{headline}{suffix}", 1000, style="bold"), soft_wrap=True)
    if total:
        _print_counts(console, counts, examples, total)
    if timings is not None:
        _print_timings(console, timings)


def _print_counts(console: Console, counts: Counter[Status], examples: Mapping[Status, Outcome], total: int) -> None:
    table = Table("status", "jobs>", "%>", *(["for example"] if examples else []))
    for status in Status:
        if not counts[status]:
            continue
        share = 100 * counts[status] / total
        row = [safe(status.value, style=_STYLES.get(status, "red")), safe(f"{counts[status]:,}"), safe(f"{share:.1f}")]
        example = examples.get(status)
        if example is not None and example.error is not None:
            row.append(safe(f"{_place_of(example)}: {example.error.message}", 160))
        table.add_row(*row)
    table.print(console)


def _print_timings(console: Console, timings: Timings) -> None:
    """Quantiles of the time in guards, and the slowest tools."""
    quantiles = timings.quantiles()
    if not quantiles:
        return
    times = ", ".join(f"{name} {show_duration(us)}" for name, us in quantiles.items())
    console.print(f"in the guard: {times}", soft_wrap=True)
    slowest = timings.slowest(_SLOWEST_TOOLS)
    if len(slowest) > 1:
        table = Table("slowest tools", "jobs>", "mean>", "max>")
        for tool in slowest:
            times_of_tool = (show_duration(tool.mean_us), show_duration(tool.max_us))
            table.add_row(safe(tool.tool_name, 60), f"{tool.jobs:,}", *times_of_tool)
        table.print(console)


def _place_of(outcome: Outcome) -> str:
    """Where the job of an outcome is to be looked for: its line, counted from 1, if it was rejected for what is there."""
    error = outcome.error
    return f"job {outcome.id}" if error is None or error.line is None else f"line {error.line + 1:,}"
