"""Every guard of `tests/guards/` through a pool: what a caller sees of each way to break a rule, and of each way to keep it.

The instance class is tested by itself in `test_instance.py`; here the same guards run as they do in production: checked,
compiled, capped, in sandboxed workers that are replaced when a guard ends them, many guards in one pool. Each guard stands
in exactly one of the tables below.

Source: the guard contract, all of it; the design, "Outcomes".
"""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

import enginekit
import guardkit
from guardpool import Guard, GuardInitError, GuardPool, Job, Limits, ModuleError, Outcome, PolicyError, PoolBroken
from guardpool.artifacts import compilation
from guardpool.machine.engines import ENGINES
from guardpool.outcomes import LogLine
from guardpool.submit.payload import encode_job
from guardpool_worker.instance import CallResult
from poolkit import MIB, POLICY, WAIT_S, guard, pool, wait_until

SHORT = {"owner": "o", "repo": "r"}
LONG = {"owner": "o" * 60, "repo": "r"}
BIG = {"owner": "o" * 300_000, "repo": "r"}


class Expected(NamedTuple):
    """What a job comes to. `detail` is what the error says besides: the trap, the guard's code or the exit code."""

    status: str
    code: str | None = None
    detail: str | int | None = None


OK = Expected("ok")
INVALID_ANSWER = Expected("invalid", "invalid_answer")
TOO_LARGE = Expected("invalid", "output_too_large")
NO_ROOM = Expected("invalid", "no_room")
PAST_BUFFER = Expected("invalid", "answer_past_buffer")


def refused(code: int) -> Expected:
    return Expected("refused", "guard_refused", code)


def trap(kind: str) -> Expected:
    return Expected("trap", "trap", kind)


# What `label_resource` comes to with each of these arguments, one job after the other.
RESOURCE: dict[str, list[tuple[dict[str, str], Expected]]] = {
    "adds_up": [(SHORT, refused(-912510965)), (BIG, refused(-505783418))],
    "agent_asks": [(SHORT, OK)],
    "agent_logs": [(SHORT, OK)],
    "alloc_frees": [(SHORT, refused(-(64 * 1024 + 4 * 1024 * 1024)))],
    "alloc_small": [(SHORT, OK), (BIG, NO_ROOM), (SHORT, OK)],
    "answer_empty": [(SHORT, INVALID_ANSWER)],
    "answer_huge_length": [(SHORT, PAST_BUFFER)],
    "answer_no_resource": [(SHORT, INVALID_ANSWER)],
    "answer_not_json": [(SHORT, INVALID_ANSWER)],
    "answer_past_buffer": [(SHORT, PAST_BUFFER)],
    "backend": [(SHORT, refused(len("[1]") - 100_000))],
    "backend_flood": [(SHORT, refused(-50))],
    "backend_retries": [(SHORT, TOO_LARGE)],
    "by_letter": [(SHORT, OK)],
    "cheats": [(SHORT, OK)],
    "clocks_and_random": [(SHORT, OK)],
    "dealloc_traps": [(SHORT, OK), (BIG, trap("unreachable"))],
    "exit_negative": [(SHORT, Expected("trap", "trap", "exit"))],
    "exit_nonzero": [(SHORT, Expected("trap", "trap", "exit"))],
    "exit_zero": [(SHORT, OK), (LONG, Expected("invalid", "exited", 0)), (SHORT, OK)],
    "good": [(SHORT, OK)],
    "label_grows": [(SHORT, TOO_LARGE)],
    "logs": [(SHORT, OK)],
    "logs_after_growing": [(SHORT, OK)],
    "logs_flood": [(SHORT, OK)],
    "logs_repeated": [(SHORT, OK)],
    "logs_not_utf8": [(SHORT, OK)],
    "logs_outside": [(SHORT, OK)],
    "logs_then_traps": [(SHORT, trap("unreachable"))],
    "memory_bomb": [(SHORT, OK), (SHORT, OK)],
    "no_alloc": [(SHORT, OK), (BIG, OK)],
    "no_alloc_fixed": [(SHORT, OK)],
    "no_alloc_grows": [(SHORT, OK), (BIG, OK)],
    "pages": [(SHORT, refused(-512))],
    "refuse": [(SHORT, refused(-7)), (SHORT, refused(-7))],
    "start_logs": [(SHORT, OK)],
    "stdio": [(SHORT, OK)],
    "stdio_flood": [(SHORT, OK)],
    "table_bomb": [(SHORT, refused(-200_001)), (SHORT, refused(-200_001))],
    "tiny": [(SHORT, OK), (BIG, NO_ROOM), (SHORT, OK)],
    "too_small_creeping": [(SHORT, TOO_LARGE)],
    "too_small_forever": [(SHORT, TOO_LARGE)],
    "too_small_hint": [(SHORT, OK)],
    "too_small_input_changed": [(SHORT, OK)],
    "too_small_no_hint": [(SHORT, OK)],
    "too_small_over_ceiling": [(SHORT, TOO_LARGE)],
    "too_small_smaller": [(SHORT, PAST_BUFFER)],
    "trap_bad_signature": [(SHORT, trap("bad_signature"))],
    "trap_in_host_range": [(SHORT, trap("memory_out_of_bounds"))],
    "trap_indirect_call_to_null": [(SHORT, trap("indirect_call_to_null"))],
    "trap_integer_divide_by_zero": [(SHORT, trap("integer_divide_by_zero"))],
    "trap_integer_overflow": [(SHORT, trap("integer_overflow"))],
    "trap_invalid_conversion_to_integer": [(SHORT, trap("invalid_conversion_to_integer"))],
    "trap_memory_out_of_bounds": [(SHORT, trap("memory_out_of_bounds"))],
    "trap_stack_overflow": [(SHORT, trap("stack_overflow"))],
    "trap_table_out_of_bounds": [(SHORT, trap("table_out_of_bounds"))],
    "trap_unreachable": [(SHORT, trap("unreachable"))],
    "vicious": [(SHORT, OK)],
}

