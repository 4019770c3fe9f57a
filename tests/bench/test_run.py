"""The benchmark suite end to end, in small: its results are complete, never how quick it was."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import guardkit
from guardpool import Guard, GuardPool, Job, Limits, recordings, samples
from guardpool.machine.engines import ENGINE_NAMES, engine_problem
from guardpool_bench import bareloop, goals, jobsets, peers, results, workguard
from guardpool_bench.cases import (
    NAMES,
    decisions as decisions_case,
    isolation as isolation_case,
    memory,
    recordings as recordings_case,
    startup,
)
from guardpool_bench.context import QUICK, jobs_of

_BENCH = [sys.executable, "-c", "import sys; from guardpool.cli import main; sys.exit(main())", "bench"]
_TIMEOUT_S = 100
_SMALL = ("--quick", "--runs", 1, "--workers", 1)


def bench(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*_BENCH, *map(str, arguments)], capture_output=True, timeout=_TIMEOUT_S, check=False, env=_environment()
    )


def small_guard(folder: Path, *tools: str) -> list[object]:
    """The arguments for a guard that is compiled in a moment, and a `label_resource` job for each tool."""
    wasm, policy, jobs = folder / "g.wasm", folder / "p.json", folder / "jobs.jsonl"
    wasm.write_bytes(guardkit.wat("by_letter"))
    policy.write_bytes(guardkit.POLICY)
    jobs.write_text("".join(json.dumps({"op": "label_resource", "tool_name": tool}) + "\n" for tool in tools))
    return [wasm, "-p", policy, "--jobs", jobs]


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "COLUMNS"}


@pytest.mark.slow  # runs three cases of the suite
def test_a_few_cases_of_the_samples(tmp_path: Path) -> None:
    done = bench(
        *(*_SMALL, "--no-peers"),
        *("--only", "respawn,memory", "--only", "latency", "--json", tmp_path / "report.json"),
    )
    assert done.returncode == 0, done.stderr.decode()
    report = results.load_report(tmp_path / "report.json")
    assert report.finished
    assert {series.case for series in report.series} == {"respawn", "memory", "latency"}
    for series in report.series:
        assert series.values, series.key
        assert series.low <= series.median <= series.high
    measured = {goal.key for goal in report.goals if goal.measured is not None}
    assert {"respawn.sigkill", "memory.subject.worker", "latency.resource.guardpool.p50.over-bare"} <= measured
    assert report.machine.cores >= 1
    assert report.subject.jobs == "the samples"
    text = done.stdout.decode()
    assert "## Goals" in text


@pytest.mark.slow  # runs the profile
def test_the_profile_accounts_for_every_thread(tmp_path: Path) -> None:
    done = bench(*_SMALL, "--no-peers", "--profile", "--json", "-")
    assert done.returncode == 0, done.stderr.decode()
    profile = results.report_from_json(done.stdout, "standard output").profile
    assert profile is not None
    for where, total in profile.totals.items():
        parts = [layer.us for layer in profile.layers if layer.where == where]
        assert sum(parts) == pytest.approx(total)
        assert total > 0
    names = {layer.name for layer in profile.layers}
    assert {"guest code", "judge: the answer's JSON", "schedule", "encode the job as JSON", "rest"} <= names


@pytest.mark.slow  # starts eight workers of other pools
def test_a_guard_and_jobs_of_ones_own_beside_other_pools(tmp_path: Path) -> None:
    wasm, policy, jobs = tmp_path / "g.wasm", tmp_path / "p.json", tmp_path / "jobs.jsonl"
    wasm.write_bytes(guardkit.wat("by_letter"))
    policy.write_bytes(guardkit.POLICY)
    jobs.write_text(json.dumps({"op": "label_resource", "tool_name": "k", "tool_args": {"n": 1}, "other": 1}) + "\n")
    out = tmp_path / "out"
    done = bench(wasm, "-p", policy, "--jobs", jobs, *_SMALL, "--only", "submit,files", "--out", out)
    assert done.returncode == 0, done.stderr.decode()
    report = results.load_report(out / "report.json")
    keys = {series.key for series in report.series}
    assert {"submit.resource.guardpool", "submit.trivial.concurrent.futures", "files.label.ratio"} <= keys
    for name in peers.missing():
        assert any(name in note for note in report.notes)
    assert report.subject.wasm_bytes == wasm.stat().st_size
    assert report.subject.jobs == str(jobs)


def test_bare_loops_and_pool_are_paired_and_missing_labels_noted(tmp_path: Path) -> None:
    subject = small_guard(tmp_path, "k", "refuse")
    done = bench(*subject, *_SMALL, "--no-peers", "--only", "throughput", "--json", "-")
    assert done.returncode == 0, done.stderr.decode()
    report = results.report_from_json(done.stdout, "standard output")
    keys = {series.key for series in report.series}
    for name in ("resource", "trivial", "work-50us", "work-1ms"):
        who = ("bare", "bare-encoded", "guardpool", "guardpool-encoded", "guardpool.ratio", "guardpool.strict-ratio")
        assert {f"throughput.{name}.{each}" for each in who} <= keys
        ours, plain, ratio = (
            report.find(f"throughput.{name}.{each}")
            for each in ("guardpool-encoded", "bare-plain", "guardpool-encoded.plain-ratio")
        )
        assert ours is not None
        assert plain is not None
        assert ratio is not None
        assert ratio.values == [pytest.approx(ours.values[0] / plain.values[0])]
        assert f"throughput.{name}.bare-encoded.plain-ratio" in keys
    assert not any(".response." in key for key in keys)
    assert any("1 refused" in note for note in report.notes)


def test_a_file_that_is_not_a_guard_is_an_error_in_one_line(tmp_path: Path) -> None:
    wasm, policy = tmp_path / "g.wasm", tmp_path / "p.json"
    wasm.write_bytes(b"nothing of the kind")
    policy.write_bytes(guardkit.POLICY)
    done = bench(wasm, "-p", policy, "--quick", "--only", "latency", "--quiet")
    assert done.returncode == 1
    assert not done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert str(wasm).encode() in done.stderr


def test_ctrl_c_prints_what_is_done(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(*_BENCH, *map(str, small_guard(tmp_path, "k"))),
            *("--quick", "--no-peers", "-w", "1", "--only", "respawn,million", "--json", str(tmp_path / "r.json")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
    )
    assert process.stderr is not None
    for line in process.stderr:  # ends when the first case is over
        if b"respawn: measured" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=_TIMEOUT_S)
    assert process.returncode == 130, err
    assert b"NOT FINISHED" in out
    assert b"SIGKILL of an idle worker" in out
    assert b"Traceback" not in err
    report = results.load_report(tmp_path / "r.json")
    assert not report.finished
    assert report.find("respawn.sigkill") is not None


def test_memory_is_measured_without_a_sandbox_if_workers_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sum_mib(context: object, guard: str, jobs: object, workers: int, sandbox: str) -> float:
        if sandbox != "off":
            raise PermissionError(13, "Permission denied")
        return 10.0 + 3 * workers

    monkeypatch.setattr(memory, "_sum_mib", sum_mib)
    notes: list[str] = []
    found: dict[str, tuple[list[float], str]] = {}

    def record(what: str, title: str, unit: str, better: str, values: list[float], sandbox: str) -> None:
        found[what] = (values, sandbox)

    context = SimpleNamespace(scale=QUICK, step=lambda what: None, note=notes.append, record=record)
    memory._measure(context, "g", "a guard", None)  # type: ignore[arg-type]
    assert found["g.worker"] == ([3.0, 3.0], "off")
    assert "not root" in notes[0]


def recorded() -> tuple[dict[str, list[float]], Callable[..., None]]:
    """The values that a case measures, by name, and the `record` of a context that puts them there."""
    found: dict[str, list[float]] = {}

    def record(what: str, title: str, unit: str, better: str, values: list[float], **about: object) -> None:
        found[what] = values

    return found, record


def test_starts_are_measured_with_an_empty_cache_and_a_full_one(
    monkeypatch: pytest.MonkeyPatch, engine_name: str
) -> None:
    found, record = recorded()
    monkeypatch.setattr(startup, "_many", lambda: 2)
    context = SimpleNamespace(
        guards={"subject": Guard("subject", guardkit.wat("by_letter"), json.loads(guardkit.POLICY))},
        jobsets={"one": SimpleNamespace(jobs=[Job(0, "label_resource", "k")])},
        scale=dataclasses.replace(QUICK, starts=1),
        workers=1,
        engine=engine_name,
        step=lambda what: None,
        record=record,
    )
    startup.run(context)  # type: ignore[arg-type]
    of_warm_ones = {f"{what}.{workers}" for what in ("warm", "again", "result") for workers in (1, 2)}
    assert set(found) == {"cold", "import", *of_warm_ones}
    assert all(value > 0 for values in found.values() for value in values)


def test_recordings_of_both_sizes_are_measured_beside_the_decoder() -> None:
    found, record = recorded()

    def record_ratio(
        what: str, title: str, better: str, values: list[float], references: list[float], **about: object
    ) -> None:
        found[what] = [value / reference for value, reference in zip(values, references)]

    scale = dataclasses.replace(QUICK, log_calls=200)
    context = SimpleNamespace(scale=scale, step=lambda what: None, record=record, record_ratio=record_ratio)
    recordings_case.run(context)  # type: ignore[arg-type]
    goals_of_it = {goal.key for goal in goals.GOALS if goal.key.startswith("recordings.")}
    assert goals_of_it == {"recordings.small.ratio", "recordings.large.ratio"}
    for size in ("small", "large"):
        assert set(found) >= {f"{size}.msgspec", f"{size}.read", f"{size}.ratio", f"{size}.rss"}
        assert len(found[f"{size}.ratio"]) == QUICK.runs
        assert all(ratio > 0 for ratio in found[f"{size}.ratio"])


def test_decisions_are_measured_by_both_rule_sets() -> None:
    found, record = recorded()
    context = SimpleNamespace(scale=QUICK, step=lambda what: None, record=record)
    decisions_case.run(context)  # type: ignore[arg-type]
    kinds = [f"{shape}.{outcome}" for shape in ("object", "list") for outcome in ("shown", "kept", "filtered")]
    ways = {f"{rules}.{kind}" for rules in ("gateway", "strict") for kind in (*kinds, "session")}
    assert set(found) == {*ways, "replay", "replay-modes"}
    assert all(len(values) == QUICK.runs and min(values) > 0 for values in found.values())
    assert [goal.key for goal in goals.GOALS if goal.key.startswith("decisions.")] == ["decisions.gateway.object.kept"]
    verdicts = {way.key: way.decide_once().verdict for way in decisions_case.ways()}  # type: ignore[attr-defined]
    for key, verdict in verdicts.items():
        assert verdict == ("single-item-error" if key.endswith("filtered") else "items"), key
    [(main, *others)] = decisions_case.replayed(1, (None, "strict", "filter", "propagate"))
    assert (main.verdict, main.mode, main.items.shown) == ("items", "filter", 1)
    assert [record.mode for record in others] == ["strict", "filter", "propagate"]


def test_isolation_is_measured_by_turns_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found, record = recorded()

    def make(guard: Guard, **options: Any) -> GuardPool:
        return GuardPool([guard], log_level="off", **options)

    monkeypatch.setattr(
        isolation_case, "_guards", lambda: [("large", "a guard", workguard.work_wasm(data_bytes=50_000))]
    )
    trivial = jobsets.make("trivial", "small jobs", "work", [workguard.tiny_job(at) for at in range(20)])
    scale = dataclasses.replace(QUICK, runs=2, run_s=0.01)
    context = SimpleNamespace(
        scale=scale, step=lambda what: None, record=record, jobsets={"trivial": trivial}, guards={}, pool=make
    )
    isolation_case.run(context)  # type: ignore[arg-type]
    for jobs in ("trivial", "page"):
        without, ours = found[f"large.{jobs}.none"], found[f"large.{jobs}.job"]
        assert found[f"large.{jobs}.cost"] == [more - less for more, less in zip(ours, without)]
        assert all(len(found[f"large.{jobs}.{each}.faults"]) == 2 for each in isolation_case.ISOLATIONS)
        assert found[f"large.{jobs}.job.rss"][0] > 1
    assert [goal.key for goal in goals.GOALS if goal.key.startswith("isolation.")] == ["isolation.large.trivial.cost"]


def test_the_large_calls_of_a_recording_have_20_kb_and_are_the_same_calls(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sizes = []
    for lines in (samples.recording(60), list(recordings_case.enlarged(samples.recording(60)))):
        path.write_bytes(b"".join(recordings_case.lines_of(lines)))
        calls = list(recordings.read(path))
        sizes.append([(call.call, call.result_is, len(call.result_json or b"")) for call in calls])
    small, large = sizes
    assert [each[:2] for each in small] == [each[:2] for each in large]
    with_content = [size for (*_, before), (*_, size) in zip(small, large) if size != before]
    assert len(with_content) > 40
    assert all(20_000 < size < 60_000 for size in with_content)


def test_the_cases_are_listed() -> None:
    done = bench("--list")
    assert [line.split()[0].decode() for line in done.stdout.splitlines()] == list(NAMES)


def test_the_suites_own_guard_does_as_it_is_told() -> None:
    guard = Guard("work", workguard.work_wasm(), workguard.POLICY)
    with GuardPool([guard], workers=1, limits=Limits(timeout_s=0.5), log_level="off") as pool:
        jobs = [
            workguard.tiny_job(1),
            workguard.resource_job(1000, 2),
            workguard.response_job(10, 3),
            workguard.trap_job(),
            workguard.spin_job(),
        ]
        assert [outcome.status.value for outcome in pool.map(jobs)] == ["ok", "ok", "ok", "trap", "timeout"]
        quick, slow = (min(_durations(pool, turns)) for turns in (0, 20_000_000))
    assert slow > quick + 1000


def _durations(pool: GuardPool, turns: int) -> list[int]:
    return [outcome.duration_us for outcome in pool.map([workguard.resource_job(turns) for _ in range(5)])]


def test_the_large_guard_is_as_large_as_wanted() -> None:
    size = len(workguard.work_wasm(100_000))
    assert 80_000 < size < 160_000


def test_jobs_of_a_count_are_the_same_ones_over_and_over() -> None:
    jobs = [Job(number, "label_resource", "t") for number in range(3)]
    assert [job.id for job in jobs_of(7, jobs)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_bare_loop_that_fails_says_why() -> None:
    pipe = _Pipe((None, "ValueError: no such jobs"))
    with pytest.raises(bareloop.BareLoopError, match="no such jobs"):
        bareloop._answer(pipe)  # type: ignore[arg-type]
    with pytest.raises(bareloop.BareLoopError, match="died"):
        bareloop._answer(_Pipe(EOFError()))  # type: ignore[arg-type]


class _Pipe:
    def __init__(self, answer: object) -> None:
        self._answer = answer

    def recv(self) -> object:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


_ONE_ENGINE = any(engine_problem(name) for name in ENGINE_NAMES)


@pytest.mark.skipif(not _ONE_ENGINE, reason="both engines can be used in this Python")
def test_engines_are_not_compared_where_one_cannot_be_used(tmp_path: Path) -> None:
    subject = small_guard(tmp_path, "k")
    done = bench(*subject, *_SMALL, "--no-peers", "--only", "engines", "--json", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr.decode()
    report = results.load_report(tmp_path / "report.json")
    assert not report.series
    assert [note for note in report.notes if note.startswith("engines: not compared, because wasmer cannot be used")]


@pytest.mark.slow  # starts a dozen pools of each engine
@pytest.mark.skipif(_ONE_ENGINE, reason="only one engine can be used in this Python")
def test_engines_are_compared_in_every_row(tmp_path: Path) -> None:
    done = bench(*_SMALL, "--no-peers", "--only", "engines", "--json", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr.decode()
    report = results.load_report(tmp_path / "report.json")
    for what in ("mixed", "trivial", "work-50us", "work-1ms", "asks-0", "asks-19", "ready", "kill", "worker"):
        ours, theirs, ratio = (report.find(f"engines.{what}.{of}") for of in ("wasmtime", "wasmer", "ratio"))
        assert ours is not None
        assert theirs is not None
        assert ratio is not None
        assert ratio.values == pytest.approx([one / other for one, other in zip(ours.values, theirs.values)])
    measured = {goal.key for goal in report.goals if goal.measured is not None}
    assert measured >= {"engines.mixed.ratio", "engines.ready.wasmtime"}


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_the_suite_measures_the_engine_it_is_told_to(tmp_path: Path, name: str) -> None:
    subject = small_guard(tmp_path, "k")
    done = bench(
        *subject, *_SMALL, "--no-peers", "--engine", name, "--only", "latency", "--json", tmp_path / "report.json"
    )
    problem = engine_problem(name)
    if problem:
        assert (done.returncode, done.stdout) == (1, b"")
        assert problem in done.stderr.decode()
        return
    assert done.returncode == 0, done.stderr.decode()
    report = results.load_report(tmp_path / "report.json")
    assert str(report.options["engine"]).startswith(f"{name} ")
    assert report.find("latency.resource.guardpool.p50") is not None
