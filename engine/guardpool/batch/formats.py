"""Which sink writes an output, told by how its name ends. What reads an input is told in `guardpool.batch.job_files`."""

from __future__ import annotations

from functools import partial

from guardpool.batch.files import FileError, Output
from guardpool.batch.packed_writer import PackedWriter, gzip_member, zstd_packer
from guardpool.batch.parquet_reader import check_pyarrow
from guardpool.batch.parquet_writer import ParquetWriter
from guardpool.batch.seam import FileSink
from guardpool.batch.writer import OutcomeWriter, encode_for_terminal, encode_outcomes

GZIP, ZSTD, PARQUET = PACKS = (".gz", ".zst", ".parquet")


def sink_of(out: Output, *, timing: bool) -> FileSink:
    """What writes the outcomes, as the output's name ends: `.gz`, `.zst`, `.parquet`, or lines.

    Args:
        out: open, and begun.
        timing: with `duration_us`, which differs from run to run.
    """
    encode = partial(encode_for_terminal if out.is_terminal else encode_outcomes, timing=timing)
    ending = _ending(out)
    if ending == GZIP:
        return PackedWriter(out.fd, gzip_member, encode)
    if ending == ZSTD:
        return PackedWriter(out.fd, zstd_packer(), encode)
    if ending == PARQUET:
        assert out.part is not None
        return ParquetWriter(out.fd, out.part, encode)
    return OutcomeWriter(out.fd, encode)


def check_output(out: Output) -> None:
    """Make sure that the format of an output can be written here, and there.

    Raises:
        FileError: a package is missing, or it is Parquet and not a regular file; the message says what to do.
    """
    ending = _ending(out)
    if ending == ZSTD:
        try:
            zstd_packer()
        except ImportError:
            raise FileError(
                f"{out.path}: zstd needs the package zstandard: run: pip install 'guardpool[arrow]'"
            ) from None
    elif ending == PARQUET:
        check_pyarrow(out.path)
        if out.part is None:
            raise FileError(f"{out.path}: Parquet is written from its end: name a file, and not a pipe or a device")


def is_parquet(out: Output) -> bool:
    """Whether an output is to be Parquet."""
    return _ending(out) == PARQUET


def _ending(out: Output) -> str:
    name = out.path.lower()
    return next((ending for ending in (GZIP, ZSTD, PARQUET) if name.endswith(ending)), "")
