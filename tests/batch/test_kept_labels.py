"""Kept labels and equal jobs: no guard labels what it has labelled before, and nothing else takes a label for its own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import backendkit
from clikit import TIMEOUT_S, Bench, job_line, outcomes
from guardpool import Guard, Limits, samples
from guardpool.backends import Replies
from guardpool.batch import KeptLabelsError, LabelRun, kept_labels, label_file, reuse
from guardpool.batch.files import FileError
from guardpool.batch.jobline import job_line as job_line_of
from guardpool.batch.kept_labels import KeptLabel, KeptLabels
from guardpool.batch.kept_use import Keeper, KeptLookup, KeptWitness
from guardpool.protocol.reply_memory import reply_digest
from guardpool.protocol.wire import BackendTally, ResultItem, UsedItem
from poolkit import POLICY, guard

LABEL = KeptLabel(1, "label_resource", b'{"description":"x","secrecy":[],"integrity":[],"operation":"read"}', 1, 2)
TOLD = [UsedItem("who", b"{}", bytes(16)), UsedItem("who", b"[]", bytes(16))]
KEYS = [bytes([number]) * 32 for number in (1, 2, 3)]


class Asked:
    """A backend that answers what it is told to, and counts questions."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.counts: Counter[str] = Counter()

    def __call__(self, _tool: str, args: Any) -> str:
        name = args["tool_name"]
        self.counts[name] += 1
        return self.answers[name]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def write_jobs(tmp_path: Path, *tools: str) -> Path:
    path = tmp_path / "jobs"
    lines = [job_line(0, tool).replace('"id": 0', f'"id": "{at}"') for at, tool in enumerate(tools)]
    path.write_text("".join(lines))
    return path


def label(
    tmp_path: Path, *tools: str, one: Guard | None = None, **options: Any
) -> tuple[LabelRun, list[dict[str, Any]]]:
    """Label jobs with these tools; their inputs differ in nothing else."""
    out = tmp_path / "out"
    limits = Limits(timeout_s=options.pop("timeout_s", 30.0))
    run = label_file(
        write_jobs(tmp_path, *tools), out, [one or guard()], timing=False, **{"workers": 1, "limits": limits, **options}
    )
    lines = outcomes(out)
    assert [line["id"] for line in lines] == [str(at) for at in range(len(tools))]
    assert sum(run.counts.values()) == len(tools)
    return run, lines


def told(lines: list[dict[str, Any]]) -> list[Any]:
    """What became of each job, but for how often it was tried."""
    return [{**line, "attempts": None} for line in lines]


def test_a_second_run_takes_every_label_from_the_file(tmp_path: Path, kept: Path) -> None:
    tools = [f"k{number}" for number in range(600)]
    first, made = label(tmp_path, *tools, keep_labels=kept)
    second, given = label(tmp_path, *tools, keep_labels=kept, ordered=False, workers=2)
    assert (first.given, second.given) == (0, 600)
    assert told(made) == told(given)
    assert {line["attempts"] for line in made} == {1}
    assert {line["attempts"] for line in given} == {0}, "no worker began it"
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith("kept")} == {"kept"}
    assert kept.stat().st_mode & 0o777 == 0o600


def test_only_labels_of_the_same_guard_policy_options_version_and_input_count(tmp_path: Path, kept: Path) -> None:
    label(tmp_path, "k1", "k2", keep_labels=kept)
    other_policy = {"allow-only": {**POLICY["allow-only"], "min-integrity": "merged"}}
    for options in (
        {"one": guard(wat="good")},
        {"one": Guard("vicious", guard().wasm, other_policy)},
        {"deterministic": True},
        {"isolation": "job"},
        {"timeout_s": 29.0},
    ):
        run, _ = label(tmp_path, "k1", keep_labels=kept, **options)
        assert run.given == 0, options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guardpool.batch.identity.__version__", "0.0.9")
        assert label(tmp_path, "k1", keep_labels=kept)[0].given == 0
    run, lines = label(tmp_path, "k2", "k3", "k1", keep_labels=kept, one=guard("other", wat="vicious"))
    assert run.given == 2
    assert [line["guard"] for line in lines] == ["other"] * 3, "a guard's name shapes no label"


