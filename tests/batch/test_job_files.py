"""Files of jobs in every format and any number, read as one input: what comes out, what is said, and how a run goes on."""

from __future__ import annotations

import errno
import gzip
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zstandard

import formatkit
from formatkit import FORMATS, job, lines, open_files, read, read_up_to_failure
from guardpool.batch.binary import NotLines
from guardpool.batch.files import FileError, Output
from guardpool.batch.formats import check_output
from guardpool.batch.inputs import Inputs
from guardpool.batch.labelling import written_for
from guardpool.batch.seam import InputDiffers, Mark
from guardpool.jobs import Prepared
from guardpool.sizes import MIB
from paths import folder_that_cannot_be_listed
from workkit import lines_run

JOBS = [job(number) for number in range(600)]
Pack = Callable[[bytes], bytes]


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    formatkit.end()


# --- formats


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_jobs(tmp_path: Path, kind: str) -> None:
    path = formatkit.write(tmp_path / f"jobs.{kind}", JOBS)
    told = read(path)
    assert told == read(formatkit.write(tmp_path / "plain", JOBS))
    assert [each.id for each in told] == list(range(600))
    assert told[7].payload == b'{"tool_name":"get_issue","tool_args":{"n":7}}'


def test_a_format_is_told_by_content_and_not_by_name(tmp_path: Path) -> None:
    for kind in FORMATS:
        path = formatkit.write(tmp_path / f"jobs.{kind}", JOBS[:20])
        path.rename(tmp_path / "jobs.txt")
        assert len(read(tmp_path / "jobs.txt")) == 20


