"""What `guardpool.ray` and `guardpool label --ray` say before there is any cluster; pieces of files; outcomes from columns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import formatkit
from guardpool import arrow
from guardpool.batch import JobParser
from guardpool.batch.files import FileError
from guardpool.cli import main
from guardpool.errors import CallerError, HostError
from guardpool.labels import LabeledItem, Labels, LabelWarning, Operation, PathLabel, ResourceLabel, ResponseLabel
from guardpool.outcomes import BackendUse, Outcome, OutcomeError, Question, Status

pytest.importorskip("pyarrow", reason="pyarrow has no wheel for this Python")

NONE: frozenset[str] = frozenset()
RESOURCE = ResourceLabel("d", frozenset({"b", "a"}), NONE, Operation.READ, (LabelWarning("tags_dropped", "x"),))
RESPONSE = ResponseLabel((PathLabel("/0", "one", NONE, frozenset({"i"})),), Labels("o", NONE, NONE), "/items")
OLDER = ResponseLabel(items=(LabeledItem({"a": [1, None, "é"]}, Labels("one", frozenset({"s"}), NONE)),))
OUTCOMES = [
    Outcome("0", "g", "label_resource", "t", Status.OK, RESOURCE, duration_us=12, attempts=1),
    Outcome(
        "1", "g", "label_response", "t", Status.OK, RESPONSE, attempts=2, backend_calls=2, backend=BackendUse(2, 1, 1)
    ),
    Outcome("2", "h", "label_response", "u", Status.OK, OLDER),
    Outcome("3", "h", "label_response", "u", Status.OK, None),
    Outcome("4", None, "", None, Status.REJECTED, error=OutcomeError("bad_job", "m", line=7, backend=("E: x",))),
    Outcome(
        *("5", "h", "label_resource", "u", Status.REFUSED, None, OutcomeError("guard_refused", "m", guard_code=-7)),
        backend_calls=1,
        backend=BackendUse(1, 0, 1, (Question("search", {"q": [1, 2.5]}),)),
    ),
]


# --- the extra, and the cluster


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import guardpool.ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HostError, match=r"^ray is not installed \(.*\): run: pip install 'guardpool\[ray\]'$"):
        guardpool.ray.label(None, [])  # type: ignore[arg-type]


def test_no_cluster_is_joined_that_the_program_did_not_name() -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    code = """
import guardpool.ray, ray
from guardpool.errors import CallerError
for call in (lambda: guardpool.ray.label(None, []), lambda: guardpool.ray.label_files(["x"], [])):
    try:
        call()
    except CallerError as error:
        print(error, ray.is_initialized())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout.splitlines()
        == ["no cluster is joined: call ray.init(...) first, and name the cluster there False"] * 2
    )


class FakeRay:
    """As much of Ray as is looked at before anything runs."""

    def __init__(self, cpus: int) -> None:
        self._cpus = cpus

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": self._cpus}}, {"Alive": False, "Resources": {"CPU": 8}}]


