"""Files of jobs cut into pieces, and the jobs read from them."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
import zstandard

import formatkit
from guardpool.batch import JobParser, pieces
from guardpool.batch.binary import NotLines
from guardpool.batch.files import FileError
from guardpool.batch.inputs import Inputs
from guardpool.jobs import Prepared
from guardpool.sizes import MIB

pytest.importorskip("pyarrow", reason="pyarrow has no wheel for this Python")
pytest.importorskip("fsspec", reason="the extra ray is not installed")


def ids(paths: list[str], piece_bytes: int, limit: int = 10_000) -> list[Any]:
    """The ids of all jobs, piece by piece."""
    return [job.id for job in read(paths, piece_bytes, limit)]


def read(paths: list[str], piece_bytes: int | None = None, limit: int = 10_000) -> list[Prepared]:
    """All jobs, piece by piece."""
    parser = JobParser(["g"], limit)
    cut = pieces.pieces_of(paths, 1, piece_bytes)
    return [job for piece in cut for portion in pieces.portions_of(piece, parser) for job in portion]


def test_every_line_is_in_one_piece_wherever_it_is_cut(tmp_path: Path) -> None:
    jobs = [formatkit.job(number, "t" * (number % 7)) for number in range(12)]
    data = b"\xef\xbb\xbf" + formatkit.lines(jobs) + b"\n" + formatkit.lines([formatkit.job(12)]).rstrip(b"\n")
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(data)
    for piece_bytes in [*range(1, 90), len(data) - 1, len(data), len(data) + 1]:
        assert ids([str(path)], piece_bytes) == list(range(13)), piece_bytes


def test_there_are_as_many_pieces_as_machines_need_and_none_is_large(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    with path.open("wb") as file:
        file.truncate(40 * MIB)
    cuts = {least: [each.end - each.start for each in pieces.pieces_of([str(path)], least)] for least in (1, 8, 1000)}
    assert cuts == {1: [16 * MIB, 16 * MIB, 8 * MIB], 8: [5 * MIB] * 8, 1000: [MIB] * 40}


def test_folders_globs_and_every_format_are_read_and_numbered_through(tmp_path: Path) -> None:
    rows = [formatkit.job(number) for number in range(250)]
    for at, name in enumerate(("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet")):
        formatkit.write(tmp_path / name, [{**each, "id": at * 1000 + each["id"]} for each in rows])
    (tmp_path / "README").write_text("no jobs")
    expected = [at * 1000 + number for at in range(4) for number in range(250)]
    assert ids([str(tmp_path)], 1000) == expected
    assert ids([f"file://{tmp_path}/*.jsonl", f"{tmp_path}/d.parquet"], 1000) == expected[:250] + expected[750:]
    line = b'{"op": "label_resource", "tool_name": "t"}\n'
    for name in ("e.jsonl", "f.jsonl"):
        (tmp_path / name).write_bytes(line * 3)
    assert ids([f"{tmp_path}/e.jsonl", f"{tmp_path}/f.jsonl"], 50) == [at * len(line) for at in range(6)]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_jobs_without_an_id_have_one_each_behind_packed_files_too(ending: str, tmp_path: Path) -> None:
    for name in (f"a.jsonl.{ending}", f"b.jsonl.{ending}", "c.jsonl", "d.parquet"):
        formatkit.write(tmp_path / name, [{"op": "label_resource", "tool_name": "t", "tool_args": "{}"}] * 1000)
    # Many bytes in few: one line that is too long, and a job behind it.
    pack = zstandard.compress if ending == "zst" else gzip.compress
    (tmp_path / f"b0.jsonl.{ending}").write_bytes(pack(b" " * 8 * MIB + b'\n{"op": "label_resource"}\n'))
    found = ids([str(tmp_path)], 1000)
    assert len(found) == len(set(found)) == 4002
    assert found == sorted(found)


def test_paths_mean_what_they_mean_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for at, name in enumerate(("in/b.jsonl", "in/a.JSONL", "in/deep/c.parquet", "in::odd.jsonl")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        formatkit.write(Path(name), [formatkit.job(at)])
    Path("in/link.jsonl").symlink_to("b.jsonl")
    Path("named.jsonl").symlink_to("in/b.jsonl")
    for paths in (
        ["in"],
        ["in/b.jsonl", "in", "named.jsonl"],
        ["named.jsonl", "in/*.jsonl"],
        ["in::odd.jsonl", "*.jsonl"],
    ):
        inputs = Inputs(paths)
        assert [each.url for each in pieces.pieces_of(paths, 1)] == [
            os.path.abspath(each.path) for each in inputs.files
        ]
    assert len(pieces.pieces_of(["in/b.jsonl", f"file://{tmp_path}/in/b.jsonl"], 1)) == 1


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("-", "standard input: other machines cannot read it"),
        ("nothing.jsonl", "nothing.jsonl: the jobs cannot be read: No such file or directory"),
        ("nothing*", "nothing*: the jobs cannot be read: no file fits this pattern"),
        ("empty", "empty: the jobs cannot be read: no file in this folder ends in .jsonl, "),
        ("fifo", "fifo: the jobs cannot be read: it is not a regular file, and other machines have to read it"),
        ("cut.parquet", "/cut.parquet: the jobs cannot be read: "),
        ("other.parquet", "/other.parquet: the jobs cannot be read: it lacks the columns op and tool_name"),
        ("zap://x/y", "zap://x/y: "),
        ("memory://x/y.jsonl", "memory://x/y.jsonl: the jobs cannot be read: there is no such file"),
        ("memory://x/*.jsonl", "memory://x/*.jsonl: the jobs cannot be read: no file fits this pattern"),
    ],
)
def test_a_path_that_means_no_file_of_jobs_is_told(
    path: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    os.mkfifo("fifo")
    Path("cut.parquet").write_bytes(b"PAR1\x15nothing")
    pq.write_table(pa.table({"a": [1]}), "other.parquet")
    with pytest.raises(FileError) as raised:
        fifo = os.open("fifo", os.O_RDWR)
        try:
            read([path])
        finally:
            os.close(fifo)
    assert told in str(raised.value)
    assert str(raised.value).startswith(told.partition(":")[0] if told[0] != "/" else str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_file_that_holds_no_lines_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b"BZh91AY&SY....")
    with pytest.raises(NotLines, match=r"jobs\.jsonl: no line can be a job: it is compressed with bzip2"):
        read([str(path)])


@pytest.mark.parametrize(
    ("name", "place"),
    [("jobs.jsonl", "byte 194"), ("jobs.jsonl.gz", "line 3"), ("jobs.jsonl.zst", "line 3"), ("jobs.parquet", "row 2")],
)
def test_a_job_that_is_refused_has_its_file_and_place_told(name: str, place: str, tmp_path: Path) -> None:
    path = formatkit.write(tmp_path / name, [formatkit.job(at, guard="zap" if at == 2 else "g") for at in range(4)], 1)
    formatkit.write(tmp_path / "a.jsonl", [formatkit.job(10)])
    jobs = read([str(tmp_path / "a.jsonl"), str(path)], 60)
    told = [each.error.message for each in jobs if each.error is not None]
    assert told == [f"no guard is called 'zap'; the pool holds: g ({path}, {place})"]
    assert [each.id for each in jobs] == [10, 0, 1, 2, 3]


def broken(path: Path) -> Path:
    """The file without its last third, or if it is Parquet, with other bytes in its middle."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".parquet":
        data[300:2300] = bytes(2000)
    else:
        del data[len(data) * 2 // 3 :]
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("jobs.jsonl.gz", r"after line [\d,]+: the gzip stream ends too early"),
        ("jobs.jsonl.zst", r"after line [\d,]+: the zstd stream ends too early"),
        ("jobs.parquet", r"after row 0: .+"),
    ],
)
def test_a_damaged_piece_is_told_with_its_file_and_place(name: str, place: str, tmp_path: Path) -> None:
    rows = [formatkit.job(at, tool_args={"a": hashlib.sha256(bytes([at % 256])).hexdigest() * 9}) for at in range(2000)]
    path = broken(formatkit.write(tmp_path / name, rows, 2000))
    with pytest.raises(FileError, match=rf"^{re.escape(str(path))}: the jobs cannot be read {place}$"):
        read([str(path)])


def test_a_file_that_goes_away_under_a_reader_is_told(tmp_path: Path) -> None:
    path = formatkit.write(tmp_path / "jobs.jsonl", [formatkit.job(1)])
    [piece] = pieces.pieces_of([str(path)], 1)
    path.unlink()
    with pytest.raises(
        FileError, match=rf"^{re.escape(str(path))}: the jobs cannot be read: No such file or directory$"
    ):
        list(pieces.portions_of(piece, formatkit.parser()))
