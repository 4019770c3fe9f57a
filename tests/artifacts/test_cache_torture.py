"""The cache under attack: damaged, swapped and replaced files, many processes at once, and processes killed anywhere.

Whatever happens to the folder, no process crashes, none is ever handed bytes that are not the artifact of the module
asked for, and once the attack is over the cache is whole again. Each test prints its seed; GUARDPOOL_SEED repeats one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import shutil
import signal
import stat
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

from cachekit import (
    FakeCompiler,
    body_of,
    file_of,
    install_fake_compiler,
    needs_engine,
    variant,
    warnings_of,
)
from guardpool import samples
from guardpool.artifacts import cache as cache_module, entry, lock, store, trust
from guardpool.artifacts.cache import ModuleCache
from guardpool.artifacts.compilation import compile_guard
from guardpool.artifacts.lock import LOCK_NAME
from guardpool.submit.payload import encode_job

pytestmark = needs_engine

MODULES = [b"module %d" % number for number in range(4)]


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("GUARDPOOL_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"GUARDPOOL_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "cache"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


class Vandal:
    """Does one bad thing after another to a cache folder, and to nothing outside of it."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._folder = folder
        self._rng = rng
        self._others = folder.parent / "elsewhere"
        self._others.mkdir(exist_ok=True)
        self._deeds: list[Callable[[], object]] = [
            self.flip, self.flip, self.cut, self.grow, self.garbage, self.swap, self.copy_over, self.symlink,
            self.hard_link, self.chmod, self.chown, self.make_folder, self.pipe, self.delete, self.stale,
            self.lock_file, self.folder_mode, self.folder_away, self.rewrite_head,
        ]  # fmt: skip

    def strike(self) -> str:
        """Do one bad thing and return its name. Others may be at work in the folder, so it may also fail."""
        deed = self._rng.choice(self._deeds)
        try:
            deed()
        except (OSError, IndexError, ValueError):  # nothing there, or nothing of the kind
            return deed.__name__ + " (failed)"
        return deed.__name__

    def repair(self) -> None:
        """Give back the folder itself, which only its owner could."""
        if self._folder.is_symlink() or self._folder.is_file():
            self._folder.unlink()
        if self._folder.is_dir():
            os.chown(self._folder, os.geteuid(), -1)
            self._folder.chmod(0o700)
        shutil.rmtree(self._others)
        self._others.mkdir()

    def _entry(self) -> Path:
        return self._rng.choice(sorted(self._folder.glob("*" + entry.SUFFIX)))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """A plain file among the entries, opened. Never through a link, so that nothing outside can come to harm."""
        fd = os.open(self._entry(), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError("not a plain file")
            yield fd
        finally:
            os.close(fd)

    def flip(self) -> None:
        with self._opened() as fd:
            position = self._rng.randrange(os.fstat(fd).st_size)
            byte = os.pread(fd, 1, position)[0]
            os.pwrite(fd, bytes([byte ^ 1 << self._rng.randrange(8)]), position)

    def rewrite_head(self) -> None:
        with self._opened() as fd:
            os.pwrite(fd, self._rng.randbytes(8), self._rng.choice([0, 8, 12, 16, 24]))

    def cut(self) -> None:
        with self._opened() as fd:
            os.ftruncate(fd, self._rng.randrange(os.fstat(fd).st_size))

    def grow(self) -> None:
        with self._opened() as fd:
            os.ftruncate(fd, os.fstat(fd).st_size + self._rng.choice([1, 4096, 1 << 35]))

    def garbage(self) -> None:
        with self._opened() as fd:
            os.ftruncate(fd, 0)
            os.pwrite(fd, self._rng.randbytes(self._rng.randrange(5000)), 0)

    def copy_over(self) -> None:
        with self._opened() as source, self._opened() as target:
            content = os.pread(source, 1 << 20, 0)
            os.ftruncate(target, 0)
            os.pwrite(target, content, 0)

    def chmod(self) -> None:
        with self._opened() as fd:
            os.fchmod(fd, self._rng.randrange(0o10000))

    def chown(self) -> None:
        with self._opened() as fd:
            os.fchown(fd, 12345, 12345)

    def swap(self) -> None:
        first, second, third = self._entry(), self._entry(), self._others / "swapped"
        first.rename(third)
        second.rename(first)
        third.rename(second)

    def symlink(self) -> None:
        path, other = self._entry(), self._others / str(self._rng.random())
        path.rename(other)
        path.symlink_to(self._rng.choice([str(other), str(other), "nowhere", path.name]))

    def hard_link(self) -> None:
        os.link(self._entry(), self._others / str(self._rng.random()), follow_symlinks=False)

    def make_folder(self) -> None:
        path = self._entry()
        path.unlink()
        path.mkdir()

    def pipe(self) -> None:
        path = self._entry()
        path.unlink()
        os.mkfifo(path, 0o600)

    def delete(self) -> None:
        self._entry().unlink()

    def stale(self) -> None:
        (self._folder / f"tmp-{self._rng.randrange(1 << 22)}-{self._rng.getrandbits(64):016x}").write_bytes(b"half")

    def lock_file(self) -> None:
        path = self._folder / LOCK_NAME
        path.unlink()
        self._rng.choice([lambda: path.symlink_to("nowhere"), path.mkdir, lambda: os.mkfifo(path), lambda: None])()

    def folder_mode(self) -> None:
        self._folder.chmod(self._rng.choice([0o755, 0o777, 0o000, 0o500, 0o1700]))

    def folder_away(self) -> None:
        away = self._folder.parent / f"away-{self._rng.random()}"
        self._folder.rename(away)
        self._rng.choice([lambda: self._folder.symlink_to(away), self._folder.touch, lambda: None])()


def fork(work: Callable[[], object]) -> tuple[int, int]:
    """Run it in a child that ends with status 0 if it returned; the child's pid and pidfd."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            logging.getLogger("guardpool.cache").disabled = True
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid, os.pidfd_open(pid)


def finish(pid: int, pidfd: int, *, seconds: float = 60) -> int:
    """Wait for a child; returns its exit status, negative for a signal."""
    ended = select.select([pidfd], [], [], seconds)[0]
    os.close(pidfd)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pytest.fail("a process hangs in the cache")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def use_all(place: Path, expected: dict[bytes, bytes], order: list[bytes]) -> None:
    cache = ModuleCache(place)
    for module in order:
        found = cache.get_or_compile(module, 512)
        assert found == expected[module], "a wrong artifact was handed out"


def crowd(place: Path, vandal: Vandal, rng: random.Random, expected: dict[bytes, bytes]) -> list[str]:
    """Some processes use the cache while it is vandalised and some of them are killed."""
    children = []
    for _ in range(rng.randrange(1, 5)):
        order = rng.sample(list(expected), len(expected))
        children.append(fork(lambda order=order: use_all(place, expected, order)))  # type: ignore[misc]
    done = []
    doomed = set()
    for _ in range(rng.randrange(6)):
        child = rng.choice(children)
        # A moment to get somewhere; what matters is that it differs each time.
        select.select([child[1]], [], [], rng.random() * 0.008)
        if rng.random() < 0.4:
            signal.pidfd_send_signal(child[1], signal.SIGKILL)
            doomed.add(child[0])
            done.append("kill")
        else:
            done.append(vandal.strike())
    for pid, pidfd in children:
        status = finish(pid, pidfd)
        assert status == 0 or (status == -signal.SIGKILL and pid in doomed), f"a process failed with status {status}"
    return done


def torture(
    place: Path,
    rng: random.Random,
    caplog: pytest.LogCaptureFixture,
    rounds: int,
    expected: dict[bytes, bytes],
) -> dict[str, int]:
    """Run `rounds` of it; returns how often each bad thing was done."""
    vandal = Vandal(place, rng)
    counts: dict[str, int] = {}
    for number in range(rounds):
        deeds = []
        try:
            use_all(place, expected, list(expected))
            if rng.random() < 0.5:
                deeds += [vandal.strike() for _ in range(rng.randrange(1, 4))]
            else:
                deeds += crowd(place, vandal, rng, expected)
            if rng.random() < 0.1:
                ModuleCache(place).prune(max_bytes=rng.randrange(20000))
            use_all(place, expected, list(expected))
            vandal.repair()
            check_whole(place, expected, caplog)
        except BaseException:
            print(f"round {number}: {deeds}")
            raise
        for deed in deeds:
            counts[deed] = counts.get(deed, 0) + 1
    return counts


def check_whole(place: Path, expected: dict[bytes, bytes], caplog: pytest.LogCaptureFixture) -> None:
    """After one more use everything is found, nothing is wrong, nothing is left over, and no more warnings come."""
    cache = ModuleCache(place)
    bad = {problem.path for problem in cache.verify()}
    warnings_of(caplog)
    use_all(place, expected, list(expected))
    assert len(warnings_of(caplog)) == len(bad), "not one warning for each bad entry"
    assert {module: cache.get(module, 512) for module in expected} == expected
    assert (warnings_of(caplog), cache.verify()) == ([], [])
    cache.prune()
    assert set(os.listdir(place)) - {LOCK_NAME} == {file_of(cache, module).name for module in expected}


# A thousand rounds more by `make test-all`, in parts, each with a seed of its own.
MORE = [pytest.param(250, id=f"250-part-{part}", marks=pytest.mark.slow) for part in range(1, 5)]


@pytest.mark.parametrize("rounds", [25, *MORE])
def test_the_cache_is_tortured(
    rounds: int,
    place: Path,
    rng: random.Random,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    compiler = install_fake_compiler(monkeypatch, tmp_path / "compilations")
    counts = torture(place, rng, caplog, rounds, {module: body_of(module) for module in MODULES})
    print(f"{rounds} rounds, {compiler.calls} compilations, {dict(sorted(counts.items()))}")
    assert compiler.calls > rounds / 2


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_the_cache_is_tortured_with_the_real_compiler(
    rounds: int, place: Path, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    guard = samples.GUARD.read_bytes()
    expected = {module: compile_guard(module, 512) for module in (variant(1), guard)}
    labels = labels_of(expected[guard])
    assert labels.count(None) < len(labels) / 2
    counts: Counter[str] = Counter()
    for _ in range(rounds):
        counts.update(torture(place, rng, caplog, 1, expected))
        artifact = ModuleCache(place).get(guard, 512)
        assert artifact is not None
        assert labels_of(artifact) == labels
    print(f"{rounds} rounds with the real compiler, {dict(sorted(counts.items()))}")


def labels_of(artifact: bytes) -> list[bytes | None]:
    """What the sample guard says to some jobs."""
    import enginekit
    from guardpool_worker.instance import GuardInstance, InstanceSettings

    instance = GuardInstance(enginekit.load_bundle(artifact), InstanceSettings(name="sample"))
    instance.label_agent(msgspec.json.encode(samples.POLICY))
    return [instance.call(job.op, encode_job(job)).label for job in samples.jobs(12)]


WATCHED = {module.__file__ for module in (cache_module, lock, store, trust)}


def steps(work: Callable[[], object], until: int | None = None) -> int:
    """Run it and count the lines of the cache's own code; at line `until` the process is killed."""
    count = 0

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == until:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        return local(frame, event, argument) if frame.f_code.co_filename in WATCHED else None

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(previous)
    return count


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_killed_at_any_line_leaves_a_cache_that_works(
    stride: int,
    place: Path,
    rng: random.Random,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    compiler = install_fake_compiler(monkeypatch, tmp_path / "compilations")
    module = MODULES[0]

    def use() -> None:
        assert ModuleCache(place).get_or_compile(module, 512) == body_of(module)

    last = steps(use)
    shutil.rmtree(place)
    for line in range(1 + rng.randrange(stride), last + 1, stride):
        assert finish(*fork(lambda line=line: steps(use, line))) == -signal.SIGKILL  # type: ignore[misc]
        calls = compiler.calls
        use()
        use()
        assert compiler.calls <= calls + 1
        # Half an entry has another name, so the next process finds nothing to warn of.
        assert (warnings_of(caplog), ModuleCache(place).verify()) == ([], [])
        ModuleCache(place).prune()
        assert sorted(os.listdir(place)) == sorted([LOCK_NAME, file_of(ModuleCache(place), module).name])
        shutil.rmtree(place)
    print(f"killed at every {stride}th of {last} lines")


def test_many_processes_compile_once_although_the_first_ones_are_killed(
    place: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The compiler reports that it began and then waits. The process that compiles is killed, and the next one takes over."""
    compiler = FakeCompiler(tmp_path / "compilations")
    began, begin = os.pipe()
    wait, go_on = os.pipe()

    def slow(*args: Any, **kwargs: Any) -> bytes:
        os.write(begin, os.getpid().to_bytes(4, "little"))
        os.read(wait, 1)
        return compiler(*args, **kwargs)

    monkeypatch.setattr(cache_module, "compile_guard", slow)
    children = dict(fork(lambda: use_all(place, {MODULES[0]: body_of(MODULES[0])}, MODULES[:1])) for _ in range(6))
    for _ in range(3):
        first = int.from_bytes(os.read(began, 4), "little")
        os.kill(first, signal.SIGKILL)
        assert finish(first, children.pop(first)) == -signal.SIGKILL
    os.write(go_on, b"!")
    assert [finish(pid, pidfd) for pid, pidfd in children.items()] == [0, 0, 0]
    assert compiler.calls == 1
    for fd in (began, begin, wait, go_on):
        os.close(fd)
