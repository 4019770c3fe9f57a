"""The journal of a run: its last whole record counts, wherever it was cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardpool.batch.files import FileError
from guardpool.batch.identity import GuardIdentity, RunIdentity
from guardpool.batch.journal import Journal, Record
from guardpool.batch.seam import Mark

GUARD = GuardIdentity("g", "m", "p", None, False, "label")
RUN = RunIdentity((GUARD,), "wasmtime 1", "0.1.0", True, False, True, "none", False)


def record(jobs: int, done: list[tuple[int, int]] | None = None) -> Record:
    """A record after so many jobs."""
    return Record(
        Mark(jobs, {"bytes": 10}), Mark(jobs + 5, {}), done or [], {"bytes": 3}, {"ok": jobs}, None, 1.5, [2.0]
    )


def read(path: Path) -> int | None:
    """After how many jobs the last record was made."""
    found = Journal(str(path), RUN).read()
    if found is None:
        return None
    assert found[0] == RUN
    return found[1].mark.jobs


def test_the_last_whole_record_counts_wherever_the_journal_is_cut(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "out.part"), RUN)
    journal.append(record(1))
    journal.append(record(2, [(4, 7), (9, 10)]))
    journal.close()
    text = Path(journal.path).read_bytes()
    head, first, second = text.splitlines(keepends=True)
    for size in (*range(0, len(text), 7), *range(len(text) - 3, len(text) + 1), len(head + first)):
        Path(journal.path).write_bytes(text[:size])
        expected = 2 if size == len(text) else 1 if size >= len(head + first) else None
        if size >= len(head) or not size or b"\n" not in text[:size]:
            assert read(tmp_path / "out.part") == expected
    # What a power failure may leave: the right size, and zeros in it.
    Path(journal.path).write_bytes(head + first + bytes(len(second)))
    assert read(tmp_path / "out.part") == 1


def test_a_journal_that_has_grown_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guardpool.batch.journal._MAX_BYTES", 2000)
    journal = Journal(str(tmp_path / "out.part"), RUN)
    for jobs in range(50):
        journal.append(record(jobs))
        assert read(tmp_path / "out.part") == jobs
        assert Path(journal.path).stat().st_size <= 2000
    journal.remove()
    journal.remove()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("text", [b"hello\n", b'{"id":1}\n' * 3, b"\0" * 100 + b"\n"])
def test_a_file_that_is_no_journal_is_refused_and_kept(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "out.part.journal"
    path.write_bytes(text)
    with pytest.raises(FileError, match=r"out\.part\.journal: it is not a journal of this version"):
        read(tmp_path / "out.part")
    assert path.read_bytes() == text
    path.write_bytes(b"")
    assert read(tmp_path / "out.part") is None
