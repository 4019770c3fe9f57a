"""`--backend NAME=WHO`: who answers a guard's questions, and what came of them at the end of a run."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence

import msgspec

from guardpool.backends import Recorder, Replies
from guardpool.cli.files import Output, pairs
from guardpool.cli.render import UsageError, complain
from guardpool.guard import Backend
from guardpool.outcomes import Outcome
from guardpool.printable import printable
from guardpool.stats import ToolStats

_NOBODY = "none"
_FUNCTION = "python:"
_SERVER = "mcp:"
_QUESTION_CHARS = 120


class Backends:
    """The backends of a run's guards.

    Args:
        options: `NAME=WHO` each: a file of replies, `python:MODULE:FUNCTION`, or `none`.
        record: where the answers are kept; None: they are not.

    Attributes:
        by_name: the backend of each guard that is named, or None.

    Raises:
        UsageError: an option does not have that form.
        RepliesError: a table cannot be used; the message names it.
    """

    def __init__(self, options: Sequence[str], record: Output | None) -> None:
        self.by_name: dict[str, Backend | None] = {
            name: backend_of(name, who) for name, who in pairs("--backend", "WHO", options).items()
        }
        if record is not None:
            asked = [(name, backend) for name, backend in self.by_name.items() if backend is not None]
            if len(asked) != 1:
                raise UsageError(
                    "--record-backend keeps the answers of one backend: give exactly one --backend that is not none"
                )
            ((name, backend),) = asked
            self.by_name[name] = Recorder(backend, record.fd)

    def tell(
        self, asked: Mapping[str, Mapping[str, ToolStats]], unanswered: Mapping[str | None, Outcome], on_failure: str
    ) -> None:
        """One line for each guard that asked its backend, or would have if it had one.

        Args:
            asked: what the guards asked (`PoolStats.backend`).
            unanswered: the first outcome of each guard some of whose questions had no answer.
            on_failure: what became of those outcomes.
        """
        for name, tools in asked.items():
            total, failed = (sum(counts) for counts in zip(*((tool.asked, tool.failed) for tool in tools.values())))
            has_one = self.by_name.get(name) is not None
            if total:
                what = _in_words(total, failed, has_one, on_failure, unanswered.get(name))
                complain(f"guard {name} asked its backend {what}")


def _in_words(total: int, failed: int, has_one: bool, on_failure: str, example: Outcome | None) -> str:
    times = "once" if total == 1 else f"{total:,} times"
    if not failed:
        return f"{times}, and was answered {'' if total == 1 else 'each time'}".rstrip()
    meant = "those jobs have no label" if on_failure == "withhold" else "it labelled without knowing"
    first = ""
    if example is not None and example.backend.missing:
        question = example.backend.missing[0]
        asked = f"{question.tool} {msgspec.json.encode(question.args).decode()}"
        first = f"; the first: {printable(asked, _QUESTION_CHARS)}"
    if has_one:
        return f"{times}, {failed:,} without an answer: {meant}{first}"
    return f"{times}, and has none: {meant}; add --backend (see guardpool label --help){first}"


def backend_of(name: str, who: str) -> Backend | None:
    """The backend that an option names.

    Raises:
        UsageError: it names none.
        RepliesError: the file cannot be used.
    """
    if who == _NOBODY:
        return None
    if who.startswith(_FUNCTION):
        return _function(name, who)
    if who.startswith(_SERVER):
        raise UsageError(
            f"--backend {name}={who}: this version asks no MCP server; record its answers, or use python:MODULE:FUNCTION"
        )
    replies = Replies.load(who)
    if replies.conflicts:
        more = len(replies.conflicts) - 1
        lines = f"line {replies.conflicts[0]:,} " + (f"and {more:,} more answer" if more else "answers")
        complain(f"{who}: {lines} a question otherwise than an earlier line, which counts")
    return replies


def _function(name: str, who: str) -> Backend:
    module, colon, function = who.removeprefix(_FUNCTION).partition(":")
    if not (module and colon and function):
        raise UsageError(f"--backend {name}={who}: write it as --backend {name}=python:MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        backend = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise UsageError(f"--backend {name}={who}: {type(error).__name__}: {error}") from error
    if not callable(backend):
        raise UsageError(f"--backend {name}={who}: {function} is not a function")
    result: Backend = backend
    return result
