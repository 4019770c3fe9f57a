"""The benchmark suite's reports: JSON by its schema, tables, goals, plots, comparisons."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guardpool_bench import FORMAT, cli, goals, results
from guardpool_bench.compare import compare
from guardpool_bench.report import comparison_text, show, table, to_markdown
from guardpool_bench.results import Curve, Layer, Machine, Profile, Report, Series, Subject, make_series

_MACHINE = Machine("A CPU", 2, 4096, "Linux 6", "CPython 3.10", {"guardpool": "1", "msgspec": "2"}, 0.1, 0.5)


def series(key: str, values: Sequence[float], unit: str = "jobs/s", better: str = "higher", **about: Any) -> Series:
    case = key.partition(".")[0]
    return make_series(key, case, f"title of {key}", unit, better, values, about)  # type: ignore[arg-type]


def report(*found: Series, **changes: Any) -> Report:
    made = Report(
        format=FORMAT,
        created="2026-01-01T00:00:00Z",
        guardpool="1.2.3",
        finished=True,
        seconds=12.0,
        options={"workers": 2, "quick": False},
        machine=_MACHINE,
        subject=Subject("github", "ab" * 32, 1000, "the samples"),
        series=list(found),
        curves=[],
        goals=goals.results_of(found),
        profile=None,
        foreign_load={},
        stolen=0.0,
        notes=[],
    )
    return msgspec.structs.replace(made, **changes)


def bare(values: Sequence[float]) -> Series:
    return series("throughput.mixed.bare", values, who="bare", jobs="mixed")


# --- the file


def test_the_schema_file_is_the_schema_of_a_report() -> None:
    assert results.SCHEMA_FILE.read_bytes() == results.schema_text()


def test_the_schema_names_everything_a_report_has() -> None:
    document = json.loads(results.report_to_json(report(bare([1.0, 2.0]))))
    found = json.loads(results.SCHEMA_FILE.read_text())
    definition = found["$defs"]["Report"]
    assert set(document) == set(definition["properties"]) == set(definition["required"])
    assert set(document["series"][0]) <= set(found["$defs"]["Series"]["properties"])


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    made = report(
        bare([1.0, 2.0, 4.0]), profile=Profile("mixed", [Layer("worker", "guest", 3.0, "how")], {"worker": 4.0}, 2.0)
    )
    path = tmp_path / "report.json"
    path.write_bytes(results.report_to_json(made))
    assert results.load_report(path) == made


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"not json", "not a report"),
        (b"{}", "not a report"),
        (b"\xff", "not a report"),
        (results.report_to_json(report(format="guardpool-bench/99")), "guardpool-bench/99"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused_in_one_line(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(text)
    with pytest.raises(results.ReportError, match=reason) as caught:
        results.load_report(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- goals


def test_a_goal_passes_at_its_limit_and_says_by_how_much() -> None:
    key = "throughput.work-50us.guardpool.ratio"
    goal = next(goal for goal in goals.GOALS if goal.key == key)
    exactly = goals.result_of(goal, series(key, [0.95, 0.95, 0.95], "ratio"))
    assert exactly.passed
    assert exactly.margin == pytest.approx(0.0)
    short = goals.result_of(goal, series(key, [0.76, 0.76, 0.96], "ratio"))
    assert not short.passed
    assert short.margin == pytest.approx(-0.2)
    assert (short.runs_passed, short.runs) == (1, 3)


def test_a_goal_for_less_passes_below_its_limit() -> None:
    goal = next(goal for goal in goals.GOALS if goal.key == "respawn.sigkill")
    assert goals.result_of(goal, series(goal.key, [5.0], "ms", "lower")).margin == pytest.approx(0.5)
    assert not goals.result_of(goal, series(goal.key, [11.0], "ms", "lower")).passed
    assert "FAIL, 94 times the goal" in to_markdown(report(series(goal.key, [940.0], "ms", "lower")))


def test_a_goal_that_was_not_measured_neither_passes_nor_fails() -> None:
    found = goals.results_of([])
    assert {goal.passed for goal in found} == {None}
    assert "not measured" in to_markdown(report(series("respawn.sigkill", [5.0], "ms", "lower")))


# --- tables


def test_the_report_shows_goals_quantities_spread_machine_and_notes() -> None:
    text = to_markdown(report(series("respawn.sigkill", [5.0, 6.0, 9.0], "ms", "lower"), notes=["loky is missing"]))
    assert "5.00 ms" in text
    assert "6.00 ms" in text
    assert "9.00 ms" in text
    assert "pass, 40% to spare" in text
    assert "A CPU, 2 cores" in text
    assert "loky is missing" in text


def test_an_unfinished_run_says_so() -> None:
    assert "NOT FINISHED" in to_markdown(report(finished=False))


def test_a_busy_machine_is_told_before_the_verdicts() -> None:
    kill = series("respawn.sigkill", [5.0, 6.0, 9.0], "ms", "lower")
    busy = to_markdown(report(kill, foreign_load={"respawn": 1.9, "memory": 0.0}))
    assert busy.index("Other programs kept this machine busy (respawn)") < busy.index("to spare")
    assert "kept this machine busy" not in to_markdown(report(kill, foreign_load={"respawn": 0.1}))
    assert "A quick run" in to_markdown(report(kill, options={"quick": True}))


def test_columns_line_up() -> None:
    lines = table(("what", "n"), [("a", "1"), ("bcd", "1000")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].endswith("|    1 |")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9512, "ratio", "0.951x"),
        (12345.6, "jobs/s", "12,346 jobs/s"),
        (7.254, "ms", "7.25 ms"),
        (72.54, "ms", "72.5 ms"),
        (-0.034, "share", "-3.4%"),
    ],
)
def test_numbers_are_as_exact_as_they_deserve(value: float, unit: str, text: str) -> None:
    assert show(value, unit) == text


# --- comparing


def test_a_comparison_shows_only_what_changed() -> None:
    old = report(
        bare([100, 101, 99]),
        series("throughput.mixed.guardpool.ratio", [0.95, 0.951, 0.949], "ratio"),
        series("latency.p50", [100, 101, 99], "us", "lower"),
        series("start.warm", [100, 101, 99], "ms", "lower"),
    )
    new = report(
        bare([100, 101, 99]),
        series("throughput.mixed.guardpool.ratio", [0.80, 0.801, 0.799], "ratio"),
        series("latency.p50", [50, 51, 49], "us", "lower"),
        series("start.warm", [101, 102, 100], "ms", "lower"),
    )
    found = compare(old, new)
    assert {row.key: row.verdict for row in found.rows} == {
        "throughput.mixed.bare": "same",
        "throughput.mixed.guardpool.ratio": "slower",
        "latency.p50": "quicker",
        "start.warm": "same",
    }
    assert [row.key for row in found.slower()] == ["throughput.mixed.guardpool.ratio"]
    text = comparison_text(found, "old.json")
    assert "WORSE" in text
    assert "0.950x" in text
    assert "0.800x" in text
    assert "start.warm" not in text


def test_a_slower_machine_is_not_a_slower_guardpool() -> None:
    old = report(bare([100, 101, 99]), series("throughput.mixed.guardpool", [90, 91, 89]))
    new = report(bare([80, 81, 79]), series("throughput.mixed.guardpool", [72, 73, 71]))
    found = compare(old, new)
    assert found.drift == pytest.approx(-0.2)
    assert not found.slower()
    assert any("machine was not the same" in remark for remark in found.remarks)


def test_noisy_runs_are_not_called_slower() -> None:
    old = report(bare([100, 101, 99]), series("latency.p50", [100, 140, 80], "us", "lower"))
    new = report(bare([100, 101, 99]), series("latency.p50", [120, 90, 150], "us", "lower"))
    assert not compare(old, new).slower()


def test_single_runs_are_called_unsure() -> None:
    old, new = report(series("million.rate", [100.0])), report(series("million.rate", [10.0]))
    assert [row.verdict for row in compare(old, new).rows] == ["unsure"]


def test_another_machine_guard_or_option_is_remarked() -> None:
    other = msgspec.structs.replace(_MACHINE, cpu="Another CPU", versions={"guardpool": "2", "msgspec": "3"})
    new = report(machine=other, subject=Subject("g", "cd" * 32, 5, "mine"), options={"workers": 4, "quick": True})
    remarks = " | ".join(compare(report(), new).remarks)
    for word in ("Another CPU", "msgspec", "another guard", "workers 2 then, 4 now"):
        assert word in remarks
    assert "guardpool" not in remarks


# --- the command line


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def save(path: Path, made: Report) -> str:
    path.write_bytes(results.report_to_json(made))
    return str(path)


def test_two_reports_are_compared_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = save(tmp_path / "old.json", report(series("latency.p50", [100, 101, 99], "us", "lower")))
    new = save(tmp_path / "new.json", report(series("latency.p50", [200, 201, 199], "us", "lower")))
    status, out, _ = run("--load", new, "--compare", old, capsys=capsys)
    assert status == 0
    assert "+100.0%" in out
    assert run("--load", new, "--compare", old, "--fail-on-slower", capsys=capsys)[0] == 3
    assert run("--load", new, "--compare", new, "--fail-on-slower", capsys=capsys)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "nothing"], "the cases are throughput"),
        (["guard.wasm"], "add -p POLICY.json"),
        (["-p", "policy.json"], "name its GUARD.wasm"),
        (["--fail-on-slower"], "needs --compare"),
        (["--runs", "0"], "from 1 to 1000"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(*arguments, capsys=capsys)
    assert status == 2
    assert not out
    assert reason in err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--compare", "/nonexistent/old.json"],
        ["--load", "/nonexistent/new.json"],
        ["--jobs", "/nonexistent/jobs.jsonl"],
        ["/nonexistent/guard.wasm", "-p", "/nonexistent/policy.json"],
        ["--out", "/proc/nonexistent"],
    ],
)
def test_unusable_files_are_an_error_before_anything_is_measured(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(*arguments, capsys=capsys)
    assert status == 1
    assert not out
    assert len(err.splitlines()) == 1
    assert "/" in err


def test_a_line_that_is_not_a_job_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"op":"label_resource","tool_name":"a"}\n{"op":"dance"}\n')
    status, _, err = run("--jobs", str(jobs), capsys=capsys)
    assert status == 1
    assert "line 2 is not a job" in err


def test_plots_are_drawn_for_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        status, _, err = run("--load", save(tmp_path / "r.json", report()), "--out", str(tmp_path), capsys=capsys)
        assert status == 0
        assert "no plots without matplotlib" in err
        return
    layers = [
        Layer("caller", "encode", 1.0, "how"),
        Layer("supervisor", "rest", 2.0, "how"),
        Layer("worker", "guest", 9.0, "how"),
    ]
    ratio = [
        series(f"throughput.mixed.{who}.ratio", [0.9, 0.95], "ratio", jobs="mixed", who=who, against="bare")
        for who in ("guardpool", "loky")
    ]
    latency = [
        series(f"latency.trivial.{who}.{q}", [10.0, 11.0], "us", "lower", jobs="trivial", who=who, quantile=q)
        for who in ("bare", "guardpool", "loky")
        for q in ("p50", "p90", "p99")
    ]
    latency = [msgspec.structs.replace(each, title="one call, tiny, p50: x") for each in latency]
    sizes = [
        series(f"sizes.{size}.{who}", [10.0, 11.0], bytes=size, who=who)
        for size in (100, 1000)
        for who in ("bare", "guardpool", "guardpool-encoded", "bare-plain")
    ]
    sizes += [
        series("sizes.100.guardpool.ratio", [0.5], "ratio", bytes=100, who="guardpool", against="bare"),
        series("sizes.1000.guardpool-encoded.plain-ratio", [0.4], "ratio", bytes=1000, who="guardpool-encoded",
               against="bare-plain"),
    ]  # fmt: skip
    asked = [
        series("backends.50us.2.10.known.ratio", [0.5, 0.6], "ratio", who="known", against="bare"),
        series("backends.none.10.known.question", [5.0, 6.0], "us", "lower", who="known"),
    ]
    made = report(
        *ratio,
        *latency,
        *sizes,
        *asked,
        curves=[
            Curve(f"million.{what}", "million", what, "jobs", what, [1.0, 2.0], [3.0, 4.0]) for what in ("rate", "rss")
        ],
        profile=Profile("mixed", layers, {"caller": 1.0, "supervisor": 2.0, "worker": 9.0}, 6.0),
    )
    # In a process of its own: matplotlib never closes the fonts it has opened.
    arguments = ["--load", save(tmp_path / "r.json", made), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "guardpool_bench", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    drawn = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert drawn == {"throughput.png", "latency.png", "sizes.png", "backends.png", "million.png", "profile.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "out").glob("*.png"))
    assert "![profile.png](profile.png)" in (tmp_path / "out" / "report.md").read_text()
    assert b"throughput.png" in done.stdout
