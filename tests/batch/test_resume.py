"""Runs that go on where they were interrupted: every job once, and nothing but what the interrupted run would have written."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
import zstandard

import enginekit
import formatkit
from clikit import TIMEOUT_S, job_line, wait_until
from guardpool import CallerError, Guard, Outcome, Status
from guardpool.batch import CannotResume, JobParser, JobReader, LabelRun, label_file
from guardpool.batch.begun_sessions import BegunSessions
from guardpool.batch.files import FileError
from guardpool.batch.seam import InputDiffers, Mark
from guardpool.cli import main
from guardpool.jobs import Prepared
from poolkit import POLICY, guard

# A checkpoint whenever outcomes are written, and small reads, so that a short run has many of both.
_COMMAND = """\
import sys
from guardpool.batch import checkpoints, reader
from guardpool.cli import main
checkpoints.EVERY_S, checkpoints._SHARE, reader._READ_BYTES = 0.0, 0, 4096
sys.exit(main())
"""


class Killed(BaseException):
    """What ends a run in this process as suddenly as it can."""


@pytest.fixture(autouse=True, scope="module")
def _many_checkpoints() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guardpool.batch.checkpoints.EVERY_S", 0.0)
        patch.setattr("guardpool.batch.checkpoints._SHARE", 0)
        patch.setattr("guardpool.batch.pump.TICK_S", 0.0)
        patch.setattr("guardpool.batch.reader._READ_BYTES", 4096)
        yield


def write_jobs(path: Path) -> Path:
    path.write_text("".join(job_line(number % 50, f"k{number}") for number in range(2000)))
    return path


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return write_jobs(tmp_path / "jobs")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is left of an interrupted run. To be copied."""
    folder = tmp_path_factory.mktemp("interrupted")
    interrupt(write_jobs(folder / "jobs"), folder / "out")
    return folder


def label(jobs: Path, out: Path, one: Guard | None = None, **options: Any) -> LabelRun:
    """A run on one worker."""
    return label_file(jobs, out, [one or guard()], workers=1, timing=False, **options)


def interrupt(jobs: Path, out: Path, after: int = 500, **options: Any) -> None:
    """A run that ends suddenly when the journal tells of so many outcomes. Its last jobs are never read."""
    journal = Path(f"{out}.part.journal")
    over = threading.Event()
    read = 0

    def watch(portion: Sequence[Prepared]) -> None:
        nonlocal read
        read += len(portion)
        if read >= 2 * after:
            over.wait(TIMEOUT_S)

    def progress(run: LabelRun) -> None:
        if run.done >= after and journal.exists() and b'"ok":' in journal.read_bytes():
            over.set()
            raise Killed

    with pytest.raises(Killed):
        label(jobs, out, watch=watch, progress=progress, **options)
    assert not out.exists()
    assert journal.exists()


@pytest.mark.parametrize("ordered", [True, False])
def test_a_run_that_goes_on_writes_what_one_run_would_have_written(jobs: Path, tmp_path: Path, ordered: bool) -> None:
    whole = label(jobs, tmp_path / "whole", ordered=ordered, hash_labels=True)
    interrupt(jobs, tmp_path / "out", ordered=ordered, hash_labels=True)
    with (tmp_path / "out.part").open("ab") as part:
        part.write(b'{"id":1,"half a li')  # what was not on the disk for certain is taken back
    run = label(jobs, tmp_path / "out", ordered=ordered, hash_labels=True, resume=True)
    lines = [(tmp_path / name).read_bytes().splitlines() for name in ("out", "whole")]
    assert lines[0] == lines[1] if ordered else sorted(lines[0]) == sorted(lines[1])
    assert 500 <= run.resumed < 2000
    assert (run.counts, run.done, run.label_hash) == (whole.counts, 2000, whole.label_hash)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("jobs", "out", "out.manifest.json", "whole", "whole.manifest.json")
    }


