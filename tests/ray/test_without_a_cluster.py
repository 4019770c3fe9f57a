"""What `guardpool.ray` and `guardpool label --ray` say before there is any cluster; pieces of files; outcomes from columns."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import zstandard

import formatkit
import guardkit
import poolkit
from guardpool import Limits, arrow
from guardpool.batch import JobParser, pieces
from guardpool.batch.binary import NotLines
from guardpool.batch.files import FileError
from guardpool.batch.inputs import Inputs
from guardpool.batch.outcome_lines import outcomes_of_lines
from guardpool.cli import main
from guardpool.errors import CallerError, HostError
from guardpool.jobs import Prepared
from guardpool.labels import LabeledItem, Labels, LabelWarning, Operation, PathLabel, ResourceLabel, ResponseLabel
from guardpool.outcomes import BackendUse, Outcome, OutcomeError, Question, Status
from guardpool.ray import ClusterFailed, VersionsDiffer
from guardpool.sizes import MIB

pytest.importorskip("pyarrow", reason="pyarrow has no wheel for this Python")
pytest.importorskip("fsspec", reason="the extra ray is not installed")

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


class JoinableRay(FakeRay):
    """As much of Ray as joins a cluster."""

    def __init__(self) -> None:
        super().__init__(2)
        self.joined: list[str] = []
        context = SimpleNamespace()
        self.data = SimpleNamespace(DataContext=SimpleNamespace(get_current=lambda: context))

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str, **_options: Any) -> None:
        self.joined.append(address)


@pytest.fixture
def joinable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JoinableRay]:
    from guardpool.cli import ray

    fake = JoinableRay()
    monkeypatch.setattr(ray, "import_ray", lambda: fake)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    disabled = logging.root.manager.disable
    yield fake
    logging.disable(disabled)


@pytest.fixture
def listening() -> Iterator[str]:
    """The address of something that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_auto_joins_the_cluster_that_ray_start_noted(joinable: JoinableRay, listening: str, tmp_path: Path) -> None:
    from guardpool.cli import ray

    (tmp_path / "ray/ray_current_cluster").write_text(f"{listening}\n")
    ray._join("auto")
    assert joinable.joined == [listening]


