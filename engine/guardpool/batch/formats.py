"""Which source reads an input and which sink writes an output, told by how the input begins and how the output is called."""

from __future__ import annotations

from functools import partial

from guardpool.batch.files import Input, Output
from guardpool.batch.jobline import JobParser
from guardpool.batch.reader import JobReader
from guardpool.batch.seam import FileSink, FileSource
from guardpool.batch.writer import OutcomeWriter, encode_for_terminal, encode_outcomes


def source_of(jobs: Input, parser: JobParser) -> FileSource:
    """What reads the jobs.

    Args:
        jobs: open for reading.
        parser: makes jobs of lines, and counts those that are none.
    """
    return JobReader(jobs.fd, parser, jobs.path)


def sink_of(out: Output, *, timing: bool) -> FileSink:
    """What writes the outcomes.

    Args:
        out: open, and begun.
        timing: with `duration_us`, which differs from run to run.
    """
    encode = encode_for_terminal if out.is_terminal else encode_outcomes
    return OutcomeWriter(out.fd, partial(encode, timing=timing))
