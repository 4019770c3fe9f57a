"""What people see: a real terminal gets a bar and tables, and nothing that a guard could do harm with."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from clikit import Bench, outcomes
from guardpool.cli.progress import LogBuffer, RateMeter, State, render_progress
from guardpool.cli.render import make_console, show_bytes, show_rate, show_seconds
from guardpool.outcomes import GuardAnswerInvalid, Outcome, OutcomeError, Status
from guardpool.printable import terminal_json

_HARM = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.prepare(tmp_path_factory.mktemp("terminal"))


def test_a_terminal_gets_a_bar_and_a_summary(bench: Bench, tmp_path: Path) -> None:
    jobs = bench.jobs(["x", "busy", "trap", "refuse", "busy"] + ["x"] * 199)
    with jobs.open("a") as file:
        file.write("\nno job\n")
    with bench.terminal("label", jobs, "-o", tmp_path / "out", *bench.guard, "-w", 1) as terminal:
        terminal.read_until(lambda raw: b"ETA" in raw and b"jobs" in raw)
        assert terminal.finish() == 0
    text = terminal.text
    assert "%" in text
    assert re.search(r"205 jobs in [\d.]+ s \([\d.,]+ jobs/s\)", text)
    assert re.search(r"ok +202 +98\.5", text)
    assert re.search(r"rejected +1 +0\.5 +line 206: not JSON", text), "people count lines from 1"
    assert re.search(r"trap +1 +0\.5 +job 2: ", text)
    assert re.search(r"refused +1 +0\.5 +job 3: ", text)
    assert b"\x1b[?25l" in terminal.raw, "the cursor is hidden while the bar is drawn"
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l"), "and comes back"
    assert len(outcomes(tmp_path / "out")) == 205


def test_ctrl_c_on_the_terminal_leaves_it_tidy(bench: Bench, tmp_path: Path) -> None:
    jobs = bench.jobs(["x"] + ["busy"] * 200)
    with bench.terminal("label", jobs, "-o", tmp_path / "out", *bench.guard, "-w", 1) as terminal:
        terminal.read_until(lambda raw: b"ok" in raw and b"ETA" in raw)
        terminal.type(b"\x03")
        assert terminal.finish() == 130
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")
    assert "stopped by SIGINT: " in terminal.text
    assert "Traceback" not in terminal.text
    assert "died" not in terminal.text, "the workers, which get the signal too, leave it to the command"
    got = outcomes(tmp_path / "out.part")
    assert {line["status"] for line in got} == {"ok"}
    assert f"; {len(got)} outcomes were written to {tmp_path}/out.part" in terminal.text.replace("\r\n", "")


def test_outcomes_and_log_lines_on_a_terminal_are_harmless(bench: Bench) -> None:
    jobs = bench.jobs(["evil", "log", "x"])
    with bench.terminal("label", jobs, "-o", "-", *bench.guard, "--no-progress", "-w", 1) as terminal:
        assert terminal.finish() == 0
    text = terminal.raw.decode().replace("\r\n", "\n")
    assert "\x1b" not in text
    assert _HARM.search(text) is None
    assert '"description":"\\u001b[2J\\u009b31m\\u202eevil"' in text, "still JSON, and still the same"
    assert "\\x1b]0;pwned\\x07\\u202elog" in text


# A program that never configured logging: Python's own handler prints warnings as they are.
_SCRIPT = """
import sys
from guardpool import Guard, GuardPool
guard = Guard("g", open(sys.argv[1], "rb").read(), {"allow-only": {"repos": "all", "min-integrity": "none"}})
with GuardPool([guard], workers=1) as pool:
    print(pool.label_resource("evil"))
    pool.label_resource("log")
