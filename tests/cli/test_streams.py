"""Standard streams that are closed or full, and more descriptors than `select` takes."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clikit import TIMEOUT_S, Bench, outcomes
from guardpool import recordings, samples
from guardpool.batch import JobParser, JobReader, OutcomeWriter
from guardpool.outcomes import Outcome, Status

CLOSED_STDOUT = "guardpool: standard output: cannot be written: Bad file descriptor\n"
MANY = 1100  # more than the 1,024 that `select` takes


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench.prepare(tmp_path_factory.mktemp("streams"))
    (bench.folder / "log").write_text("".join(line + "\n" for line in samples.recording(3)))
    return bench


def run(bench: Bench, streams: str, *args: object, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose standard streams a shell has redirected."""
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", *bench.command(*args)]
    environment = bench.environment(**{"PYTHONUNBUFFERED": "", **env})
    return subprocess.run(
        command, input=b"", capture_output=True, env=environment, cwd=bench.folder, timeout=TIMEOUT_S, check=False
    )


def label(bench: Bench, out: object, jobs: object | None = None) -> list[object]:
    return ["label", jobs or bench.jobs(["x", "trap"]), "-o", out, *bench.guard, "-w", 1]


COMMANDS: dict[str, Callable[[Bench], list[object]]] = {
    "--help": lambda bench: ["--help"],
    "none": lambda bench: [],
    "--version": lambda bench: ["--version"],
    "bench --help": lambda bench: ["bench", "--help"],
    "cache path": lambda bench: ["cache", "path"],
    "cache list": lambda bench: ["cache", "list", "--json"],
    "inspect": lambda bench: ["inspect", bench.folder / "g.wasm"],
    "doctor": lambda bench: ["doctor", "--json"],
    "demo": lambda bench: ["demo", "-n", 5, "-w", 1],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_cannot_be_printed_is_one_line_and_status_1(bench: Bench, name: str) -> None:
    done = run(bench, ">&-", *COMMANDS[name](bench))
    assert (done.returncode, done.stderr.decode()) == (1, CLOSED_STDOUT)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", ["--version", "none", "inspect"])
def test_a_full_device_behind_standard_output_is_told_once(bench: Bench, name: str, unbuffered: str) -> None:
    done = run(bench, ">/dev/full", *COMMANDS[name](bench), PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.decode().endswith("No space left on device\n")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("name", ["none", "cache path", "inspect"])
def test_the_status_tells_where_no_stream_is_open(bench: Bench, name: str) -> None:
    before = {path: path.read_bytes() for path in bench.folder.iterdir() if path.is_file()}
    assert run(bench, "<&- >&- 2>&-", *COMMANDS[name](bench)).returncode == 1
    assert {path: path.read_bytes() for path in bench.folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_files_do_not_take_the_place_of_closed_streams(bench: Bench, tmp_path: Path, streams: str) -> None:
    jobs = bench.jobs(["log", "trap", "x"])
    before = jobs.read_bytes()
    done = run(bench, streams, *label(bench, tmp_path / "out", jobs), "--stats", tmp_path / "stats")
    assert done.returncode == 0
    assert jobs.read_bytes() == before
    assert [line["status"] for line in outcomes(tmp_path / "out")] == ["ok", "trap", "ok"]
    assert (tmp_path / "stats").read_bytes().startswith(b"{")
    assert done.stdout == b""
    assert (b": 2 ok, 1 trap\n" in done.stderr) == ("2>" not in streams)


@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-"])
def test_outcomes_for_a_closed_standard_output_stop_the_run(bench: Bench, streams: str) -> None:
    jobs = bench.jobs(["x"])
    before = jobs.read_bytes()
    done = run(bench, streams, *label(bench, "-", jobs))
    assert done.returncode == 1
    message = b"guardpool: standard output: the outcomes cannot be written: it is closed\n"
    assert done.stderr == (b"" if "2>" in streams else message)
    assert jobs.read_bytes() == before


def test_an_input_that_is_a_closed_stream_is_named(bench: Bench, tmp_path: Path) -> None:
    done = run(bench, "<&-", *label(bench, tmp_path / "out", "-"))
    message = b"guardpool: standard input: the jobs cannot be read: it is closed\n"
    assert (done.returncode, done.stderr) == (1, message)
    done = run(bench, "<&-", "import", "-", "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (1, b"guardpool: -: cannot be read: it is closed\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_an_import_writes_into_its_outputs_only(bench: Bench, tmp_path: Path, streams: str) -> None:
    log = bench.folder / "log"
    before = log.read_bytes()
    done = run(bench, streams, "import", log, "-o", tmp_path / "calls", "--tally", tmp_path / "tally")
    assert done.returncode in (0, 3)
    assert log.read_bytes() == before
    assert [line["tool"] for line in outcomes(tmp_path / "calls")]
    assert (tmp_path / "tally").read_bytes().startswith(b"{")
    done = run(bench, streams, "import", log, "-o", "-")
    if ">&-" in streams.split():
        assert done.returncode == 1
        assert (b"the calls cannot be written: it is closed" in done.stderr) == ("2>" not in streams)
    assert log.read_bytes() == before


# --- many open files


@pytest.fixture
def room_for_many() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * MANY:
        pytest.skip(f"this process may open only {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * MANY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_many() -> None:
    for _ in range(MANY):
        os.set_inheritable(os.dup(0), True)


@pytest.mark.usefixtures("room_for_many")
def test_a_command_labels_although_its_caller_had_many_files_open(bench: Bench, tmp_path: Path) -> None:
    process = bench.start(
        *label(bench, tmp_path / "out"), stderr=subprocess.PIPE, preexec_fn=open_many, close_fds=False
    )
    message = process.communicate(timeout=TIMEOUT_S)[1].decode()
    assert process.returncode == 0, message
    assert len(outcomes(tmp_path / "out")) == 2


def high(fd: int) -> int:
    """The same file under a descriptor over 1,023."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, MANY)
    os.close(fd)
    return moved


@pytest.mark.usefixtures("room_for_many")
def test_every_wait_takes_any_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = (high(fd) for fd in os.pipe())
    os.set_blocking(write, False)
    reader = JobReader(read, JobParser(("g",), 1000))
    jobs: list[object] = []
    thread = threading.Thread(target=lambda: [jobs.extend(portion) for portion in reader.batches()])
    thread.start()
    lines = b'{"no": "job, and long enough for many of them to fill the pipe"}\n'
    writer = OutcomeWriter(write, lambda outcomes: lines * len(outcomes))
    writer.add([Outcome(number, "g", "label_resource", "t", Status.OK) for number in range(3000)])
    writer.flush()
    os.close(write)
    thread.join(TIMEOUT_S)
    assert len(jobs) == 3000
    reader.close()
    os.close(read)

    # The end of a pipe that does not block, as standard input.
    read, write = (high(fd) for fd in os.pipe())
    os.set_blocking(read, False)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        calls = recordings.read("-")
        writing = threading.Timer(0.05, lambda: (os.write(write, samples.recording(1)[0].encode()), os.close(write)))
        writing.start()
        assert list(calls) == []
        writing.join()
    assert calls.tally.lines == 1


@pytest.mark.parametrize("name", ["inspect", "doctor", "cache list"])
def test_a_table_whose_reader_is_gone_is_no_success(bench: Bench, name: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as out:
        done = subprocess.run(
            bench.command(*COMMANDS[name](bench)),
            stdout=out,
            stderr=subprocess.PIPE,
            env=bench.environment(),
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (141, b"")