def test_what_has_no_label_or_asked_in_vain_is_never_kept(tmp_path: Path, kept: Path) -> None:
    lenient = Guard("lenient", backendkit.asks_then(_FIXED_LABEL), POLICY)
    for one, tools in ((guard(), ["t1", "n1", "x1", "i1"]), (lenient, ["k1"])):
        for _ in range(2):
            run, lines = label(tmp_path, *tools, one=one, keep_labels=kept)
            assert run.given == 0
    assert lines[0]["status"] == "ok"
    with contextlib.closing(sqlite3.connect(kept)) as db:
        assert db.execute("SELECT count(*) FROM labels").fetchone() == (0,)


_FIXED_LABEL = "(memory.copy (local.get 2) (i32.const 64) (i32.const 15)) (i32.const 15)"


def test_a_worker_that_ends_with_a_trap_or_by_its_deadline_is_believed(tmp_path: Path, kept: Path) -> None:
    tools = ["k1", "t1", "k2", "x1", "k3", "s1", "k4"]
    label(tmp_path, *tools, keep_labels=kept, timeout_s=0.5)
    run, lines = label(tmp_path, *tools, keep_labels=kept, timeout_s=0.5)
    assert run.given == 4
    assert [line["status"] for line in lines] == ["ok", "trap", "ok", "trap", "ok", "timeout", "ok"]


def test_a_reply_that_changed_makes_a_miss_and_others_are_asked_once(tmp_path: Path, kept: Path) -> None:
    wasm = backendkit.describes_by_answer()
    tools = ["a", "b", "a", "c"]

    def run(**answers: str) -> tuple[int, list[Any], Counter[str]]:
        backend = Asked(**answers)
        done, lines = label(tmp_path, *tools, one=Guard("g", wasm, POLICY, backend=backend), keep_labels=kept)
        assert [line["backend"]["answered"] for line in lines] == [1] * 4
        return done.given, [line["label"]["description"] for line in lines], backend.counts

    assert run(a="A", b="B", c="C") == (0, ["A", "B", "A", "C"], {"a": 1, "b": 1, "c": 1})
    # What was told then is not known to this pool: it is asked again, for the label and not by a guard.
    assert run(a="A", b="B", c="C") == (4, ["A", "B", "A", "C"], {"a": 1, "b": 1, "c": 1})
    # The guard's instance might have remembered what it was told of b when it labelled c, but not when it labelled a.
    assert run(a="A", b="other", c="C") == (2, ["A", "other", "A", "C"], {"a": 1, "b": 1, "c": 1})
    assert run(a="A", b="other", c="C") == (4, ["A", "other", "A", "C"], {"a": 1, "b": 1, "c": 1})


def test_any_number_of_replies_is_asked_for_again(tmp_path: Path, kept: Path) -> None:
    wasm = backendkit.describes_by_answer()
    tools = [f"a{number}" for number in range(150)]
    for given in (0, 150):
        one = Guard("g", wasm, POLICY, backend=Asked(**dict.fromkeys(tools, "A")))
        assert label(tmp_path, *tools, one=one, keep_labels=kept)[0].given == given


def test_a_guard_that_remembers_a_reply_has_it_compared_for_every_label(tmp_path: Path, kept: Path) -> None:
    def run(replies: list[str], **options: Any) -> tuple[LabelRun, list[Any]]:
        backend = Replies(replies)
        one = Guard.from_file(samples.GUARD, "github", samples.POLICY, backend=backend)
        done = label_file(tmp_path / "samples", tmp_path / "out", [one], workers=1, **options)
        return done, [line["label"] for line in outcomes(tmp_path / "out")]

    (tmp_path / "samples").write_bytes(b"".join(map(job_line_of, samples.jobs(300))))
    before = list(samples.replies())
    run(before, keep_labels=kept)
    assert run(before, keep_labels=kept)[0].given == 300
    changed = [line.replace('"private":false', '"private":true') for line in before]
    assert changed != before
    done, labels = run(changed, keep_labels=kept)
    assert done.given < 300
    assert labels == run(changed)[1]


@pytest.mark.parametrize("asks", ["label_agent", "_initialize"])
def test_what_a_guard_was_told_before_its_first_job_is_compared_too(tmp_path: Path, kept: Path, asks: str) -> None:
    given = []
    wasm = guard(wat="agent_asks").wasm if asks == "label_agent" else backendkit.asks_when_initialised()
    for answer in ("A", "A", "other"):
        one = Guard("g", wasm, POLICY, backend=lambda _tool, _args, answer=answer: answer)
        run, lines = label(tmp_path, "k1", "k2", one=one, keep_labels=kept)
        given.append(run.given)
        assert [line["status"] for line in lines] == ["ok", "ok"]
        assert "backend" not in lines[0]
    assert given == [0, 2, 0]


