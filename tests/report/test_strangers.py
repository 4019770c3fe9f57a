"""What strangers write breaks no format: each of the attacks stands in every place where a stranger may write."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

import reportkit
from guardpool.cli.report_text import report_text
from guardpool.decide.record import read_record
from guardpool.report import Summary
from guardpool.report.as_values import as_values
from guardpool.report.junit import junit
from guardpool.report.markdown import markdown
from guardpool.report.sarif import sarif
from guardpool.report.store import arguments_of, detail_of
from guardpool.report.table_csv import as_csv
from guardpool.report.words import clean, link, theirs

# Control characters but the newline, line separators, everything that turns the direction of text, noncharacters.
HARMFUL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff]")
CODE = re.compile(r"`[^`\n]*`")


@pytest.fixture(scope="module")
def summary() -> Summary:
    return Summary(show_data=True).add_all(reportkit.records(reportkit.attacked()))


@pytest.fixture(scope="module")
def files(summary: Summary) -> dict[str, str]:
    """Each format's file, but the page's, which a browser looks at in `test_page.py`."""
    name = theirs(clean("@octocat fixes #7 | ` .jsonl"))
    return {
        "text": report_text(summary, summary, "Decisions", on_terminal=False),
        "markdown": markdown(summary, summary, "Decisions", name),
        "json": json.dumps(as_values(summary, summary, ["x"]), ensure_ascii=False, indent=1),
        "csv": b"".join(as_csv(reportkit.records(reportkit.attacked()), show_data=True)).decode(),
        "sarif": json.dumps(sarif(summary, "9.9"), ensure_ascii=False, indent=1),
        "junit": junit(summary).decode(),
    }


@pytest.mark.parametrize("kind", ["text", "markdown", "json", "csv", "sarif", "junit"])
def test_no_control_character_and_no_bidi_override_is_left(files: dict[str, str], kind: str) -> None:
    assert HARMFUL.search(files[kind]) is None
    assert "desrever" in files[kind]


def test_markdown_pings_nobody_closes_nothing_and_links_nowhere(files: dict[str, str]) -> None:
    for line in files["markdown"].splitlines():
        outside = CODE.sub("CODE", line)
        assert "`" not in outside
        for sign in ("@", "://", "www.", "](", "<", "GH-", "octocat", "closes", "acme/", "[x]"):
            assert sign not in outside, line
        assert re.search(r"#\d", outside) is None, line
        assert not line.startswith("#") or line.startswith(("# Decisions", "## "))


def test_rows_of_markdown_have_as_many_cells_as_their_titles(files: dict[str, str]) -> None:
    width = 0
    rows = 0
    for line in files["markdown"].splitlines():
        cells = line.count("|") if line.startswith("|") else 0
        assert not cells or not width or cells == width, line
        width = cells
        rows += bool(cells)
    assert rows > 50


def test_cells_that_a_spreadsheet_would_run_begin_with_an_apostrophe(files: dict[str, str]) -> None:
    rows = list(csv.reader(io.StringIO(files["csv"]), strict=True))
    assert len(rows) == 1 + len(reportkit.ATTACKS)
    assert {len(row) for row in rows} == {len(rows[0])}
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))]
    assert [cell for cell in cells if cell.startswith("'=HYPERLINK")]
    assert [cell for cell in cells if cell.startswith("'@SUM")]


def uris(value: Any) -> Iterator[str]:
    """Every address in a SARIF log."""
    if isinstance(value, dict):
        yield from (each for name, each in value.items() if name == "uri")
        for each in value.values():
            yield from uris(each)
    elif isinstance(value, list):
        for each in value:
            yield from uris(each)


def test_addresses_of_sarif_are_relative_and_lead_nowhere_else(files: dict[str, str]) -> None:
    found = set(uris(json.loads(files["sarif"])))
    assert len(found) > 10
    for uri in found:
        assert re.fullmatch(r"(?!/)[A-Za-z0-9._~%/-]+", uri), uri
        assert ".." not in uri.split("/")


def test_texts_of_sarif_hold_no_links_and_no_placeholders(files: dict[str, str]) -> None:
    for result in json.loads(files["sarif"])["runs"][0]["results"]:
        assert re.search(r"(?<!\\)\[", result["message"]["text"]) is None
        assert re.search(r"(?<!\{)\{(?!\{)", result["message"]["text"].replace("{{", "")) is None


def test_junit_is_well_formed_whatever_strangers_write(files: dict[str, str]) -> None:
    root = ElementTree.fromstring(files["junit"])
    names = {suite.get("name") for suite in root.iter("testsuite")}
    assert any("<script>" in (name or "") for name in names)
    assert len(names) == len(reportkit.ATTACKS) + 1


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "http://x.example/", "https://x.example/\u202e", "https://", "", None]
)
def test_only_plain_https_addresses_are_linked(url: str | None) -> None:
    assert link(url) == ""
    assert link("https://github.com/o/r/issues/1#issue") != ""


def test_long_words_are_cut_and_data_too() -> None:
    assert len(clean("x" * 10_000)) == 200
    missing = [{"tool": "t", "args": {"x": "y" * 10_000}}]
    values = {"args": {"x": "y" * 10_000}, "enrichment": {"asked": 1, "missing": missing}}
    (record,) = reportkit.records([{**next(reportkit.decisions(1)), **values}])
    assert len(arguments_of(record)) == 2_000
    assert len(detail_of(record, show_data=True)["asked"][0]) == 2_000


def test_arguments_with_numbers_of_any_size_are_shown_as_they_were() -> None:
    line = reportkit.lines(reportkit.decisions(1)).replace(b'"page":', b'"huge":' + b"9" * 400 + b',"page":')
    assert f'"huge":{"9" * 400}' in arguments_of(read_record(line))
