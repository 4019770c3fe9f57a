"""`guardpool label` and signals: what was read is labelled and written, whole lines, and a second signal stops at once."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from clikit import TIMEOUT_S, Bench, job_line, outcomes, wait_until
from guardpool.batch.signals import Signals
from guardpool.cli import app

_F_SETPIPE_SZ = 1031


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.prepare(tmp_path_factory.mktemp("signals"))


class Endless:
    """A run whose input never ends: jobs are written until the command reads no more."""

    def __init__(self, bench: Bench, out: Path, tool: str, *more: object) -> None:
        self.process = bench.start(
            *("label", "-", "-o", out, *bench.guard, "-w", 2, *more), stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._line = job_line(0, tool).replace('"id": 0, ', "").encode()
        self._part = out.with_name(f"{out.name}.part")
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        assert self.process.stdin is not None
        try:
            while True:
                self.process.stdin.write(self._line * 100)
        except (BrokenPipeError, ValueError):
            pass

    def wait_for_outcomes(self) -> None:
        """Wait until the first outcomes are on disk."""
        wait_until(lambda: self._part.exists() and self._part.stat().st_size > 0, self.process)

    def end(self) -> tuple[int, str]:
        """Wait for the end; returns the exit status and standard error."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        try:
            status = self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()  # one that does not end fails this test, and does not hold up the others
            self._thread.join()
        message = self.process.stderr.read().decode()
        for stream in (self.process.stdin, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        return status, message


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_the_reading_and_keeps_what_was_labelled(
    bench: Bench, tmp_path: Path, signum: signal.Signals, status: int
) -> None:
    run = Endless(bench, tmp_path / "out", "x", "--stats", tmp_path / "stats")
    run.wait_for_outcomes()
    run.process.send_signal(signum)
    ended, message = run.end()
    got = outcomes(tmp_path / "out.part")
    assert [line["id"] for line in got] == sorted({line["id"] for line in got}), "in order, each job once"
    assert {line["status"] for line in got} == {"ok"}, "a job that did not run has no line"
    assert ended == status
    assert re.fullmatch(
        rf"guardpool: stopped by {signum.name}: {len(got):,} jobs in .* jobs/s\): {len(got):,} ok; {len(got):,} outcomes "
        rf"were written to {tmp_path}/out.part; the same command with --resume goes on\n",
        message,
    )
    assert not (tmp_path / "out").exists()
    assert json.loads((tmp_path / "stats").read_text())["outcomes"]["ok"] > 0


def test_a_job_that_runs_when_the_signal_comes_may_end_within_its_limit(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "out.part"
    process = bench.start(
        *("label", "-", "-o", tmp_path / "out", *bench.guard, "-w", 1, "--timeout", "1.5"), stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write((job_line(0, "x") + job_line(1, "spin") + job_line(2, "x")).encode())
    process.stdin.flush()
    wait_until(lambda: out.exists() and out.stat().st_size > 0, process)
    signalled = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 130
    took_s = time.monotonic() - signalled
    process.stdin.close()
    statuses = [line["status"] for line in outcomes(out)]
    # By its own deadline; a busy machine may be so late with that that the second of grace is over as well.
    assert statuses[:2] == ["ok", "timeout"] or (statuses[:1] == ["ok"] and took_s > 1.5 + 1.0)
    assert statuses[2:] in ([], ["ok"])


def test_a_second_signal_stops_at_once(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "out.part"
    process = bench.start(
        *("label", "-", "-o", tmp_path / "out", *bench.guard, "-w", 1, "--timeout", "600"), stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write((job_line(0, "x") + job_line(1, "spin")).encode())
    process.stdin.flush()
    wait_until(lambda: out.exists() and out.stat().st_size > 0, process)
    send_and_wait_until_it_came(signal.SIGTERM, process)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 143
    process.stdin.close()
    assert [line["status"] for line in outcomes(out)] == ["ok"]


def test_without_a_reader_of_the_output_the_second_signal_ends_the_run(bench: Bench) -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, _F_SETPIPE_SZ, 4096)  # far less than the outcomes of the first jobs that are read
    process = bench.start(
        *("label", bench.jobs(["x"] * 50_000), "-o", "-", *bench.guard), stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert process.stderr is not None
    with process:
        os.read(read, 1)
        send_and_wait_until_it_came(signal.SIGINT, process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
        assert b"written to standard output\n" in process.stderr.read()
    os.close(read)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_guard_is_compiled_stops_at_once(
    bench: Bench, tmp_path: Path, signum: signal.Signals, status: int
) -> None:
    process = bench.start(
        *("label", bench.jobs(["x"]), "-o", tmp_path / "out", *bench.guard),
        env=bench.environment(GUARDPOOL_CACHE_DIR=str(tmp_path / "empty")),
        stderr=subprocess.PIPE,
    )
    with process:
        compiler = wait_until_it_has(1, process)
        process.send_signal(signum)
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_S) == status
    assert_gone(compiler)
    assert not (tmp_path / "out").exists()


def test_no_process_is_left_after_a_run(bench: Bench, tmp_path: Path) -> None:
    run = Endless(bench, tmp_path / "out", "busy")
    run.wait_for_outcomes()
    processes = wait_until_it_has(3, run.process)  # the forkserver and two workers
    run.process.kill()
    run.end()
    assert_gone(processes)


def send_and_wait_until_it_came(signum: signal.Signals, process: subprocess.Popen[bytes]) -> None:
    """Send a signal and wait until it is not pending any more: up to then a second one would be the same one."""
    process.send_signal(signum)

    def came() -> bool:
        pending = re.findall(r"^(?:Sig|Shd)Pnd:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
        return not any(int(each, 16) >> signum - 1 & 1 for each in pending)

    wait_until(came, process)


def test_a_signal_while_an_import_starts_its_guards_stops_at_once(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    process = bench.start(
        *("import", tmp_path / "log", "-o", tmp_path / "out", *bench.guard),
        env=bench.environment(GUARDPOOL_CACHE_DIR=str(tmp_path / "empty")),
        stderr=subprocess.PIPE,
    )
    with process:
        compiler = wait_until_it_has(1, process)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        told = process.stderr.read().decode()
        assert process.wait(TIMEOUT_S) == 143
    assert told == f"guardpool: stopped: 0 calls written to {tmp_path}/out.part, whole lines only\n"
    assert_gone(compiler)


def test_a_signal_that_no_command_is_ready_for_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(arguments: Sequence[str]) -> int:
        with Signals():
            signal.raise_signal(signal.SIGTERM)
        return 0

    monkeypatch.setattr(app, "_dispatch", stopped)
    assert app.run(["import"]) == 143
    assert capsys.readouterr().err == "guardpool: stopped\n"


def wait_until_it_has(count: int, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Wait until the command has `count` descendants; returns them."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = psutil.Process(process.pid).children(recursive=True)
        return len(found) >= count

    wait_until(look, process)
    return found


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=TIMEOUT_S)
    assert not alive, "a process outlives the command"
