"""`--redact`: no name and no word of strangers is left in any output, and redacted files serve as plain ones do."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guardpool import samples
from guardpool.batch.files import FileError
from guardpool.cli import main
from guardpool.cli.redaction import redaction
from guardpool.replay_summary import InputCounts, ReplaySummary
from guardpool.report import Redactor, read_decisions

Run = Callable[..., str]

# Under these names the sample's results have what nobody outside may see.
_NAMED = ("login", "full_name", "title", "body", "html_url", "message", "owner", "repo", "query", "author_login")
_SHORT = 4  # a shorter word is in other words, too


def strings(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All values in JSON, also in JSON that stands in a text, with their members' names."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from strings(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each, name)
    elif isinstance(value, str) and value[:1] in ("{", "["):
        try:
            yield from strings(json.loads(value), name)
        except ValueError:
            yield name, value
    else:
        yield name, value


def names_in(log: Path) -> set[str]:
    found: set[str] = set()
    for line in log.read_text().splitlines():
        for name, value in strings(json.loads(line)):
            if name == "number" and int(value) > 999:  # smaller ones are counts and lines, too
                found.add(str(value))
            elif name in _NAMED and isinstance(value, str):
                parts = value.split("/") if name == "full_name" else []
                found |= {part for part in (value, *parts) if len(part) >= _SHORT}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("redaction") / "nishiki-koi"
    path.mkdir()
    (path / "rpc-messages.jsonl").write_text("\n".join(samples.recording(40, seed=4)) + "\n")
    for level in ("approved", "none"):
        policy = {"allow-only": {**samples.POLICY["allow-only"], "min-integrity": level}}
        (path / f"{level}.json").write_text(json.dumps(policy))
    return path


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in the folder; all that it prints."""
    monkeypatch.chdir(folder)

    def run(*words: str, status: tuple[int, ...] = (0, 1, 3)) -> str:
        assert main(list(words)) in status, words
        out, err = capfd.readouterr()
        return out + err

    return run


def replayed(run: Run, out: str, *more: str, level: str = "approved") -> str:
    guard = ["-g", f"github={samples.GUARD}", "-p", f"github={level}.json", "-w", "1"]
    return run("replay", "rpc-messages.jsonl", *guard, "-o", out, *more)


KEY = ("--redact-key", "key")
WRITTEN = ("new.jsonl", "open.jsonl", "summary.json", "changes.jsonl", "b.json", "report.xml")
FORMATS = ("html", "md", "json", "csv", "sarif")


def test_no_name_of_the_recording_is_left_in_any_output(folder: Path, run: Run) -> None:
    names = names_in(folder / "rpc-messages.jsonl")
    assert len(names) > 150
    told = {
        "replay": replayed(run, "new.jsonl", *KEY, "--summary", "summary.json"),
        "replay none": replayed(run, "open.jsonl", *KEY, level="none"),
    }
    plain = replayed(run, "plain.jsonl")
    assert found_in(plain, names), "the test would find names"
    for ending in FORMATS:
        told[f"report as {ending}"] = run("report", "new.jsonl", "-o", f"report.{ending}")
        told[f"report of plain as {ending}"] = run("report", "plain.jsonl", "--redact", "-o", f"again.{ending}")
    told["report as text"] = run("report", "new.jsonl", "--against", "open.jsonl")
    told["report as junit"] = run("report", "new.jsonl", "-o", "report.xml")
    told["diff"] = run("diff", "new.jsonl", "open.jsonl", "--all", status=(1,))
    told["diff of plain"] = run("diff", "plain.jsonl", "open.jsonl", *KEY, "--baseline", "b.json", "--update-baseline")
    call = next(record.call for record in read_decisions("new.jsonl") if record.filtered)
    told["explain"] = run("explain", "new.jsonl", "--call", call)
    searched = run(
        "explain", "new.jsonl", "--call", call, "--recording", "rpc-messages.jsonl", "-g", "x=none", status=(2,)
    )
    assert "names in it are hashes" in searched
    told["explain as JSON"] = run("explain", "new.jsonl", "--call", call, "--json")
    policies = ["-p", "approved.json", "-p", "none.json"]
    what_if = ["what-if", "rpc-messages.jsonl", "-g", f"github={samples.GUARD}", *policies]
    told["what-if"] = run(*what_if, "-o", "changes.jsonl", "--redact", "-w", "1")
    told |= {name: (folder / name).read_text() for name in WRITTEN}
    for ending in FORMATS:
        told |= {name: (folder / name).read_text() for name in (f"report.{ending}", f"again.{ending}")}
    for what, text in told.items():
        # The page holds a chart library and packed data, in which short words and numbers are by chance.
        looked_for = {name for name in names if len(name) > 7} if what.endswith(".html") else names
        assert text or what.startswith("report")
        assert not found_in(text, looked_for), what
    for name in ("key", *WRITTEN):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def found_in(text: str, names: set[str]) -> list[str]:
    words = set(re.findall(r"\w+", text))
    return sorted(name for name in names if (name in words if name.isdigit() else name in text))


