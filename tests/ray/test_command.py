"""`guardpool label --ray`: which cluster it joins, what it refuses, and what it writes and says of outcomes that came."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import guardkit
import poolkit
from guardpool.batch.files import FileError
from guardpool.batch.outcome_lines import outcomes_of_lines
from guardpool.cli import main
from guardpool.errors import HostError
from guardpool.labels import Operation, ResourceLabel
from guardpool.outcomes import BackendUse, Outcome, OutcomeError, Question, Status

pytest.importorskip("pyarrow", reason="pyarrow has no wheel for this Python")
pytest.importorskip("fsspec", reason="the extra ray is not installed")

RESOURCE = ResourceLabel("d", frozenset({"b", "a"}), frozenset(), Operation.READ)
OUTCOMES = [
    Outcome("0", "g", "label_resource", "t", Status.OK, RESOURCE, duration_us=12, attempts=1),
    Outcome("1", None, "", None, Status.REJECTED, error=OutcomeError("bad_job", "m", line=7)),
    Outcome(
        *("2", "h", "label_resource", "u", Status.REFUSED, None, OutcomeError("guard_refused", "m", guard_code=-7)),
        backend_calls=1,
        backend=BackendUse(1, 0, 1, (Question("search", {"q": [1, 2.5]}),)),
    ),
]


# --- what is refused


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


# --- the cluster that is joined


class JoinableRay:
    """As much of Ray as joins a cluster."""

    def __init__(self) -> None:
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
def test_auto_joins_no_cluster_that_this_user_did_not_start_or_name(
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


# --- what becomes of outcomes


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
    assert "guardpool: 2 of 3 outcomes are not ok" in told
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
        assert run_of([OUTCOMES[1]], "jobs", out.format(tmp_path), "--fail-on-error") == 4
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


def test_an_error_of_the_cluster_is_not_blamed_on_the_output(
    run_of: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Iterator[Outcome]:
        yield OUTCOMES[0]
        raise ConnectionResetError(104, "Connection reset by peer")

    assert run_of(fail(), "jobs", f"{tmp_path}/out.jsonl") == 1
    told = capfd.readouterr().err
    assert "--ray auto: the cluster cannot be used: Connection reset by peer" in told
    assert "cannot be written" not in told


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