# `label_response` of those that do not give an empty answer to it, which means no fine-grained labels.
RESPONSE: dict[str, Expected] = {
    "good": OK,
    "label_grows": TOO_LARGE,
    "refuse": refused(-(2**31)),
    "too_small_smaller": refused(-4 * 1024 * 1024),
}

# Their `label_response` answers as many bytes as it was called before, so that it depends on which worker had what.
NO_RESPONSE = {"too_small_hint", "too_small_no_hint"}

# Guards that cannot be made ready: the pool's start fails, and says why.
AT_START = {
    "agent_bad_answer": "label_agent: .* not JSON",
    "agent_empty": "label_agent: .* empty answer",
    "agent_traps": r"label_agent: trapped \(unreachable\)",
    "alloc_negative": r"alloc\(65536\) returned 4294967295",
    "alloc_outside": r"alloc\(65536\) returned 131064, but its memory has only 131072 bytes",
    "alloc_overlap": "that it had given out already",
    "alloc_traps": r"alloc: trapped \(unreachable\)",
    "alloc_zero": "no room for an input buffer .*raise memory_pages",
    "data_outside": r"the start function: trapped \(memory_out_of_bounds\)",
    "initialize_exits": r"_initialize: the guard called proc_exit\(0\)",
    "initialize_traps": r"_initialize: trapped \(unreachable\)",
    "no_room": "no room for an input buffer .*raise memory_pages",
    "refuse_agent": "label_agent: label_agent returned -3",
    "start_traps": r"the start function: trapped \(unreachable\)",
}

# Modules that are refused before anything of them is compiled or runs: which rule, and what is named with it.
REFUSED = {
    "alloc_signature": "export alloc has the type (i32, i32) -> i32; it must have (i32) -> i32",
    "command": "it was built as a command (standard Go), not as a library (TinyGo, Rust cdylib, Zig)",
    "host_log_signature": "import env.host_log has the type (i32, i32, i32) -> i32; it must have (i32, i32, i32) -> ()",
    "imports_memory": "import env.memory is a memory: a guard must define its own memory",
    "imports_table": "import env.table is a table: a guard must define its own table",
    "initialize_signature": "export _initialize has the type (i32) -> (); it must have () -> ()",
    "memory64": "a 64-bit memory (memory64) is not supported: build the guard for wasm32",
    "memory_not_exported": "its memory is not exported; it must be exported as memory",
    "memory_over_cap": "its memory has 600 pages at the start (37.5 MiB), the cap is 512 (32 MiB)",
    "missing_export": "export label_response is missing; it must be a function (i32, i32, i32, i32) -> i32",
    "no_memory": "it has no memory: a guard must define one and export it as memory",
    "shared_memory": "a shared memory (threads) is not supported: build the guard without atomics",
    "two_memories": "a second memory: several memories are not supported, build the guard with one",
    "unknown_import": "import env.read_file (i32, i32) -> i32 is unknown: env has call_backend and host_log",
    "unknown_module": "import wbg.__wbindgen_throw (i32, i32) -> () is unknown: the guard was built with wasm-bindgen",
    "wasi_signature": "import wasi_snapshot_preview1.fd_write has the type (i32, i32, i32) -> i32; it must have",
    "wrong_kind": "export label_response is a global; it must be a function (i32, i32, i32, i32) -> i32",
    "wrong_signature": "export label_resource has the type (i32, i32, i32) -> i32; it must have (i32, i32, i32, i32) -> i32",
}

