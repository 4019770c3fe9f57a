"""What kind of file has lines that are not jobs, and what to do: the one line that `guardpool label` says about it."""

from __future__ import annotations

import os
import re
import shlex

from guardpool.batch.binary import Kind
from guardpool.lines import BOM
from guardpool.outcomes import Outcome

# How a job is written, as an array or over many lines too; in a recording's text the quotes would be escaped.
_JOB = re.compile(rb'"op"\s*:\s*"label_res')
_PRINTED = re.compile(rb'\s*\{\s*\n\s*["}]')


def of_kind(kind: Kind, path: str | None) -> str:
    """What kind of file it is, if its first bytes say that no line can be a job.

    Args:
        kind: as they say.
        path: of the file; None: standard input.
    """
    return f"it is {kind.what}: {kind.advice.format(_word(path))}"


def explain(head: bytes, path: str | None, example: Outcome | None) -> str:
    """What a file is.

    Args:
        head: how it begins.
        path: of the file; None: standard input.
        example: the first rejected line.
    """
    file = _word(path)
    head = head.removeprefix(BOM)
    if not _JOB.search(head):
        from guardpool.recordings.sniff import what_is  # here: it loads every format, and is asked about mistakes only

        recording = what_is(head)
        file = "-" if path is None else file
        if recording == "calls":
            what = "it holds calls of recordings, whose jobs import writes"
            return f"{what}: guardpool import {file} -o {os.devnull} --jobs jobs.jsonl"
        if recording is not None:
            return f"it is a recording ({recording}): guardpool import {file} -o calls.jsonl --jobs jobs.jsonl"
    if _is_array(head):
        return f"it is a JSON array, and a job is a line: jq -c '.[]' {_word(path)} | guardpool label - ..."
    if _PRINTED.match(head):
        return (
            f"it is JSON printed over many lines, and a job is one line: jq -c . {_word(path)} | guardpool label - ..."
        )
    about = ""
    if example is not None and example.error is not None and example.error.line is not None:
        about = f"line {example.error.line + 1:,}: {example.error.message}; "
    return f'{about}a job is {{"op": "label_resource", "tool_name": ..., "tool_args": ...}}; see guardpool label --help'


def _word(path: str | None) -> str:
    return "FILE" if path is None else shlex.quote(path)


def _is_array(head: bytes) -> bool:
    """Whether it is one array, not a line that holds one and further lines."""
    from guardpool.recordings.json_text import is_json

    first, _, rest = head.lstrip().partition(b"\n")
    return first[:1] == b"[" and not (rest.strip() and is_json(first))