def test_statistics_tell_what_is_of_the_last_run_and_what_of_all(
    jobs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = jobs.read_text().splitlines(keepends=True)
    jobs.write_text("".join([*lines[:600], *lines[:1400]]))
    interrupt(jobs, tmp_path / "out", hash_labels=True)
    (tmp_path / "g.wasm").write_bytes(guard().wasm)
    (tmp_path / "p.json").write_text(json.dumps(POLICY))
    named = ["-g", f"vicious={tmp_path / 'g.wasm'}", "-p", f"vicious={tmp_path / 'p.json'}"]
    options = ["--resume", "--no-timing", "--dedupe", "--stats", str(tmp_path / "stats"), "-w", "1"]
    assert main(["label", str(jobs), "-o", str(tmp_path / "out"), *named, *options]) == 0
    stats = json.loads((tmp_path / "stats").read_text())
    earlier = stats["earlier_outcomes"]
    assert 0 < earlier < 2000
    assert stats["total_outcomes"] == {"ok": 2000}
    assert stats["outcomes"] == {"ok": 2000 - earlier - stats["equal_jobs"]}
    told = capfd.readouterr().err
    assert "% of the jobs after the interruption)" in told
    assert f"and {earlier:,} before the interruption: 2,000 ok" in told


@pytest.mark.parametrize("ordered", [True, False])
def test_outcomes_of_a_session_that_an_interrupted_run_began_say_so(jobs: Path, tmp_path: Path, ordered: bool) -> None:
    sessions = [f"long {number % 3}" if number % 2 else f"short {number // 10}" for number in range(2000)]
    jobs.write_text(
        "".join(
            job_line(0, f"k{number}").replace('"id": 0', f'"id": {number}, "session": "{session}"')
            for number, session in enumerate(sessions)
        )
    )
    interrupt(jobs, tmp_path / "out", ordered=ordered)
    run = label(jobs, tmp_path / "out", ordered=ordered, resume=True)
    lines = list(map(json.loads, (tmp_path / "out").read_bytes().splitlines()))
    assert len(lines) == 2000
    begun = {sessions[line["id"]] for line in lines[: run.resumed]}
    assert begun != set(sessions)
    assert not any("session_restarted" in line for line in lines[: run.resumed])
    for line in lines[run.resumed :]:
        assert line.get("session_restarted", False) is (sessions[line["id"]] in begun)


def test_of_many_sessions_the_last_are_known() -> None:
    sessions, made = BegunSessions(), Outcome(0, "g", "label_resource", "x", Status.OK, attempts=1)
    for first in range(0, 40_000, 1000):
        sessions.read([_in_session(f"s{number}") for number in range(first, first + 1000)])
        sessions.written(range(first, first + 1000), [made] * 1000)
    assert (len(sessions.state()), sessions._of_jobs) == (16_384 * 8, {})
    later = BegunSessions(sessions.state())
    later.read([_in_session(name) for name in ("s39999", "s23616", "s23615", "new", None)])
    told = later.written(range(5), [made] * 5)
    assert [each.session_restarted for each in told] == [True, True, False, False, False]
    third = BegunSessions(later.state())
    third.read([_in_session(name) for name in ("s39999", "s23616", "new", "s23617")])
    told = third.written(range(4), [made] * 4)
    assert [each.session_restarted for each in told] == [True, True, True, False], "the one unused for longest gave way"
    later.read([_in_session("s39998")] * 2)
    others = [msgspec.structs.replace(made, status=Status.CANCELLED), msgspec.structs.replace(made, attempts=0)]
    assert later.written([5, 6], others) == others, "one is not written, and no guard made the other"


def test_a_session_of_which_no_guard_was_given_a_job_has_not_begun() -> None:
    sessions = BegunSessions()
    sessions.read([_in_session(name) for name in ("kept", "rejected", "made", "both", "both")])
    kept = Outcome(0, "g", "label_resource", "x", Status.OK)
    rejected, made = (msgspec.structs.replace(kept, status=Status.REJECTED), msgspec.structs.replace(kept, attempts=1))
    sessions.written(range(5), [kept, rejected, made, kept, made])
    later = BegunSessions(sessions.state())
    later.read([_in_session(name) for name in ("kept", "rejected", "made", "both")])
    told = later.written(range(4), [made] * 4)
    assert [each.session_restarted for each in told] == [False, False, True, True]


def _in_session(session: str | None) -> Prepared:
    return Prepared(0, "g", "label_resource", "x", b"{}", None, session)


def test_an_input_that_is_the_output_is_left_alone(jobs: Path, tmp_path: Path) -> None:
    before = jobs.read_bytes()
    (tmp_path / "link").symlink_to(jobs)
    for out in (jobs, tmp_path / "link"):
        with pytest.raises(FileError, match="is the same file"):
            label(jobs, out)
    assert jobs.read_bytes() == before
    with pytest.raises(CallerError, match="at least one file"):
        label_file([], tmp_path / "out", [guard("vicious")])
    with pytest.raises(CallerError, match="sequence of Guard"):
        label_file(jobs, tmp_path / "out", guard("vicious"))  # type: ignore[arg-type]


def test_where_there_is_nothing_to_go_on_with_a_run_begins_anew(jobs: Path, tmp_path: Path) -> None:
    assert label(jobs, tmp_path / "out", resume=True).resumed == 0
    before = (tmp_path / "out").read_bytes()
    assert label(jobs, tmp_path / "out", resume=True).resumed == 0, "a run that came to its end is over"
    interrupt(jobs, tmp_path / "other")
    (tmp_path / "other.part").unlink()
    assert label(jobs, tmp_path / "other", resume=True).resumed == 0
    (tmp_path / "third.part").write_text("what a version without a journal left\n")
    label(jobs, tmp_path / "third", resume=True)
    assert before == (tmp_path / "other").read_bytes() == (tmp_path / "third").read_bytes()


def test_without_resume_an_interrupted_run_is_begun_anew(jobs: Path, tmp_path: Path) -> None:
    interrupt(jobs, tmp_path / "out")
    assert label(jobs, tmp_path / "out").resumed == 0
    assert len((tmp_path / "out").read_bytes().splitlines()) == 2000


def test_each_job_for_each_guard_goes_on_between_two_guards(jobs: Path, tmp_path: Path) -> None:
    guards = [guard("a", wat="vicious"), guard("b", wat="vicious")]
    jobs.write_text(jobs.read_text() + "no job\n")

    def run(out: str, **options: Any) -> LabelRun:
        return label_file(jobs, tmp_path / out, guards, workers=1, each_guard=True, timing=False, **options)

    def progress(run: LabelRun) -> None:
        if run.done >= 333 and (tmp_path / "out.part.journal").exists():
            raise Killed

    run("whole")
    with pytest.raises(Killed):
        run("out", progress=progress)
    assert run("out", resume=True).resumed > 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len((tmp_path / "out").read_bytes().splitlines()) == 4001


def _other_module(tmp_path: Path) -> dict[str, Any]:
    return {"one": guard("vicious", wat="good")}


def _other_policy(tmp_path: Path) -> dict[str, Any]:
    return {"one": Guard("vicious", guard().wasm, {"allow-only": {**POLICY["allow-only"], "min-integrity": "merged"}})}


def _other_bots(tmp_path: Path) -> dict[str, Any]:
    return {"one": Guard("vicious", guard().wasm, POLICY, trusted_bots=["bot"])}


def _other_name(tmp_path: Path) -> dict[str, Any]:
    return {"one": guard("other", wat="vicious")}


def _other_input(tmp_path: Path) -> dict[str, Any]:
    text = (tmp_path / "jobs").read_text()
    (tmp_path / "jobs").write_text(text.replace('"n": 3}', '"n": 4}', 1))
    return {}


def _shorter_input(tmp_path: Path) -> dict[str, Any]:
    os.truncate(tmp_path / "jobs", 5000)
    return {}


def _shorter_output(tmp_path: Path) -> dict[str, Any]:
    os.truncate(tmp_path / "out.part", 5000)
    return {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_module, "guard vicious has another module than in the interrupted run"),
        (_other_policy, "guard vicious has another policy"),
        (_other_bots, "guard vicious has another policy"),
        (_other_name, "the guards are other, and those of the interrupted run vicious"),
        (_other_input, r"its first [\d,]+ bytes are not those that the interrupted run read"),
        (_shorter_input, "it ends after 5,000 bytes, and the interrupted run read more of it"),
        (_shorter_output, "it has 5,000 bytes, and the interrupted run had written"),
        (lambda _: {"ordered": False}, "ordered is off, and was on"),
        (lambda _: {"hash_labels": True}, r"the hash over all labels \(--stats\) is asked for"),
    ],
)
def test_a_run_that_would_differ_is_refused_and_nothing_is_lost(
    interrupted: Path, tmp_path: Path, change: Callable[[Path], dict[str, Any]], message: str
) -> None:
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    jobs, out = tmp_path / "jobs", tmp_path / "out"
    changed = change(tmp_path)
    names = ("out.part", "out.part.journal")
    before = [(tmp_path / name).read_bytes() for name in names]
    with pytest.raises(CannotResume, match=f"the run cannot go on: {message}"):
        label(jobs, out, resume=True, **changed)
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_the_file_that_differs_is_named_among_several(jobs: Path, tmp_path: Path) -> None:
    files = [jobs, write_jobs(tmp_path / "second"), write_jobs(tmp_path / "third")]

    def progress(run: LabelRun) -> None:
        if run.resumed + run.done > 2100 and b'"file":1' in (tmp_path / "out.part.journal").read_bytes():
            raise Killed

    options: dict[str, Any] = {"workers": 1, "timing": False}
    with pytest.raises(Killed):
        label_file(files, tmp_path / "out", [guard()], progress=progress, **options)
    files[1].write_text(files[1].read_text().replace('"k0"', '"k1"', 1))
    with pytest.raises(CannotResume, match=r"/second: the run cannot go on: its first [\d,]+ bytes are not those"):
        label_file(files, tmp_path / "out", [guard()], resume=True, **options)


