"""What the documents say of files, tests, options and tables is true."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from guardpool.cli.app import make_parser
from guardpool.supervise import worker_handle
from paths import ROOT, TESTS

ENGINE = ROOT / "engine" / "guardpool"
WORKERS = ROOT / "workers" / "guardpool_worker"
BENCH = ROOT / "benchmarks"

DOCUMENTS = sorted(
    path for folder in (ROOT, ROOT / "engine", ROOT / "workers", BENCH, TESTS)
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)  # fmt: skip
# The changelog may name files that are gone.
MAPS = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
# Where a path in a document may begin, besides the folder of the document itself.
STARTS = (ROOT, ENGINE, WORKERS, BENCH, TESTS, TESTS / "kits")
# Stands for any name in a path: `cli/NAME.py`.
ANY = "NAME"
MAX_LINE = 128


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or of a higher one."""
    level = len(heading.split()[0])
    return re.split(rf"^#{{1,{level}}} ", text.split(f"\n{heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows_of(text: str) -> Iterator[list[str]]:
    """The rows of the tables in a text, without their rules."""
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@cache
def defined_in(path: Path) -> frozenset[str]:
    """The names of all functions and classes of a source, methods included, and of the values of its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)


# --- tests that documents name


def named_in(path: Path) -> set[str]:
    """The names of the test functions of a file."""
    return {name for name in defined_in(path) if name.startswith("test_")}


EVERY_TEST = {name for path in TESTS.rglob("test_*.py") for name in named_in(path)}


def wrong_mentions(text: str) -> list[str]:
    """The tests and files of tests that a text names and that do not exist."""
    wrong = []
    for file, name in re.findall(r"(tests/[\w/]+\.(?:py|wat|jsonl))(?:::(\w+))?", text):
        if ANY in file:
            continue
        if not (ROOT / file).is_file() or (name and name not in named_in(ROOT / file)):
            wrong.append(f"{file}::{name}" if name else file)
    # A name in backquotes without a file may be of any file.
    wrong += [name for name in re.findall(r"`(test_\w+)`", text) if name not in EVERY_TEST]
    return wrong


def test_a_name_of_a_missing_test_is_found() -> None:
    here = "tests/docs/test_documents.py"
    assert wrong_mentions(f"`{here}::test_a_name_of_a_missing_test_is_found`, {here}") == []
    assert wrong_mentions(f"see `{here}::test_nothing`") == [f"{here}::test_nothing"]
    assert wrong_mentions("tests/docs/test_nowhere.py") == ["tests/docs/test_nowhere.py"]
    assert wrong_mentions("`test_a_name_of_a_missing_test_is_found` and `test_nothing`") == ["test_nothing"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_test_that_a_document_names_exists(path: Path) -> None:
    assert wrong_mentions(path.read_text(encoding="utf-8")) == []


# --- files, folders and links


def paths_in(text: str) -> set[str]:
    """The sources and folders that a document names in backquotes: `supervise/births.py`, `kits/`."""
    spans = re.findall(r"`([^`\n]+)`", text)
    return {span for span in spans if re.fullmatch(r"(?:[\w.-]+/)*(?:[\w-]+\.(?:py|wat|zig)|[\w.-]+/)", span)}


def is_there(name: str, document: Path) -> bool:
    return ANY in name or any((start / name).exists() for start in (document.parent, *STARTS))


def test_a_name_of_a_missing_file_is_found() -> None:
    names = paths_in("`supervise/births.py`, `kits/` and `pool.py`, but not `a/b.py c`, `map`, `and/or` or `o/r`")
    assert names == {"supervise/births.py", "kits/", "pool.py"}
    assert all(is_there(name, ROOT / "README.md") for name in names)
    assert not is_there("supervise/nothing.py", ROOT / "README.md")
    assert is_there("cli/NAME.py", ROOT / "README.md")


@pytest.mark.parametrize("path", MAPS, ids=name_of)
def test_every_file_that_a_document_names_exists(path: Path) -> None:
    names = paths_in(path.read_text(encoding="utf-8"))
    assert sorted(name for name in names if not is_there(name, path)) == []


def anchors_of(text: str) -> set[str]:
    """What the headings of a document are linked by."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_link_between_documents_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            there = path.parent / file if file else path
            assert there.is_file(), target
            assert not anchor or anchor in anchors_of(there.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_lines_of_prose_are_not_too_long_to_read(path: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > MAX_LINE and not line.startswith("|")] == []


def test_documents_name_only_options_of_the_command_line() -> None:
    options = set(re.findall(r"--[a-z][a-z-]+", " ".join(_help(make_parser()))))
    text = "\n".join(text_of(name) for name in ("README.md", "CHANGELOG.md"))
    named = set(re.findall(r"`guardpool [^`\n]*`|^\$ guardpool.*(?:\\\n.*)*", text, re.MULTILINE))
    assert named
    used = {option for command in named for option in re.findall(r"--[a-z][a-z-]+", command)}
    assert used <= options


def _help(parser: object) -> Iterator[str]:
    yield parser.format_help()  # type: ignore[attr-defined]
    for action in parser._actions:  # type: ignore[attr-defined]
        for sub in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            yield from _help(sub)


# --- ARCHITECTURE.md

ARCHITECTURE = "ARCHITECTURE.md"


def tree_of(text: str) -> Iterator[Path]:
    """The paths of the tree in the first code block under "The map"."""
    block = section(text, "## The map").split("```\n")[1]
    folders: list[tuple[int, Path]] = []
    for line in block.splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        while folders and folders[-1][0] >= indent:
            folders.pop()
        path = (folders[-1][1] if folders else ROOT) / name
        folders.append((indent, path))
        yield path


def test_every_folder_of_the_map_exists() -> None:
    assert [path for path in tree_of(text_of(ARCHITECTURE)) if not path.is_dir()] == []


def test_the_map_has_every_package() -> None:
    packages = {path.parent for top in (ENGINE, WORKERS, BENCH) for path in top.rglob("__init__.py")}
    assert packages - set(tree_of(text_of(ARCHITECTURE))) == set()


@pytest.mark.parametrize(
    ("heading", "folder"),
    [
        ("### supervise", ENGINE / "supervise"),
        ("### decide", ENGINE / "decide"),
        ("### workers/guardpool_worker", WORKERS),
        ("## The simulation", ENGINE / "testing"),
        ("## The trust boundary", ENGINE / "protocol"),
    ],
)
def test_the_tables_of_files_are_complete(heading: str, folder: Path) -> None:
    named = paths_in(section(text_of(ARCHITECTURE), heading))
    files = {name for name in named if name.endswith(".py")}
    sources = {path for path in folder.rglob("*.py") if not path.stem.startswith("__")}
    told = {folder.parent / name for name in files} | {folder / name for name in files}
    assert sorted(path.name for path in sources - told) == []


def test_the_way_of_a_job_names_functions_that_exist() -> None:
    rows = list(rows_of(section(text_of(ARCHITECTURE), "## One job, from `guardpool label` to its outcome line")))
    assert rows[0] == ["where", "file", "function"]
    assert len(rows) > 20
    missing: list[str] = []
    for _where, file, what in rows[1:]:
        name = file.strip("`")
        path = next((start / name for start in STARTS if (start / name).is_file()), None)
        if path is None:
            missing.append(name)
        else:
            functions = re.findall(r"`(\w+)`", what.split(":")[0])
            missing += [f"{name}:{function}" for function in functions if function not in defined_in(path)]
    assert missing == []


def test_the_table_of_states_is_the_one_that_workers_follow() -> None:
    rows = list(rows_of(section(text_of(ARCHITECTURE), "## The states of a worker")))
    told = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in rows[1:]}
    steps = {state.value: {after.value for after in later} for state, later in worker_handle.TRANSITIONS.items()}
    assert told == steps


# --- SECURITY.md


def test_the_security_page_names_a_test_for_every_boundary() -> None:
    boundaries = section(text_of("SECURITY.md"), "## The boundaries")
    for part in boundaries.split("\n### ")[1:]:
        title = part.splitlines()[0]
        assert re.search(r"tests/\w+/test_", part), f"{title}: what proves it?"


def test_every_module_that_the_security_page_names_exists() -> None:
    modules = set(re.findall(r"`(guardpool(?:_worker)?(?:\.[a-z_0-9]+)+)`", text_of("SECURITY.md")))
    assert len(modules) >= 4
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


# --- the guard contract


def test_the_contract_names_a_test_for_every_rule() -> None:
    text = (ENGINE / "contract" / "README.md").read_text(encoding="utf-8")
    rows = list(rows_of(section(text, "## The rules")))
    assert rows[0] == ["rule", "what happens", "its test"]
    rules = [row for row in rows[1:] if not row[0].startswith("**")]
    assert len(rules) >= 40
    for rule, what, tests in rules:
        assert what, f"{rule}: what happens?"
        assert re.search(r"`test_\w+`|`tests/\w+/test_\w+\.py", tests), f"{rule}: where is its test?"
    # Each chapter of the contract has rules.
    assert [row[0].split("**")[1].strip("`") for row in rows[1:] if row[0].startswith("**")] == [
        "The module",
        "The call",
        "Inputs and answers",
        "call_backend",
        "host_log",
        "WASI preview 1",
        "State",
    ]


# --- tests/README.md


@pytest.mark.parametrize("heading", ["## Where a test goes", "## Kits"])
def test_the_readme_of_the_tests_has_every_folder_and_every_kit(heading: str) -> None:
    told = {name.strip("`") for row in rows_of(section(text_of("tests/README.md"), heading)) for name in row[:1]}
    told = {name for cell in told for name in re.findall(r"[\w/.]+", cell)}
    if heading == "## Kits":
        assert {path.name for path in (TESTS / "kits").glob("*.py")} - told == set()
    else:
        assert {f"{path.parent.name}/" for path in TESTS.glob("*/test_*.py")} - told == set()


# --- CONTRIBUTING.md


def test_the_make_targets_are_those_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE)) - {"help"}
    rows = rows_of(section(text_of("CONTRIBUTING.md"), "## Make"))
    assert {target for row in rows for target in re.findall(r"`make ([a-z-]+)", row[0])} == targets