def test_one_key_gives_the_same_bytes_and_redacted_files_are_compared_like_plain_ones(folder: Path, run: Run) -> None:
    for name, more in (("a", ("--redact-key", "one")), ("b", ("--redact-key", "one")), ("c", ("--redact",)), ("d", ())):
        replayed(run, name, *more)
    for name, more in (("a", ("--redact-key", "one")), ("d", ())):
        replayed(run, f"{name}-none", *more, level="none")
    a, b, c = ((folder / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c
    plain, redacted = (json.loads(run("diff", name, f"{name}-none", "--json", status=(1,))) for name in "da")
    for same in ("compared", "same", "not_comparable", "undecided_in_both"):
        assert plain[same] == redacted[same]
    kinds = [
        sorted((each["kind"], each["items"], each["calls"]) for each in found["changes"]) for found in (plain, redacted)
    ]
    assert kinds[0] == kinds[1]
    assert "redact both with one --redact-key FILE" in run("diff", "a", "c", status=(5,))
    assert "redact both with one --redact-key FILE" in run("diff", "a", "d", status=(5,))
    assert run("diff", "a", "d", "--redact-key", "one", status=(3,)).count("nothing differs") == 1
    counts = [json.loads(run("report", name, "--format", "json")) for name in "da"]
    for told in ("calls", "with_finding", "items", "agreement"):
        assert counts[0].get(told) == counts[1].get(told)


def test_a_server_or_a_tool_that_is_called_like_a_repository_is_not_named_in_a_summary() -> None:
    name = "nishiki/koi"
    one = Counter([name])
    summary = ReplaySummary(
        inputs={name: InputCounts()},
        guard_failures=Counter([(name, "trap")]),
        taken_off={name: ("tool-call-limits",)},
        **dict.fromkeys(("servers", "unknown_servers", "unguarded", "asked", "missing"), one),
    )
    shown = redaction(True, None).summary(summary)
    assert name in repr(summary)
    assert name not in repr(shown)
    assert [*shown.guard_failures.values(), *shown.servers.values()] == [1, 1]


def test_a_key_that_is_kept_nowhere_is_told(run: Run) -> None:
    assert "--redact-key FILE keeps it" in replayed(run, "x", "--redact")
    assert "--redact-key FILE keeps it" not in replayed(run, "x", "--redact-key", "kept")


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("short", 0o600, "no key is in it: a key is 32 to 128 hexadecimal digits"),
        ("0" * 64, 0o644, "others may read the key, or write it: chmod 600"),
        (None, 0o700, "the key cannot be read: Is a directory"),
    ],
)
def test_what_is_no_key_is_one_line(folder: Path, run: Run, text: str | None, mode: int, words: str) -> None:
    path = folder / f"key-{mode:o}"
    path.mkdir() if text is None else path.write_text(text)
    path.chmod(mode)
    guard = ["-g", f"github={samples.GUARD}", "-p", "github=approved.json"]
    told = run("replay", "rpc-messages.jsonl", *guard, "--redact-key", path.name, status=(5,))
    assert words in told
    assert told.count("\n") == 1
    assert run("report", "nowhere", "--redact-key", path.name, status=(5,)).count("\n") == 1


def test_a_baseline_needs_a_key_that_is_kept(run: Run) -> None:
    assert "a baseline needs --redact-key FILE" in run("diff", "x", "y", "--redact", "--baseline", "b", status=(2,))


def test_a_key_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key"
    redaction(False, str(key))
    if os.geteuid() == 0:
        os.chown(key, 4711, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(FileError, match="belongs to another user"):
        redaction(False, str(key))


def test_the_second_of_two_first_runs_takes_the_key_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, draw = tmp_path / "key", secrets.token_bytes

    def another_is_quicker(count: int) -> bytes:
        key.touch(0o600)
        key.write_text("ab" * 32)
        return draw(count)

    monkeypatch.setattr(secrets, "token_bytes", another_is_quicker)
    redactor = redaction(False, str(key)).redactor
    assert redactor is not None
    assert redactor.id == Redactor(b"\xab" * 32).id
    assert os.listdir(tmp_path) == ["key"]


def test_a_key_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: kinds.append(stat.S_IFMT(os.fstat(fd).st_mode)))
    (tmp_path / "link").symlink_to("key")
    assert redaction(False, str(tmp_path / "link")).redactor is not None
    assert kinds == [stat.S_IFREG, stat.S_IFDIR]
    assert sorted(os.listdir(tmp_path)) == ["key", "link"]