def test_an_input_that_has_grown_is_gone_on_with(interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    jobs = tmp_path / "jobs"
    with jobs.open("a") as file:
        file.write(job_line(7, "k2000"))
    run = label(jobs, tmp_path / "out", resume=True)
    assert run.done == 2001
    assert b'"k2000"' in (tmp_path / "out").read_bytes()


def test_a_pipe_cannot_be_gone_on_with(jobs: Path) -> None:
    with pytest.raises(CannotResume, match="/dev/null: only a file can be gone on with"):
        label(jobs, Path("/dev/null"), resume=True)


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_reader_goes_on_at_every_mark_and_compares_what_is_behind_it(
    monkeypatch: pytest.MonkeyPatch, end: str, bom: bytes
) -> None:
    lines = [job_line(number, "x" * (number % 7)).strip() for number in range(40)]
    lines[5] = lines[25] = ""
    lines[17] = "y" * (2 << 20)  # too long
    lines[18] = "no job"
    text = bom + ("\n".join(lines) + end).encode()
    monkeypatch.setattr("guardpool.batch.reader._PORTION_JOBS", 3)
    ids: list[int] = []
    marks: list[tuple[Mark, int]] = []

    def read_all(reader: JobReader) -> list[int]:
        return [job.id for portion in reader.batches() for job in portion]

    path = os.memfd_create("jobs")
    os.write(path, text)

    def opened() -> JobReader:
        os.lseek(path, 0, os.SEEK_SET)
        return JobReader(path, JobParser(("g",), 1000))

    first = opened()
    for portion in first.batches():
        ids += [job.id for job in portion]
        mark = first.mark()
        assert mark is not None
        marks.append((mark, len(ids)))
    first.close()
    assert len(ids) == 38
    for mark, count in marks:
        for seen, _ in (*marks[-1:], (mark, count)):
            reader = opened()
            reader.go_to(mark, seen)
            assert (reader.jobs, read_all(reader)) == (count, ids[count:])
            assert reader.inputs() == first.inputs()
            assert reader._parser.not_jobs == first._parser.not_jobs
            reader.close()
    # A byte that changed before the mark is found at once, one between the two marks before its job is handed out.
    (early, count), (late, _) = marks[1], marks[4]
    for at, at_once in ((early.place["bytes"] - 3, True), (late.place["bytes"] - 3, False)):
        os.pwrite(path, bytes([text[at] ^ 1]), at)
        reader = opened()
        with pytest.raises(InputDiffers):
            reader.go_to(early, late)
            assert not at_once
            for portion in reader.batches():
                assert all(job.id < late.place["rows"] - 1 for job in portion[-1:])
        reader.close()
        os.pwrite(path, text[at : at + 1], at)
    os.close(path)


def test_a_last_line_without_a_newline_that_goes_on_is_not_split() -> None:
    path = os.memfd_create("jobs")
    os.write(path, job_line(1, "x").encode() + job_line(2, "x").strip().encode())
    os.lseek(path, 0, os.SEEK_SET)
    reader = JobReader(path, JobParser(("g",), 1000))
    assert sum(map(len, reader.batches())) == 2
    mark = reader.mark()
    assert mark is not None
    reader.close()
    os.write(path, b"   \n")
    os.lseek(path, 0, os.SEEK_SET)
    reader = JobReader(path, JobParser(("g",), 1000))
    with pytest.raises(InputDiffers, match="its last line, which the interrupted run labelled, goes on now"):
        reader.go_to(mark, mark)
    reader.close()
    os.close(path)


_UNPACK: dict[str, Callable[[Path], list[bytes]]] = {
    "": lambda path: path.read_bytes().splitlines(keepends=True),
    ".jsonl.gz": lambda path: gzip.decompress(path.read_bytes()).splitlines(keepends=True),
    ".jsonl.zst": lambda path: _unpacked_zstd(path).splitlines(keepends=True),
    ".parquet": lambda path: [json.dumps(row).encode() for row in pq.read_table(path).to_pylist()],
}


def _unpacked_zstd(path: Path) -> bytes:
    with path.open("rb") as file:
        return bytes(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read())


class Command:
    """`guardpool label --resume` in processes that are killed; from files and to files of one format."""

    def __init__(self, folder: Path, *options: str, kind: str = "jsonl") -> None:
        (folder / "g.wasm").write_bytes(guard().wasm)
        (folder / "p.json").write_text(json.dumps(POLICY))
        lines = [json.loads(job_line(number % 50, f"k{number}")) for number in range(8000)]
        self._jobs = formatkit.write(folder / f"jobs.{kind}", lines).name
        self._ending = "" if kind == "jsonl" else f".{kind}"
        self._folder = folder
        self._options = options

    def start(self, out: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Begin to label, or go on."""
        words = [self._jobs, "-o", f"{out}{self._ending}", "-g", "g=g.wasm", "-p", "g=p.json", "-w", "1"]
        words += ["--no-timing", "--resume"]
        words += ["--engine", enginekit.ENGINE_NAME, *self._options]
        command = [sys.executable, "-c", _COMMAND, "label", *words]
        return subprocess.Popen(command, cwd=self._folder, stderr=subprocess.PIPE, **popen)

    def finish(self, out: str) -> list[bytes]:
        """Run to the end; returns the lines that were written, or the rows as lines."""
        path = self._folder / f"{out}{self._ending}"
        process = self.start(out)
        _, said = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, said.decode()
        assert {each.name for each in path.parent.iterdir() if each.name.startswith(path.name)} == {
            path.name,
            f"{path.name}.manifest.json",
        }
        return _UNPACK[self._ending](path)

    def kill(self, out: str, dice: random.Random, sent: signal.Signals = signal.SIGKILL) -> bool:
        """Run until a record is new, and a random moment longer, then send a signal; False if it came to its end before."""
        journal = self._folder / f"{out}{self._ending}.part.journal"
        before = journal.stat().st_size if journal.exists() else 0
        with self.start(out) as process:
            assert process.stderr is not None
            try:
                wait_until(lambda: journal.exists() and journal.stat().st_size != before, process)
                threading.Event().wait(dice.random() * 0.05)
            except AssertionError:
                assert process.wait(TIMEOUT_S) == 0, process.stderr.read().decode()
            process.send_signal(sent)
            return process.wait(TIMEOUT_S) == (130 if sent == signal.SIGINT else -sent)


def lines_after_kills(
    folder: Path, kills: int, seed: int, *options: str, kind: str = "jsonl"
) -> tuple[list[bytes], list[bytes]]:
    """What a run wrote that was killed so often, and what one wrote in peace."""
    command, dice, done = Command(folder, *options, kind=kind), random.Random(seed), 0
    runs = []
    while done < kills:
        name = f"out{len(runs)}"
        while done < kills and command.kill(name, dice):
            done += 1
        runs.append(command.finish(name))
    whole = command.finish("whole")
    for lines in runs[:-1]:
        assert sorted(lines) == sorted(whole)
    return runs[-1], whole


def _tools(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["tool_name"] for line in lines]


def test_a_run_that_found_no_room_on_the_disk_goes_on(tmp_path: Path) -> None:
    command, room = Command(tmp_path), 200_000
    with command.start("out", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))) as full:
        said = full.communicate(timeout=TIMEOUT_S)[1].decode()
    assert (full.returncode, "out.part: the outcomes cannot be written after line" in said) == (1, True), said
    assert (tmp_path / "out.part").stat().st_size <= room
    assert _tools(command.finish("out")) == [f"k{number}" for number in range(8000)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", formatkit.FORMATS)
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path, kind: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        command = Command(tmp_path, kind=kind)
        with command.start("disk/out") as full:
            said = full.communicate(timeout=TIMEOUT_S)[1].decode()
        assert full.returncode == 1, said
        assert "No space left on device" in said
        assert said.endswith("with room there, the same command with --resume goes on\n")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert _tools(command.finish("disk/out")) == [f"k{number}" for number in range(8000)]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", formatkit.FORMATS)
def test_a_command_that_was_ended_by_ctrl_c_goes_on(tmp_path: Path, kind: str) -> None:
    command = Command(tmp_path, kind=kind)
    assert command.kill("out", random.Random(5), signal.SIGINT)
    assert _tools(command.finish("out")) == [f"k{number}" for number in range(8000)]


def test_a_killed_command_goes_on_and_writes_the_same_bytes(tmp_path: Path) -> None:
    killed, whole = lines_after_kills(tmp_path, 1, 1)
    assert killed == whole


def test_a_killed_command_that_is_unordered_writes_the_same_lines(tmp_path: Path) -> None:
    killed, whole = lines_after_kills(tmp_path, 1, 2, "--unordered")
    assert sorted(killed) == sorted(whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", formatkit.FORMATS)
@pytest.mark.parametrize("order", ["--ordered", "--unordered"])
def test_fifty_kills_at_random_moments_lose_and_repeat_no_job(tmp_path: Path, order: str, kind: str) -> None:
    killed, whole = lines_after_kills(tmp_path, 50, 3, order, kind=kind)
    assert killed == whole if order == "--ordered" else sorted(killed) == sorted(whole)