"""


def test_log_lines_on_the_terminal_of_a_program_are_harmless(bench: Bench) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(bench.folder / "g.wasm")], capture_output=True, timeout=60, check=False
    )
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, text
    assert _HARM.search(text) is None
    assert "\\x1b]0;pwned\\x07\\u202elog" in text
    assert "\\u202eevil" in text


def test_an_error_with_a_guards_words_is_harmless() -> None:
    error = OutcomeError("invalid_answer", "no \x1b[2J\u202elabel\nat all")
    outcome = Outcome(1, "g", "label_resource", "t", Status.INVALID, None, error)
    with pytest.raises(GuardAnswerInvalid) as caught:
        outcome.raise_for_status()
    assert str(caught.value) == "job 1: invalid: no \\x1b[2J\\u202elabel\\nat all"
    assert caught.value.outcome.error is error
    assert _HARM.search(repr(outcome)) is None


def test_the_same_outcomes_on_a_pipe_are_left_alone(bench: Bench) -> None:
    done = bench.run("label", bench.jobs(["evil"]), "-o", "-", *bench.guard)
    assert "\u202eevil" in done.stdout.decode()


def test_no_bar_is_drawn_across_outcomes_or_with_no_progress(bench: Bench, tmp_path: Path) -> None:
    jobs = bench.jobs(["x", "busy"])
    for options, env in (
        (["-o", "-"], {}),
        (["-o", tmp_path / "o", "--no-progress"], {}),
        (["-o", tmp_path / "o"], {"TERM": "dumb"}),
    ):
        with bench.terminal("label", jobs, *options, *bench.guard, "-w", 1, **env) as terminal:
            assert terminal.finish() == 0
        assert b"\x1b[?25l" not in terminal.raw
        assert "ETA" not in terminal.text


@pytest.mark.parametrize("columns", [200, 80, 60, 40, 20, 8])
@pytest.mark.parametrize("part", [None, 0.0, 0.4567, 1.0])
def test_the_bar_fits_any_terminal(columns: int, part: float | None) -> None:
    counts = Counter(dict.fromkeys(Status, 1234567))
    console = make_console()
    console.width = columns
    state = State(done=12_345_678, counts=counts, part=part)
    lines = console.render_lines(render_progress(state, 12_345.6, 3723.0, columns), pad=False)
    assert len(lines) == 2
    assert all(sum(segment.cell_length for segment in line) <= columns for line in lines)


def test_the_bar_shows_share_count_rate_and_time_left() -> None:
    def text(state: State, rate: float, columns: int = 80) -> str:
        console = make_console()
        console.width = columns
        with console.capture() as captured:
            console.print(render_progress(state, rate, 65.0, columns))
        return captured.get()

    shown = text(State(5000, Counter({Status.OK: 4990, Status.TRAP: 10}), 0.5), 100.0)
    assert "50%" in shown
    assert "5,000 jobs" in shown
    assert "100/s" in shown
    assert "ETA 0:50" in shown
    assert "ok 4,990  trap 10" in shown
    assert "ok 7  1.0 MiB of 2.0 MiB read" in text(State(7, Counter({Status.OK: 7}), 0.5, read=(2**20, 2**21)), 1.0)
    assert "3.0 KiB read" in text(State(0, Counter(), None, read=(3072, None)), 1.0)
    assert "ETA -:--" in text(State(0, Counter(), 0.0), 0.0)
    unknown = text(State(5000, Counter(), None), 100.0)
    assert "ETA" not in unknown, "where the end is unknown no time is promised"
    assert "1:05" in unknown
    assert "99%" in text(State(9999, Counter(), 0.9999), 1.0), "100% is when it is done"


def test_the_bars_rate_is_that_of_the_last_seconds() -> None:
    meter = RateMeter(0.0)
    assert meter.record(0.0, 0) == 0.0
    for second in range(1, 31):
        rate = meter.record(float(second), second * 1000)
    assert rate == pytest.approx(1000.0)
    for second in range(31, 61):
        rate = meter.record(float(second), 30_000 + (second - 30) * 10)
    assert rate == pytest.approx(10.0), "what was fast half a minute ago promises nothing"


def test_a_flood_of_log_lines_costs_a_bounded_amount() -> None:
    import logging

    buffer = LogBuffer()
    logger = logging.getLogger("guardpool.guard.flooding")
    buffer.install("debug")
    try:
        for number in range(20_000):
            logger.warning("line %d \x1b[2J %s", number, "x" * 10_000)
    finally:
        buffer.uninstall()
    lines = buffer.drain()
    assert len(lines) == 5001
    assert lines[-1] == "guardpool: 15000 older log lines are not shown"
    assert max(map(len, lines)) <= 500
    assert "\x1b" not in "".join(lines)
    assert buffer.drain() == []


def test_json_for_a_terminal_is_the_same_json() -> None:
    text = '{"a":"é \u202e \x7f 😀 \U000e0041","b":[1]}'.encode()
    shown = terminal_json(text).decode()
    assert shown == '{"a":"é \\u202e \\u007f 😀 \\udb40\\udc41","b":[1]}'


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (show_bytes(0), "0 B"),
        (show_bytes(1536), "1.5 KiB"),
        (show_bytes(5 << 30), "5.0 GiB"),
        (show_seconds(0.5), "0.50 s"),
        (show_seconds(59.96), "60.0 s"),
        (show_seconds(61), "1:01"),
        (show_seconds(3661), "1:01:01"),
        (show_seconds(90_000), "1 d 01:00"),
        (show_rate(12345.6), "12,346/s"),
        (show_rate(0.25), "0.2/s"),
    ],
)
def test_sizes_times_and_rates_are_written_for_people(shown: str, expected: str) -> None:
    assert shown == expected
