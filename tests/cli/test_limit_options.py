"""Every limit of `guardpool.Limits` has an option, with the same default, and what is given reaches the pool."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from guardpool.cli.app import make_parser
from guardpool.cli.limit_options import LIMIT_OPTIONS, add_limits, limits_of
from guardpool.cli.render import UsageError, parse_size
from guardpool.limits import Limits

# For each option a value that is not the default, and what it means.
GIVEN: dict[str, tuple[str, Any]] = {
    "--timeout": ("0.25", 0.25),
    "--memory-pages": ("100", 100),
    "--max-rss": ("300M", 300 << 20),
    "--max-data": ("1G", 1 << 30),
    "--max-input": ("64K", 64 << 10),
    "--max-output": ("1000", 1000),
    "--max-backend-calls": ("0", 0),
    "--backend-timeout": ("3", 3.0),
    "--max-replies": ("0", 0),
    "--max-log": ("0", 0),
    "--max-jobs-per-worker": ("7", 7),
    "--max-attempts": ("1", 1),
}


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_limits(parser)
    return parser.parse_args(arguments)


def test_every_limit_has_an_option() -> None:
    fields = set(Limits.__dataclass_fields__) - {"keep_logs"}  # not a limit: outcome files hold no log lines
    assert {each.field for each in LIMIT_OPTIONS} == fields
    assert [each.option for each in LIMIT_OPTIONS] == list(GIVEN)


def test_without_options_the_limits_are_the_defaults() -> None:
    assert limits_of(parsed()) == Limits()


@pytest.mark.parametrize("each", LIMIT_OPTIONS, ids=lambda each: each.option)
def test_the_help_tells_the_default(each: Any) -> None:
    default = getattr(Limits(), each.field)
    if default is None:
        meaning = {"never": None, "64M and guards' memory above --max-rss": None}[each.default]
    else:
        meaning = parse_size(each.default, each.option) if each.metavar == "SIZE" else float(each.default)
    assert meaning == default
    assert Limits().data_bytes([]) == Limits().max_rss_bytes + (64 << 20)


@pytest.mark.parametrize("each", LIMIT_OPTIONS, ids=lambda each: each.option)
def test_what_is_given_becomes_the_limit(each: Any) -> None:
    text, value = GIVEN[each.option]
    limits = limits_of(parsed(each.option, text))
    assert getattr(limits, each.field) == value != getattr(Limits(), each.field)


@pytest.mark.parametrize(
    "command",
    [
        ["label", "jobs", "-o", "out", "-g", "g=g.wasm"],
        ["call", "g.wasm", "-p", "p.json", "get_me"],
        ["import", "log", "-o", "out"],
        ["demo"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_that_starts_a_pool_takes_them(command: list[str]) -> None:
    options = [word for option, (text, _value) in GIVEN.items() for word in (option, text)]
    limits = limits_of(make_parser().parse_args([*command, *options]))
    assert {each.option: getattr(limits, each.field) for each in LIMIT_OPTIONS} == {
        option: value for option, (_text, value) in GIVEN.items()
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--memory-pages", "-1"], "--memory-pages must be from 1 to 65536, not -1"),
        (["--max-backend-calls", "-1"], "--max-backend-calls must be from 0 to 1000000, not -1"),
        (["--memory-pages", "1e3"], "argument --memory-pages: must be a whole number, not '1e3'"),
        (["--max-attempts", "9" * 5000], "argument --max-attempts: must be a whole number, not '9999"),
    ],
)
def test_a_number_that_cannot_be_is_refused_with_what_can(given: list[str], says: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_limits(parser)
    with pytest.raises((UsageError, argparse.ArgumentError)) as raised:
        limits_of(parser.parse_args(given))
    assert str(raised.value).startswith(says)
