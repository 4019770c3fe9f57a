"""Files of jobs and files of outcomes: one JSON object a line, in bounded memory, whatever the lines hold."""

from __future__ import annotations

from guardpool.batch.each_guard import EachGuard
from guardpool.batch.jobline import JobParser
from guardpool.batch.kept_labels import KeptLabelsError
from guardpool.batch.labelling import CannotResume, LabelRun, companions_of, label_file, read_jobs
from guardpool.batch.manifest import ManifestHash, manifest_hash
from guardpool.batch.reader import JobReader
from guardpool.batch.writer import OutcomeWriter, encode_outcome, encode_outcomes
from guardpool.lines import LineSplitter

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
