"""The parser of a command line, and how a command is added to it."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

EXIT_FAILED = 1

T = TypeVar("T")
Handler: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class CannotParse(Exception):
    """The command line is wrong; the message says how, and where to look."""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Breaks lines between words only: the name of an option stays whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)


class Parser(argparse.ArgumentParser):
    """A parser that raises `CannotParse` where argparse would print to stderr and end the process."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, add_help=False, **options)
        self.add_argument("-h", "--help", action="help", help="show this and exit")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse drops what it cannot write, without a word.
        if message:
            (file or sys.stderr).write(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse has it, but nothing is left over: the parser of all commands would tell of that, with its own help."""
        known, rest = super().parse_known_args(args, namespace)
        inputs = next((each.dest for each in self._get_positional_actions() if each.nargs == "+"), None)
        if inputs is not None and all(word == "-" or not word.startswith("-") for word in rest):
            getattr(known, inputs).extend(rest)  # argparse takes those before the first option only
            rest = []
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return known, rest

    def error(self, message: str) -> NoReturn:
        raise CannotParse(f"{message}: see {self.prog} --help")


def add_command(
    commands: Commands,
    name: str,
    handler: Handler | None,
    summary: str,
    description: str,
    *,
    failed: int = EXIT_FAILED,
    **more: Any,
) -> Parser:
    """Add a command.

    Args:
        handler: what runs it, and returns its exit status; None if its parser is not this one's.
        summary: its line in the list of commands.
        failed: the exit status if it cannot go on; of commands whose status 1 is that they found something it is another one.
        more: for its parser, such as `epilog`.
    """
    parser = commands.add_parser(name, help=summary, description=description, **more)
    if handler is not None:
        parser.set_defaults(handler=handler, failed=failed)
    return parser


def count(text: str) -> int:
    """The type of an option whose value is a number of things, one at least."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def as_typed(kind: type[T], options: argparse.Namespace, **more: object) -> T:
    """The options of a command: each field of its dataclass has what was typed for the option of that name.

    Args:
        kind: the dataclass. What may be given several times is a tuple in it.
        options: what was typed.
        more: the fields that are not what was typed for one option.
    """
    from dataclasses import fields  # the command's module has imported it by now; `--help` does without

    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        value = more[field.name] if field.name in more else getattr(options, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
