"""The timeline of a kill: from the deadline (or the SIGKILL, or the trap) to the next result, in milliseconds.

    python benchmarks/kill_timeline.py [--kills 30] [--timeout 0.1]

The pool has one worker, so the next result has to wait for its successor. A job is queued behind the one that ends the
worker. The supervisor's methods are wrapped here, from outside, and the forkserver is started with a few more lines that
measure what a fresh worker spends its time on. Printed are medians over the kills, with the worst in brackets.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from msgspec.structs import replace

from guardpool import Guard, GuardPool, Limits, samples
from guardpool.machine import launch
from guardpool.protocol import wire
from guardpool.protocol.progress_page import STARTED_NS
from guardpool.supervise.births import Births
from guardpool.supervise.deaths import Deaths
from guardpool.supervise.exchange import Exchange
from guardpool.supervise.hello import Hellos
from guardpool.supervise.sender import Sender
from guardpool.supervise.worker_handle import WorkerHandle
from guardpool_bench import workguard

STEPS = {
    "deadline": "deadline passed",
    "origin": "SIGKILL from outside, or the trap",
    "kill": "kill sent",
    "asked": "successor asked for",
    "death": "death noticed",
    "status": "exit status here",
    "forked": "successor forked",
    "hello": "successor ready (HELLO)",
    "sent": "next job sent",
    "result": "next result",
    "caller": "the caller has it",
}
INSIDE = {
    "began": "    the worker: it runs",
    "sandbox": "    the worker: sandbox closed",
    "instances": "    the worker: last instance made",
    "label_agent": "    the worker: last label_agent done",
}

# Runs in the forkserver: a worker writes what it did when to its standard error, which the supervisor keeps.
_PROBE = """
import json, os, time
from guardpool_worker import sandbox, worker
marks = {}
def wrap(owner, name, mark):
    call = getattr(owner, name)
    def timed(*args, **more):
        try:
            return call(*args, **more)
        finally:
            marks[mark] = time.monotonic()
    setattr(owner, name, timed)
wrap(worker, "map_page", "began")
wrap(sandbox, "close_sandbox", "sandbox")
wrap(worker.GuardInstance, "__init__", "instances")
wrap(worker.GuardInstance, "label_agent", "label_agent")
hello = worker._Channel.hello
def told(*args):
    os.write(2, json.dumps(marks).encode())
    hello(*args)
worker._Channel.hello = told
"""


class Timeline:
    """When each step of the kill that is being watched happened first."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.inside: dict[str, float] = {}
        self.armed = False

    def arm(self) -> None:
        """From now on the first of each step counts."""
        self.at, self.inside, self.armed = {}, {}, True

    def mark(self, step: str, at: float | None = None) -> None:
        """A step happened."""
        if self.armed and step not in self.at:
            self.at[step] = time.monotonic() if at is None else at


def instrument(timeline: Timeline, timeout_s: float) -> None:
    """Wrap the methods in which the steps happen."""

    def before(owner: Any, name: str, look: Callable[..., None]) -> None:
        call = getattr(owner, name)

        @wraps(call)
        def wrapped(*args: Any, **more: Any) -> Any:
            look(*args, **more)
            return call(*args, **more)

        setattr(owner, name, wrapped)

    def on_kill(worker: WorkerHandle, _ending: object) -> None:
        timeline.mark("deadline", worker.page[STARTED_NS] / 1e9 + timeout_s)
        timeline.mark("kill")

    def on_hello(_hellos: Hellos, worker: WorkerHandle, _hello: object) -> None:
        timeline.mark("hello")
        worker.read_stderr()
        if worker.stderr_tail and timeline.armed:
            timeline.inside = json.loads(worker.stderr_tail)

    def on_send(_sender: Sender, _worker: WorkerHandle, frame: wire.ToWorker) -> None:
        if isinstance(frame, wire.Jobs) and "hello" in timeline.at:
            timeline.mark("sent")

    def on_results(_exchange: Exchange, _worker: WorkerHandle, items: list[wire.ResultItem]) -> None:
        if items[-1].status == "trap":
            timeline.mark("origin")
        elif "sent" in timeline.at:
            timeline.mark("result")

    before(WorkerHandle, "kill", on_kill)
    before(WorkerHandle, "__init__", lambda *_args, **_more: timeline.mark("asked"))
    before(Deaths, "on_death", lambda *_: timeline.mark("death"))
    before(Deaths, "conclude", lambda *_: timeline.mark("status"))
    before(Births, "_on_forked", lambda *_: timeline.mark("forked"))
    before(Hellos, "on_hello", on_hello)
    before(Sender, "send", on_send)
    before(Exchange, "_on_results", on_results)


