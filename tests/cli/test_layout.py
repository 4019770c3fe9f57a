"""Tables break no word and pad no line, whatever they hold and however wide the terminal is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

import guardkit
from clikit import Bench
from guardpool import samples
from guardpool.cli.render import make_console
from guardpool.cli.tables import Table

WORDS = st.text(st.sampled_from("abcdefgh→界-/:"), min_size=1, max_size=30)
CELLS = st.lists(WORDS, max_size=6).map(" ".join)


def lines_of(table: Table, columns: int) -> list[str]:
    console = make_console()
    console.width = columns
    return [line.plain for line in table.lines(console)]


@given(
    st.integers(1, 5), st.lists(st.lists(CELLS, min_size=5, max_size=5), min_size=1, max_size=4), st.integers(1, 120)
)
def test_no_word_is_broken_and_no_line_is_padded(columns: int, rows: list[list[str]], width: int) -> None:
    titles = [f"title {at}" for at in range(columns)]
    table = Table(*titles)
    for row in rows:
        table.add_row(*row[:columns])
    lines = lines_of(table, width)
    assert all(line == line.rstrip() for line in lines)
    printed = {word for line in lines for word in line.split()}
    assert {word for row in rows for cell in row[:columns] for word in cell.split()} <= printed


def test_columns_are_narrowed_between_words_and_only_as_far_as_needed() -> None:
    table = Table("name", "count>", "what is said about it")
    table.add_row("one", "1", "a few words")
    table.add_row("another", "1,000", "many more words than fit into one line")
    assert lines_of(table, 80) == [
        "name     count  what is said about it",
        "-------  -----  --------------------------------------".replace("-", "─"),
        "one          1  a few words",
        "another  1,000  many more words than fit into one line",
    ]
    assert lines_of(table, 40) == [
        "name     count  what is said about it",
        "-------  -----  ------------------------".replace("-", "─"),
        "one          1  a few words",
        "another  1,000  many more words than fit",
        "                into one line",
    ]


def test_a_row_whose_words_do_not_fit_is_shown_on_lines_of_its_own() -> None:
    table = Table("path", "digest", "size>")
    table.add_row("/a/" + "b" * 30, "c" * 40, "12 KiB")
    table.add_row("/d", "e", "")
    assert lines_of(table, 60) == [
        f"path    /a/{'b' * 30}", f"digest  {'c' * 40}", "size    12 KiB", "", "path    /d", "digest  e"
    ]  # fmt: skip


def test_a_last_column_with_a_long_word_stays_in_the_table() -> None:
    table = Table("", "", header=False)
    table.add_row("cache", f"/{'x' * 100} is the folder")
    assert lines_of(table, 60) == [f"cache  /{'x' * 100}", "       is the folder"]


def test_a_column_that_may_be_cut_is_cut_and_one_without_text_left_out() -> None:
    table = Table("what", "", "excerpt")
    table.columns[2].cut = True
    table.add_row("line", "", "x" * 100)
    assert lines_of(table, 40) == ["what  excerpt", f"────  {'─' * 34}", f"line  {'x' * 33}…"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench.prepare(tmp_path_factory.mktemp("layout"))
    (bench.folder / "log.jsonl").write_text("".join(f"{line}\n" for line in samples.recording(20)))
    (bench.folder / "simd.wasm").write_bytes(guardkit.wat("by_engine/simd"))
    return bench


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "g.wasm", "simd.wasm"],
        ["doctor"],
        ["cache", "list"],
        ["demo", "-n", "300"],
        ["import", "log.jsonl", "-o", "/dev/null"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_prints_the_same_words_on_a_terminal_and_on_a_pipe(bench: Bench, command: list[str]) -> None:
    arguments = [str(bench.folder / word) if re.search("wasm$|jsonl$", word) else word for word in command]
    cache = {"GUARDPOOL_CACHE_DIR": str(bench.folder / "cache"), "TMPDIR": str(bench.folder)}
    if command[0] == "cache":
        assert bench.run("cache", "warm", bench.folder / "g.wasm", **cache).returncode == 0
    piped = b"".join([(done := bench.run(*arguments, **cache)).stdout, done.stderr]).decode()
    assert "\x1b" not in piped
    assert all(line == line.rstrip() for line in piped.splitlines())
    with bench.terminal(*arguments, columns=80, **cache, TERM="dumb") as terminal:
        terminal.finish()
    assert words(terminal.text) == words(piped)


def words(text: str) -> list[str]:
    """Words in any order: without numbers and names of new folders, which differ from run to run, rules, and excerpts, which
    are cut."""
    plain = re.sub(r'[─-]{4,}|\{"\S*|\S*guardpool-demo-\S*', " ", text)
    return sorted(word for word in plain.split() if not re.match(r"\d", word))
