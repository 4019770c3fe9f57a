"""Outcomes written as gzip, zstd and Parquet: what is in the file, after a failure and when a run goes on, too."""

from __future__ import annotations

import gzip
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

import formatkit
from guardpool.batch import encode_outcomes
from guardpool.batch.packed_writer import PackedWriter, gzip_member, zstd_packer
from guardpool.batch.parquet_writer import PRODUCT, ParquetWriter
from guardpool.batch.seam import OutputDiffers
from guardpool.outcomes import Outcome, OutcomeError, Status

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow has no wheel for this Python")


def outcome(number: Any) -> Outcome:
    label = b'{"description":"%d","secrecy":["b","a"],"integrity":[],"operation":"read"}' % hash(number)
    return Outcome(number, "g", "label_resource", "t", Status.OK, label, duration_us=5, attempts=1)  # type: ignore[arg-type]


OUTCOMES = [outcome(number) for number in range(3000)]


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()


Unpack = Callable[[bytes], bytes]
BOTH = pytest.mark.parametrize(
    ("pack", "unpack"), [(gzip_member, gzip.decompress), (zstd_packer(), unzstd)], ids=["gzip", "zstd"]
)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "out.part"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield path, fd
    os.close(fd)


# --- gzip and zstd


@BOTH
def test_what_is_packed_is_the_lines(out: tuple[Path, int], pack: Unpack, unpack: Unpack) -> None:
    path, fd = out
    writer = PackedWriter(fd, pack)
    for start in range(0, 3000, 500):
        writer.add(OUTCOMES[start : start + 500])
    writer.end()
    writer.close()
    assert unpack(path.read_bytes()) == encode_outcomes(OUTCOMES)
    assert writer.written == 3000
    again = PackedWriter(fd, pack)
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    first = path.read_bytes()
    again.end()
    again.close()
    assert (first, unpack(path.read_bytes())) == (b"", b"")  # an empty file is not gzip
    assert path.stat().st_size > 0


@BOTH
def test_packed_output_goes_on_at_a_durable_place(out: tuple[Path, int], pack: Unpack, unpack: Unpack) -> None:
    path, fd = out
    writer = PackedWriter(fd, pack)
    writer.add(OUTCOMES[:1000])
    place = writer.make_durable()
    writer.add(OUTCOMES[1000:2000])
    writer.flush()
    writer.close()
    whole = path.read_bytes()
    for cut in (0, 1, 100, len(whole) - place["bytes"] - 1):  # killed at any byte behind the place
        path.write_bytes(whole[: place["bytes"] + cut])
        later = PackedWriter(fd, pack)
        later.go_on_from(place)
        later.add(OUTCOMES[1000:])
        later.end()
        later.close()
        assert unpack(path.read_bytes()) == encode_outcomes(OUTCOMES)
        assert later.written == 3000
    path.write_bytes(whole[: place["bytes"] - 1])
    with pytest.raises(OutputDiffers):
        later.go_on_from(place)


@BOTH
def test_a_full_disk_leaves_whole_members(out: tuple[Path, int], pack: Unpack, unpack: Unpack) -> None:
    path, fd = out
    writer = PackedWriter(fd, pack)
    writer.add(OUTCOMES[:10])
    writer.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, before[1]))
    try:
        writer.add(OUTCOMES[10:])
        with pytest.raises(OSError, match="File too large"):
            writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    writer.close()
    assert unpack(path.read_bytes()) == encode_outcomes(OUTCOMES[:10])
    assert writer.written == 10


# --- Parquet


def written(path: Path, fd: int, *portions: list[Outcome]) -> Any:
    """The table that comes of outcomes; the product is renamed as a run does it."""
    writer = ParquetWriter(fd, str(path))
    try:
        for portion in portions:
            writer.add(portion)
            writer.flush()
        writer.end()
        os.replace(writer.product, path.with_name("done"))
    finally:
        writer.close()
    return formatkit.read_table(path.with_name("done"))


def test_parquet_has_a_row_for_each_line(out: tuple[Path, int]) -> None:
    path, fd = out
    os.fchmod(fd, 0o640)
    table = written(path, fd, OUTCOMES[:1000], OUTCOMES[1000:])
    assert table["id"].to_pylist() == list(range(3000))
    assert table["secrecy"].to_pylist() == [["b", "a"]] * 3000
    assert table["duration_us"].to_pylist() == [5] * 3000
    assert path.read_bytes() == encode_outcomes(OUTCOMES)
    assert path.with_name("done").stat().st_mode & 0o777 == 0o640
    assert pq.read_metadata(path.with_name("done")).num_row_groups == 1


def test_ids_of_another_kind_later_on_make_all_of_them_text(out: tuple[Path, int]) -> None:
    """Lines that are not jobs have their number for an id, in a file whose ids are words."""
    words = [outcome(f"w{number}") for number in range(3000)]
    rejected = Outcome(6000, None, "", None, Status.REJECTED, error=OutcomeError("not_json", "no", line=6000))
    long = Outcome(
        0, "g", "", "x" * 9_000_000, Status.REJECTED, error=OutcomeError("no", "no")
    )  # more than is read at once
    table = written(*out, OUTCOMES, [long], words, [rejected])
    assert table["id"].to_pylist() == [*map(str, range(3000)), "0", *(f"w{number}" for number in range(3000)), "6000"]
    assert len(table["tool_name"][3000].as_py()) == 9_000_000


def test_an_output_without_outcomes_is_a_table_without_rows(out: tuple[Path, int]) -> None:
    table = written(*out)
    assert (table.num_rows, table.column_names[:5]) == (0, ["id", "guard", "op", "tool_name", "status"])


def test_without_the_process_that_makes_parquet_the_lines_stay(out: tuple[Path, int]) -> None:
    path, fd = out
    writer = ParquetWriter(fd, str(path))
    writer.add(OUTCOMES)
    writer.flush()
    assert writer._process is not None
    os.kill(writer._process.pid, signal.SIGKILL)
    with pytest.raises(OSError, match="the process that makes Parquet of them ended by signal SIGKILL"):
        writer.end()
    writer.close()
    assert path.read_bytes() == encode_outcomes(OUTCOMES)
    assert os.listdir(path.parent) == [path.name]
    assert not os.path.exists(f"{path}{PRODUCT}")
