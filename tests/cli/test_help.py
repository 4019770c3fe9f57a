"""Help, version and mistakes: what a person meets first."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest

from guardpool import __version__, pool, replaying
from guardpool.backends import mcp_server
from guardpool.cli import main, report
from guardpool.cli.app import make_parser
from guardpool.cli.arguments import common, label, replay as replay_arguments, report as report_arguments
from guardpool.cli.arguments.parser import CannotParse
from guardpool.guard import ON_BACKEND_FAILURE
from guardpool.labels import DifcMode
from guardpool.machine import engines

COMMANDS = [
    "replay",
    "what-if",
    "report",
    "label",
    "call",
    "import",
    "explain",
    "diff",
    "test",
    "lint",
    "demo",
    "inspect",
    "cache",
    "doctor",
]
CACHE_COMMANDS = ["path", "list", "warm", "verify", "prune", "clear"]
LABEL_OPTIONS = [
    *("--out", "--guard", "--policy", "--workers", "--engine", "--each-guard", "--ordered", "--unordered"),
    *(
        "--no-timing",
        "--fail-on-error",
        "--max-failed",
        "--stats",
        "--progress",
        "--no-progress",
        "--log-level",
        "--log-file",
    ),
]
HEAVY = ["wasmtime", "guardpool.machine", "msgspec", "rich", "psutil", "wasmer", "guardpool.pool", "guardpool_worker"]


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main([*command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_every_command_is_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    top, cache = help_of(capsys), help_of(capsys, "cache")
    for command in COMMANDS:
        assert re.search(rf"^    {command} +\S", top, re.MULTILINE)
    for command in CACHE_COMMANDS:
        assert re.search(rf"^    {command} +\S", cache, re.MULTILINE)


@pytest.mark.parametrize(
    "command", [[], *([name] for name in COMMANDS), *(["cache", name] for name in CACHE_COMMANDS)], ids=" ".join
)
def test_help_fits_eighty_columns_and_explains_each_option(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    text = help_of(capsys, *command)
    assert text.startswith("usage: guardpool")
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"\w-\n|[^\S\n]\n", text), (
        "an option or another word is broken at a hyphen, or a line is padded"
    )
    parser = make_parser()
    for name in command:
        parser = parser._subparsers._group_actions[0].choices[name]  # type: ignore[union-attr,index,assignment]
    assert parser.description
    assert all(action.help for action in parser._actions if action.option_strings or action.metavar != "COMMAND")


def test_the_main_command_documents_its_options_formats_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "label")
    for option in LABEL_OPTIONS:
        assert re.search(rf"(^|\s){option}\b", text, re.MULTILINE), option
    for status in (0, 1, 2, 3, 130):
        assert re.search(rf"^  {status} +\S", text, re.MULTILINE)
    job = next(line for line in text.splitlines() if line.startswith('  {"id": 1'))
    assert json.loads(job)["op"] == "label_resource"


def test_the_examples_in_the_help_are_commands_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "label").replace("\\\n", " ")
    examples = re.findall(r"guardpool (label [^|\n]+)", text.split("examples:")[1])
    assert len(examples) == 3
    for example in examples:
        options = make_parser().parse_args(shlex.split(example))
        assert options.guards == ["github=github.wasm"]
        assert options.policies == ["github=policy.json"]


def test_version_prints_the_packages_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"guardpool {__version__}\n"


@pytest.mark.parametrize("command", [[], ["cache"]])
def test_a_bare_command_shows_its_help(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main(command) == 2
    assert capsys.readouterr().out.startswith("usage: guardpool")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["frobnicate"], ["frobnicate", "label", "see guardpool --help"]),
        (["cache", "frobnicate"], ["frobnicate", "prune", "see guardpool cache --help"]),
        (["inspect"], ["FILE.wasm", "see guardpool inspect --help"]),
        (["demo", "--jobs", "many"], ["--jobs", "'many'"]),
        (["demo", "--jobs", "-1"], ["--jobs"]),
        (["label", "jobs"], ["--out", "--guard"]),
        (["label", "jobs", "-o"], ["--out", "expected one argument"]),
        (["label", "jobs", "--nope"], ["--nope", "see guardpool label --help"]),
        (["cache", "list", "more"], ["more", "see guardpool cache list --help"]),
        (["cache", "prune"], ["--max-bytes", "--max-age"]),
        (["cache", "prune", "--max-bytes", "3x"], ["--max-bytes", "'3x'"]),
        (["cache", "prune", "--max-age", "soon"], ["--max-age", "'soon'"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_that_says_where_to_look(
    capsys: pytest.CaptureFixture[str], command: list[str], words: list[str]
) -> None:
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("guardpool: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_a_hostile_argument_does_not_reach_the_terminal_raw(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "/nope/\x1b[2J\n\u202e"]) == 1
    assert capsys.readouterr().err == "guardpool: /nope/\\x1b[2J\\n\\u202e: No such file or directory\n"


@pytest.mark.parametrize("command", ["replay R", "what-if R", "explain D", "test C -g a=a.wasm"])
def test_mode_may_be_typed_in_capitals(command: str) -> None:
    options = vars(make_parser().parse_args([*command.split(), "--mode", "FILTER"]))
    assert "filter" in (options.get("mode"), *options.get("modes", ()))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from guardpool.cli import main; main(['--help']); "
        f"print('heavy:', *(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("\nheavy:\n")


def test_python_m_guardpool_is_the_command() -> None:
    for arguments, status in (["--version"], 0), (["cache", "frobnicate"], 2):
        done = subprocess.run(
            [sys.executable, "-m", "guardpool", *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status
        assert (done.stdout, done.stderr.startswith("guardpool: ")) in (
            (f"guardpool {__version__}\n", False),
            ("", True),
        )


def test_the_command_is_installed() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="console_scripts", name="guardpool")
    assert entry.load() is main


@pytest.mark.parametrize(
    "name", ["replay", "what-if", "report", "label", "call", "import", "explain", "diff", "test", "ray"]
)
def test_every_field_of_a_commands_options_is_typed_or_made_of_limits(name: str) -> None:
    # `as_typed` looks only when the command runs.
    module = import_module(f"guardpool.cli.{'import_' if name == 'import' else name.replace('-', '_')}")
    commands = make_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    typed = {action.dest for action in commands["label" if name == "ray" else name]._actions}  # type: ignore[index,call-overload]
    made = {"address", "pool"} if name == "ray" else {"limits"}
    assert {field.name for field in dataclasses.fields(module.Options)} <= typed | made


def test_the_words_of_the_help_are_those_there_are() -> None:
    assert common.ENGINE_WORDS == engines.ENGINE_WORDS
    assert label.ISOLATION_WORDS == pool.ISOLATIONS
    assert label.ON_BACKEND_FAILURE == ON_BACKEND_FAILURE
    assert tuple(mode.value for mode in DifcMode) == common.MODES
    assert common.RULES == replaying.RULES
    assert replay_arguments.ORDERS == replaying.ORDERS
    assert sorted(report_arguments.FORMATS) == sorted({*report._FORMATS, "csv"})


def test_the_number_of_questions_in_the_help_is_the_default() -> None:
    assert common.MAX_QUESTIONS == mcp_server.MAX_QUESTIONS


@pytest.mark.parametrize(
    ("command", "option", "inputs"),
    [
        ("label", "-o", "jobs"),
        ("replay", "-o", "recordings"),
        ("what-if", "-o", "recordings"),
        ("test", "--junit", "corpora"),
    ],
)
def test_inputs_may_stand_on_both_sides_of_an_option(command: str, option: str, inputs: str) -> None:
    options = make_parser().parse_args([command, "a", option, "out", "b", "-", "-g", "x=y", "c"])
    assert getattr(options, inputs) == ["a", "b", "-", "c"]


def test_an_unknown_option_is_refused_and_its_value_is_no_input() -> None:
    with pytest.raises(CannotParse, match="unrecognized arguments: --bogus x"):
        make_parser().parse_args(["label", "a", "--bogus", "x"])
