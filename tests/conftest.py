"""Every test must leave nothing of ours behind: no process, no thread, no descriptor, no file.

`--engine NAME` runs the tests with that engine: `auto` then means it, and no other, in the tests' own process. So pools, the
cache, `enginekit` and the commands that a test calls use it; a command that a test starts as a process of its own gets the
option from `clikit`.
"""

from __future__ import annotations

import compileall
import os
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

import engineoption
import strategies  # noqa: F401  # its settings hold for every property test
from guardpool.machine import engines
from guardpool.supervise import reactor
from paths import ROOT

_GONE_WITHIN_S = 10.0
# What `make test` runs a second time, with the other engine: everything that an engine could do otherwise, in about a minute.
# Left out is what takes long and depends on processes and pipes only.
_TESTS_OF_THE_ENGINE = (
    *(
        "worker/",
        "sandbox/",
        "machine/",
        "artifacts/test_compilation.py",
        "samples/test_calls.py",
        "samples/test_results.py",
    ),
    *("pool/test_guards.py", "pool/test_both_engines.py", "pool/test_starts.py", "pool/test_supervision.py"),
    "pool/test_backends.py",
)
# Where such tests are, with those that are marked one by one.
_FILES_OF_THE_ENGINE = (*_TESTS_OF_THE_ENGINE, "module/test_trap_frames.py", "conftest.py")
_SHARED_MEMORY = Path("/dev/shm")
# Each runs tests that start processes themselves. More than 4 were never tried.
_MOST_WORKERS = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--engine`."""
    parser.addoption("--engine", default="auto", choices=engines.ENGINE_WORDS, help="the wasm engine of the tests")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m "engine ..."` read only the files that have such tests: to read all takes a quarter of that run."""
    if not str(config.option.markexpr).startswith("engine") or collection_path.is_dir():
        return None
    name = collection_path.relative_to(Path(__file__).parent).as_posix()
    return None if name.startswith(_FILES_OF_THE_ENGINE) else True


def pytest_configure(config: pytest.Config) -> None:
    """Make `auto` mean the engine of the run, before a test module is imported."""
    word = config.getoption("--engine")
    if word != "auto":
        engineoption.use(word)
    if _is_xdist_worker(config):
        # The thread on which a worker of xdist hears from the process that hands out the tests.
        config.addinivalue_line("filterwarnings", "ignore:This process .* is multi-threaded:DeprecationWarning")
    else:
        # The processes of a pool never write bytecode. Without it each of the hundreds started here would compile its sources.
        for sources in ("engine", "workers", "benchmarks"):
            compileall.compile_dir(ROOT / sources, quiet=2)


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: a worker for each core that this process may use, but not more than there is work for."""
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the engine."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(_TESTS_OF_THE_ENGINE):
            item.add_marker(pytest.mark.engine)


def pytest_report_header() -> str:
    """Say which engine the run is with."""
    problem = engines.engine_problem(engines.auto_order()[0])
    return f"engine: {engines.auto_order()[0]}{f' (cannot be used: {problem})' if problem else ''}"


@pytest.fixture
def engine_name() -> str:
    """The name of the engine that the tests run with."""
    return engines.choose_engine().name


@pytest.fixture(scope="session", autouse=True)
def _signals_mean_something() -> Iterator[None]:
    """A shell ignores SIGINT in the background, and nohup SIGHUP; every process started here would inherit that."""
    ignored = [each for each in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_IGN]
    for each in ignored:
        signal.signal(each, signal.default_int_handler if each is signal.SIGINT else signal.SIG_DFL)
    yield
    for each in ignored:
        signal.signal(each, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def _temporary_files_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for temporary files of this run alone: what another run has in /tmp is not left behind by ours."""
    folder = tmp_path_factory.mktemp("tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One artifact cache for the whole run, which all workers of xdist share, and none of the user's."""
    of_this_process = tmp_path_factory.getbasetemp()
    folder = (of_this_process.parent if _is_xdist_worker(request.config) else of_this_process) / "artifacts"
    folder.mkdir(mode=0o700, exist_ok=True)
    before = os.environ.get("GUARDPOOL_CACHE_DIR")
    os.environ["GUARDPOOL_CACHE_DIR"] = str(folder)
    yield
    if before is None:
        del os.environ["GUARDPOOL_CACHE_DIR"]
    else:
        os.environ["GUARDPOOL_CACHE_DIR"] = before


@pytest.fixture(scope="session", autouse=True)
def _a_lost_wake_up_is_a_hang() -> Iterator[None]:
    """The supervisor's loop wakes up every two seconds at the latest; a test must not pass because of that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reactor, "LONGEST_WAIT_S", 1e6)
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left(_temporary_files_of_the_run: Path) -> Iterator[None]:
    folders = (_SHARED_MEMORY, _temporary_files_of_the_run)
    fds, files, threads = _descriptors(), _files(folders), set(threading.enumerate())
    yield
    if _has_children():
        _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=_GONE_WITHIN_S)
        assert not alive, f"processes left behind: {alive}"
    for thread in set(threading.enumerate()) - threads:
        if thread.name.startswith("guardpool"):
            thread.join(_GONE_WITHIN_S)
            assert not thread.is_alive(), f"thread left behind: {thread.name}"
    left = {fd: target for fd, target in _descriptors().items() if fds.get(fd) != target}
    assert not left, f"descriptors left open: {left}"
    assert _files(folders) <= files, f"files left behind: {_files(folders) - files}"


def _is_xdist_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _has_children() -> bool:
    """Asked of the kernel: psutil reads every process of the machine for it, which thousands of tests would wait for."""
    try:
        return any(task.joinpath("children").read_text() for task in Path("/proc/self/task").iterdir())
    except OSError:  # a thread that just ended, or a kernel that cannot tell
        return True


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the descriptor of this very listing
            continue
    return found


def _files(folders: Iterable[Path]) -> set[str]:
    return {str(path) for folder in folders if folder.is_dir() for path in folder.glob("*guardpool*")}