def test_auto_joins_the_cluster_of_the_environment(
    joinable: JoinableRay, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guardpool.cli import ray

    monkeypatch.setenv("RAY_ADDRESS", listening)
    ray._join("auto")
    assert joinable.joined == [listening]


@pytest.mark.parametrize(
    ("noted", "owner", "named", "told"),
    [
        (
            None,
            0,
            "",
            "this machine is not a node of a cluster: .*/ray/ray_current_cluster cannot be read: run ray start",
        ),
        ("127.0.0.1:1", 0, "", "no cluster could be joined at 127.0.0.1:1: .*refused"),
        (
            "127.0.0.1:1",
            12345,
            "",
            "another user wrote .*/ray_current_cluster, user 12345: name HOST:PORT if you trust",
        ),
        ("auto", 0, "", ".*/ray_current_cluster holds no HOST:PORT"),
        ("127.0.0.1:1", 0, "ray://x:1", "RAY_ADDRESS is 'ray://x:1', which is not HOST:PORT"),
    ],
)
def test_auto_joins_no_cluster_that_nobody_noted_here(
    noted: str | None,
    owner: int,
    named: str,
    told: str,
    joinable: JoinableRay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from guardpool.cli import ray

    if owner and os.geteuid():
        pytest.skip("only root can give a file away")
    monkeypatch.setenv("RAY_ADDRESS", named)
    if noted is not None:
        path = tmp_path / "ray/ray_current_cluster"
        path.write_text(noted)
        os.chown(path, owner or os.geteuid(), -1)
    with pytest.raises(HostError, match=f"^--ray auto: {told}"):
        ray._join("auto")
    assert joinable.joined == []


@pytest.fixture
def run_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs the command with guard `h` as on a cluster that gives these outcomes; files are in `tmp_path`."""
    from guardpool.cli import ray

    monkeypatch.setattr(ray, "_join", lambda _address: None)
    (tmp_path / "g.wasm").write_bytes(guardkit.wat("vicious"))
    (tmp_path / "p.json").write_text(json.dumps(poolkit.POLICY))

    def run(outcomes: Iterable[Outcome], jobs: str, out: str, *options: str) -> int:
        monkeypatch.setattr(ray, "label_files", lambda *_, **__: iter(outcomes))
        guard = ["-g", f"h={tmp_path}/g.wasm", "-p", f"h={tmp_path}/p.json"]
        return main(["label", jobs, *guard, "-o", out, "--ray", "auto", *options])

    return run


def test_a_run_says_what_guards_asked_in_vain_and_what_is_not_ok(
    run_of: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_of(OUTCOMES, "jobs", f"{tmp_path}/out.jsonl", "--max-failed", "1") == 3
    told = capfd.readouterr().err.splitlines()
    assert "guardpool: guard h asked its backend once, and has none with --ray: it labelled without knowing" in told
    assert "guardpool: 2 of 6 outcomes are not ok" in told
    assert outcomes_of_lines((tmp_path / "out.jsonl").read_bytes()) == OUTCOMES


@pytest.mark.parametrize(
    ("jobs", "out"),
    [
        ("file://{0}/jobs.jsonl", "{0}/jobs.jsonl"),
        ("{0}/jobs.jsonl", "file://{0}/jobs.jsonl"),
        ("file://{0}/*.jsonl", "local://{0}/jobs.jsonl"),
        ("{0}/d[1].jsonl", "{0}/d[1].jsonl"),
        ("{0}/e.parquet.part.parquet", "{0}/e.parquet"),
        ("memory://ours/jobs.jsonl", "memory:///ours/jobs.jsonl"),
        ("memory://ours", "memory://ours/jobs.jsonl"),
        ("memory://ours/*", "memory://ours/jobs.jsonl"),
    ],
)
def test_jobs_are_not_written_over_whatever_they_are_called(
    jobs: str, out: str, run_of: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    for name in ("jobs.jsonl", "d[1].jsonl", "d1.jsonl", "e.parquet.part.parquet"):
        (tmp_path / name).write_text("jobs")
    MemoryFileSystem().pipe_file("/ours/jobs.jsonl", b"jobs")
    assert run_of(OUTCOMES, jobs.format(tmp_path), out.format(tmp_path)) == 1
    assert "choose another" in capfd.readouterr().err
    assert {path.read_text() for path in (*tmp_path.glob("*.jsonl*"), *tmp_path.glob("*.parquet*"))} == {"jobs"}
    assert MemoryFileSystem().cat_file("/ours/jobs.jsonl") == b"jobs"


def test_a_file_url_is_written_as_the_file(run_of: Callable[..., int], tmp_path: Path) -> None:
    assert run_of(OUTCOMES, "memory://nothing.jsonl", f"file://{tmp_path}/out.jsonl") == 0
    assert outcomes_of_lines((tmp_path / "out.jsonl").read_bytes()) == OUTCOMES


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("out", ["{0}/out.jsonl", "{0}/out.parquet", "memory://none/out.jsonl"])
def test_lines_of_which_none_is_a_job_replace_nothing(
    out: str,
    is_there: bool,
    run_of: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from guardpool.batch.pieces import file_system

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fs, path = file_system(out.format(tmp_path))
    if is_there:
        fs.pipe_file(path, b"older")
    try:
        assert run_of([OUTCOMES[4]], "jobs", out.format(tmp_path), "--fail-on-error") == 4
        told = capfd.readouterr().err
        assert "guardpool: jobs: no line was a job: m" in told
        assert "outcomes are not ok" not in told
        found = re.search(r"out\.\w+ is as it was, (.+) says what is wrong with each line", told)
        assert bool(found) is (fs.cat_file(path) == b"older") is is_there
        assert found is None or Path(found[1]).stat().st_size
    finally:
        fs.rm_file(path)


def test_an_empty_input_gives_an_empty_output_and_jobs_for_no_guard_are_jobs(
    run_of: Callable[..., int], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("older")
    assert run_of([], "jobs", str(out)) == 0
    assert out.read_text() == ""
    unknown = Outcome("4", None, "", None, Status.REJECTED, error=OutcomeError("no_such_guard", "m"))
    assert run_of([unknown], "jobs", str(out)) == 0
    assert outcomes_of_lines(out.read_bytes()) == [unknown]


def test_what_the_cluster_refuses_is_not_told_of_the_output(
    run_of: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Iterator[Outcome]:
        yield OUTCOMES[0]
        raise ConnectionResetError(104, "Connection reset by peer")

    assert run_of(fail(), "jobs", f"{tmp_path}/out.jsonl") == 1
    told = capfd.readouterr().err
    assert "--ray auto: the cluster cannot be used: Connection reset by peer" in told
    assert "cannot be written" not in told


def test_versions_name_the_engine_once() -> None:
    import guardpool.ray
    from guardpool.machine.engines import choose_engine

    choice = choose_engine("auto")
    assert guardpool.ray.versions("auto")["the engine"] == f"{choice.name} {choice.packages[0].version}"


@pytest.mark.parametrize("fails", [False, True])
def test_outcomes_that_cannot_be_put_where_a_url_says_are_kept_here(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    from guardpool.cli import ray

    def fail(*_: object) -> None:
        raise PermissionError("not for you\nreally")

    if fails:
        monkeypatch.setattr(MemoryFileSystem, "put_file", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = "memory://there/out.jsonl"
    options = ray.Options("auto", (), out, (), (), timing=True, fail_on_error=False, max_failed=None, pool={})
    told = ""
    with ExitStack() as stack:
        to = ray._Out(options, stack)
        to.add(OUTCOMES)
        try:
            to.finish()
        except FileError as error:
            told = str(error)
    kept = list(tmp_path.rglob("*.jsonl"))
    assert bool(kept) is fails
    if not fails:
        assert outcomes_of_lines(MemoryFileSystem().cat_file("/there/out.jsonl")) == OUTCOMES
        return
    assert told == f"{out}: the outcomes cannot be written: not for you really; all of them are in {kept[0]}"
    assert outcomes_of_lines(kept[0].read_bytes()) == OUTCOMES


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
    return [job.id for job in read(paths, piece_bytes, limit)]


def read(paths: list[str], piece_bytes: int | None = None, limit: int = 10_000) -> list[Prepared]:
    """All jobs, piece by piece."""
    parser = JobParser(["g"], limit)
    cut = pieces.pieces_of(paths, 1, piece_bytes)
    return [job for piece in cut for portion in pieces.portions_of(piece, parser) for job in portion]


def test_every_line_is_in_one_piece_wherever_it_is_cut(tmp_path: Path) -> None:
    jobs = [formatkit.job(number, "t" * (number % 7)) for number in range(12)]
    data = b"\xef\xbb\xbf" + formatkit.lines(jobs) + b"\n" + formatkit.lines([formatkit.job(12)]).rstrip(b"\n")
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(data)
    for piece_bytes in [*range(1, 90), len(data) - 1, len(data), len(data) + 1]:
        assert ids([str(path)], piece_bytes) == list(range(13)), piece_bytes


def test_there_are_as_many_pieces_as_machines_need_and_none_is_large(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    with path.open("wb") as file:
        file.truncate(40 * MIB)
    cuts = {least: [each.end - each.start for each in pieces.pieces_of([str(path)], least)] for least in (1, 8, 1000)}
    assert cuts == {1: [16 * MIB, 16 * MIB, 8 * MIB], 8: [5 * MIB] * 8, 1000: [MIB] * 40}


def test_folders_globs_and_every_format_are_read_and_numbered_through(tmp_path: Path) -> None:
    rows = [formatkit.job(number) for number in range(250)]
    for at, name in enumerate(("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet")):
        formatkit.write(tmp_path / name, [{**each, "id": at * 1000 + each["id"]} for each in rows])
    (tmp_path / "README").write_text("no jobs")
    expected = [at * 1000 + number for at in range(4) for number in range(250)]
    assert ids([str(tmp_path)], 1000) == expected
    assert ids([f"file://{tmp_path}/*.jsonl", f"{tmp_path}/d.parquet"], 1000) == expected[:250] + expected[750:]
    line = b'{"op": "label_resource", "tool_name": "t"}\n'
    for name in ("e.jsonl", "f.jsonl"):
        (tmp_path / name).write_bytes(line * 3)
    assert ids([f"{tmp_path}/e.jsonl", f"{tmp_path}/f.jsonl"], 50) == [at * len(line) for at in range(6)]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_jobs_without_an_id_have_one_each_behind_packed_files_too(ending: str, tmp_path: Path) -> None:
    for name in (f"a.jsonl.{ending}", f"b.jsonl.{ending}", "c.jsonl", "d.parquet"):
        formatkit.write(tmp_path / name, [{"op": "label_resource", "tool_name": "t", "tool_args": "{}"}] * 1000)
    # Many bytes in few: one line that is too long, and a job behind it.
    pack = zstandard.compress if ending == "zst" else gzip.compress
    (tmp_path / f"b0.jsonl.{ending}").write_bytes(pack(b" " * 8 * MIB + b'\n{"op": "label_resource"}\n'))
    found = ids([str(tmp_path)], 1000)
    assert len(found) == len(set(found)) == 4002
    assert found == sorted(found)


def test_paths_mean_what_they_mean_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for at, name in enumerate(("in/b.jsonl", "in/a.JSONL", "in/deep/c.parquet", "in::odd.jsonl")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        formatkit.write(Path(name), [formatkit.job(at)])
    Path("in/link.jsonl").symlink_to("b.jsonl")
    Path("named.jsonl").symlink_to("in/b.jsonl")
    for paths in (
        ["in"],
        ["in/b.jsonl", "in", "named.jsonl"],
        ["named.jsonl", "in/*.jsonl"],
        ["in::odd.jsonl", "*.jsonl"],
    ):
        inputs = Inputs(paths)
        assert [each.url for each in pieces.pieces_of(paths, 1)] == [
            os.path.abspath(each.path) for each in inputs.files
        ]
    assert len(pieces.pieces_of(["in/b.jsonl", f"file://{tmp_path}/in/b.jsonl"], 1)) == 1


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("-", "standard input: other machines cannot read it"),
        ("nothing.jsonl", "nothing.jsonl: the jobs cannot be read: No such file or directory"),
        ("nothing*", "nothing*: the jobs cannot be read: no file fits this pattern"),
        ("empty", "empty: the jobs cannot be read: no file in this folder ends in .jsonl, "),
        ("fifo", "fifo: the jobs cannot be read: it is not a regular file, and other machines have to read it"),
        ("cut.parquet", "/cut.parquet: the jobs cannot be read: "),
        ("other.parquet", "/other.parquet: the jobs cannot be read: it lacks the columns op and tool_name"),
        ("zap://x/y", "zap://x/y: "),
        ("memory://x/y.jsonl", "memory://x/y.jsonl: the jobs cannot be read: there is no such file"),
        ("memory://x/*.jsonl", "memory://x/*.jsonl: the jobs cannot be read: no file fits this pattern"),
    ],
)
def test_a_path_that_means_no_file_of_jobs_is_told(
    path: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    os.mkfifo("fifo")
    Path("cut.parquet").write_bytes(b"PAR1\x15nothing")
    pq.write_table(pa.table({"a": [1]}), "other.parquet")
    with pytest.raises(FileError) as raised:
        fifo = os.open("fifo", os.O_RDWR)
        try:
            read([path])
        finally:
            os.close(fifo)
    assert told in str(raised.value)
    assert str(raised.value).startswith(told.partition(":")[0] if told[0] != "/" else str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_file_that_holds_no_lines_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b"BZh91AY&SY....")
    with pytest.raises(NotLines, match=r"jobs\.jsonl: no line can be a job: it is compressed with bzip2"):
        read([str(path)])


@pytest.mark.parametrize(
    ("name", "place"),
    [("jobs.jsonl", "byte 194"), ("jobs.jsonl.gz", "line 3"), ("jobs.jsonl.zst", "line 3"), ("jobs.parquet", "row 2")],
)
def test_a_job_that_is_refused_has_its_file_and_place_told(name: str, place: str, tmp_path: Path) -> None:
    path = formatkit.write(tmp_path / name, [formatkit.job(at, guard="zap" if at == 2 else "g") for at in range(4)], 1)
    formatkit.write(tmp_path / "a.jsonl", [formatkit.job(10)])
    jobs = read([str(tmp_path / "a.jsonl"), str(path)], 60)
    told = [each.error.message for each in jobs if each.error is not None]
    assert told == [f"no guard is called 'zap'; the pool holds: g ({path}, {place})"]
    assert [each.id for each in jobs] == [10, 0, 1, 2, 3]


def broken(path: Path) -> Path:
    """The file without its last third, or if it is Parquet, with other bytes in its middle."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".parquet":
        data[300:2300] = bytes(2000)
    else:
        del data[len(data) * 2 // 3 :]
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("jobs.jsonl.gz", r"after line [\d,]+: the gzip stream ends too early"),
        ("jobs.jsonl.zst", r"after line [\d,]+: the zstd stream ends too early"),
        ("jobs.parquet", r"behind row 0: .+"),
    ],
)
def test_a_damaged_piece_is_told_with_its_file_and_place(name: str, place: str, tmp_path: Path) -> None:
    rows = [formatkit.job(at, tool_args={"a": hashlib.sha256(bytes([at % 256])).hexdigest() * 9}) for at in range(2000)]
    path = broken(formatkit.write(tmp_path / name, rows, 2000))
    with pytest.raises(FileError, match=rf"^{re.escape(str(path))}: the jobs cannot be read {place}$"):
        read([str(path)])


def test_a_file_that_goes_away_under_a_reader_is_told(tmp_path: Path) -> None:
    path = formatkit.write(tmp_path / "jobs.jsonl", [formatkit.job(1)])
    [piece] = pieces.pieces_of([str(path)], 1)
    path.unlink()
    with pytest.raises(
        FileError, match=rf"^{re.escape(str(path))}: the jobs cannot be read: No such file or directory$"
    ):
        list(pieces.portions_of(piece, formatkit.parser()))


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
    [piece] = pieces.pieces_of([str(broken(formatkit.write(tmp_path / "jobs.jsonl.gz", rows)))], 1)
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