def test_a_reply_that_is_gone_makes_a_miss(tmp_path: Path, kept: Path) -> None:
    wasm = backendkit.describes_by_answer()
    label(tmp_path, "a", one=Guard("g", wasm, POLICY, backend=Asked(a="A")), keep_labels=kept)
    for backend in (Asked(), None):
        run, lines = label(tmp_path, "a", one=Guard("g", wasm, POLICY, backend=backend), keep_labels=kept)
        assert (run.given, lines[0]["status"]) == (0, "refused")


def test_a_backend_that_hangs_is_waited_for_once(kept: Path) -> None:
    asked: list[str] = []

    class Pool:
        """A pool whose backend takes questions and never answers."""

        def known_reply(self, *_question: Any) -> None:
            return None

        def ask(self, _guard: int, tool: str, _args: bytes, _answered: Any) -> None:
            asked.append(tool)

    with contextlib.closing(KeptLabels(kept)) as file:
        file.keep([(KEYS[:1], LABEL), (KEYS[1:2], LABEL)], [(1, 0, TOLD[0]), (1, 1, TOLD[1])])
        file.believe(1)
        lookup = KeptLookup(file)
        pool: Any = Pool()
        lookup.begin(pool, 0.01)
        assert [lookup.of([(key, 0)]) for key in KEYS[:2]] == [{}, {}]
    assert asked == ["who", "who"]


