"""The artifact cache: what is found again, what is never used, and what a broken folder costs."""

from __future__ import annotations

import errno
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

import guardpool_worker
from cachekit import (
    FakeCompiler,
    body_of,
    describe,
    file_of,
    install_fake_compiler,
    needs_engine,
    needs_root,
    variant,
    warnings_of,
)
from guardpool.artifacts import cache as cache_module, entry, store, trust
from guardpool.artifacts.cache import ModuleCache, default_path
from guardpool.artifacts.compilation import CompileLimits
from guardpool.artifacts.lock import LOCK_NAME, KeyLock, LockTimeoutError
from guardpool.errors import CompileError, EngineMissing
from guardpool.machine.engines import ENGINE_NAMES, ENGINES, NativePackage
from sourcekit import imports_of, sources_of
from workkit import lines_run

pytestmark = needs_engine

WASM = b"a module"


@pytest.fixture
def cache(tmp_path: Path) -> ModuleCache:
    return ModuleCache(tmp_path / "cache")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCompiler:
    return install_fake_compiler(monkeypatch, tmp_path / "compilations")


# --- what is found again


def test_a_guard_is_compiled_once_and_what_was_compiled_comes_back(cache: ModuleCache, compiler: FakeCompiler) -> None:
    assert cache.get(WASM, 512) is None
    assert cache.get_or_compile(WASM, 512) == body_of(WASM)
    assert cache.get_or_compile(WASM, 512) == body_of(WASM)
    assert cache.get(WASM, 512) == body_of(WASM)
    assert ModuleCache(cache.path).get(WASM, 512) == body_of(WASM)
    assert compiler.calls == 1


def test_a_real_artifact_comes_back_as_it_was_and_loads(cache: ModuleCache) -> None:
    import enginekit

    cold = cache.get_or_compile(variant(1), 512, guard="real")
    warm = cache.get(variant(1), 512)
    assert warm == cold
    assert enginekit.load_bundle(warm).guard.instantiate({}).function("label_agent") is not None


def test_stored_files_and_folders_are_closed_to_other_users(
    cache: ModuleCache, compiler: FakeCompiler, tmp_path: Path
) -> None:
    cache.path = tmp_path / "made" / "on the way" / "cache"
    previous = os.umask(0o277)
    try:
        cache.get_or_compile(WASM)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(file_of(cache, WASM).stat().st_mode) == 0o600
    assert sorted(os.listdir(cache.path)) == sorted([file_of(cache, WASM).name, LOCK_NAME])


def test_a_compilation_that_fails_leaves_nothing(cache: ModuleCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise CompileError("no")

    monkeypatch.setattr(cache_module, "compile_guard", refuse)
    with pytest.raises(CompileError):
        cache.get_or_compile(WASM)
    assert os.listdir(cache.path) == [LOCK_NAME]


def test_everything_that_shapes_an_artifact_changes_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    here = describe(WASM, 512)
    keys = {here.key(), describe(WASM + b" ", 512).key(), describe(WASM, 511).key()}
    for field in here.__struct_fields__:
        value = getattr(here, field)
        keys.add(msgspec.structs.replace(here, **{field: value + 1 if isinstance(value, int) else value + "x"}).key())
    assert len(keys) == 3 + len(here.__struct_fields__)
    monkeypatch.setitem(entry.SHAPING_MODULES, "guardpool_worker", ("engine",))
    assert describe(WASM, 512).key() not in keys


def test_artifacts_of_two_engines_have_entries_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str) -> tuple[NativePackage, ...]:
        return tuple(NativePackage(each, "1", f"{each}.so", 1, "/") for each in ENGINES[name].packages)

    monkeypatch.setattr(entry, "engine_packages", installed)
    wasmtime, wasmer = (entry.describe(WASM, 512, name) for name in ("wasmtime", "wasmer"))
    assert wasmtime.key() != wasmer.key()
    assert not wasmtime.same_host(wasmer)
    assert (wasmtime.engine, wasmtime.compiler, wasmtime.libraries) == ("wasmtime 1", "wasmtime 1", "wasmtime.so 1")
    assert (wasmer.engine, wasmer.compiler) == ("wasmer 1", "wasmer_compiler_cranelift 1")
    assert wasmer.libraries == "wasmer.so 1 wasmer_compiler_cranelift.so 1"