def test_what_gzip_and_zstd_allow_beside_data_is_no_job(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    half = lines(JOBS[:2])[:70]
    (tmp_path / "z").write_bytes(skippable + zstandard.compress(half) + zstandard.compress(lines(JOBS[:2])[70:]))
    (tmp_path / "g").write_bytes(gzip.compress(half) + gzip.compress(lines(JOBS[:2])[70:]) + b"\0" * 512)
    assert [each.id for each in read(tmp_path / "z")] == [0, 1]
    assert [each.id for each in read(tmp_path / "g")] == [0, 1]
    (tmp_path / "g").write_bytes(gzip.compress(b"\xef\xbb\xbf" + lines(JOBS[:1])))  # a mark of byte order
    assert [each.error for each in read(tmp_path / "g")] == [None]
    (tmp_path / "g").write_bytes(gzip.compress(b""))
    assert read(tmp_path / "g") == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (gzip.compress(lines(JOBS[:2])) + gzip.compress(lines(JOBS))[:20], "the gzip stream ends too early"),
        (gzip.compress(lines(JOBS[:2]))[:-9], "the gzip stream ends too early"),
        (gzip.compress(lines(JOBS[:2])) + gzip.compress(b"{")[:-8] + b"\0" * 8, "the gzip stream is damaged: "),
        (gzip.compress(lines(JOBS[:2])) + b"rubbish", "the gzip stream is damaged: "),
        (
            zstandard.compress(lines(JOBS[:2])) + zstandard.compress(lines(JOBS))[:500],
            "the zstd stream ends too",
        ),
        (zstandard.compress(lines(JOBS[:2])) + b"not a frame", "the zstd stream is damaged: "),
    ],
    ids=[
        "gzip cut",
        "gzip without its end",
        "gzip with a wrong sum",
        "gzip and rubbish",
        "zstd cut",
        "zstd and rubbish",
    ],
)
def test_jobs_before_the_damage_are_read_and_then_one_error_names_it(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "jobs"
    path.write_bytes(data)
    jobs, error = read_up_to_failure(path)
    assert [each.id for each in jobs] == [0, 1]
    assert (error.errno, error.filename) == (errno.EBADMSG, str(path))
    assert error.strerror is not None
    assert error.strerror.startswith(says)


def test_a_zstd_window_of_more_than_128_mib_is_damage(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "jobs").write_bytes(stream.compress(lines(JOBS[:1])) + stream.flush())
    jobs, error = read_up_to_failure(tmp_path / "jobs")
    assert jobs == []
    assert "the zstd stream is damaged" in str(error)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_bomb_is_one_line_too_long_in_little_memory(tmp_path: Path, pack: Pack) -> None:
    """256 MiB of spaces and no newline, in as many bytes as a small file has."""
    bomb = pack(b" " * (8 * MIB)) * 32
    (tmp_path / "jobs").write_bytes(pack(lines(JOBS[:1])) + bomb + pack(b"\n" + lines(JOBS[1:2])))
    tracemalloc.start()
    try:
        jobs = read(tmp_path / "jobs")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [(each.id, each.error and each.error.code) for each in jobs] == [(0, None), (1, "line_too_long"), (1, None)]
    assert peak < 100 * MIB


def test_jobs_of_a_slow_packed_pipe_do_not_wait_for_more(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    holder = os.open(tmp_path / "pipe", os.O_RDWR)
    source, inputs = open_files(tmp_path / "pipe")
    packer = zstandard.ZstdCompressor().compressobj()
    try:
        batches = source.batches()
        for number in range(3):
            packed = packer.compress(lines([JOBS[number]])) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
            os.write(holder, packed)
            assert [each.id for each in next(batches)] == [number]
        # And a read that waits for more ends when it is told to.
        rest: list[Any] = []
        waiting = threading.Thread(target=lambda: rest.extend(batches))
        waiting.start()
        source.stop()
        waiting.join(30)
        assert (waiting.is_alive(), rest) == (False, [])
    finally:
        source.close()
        inputs.close()
        os.close(holder)


# --- several files


def test_a_stop_that_comes_while_a_file_is_opened_ends_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, inputs = open_files(formatkit.write(tmp_path / "a.jsonl", JOBS[:1]))
    opened = source._opened

    def stopped_meanwhile(*arguments: int) -> Any:
        source.stop()
        return opened(*arguments)

    monkeypatch.setattr(source, "_opened", stopped_meanwhile)
    try:
        assert list(source.batches()) == []
    finally:
        source.close()
        inputs.close()


def test_files_are_read_one_after_the_other_and_numbered_through(tmp_path: Path) -> None:
    without_id = [{name: value for name, value in each.items() if name != "id"} for each in JOBS[:60]]
    paths = [
        formatkit.write(tmp_path / f"{at}.{kind}", without_id[at * 15 : at * 15 + 15])
        for at, kind in enumerate(FORMATS)
    ]
    jobs = read(*paths)
    assert [each.id for each in jobs] == list(range(60))
    assert [each.payload for each in jobs] == [b'{"tool_name":"get_issue","tool_args":{"n":%d}}' % n for n in range(60)]


def test_a_folder_means_the_files_of_jobs_below_it_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    (folder / "b").mkdir(parents=True)
    for number, name in enumerate(["a.jsonl", "c.ndjson.gz", "d.PARQUET", "b/z.jsonl.zst"]):
        formatkit.write(folder / name.lower(), [job(number)]).rename(folder / name)
    (folder / "README.md").write_text("no job")
    (folder / "_SUCCESS").write_text("")
    (folder / "e.jsonl").symlink_to(folder / "a.jsonl")
    assert [each.id for each in read(folder)] == [0, 1, 2, 3]
    assert [each.id for each in read(folder / "c*", folder / "a.jsonl", folder)] == [1, 0, 2, 3]  # each once


def test_a_folder_in_the_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    formatkit.write(tmp_path / "a.jsonl", JOBS[:1])
    too_deep = folder_that_cannot_be_listed(tmp_path)
    with pytest.raises(FileError) as raised:
        Inputs([str(tmp_path)])
    assert str(raised.value) == f"{too_deep}: the jobs cannot be read: File name too long"


def test_a_folder_or_a_glob_does_not_mean_what_is_written_for_the_run(tmp_path: Path) -> None:
    first, second, out = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "out.jsonl"))
    for path in (first, second, out):
        formatkit.write(path, JOBS[:1])
    for named in (tmp_path, tmp_path / "*.jsonl"):
        inputs = Inputs([str(named)], leave_out=[str(out), str(tmp_path / "other")])
        assert ([each.path for each in inputs.files], inputs.left_out) == ([str(first), str(second)], [str(out)])
        inputs.close()
    inputs = Inputs([str(out)], leave_out=[str(out)])
    assert [each.path for each in inputs.files] == [str(out)], (
        "who names it means it, and is told that it is the output"
    )
    inputs.close()