# Guards that use a feature which one engine is given and the other is not: which one, and what the other says of it.
BY_ENGINE = {
    "constants": ("wasmtime", "a constant expression with arithmetic (i64.mul), at byte"),
    "externref": ("wasmer", "(label_resource) has a null of type externref at byte"),
    "simd": ("wasmtime", "(add) has a vector instruction (SIMD), 0xfd 0x6e at byte"),
    "tail_calls": ("wasmtime", "(label_resource) has a tail call, 0x12 at byte"),
}

# These have tests of their own, for time, memory beyond the cap, state and a new answer in each instance.
APART = {
    "agent_large",
    "agent_random",
    "caches",
    "alloc_high",
    "counts",
    "counts_in_memory",
    "counts_in_tables",
    "dumps_memory",
    "spin",
    "spin_agent",
    "logs_then_dies",
    "tells_the_world",
}


@pytest.fixture(scope="module", autouse=True)
def _compiled_here() -> Iterator[None]:
    """The real compiler, but no process of its own for each of a hundred tiny modules: `test_compilation.py` has that."""

    def run(capped_wasm: bytes, *_: object) -> bytes:
        return enginekit.compile_bundle(capped_wasm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "_run_compiler", run)
        yield


def test_every_guard_stands_in_one_of_the_tables() -> None:
    tables = [*RESOURCE, *AT_START, *APART]
    assert sorted(tables) == sorted(path.stem for path in guardkit.GUARDS.glob("*.wat"))
    assert sorted(REFUSED) == sorted(path.stem for path in (guardkit.GUARDS / "refused").glob("*.wat"))
    assert sorted(BY_ENGINE) == sorted(path.stem for path in (guardkit.GUARDS / "by_engine").glob("*.wat"))
    assert RESPONSE.keys() <= RESOURCE.keys()


# --- guards that label, or fail to


def _jobs() -> list[tuple[Job, Expected]]:
    jobs = []
    for name, cases in RESOURCE.items():
        for number, (args, expected) in enumerate(cases):
            jobs.append((Job(f"{name} {number}", "label_resource", "get_issue", args, guard=name), expected))
        if name in NO_RESPONSE:
            continue
        result = {"items": [{"number": 1}]}
        response = Job(f"{name} response", "label_response", "list_issues", tool_result=result, guard=name)
        jobs.append((response, RESPONSE.get(name, OK)))
    return jobs


def _ask(_tool: str, _args: Any) -> list[int]:
    return [1]


