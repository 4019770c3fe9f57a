"""The same guard gives the same outcome and the same bytes on either engine: every guard that the tests have, and the samples.

Only a Python that can run both engines can compare them, which is CPython 3.10. The words of messages may differ, and so may
the answers of guards that look at clocks or at random numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from typing import Any

import pytest

import guardkit
import zigkit
from guardpool import Guard, GuardInitError, Job, Limits, Outcome, samples
from guardpool.machine.engines import ENGINE_NAMES, engine_problem
from poolkit import POLICY, WAIT_S, pool

pytestmark = pytest.mark.skipif(
    any(engine_problem(name) for name in ENGINE_NAMES), reason="this Python cannot run both engines"
)

ASKS_THE_WORLD = {"clocks_and_random", "agent_random"}
NEVER_RETURNS = {"spin", "spin_agent"}
NAMES = sorted(path.stem for path in guardkit.GUARDS.glob("*.wat"))
RESULT = {"items": [{"number": 1, "title": "\N{SNOWMAN}"}, {"number": 2}]}


def backend(tool: str, args: Any) -> Any:
    return {"tool": tool, "args": args}


def jobs_for(guard: str) -> Iterable[Job]:
    """One after the other: small, large, small again; then pages of results."""
    for number, owner in enumerate(("o", "o" * 60, "o" * 300_000, "o")):
        yield Job(number, "label_resource", "get_issue", {"owner": owner, "repo": "r"}, guard=guard)
    for number in range(4, 7):
        yield Job(number, "label_response", "list_issues", {"owner": "o"}, RESULT, guard=guard)


def told(outcome: Outcome) -> tuple[Any, ...]:
    """All of an outcome but times and the words of messages."""
    error = outcome.error
    return (
        outcome.id,
        outcome.status.value,
        outcome.label_json,
        error and (error.code, error.trap, error.guard_code, error.exit_code, error.backend),
        outcome.attempts,
        outcome.backend_calls,
        outcome.logs,
    )


def run(engine: str, guard: Guard, jobs: Iterable[Job], timeout_s: float = WAIT_S) -> list[tuple[Any, ...]]:
    """What becomes of the jobs on one worker; or that the guard could not be made ready, and which step failed."""
    pages = 40_400 if guard.name == "alloc_high" else 512  # its buffers lie above 2 GiB
    limits = Limits(timeout_s=timeout_s, keep_logs=True, memory_pages=pages, max_rss_bytes=4 << 30)
    try:
        with pool(guard, workers=1, limits=limits, engine=engine, log_level="debug") as made:
            assert made.stats().engine.startswith(engine)
            agent = made.agents[guard.name]
            return [(agent.secrecy, agent.integrity, agent.mode), *map(told, made.map(jobs, ordered=True))]
    except GuardInitError as error:
        return [("not ready", str(error).partition(" at ")[0])]


@pytest.mark.parametrize("name", NAMES)
def test_guard_comes_to_the_same_on_both_engines(name: str) -> None:
    guard = Guard(name, guardkit.wat(name), POLICY, backend=backend)
    jobs = list(jobs_for(name))
    timeout_s = WAIT_S
    if name in NEVER_RETURNS:
        jobs, timeout_s = jobs[:2], 0.3
    ours, theirs = (run(engine, guard, jobs, timeout_s) for engine in ENGINE_NAMES)
    if name in ASKS_THE_WORLD:
        ours, theirs = ([outcome[1] for outcome in outcomes[1:]] for outcomes in (ours, theirs))
    assert ours == theirs


def test_zig_guard_comes_to_the_same_on_both_engines(tmp_path: Any) -> None:
    guard = Guard("zig", zigkit.wasi_guard(tmp_path), POLICY)
    jobs = [
        Job(number, "label_resource", tool) for number, tool in enumerate(("get_issue", "quit", "get_issue", "panic"))
    ]
    ours, theirs = (run(engine, guard, jobs) for engine in ENGINE_NAMES)
    assert ours == theirs
    assert [outcome[1] for outcome in ours[1:]] == ["ok", "trap", "ok", "trap"]


def digest(engine: str, count: int) -> str:
    """A digest of all that the sample jobs' outcomes hold, but for the times.

    On one worker: the guard remembers what its backend said, so that how often it asks depends on what came before.
    """
    found = hashlib.sha256()
    guard = Guard("sample", samples.GUARD.read_bytes(), samples.POLICY, backend=samples.backend)
    with contextlib.closing(pool(guard, workers=1, engine=engine)) as made:
        for outcome in made.map(samples.jobs(count), ordered=True):
            found.update(repr(told(outcome)).encode())
    return found.hexdigest()


@pytest.mark.parametrize("count", [2000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_sample_jobs_come_to_the_same_bytes_on_both_engines(count: int) -> None:
    ours, theirs = (digest(engine, count) for engine in ENGINE_NAMES)
    assert ours == theirs