def test_the_module_of_one_engine_shapes_no_artifacts_of_the_other(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    for name in ("seam.py", "wasmer.py", "wasmtime.py"):
        (tmp_path / "engine" / name).touch()
    for name in ENGINE_NAMES:
        counted = {file.name for file in entry._sources(tmp_path, ("engine",), name)}
        assert counted == {"seam.py", f"{name}.py"}


def test_the_wasm_of_the_quick_judge_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(guardpool_worker.__file__).parent
    counted = {file.relative_to(folder).as_posix() for file in entry._sources(folder, ("quick_judge",), "wasmtime")}
    assert counted == {"quick_judge/__init__.py", "quick_judge/build.py", "quick_judge/quick_judge.wasm"}
    here, read_bytes = describe(WASM, 512).key(), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda file: read_bytes(file) + b"\0" * (file.suffix == ".wasm"))
    assert describe(WASM, 512).key() != here


def test_all_code_that_shapes_an_artifact_is_part_of_its_key() -> None:
    """What the listed modules import from our packages must be listed as well, or be harmless: not shape an artifact."""
    harmless = {f"guardpool.{name}" for name in ("errors", "labels", "printable", "sizes")}
    harmless.add("guardpool_worker.linux")  # calls of the kernel
    harmless.add("guardpool.zig")  # builds a module of ours whose bytes are listed, for developers
    harmless.add("guardpool.machine.engines")  # which engine it is, and its version, are ingredients of their own
    shaping = entry.SHAPING_MODULES
    listed = [f"{package}.{name.removesuffix('.py')}" for package, names in shaping.items() for name in names]
    for path in [path for name in listed for path in sources_of(name)]:
        for name, _line in imports_of(path):
            ours = name.split(".")[0] in shaping
            is_listed = any(f"{name}.".startswith(f"{each}.") for each in listed)
            assert not ours or is_listed or name in harmless, f"{path} imports {name}"


def test_finding_an_entry_is_little_work(cache: ModuleCache, compiler: FakeCompiler) -> None:
    cache.get_or_compile(WASM)
    cache.get(WASM)
    of_a_small_module, module = lines_run(lambda: describe(WASM, 512)), os.urandom(300_000)
    assert lines_run(lambda: describe(module, 512)) == of_a_small_module
    assert lines_run(lambda: cache.get(WASM)) < 30_000  # 1 to 3 ms


# --- the file's format


def small_entry() -> tuple[entry.Ingredients, bytes]:
    ingredients = describe(b"m", 1)
    header = entry.Header(ingredients, "name", 1.5, 0.25)
    return ingredients, b"".join(entry.encode_entry(header, b"body"))


def test_an_encoded_entry_is_decoded_to_the_same() -> None:
    ingredients, data = small_entry()
    header, body = entry.decode_entry(data, ingredients)
    assert (header.ingredients, header.guard, header.created_s, header.compile_s) == (ingredients, "name", 1.5, 0.25)
    assert bytes(body) == b"body"
    assert entry.decode_header(data) == header


def test_every_changed_bit_cut_or_tail_of_an_entry_is_noticed() -> None:
    ingredients, data = small_entry()
    bad = [data[:length] for length in range(len(data))] + [data + b"\0", data + data]
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            bad.append(bytes(changed))
    for changed_data in bad:
        with pytest.raises(entry.DamagedError):
            entry.decode_entry(changed_data, ingredients)


def test_a_sound_entry_of_other_ingredients_is_refused() -> None:
    _, data = small_entry()
    with pytest.raises(entry.DamagedError, match="something else"):
        entry.decode_entry(data, describe(b"m", 2))