def test_a_folder_does_not_mean_what_an_interrupted_run_to_parquet_left(tmp_path: Path) -> None:
    formatkit.write(tmp_path / "a.jsonl", JOBS[:1])
    product = formatkit.write(tmp_path / "out.parquet.part.parquet", JOBS[:1])
    inputs = Inputs([str(tmp_path)], leave_out=written_for(tmp_path / "out.parquet"))
    assert ([each.path for each in inputs.files], inputs.left_out) == ([str(tmp_path / "a.jsonl")], [str(product)])


@pytest.mark.parametrize(("named", "what"), [("inner", "this folder holds"), ("inn*/*.jsonl", "this pattern fits")])
def test_a_folder_or_a_glob_that_means_only_what_is_written_says_so(named: str, what: str, tmp_path: Path) -> None:
    out = tmp_path / "inner" / "out.jsonl"
    out.parent.mkdir()
    formatkit.write(out, JOBS[:1])
    with pytest.raises(FileError) as raised:
        Inputs([str(tmp_path / named)], leave_out=[str(out)])
    told = f"{tmp_path / named}: the jobs cannot be read: {what} only what is written here: {out}"
    assert str(raised.value) == told


def test_inputs_that_are_nothing_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    good = formatkit.write(tmp_path / "good.jsonl", JOBS[:3])
    for path, says in (
        (tmp_path / "missing", "missing: the jobs cannot be read: No such file or directory"),
        (tmp_path / "empty", "empty: the jobs cannot be read: no file in this folder ends in .jsonl, .jsonl.gz, "),
        (tmp_path / "*.csv", "*.csv: the jobs cannot be read: no file fits this pattern"),
    ):
        with pytest.raises(FileError) as caught:
            read(good, path)
        assert says in str(caught.value)
    (tmp_path / "image").write_bytes(b"PK\x03\x04")
    with pytest.raises(NotLines) as not_lines:
        read(good, tmp_path / "image")
    assert not_lines.value.path == str(tmp_path / "image")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the standard library reads zstd")