def _summary(outcome: Outcome) -> Expected:
    error = outcome.error
    if error is None:
        return Expected(outcome.status.value)
    details = (error.trap, error.guard_code, error.exit_code)
    return Expected(outcome.status.value, error.code, next((each for each in details if each is not None), None))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What each job came to in one pool of all these guards, whose workers they end a dozen times."""
    guards = [guard(name, backend=_ask) for name in RESOURCE]
    limits = Limits(timeout_s=WAIT_S, keep_logs=True)
    # The tests share only the outcomes of this pool.
    with pool(*guards, workers=2, limits=limits, log_level="debug") as p:
        return {outcome.id: outcome for outcome in p.map(job for job, _ in _jobs())}


def test_every_guard_comes_to_what_the_contract_says(outcomes: dict[str, Outcome]) -> None:
    expected = {job.id: expected for job, expected in _jobs()}
    assert {name: _summary(outcome) for name, outcome in outcomes.items()} == expected


def test_anything_but_ok_has_no_label_and_says_why_in_one_line(outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        if outcome.status == "ok":
            assert outcome.error is None
            assert outcome.op == "label_response" or outcome.label is not None
        else:
            assert outcome.label is None
            assert outcome.label_json == b"null"
            assert outcome.error is not None
            assert outcome.error.message.isprintable()
            assert 10 < len(outcome.error.message) <= 1000


def test_no_guard_costs_another_one_an_attempt(outcomes: dict[str, Outcome]) -> None:
    assert {outcome.attempts for outcome in outcomes.values()} == {1}


def test_exit_codes_are_in_the_outcomes(outcomes: dict[str, Outcome]) -> None:
    codes = {name: outcomes[f"{name} 0"].error for name in ("exit_nonzero", "exit_negative")}
    assert {name: error and error.exit_code for name, error in codes.items()} == {
        "exit_nonzero": 3,
        "exit_negative": 2**32 - 1,
    }


@pytest.mark.parametrize("name", RESOURCE)
def test_a_pool_says_what_the_instance_says(name: str, outcomes: dict[str, Outcome]) -> None:
    instance = guardkit.instance(name, backend=lambda tool, args: b"[1]")
    instance.label_agent(guardkit.POLICY)
    for job, _ in _jobs():
        if job.guard != name:
            continue
        if instance.dead:
            instance = guardkit.instance(name, backend=lambda tool, args: b"[1]")
            instance.label_agent(guardkit.POLICY)
        result = instance.call(job.op, encode_job(job))
        assert _of_instance(result) == _of_pool(outcomes[job.id])


def _of_instance(result: CallResult) -> tuple[Any, ...]:
    return (result.status, result.label or b"null", result.error, result.backend_calls, tuple(result.logs))


def _of_pool(outcome: Outcome) -> tuple[Any, ...]:
    return (outcome.status.value, outcome.label_json, outcome.error, outcome.backend_calls, outcome.logs)


def test_logs_are_in_the_outcomes_when_they_are_asked_for(outcomes: dict[str, Outcome]) -> None:
    assert [line.level for line in outcomes["logs 0"].logs] == [0, 1, 2, 3, 0, 3]
    assert outcomes["stdio 0"].logs == (LogLine(1, "hello"), LogLine(2, "oops"), LogLine(1, "open end"))
    assert outcomes["logs_then_traps 0"].logs == (LogLine(2, "last word"),)
    assert outcomes["logs_flood 0"].logs[-1].text.endswith("more lines dropped")
    assert outcomes["good 0"].logs == ()


# --- what is too large for one frame


def test_what_guards_say_before_their_first_job_fits_into_one_frame(caplog: pytest.LogCaptureFixture) -> None:
    large = guard("agent_large")
    limits = Limits(timeout_s=WAIT_S, max_log_bytes=16 * 1024 * 1024)
    with caplog.at_level(logging.WARNING, "guardpool.guard"), pool(large, workers=1, limits=limits) as p:
        assert p.submit(Job(0, "label_resource", "get_issue", SHORT)).result(WAIT_S).status == "ok"
    assert 1 <= len([record for record in caplog.records if getattr(record, "line", "").startswith("xxx")]) < 30
    again = Guard("again", large.wasm, POLICY)
    with pytest.raises(GuardInitError, match="'again': label_agent answered 15728640 bytes; the answers of all guards"):
        pool(large, again, workers=1, limits=limits)


# --- logs


def test_logs_go_to_the_guards_logger_and_are_not_kept_unless_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "guardpool.guard"), pool(guard("logs"), workers=1) as p:
        outcome = p.submit(Job("j7", "label_resource", "get_issue", SHORT)).result(WAIT_S)
    assert (outcome.status, outcome.logs) == ("ok", ())
    records = [record for record in caplog.records if record.name == "guardpool.guard.logs" and record.job_id == "j7"]
    # The pool's level is "warning": what is below it never left the guard's process.
    assert [(record.levelno, record.getMessage()) for record in records] == [
        (logging.WARNING, "guard logs, job 'j7': warning"),
        (logging.ERROR, "guard logs, job 'j7': error"),
        (logging.ERROR, "guard logs, job 'j7': high"),
    ]


def test_one_warning_tells_of_a_guard_without_an_allocator(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = ("trap_unreachable", "no_alloc")
    with caplog.at_level(logging.WARNING, "guardpool.guard"), pool(*map(guard, names), workers=2) as p:
        jobs = [Job(n, "label_resource", "get_issue", SHORT, guard=names[n % 3 > 0]) for n in range(12)]
        assert {outcome.status.value for outcome in p.map(jobs)} == {"trap", "ok"}
        wait_until(lambda: p.stats().respawns.get("trap") == 4 and len(p.stats().workers) == 2, "the last successor")
    warned = [
        record.name for record in caplog.records if "does not export both alloc and dealloc" in record.getMessage()
    ]
    assert sorted(warned) == sorted(f"guardpool.guard.{name}" for name in names)


def test_what_a_guard_logs_for_one_job_is_limited_in_bytes() -> None:
    limits = Limits(timeout_s=WAIT_S, keep_logs=True, max_log_bytes=350)
    with pool(guard("logs_flood"), workers=1, limits=limits, log_level="debug") as p:
        for _ in range(2):  # each job has its own
            logs = p.submit(Job(0, "label_resource", "get_issue", SHORT)).result(WAIT_S).logs
            assert [len(line.text) for line in logs[:-1]] == [100] * 3
            assert logs[-1] == LogLine(1, "1997 more lines dropped")


# --- guards that cannot be made ready


@pytest.mark.parametrize("name", AT_START)
def test_a_guard_that_cannot_be_made_ready_is_named_with_the_reason(name: str) -> None:
    with pytest.raises(GuardInitError, match=AT_START[name]) as failed:
        pool(guard(name), workers=1)
    assert failed.value.guard == name
    assert f"guard {name!r}" in str(failed.value)
    assert str(failed.value).isprintable()


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_that_is_not_a_guard_is_refused_before_it_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_arguments: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr("subprocess.Popen", never)
    with pytest.raises(ModuleError) as failed:
        GuardPool([Guard("bad", guardkit.wat(f"refused/{name}"), POLICY)], workers=1)
    assert failed.value.guard == "bad"
    assert REFUSED[name] in str(failed.value)


@pytest.mark.parametrize("name", BY_ENGINE)
def test_a_guard_with_a_feature_works_if_its_engine_has_it(name: str) -> None:
    taker, message = BY_ENGINE[name]
    bad = Guard(name, guardkit.wat(f"by_engine/{name}"), POLICY)
    if taker != enginekit.ENGINE_NAME:
        with pytest.raises(ModuleError) as failed:
            GuardPool([bad], workers=1)
        assert message in str(failed.value)
        told = f'(the engine is {enginekit.ENGINE_NAME}; {taker} takes it: choose it with engine="{taker}" or --engine {taker}'
        has_builds = ENGINES[taker].has_builds_for_this_python
        assert str(failed.value).endswith(told + (")" if has_builds else f" on {ENGINES[taker].spelled_pythons})"))
        return
    with pool(bad, workers=1) as p:
        outcome = p.label_resource("get_issue", SHORT)
        assert _summary(outcome) == OK
        assert outcome.label is not None
        assert outcome.label.description == "ok"
        if name == "tail_calls":
            assert _summary(p.label_resource("get_issue", LONG | {"more": "x" * 200})) == Expected(
                "trap", "trap", "exit"
            )


def test_a_guard_that_begins_with_more_memory_than_the_cap_is_refused() -> None:
    with pytest.raises(ModuleError, match=r"40000 pages at the start \(2500 MiB\), the cap is 512"):
        pool(guard("alloc_high"), workers=1)


def test_a_policy_over_the_input_limit_is_refused_before_a_guard_sees_it() -> None:
    policy = {"allow-only": {"repos": "all", "min-integrity": "none", "blocked-users": ["x" * (8 * 1024 * 1024)]}}
    with pytest.raises(PolicyError, match=r"guard 'g': the policy is 8388\d+ bytes as JSON, over 8388608"):
        GuardPool([Guard("g", guardkit.wat("good"), policy)], workers=1)


# --- time


def test_a_guard_that_never_returns_is_a_timeout() -> None:
    with pool(guard("spin"), workers=1, limits=Limits(timeout_s=1.0)) as p:
        job = Job(0, "label_resource", "get_issue", SHORT)
        outcome = p.submit(job).result(WAIT_S)
        assert (outcome.status, outcome.label, outcome.attempts) == ("timeout", None, 1)
        assert outcome.error is not None
        assert outcome.error.code == "timeout"
        assert p.submit(Job(1, "label_response", "list_issues", tool_result=[])).result(WAIT_S).status == "ok"


# --- state


def test_a_guard_keeps_state_and_a_new_instance_begins_with_label_agent() -> None:
    with pool(guard("counts"), workers=1) as p:
        jobs = [Job(n, "label_resource", "get_issue", BIG if n == 2 else SHORT) for n in range(5)]
        got = [_summary(outcome) for outcome in p.map(jobs)]
        assert got[:3] == [refused(-101), refused(-102), trap("unreachable")]
        # The new instance counts from one again. Which of the two it had first is the scheduler's business.
        assert sorted(got[3:]) == [refused(-102), refused(-101)]
        assert len(p.stats().workers) == 1


def test_a_different_label_agent_answer_after_a_respawn_breaks_the_pool() -> None:
    with pool(guard("agent_random"), workers=1) as p:
        (tag,) = p.agents["agent_random"].integrity
        os.kill(p.stats().workers[0].pid, signal.SIGKILL)
        wait_until(lambda: _is_broken(p), "the pool to give up")
        with pytest.raises(PoolBroken) as broken:
            p.label_resource("get_issue", SHORT)
    first, now = re.findall(r'"integrity":\["([a-p]{16})"\]', str(broken.value))
    assert first == tag != now
    assert "guard 'agent_random': label_agent answered differently in a new worker: first {" in str(broken.value)


def _is_broken(p: GuardPool) -> bool:
    """Whether the pool is broken; asked with a job that no guard takes, so that no guard can change the answer."""
    try:
        return p.submit(Job(0, "label_resource", "x", guard="unknown")).result(WAIT_S).status != "rejected"
    except PoolBroken:
        return True


# --- linear memory


@pytest.mark.parametrize(
    ("declared", "cap", "pages"),
    [
        ("2", 200, 200),  # no maximum
        ("2 150", 200, 150),  # below the cap
        ("2 200", 200, 200),  # equal to it
        ("2 400", 200, 200),  # above it
        ("200 200", 200, 200),  # all of it at the start
    ],
    ids=["none", "below", "equal", "above", "all at once"],
)
def test_linear_memory_never_grows_past_the_cap_whatever_is_declared(declared: str, cap: int, pages: int) -> None:
    source = (guardkit.GUARDS / "pages.wat").read_text(encoding="utf-8")
    assert source.count('(memory (export "memory") 2)') == 1
    source = source.replace('(memory (export "memory") 2)', f'(memory (export "memory") {declared})')
    wasm = enginekit.wat_to_wasm(source)
    with pool(Guard("pages", wasm, POLICY), workers=1, limits=Limits(timeout_s=WAIT_S, memory_pages=cap)) as p:
        for _ in range(2):
            outcome = p.submit(Job(0, "label_resource", "get_issue", SHORT)).result(WAIT_S)
            assert _summary(outcome) == refused(-pages)


def test_the_last_lines_of_a_job_whose_worker_was_killed_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(timeout_s=1.0, keep_logs=True, max_rss_bytes=60 * MIB, memory_pages=900)
    with (
        caplog.at_level(logging.WARNING, "guardpool.guard"),
        pool(guard("logs_then_dies"), workers=1, limits=limits) as p,
    ):
        honest = p.label_resource("a", "b")
        late = p.label_resource("spin")
        crashed = p.label_resource("full")
        p.flush_logs(WAIT_S)
    said_texts = ["began", "near the end (3 times)"]
    said = [LogLine(2, said_texts[0]), LogLine(3, said_texts[1])]
    assert (honest.status, honest.logs) == ("ok", tuple(said))
    assert (late.status, late.logs) == ("timeout", tuple(said))
    assert (crashed.status, crashed.logs) == ("memory", tuple(said))
    texts = [record.line for record in caplog.records if record.name.startswith("guardpool.guard")]  # type: ignore[attr-defined]
    assert texts[1:3] == said_texts
    assert sorted(texts[3:]) == ["began (2 times more)", "near the end (3 times) (2 times more)"]
