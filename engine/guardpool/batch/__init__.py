"""Files of jobs and files of outcomes: one JSON object a line, in bounded memory, whatever the lines hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardpool.batch.each_guard import EachGuard
from guardpool.batch.jobline import JobParser
from guardpool.batch.manifest import ManifestHash, manifest_hash
from guardpool.batch.reader import JobReader
from guardpool.batch.writer import OutcomeWriter, encode_outcome, encode_outcomes
from guardpool.lines import LineSplitter

if TYPE_CHECKING:
    from guardpool.batch.kept_labels import KeptLabelsError as KeptLabelsError
    from guardpool.batch.labelling import (
        CannotResume as CannotResume,
        LabelRun as LabelRun,
        companions_of as companions_of,
        label_file as label_file,
        read_jobs as read_jobs,
    )

__all__ = [
    "CannotResume",
    "EachGuard",
    "JobParser",
    "JobReader",
    "KeptLabelsError",
    "LabelRun",
    "LineSplitter",
    "ManifestHash",
    "OutcomeWriter",
    "companions_of",
    "encode_outcome",
    "encode_outcomes",
    "label_file",
    "manifest_hash",
    "read_jobs",
]


def __getattr__(name: str) -> Any:
    # When it is first used: it brings the pool, or SQLite, which the processes that read and write Parquet do without.
    if name == "KeptLabelsError":
        from guardpool.batch import kept_labels

        return kept_labels.KeptLabelsError
    if name in ("CannotResume", "LabelRun", "companions_of", "label_file", "read_jobs"):
        from guardpool.batch import labelling

        return getattr(labelling, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
