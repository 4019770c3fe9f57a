"""`GuardPool(isolation="job")`: whole pools, sandboxed, in which no job sees what another one left behind.

`tests/worker/test_isolation.py` has each way to make a copy, and every guard of the tests.
"""

from __future__ import annotations

import itertools
import threading
from random import Random
from typing import Any

import psutil
import pytest

import enginekit
import guardkit
from guardpool import Job, Limits, Outcome, samples
from guardpool.errors import CallerError, GuardInitError
from guardpool.guard import Guard
from guardpool.machine.engines import ENGINE_NAMES, engine_problem
from poolkit import POLICY, WAIT_S, guard, pool

SHORT, LONG = {"owner": "o"}, {"owner": "x" * 2000}
SECRET = {"owner": "Z" * 3000}
ROUNDS = 30
# Each guard's jobs, which come one after the other and in turns with the others'.
JOBS = {
    "counts": [SHORT],
    "counts_in_memory": [SHORT, LONG, LONG, SHORT],
    "counts_in_tables": [SHORT],
    "dumps_memory": [SECRET, SHORT],
    "trap_unreachable": [SHORT],
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[list[Outcome]]]:
    """What the jobs of each guard came to, in each round."""
    jobs = [
        Job((name, number), "label_resource", "t", args, guard=name)
        for number in range(ROUNDS)
        for name in JOBS
        for args in JOBS[name]
        if name != "trap_unreachable" or number == ROUNDS // 2
    ]
    found: dict[str, list[list[Outcome]]] = {name: [[] for _ in range(ROUNDS)] for name in JOBS}
    with pool(*map(guard, JOBS), isolation="job", sandbox="require") as made:
        for outcome in made.map(jobs):
            name, number = outcome.id
            found[name][number].append(outcome)
    return found


def codes(outcomes: list[Outcome]) -> tuple[int | None, ...]:
    """What a guard refused jobs with."""
    return tuple(outcome.error.guard_code if outcome.error is not None else None for outcome in outcomes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("counts", (-101,)),
        ("counts_in_memory", (-15555550, -15555551, -15555551, -15555550)),
        ("counts_in_tables", (-55555,)),
    ],
)
def test_guard_that_counts_says_the_same_for_every_job(
    outcomes: dict[str, list[list[Outcome]]], name: str, expected: tuple[int, ...]
) -> None:
    assert {codes(each) for each in outcomes[name]} == {expected}


def test_guard_that_dumps_its_memory_finds_nothing_of_other_jobs(outcomes: dict[str, list[list[Outcome]]]) -> None:
    assert {codes(each) for each in outcomes["dumps_memory"]} == {(-3001, -1)}


def test_job_that_traps_ends_its_worker_and_no_other_job(outcomes: dict[str, list[list[Outcome]]]) -> None:
    (trapped,) = outcomes["trap_unreachable"][ROUNDS // 2]
    assert trapped.status.value == "trap"
    assert trapped.error is not None
    assert trapped.error.trap == "unreachable"


def slow_and_failing(tool: str, args: Any) -> Any:
    """What the samples' backend says, later for some questions, and never for some others."""
    luck = Random(repr((tool, args)))
    if luck.random() < 0.1:
        raise ConnectionError("this question has no answer")
    threading.Event().wait(luck.choice((0, 0, 0, 0.002, 0.01)))
    return samples.backend(tool, args)


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_labels_are_the_same_whatever_the_order_workers_engine_and_kills(count: int) -> None:
    jobs = list(samples.jobs(count))
    engines = [name for name in ENGINE_NAMES if not engine_problem(name)]
    runs: list[dict[object, bytes]] = []
    for number, (workers, engine) in enumerate(itertools.product((1, 2, 3), engines)):
        sample = Guard("sample", samples.GUARD.read_bytes(), samples.POLICY, backend=slow_and_failing)
        limits = Limits(timeout_s=WAIT_S, max_attempts=1000)
        options = {"workers": workers, "engine": engine, "limits": limits, "log_level": "off"}
        with pool(sample, isolation="job", deterministic=True, **options) as made:
            Random(number).shuffle(jobs)
            found = {}
            for outcome in made.map(jobs, ordered=False):
                found[outcome.id] = outcome.label_json
                if workers > 1 and len(found) % (count // 4) == 0:
                    psutil.Process(made.stats().workers[0].pid).kill()
            assert workers == 1 or made.stats().respawns
        runs.append(found)
    assert runs[0].keys() == {job.id for job in jobs}
    assert all(run == runs[0] for run in runs)


def test_a_label_agent_that_fails_when_it_is_run_again_costs_one_job() -> None:
    source = (guardkit.GUARDS / "agent_asks.wat").read_text(encoding="utf-8")
    changes_a_table = "(table $t 1 funcref) (func (table.set $t (i32.const 0) (ref.null func)))"
    memory = '(memory (export "memory") 2)'
    wasm = enginekit.wat_to_wasm(source.replace(memory, memory + changes_a_table))
    asked = []

    def answer(*_: object) -> str:
        asked.append("once more")
        if len(asked) == 4:
            raise ConnectionError("not now")
        return "yes"

    asks = Guard("asks", wasm, POLICY, backend=answer, remember="never")
    with pool(asks, workers=1, isolation="job") as made:
        found = [made.label_resource("t", SHORT) for _ in range(5)]
    failed = found.pop(3)
    assert [outcome.status.value for outcome in found] == ["ok"] * 4
    assert failed.status.value == "invalid"
    assert failed.error is not None
    assert failed.error.code == "no_copy"
    assert "label_agent returned -3" in failed.error.message


def test_a_guard_that_fails_when_its_first_copy_is_made_fails_the_start() -> None:
    # Its third allocation traps, which is the room for jobs, and then its second label_agent, which asks, has no answer.
    source = (guardkit.GUARDS / "agent_asks.wat").read_text(encoding="utf-8")
    memory = '(memory (export "memory") 90)'
    allocates = """(global $heap (mut i32) (i32.const 65536)) (global $left (mut i32) (i32.const 2))
      (func (export "alloc") (param $size i32) (result i32)
        (if (i32.eqz (global.get $left)) (then unreachable))
        (global.set $left (i32.sub (global.get $left) (i32.const 1)))
        (global.set $heap (i32.add (global.get $heap) (local.get $size)))
        (i32.sub (global.get $heap) (local.get $size)))
      (func (export "dealloc") (param i32 i32))"""
    wasm = enginekit.wat_to_wasm(source.replace('(memory (export "memory") 2)', memory + allocates))
    answers = iter(["only once"])
    asks = Guard("asks", wasm, POLICY, backend=lambda *_: next(answers), remember="never")
    with pytest.raises(GuardInitError, match="label_agent returned -3"):
        pool(asks, workers=1, isolation="job")


@pytest.mark.parametrize("how", ["session", True, None])
def test_isolation_is_one_of_two_words(how: object) -> None:
    with pytest.raises(CallerError, match="isolation must be one of none, job, not "):
        pool(isolation=how)
