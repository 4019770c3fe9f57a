"""The guard that asks, the bare loops it is compared with, and the case `backends`, in small."""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
from itertools import islice

import pytest

from guardpool import Guard, GuardPool, backends, samples
from guardpool.contract import judge
from guardpool.machine.engines import choose_engine
from guardpool.submit.payload import encode_job
from guardpool_bench import asking, goals, workguard
from guardpool_bench.bareloop import BareLoops, begin_at
from guardpool_bench.cases import backends as backends_case, scaling
from guardpool_bench.context import QUICK, Context
from guardpool_bench.loadable import make_instance, make_plain
from guardpool_bench.report import to_markdown
from guardpool_bench.results import Report, report_from_json
from guardpool_bench.status_line import StatusLine

# A whole run of the cases, in a process of its own because the bare loops outlive a test; with next to no time for each
# measurement and few questions a job, so that it shows which rows there are.
_RUN = """
import dataclasses, sys
from guardpool import Guard, samples
from guardpool_bench import jobsets
from guardpool_bench.cases import backends, scaling
from guardpool_bench.context import QUICK
from guardpool_bench.results import report_to_json
from guardpool_bench.report import to_markdown
from guardpool_bench.results import Report, report_from_json
from guardpool_bench.status_line import StatusLine
from guardpool_bench.suite import Plan, Run

jobsets.DISTINCT, scaling._SIZES = 50, (100, 100_000)
backends.QUESTIONS, backends._CPU_QUESTIONS, backends._CHECKED_JOBS = (1, 2, 3), 60, 5
scale = dataclasses.replace(
    QUICK, runs=1, warm_s=0.005, run_s=0.01, most_bytes=100_000, most_questions=1000, new_questions=30
)
guard = Guard.from_file(samples.GUARD, name="samples", policy=samples.POLICY)
cases = ["backends", "sizes"]
run = Run(
    Plan(guard, list(samples.jobs(40, seed=3)), "samples", cases, 1, sys.argv[1], scale, False, False, {}),
    StatusLine(2, quiet=True),
)
run.run()
sys.stdout.buffer.write(report_to_json(run.report()))
"""


