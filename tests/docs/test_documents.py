"""What the documents say of the tests is true: every test that they name is there."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from paths import ROOT, TESTS

DOCUMENTS = sorted(
    path for folder in (ROOT, ROOT / "engine", ROOT / "workers", ROOT / "benchmarks", TESTS)
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)  # fmt: skip


def names_in(path: Path) -> set[str]:
    """The names of the test functions of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


EVERY_TEST = {name for path in TESTS.rglob("test_*.py") for name in names_in(path)}


def wrong_mentions(text: str) -> list[str]:
    """The tests and files of tests that a text names and that are not there."""
    wrong = []
    for file, name in re.findall(r"(tests/[\w/]+\.(?:py|wat|jsonl))(?:::(\w+))?", text):
        if not (ROOT / file).is_file() or (name and name not in names_in(ROOT / file)):
            wrong.append(f"{file}::{name}" if name else file)
    # A name by itself, in backquotes: of whatever file.
    wrong += [name for name in re.findall(r"`(test_\w+)`", text) if name not in EVERY_TEST]
    return wrong


def test_a_test_that_is_not_there_is_found() -> None:
    here = "tests/docs/test_documents.py"
    assert wrong_mentions(f"`{here}::test_a_test_that_is_not_there_is_found`, {here}") == []
    assert wrong_mentions(f"see `{here}::test_nothing`") == [f"{here}::test_nothing"]
    assert wrong_mentions("tests/docs/test_nowhere.py") == ["tests/docs/test_nowhere.py"]
    assert wrong_mentions("`test_a_test_that_is_not_there_is_found` and `test_nothing`") == ["test_nothing"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_that_a_document_names_is_there(path: Path) -> None:
    assert wrong_mentions(path.read_text(encoding="utf-8")) == []


def test_the_security_page_names_a_test_for_every_boundary() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    boundaries = text.split("## The boundaries")[1].split("\n## ")[0]
    for part in boundaries.split("\n### ")[1:]:
        title = part.splitlines()[0]
        assert re.search(r"tests/\w+/test_", part), f"{title}: what proves it?"


def test_every_module_that_the_security_page_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    modules = set(re.findall(r"`(guardpool(?:_worker)?(?:\.[a-z_0-9]+)+)`", text))
    assert len(modules) >= 4
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


def test_the_readme_names_a_test_for_every_rule_of_the_contract() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("## The guard contract")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    assert rows[0] == ["rule", "what happens", "its test"]
    rules = [row for row in rows[2:] if not row[0].startswith("**")]
    assert len(rules) >= 40
    for rule, what, tests in rules:
        assert what, f"{rule}: what happens?"
        assert re.search(r"`test_\w+`|`tests/\w+/test_\w+\.py", tests), f"{rule}: where is its test?"
    # Each chapter of the contract has rules.
    assert [row[0].split("**")[1].strip("`") for row in rows[2:] if row[0].startswith("**")] == [
        "The module",
        "The call",
        "Inputs and answers",
        "call_backend",
        "host_log",
        "WASI preview 1",
        "State",
    ]