def test_a_reply_that_changes_during_a_run_is_noticed(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        """A pool that knows the reply to every question."""

        reply = b"A"

        def known_reply(self, *_question: Any) -> bytes:
            return self.reply

    with contextlib.closing(KeptLabels(kept)) as file:
        made = LABEL._replace(told=1)
        file.keep([(KEYS[:1], made)], [(1, 0, UsedItem("who", b"{}", reply_digest(b"A")))])
        file.believe(1)
        lookup = KeptLookup(file)
        pool: Any = Pool()
        lookup.begin(pool, 0.01)
        assert lookup.of([(KEYS[0], 0)]) == {(KEYS[0], 0): made}
        pool.reply = b"B"
        monkeypatch.setattr("guardpool.batch.kept_use._CHECK_S", 0.0)
        assert lookup.of([(KEYS[0], 0)]) == {}


@pytest.mark.parametrize(
    "doubtful", [(0, None), (1, [])], ids=["more replies than fit", "a question without an answer"]
)
def test_from_a_job_of_which_not_all_is_known_an_instance_has_no_label_kept(doubtful: tuple[int, Any]) -> None:
    kept: list[tuple[bytes, ...]] = []

    class Noting:
        """A keeper that keeps nothing."""

        def add(self, keys: tuple[bytes, ...], _label: KeptLabel) -> None:
            kept.append(keys)

        def add_reply(self, *_reply: Any) -> None:
            pass

    keeper: Any = Noting()
    witness = KeptWitness(keeper, lambda task: (KEYS[task.index],))
    for index, (failed, used) in enumerate([(0, TOLD), doubtful, (0, TOLD)]):
        task: Any = SimpleNamespace(guard=0, op="label_resource", index=index)
        tally = BackendTally(1, failed, [], [], used)
        witness.labelled(7, [task], [ResultItem(index, "ok", LABEL.label, 0, 1, [], tally)])
    assert kept == [(KEYS[0],)]


def test_labels_for_equal_jobs_are_held_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    same = reuse._Same()
    monkeypatch.setattr(reuse, "MAX_SAME_BYTES", 2 * (len(LABEL.label) + reuse._ENTRY_BYTES))
    for key in KEYS:
        same.add((key, 0), LABEL)
    assert [same.get((key, 0)) for key in KEYS] == [None, LABEL, LABEL]


def test_labels_of_a_worker_that_dies_by_itself_are_not_believed(tmp_path: Path, kept: Path) -> None:
    me = psutil.Process()

    def progress(run: LabelRun) -> None:
        if run.counts and not killed:
            killed.append(True)
            forkserver = max(me.children(), key=lambda child: len(child.children()))
            for worker in forkserver.children():
                os.kill(worker.pid, signal.SIGKILL)

    killed: list[bool] = []
    tools = [f"w{number}" for number in range(800)]
    first, _ = label(tmp_path, *tools, keep_labels=kept, progress=progress)
    assert killed
    assert first.stats is not None
    assert first.stats.respawns
    second, _ = label(tmp_path, *tools, keep_labels=kept)
    assert 0 < second.given < 800


def test_a_poisoned_label_is_found_and_made_anew(tmp_path: Path, kept: Path) -> None:
    label(tmp_path, "k1", "k2", "k3", keep_labels=kept)
    with contextlib.closing(sqlite3.connect(kept, isolation_level=None)) as db:
        ((text,),) = db.execute("SELECT label FROM labels LIMIT 1").fetchall()
        poison = text.replace(b"private:o/r", b"private:x/x")
        assert poison != text
        assert db.execute("UPDATE labels SET label = ? WHERE label = ?", (poison, text)).rowcount == 1
    run, lines = label(tmp_path, "k1", "k2", "k3", keep_labels=kept)
    assert run.given == 2
    assert run.reuse is not None
    assert run.reuse.problems == [f"{kept}: 1 row was damaged and removed"]
    assert {tuple(line["label"]["secrecy"]) for line in lines} == {("private:o/r",)}
    assert label(tmp_path, "k1", "k2", "k3", keep_labels=kept)[0].given == 3


@pytest.mark.parametrize(
    "change",
    [
        "label = '{}'",
        "label = x'7b7d'",
        "op = 'label_response'",
        "worker = 2",
        "told = told - 1",
        "asked = 'many'",
        "asked = asked + 1",
        "digest = x'00'",
        "keys = zeroblob(32)",
    ],
)
def test_no_change_of_a_row_goes_unseen(kept: Path, change: str) -> None:
    with contextlib.closing(KeptLabels(kept)) as file:
        file.keep([(KEYS[:1], LABEL)])
        file.believe(1)
        file.believe(2)
        assert file.find(KEYS) == {KEYS[0]: LABEL}
    with contextlib.closing(sqlite3.connect(kept, isolation_level=None)) as db:
        db.execute(f"UPDATE labels SET {change}")
    with contextlib.closing(KeptLabels(kept)) as file:
        assert file.find([*KEYS, bytes(32)]) == {}
        assert file.damaged == 1


def test_labels_count_when_their_worker_has_left_without_a_fault(kept: Path) -> None:
    looking = KeptLabels(kept)
    keeper = Keeper(KeptLabels(kept))
    for worker in (1, 2):
        keeper.add((KEYS[worker],), LABEL._replace(worker=worker))
    for number, reply in enumerate(TOLD):
        keeper.add_reply(1, number, reply)
    keeper.left(1, True)
    keeper.left(2, False)
    keeper.close()
    assert looking.find(KEYS) == {KEYS[1]: LABEL}
    assert looking.told(1) == TOLD
    # The first label of an instance stays, and that of another one takes its place.
    for worker, told, expected in ((1, 3, 2), (3, 0, 0)):
        looking.keep([((KEYS[1],), LABEL._replace(worker=worker, told=told))])
        looking.believe(worker)
        assert looking.find(KEYS)[KEYS[1]].told == expected
    looking.close()


@pytest.mark.parametrize("held_bytes", [kept_labels._MOST_HELD_BYTES, 10_000, 0])
def test_every_label_is_found_in_whatever_order_it_is_asked_for(
    kept: Path, monkeypatch: pytest.MonkeyPatch, held_bytes: int
) -> None:
    monkeypatch.setattr(kept_labels, "_MOST_HELD_BYTES", held_bytes)
    numbers = range(3000)
    keys = [sha256(b"%d" % number).digest() for number in numbers]
    others = [sha256(b"other %d" % number).digest() for number in numbers]
    labels = [LABEL._replace(worker=number % 3, asked=number) for number in numbers]
    with contextlib.closing(KeptLabels(kept)) as file:
        file.keep(zip(zip(others, keys), labels))
        file.believe(0)
        file.believe(1)
    with contextlib.closing(sqlite3.connect(kept, isolation_level=None)) as db:
        db.execute("UPDATE labels SET told = 7 WHERE asked = 1234")
    believed = {number for number in numbers if number % 3 < 2 and number != 1234}
    with contextlib.closing(KeptLabels(kept)) as file:
        for order in (numbers, reversed(numbers), random.Random(7).sample(numbers, 3000)):
            asked = list(order)
            for names in (keys, others):
                for first in range(0, 3000, 100):
                    part = asked[first : first + 100]
                    expected = {names[number]: labels[number] for number in part if number in believed}
                    assert file.find([*(names[number] for number in part), bytes(32)]) == expected
        assert file.damaged == 1
        file.believe(2)
        assert file.find(keys[2:3]) == {keys[2]: labels[2]}


def test_a_label_that_was_removed_gives_its_place_to_no_other(kept: Path) -> None:
    with contextlib.closing(KeptLabels(kept)) as file:
        file.believe(1)
        file.keep([(KEYS[:1], LABEL), (KEYS[1:2], LABEL)])
        file._db.execute("UPDATE labels SET told = 7 WHERE number = 2")
        assert set(file.find(KEYS)) == {KEYS[0]}
        file.keep([(KEYS[2:], LABEL)])
        file.keep([(KEYS[1:2], LABEL)])
        assert set(file.find(KEYS)) == set(KEYS)


def test_a_label_of_another_instance_takes_the_place_of_the_earlier_one_under_both_keys(kept: Path) -> None:
    with contextlib.closing(KeptLabels(kept)) as file:
        for worker, spelling in ((1, KEYS[1]), (2, KEYS[2])):
            file.keep([((KEYS[0], spelling), LABEL._replace(worker=worker))])
            file.believe(worker)
        found = file.find(KEYS)
        assert {key: label.worker for key, label in found.items()} == {KEYS[0]: 2, KEYS[2]: 2}


@pytest.mark.parametrize(
    "change", ["DELETE FROM told WHERE number = 1", "UPDATE told SET reply = zeroblob(15) WHERE number = 1"]
)
def test_a_reply_that_is_damaged_or_missing_ends_what_is_known_of_an_instance(kept: Path, change: str) -> None:
    with contextlib.closing(KeptLabels(kept)) as file:
        file.keep([], [(1, number, reply) for number, reply in enumerate([*TOLD, UsedItem("x", b"1", bytes(16))])])
        assert len(file.told(1)) == 3
        file._db.execute(change)
        assert file.told(1) == TOLD[:1]


def _is_a_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def _has_two_names(path: Path) -> None:
    os.link(path, path.with_name("second"))


def _folder_is_open(path: Path) -> None:
    path.parent.chmod(0o777)


def _has_a_planted_log(path: Path) -> None:
    path.with_name("kept-wal").write_bytes(b"")


def _execute(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(statement)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.chmod(0o644), r"it has mode 0644, not 0600; if no one else wrote it, run chmod 600"),
        (_is_a_link, "it is a symbolic link, not a file"),
        (_has_two_names, "it has 2 names"),
        (_folder_is_open, r"others can write to its folder .* \(mode 0777"),
        (_has_a_planted_log, "kept-wal: the kept labels cannot be trusted: it has mode 0644"),
        (lambda path: path.write_bytes(b"no database" * 100), "the kept labels cannot be used: file is not a database"),
        (
            lambda path: os.truncate(path, 5000),
            "the kept labels cannot be used: database disk image is malformed; choose",
        ),
        (_execute("PRAGMA user_version=2"), "have the format 2, of another version of guardpool, and this one has 1"),
        (_execute("PRAGMA application_id=7"), "it is a database, but holds no kept labels"),
        (_execute("CREATE TABLE more (x)"), "its tables are not those of kept labels"),
        (
            _execute("CREATE TRIGGER t AFTER INSERT ON honest BEGIN DELETE FROM labels; END"),
            "its tables are not those of kept labels",
        ),
    ],
)
def test_a_file_that_cannot_be_trusted_or_used_is_refused(
    kept: Path, change: Callable[[Path], None], message: str
) -> None:
    with contextlib.closing(KeptLabels(kept)) as file:
        file.keep([(KEYS[:1], LABEL)])
    change(kept)
    try:
        with pytest.raises(KeptLabelsError, match=message):
            KeptLabels(kept)
    finally:
        kept.parent.chmod(0o700)


