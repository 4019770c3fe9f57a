"""The same guard gives the same outcome and the same bytes on either engine: every guard that the tests have, and the samples.

Only a Python that can run both engines can compare them, which is CPython 3.10. The pools are deterministic, so that guards
which look at clocks or at random numbers can be compared as well; only the words of messages may differ.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import pytest

import guardkit
import zigkit
from guardpool import Guard, GuardInitError, Job, Limits, Outcome, samples
from guardpool.artifacts import compilation
from guardpool.machine.engines import ENGINE_NAMES, engine_problem
from guardpool_worker.engine.bundle import compile_bundle
from guardpool_worker.engine.choice import load_engine
from poolkit import POLICY, WAIT_S, pool

pytestmark = pytest.mark.skipif(
    any(engine_problem(name) for name in ENGINE_NAMES), reason="this Python cannot run both engines"
)

NEVER_RETURNS = {"spin", "spin_agent"}
ALONE = {"alloc_high", *NEVER_RETURNS}
_AT_ONCE = 12
NAMES = sorted(path.stem for path in guardkit.GUARDS.glob("*.wat"))
# RLIMIT_DATA counts what the buffers of all guards of a pool may use, touched or not.
LIMITS = Limits(timeout_s=WAIT_S, keep_logs=True, max_rss_bytes=4 << 30, max_data_bytes=4 << 30)
RESULT = {"items": [{"number": 1, "title": "\N{SNOWMAN}"}, {"number": 2}]}


@pytest.fixture(scope="module", autouse=True)
def _compiled_here() -> Iterator[None]:
    """No process for each of two hundred compilations: `artifacts/test_compilation.py` has that."""

    def compile_it(wasm: bytes, has_start: bool, _guard: object, _limits: object, engine: str) -> bytes:
        return compile_bundle(load_engine(engine), wasm, has_start=has_start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "_run_compiler", compile_it)
        yield


# The labels of `label_agent`, then what was told of each outcome.
Told = list[tuple[Any, ...]]


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


def run(
    engine: str, guards: Sequence[Guard], jobs: Callable[[str], Iterable[Job]], limits: Limits = LIMITS
) -> dict[str, Told]:
    """What becomes of each guard's jobs on one worker; or that the guard could not be made ready, and which step failed."""
    try:
        with pool(*guards, workers=1, limits=limits, engine=engine, log_level="debug", deterministic=True) as made:
            assert made.stats().engine.startswith(engine)
            return {
                name: [
                    (agent.secrecy, agent.integrity, agent.mode),
                    *map(told, made.map(jobs(name), ordered=True)),
                ]
                for name, agent in made.agents.items()
            }
    except GuardInitError as error:
        if len(guards) == 1:
            return {guards[0].name: [("not ready", str(error).partition(" at ")[0])]}
        return {guard.name: run(engine, [guard], jobs, limits)[guard.name] for guard in guards}


@cache
def run_at_once(engine: str, names: tuple[str, ...]) -> dict[str, Told]:
    """What these guards of `tests/guards/` come to, in one pool."""
    guards = [Guard(name, guardkit.wat(name), POLICY, backend=backend) for name in names]
    if names == ("alloc_high",):  # its buffers lie above 2 GiB
        return run(engine, guards, jobs_for, replace(LIMITS, memory_pages=40_400))
    if NEVER_RETURNS.intersection(names):
        return run(engine, guards, lambda name: islice(jobs_for(name), 2), replace(LIMITS, timeout_s=0.5))
    return run(engine, guards, jobs_for)


def beside(name: str) -> tuple[str, ...]:
    """The guards that share a pool with this one, which starts far fewer pools than one for each."""
    if name in ALONE:
        return (name,)
    names = [each for each in NAMES if each not in ALONE]
    at = names.index(name) // _AT_ONCE * _AT_ONCE
    return tuple(names[at : at + _AT_ONCE])


@pytest.mark.parametrize("name", NAMES)
def test_guard_comes_to_the_same_on_both_engines(name: str) -> None:
    ours, theirs = (run_at_once(engine, beside(name))[name] for engine in ENGINE_NAMES)
    assert ours == theirs


def test_zig_guard_comes_to_the_same_on_both_engines(tmp_path: Any) -> None:
    guard = Guard("zig", zigkit.wasi_guard(tmp_path), POLICY)
    tools = ("get_issue", "quit", "world", "get_issue", "panic", "world")
    jobs = [Job(number, "label_resource", tool) for number, tool in enumerate(tools)]
    ours, theirs = (run(engine, [guard], lambda _: jobs)["zig"] for engine in ENGINE_NAMES)
    assert ours == theirs
    assert [outcome[1] for outcome in ours[1:]] == ["ok", "trap", "ok", "ok", "trap", "ok"]


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