class FakeDataset:
    """A dataset of which only the names of the columns are looked at."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def schema(self) -> FakeDataset:
        return self


def test_columns_that_are_missing_and_nodes_without_room_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import guardpool.ray

    monkeypatch.setattr(guardpool.ray, "import_ray", lambda: FakeRay(1))
    dataset: Any = FakeDataset("op", "text")
    with pytest.raises(CallerError, match=r"^the dataset has no column id and no column tool_name; it has op, text$"):
        guardpool.ray.label(dataset, [])
    dataset = FakeDataset("id", "op", "tool_name")
    with pytest.raises(HostError, match=r"^no node of the cluster has two CPUs: one is for reading and writing"):
        guardpool.ray.label(dataset, [])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--resume", "--dedupe"], "--resume and --dedupe cannot be used with --ray: it is for a pool on one machine"),
        (["--keep-labels", "k"], "--keep-labels cannot be used with --ray"),
        (["--backend", "g=x.jsonl"], "--backend cannot be used with --ray"),
    ],
)
def test_options_for_one_pool_are_refused(options: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "x", "-o", "y", "-g", "g=g.wasm", "-p", "g=p.json", "--ray", "auto", *options]) == 2
    assert told in capfd.readouterr().err


@pytest.mark.parametrize("address", ["local", "", "ray://h:1", "host"])
def test_an_address_that_names_no_cluster_is_refused(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "x", "-o", "y", "-g", "g=g.wasm", "-p", "g=p.json", "--ray", address]) == 2
    assert f"--ray {address!r}: write HOST:PORT, or auto" in capfd.readouterr().err


# --- outcomes from columns


def test_outcomes_come_back_from_a_table_as_they_were() -> None:
    back = list(arrow.outcomes_from(arrow.table(OUTCOMES)))
    assert back == OUTCOMES
    assert [each.label_json for each in back] == [each.label_json for each in OUTCOMES]


@pytest.mark.parametrize(
    ("column", "row", "cell"),
    [
        ("operation", 0, "delete"),
        ("secrecy", 0, None),
        ("secrecy", 0, [None]),
        ("description", 0, None),
        ("warnings", 0, [{"code": "c", "detail": "d" * 81}]),
        ("labeled_paths", 1, [{"path": "/0", "description": "d", "secrecy": None, "integrity": []}]),
        ("items", 2, [{"data": "{", "description": "d", "secrecy": [], "integrity": []}]),
        ("op", 0, "label_agent"),
        ("status", 0, "fine"),
        ("status", 4, "ok"),
        ("error", 4, None),
    ],
)
def test_what_no_pool_gives_is_refused(column: str, row: int, cell: Any) -> None:
    import pyarrow as pa

    table = arrow.table(OUTCOMES)
    rows = table.to_pylist()
    rows[row][column] = cell
    changed = pa.Table.from_pylist(rows, schema=table.schema)
    with pytest.raises(arrow.BadOutcome, match=rf"^the outcome of job {row} is not valid: "):
        list(arrow.outcomes_from(changed))


def test_a_table_of_something_else_is_refused() -> None:
    import pyarrow as pa

    with pytest.raises(arrow.BadOutcome, match="there is no column op and no column status"):
        list(arrow.outcomes_from(pa.table({"id": [1]})))


# --- pieces of files


def ids(paths: list[str], piece_bytes: int, limit: int = 10_000) -> list[Any]:
    """The ids of all jobs, piece by piece."""
    from guardpool.batch import pieces

    parser = JobParser(["g"], limit)
    cut = pieces.pieces_of(paths, piece_bytes)
    return [job.id for piece in cut for portion in pieces.portions_of(piece, parser) for job in portion]


def test_every_line_is_in_one_piece_wherever_it_is_cut(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="the extra ray is not installed")
    jobs = [formatkit.job(number, "t" * (number % 7)) for number in range(12)]
    data = b"\xef\xbb\xbf" + formatkit.lines(jobs) + b"\n" + formatkit.lines([formatkit.job(12)]).rstrip(b"\n")
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(data)
    for piece_bytes in [*range(1, 90), len(data) - 1, len(data), len(data) + 1]:
        assert ids([str(path)], piece_bytes) == list(range(13)), piece_bytes


def test_folders_globs_and_every_format_are_read_and_numbered_through(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="the extra ray is not installed")
    rows = [formatkit.job(number) for number in range(250)]
    for at, name in enumerate(("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet")):
        formatkit.write(tmp_path / name, [{**each, "id": at * 1000 + each["id"]} for each in rows])
    (tmp_path / "README").write_text("no jobs")
    expected = [at * 1000 + number for at in range(4) for number in range(250)]
    assert ids([str(tmp_path)], 1000) == expected
    assert ids([f"file://{tmp_path}/*.jsonl", f"{tmp_path}/d.parquet"], 1000) == expected[:250] + expected[750:]
    without = tmp_path / "without.jsonl"
    without.write_bytes(b'{"op": "label_resource", "tool_name": "t"}\n' * 3)
    line = len(without.read_bytes()) // 3
    assert ids([str(without), str(without)], 50) == [at * line for at in range(6)]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("-", "standard input: other machines cannot read it"),
        ("nothing.jsonl", "nothing.jsonl: the jobs cannot be read: there is no such file"),
        ("zap://x/y", "zap://x/y: "),
    ],
)
def test_a_path_that_means_no_file_is_told(
    path: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec", reason="the extra ray is not installed")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError) as raised:
        ids([path], 1000)
    assert str(raised.value).startswith(told)