def test_a_link_above_the_file_is_followed_once(tmp_path: Path) -> None:
    """Whoever may change the link must not have the labels read from elsewhere than where it was looked."""
    for name in ("real", "other"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    connect = sqlite3.connect

    def changed(*args: Any, **options: Any) -> sqlite3.Connection:
        link.unlink()
        link.symlink_to("other")
        return connect(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", changed)
        KeptLabels(link / "kept").close()
    assert [sorted(os.listdir(tmp_path / name)) for name in ("real", "other")] == [["kept"], []]


def test_a_file_that_breaks_while_it_is_used_costs_no_label(tmp_path: Path, kept: Path) -> None:
    def progress(run: LabelRun) -> None:
        if not broken:
            broken.append(True)
            kept.write_bytes(b"broken" * 1000)

    label(tmp_path, *(f"k{number}" for number in range(300)), keep_labels=kept)
    broken: list[bool] = []
    run, lines = label(tmp_path, *(f"k{number}" for number in range(600)), keep_labels=kept, progress=progress)
    assert {line["status"] for line in lines} == {"ok"}
    assert run.reuse is not None
    assert len(run.reuse.problems) in (1, 2)
    assert all(problem.startswith(f"{kept}: the kept labels cannot be used: ") for problem in run.reuse.problems)


def test_an_output_does_not_take_the_place_of_kept_labels(tmp_path: Path) -> None:
    for name in ("out", "out.part", "out.manifest.json"):
        with pytest.raises(FileError, match="the output would take the place of the kept labels"):
            label(tmp_path, "k1", keep_labels=tmp_path / name)
    assert not (tmp_path / "out").exists()


# --- equal jobs


def test_the_order_of_names_does_not_count_and_every_value_does(tmp_path: Path) -> None:
    def line(args: str, more: str = "") -> str:
        return f'{{"op": "label_resource", "tool_name": "k1", "tool_args": {args}{more}}}\n'

    same = ['{"a": 1, "b": [{"c": 2, "d": "\u00fc"}]}', '{"b":[{"d":"\\u00fc", "c":2.0}],"a":1e0}']
    others = [
        '{"a": 1, "b": [{"c": 2, "d": "u"}]}',
        '{"a": -0}',
        '{"a": 0}',
        '{"a": "0"}',
        '{"a": 0.1}',
        "null",
        "[1,2]",
        "[2,1]",
    ]
    lines = [
        *map(line, same),
        *map(line, others),
        line("null", ', "capabilities": {}'),
        line("null", ', "session": "s"'),
    ]
    (tmp_path / "lines").write_text("".join(lines))
    run = label_file(tmp_path / "lines", tmp_path / "out", [guard()], workers=1, dedupe=True)
    assert run.given == 2, "the first pair, and the session, on which no label depends"
    assert [line["id"] for line in outcomes(tmp_path / "out") if not line["attempts"]] == [1, len(lines) - 1]


@pytest.mark.parametrize("ordered", [True, False])
def test_equal_jobs_are_labelled_once(tmp_path: Path, ordered: bool) -> None:
    tools = [f"k{number % 7}" for number in range(700)]
    run, lines = label(tmp_path, *tools, dedupe=True, workers=2)
    assert [line["label"]["description"] for line in lines] == tools
    assert run.stats is not None
    assert (run.given, run.stats.outcomes) == (693, {"ok": 7})
    assert Counter(line["attempts"] for line in lines) == {0: 693, 1: 7}


def test_jobs_that_equal_one_without_a_label_have_an_outcome_of_their_own(tmp_path: Path) -> None:
    tools = [*("t1", "n1", "x1", "k1") * 5]
    run, lines = label(tmp_path, *tools, dedupe=True)
    statuses = {"t": "trap", "n": "refused", "x": "trap", "k": "ok"}
    assert [line["status"] for line in lines] == [statuses[tool[0]] for tool in tools]
    assert run.given == 4
    assert {line["attempts"] for line in lines if line["status"] != "ok"} == {1}


def test_equal_jobs_of_a_run_that_is_stopped_are_left_out_with_theirs(tmp_path: Path) -> None:
    class Killed(BaseException):
        """What ends the run."""

    def progress(run: LabelRun) -> None:
        if run.done:
            raise Killed

    with pytest.raises(Killed):
        label(tmp_path, *(["k1"] + ["z1"] * 2000), dedupe=True, progress=progress)
    lines = outcomes(tmp_path / "out.part")
    assert {line["status"] for line in lines} == {"ok"}


def test_both_together_label_each_job_once_in_two_runs(tmp_path: Path, kept: Path) -> None:
    label(tmp_path, "k1", "k1", "k2", dedupe=True, keep_labels=kept)
    run, _ = label(tmp_path, "k1", "k1", "k3", "k3", dedupe=True, keep_labels=kept)
    assert run.reuse is not None
    assert (run.reuse.from_file, run.reuse.from_run) == (2, 1)


def two_servers(**answers: str) -> list[Guard]:
    """Guards that differ in name and backend alone."""
    wasm = backendkit.describes_by_answer()
    return [Guard(name, wasm, POLICY, backend=Asked(a=answer)) for name, answer in answers.items()]


@pytest.mark.parametrize("each_guard", [True, False])
def test_equal_jobs_of_guards_with_other_backends_have_their_own_labels(tmp_path: Path, each_guard: bool) -> None:
    given, told = label_both(tmp_path, {"gh": "public", "ghes": "private"}, each_guard, dedupe=True)
    assert (given, told) == (4, {("gh", "public"), ("ghes", "private")})


@pytest.mark.parametrize("changed", ["gh", "ghes"])
def test_a_kept_label_counts_by_the_answers_of_the_guard_that_is_to_have_it(
    tmp_path: Path, kept: Path, changed: str
) -> None:
    answers = {"gh": "public", "ghes": "public"}
    label_both(tmp_path, answers, True, keep_labels=kept)
    answers[changed] = "private"
    given, told = label_both(tmp_path, answers, True, keep_labels=kept)
    assert (given, told) == (3, set(answers.items())), "the other one has it, whichever made it"


def label_both(
    tmp_path: Path, answers: dict[str, str], each_guard: bool, **options: Any
) -> tuple[int, set[tuple[str, str]]]:
    """Label equal jobs by guards that differ in name and backend alone, three by each; the labels' descriptions."""
    path, out = tmp_path / "jobs", tmp_path / "out"
    line = {"op": "label_resource", "tool_name": "a", "tool_args": {}}
    named = [line] if each_guard else [{"guard": name, **line} for name in answers]
    path.write_text("".join(json.dumps({"id": at, **each}) + "\n" for at, each in enumerate(named * 3)))
    wasm = backendkit.describes_by_answer()
    guards = [Guard(name, wasm, POLICY, backend=Asked(a=answer)) for name, answer in answers.items()]
    done = label_file(path, out, guards, workers=1, each_guard=each_guard, **options)
    return done.given, {(line["guard"], line["label"]["description"]) for line in outcomes(out)}


# --- the command


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.prepare(tmp_path_factory.mktemp("kept"))


def test_two_commands_at_once_share_one_file(bench: Bench, tmp_path: Path, kept: Path) -> None:
    jobs = bench.folder / "both.jsonl"
    jobs.write_text("".join(job_line(number, "x") for number in range(3000)))

    def words(name: str) -> tuple[object, ...]:
        return ("label", jobs, "-o", tmp_path / name, *bench.guard, "-w", 1, "--keep-labels", kept, "--no-timing")

    both = [bench.start(*words(name), stderr=subprocess.PIPE) for name in ("one", "two")]
    for process in both:
        said = process.communicate(timeout=TIMEOUT_S)[1].decode()
        assert process.returncode == 0, said
        assert "cannot be used" not in said
    done = bench.run(*words("third"), "--stats", tmp_path / "stats", "--dedupe")
    said = f"3,000 labels were taken from {kept} and 0 jobs equal another one (100% of all jobs)"
    assert done.stderr.decode().splitlines()[0] == f"guardpool: {said}"
    stats = json.loads((tmp_path / "stats").read_text())
    assert (stats["kept_labels"], stats["equal_jobs"], stats["outcomes"]) == (3000, 0, {})
    lines = [told(outcomes(tmp_path / name)) for name in ("one", "two", "third")]
    assert lines[0] == lines[1] == lines[2]


def test_a_file_that_cannot_be_used_is_one_line_and_nothing_is_written(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old\n")
    (tmp_path / "kept").write_bytes(b"mine" * 300)
    (tmp_path / "kept").chmod(0o600)
    jobs = bench.jobs(["x"])
    done = bench.call("label", jobs, "-o", tmp_path / "old", *bench.guard, "--keep-labels", tmp_path / "kept")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"guardpool: {tmp_path}/kept: the kept labels cannot be used: file is not a database; choose another file\n"
    )
    assert (tmp_path / "old").read_text() == "old\n"
    assert (tmp_path / "kept").read_bytes() == b"mine" * 300
    assert sorted(os.listdir(tmp_path)) == ["kept", "old"]
