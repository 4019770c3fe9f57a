"""The options of the command line that set limits of a pool: one for each field of `guardpool.Limits` that is a limit."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from guardpool.limits import Limits


class LimitOption(NamedTuple):
    """One option.

    Args:
        field: of `Limits`.
        option: its name on the command line.
        metavar: `SECONDS`, `SIZE` or `N`; tells how its value is read.
        default: that of `Limits`, as a user would type it, or in words; `tests/cli/test_limit_options.py` compares them.
        help: what is limited, and what happens past it.
    """

    field: str
    option: str
    metavar: str
    default: str
    help: str


LIMIT_OPTIONS = (
    LimitOption("timeout_s", "--timeout", "SECONDS", "5", "a job's wall clock; past it: timeout"),
    LimitOption("memory_pages", "--memory-pages", "N", "512", "a guard's linear memory, in pages of 64 KiB"),
    LimitOption("max_rss_bytes", "--max-rss", "SIZE", "256M", "a worker's memory, e.g. 300M, 1G; past it: memory"),
    LimitOption(
        *("max_data_bytes", "--max-data", "SIZE", "64M and guards' memory above --max-rss"),
        "a worker's private memory (RLIMIT_DATA); past it an allocation fails at once",
    ),
    LimitOption("max_input_bytes", "--max-input", "SIZE", "8M", "a job's input as JSON; past it: rejected"),
    LimitOption("max_output_bytes", "--max-output", "SIZE", "16M", "a guard's answer; past it: invalid"),
    LimitOption(
        *("max_backend_calls", "--max-backend-calls", "N", "50"),
        "how often a guard may call its backend for one job; past it the guard gets -1",
    ),
    LimitOption(
        *("backend_timeout_s", "--backend-timeout", "SECONDS", "10"),
        "how long one answer of a guard's backend may take; past it the guard gets -1",
    ),
    LimitOption(
        *("max_reply_bytes", "--max-replies", "SIZE", "64M"),
        "what kept answers of backends may take; past it the oldest go",
    ),
    LimitOption(
        "max_log_bytes", "--max-log", "SIZE", "64K", "a guard's log lines for one job; past it lines are dropped"
    ),
    LimitOption(
        *("max_jobs_per_worker", "--max-jobs-per-worker", "N", "never"),
        "replace a worker after so many jobs, give or take 10%%, and those sent to it by then",
    ),
    LimitOption(
        *("max_attempts", "--max-attempts", "N", "2"),
        "how many workers may die under one job before it is crashed",
    ),
)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command; what was not given is None in its namespace."""
    group = parser.add_argument_group("limits")
    types: dict[str, Callable[[str], object]] = {"SECONDS": _seconds, "N": whole_number, "SIZE": str}
    for each in LIMIT_OPTIONS:
        text = f"{each.help} (default: {each.default})"
        group.add_argument(each.option, metavar=each.metavar, type=types[each.metavar], dest=each.field, help=text)


def limits_of(options: argparse.Namespace, *, keep_logs: bool = False) -> Limits:
    """The limits that a command line asks for.

    Raises:
        UsageError: one is out of range or contradicts another; the message names the options.
    """
    from guardpool.cli.render import UsageError, parse_size
    from guardpool.errors import LimitsError
    from guardpool.limits import Limits

    given = {}
    for each in LIMIT_OPTIONS:
        value = getattr(options, each.field)
        if value is not None:
            given[each.field] = parse_size(value, each.option) if each.metavar == "SIZE" else value
    try:
        return Limits(**given, keep_logs=keep_logs)
    except LimitsError as error:
        names = {each.field: each.option for each in LIMIT_OPTIONS}
        raise UsageError(re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(error))) from error


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}") from None


def whole_number(text: str) -> int:
    """The type of an option that is a whole number. One below zero is for the option to refuse: it knows from where on."""
    if re.fullmatch(r"-?[0-9]{1,4000}", text) is None:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text[:80]!r}")
    return int(text)
