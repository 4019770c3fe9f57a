"""What the command line of `guardpool cache` may say."""

from __future__ import annotations

import argparse

from guardpool.cli.arguments.common import add_engine, add_json, add_memory_pages
from guardpool.cli.arguments.parser import Commands, Handler, Parser, add_command

_DESCRIPTION = """\
The cache of compiled guards: $GUARDPOOL_CACHE_DIR, else
$XDG_CACHE_HOME/guardpool, else ~/.cache/guardpool."""


def add_to(commands: Commands) -> None:
    """Add the command and those below it."""
    summary = "look at the cache of compiled guards, fill it, empty it"
    below = add_command(commands, "cache", None, summary, _DESCRIPTION).add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _add(below, "path", _path, "print the folder")
    add_json(_add(below, "list", _list, "list what is in it, last used first"))
    _add_warm(below)
    _add_verify(below)
    _add_prune(below)
    _add(below, "clear", _clear, "remove everything", " Guards are compiled again when they are used.")


def _add(below: Commands, name: str, handler: Handler, summary: str, more: str = "") -> Parser:
    return add_command(below, name, handler, summary, f"{summary[0].upper()}{summary[1:]}.{more}")


def _add_warm(below: Commands) -> None:
    more = " The memory cap and the engine are\npart of a compiled guard: give those that the run will be given."
    parser = _add(below, "warm", _warm, "compile guards ahead of their use", more)
    parser.add_argument("files", metavar="FILE.wasm", nargs="+", help="the guards")
    add_memory_pages(parser)
    add_engine(parser)


def _add_verify(below: Commands) -> None:
    more = " Exit status 1: something is damaged, or\nanother user could have written it."
    parser = _add(below, "verify", _verify, "read everything and check it", more)
    parser.add_argument("--remove", action="store_true", help="remove what would not be used")
    add_json(parser)


def _add_prune(below: Commands) -> None:
    parser = _add(below, "prune", _prune, "remove what was not used for longest")
    parser.add_argument("--max-bytes", metavar="SIZE", help="what all together may take, e.g. 500M")
    parser.add_argument("--max-age", metavar="AGE", help="how long ago the last use may be, e.g. 12h, 30d")


def _path(_options: argparse.Namespace) -> int:
    from guardpool.cli import cache as command

    return command.path()


def _list(options: argparse.Namespace) -> int:
    from guardpool.cli import cache as command

    return command.list_entries(as_json=options.as_json)


def _warm(options: argparse.Namespace) -> int:
    from guardpool.cli import cache as command

    return command.warm(options.files, options.memory_pages, options.engine)


def _verify(options: argparse.Namespace) -> int:
    from guardpool.cli import cache as command

    return command.verify(remove=options.remove, as_json=options.as_json)


def _prune(options: argparse.Namespace) -> int:
    from guardpool.cli import cache as command

    return command.prune(options.max_bytes, options.max_age)


def _clear(_options: argparse.Namespace) -> int:
    from guardpool.cli import cache as command

    return command.clear()