def test_a_missing_package_is_named_with_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = formatkit.write(tmp_path / "jobs.zst", JOBS[:1])
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(FileError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: the jobs cannot be read: ")
    assert str(caught.value).endswith("run: pip install 'guardpool[arrow]'")
    out = Output(str(tmp_path / "out.zst"), "the outcomes", packs=(".zst",))
    with pytest.raises(
        FileError, match=r"out.zst: zstd needs the package zstandard: run: pip install 'guardpool\[arrow\]'"
    ):
        check_output(out)
    out.close()


def test_what_fails_in_a_later_file_is_told_by_its_name_and_line(tmp_path: Path) -> None:
    first = formatkit.write(tmp_path / "a.jsonl", JOBS[:5])
    second = tmp_path / "b.jsonl.gz"
    second.write_bytes(gzip.compress(lines(JOBS[:2])) + gzip.compress(lines(JOBS))[:40])
    packed = tmp_path / "c.gz"
    packed.write_bytes(gzip.compress(gzip.compress(b"")))
    for path, place, says in ((second, 2, "ends too early"), (packed, 0, "it is compressed with gzip")):
        source, inputs = open_files(first, path)
        with pytest.raises(OSError, match=says) as caught:
            list(source.batches())
        assert caught.value.filename == str(path)
        assert source.place == (str(path), place)
        source.close()
        inputs.close()


def test_inputs_tell_size_and_digest_of_what_is_stored(tmp_path: Path) -> None:
    import hashlib

    paths = [formatkit.write(tmp_path / f"jobs.{kind}", JOBS) for kind in FORMATS]
    source, inputs = open_files(*paths)
    total = sum(path.stat().st_size for path in paths)
    assert source.total_bytes == total
    assert sum(len(portion) for portion in source.batches()) == source.jobs == source.rows == 4 * len(JOBS)
    assert source.bytes_read == total
    assert [(each.name, each.bytes, each.sha256) for each in source.inputs()] == [
        (str(path), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths
    ]
    source.close()
    inputs.close()


def test_a_file_costs_no_more_the_more_files_were_read_before_it(tmp_path: Path) -> None:
    paths = [formatkit.write(tmp_path / f"{at:03}.jsonl", JOBS[at : at + 1]) for at in range(200)]
    source, inputs = open_files(*paths)
    portions = source.batches()

    def read_half() -> None:
        assert len(list(islice(portions, 100))) == 100
        assert source.mark() is not None

    first, second = lines_run(read_half), lines_run(read_half)
    source.close()
    inputs.close()
    assert second < 1.1 * first


# --- going on


def read_with_marks(*paths: Path) -> tuple[list[list[Prepared]], list[Mark | None]]:
    """The portions of some files, and the mark behind each."""
    source, inputs = open_files(*paths)
    portions, marks = [], []
    for portion in source.batches():
        portions.append(portion)
        marks.append(source.mark())
    source.close()
    inputs.close()
    return portions, marks


def rest_behind(mark: Mark, seen: Mark, *paths: Path) -> list[Prepared]:
    source, inputs = open_files(*paths)
    try:
        source.go_to(mark, seen)
        assert source.jobs == mark.jobs
        return [each for portion in source.batches() for each in portion]
    finally:
        source.close()
        inputs.close()


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four files, of each format one, whose jobs have no ids."""
    folder = tmp_path_factory.mktemp("four")
    jobs = [{name: value for name, value in each.items() if name != "id"} for each in JOBS]
    return [formatkit.write(folder / f"{at}.{kind}", jobs) for at, kind in enumerate(FORMATS)]


def test_a_run_goes_on_behind_any_portion_of_any_file(four: list[Path]) -> None:
    portions, marks = read_with_marks(*four)
    whole = [each for portion in portions for each in portion]
    at_marks = [mark for mark in marks if mark is not None]
    assert {mark.place["file"] for mark in at_marks} == {0, 1, 2, 3}
    for at, mark in enumerate(at_marks):
        seen = at_marks[min(at + 4, len(at_marks) - 1)]
        assert rest_behind(mark, seen, *four) == whole[mark.jobs :]


@pytest.mark.parametrize("at", range(4))
def test_a_file_that_changed_is_noticed_where_it_was_read(four: list[Path], tmp_path: Path, at: int) -> None:
    _, marks = read_with_marks(*four)
    in_file = [next(mark for mark in reversed(marks) if mark and mark.place["file"] == number) for number in range(4)]
    changed = list(four)
    changed[at] = formatkit.write(tmp_path / four[at].name, [job(1), *JOBS[1:]])
    for mark, seen in ((in_file[at], in_file[at]), (in_file[3], in_file[3]), (in_file[0], in_file[3])):
        with pytest.raises(InputDiffers) as raised:
            rest_behind(mark, seen, *changed)
        behind = seen.place["file"] > at  # it was read to its end, and is known by one digest with those before it
        assert raised.value.name == (str(changed[at]) if mark.place["file"] <= at and not behind else raised.value.name)
    with pytest.raises(InputDiffers, match="it has fewer files"):
        rest_behind(in_file[3], in_file[3], *four[:3])
