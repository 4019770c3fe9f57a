"""The options that several commands have."""

from __future__ import annotations

import argparse
from typing import Any

from guardpool.cli.arguments.parser import Parser, count
from guardpool.sizes import DEFAULT_MEMORY_PAGES

# As `guardpool.backends.mcp_server`, `guardpool.machine.engines`, `guardpool.replaying` and `guardpool.labels` have them, which
# are not imported for `--help`; `tests/cli/test_help.py` compares them.
MAX_QUESTIONS = 10_000
ENGINE_WORDS = ("auto", "wasmtime", "wasmer")
RULES = ("gateway", "strict", "both")
MODES = ("strict", "filter", "propagate")


def add_repeated(parser: Parser, *names: str, dest: str, metavar: str, help: str, **more: Any) -> None:
    """An option that may be given several times: a list of what was typed."""
    parser.add_argument(*names, dest=dest, metavar=metavar, default=[], action="append", help=help, **more)


def add_guards(parser: Parser, name: str, guard: str, policy: str, *, policy_metavar: str = "", **more: Any) -> None:
    """Guards and their policies, each by a name.

    Args:
        name: what the name is of, in capitals.
        guard, policy: their help.
        policy_metavar: what is typed for a policy, if it is not `NAME=POLICY.json`.
        more: of the option for guards.
    """
    add_repeated(
        parser, "-g", "--guard", dest="guards", metavar=f"{name}=FILE.wasm", help=f"{guard}; may be given again", **more
    )
    policy_metavar = policy_metavar or f"{name}=POLICY.json"
    add_repeated(parser, "-p", "--policy", dest="policies", metavar=policy_metavar, help=policy)


def add_backends(parser: Parser, name: str, help: str) -> None:
    """Who answers each guard, by its name; `help` says it in words."""
    add_repeated(parser, "--backend", dest="backends", metavar=f"{name}=WHO", help=help)


def add_before_servers(parser: Parser, policy: str = "") -> None:
    """What stands before each server: its guard, the guard's policy, sinks, and a configuration that names them.

    Args:
        policy: what is typed for a policy that is one of several to try; empty: a policy is that of a server.
    """
    add_guards(
        parser,
        "SERVER",
        "the guard of a server, or SERVER=none",
        "a policy to try; may be given again" if policy else "the policy of that guard, or of a sink",
        policy_metavar=policy,
    )
    add_repeated(
        parser,
        "--sink",
        dest="sinks",
        metavar="SERVER=ACCEPT",
        help="a server that is only written to, and what it accepts: private:OWNER/REPO,..., public, '*', or a policy's file",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a gateway's configuration, TOML or JSON: guards, policies and sinks from there",
    )


def add_servers(parser: Parser, name: str, **more: Any) -> None:
    """What an MCP server is given that answers a guard.

    Args:
        name: what stands before each value, such as `NAME=` where there may be several guards.
        more: for `add_argument`.
    """
    for option, value, text in (
        ("--backend-allow", "TOOL,TOOL", "tools of an MCP server that may be called though they are not read-only"),
        ("--backend-env", "VAR,VAR", "environment variables that the command of an MCP server gets"),
        ("--backend-token", "VAR", "the environment variable with the token for the URL of an MCP server"),
    ):
        parser.add_argument(option, metavar=f"{name}{value}", help=text, **more)


def add_max_questions(parser: Parser) -> None:
    """How much an MCP server may be asked."""
    parser.add_argument(
        "--max-questions",
        metavar="N",
        type=count,
        help=f"different questions a guard may ask an MCP server (default: {MAX_QUESTIONS})",
    )


def add_mode(parser: Parser) -> None:
    """The mode in which decisions are made."""
    parser.add_argument(
        "--mode",
        type=str.lower,
        choices=MODES,
        metavar="MODE",
        help="decide in this mode, whatever the guards answer: " + ", ".join(MODES),
    )


def add_keep_labels(parser: Parser) -> None:
    """A file of labels that were kept."""
    parser.add_argument(
        "--keep-labels",
        metavar="FILE",
        help="keep labels there, and take those that are there already, for guards whose labels do not depend on the order "
        "of jobs",
    )


def add_workers(parser: Parser) -> None:
    """How many processes label."""
    parser.add_argument(*("-w", "--workers"), metavar="N", type=count, help="worker processes (default: one a core)")


def add_engine(parser: Parser) -> None:
    """The engine that runs the guards."""
    parser.add_argument(
        "--engine",
        choices=ENGINE_WORDS,
        default="auto",
        metavar="NAME",
        help=f"the wasm engine: {', '.join(ENGINE_WORDS)} (default: auto; see guardpool doctor)",
    )


def add_memory_pages(parser: Parser) -> None:
    """The memory cap alone, for commands that compile guards and run none."""
    parser.add_argument(
        "--memory-pages",
        metavar="N",
        type=count,
        default=DEFAULT_MEMORY_PAGES,
        help=f"cap of a guard's linear memory, in pages of 64 KiB (default: {DEFAULT_MEMORY_PAGES})",
    )


def add_redaction(parser: Parser) -> None:
    """Whether names are replaced in what is written."""
    add = parser.add_argument
    add(
        "--redact",
        action="store_true",
        help="write logins, repositories, numbers and titles as keyed hashes, and no log lines",
    )
    add(
        "--redact-key",
        metavar="FILE",
        help="the same, with the key in FILE, which is made if it is not there: one key gives the same hashes in every run",
    )


def add_log_level(parser: Parser, default: str) -> None:
    """Which of the guards' log lines are shown."""
    levels = ("debug", "info", "warning", "error", "off")
    parser.add_argument(
        "--log-level",
        choices=levels,
        default=default,
        metavar="LEVEL",
        help=f"show the guards' log lines from here on: {', '.join(levels)} (default: {default})",
    )


def add_progress(parser: Parser, what: str = "a bar") -> None:
    """Whether progress is shown; `what` says as what."""
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help=f"{what} on stderr, on a terminal only (default: on a terminal)",
    )


def add_json(parser: Parser) -> None:
    """Output for programs."""
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON instead of a table")