# --- what is never used


def _replace(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _link_elsewhere(path: Path) -> None:
    copy = path.with_name("copy")
    path.rename(copy)
    path.symlink_to(copy)


def _flip_last(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _socket(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    os.truncate(path, 1 << 40)


def _huge_claim(path: Path) -> None:
    """A head that promises a gigabyte, in a file that has it without taking any room."""
    data = path.read_bytes()
    path.write_bytes(data[:16] + (1 << 30).to_bytes(8, "little") + data[24:])
    os.truncate(path, 1 << 30)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (_replace(b""), "has only 0 bytes"),
    "garbage": (_replace(b"\x7fELF" + bytes(5000)), "does not begin like a cache entry"),
    "flipped": (_flip_last, "does not match its digest"),
    "cut": (lambda path: os.truncate(path, 3000), "has 3000 bytes and its header says"),
    "sparse": (_sparse, "more than the"),
    "huge claim": (_huge_claim, "and its header says"),
    "group": (lambda path: path.chmod(0o640), "has mode 0640, not 0600"),
    "world": (lambda path: path.chmod(0o666), "has mode 0666, not 0600"),
    "setuid": (lambda path: path.chmod(0o4600), "has mode 4600, not 0600"),
    "symlink": (_link_elsewhere, "is a symbolic link, not a file"),
    "hard link": (lambda path: os.link(path, path.with_name("other")), "has 2 names"),
    "folder": (lambda path: (path.unlink(), path.mkdir(0o600)), "is a folder, not a file"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path, 0o600)), "is a named pipe, not a file"),
    "socket": (_socket, "is a socket, not a file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_bad_entry_is_one_warning_and_one_recompilation(
    kind: str, cache: ModuleCache, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    damage, reason = DAMAGE[kind]
    cache.get_or_compile(WASM)
    path = file_of(cache, WASM)
    damage(path)
    problems = cache.verify()
    assert [problem.path for problem in problems] == [path]
    assert reason in problems[0].reason
    assert warnings_of(caplog) == []
    assert cache.get_or_compile(WASM) == body_of(WASM)
    warnings = warnings_of(caplog)
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert reason in warnings[0]
    assert compiler.calls == 2
    assert cache.get_or_compile(WASM) == body_of(WASM)
    assert (compiler.calls, warnings_of(caplog), cache.verify()) == (2, [], [])


@needs_root
def test_an_entry_owned_by_another_user_is_not_used(
    cache: ModuleCache, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    cache.get_or_compile(WASM)
    os.chown(file_of(cache, WASM), 12345, -1)
    assert cache.get(WASM) is None
    assert "is owned by uid 12345" in warnings_of(caplog)[0]
    assert not file_of(cache, WASM).exists()


def test_swapped_entries_are_not_used(
    cache: ModuleCache, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    modules = [b"one", b"two"]
    for module in modules:
        cache.get_or_compile(module)
    first, second = (file_of(cache, module) for module in modules)
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    first.with_suffix(".x").rename(second)
    assert [problem.reason for problem in cache.verify()] == ["has the name of another artifact"] * 2
    assert [entry.problem for entry in cache.entries()] == ["has the name of another artifact"] * 2
    assert [cache.get_or_compile(module) for module in modules] == [body_of(module) for module in modules]
    assert len(warnings_of(caplog)) == 2


def test_a_bad_entry_that_cannot_be_removed_costs_the_time_to_compile(
    cache: ModuleCache, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    cache.get_or_compile(WASM)
    path = file_of(cache, WASM)
    path.unlink()
    path.mkdir()
    (path / "kept").touch()
    for _ in range(2):
        assert cache.get_or_compile(WASM) == body_of(WASM)
    assert all(str(cache.path) in warning for warning in warnings_of(caplog))
    assert compiler.calls == 3
    assert sorted(os.listdir(cache.path)) == sorted([path.name, LOCK_NAME])


# --- folders


def refused(cache: ModuleCache, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture) -> str:
    """The one warning about a folder that is not used, however often the cache is asked."""
    calls = compiler.calls
    for number in range(3):
        assert cache.get_or_compile(b"m%d" % number) == body_of(b"m%d" % number)
        assert cache.get(b"m%d" % number) is None
    assert compiler.calls == calls + 3
    warnings = warnings_of(caplog)
    assert len(warnings) == 1
    assert str(cache.path) in warnings[0]
    assert cache.entries() == []
    assert cache.clear() == 0
    warnings_of(caplog)
    return warnings[0]


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o770, 0o777, 0o1777, 0o701])
def test_a_folder_that_is_open_to_others_is_not_used(
    mode: int, cache: ModuleCache, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    cache.get_or_compile(WASM)
    cache.path.chmod(mode)
    assert f"has mode {mode:04o} and must be 0700" in refused(cache, compiler, caplog)
    assert "must be 0700" in cache.verify()[0].reason


def test_an_empty_folder_of_ours_is_taken_and_closed_to_others(cache: ModuleCache, compiler: FakeCompiler) -> None:
    cache.path.mkdir()
    cache.path.chmod(0o755)
    cache.get_or_compile(WASM)
    assert cache.get(WASM) == body_of(WASM)
    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o700


def test_a_symbolic_link_is_not_taken_for_the_cache_folder(
    cache: ModuleCache, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    cache.get_or_compile(WASM)
    real = tmp_path / "real"
    cache.path.rename(real)
    cache.path.symlink_to(real)
    assert "is a symbolic link, not a folder" in refused(cache, compiler, caplog)


def test_a_folder_above_may_be_a_symbolic_link(compiler: FakeCompiler, tmp_path: Path) -> None:
    (tmp_path / "real home").mkdir(0o700)
    (tmp_path / "home").symlink_to("real home")
    cache = ModuleCache(tmp_path / "home" / ".cache" / "guardpool")
    cache.get_or_compile(WASM)
    assert cache.get(WASM) == body_of(WASM)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o772])
def test_a_folder_above_that_others_can_write_to_is_not_used(
    mode: int, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    above = tmp_path / "above"
    cache = ModuleCache(above / "between" / "cache")
    cache.get_or_compile(WASM)
    above.chmod(mode)
    warning = refused(cache, compiler, caplog)
    assert f"{above}, above the cache folder, has mode {mode:04o}" in warning
    assert f"chmod go-w {above}" in warning
    above.chmod(0o1777)
    assert cache.get(WASM) == body_of(WASM)


def test_the_folders_above_a_resolved_link_are_the_ones_checked(
    compiler: FakeCompiler, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "inner").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "open" / "inner")
    assert "above the cache folder" in refused(ModuleCache(tmp_path / "link" / "cache"), compiler, caplog)


@needs_root
@pytest.mark.parametrize("which", ["cache", "above"])
def test_a_folder_owned_by_another_user_is_not_used(
    which: str, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    cache = ModuleCache(tmp_path / "above" / "cache")
    cache.get_or_compile(WASM)
    os.chown(cache.path if which == "cache" else cache.path.parent, 12345, -1)
    assert "is owned by uid 12345" in refused(cache, compiler, caplog)


def test_a_file_in_the_folders_place_costs_the_time_to_compile(
    cache: ModuleCache, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    cache.path.touch()
    assert "is a file, not a folder" in refused(cache, compiler, caplog)


def test_a_folder_that_cannot_be_made_costs_the_time_to_compile(
    compiler: FakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    assert "compiled each time" in refused(ModuleCache("/proc/nowhere/cache"), compiler, caplog)


def test_a_file_system_that_cannot_be_written_costs_the_time_to_compile(
    cache: ModuleCache,
    compiler: FakeCompiler,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache.get_or_compile(WASM)
    for number in (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO):
        quiet = ModuleCache(cache.path)

        def fail(*_: object, number: int = number, **__: object) -> int:
            raise OSError(number, os.strerror(number))

        for place in ("create_file", "write", "fsync", "rename", "lock"):
            with monkeypatch.context() as patch:
                if place == "create_file":
                    patch.setattr(trust, "create_file", fail)
                elif place == "lock":
                    patch.setattr("guardpool.artifacts.lock._open_lock_file", fail)
                else:
                    patch.setattr(store.os, place, fail) if place != "write" else patch.setattr(
                        store, "_write_all", fail
                    )
                assert quiet.get_or_compile(b"another") == body_of(b"another")
                assert quiet.get_or_compile(WASM) == body_of(WASM)
            file_of(cache, b"another").unlink(missing_ok=True)  # only the last fsync may fail with the entry in place
        warnings = warnings_of(caplog)
        assert len(warnings) == 1
        assert os.strerror(number) in warnings[0]
        assert sorted(os.listdir(cache.path)) == sorted([file_of(cache, WASM).name, LOCK_NAME])


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir(0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k,mode=0700", "none", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@needs_root
def test_a_disk_that_is_full_or_read_only_costs_the_time_to_compile(
    compiler: FakeCompiler, caplog: pytest.LogCaptureFixture, tiny_disk: Path
) -> None:
    cache = ModuleCache(tiny_disk / "cache")
    modules = [b"module %d" % number for number in range(20)]
    for _ in range(2):
        assert [cache.get_or_compile(module) for module in modules] == list(map(body_of, modules))
    assert [w for w in warnings_of(caplog) if "No space left on device" not in w] == []
    assert not [name for name in os.listdir(cache.path) if name.startswith("tmp-")]
    assert cache.verify() == []
    held = [entry for entry in cache.entries() if entry.problem is None]
    assert 0 < len(held) < 20
    cache.clear()
    cache.get_or_compile(WASM)
    calls = compiler.calls
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    cache = ModuleCache(cache.path)
    assert cache.get_or_compile(WASM) == body_of(WASM)
    assert (compiler.calls, warnings_of(caplog)) == (calls, [])
    for module in modules:
        assert cache.get_or_compile(module) == body_of(module)
    warnings = warnings_of(caplog)
    assert len(warnings) == 1
    assert "Read-only file system" in warnings[0]


def test_a_limit_on_file_sizes_costs_the_time_to_compile(tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from guardpool.artifacts import cache\n"
        "cache.compile_guard = lambda *a, **k: bytes(100000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        "print(len(cache.ModuleCache(sys.argv[1]).get_or_compile(b'm', 512)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "cache")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "100000\n"
    assert "File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path / "cache") == [LOCK_NAME]


# --- where the folder is


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    monkeypatch.setenv("GUARDPOOL_CACHE_DIR", "relative")
    assert ModuleCache().path == tmp_path / "relative"
    assert ModuleCache("given").path == tmp_path / "given"
    monkeypatch.setenv("GUARDPOOL_CACHE_DIR", "")
    assert default_path() == Path("/var/xdg/guardpool")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/invalid")
    assert default_path() == Path("/home/me/.cache/guardpool")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    assert default_path() == Path(pwd.getpwuid(os.getuid()).pw_dir, ".cache/guardpool")


def test_a_tilde_that_no_shell_expanded_is_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("GUARDPOOL_CACHE_DIR", "~/guards")
    assert default_path() == Path("/home/me/guards")


def test_a_user_without_a_home_has_no_cache_and_no_trouble(
    monkeypatch: pytest.MonkeyPatch, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "GUARDPOOL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    warning = refused(ModuleCache(), compiler, caplog)
    assert "GUARDPOOL_CACHE_DIR" in warning


# --- many at once


def test_many_threads_compile_once(cache: ModuleCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = FakeCompiler(tmp_path / "compilations")
    everybody_is_here = threading.Barrier(8)
    found: list[bytes] = []

    def work() -> None:
        everybody_is_here.wait()
        found.append(ModuleCache(cache.path).get_or_compile(WASM))

    monkeypatch.setattr(cache_module, "compile_guard", compiler)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [body_of(WASM)] * 8
    assert compiler.calls == 1


def test_compilations_of_two_guards_do_not_wait_for_each_other(cache: ModuleCache, compiler: FakeCompiler) -> None:
    cache.get_or_compile(b"makes the folder")
    with locked(cache, b"one"):
        assert cache.get_or_compile(b"two", limits=CompileLimits(timeout_s=0.001)) == body_of(b"two")
    assert cache.get(b"two") is not None


def test_a_caller_that_waits_too_long_compiles_without_storing(
    cache: ModuleCache, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_LOCK_GRACE_S", 0.0)
    cache.get_or_compile(b"makes the folder")
    with locked(cache, WASM):
        assert cache.get_or_compile(WASM, limits=CompileLimits(timeout_s=0.05)) == body_of(WASM)
    assert len(warnings_of(caplog)) == 1
    assert cache.get(WASM) is None


class locked:  # noqa: N801  (used like a function)
    """Hold the lock of a module's key, as another process would."""

    def __init__(self, cache: ModuleCache, wasm: bytes) -> None:
        self._folder = trust.open_folder(cache.path)
        self._lock = KeyLock(self._folder, describe(wasm, 512).key(), 0)

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()
        os.close(self._folder)


def test_the_lock_of_a_process_that_is_killed_is_free(cache: ModuleCache, compiler: FakeCompiler) -> None:
    cache.get_or_compile(b"makes the folder")
    key = describe(WASM, 512).key()
    script = (
        "import sys, pathlib\n"
        "from guardpool.artifacts import lock, trust\n"
        "folder = trust.open_folder(pathlib.Path(sys.argv[1]))\n"
        "with lock.KeyLock(folder, sys.argv[2], 0):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(cache.path), key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        folder = trust.open_folder(cache.path)
        with pytest.raises(LockTimeoutError), KeyLock(folder, key, 0):
            pass
        holder.kill()
        holder.wait()
        with KeyLock(folder, key, 0):
            pass
        os.close(folder)


@pytest.mark.parametrize("kind", ["symlink", "folder", "pipe", "hard link", "file"])
def test_something_else_in_the_lock_files_place_is_replaced(
    kind: str, cache: ModuleCache, compiler: FakeCompiler, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    cache.path.mkdir(0o700)
    lock = cache.path / LOCK_NAME
    other = tmp_path / "other"
    other.touch(0o600)
    make: dict[str, Callable[[], object]] = {
        "symlink": lambda: lock.symlink_to(other),
        "folder": lock.mkdir,
        "pipe": lambda: os.mkfifo(lock),
        "hard link": lambda: os.link(other, lock),
        "file": lambda: lock.write_bytes(b"content"),
    }
    make[kind]()
    assert cache.get_or_compile(WASM) == body_of(WASM)
    assert cache.get(WASM) == body_of(WASM)
    assert warnings_of(caplog) == []
    assert stat.S_ISREG(lock.lstat().st_mode)
    assert lock.lstat().st_nlink == 1


def test_files_of_dead_writers_are_swept_up_and_those_of_living_ones_stay(
    cache: ModuleCache, compiler: FakeCompiler
) -> None:
    cache.get_or_compile(b"makes the folder")
    dead = cache.path / f"tmp-{os.getpid()}-{'0' * 16}"
    dead.write_bytes(b"half an ent")
    broken_link = cache.path / f"tmp-1-{'1' * 16}"
    broken_link.symlink_to("nowhere")
    folder = trust.open_folder(cache.path)
    living, fd = store._create(folder)
    theirs = cache.path / "not ours"
    theirs.touch()
    cache.get_or_compile(WASM)
    assert not dead.exists()
    assert not broken_link.is_symlink()
    assert (cache.path / living).exists()
    os.close(fd)
    cache.clear()
    os.close(folder)
    assert sorted(os.listdir(cache.path)) == [LOCK_NAME, "not ours"]


def test_ctrl_c_leaves_no_lock_and_no_file(cache: ModuleCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module, "compile_guard", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_compile(WASM)
    monkeypatch.setattr(cache_module, "compile_guard", lambda *_, **__: b"body")
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.get_or_compile(WASM)
    assert os.listdir(cache.path) == [LOCK_NAME]
    with locked(cache, WASM):
        pass


# --- looking after it


def test_listed_entries_tell_guard_size_and_age(cache: ModuleCache, compiler: FakeCompiler) -> None:
    assert cache.entries() == []
    cache.get_or_compile(b"older", 16, guard="old")
    cache.get_or_compile(b"newer", 512)
    os.utime(file_of(cache, b"older", 16), (1000, 1000))
    newer, older = cache.entries()
    assert older.header is not None
    assert newer.header is not None
    assert (older.header.guard, newer.header.guard) == ("old", None)
    assert older.header.ingredients.memory_pages == 16
    assert older.header.ingredients.wasm_bytes == 5
    assert (older.used_s, older.problem, older.usable_here) == (1000, None, True)
    assert older.path == file_of(cache, b"older", 16)
    assert older.size_bytes == older.path.stat().st_size


def test_entries_of_another_engine_or_machine_are_told_apart(
    cache: ModuleCache, compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(entry, "cpu_features", lambda: "an older processor")
        cache.get_or_compile(WASM)
    assert cache.get(WASM) is None
    assert [(entry.usable_here, entry.problem) for entry in cache.entries()] == [(False, None)]
    assert cache.verify() == []
    with monkeypatch.context() as patch:
        patch.setattr(entry, "engine_packages", _no_engine)
        assert [entry.usable_here for entry in cache.entries()] == [False]
        with pytest.raises(EngineMissing):
            cache.get(WASM)


def _no_engine(_: str) -> object:
    raise EngineMissing("none")


def test_prune_removes_what_was_used_longest_ago(cache: ModuleCache, compiler: FakeCompiler) -> None:
    modules = [b"module %d" % number for number in range(5)]
    for age, module in enumerate(modules):
        cache.get_or_compile(module)
        os.utime(file_of(cache, module), (1_000_000 - age, 1_000_000 - age))
    before = sum(entry.size_bytes for entry in cache.entries())
    assert cache.get(modules[4]) is not None  # used just now
    report = cache.prune(max_bytes=before * 7 // 10)
    left = sum(entry.size_bytes for entry in cache.entries())
    assert (report.removed, report.freed_bytes, report.kept, report.kept_bytes) == (2, before - left, 3, left)
    assert [cache.get(module) is not None for module in (modules[4], *modules[:4])] == [True, True, True, False, False]
    os.utime(file_of(cache, modules[0]), (1_000_000, 1_000_000))
    assert cache.prune(max_age_s=3600).removed == 1
    assert cache.prune().kept == 2
    assert cache.prune(max_bytes=0).kept == 0
    with pytest.raises(ValueError, match="max_bytes"):
        cache.prune(max_bytes=-1)


def test_verify_can_remove_what_it_finds(cache: ModuleCache, compiler: FakeCompiler) -> None:
    for module in (b"good", b"bad"):
        cache.get_or_compile(module)
    _flip_last(file_of(cache, b"bad"))
    assert len(cache.verify(remove=True)) == 1
    assert cache.verify() == []
    assert [entry.path for entry in cache.entries()] == [file_of(cache, b"good")]


def test_warming_the_cache_compiles_only_what_it_lacks(cache: ModuleCache, compiler: FakeCompiler) -> None:
    assert cache.warm(WASM, 512) is True
    assert cache.warm(WASM, 512) is False
    assert cache.get(WASM, 512) == body_of(WASM)
    assert cache.clear() == 1
    assert cache.warm(WASM, 512) is True
