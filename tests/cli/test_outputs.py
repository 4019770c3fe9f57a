"""Output files: nothing that is there is replaced before what replaces it is whole."""

from __future__ import annotations

import json
import os
import resource
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from clikit import Bench, job_line, outcomes, wait_until
from guardpool.batch.files import FileError, Output


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.prepare(tmp_path_factory.mktemp("outputs"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.write_text("old\n")
    return path


def open_output(path: object) -> Output:
    return Output(str(path), "the outcomes")


def write(path: Path, text: bytes = b"new\n") -> None:
    """Write a whole output."""
    output = open_output(path)
    output.begin()
    output.write(text)
    output.finish()
    output.close()


def test_a_file_is_replaced_when_all_is_written_and_keeps_its_mode(out: Path) -> None:
    out.chmod(0o640)
    output = open_output(out)
    assert output.replaces
    output.begin()
    os.write(output.fd, b"new\n")
    assert out.read_text() == "old\n"
    assert Path(output.written_path).read_text() == "new\n"
    output.finish()
    output.close()
    assert out.read_text() == "new\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert os.listdir(out.parent) == ["out"]


def test_what_an_unfinished_run_wrote_stays_beside_the_file(out: Path) -> None:
    output = open_output(out)
    output.begin()
    os.write(output.fd, b"half\n")
    output.close()
    assert out.read_text() == "old\n"
    assert (out.parent / "out.part").read_text() == "half\n"
    again = open_output(out)
    assert (out.parent / "out.part").read_text() == "half\n", "opening changes nothing"
    again.close()
    write(out)
    assert out.read_text() == "new\n"
    assert os.listdir(out.parent) == ["out"]


def test_nothing_is_left_of_a_run_that_wrote_nothing(out: Path, tmp_path: Path) -> None:
    for begin in (False, True):
        for path in (out, tmp_path / "new"):
            output = open_output(path)
            if begin:
                output.begin()
            output.close()
    assert os.listdir(tmp_path) == ["out"]
    assert out.read_text() == "old\n"


def test_the_file_behind_a_link_is_replaced_and_the_link_stays(out: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link, dangling = tmp_path / "folder" / "link", tmp_path / "folder" / "dangling"
    link.symlink_to("../out")
    dangling.symlink_to("../later")
    write(link)
    write(dangling)
    assert link.is_symlink()
    assert out.read_text() == "new\n"
    assert (tmp_path / "later").read_text() == "new\n"
    assert sorted(os.listdir(tmp_path)) == ["folder", "later", "out"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/null", path)])
def test_a_part_that_is_not_a_regular_file_is_not_written(out: Path, make: object) -> None:
    make(f"{out}.part")  # type: ignore[operator]
    with pytest.raises(FileError, match=r"out\.part: the outcomes cannot be written: "):
        open_output(out)
    assert out.read_text() == "old\n"


def test_a_write_that_gets_only_so_far_is_an_error(out: Path) -> None:
    output = open_output(out)
    output.begin()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, hard))
    try:
        with pytest.raises(FileError, match=r"out\.part: the outcomes cannot be written: File too large"):
            output.write(b"new\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    output.close()
    assert out.read_text() == "old\n"


@pytest.mark.parametrize("path", ["", "new/", "new/."])
def test_a_path_that_names_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="cannot be written"):
        open_output(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["out.gz", "OUT.ZST", "out.jsonl.bz2", "out.zip", "out.parquet"])
def test_lines_are_not_written_under_the_name_of_a_packed_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(FileError) as caught:
        open_output(path)
    ending = path.suffix.lower()
    assert str(caught.value) == (
        f"{path}: the outcomes cannot be written as {ending}: choose a name without it, and pack the file afterwards"
    )
    assert os.listdir(tmp_path) == []
    Output(str(path), "the outcomes", packs=(ending,)).close()


def test_a_pipe_may_be_called_anything(tmp_path: Path) -> None:
    path = tmp_path / "out.gz"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    output = open_output(path)
    assert (output.written_path, output.part) == (str(path), None)
    output.close()
    os.close(reader)
    assert os.listdir(tmp_path) == ["out.gz"]


def test_two_runs_do_not_write_to_the_same_file(out: Path) -> None:
    first, second, third = (open_output(out) for _ in range(3))
    first.begin()
    os.write(first.fd, b"first\n")
    with pytest.raises(FileError, match="another run writes to the same file"):
        second.begin()
    second.close()
    assert (out.parent / "out.part").read_text() == "first\n"
    first.finish()
    with pytest.raises(FileError, match="another run"):  # its part is the finished file by now
        third.begin()
    third.close()
    assert out.read_text() == "first\n"
    assert os.listdir(out.parent) == ["out"]


def test_the_files_of_another_run_are_known_by_their_part_too(out: Path, tmp_path: Path) -> None:
    part = tmp_path / "out.part"
    part.write_text("jobs\n")
    output = open_output(out)
    for path in (out, part):
        with pytest.raises(FileError, match="is the same file"):
            output.refuse(path.stat(), str(path))
    output.close()
    assert part.read_text() == "jobs\n"


def test_what_is_no_regular_file_is_written_directly(tmp_path: Path) -> None:
    write(Path("/dev/null"))
    read, written = os.pipe()
    write(Path(f"/dev/fd/{written}"))
    os.close(written)
    assert os.read(read, 100) == b"new\n"
    os.close(read)
    with (tmp_path / "out").open("wb") as file:
        write(Path(f"/dev/fd/{file.fileno()}"))
    assert (tmp_path / "out").read_bytes() == b"new\n", "the file that the shell opened, not another one in its place"


# --- by the command


def test_an_interrupted_run_replaces_no_previous_outcomes(bench: Bench, out: Path) -> None:
    part = out.with_name("out.part")
    process = bench.start(
        *("label", "-", "-o", out, *bench.guard, "-w", 1), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stderr is not None
    with process:
        process.stdin.write(job_line(0, "x").encode())
        process.stdin.flush()
        wait_until(lambda: part.exists() and part.stat().st_size > 0, process)
        process.send_signal(2)
        message = process.stderr.read().decode()
        assert process.wait() == 130
    assert out.read_text() == "old\n"
    assert len(outcomes(part)) == 1
    assert message.startswith("guardpool: stopped by SIGINT: 1 job in ")
    assert message.endswith(
        f": 1 ok; 1 outcome was written to {part}, and {out} is as it was; the same command with --resume goes on\n"
    )


def test_an_input_that_cannot_be_read_to_its_end_replaces_nothing(bench: Bench, out: Path) -> None:
    done = bench.run("label", "/proc/self/mem", "-o", out, *bench.guard)  # the first read of it fails
    assert done.returncode == 1
    message = "guardpool: /proc/self/mem: the jobs cannot be read: Input/output error\n"
    assert done.stderr.decode() == message
    assert out.read_text() == "old\n"
    assert os.listdir(out.parent) == ["out"]


def test_statistics_that_cannot_be_written_are_an_error(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bench.run("label", bench.jobs(["x"] * 3), "-o", out, *bench.guard, "--stats", "/dev/full")
    assert done.returncode == 1
    assert b"the statistics cannot be written: No space left on device" in done.stderr
    assert len(outcomes(out)) == 3  # the outcomes are whole


def test_names_that_are_no_utf_8_are_read_written_and_told_of(bench: Bench, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jsonl").write_bytes(bench.jobs(["x"] * 3).read_bytes())
    out = folder / os.fsdecode(b"o\xfe")
    done = bench.run("label", folder, "-o", out, *bench.guard)
    assert (done.returncode, len(outcomes(out))) == (0, 6), done.stderr
    told = json.loads((folder / f"{out.name}.manifest.json").read_bytes())
    assert [each["name"] for each in told["inputs"]] == [rf"{tmp_path}/\xff/{name}.jsonl" for name in "ab"]
    assert told["out"]["name"] == r"o\xfe"


def test_a_current_folder_that_is_gone_is_named(bench: Bench, tmp_path: Path) -> None:
    command = shlex.join([sys.executable, "-m", "guardpool", "label", "jobs.jsonl", "-o", "out", *bench.guard])
    done = subprocess.run(
        ["sh", "-c", f"mkdir gone && cd gone && rmdir ../gone && {command}"],
        cwd=tmp_path,
        env=bench.environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"guardpool: the current folder: No such file or directory\n")