def probe_workers() -> None:
    """Have forkservers started from now on run the probe first."""
    command = launch.command

    def probed(module: str, *arguments: str) -> list[str]:
        words = command(module, *arguments)
        if module.endswith("forkserver"):
            at = words.index("-c") + 1
            words[at] = words[at].replace("; sys.exit(", f"; exec({_PROBE!r}); sys.exit(")
        return words

    launch.command = probed


def measure(kind: str, kills: int, timeout_s: float, timeline: Timeline) -> list[dict[str, float]]:
    """The steps of each kill, in seconds from its origin."""
    end = {"timeout": workguard.spin_job(), "trap": workguard.trap_job()}.get(kind)
    end, tiny = end and replace(end, guard="work"), replace(workguard.tiny_job(), guard="work")
    work = Guard("work", workguard.work_wasm(), workguard.POLICY)
    sample = Guard.from_file(samples.GUARD, name="github", policy=samples.POLICY, backend=samples.backend)
    rows = []
    with GuardPool([work, sample], workers=1, limits=Limits(timeout_s=timeout_s)) as pool:
        for _ in range(kills):
            pool.submit(tiny).result()
            (worker,) = pool.stats().workers
            timeline.arm()
            if end is None:
                timeline.mark("origin")
                os.kill(worker.pid, signal.SIGKILL)
            else:
                pool.submit(end)
            pool.submit(tiny).result()
            timeline.mark("caller")
            timeline.armed = False
            origin = timeline.at["deadline" if kind == "timeout" else "origin"]
            # A worker that was not ended by us is dead by then: when it was given up delays nothing.
            ours = () if kind == "timeout" else ("deadline", "kill")
            row = {step: (at - origin) * 1e3 for step, at in timeline.at.items() if step not in ours}
            row.update((INSIDE[name], (at - origin) * 1e3) for name, at in timeline.inside.items())
            rows.append(row)
    return rows


def main(arguments: list[str]) -> int:
    """Measure the three ways to end a worker and print one table each."""
    parser = argparse.ArgumentParser(description="The timeline of a kill, in milliseconds.")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--timeout", type=float, default=0.1, help="timeout_s of the jobs (default: 0.1)")
    options = parser.parse_args(arguments)
    logging.getLogger("guardpool").setLevel(logging.CRITICAL)  # each death is a warning, and meant
    timeline = Timeline()
    instrument(timeline, options.timeout)
    probe_workers()
    for kind in ("timeout", "SIGKILL", "trap"):
        rows = measure(kind, options.kills, options.timeout, timeline)
        print(
            f"\n{kind}: {options.kills} kills, milliseconds from {'the deadline' if kind == 'timeout' else 'the ' + kind}"
        )
        for step, at in sorted(_columns(rows).items(), key=lambda item: statistics.median(item[1])):
            print(f"  {STEPS.get(step, step):<40} {statistics.median(at):8.2f}   [{max(at):.2f}]")
    return 0


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    columns: dict[str, list[float]] = {}
    for row in rows:
        for step, at in row.items():
            columns.setdefault(step, []).append(at)
    return columns


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
