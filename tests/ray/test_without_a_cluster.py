"""What `guardpool.ray` says before there is any cluster, and what its actors do, in this process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import formatkit
import poolkit
from guardpool import Limits
from guardpool.batch import pieces
from guardpool.batch.files import FileError
from guardpool.batch.outcome_lines import outcomes_of_lines
from guardpool.errors import CallerError, HostError
from guardpool.outcomes import Outcome
from guardpool.ray import ClusterFailed, VersionsDiffer
from guardpool.sizes import MIB

pytest.importorskip("pyarrow", reason="pyarrow has no wheel for this Python")
pytest.importorskip("fsspec", reason="the extra ray is not installed")


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


def test_versions_name_the_engine_once() -> None:
    import guardpool.ray
    from guardpool.machine.engines import choose_engine

    choice = choose_engine("auto")
    assert guardpool.ray.versions("auto")["the engine"] == f"{choice.name} {choice.packages[0].version}"


# --- what an actor does, in this process


@contextmanager
def labeller(kind: type, **options: Any) -> Iterator[Any]:
    """An actor of the vicious guard."""
    import guardpool.ray

    made = kind([poolkit.guard("vicious")], {"workers": 1, **options}, guardpool.ray.versions("auto"))
    try:
        yield made
    finally:
        made._pool.close()


def labelled(piece: pieces.Piece, **options: Any) -> Iterator[list[Outcome]]:
    """The outcomes of a piece, block by block."""
    import pyarrow as pa

    import guardpool.ray

    with labeller(guardpool.ray._PieceLabeller, **options) as actor:
        for block in actor(pa.table({"piece": [msgspec.json.encode(piece)]})):
            for cell in block.column(0):
                yield outcomes_of_lines(memoryview(cell.as_buffer()))


def test_pieces_become_lines_cut_by_what_the_jobs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that is labelled again has the same jobs in the same blocks, whenever its outcomes came."""
    import guardpool.ray

    monkeypatch.setattr(guardpool.ray, "_BLOCK_BYTES", 200_000)
    monkeypatch.setattr(guardpool.ray, "_BLOCK_JOBS", 2048)
    rows = [{"id": at, "op": "label_resource", "tool_name": f"k{at}"} for at in range(5000)]
    rows[4500]["tool_args"] = "x" * 200_000
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(formatkit.lines(rows) + b"{")
    [piece] = pieces.pieces_of([str(path)], 1)
    made = list(labelled(piece, limits=Limits(max_input_bytes=MIB), workers=2))
    assert [len(each) for each in made] == [2048, 2048, 512, 393]
    outcomes = [outcome for each in made for outcome in each]
    assert [each.id for each in outcomes[:-1]] == list(range(5000))
    assert [each.status.value for each in outcomes] == ["ok"] * 5000 + ["rejected"]


def test_a_damaged_piece_gives_the_outcomes_before_its_damage(tmp_path: Path) -> None:
    rows = [
        {**formatkit.job(at, f"k{at}"), "tool_args": hashlib.sha256(bytes([at % 256])).hexdigest()}
        for at in range(9000)
    ]
    path = formatkit.write(tmp_path / "jobs.jsonl.gz", rows)
    os.truncate(path, path.stat().st_size * 2 // 3)
    [piece] = pieces.pieces_of([str(path)], 1)
    made: list[Outcome] = []
    with pytest.raises(FileError, match="the gzip stream ends too early"):
        for block in labelled(piece):
            made += block
    assert [each.id for each in made] == list(range(len(made)))
    assert len(made) > 4096


def test_an_empty_piece_becomes_an_empty_block(tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_bytes(b"\n\n")
    [piece] = pieces.pieces_of([str(tmp_path / "jobs.jsonl")], 1)
    assert list(labelled(piece)) == [[]]


def test_a_batch_of_rows_becomes_columns_with_its_ids_as_they_were() -> None:
    import pyarrow as pa

    import guardpool.ray

    table = pa.table(
        {
            "id": pa.array([7, None, 9], pa.int16()),
            "op": ["label_resource"] * 3,
            "tool_name": ["k1", "k2", "k3"],
            "tool_args": ['{"a": 1}', "{", None],
        }
    )
    with labeller(guardpool.ray._BatchLabeller) as actor:
        made = actor(table)
    assert made.schema.field("id").type == pa.int16()
    assert made.column("id").to_pylist() == [7, None, 9]
    assert made.column("status").to_pylist() == ["ok", "rejected", "ok"]
    assert made.column("description").to_pylist() == ["k1", None, "k3"]


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        (
            "\x1b[36mray::X()\x1b[39m\n  File ...\nguardpool.batch.files.FileError: a.gz: the jobs cannot be read: cut\n",
            FileError,
            "a.gz: the jobs cannot be read: cut",
        ),
        ("guardpool.ray.VersionsDiffer: a node has another\n", VersionsDiffer, "a node has another"),
        (
            "x\nValueError: odd\nray.exceptions.RayTaskError: y: z",
            ClusterFailed,
            "the cluster gave up: ValueError on a node: odd",
        ),
        ("out of memory\nmore", ClusterFailed, "the cluster gave up: out of memory"),
    ],
)
def test_what_a_node_raised_comes_as_our_own_error(text: str, kind: type, told: str) -> None:
    import guardpool.ray

    error = guardpool.ray._own_error(Exception(text))
    assert type(error) is kind
    assert str(error) == told