@pytest.fixture(scope="module")
def report() -> Report:
    command = [sys.executable, "-c", _RUN, choose_engine().name]
    done = subprocess.run(command, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return report_from_json(done.stdout, "the run")


# --- the guard


def test_the_guard_asks_as_many_different_questions_as_a_job_says(engine_name: str) -> None:
    answerer = asking.Answerer()
    guard = Guard("asks", asking.asking_wasm(), workguard.POLICY, backend=answerer, remember="never")
    with GuardPool([guard], workers=1, log_level="off", engine=engine_name) as pool:
        outcomes = list(pool.map([asking.job(0), asking.job(1, first=4, different=10), asking.job(15, 8, 12, 1000)]))
    assert [(outcome.status.value, outcome.backend_calls) for outcome in outcomes] == [("ok", 0), ("ok", 1), ("ok", 15)]
    assert answerer.asked == 16
    assert answerer.different == set(range(12))


def test_the_guard_refuses_a_job_whose_question_was_not_answered(engine_name: str) -> None:
    table = backends.Replies(asking.lines(3))
    guard = Guard("asks", asking.asking_wasm(), workguard.POLICY, backend=table)
    with GuardPool([guard], workers=1, log_level="off", engine=engine_name) as pool:
        outcomes = pool.map([asking.job(3, 1, 3), asking.job(2, 2, 4)])
        assert [outcome.status.value for outcome in outcomes] == ["ok", "refused"]


@pytest.mark.parametrize("questions", backends_case.QUESTIONS)
def test_a_set_of_jobs_asks_every_question(questions: int) -> None:
    jobs = asking.jobs(questions, 1000, 5, 100)
    asked = {(int(job.tool_name[3:10]) + at) % 1000 for job in jobs for at in range(questions)}
    assert asked == set(range(1000))
    assert len(jobs) >= 100
    assert [job.id for job in jobs] != sorted(job.id for job in jobs)


def test_replies_are_the_same_in_every_form() -> None:
    table, replies = asking.table(20), backends.Replies(asking.lines(20))
    for (tool, args), reply in table.items():
        assert replies(tool, json.loads(args)) == json.loads(reply) == asking.Answerer()(tool, json.loads(args))
    assert len(table) == len(replies) == 20


# --- the loops


@pytest.mark.engine
def test_a_plain_loop_gets_the_answers_that_are_judged_in_a_pool(engine_name: str) -> None:
    guards = {"subject": Guard.from_file(samples.GUARD, name="subject", policy=samples.POLICY)}
    loadable = Context(guards, {}, 1, QUICK, [], StatusLine(1), False, BareLoops(1), engine_name).loadable("subject")
    requests = [(job.op, encode_job(job)) for job in samples.jobs(40, seed=3)]
    plain = make_plain(loadable, requests)
    gc.collect()
    instance = make_instance(loadable)  # takes the memory of what the plain guard imports, if nothing holds it
    for op, payload in requests:
        plain.memory[plain.input_at : plain.input_at + len(payload)] = payload
        size = plain.functions[op](plain.input_at, len(payload), plain.answer_at, plain.answer_room)
        answer = plain.memory[plain.answer_at : plain.answer_at + size].tobytes()
        assert judge(op, answer) == instance.call(op, payload).label


def test_runs_begin_at_different_jobs_and_leave_none_out_for_long() -> None:
    begins = sorted(begin_at(turn) for turn in range(16))
    assert max(later - earlier for earlier, later in zip(begins, [*begins[1:], 1.0])) < 0.13


@pytest.mark.slow  # runs the case
def test_large_jobs_are_measured_encoded_and_beside_plain_loops(report: Report) -> None:
    keys = {series.key for series in report.series}
    who = ("bare", "guardpool", "bare-encoded", "guardpool-encoded", "bare-plain", "bare-fed")
    assert keys >= {f"sizes.100000.{each}" for each in who}
    ratios = ("guardpool.ratio", "guardpool-encoded.plain-ratio", "bare-fed.plain-ratio", "guardpool-encoded.fed-ratio")
    assert keys >= {f"sizes.100000.{what}" for what in ratios}
    assert "sizes.100.guardpool.ratio" in keys
    assert not any(key.startswith("sizes.100.") and "plain" in key for key in keys)


@pytest.mark.parametrize("size", [100, 10_000])
def test_jobs_of_a_size_are_different_ones(size: int) -> None:
    jobs = scaling.sized(size)
    payloads = {encode_job(job) for job in jobs.jobs}
    assert len(payloads) == len(jobs.jobs) == min(2000, 48_000_000 // size)
    assert all(0.9 * size < len(payload) <= size for payload in payloads)


def test_pages_of_issues_are_different_ones() -> None:
    assert len({encode_job(workguard.response_job(7, at)) for at in range(100)}) == 100


# --- the case


@pytest.mark.slow  # runs the case
def test_the_case_has_a_row_for_every_goal_that_a_small_run_can_measure(report: Report) -> None:
    found = {series.key: series for series in report.series}
    of_it = {goal.key for goal in goals.GOALS if goal.key.startswith("backends.")}
    assert of_it
    assert all(key.replace(".100000.", ".1000.").replace(".15.", ".3.") in found for key in of_it)
    known, bare = (found[f"backends.50us.2.1000.{who}"].values[0] for who in ("known", "bare"))
    assert found["backends.50us.2.1000.known.ratio"].values == [pytest.approx(known / bare)]
    for name in ("instant", "1ms"):
        assert {f"backends.new.{questions}.{name}" for questions in (1, 2, 3)} <= set(found)
    assert found["backends.new.1ms.question"].median > 1000
    assert "backends.none.1000.known.question-cpu" in found
    assert {"backends.memory.10.pss", "backends.memory.1000.rss"} <= set(found)
    text = to_markdown(report)
    assert "## Guards that ask their backend" in text
    assert "asks 2 questions a job, 1,000 different, replies known" in text


@pytest.mark.slow  # runs the case
def test_without_an_mcp_server_there_is_a_note_and_no_row(report: Report) -> None:
    served = hasattr(backends, "McpServer") and importlib.util.find_spec("mcp") is not None
    assert (report.find("backends.new.mcp.question") is not None) == served
    assert any("no row for a live MCP server" in note for note in report.notes) != served
    assert report.finished


def test_one_question_in_a_hundred_is_new() -> None:
    known = asking.job(2, 0, 10)
    contestant = backends_case._SomeNew(None, 2, 0)  # type: ignore[arg-type]
    new: list[str] = []
    for _ in range(2):  # two runs
        names = [job.tool_name for job in islice(contestant._jobs([known]), 250)]
        new += [name for name in names if name != known.tool_name]
    assert len(new) == len(set(new)) == 4
